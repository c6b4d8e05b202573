/**
 * Replicas that run, as rows: which token objects all agents of each hold, and what each reports of
 * itself.
 *
 * Under no seal: a replica that is not heard of isn't waited for, and what one reports decides
 * nothing. Knows no PKCS#11.
 */
import type { AnyId, TenantId } from '../../ids.ts';
import { atMost } from '../core/batches.ts';
import { isRecent } from '../core/leases.ts';
import type { Deadline, Query, Tx } from '../core/transaction.ts';
import type { Store } from '../store.ts';

/** A replica that hasn't been heard of for so long isn't waited for. */
export const SILENCE = "interval '10 seconds'";

/** One that hasn't been heard of for so long has no row any more. */
const FORGOTTEN = "interval '1 hour'";

/** Whether every replica that runs holds it, and one does run. */
export async function isHeldByAll(tx: Tx, objectId: AnyId): Promise<boolean> {
  const [row] = await tx.query<{ all_hold: boolean | null }>(
    `SELECT bool_and($1 = ANY (held)) AS all_hold FROM replicas WHERE ${isRecent('seen_at', SILENCE)}`,
    [objectId],
  );
  return row?.all_hold === true;
}

/** How many replicas that run still hold any of them. */
export async function countHolders(query: Query, objectIds: readonly AnyId[]): Promise<number> {
  const [row] = await query<{ count: number }>(
    `SELECT count(*)::integer AS count FROM replicas
     WHERE ${isRecent('seen_at', SILENCE)} AND held && $1::uuid[]`,
    [objectIds],
  );
  return row?.count ?? 0;
}

/** What a replica learns when it says that it runs. */
export interface Reported {
  /** How many replicas run, with this one. */
  readonly replicas: number;
  /** How often token keys have been changed; undefined where the database has lost that. */
  readonly revision: bigint | undefined;
}

/** What a replica reports of itself, for operators. */
export interface ReplicaReport {
  /** As audit entries name it. */
  readonly name: string;
  readonly release: string;
  /** How many agents it is to have, and how many are ready. */
  readonly agents: number;
  readonly agentsReady: number;
  /** Why it cannot serve calls; empty while it can. */
  readonly problems: readonly string[];
}

/** Says that a replica runs, which objects all of its agents hold, and what it reports. */
export async function reportHeld(
  store: Store,
  call: Deadline,
  replica: {
    /** The reserved tenant. */
    readonly tenantId: TenantId;
    readonly replicaId: string;
    readonly held: readonly AnyId[];
    readonly report: ReplicaReport;
  },
): Promise<Reported> {
  const { report } = replica;
  const [others] = await store.reconcile(call, (tx) =>
    tx.query<{ count: number; revision: string | null }>(
      `WITH reported AS (
         INSERT INTO replicas AS r
           (tenant_id, replica_id, seen_at, held, name, release, agents, agents_ready, problems)
         VALUES ($3, $1, clock_timestamp(), $2, $4, $5, $6, $7, $8)
         ON CONFLICT (tenant_id, replica_id) DO UPDATE SET (seen_at, held, name, release, agents,
           agents_ready, problems) = (excluded.seen_at, excluded.held, excluded.name,
           excluded.release, excluded.agents, excluded.agents_ready, excluded.problems))
       SELECT count(*)::integer AS count, (SELECT revision FROM token_key_seals) AS revision FROM replicas
       WHERE replica_id <> $1 AND ${isRecent('seen_at', SILENCE)}`,
      [
        ...[replica.replicaId, replica.held, replica.tenantId],
        ...[report.name, report.release, report.agents, report.agentsReady, report.problems],
      ],
    ),
  );
  const revision = others?.revision;
  return {
    replicas: 1 + (others?.count ?? 0),
    revision: revision == null ? undefined : BigInt(revision),
  };
}

/** A replica, as it was last heard of; null is what older releases do not report. */
export interface SeenReplica {
  readonly replicaId: string;
  readonly name: string | null;
  readonly release: string | null;
  readonly startedAt: Date | null;
  readonly seenAt: Date;
  /** Whether it was heard of so lately that it is taken to run. */
  readonly isRunning: boolean;
  readonly agents: number | null;
  readonly agentsReady: number | null;
  readonly problems: readonly string[] | null;
}

/** So many replicas are shown. */
const SHOWN = 200;

/** Lists replicas that were heard of in the last hour, those first that run. */
export async function listReplicas(tx: Tx): Promise<SeenReplica[]> {
  return tx.query<SeenReplica & Record<string, unknown>>(
    `SELECT replica_id AS "replicaId", name, release, started_at AS "startedAt", seen_at AS "seenAt",
       agents, agents_ready AS "agentsReady", problems,
       ${isRecent('seen_at', SILENCE)} AS "isRunning"
     FROM replicas ORDER BY ${isRecent('seen_at', SILENCE)} DESC, started_at, replica_id
     ${atMost('$1')}`,
    [SHOWN],
  );
}

/**
 * Nobody waits for that replica any more; without an id, for those that have been silent for an
 * hour.
 */
export async function removeReplicas(
  store: Store,
  call: Deadline,
  replicaId?: string,
): Promise<void> {
  await store.reconcile(call, (tx) =>
    tx.query(
      `DELETE FROM replicas WHERE replica_id = $1
       OR ($1::uuid IS NULL AND NOT ${isRecent('seen_at', FORGOTTEN)})`,
      [replicaId ?? null],
    ),
  );
}
