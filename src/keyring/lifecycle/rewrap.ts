/**
 * Re-wrap jobs: what a rotation leaves behind, brought up to date; by all replicas together.
 *
 * Invariants: what is written is written only under a lease that still holds, to a row that is
 * still what was read (`store/lifecycle/rewrap-ranges.ts`); what can't be brought up to date is
 * named and passed over, never a reason to stop. Works no more than its share of the time. Memory
 * doesn't grow with what there is to do: a batch for each worker. How data keys are re-wrapped is
 * in `rewrap-data-keys.ts`, how key versions, in `rewrap-key-versions.ts`. Knows no gRPC and no
 * SQL.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { type Call, millisecondsLeft, monotonicNow } from '../../call.ts';
import { invalidField, KeywardError } from '../../errors.ts';
import type { Agents } from '../../hsm/token-router.ts';
import type { TenantId } from '../../ids.ts';
import {
  formatJobName,
  formatScope,
  formatTenantName,
  type JobName,
  type Scope,
  SYSTEM_TENANT,
  type TenantName,
} from '../../names.ts';
import type { Alerts } from '../../signals/alerts.ts';
import type { Tx } from '../../store/core/transaction.ts';
import { lockKey } from '../../store/keys/keys.ts';
import {
  endJob,
  findFinishedJobs,
  findJob,
  findLatestJob,
  insertJob,
  type JobFailure,
  type JobKind,
  type JobRecord,
  type JobState,
  listFailures,
  listJobs,
  newJobId,
} from '../../store/lifecycle/rewrap-jobs.ts';
import {
  closeRange,
  type Lease,
  leaseRange,
  planRange,
  releaseRange,
} from '../../store/lifecycle/rewrap-ranges.ts';
import { planDataKeys } from '../../store/lifecycle/stale-data-keys.ts';
import { planKeyVersions } from '../../store/lifecycle/stale-key-versions.ts';
import type { Store } from '../../store/store.ts';
import type { KeyCache } from '../keys/key-cache.ts';
import type { KeyStates } from '../keys/key-states.ts';
import type { CurrentKeyJudge } from '../keys/key-versions.ts';
import { identify, type KeyIdentity, requireKept } from '../keys/mutations.ts';
import { ownCall } from '../own-calls.ts';
import { type RangeWork, type RewrapSettings, STEP_MS, step, Throttle } from '../pace.ts';
import { BY_JOB, type ListRequest, type Page, readPage } from '../pages.ts';
import { RewrapDataKeys } from './rewrap-data-keys.ts';
import { RewrapKeyVersions } from './rewrap-key-versions.ts';

const PLANNERS = { 'data-keys': planDataKeys, 'key-versions': planKeyVersions } as const;
const FINISHED_LIMIT = 100;
const WATCH_MS = 1_000;
/** Over how many looks the rate is taken. */
const RATE_WINDOW = 10;

/** A job as somebody who watches it sees it. */
export interface WatchedJob {
  readonly job: JobRecord;
  readonly failures: readonly JobFailure[];
  /** Data keys a second, of late; undefined at first. */
  readonly rate: number | undefined;
}

/** What a job's workers are told. */
interface Shift {
  /** When to stop, in `monotonicNow`'s milliseconds. */
  readonly until: number;
  readonly signal: AbortSignal;
  readonly throttle: Throttle;
}

/** What {@link Rewrap} stands on. */
export interface RewrapParts {
  readonly store: Store;
  readonly agents: Agents;
  readonly cache: KeyCache;
  readonly states: KeyStates;
  /** The token's objects, as this replica knows them. */
  readonly tokenObjects: CurrentKeyJudge;
  /** The reserved tenant, whose audit entries say what is done for the whole service. */
  readonly systemTenantId: TenantId;
  /** Tells the reconciler that there is something to do. */
  readonly wake: () => void;
  readonly rewrap: RewrapSettings;
  readonly alerts: Alerts;
}

/** Starts, lists and cancels re-wrap jobs, and works on them. */
export class Rewrap {
  readonly #parts: RewrapParts;
  readonly #work: Readonly<Record<JobKind, RangeWork>>;

  constructor(parts: RewrapParts) {
    this.#parts = parts;
    const { share, sizes } = parts.rewrap;
    // With a small share a batch takes as long as with all, for the lease and the switches wait for
    // its end; and callers who share the agents wait for less.
    const scaled = {
      operation: Math.ceil(sizes.operation * share),
      batch: Math.max(sizes.operation, Math.round(sizes.batch * share)),
    };
    this.#work = {
      'data-keys': new RewrapDataKeys(parts, scaled),
      'key-versions': new RewrapKeyVersions(parts, scaled),
    };
  }

  /**
   * Starts a job, unless one of the same kind and scope is under way: then that is it. Throws
   * RESOURCE_NOT_FOUND, and INVALID_FIELD for one over the versions of a single key.
   */
  async create(
    call: Call,
    scope: Scope,
    kind: JobKind,
  ): Promise<{ readonly tenant: TenantName; readonly job: JobRecord }> {
    if (kind === 'key-versions' && 'key' in scope)
      throw invalidField('scope', 'must be a tenant, or all tenants, for a job over key versions');
    const { store, cache, systemTenantId, wake } = this.#parts;
    const tenant = { tenant: scope.tenant ?? SYSTEM_TENANT };
    const scopeTenantId =
      scope.tenant === undefined ? null : (await cache.tenant(scope.tenant)).tenantId;
    const scopeKeyId = 'key' in scope ? (await identify(cache, call, scope)).keyId : null;
    const tenantId = scopeTenantId ?? systemTenantId;
    const jobId = await store.read(call, tenantId, newJobId);
    const name = formatScope(scope);
    const job = await store.mutate(
      call,
      { tenantId, resource: formatJobName(tenant, jobId) },
      async (tx) => {
        if (scopeKeyId !== null) await this.#lockKept(tx, { tenantId, keyId: scopeKeyId });
        const latest = await findLatestJob(tx, tenantId, name, kind);
        const content = { kind, scope: name };
        if (latest?.state === 'RUNNING') {
          const running = { ...content, jobId: latest.jobId, state: 'RUNNING' };
          tx.changed({ kind: 'rewrapJob', before: running, after: running });
          return latest;
        }
        tx.changed({ kind: 'rewrapJob', after: { ...content, jobId, state: 'RUNNING' } });
        await insertJob(tx, call, {
          tenantId,
          jobId,
          kind,
          scope: name,
          scopeTenantId,
          scopeKeyId,
          cause: 'request',
        });
        return expectJob(await findJob(tx, tenantId, jobId));
      },
      (made) => ({ answer: { content: { tenant, job: made } } }),
    );
    wake();
    return { tenant, job };
  }

  /**
   * So that a rotation, which ends older jobs and starts one, comes before or after. Throws
   * DESTRUCTION_UNDER_WAY.
   */
  async #lockKept(tx: Tx, { tenantId, keyId }: KeyIdentity): Promise<void> {
    const locked = await lockKey(tx, tenantId, keyId);
    if (locked === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
    requireKept(locked.key);
  }

  /** One job, and what it could not do. Throws RESOURCE_NOT_FOUND. */
  async get(
    call: Call,
    name: JobName,
  ): Promise<{ readonly job: JobRecord; readonly failures: readonly JobFailure[] }> {
    const { store, cache } = this.#parts;
    const { tenantId } = await cache.tenant(name.tenant);
    return store.read(call, tenantId, async (tx) => {
      const job = expectJob(await findJob(tx, tenantId, name.job));
      return { job, failures: job.failed > 0 ? await listFailures(tx, tenantId, name.job) : [] };
    });
  }

  /**
   * The job now, and each time that it has moved on, with the rate of late; until it has ended or
   * the call's deadline has come. Throws RESOURCE_NOT_FOUND.
   */
  async *watch(call: Call, name: JobName): AsyncGenerator<WatchedJob> {
    const seen: { readonly at: number; readonly done: number }[] = [];
    let last = '';
    while (millisecondsLeft(call.deadline) > 0) {
      const { job, failures } = await this.get({ ...call, ...step(call.deadline) }, name);
      seen.push({ at: monotonicNow(), done: job.done });
      if (seen.length > RATE_WINDOW) seen.shift();
      const { elapsedMs: _, ...facts } = job;
      const now = JSON.stringify(facts);
      if (now !== last) yield { job, failures, rate: rateOf(seen) };
      if (job.state !== 'RUNNING') return;
      last = now;
      await delay(Math.min(WATCH_MS, millisecondsLeft(call.deadline)));
    }
  }

  /** A tenant's jobs, newest first. */
  async list(call: Call, parent: TenantName, request: ListRequest): Promise<Page<JobRecord>> {
    const { store, cache } = this.#parts;
    const { tenantId } = await cache.tenant(parent.tenant);
    return readPage(`jobs ${formatTenantName(parent)}`, request, BY_JOB, ({ after, ...page }) =>
      store.read(call, tenantId, (tx) =>
        listJobs(tx, tenantId, after === undefined ? page : { ...page, before: after }),
      ),
    );
  }

  /** Ends a job; one that has ended stays as it is. Throws RESOURCE_NOT_FOUND. */
  async cancel(call: Call, name: JobName): Promise<JobRecord> {
    const { store, cache } = this.#parts;
    const { tenantId } = await cache.tenant(name.tenant);
    const find = async (tx: Tx) => expectJob(await findJob(tx, tenantId, name.job));
    return store.mutate(call, { tenantId, resource: formatJobName(name, name.job) }, async (tx) => {
      const before = await find(tx);
      await endJob(tx, tenantId, name.job, 'CANCELLED');
      const after = await find(tx);
      const contentOf = ({ kind, scope, state }: JobRecord) => ({ kind, scope, state });
      tx.changed({ kind: 'rewrapJob', before: contentOf(before), after: contentOf(after) });
      return after;
    });
  }

  /**
   * Works on whatever jobs there are, for `milliseconds` at the most, and ends those of which
   * nothing is left. Returns whether there may be more to do now. What an error stops is taken up
   * again when its lease has run out.
   */
  async work(
    milliseconds: number,
    signal: AbortSignal,
    onError: (error: unknown) => void,
  ): Promise<boolean> {
    const { share, workers } = this.#parts.rewrap;
    const until = monotonicNow() + milliseconds;
    const shift = () => ({ until, signal, throttle: new Throttle(share, signal) });
    const count = share === 1 ? workers : 1;
    await Promise.all(Array.from({ length: count }, () => this.#takeShift(shift()).catch(onError)));
    await this.#endFinished();
    return !signal.aborted && monotonicNow() >= until;
  }

  async #takeShift(shift: Shift): Promise<void> {
    const { store } = this.#parts;
    while (!isOver(shift)) {
      if (await planRange(store, step(), this.#parts.rewrap.sizes.range, PLANNERS)) {
        await shift.throttle.pause();
        continue;
      }
      const lease = await leaseRange(store, step());
      if (lease === undefined) return;
      if (lease.abandoned) await closeRange(store, step(), lease);
      else await this.#workOn(lease, shift);
    }
  }

  async #workOn(leased: Lease, shift: Shift): Promise<void> {
    const { store, cache } = this.#parts;
    let { afterName } = leased;
    let lease = leased;
    if (leased.key !== undefined) {
      // The lease goes by what the database says of the tenant.
      const { state, name: tenant } = await cache.tenantById(leased.key.tenantId);
      if (state !== 'ENABLED') return releaseRange(store, step(), leased);
      lease = { ...leased, key: { ...leased.key, tenant } };
    }
    while (!isOver(shift)) {
      const done = await this.#work[lease.kind].step({ ...lease, afterName }, shift.throttle);
      await shift.throttle.pause();
      if (done === 'lost' || done === 'finished') return;
      if (done === 'moved') break;
      afterName = done.afterName;
    }
    await releaseRange(store, step(), lease);
  }

  /** Says of each job of which nothing is left that it has ended, in the tenant's audit log too. */
  async #endFinished(): Promise<void> {
    const { store, cache, alerts } = this.#parts;
    const finished = await findFinishedJobs(store, step(), FINISHED_LIMIT);
    for (const { tenantId, jobId, kind } of finished) {
      const { name: tenant } = await cache.tenantById(tenantId);
      const call = ownCall('EndRewrapJob', STEP_MS);
      // What replicas remember of key versions is from before it.
      const change = kind === 'key-versions' && ({ kind: 'versions', subjectId: jobId } as const);
      const job = formatJobName({ tenant }, jobId);
      const ended = store.mutate(
        call,
        { tenantId, resource: job, ...(change ? { change } : {}) },
        async (tx) => {
          const state = await endJob(tx, tenantId, jobId, 'FINISHED');
          if (state === undefined) throw new KeywardError('CONFLICT');
          const [before, after] = [{ state: 'RUNNING' }, { state: 'FINISHED' }];
          tx.changed({ kind: 'rewrapJob', before: { kind, ...before }, after: { kind, ...after } });
          return state;
        },
      );
      const tell = (state: JobState) => {
        alerts.raise('job-finished', job, { job, kind, state });
        if (state === 'PARTIAL') alerts.raise('job-partial', job, { job, kind });
      };
      await ended.then(tell, (error: unknown) => {
        // Another replica has said so already.
        if (!(error instanceof KeywardError && error.reason === 'CONFLICT')) throw error;
      });
    }
  }
}

function isOver({ until, signal }: Shift): boolean {
  return signal.aborted || monotonicNow() >= until;
}

function rateOf(
  seen: readonly { readonly at: number; readonly done: number }[],
): number | undefined {
  const [first, last] = [seen[0], seen.at(-1)];
  if (first === undefined || last === undefined || first === last) return undefined;
  return ((last.done - first.done) / (last.at - first.at)) * 1000;
}

function expectJob(job: JobRecord | undefined): JobRecord {
  if (job === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
  return job;
}
