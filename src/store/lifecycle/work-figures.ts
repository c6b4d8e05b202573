/**
 * How much automatic work there is, for metrics: over all tenants, in a few short statements, each
 * of which reads a bounded number of rows by an index.
 *
 * Nothing that is read here has been verified, and nothing is done because of it.
 */
import { atMost } from '../core/batches.ts';
import type { Tx } from '../core/transaction.ts';
import { DESTRUCTION_MAY_BE, MAY_BE_USED } from './maintenance.ts';
import { JOB_PROGRESS, type JobKind } from './rewrap-jobs.ts';

/** What is counted up to so many. */
const MOST = 1_000;

/** The jobs of one kind that are not finished. */
export interface JobFigures {
  readonly kind: JobKind;
  readonly running: number;
  /** Rows that they have found and not brought up to date yet, and could not. */
  readonly stale: number;
  readonly failed: number;
}

/** Rotations that are due. */
export interface DueRotations {
  readonly isPaused: boolean;
  /** Keys whose rotation is due and may be done, up to {@link MOST}. */
  readonly rotationsDue: number;
  /** For how many seconds the oldest of them has been due by its schedule; 0 where none is. */
  readonly overdueSeconds: number;
}

/** How much automatic work there is. */
export interface WorkFigures extends DueRotations {
  /** Keys, and key versions, whose destruction is due: of each up to {@link MOST}. */
  readonly destructionsDue: number;
  readonly jobs: readonly JobFigures[];
}

const DUE = `SELECT coalesce((SELECT paused FROM maintenance), true) AS "isPaused",
    count(*)::float8 AS "rotationsDue",
    coalesce(extract(epoch FROM now() - min(due.next_rotation_at)), 0)::float8 AS "overdueSeconds"
  FROM (
    SELECT k.next_rotation_at FROM keys k JOIN tenants t USING (tenant_id)
    WHERE k.next_rotation_at <= now() AND ${MAY_BE_USED}
    ORDER BY k.next_rotation_at ${atMost('$1')}) due`;
const DESTRUCTIONS = `SELECT (
    SELECT count(*) FROM (SELECT FROM keys k
      WHERE k.state = 'DESTROY_SCHEDULED' AND k.destroy_at <= now() AND ${DESTRUCTION_MAY_BE}
      ORDER BY k.destroy_at ${atMost('$1')}) due_keys)::float8
  + (SELECT count(*) FROM (SELECT FROM key_versions v JOIN keys k USING (tenant_id, key_id)
      WHERE v.state = 'DESTROY_SCHEDULED' AND v.destroy_at <= now() AND ${DESTRUCTION_MAY_BE}
      ORDER BY v.destroy_at ${atMost('$1')}) due_versions)::float8 AS "destructionsDue"`;
const JOBS = `SELECT kind, count(*)::float8 AS running,
    sum(greatest(total - done - failed, 0))::float8 AS stale, sum(failed)::float8 AS failed
  FROM (SELECT j.kind, ${JOB_PROGRESS} FROM rewrap_jobs j WHERE j.state = 'RUNNING'
    ORDER BY j.job_id ${atMost('$1')}) jobs
  GROUP BY kind`;

/** What has been due for longer than this is overdue: passes come every few minutes at most. */
export const OVERDUE_SECONDS = 3_600;

/** Returns which rotations are due, and for how long; a short statement. */
export async function findDueRotations(tx: Tx): Promise<DueRotations> {
  const [due] = await tx.query<DueRotations & Record<string, unknown>>(DUE, [MOST]);
  if (due === undefined) throw new Error('a question got no answer');
  return due;
}

/** Returns how much automatic work there is. */
export async function findWorkFigures(tx: Tx): Promise<WorkFigures> {
  const due = await findDueRotations(tx);
  const [destructions] = await tx.query<Pick<WorkFigures, 'destructionsDue'>>(DESTRUCTIONS, [MOST]);
  const jobs = await tx.query<JobFigures & Record<string, unknown>>(JOBS, [MOST]);
  if (destructions === undefined) throw new Error('a question got no answer');
  return { ...due, ...destructions, jobs };
}
