/**
 * How the service is doing, on one page, for operators.
 *
 * - Everything is read when it is asked for, and nothing is changed. Nothing is decided by it: what
 *   replicas and the audit log's rows say is shown as it stands there, verified by nothing.
 * - A token that cannot be looked at, or is not as it must be, is a problem on the page, and keeps
 *   nothing else off it.
 */
import type { Witness } from '../audit/witnesses.ts';
import { type Call, monotonicNow } from '../call.ts';
import { toKeywardError } from '../errors.ts';
import type { TenantId } from '../ids.ts';
import {
  type EnvironmentPosture,
  objectionsTo,
  type TokenStatus,
} from '../keyring/hsm-token/token-status.ts';
import type { Maintenance } from '../keyring/maintenance.ts';
import { type AuditFigures, findAuditFigures } from '../store/audit/audit-figures.ts';
import { type DatabaseFigures, findDatabaseFigures } from '../store/core/database-figures.ts';
import type { Deadline } from '../store/core/transaction.ts';
import { listReplicas, type SeenReplica } from '../store/hsm-token/replicas.ts';
import {
  findWorkFigures,
  OVERDUE_SECONDS,
  type WorkFigures,
} from '../store/lifecycle/work-figures.ts';
import type { Store } from '../store/store.ts';
import type { Condition, Readiness } from './readiness.ts';

/** What the page is read from. */
export interface ServiceStatusParts {
  readonly store: Pick<Store, 'read' | 'reconcile'>;
  readonly tokenStatus: Pick<TokenStatus, 'posture'>;
  readonly maintenance: Pick<Maintenance, 'get'>;
  readonly readiness: Pick<Readiness, 'conditions'>;
  readonly witnesses: readonly Witness[];
  readonly environmentId: string;
  readonly systemTenantId: TenantId;
  /** The replica that answers, as audit entries name it, and its release. */
  readonly replica: string;
  readonly release: string;
}

/** The token, as the page shows it. */
export interface ShownToken
  extends Pick<EnvironmentPosture, 'label' | 'serialNumber' | 'model' | 'manufacturer'> {
  /** How many objects of the environment it has. */
  readonly objects: number;
  /** What a service would refuse to start on, in words; empty where nothing is wrong. */
  readonly objections: readonly string[];
}

/** The page. */
export interface ServicePage {
  readonly environmentId: string;
  readonly replica: string;
  readonly release: string;
  /** What an operator has to look into; empty where all is well. */
  readonly problems: readonly string[];
  readonly conditions: readonly Condition[];
  readonly replicas: readonly SeenReplica[];
  /** Undefined where it cannot be looked at. */
  readonly token: ShownToken | undefined;
  readonly database: DatabaseFigures;
  readonly work: WorkFigures;
  readonly audit: AuditFigures;
  readonly witnesses: readonly Pick<Witness, 'name'>[];
}

/** Looking at the token, which may hang, leaves the rest of the page so much of the call's time. */
const REST_MS = 1_000;
const LOOK_MS = 5_000;

/** Reads how the service is doing. */
export class ServiceStatus {
  readonly #parts: ServiceStatusParts;

  constructor(parts: ServiceStatusParts) {
    this.#parts = parts;
  }

  /** Throws what the store throws. */
  async get(call: Call): Promise<ServicePage> {
    const { store, maintenance, readiness, systemTenantId } = this.#parts;
    const { environmentId, replica, release, witnesses } = this.#parts;
    const { conditions } = readiness;
    // Without an agent there is nothing to wait for, and that is on the page.
    const canLook = conditions.every(({ name, problem }) => name !== 'hsm' || !problem);
    const looking = canLook ? this.#lookAtToken(call) : undefined;
    const { database, replicas } = await store.read(call, systemTenantId, async (tx) => ({
      database: await findDatabaseFigures(tx),
      replicas: await listReplicas(tx),
    }));
    const { work, audit } = await store.reconcile(call, async (tx) => ({
      work: await findWorkFigures(tx),
      audit: await findAuditFigures(tx),
    }));
    const token = await looking;
    // Of a switch that does not verify counts that the service rests.
    const { paused: isPaused } = await maintenance.get(call).catch(() => ({ paused: true }));
    const page = {
      ...{ environmentId, replica, release, witnesses, database, replicas, audit },
      work: { ...work, isPaused },
      conditions,
      token: typeof token === 'string' ? undefined : token,
    };
    return { ...page, problems: problemsOf(page, typeof token === 'string' ? [token] : []) };
  }

  /** Returns why not in its place, where it cannot. */
  async #lookAtToken({ deadline }: Deadline): Promise<ShownToken | string> {
    const now = monotonicNow();
    const until = Math.min(now + LOOK_MS, Math.max(now, deadline - REST_MS));
    try {
      const posture = await this.#parts.tokenStatus.posture({ deadline: until });
      const { label, serialNumber, model, manufacturer, objects } = posture;
      const found = objects.filter(({ condition }) => condition === 'found').length;
      const token = { label, serialNumber, model, manufacturer, objects: found };
      return { ...token, objections: objectionsTo(posture) };
    } catch (error) {
      return `the HSM token cannot be looked at: ${toKeywardError(error).reason}`;
    }
  }
}

function problemsOf(
  page: Omit<ServicePage, 'problems'>,
  ofToken: readonly string[],
): readonly string[] {
  const { conditions, replica, replicas, token, work, audit, witnesses } = page;
  const { checkpoint, cosigned } = audit;
  const own = conditions.flatMap(({ problem }) => problem ?? []);
  const others = replicas.filter(({ name, isRunning }) => isRunning && name !== replica);
  const silent = witnesses.filter(({ name }) => checkpoint !== undefined && !cosigned.has(name));
  const failed = work.jobs.reduce((sum, job) => sum + job.failed, 0);
  return [
    ...own.map((problem) => `replica ${replica}: ${problem}`),
    ...others.flatMap(({ name, replicaId, problems }) =>
      (problems ?? []).map((problem) => `replica ${name ?? replicaId}: ${problem}`),
    ),
    ...ofToken,
    ...(token?.objections ?? []).map((objection) => `HSM token: ${objection}`),
    ...(work.isPaused ? ['automatic maintenance is paused'] : []),
    ...(work.overdueSeconds > OVERDUE_SECONDS
      ? [`rotations are overdue: ${work.rotationsDue} keys`]
      : []),
    ...(failed > 0 ? [`re-wrap jobs that run could not re-wrap ${failed} rows`] : []),
    ...silent.map(({ name }) => `witness ${name} has cosigned no checkpoint`),
  ];
}
