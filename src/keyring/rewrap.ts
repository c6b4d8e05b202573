/**
 * Re-wrap jobs: what a rotation leaves behind, brought under the new version; by all replicas together.
 *
 * Invariants: each data key is opened, wrapped and opened again inside one agent operation before anything is written, and
 * its plaintext stays there; what is written is written only under a lease that still holds, to a row that is still what
 * was read, for a version that is still primary (`store/rewrap-ranges.ts`); one that doesn't open is named and passed
 * over, never a reason to stop. Works no more than its share of the time. Memory doesn't grow with what there is to do:
 * a batch for each worker. Knows no gRPC and no SQL.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { type Call, millisecondsLeft, monotonicNow } from '../call.ts';
import { KeywardError, type Reason } from '../errors.ts';
import type { HsmAgents } from '../hsm/agents.ts';
import { encode } from '../hsm/codec.ts';
import { sealedKeyVersion } from '../hsm/key-version.ts';
import { REWRAP_OUTCOME } from '../hsm/protocol.ts';
import { idToBytes, type JobId } from '../ids.ts';
import { lockKey } from '../store/keys.ts';
import {
  endJob,
  findFinishedJobs,
  findJob,
  findLatestJob,
  insertJob,
  type JobFailure,
  type JobRecord,
  listFailures,
  listJobs,
  newJobId,
} from '../store/rewrap-jobs.ts';
import {
  type Batch,
  type BatchOutcome,
  closeRange,
  type Lease,
  leaseRange,
  planRange,
  readBatch,
  releaseRange,
  type StaleDataKey,
  writeBatch,
} from '../store/rewrap-ranges.ts';
import type { Tx } from '../store/store.ts';
import type { KeyringParts, ListRequest } from './keyring.ts';
import { identify, type KeyIdentity, ownCall, requireKept } from './mutations.ts';
import {
  formatDataKeyName,
  formatJobName,
  formatScope,
  formatTenantName,
  type JobName,
  type Scope,
  SYSTEM_TENANT,
  type TenantName,
} from './names.ts';
import { BY_JOB, type Page, readPage } from './page-token.ts';

const STEP_MS = 10_000;
const FINISHED_LIMIT = 100;
const WATCH_MS = 1_000;
/** Over how many looks the rate is taken. */
const RATE_WINDOW = 10;

/** How many stored data keys are dealt with at a time. */
export interface RewrapSizes {
  /** Stale data keys that a replica takes on at once; what it loses if it is killed is a batch, not a range. */
  readonly range: number;
  /** Read, and written in one transaction. */
  readonly batch: number;
  /** An agent is busy with as many for 4 ms, at a share of 1; a caller's operation may have to wait for that. */
  readonly operation: number;
}

/** What the service works with. */
export const REWRAP_SIZES: RewrapSizes = { range: 10_000, batch: 500, operation: 64 };

export interface RewrapSettings {
  /** How much of the time this replica may work on jobs: above 0, to 1. */
  readonly share: number;
  /** How many ranges it works on at once, if it may work all the time. */
  readonly workers: number;
  readonly sizes: RewrapSizes;
}

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

/** See this file's first paragraph. */
export class Rewrap {
  readonly #parts: KeyringParts;
  readonly #batchSize: number;
  readonly #operationSize: number;

  constructor(parts: KeyringParts) {
    this.#parts = parts;
    const { share, sizes } = parts.rewrap;
    // With a small share a batch takes as long as with all, for the lease and the switches wait for its end; and callers
    // who share the agents wait for less.
    this.#operationSize = Math.ceil(sizes.operation * share);
    this.#batchSize = Math.max(sizes.operation, Math.round(sizes.batch * share));
  }

  /** Starts a job, unless one of the same scope is under way: then that is it. Throws RESOURCE_NOT_FOUND. */
  async create(call: Call, scope: Scope): Promise<{ readonly tenant: TenantName; readonly job: JobRecord }> {
    const { store, cache, systemTenantId, wake } = this.#parts;
    const tenant = { tenant: scope.tenant ?? SYSTEM_TENANT };
    const scopeTenantId = scope.tenant === undefined ? null : (await cache.tenant(scope.tenant)).tenantId;
    const scopeKeyId = 'key' in scope ? (await identify(cache, scope)).keyId : null;
    const tenantId = scopeTenantId ?? systemTenantId;
    const jobId = await store.read(call, tenantId, newJobId);
    const name = formatScope(scope);
    const job = await store.mutate(
      call,
      { tenantId, resource: formatJobName(tenant, jobId) },
      async (tx) => {
        if (scopeKeyId !== null) await this.#lockKept(tx, { tenantId, keyId: scopeKeyId });
        const latest = await findLatestJob(tx, tenantId, name);
        if (latest?.state === 'RUNNING') return latest;
        await insertJob(tx, call, {
          tenantId,
          jobId,
          scope: name,
          scopeTenantId,
          scopeKeyId,
          cause: 'request',
        });
        return expectJob(await findJob(tx, tenantId, jobId));
      },
      {
        reference: { jobId },
        rebuild: async (tx, reference) =>
          expectJob(
            (await findJob(tx, tenantId, reference['jobId'] as JobId)) ??
              (await findLatestJob(tx, tenantId, name)),
          ),
      },
    );
    wake();
    return { tenant, job };
  }

  /** So that a rotation, which ends older jobs and starts one, comes before or after. Throws DESTRUCTION_UNDER_WAY. */
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
   * The job now, and each time that it has moved on, with the rate of late; until it has ended or the call's deadline has
   * come. Throws RESOURCE_NOT_FOUND.
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
    return store.mutate(
      call,
      { tenantId, resource: formatJobName(name, name.job) },
      async (tx) => {
        await find(tx);
        await endJob(tx, tenantId, name.job, 'CANCELLED');
        return find(tx);
      },
      { reference: { jobId: name.job }, rebuild: find },
    );
  }

  /**
   * Works on whatever jobs there are, for `milliseconds` at the most, and ends those of which nothing is left. Returns
   * whether there may be more to do now. What an error stops is taken up again when its lease has run out.
   */
  async work(milliseconds: number, signal: AbortSignal, onError: (error: unknown) => void): Promise<boolean> {
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
      if (await planRange(store, step(), this.#parts.rewrap.sizes.range)) {
        await shift.throttle.pause();
        continue;
      }
      const lease = await leaseRange(store, step());
      if (lease === undefined) return;
      if (lease.abandoned) await closeRange(store, step(), lease);
      else await this.#workOn(lease, shift);
    }
  }

  async #workOn(lease: Lease, shift: Shift): Promise<void> {
    const { store } = this.#parts;
    let afterName = lease.afterName;
    while (!isOver(shift)) {
      const batch = await readBatch(store, step(), lease, afterName, this.#batchSize);
      const { state, primary } = batch.key;
      if (state !== 'ENABLED' || primary.state !== 'ENABLED') break;
      const outcome = await this.#rewrapBatch(lease, batch, shift.throttle);
      const written = await writeBatch(store, step(), lease, outcome);
      await shift.throttle.pause();
      if (written === 'lost' || (written === 'written' && outcome.finished)) return;
      if (written === 'moved') break;
      afterName = outcome.afterName;
    }
    await releaseRange(store, step(), lease);
  }

  async #rewrapBatch(lease: Lease, batch: Batch, throttle: Throttle): Promise<BatchOutcome> {
    const { key, dataKeys } = batch;
    const sealed = sealedVersionsOf(batch);
    const rewrapped: BatchOutcome['rewrapped'][number][] = [];
    const failed: BatchOutcome['failed'][number][] = [];
    const usable: StaleDataKey[] = [];
    const fail = ({ name }: StaleDataKey, reason: string) =>
      failed.push({ dataKey: formatDataKeyName(lease, name), reason });
    for (const dataKey of dataKeys) {
      const problem = problemOf(batch, dataKey);
      if (problem === undefined) usable.push(dataKey);
      else fail(dataKey, problem);
    }
    for (let start = 0; start < usable.length; start += this.#operationSize) {
      const items = usable.slice(start, start + this.#operationSize);
      const results = await rewrapItems(this.#parts.agents, sealed, items);
      for (const [index, before] of items.entries()) {
        const { outcome, ciphertext } = results[index] as (typeof results)[number];
        if (outcome === REWRAP_OUTCOME.done) rewrapped.push({ before, ciphertext });
        else fail(before, REASON_OF[outcome] ?? 'INTERNAL');
      }
      await throttle.pause();
    }
    const finished = dataKeys.length < this.#batchSize;
    const afterName = finished ? lease.untilName : (dataKeys.at(-1)?.name ?? lease.untilName);
    return { target: key.primary.version, rewrapped, failed, finished, afterName };
  }

  /** Says of each job of which nothing is left that it has ended, in the tenant's audit log too. */
  async #endFinished(): Promise<void> {
    const { store } = this.#parts;
    for (const { tenantId, jobId, tenant } of await findFinishedJobs(store, step(), FINISHED_LIMIT)) {
      const call = ownCall('EndRewrapJob', STEP_MS);
      const ended = store.mutate(
        call,
        { tenantId, resource: formatJobName({ tenant }, jobId) },
        async (tx) => {
          if (!(await endJob(tx, tenantId, jobId, 'FINISHED'))) throw new KeywardError('CONFLICT');
        },
      );
      await ended.catch((error: unknown) => {
        // Another replica has said so already.
        if (!(error instanceof KeywardError && error.reason === 'CONFLICT')) throw error;
      });
    }
  }
}

/** What a job's failure says, by what an agent says of the item. */
const REASON_OF: Readonly<Record<number, Reason>> = {
  [REWRAP_OUTCOME.doesNotOpen]: 'DECRYPTION_FAILED',
  [REWRAP_OUTCOME.sourceCorrupt]: 'STORED_ROW_CORRUPT',
};

/** What keeps a data key from being tried. */
function problemOf({ versions }: Batch, { version }: StaleDataKey): Reason | undefined {
  const source = versions.find((each) => each.version === version);
  if (source === undefined) return 'STORED_ROW_CORRUPT';
  return source.state === 'ENABLED' ? undefined : 'KEY_VERSION_NOT_ENABLED';
}

/** Key versions as an agent takes them. */
interface SealedVersions {
  readonly target: Buffer;
  readonly sources: readonly Buffer[];
  /** Where in `sources` a version is. */
  readonly indexOf: ReadonlyMap<number, number>;
}

function sealedVersionsOf({ key, versions }: Batch): SealedVersions {
  return {
    target: encode(sealedKeyVersion, key.primary),
    sources: versions.map((version) => encode(sealedKeyVersion, version)),
    indexOf: new Map(versions.map(({ version }, index) => [version, index])),
  };
}

async function rewrapItems(
  agents: HsmAgents,
  { target, sources, indexOf }: SealedVersions,
  items: readonly StaleDataKey[],
) {
  const request = {
    keyVersion: target,
    sourceKeyVersions: sources,
    items: items.map(({ version, dataKeyId, contextDigest, ciphertext }) => ({
      source: indexOf.get(version) as number,
      subject: idToBytes(dataKeyId),
      contextDigest,
      ciphertext,
    })),
  };
  const { results } = await agents.call('rewrap', request, step().deadline);
  if (results.length !== items.length) throw new Error('an agent answered for other items');
  return results;
}

/** Rests after work so that of all the time only a share is worked. */
class Throttle {
  readonly #share: number;
  readonly #signal: AbortSignal;
  #since = monotonicNow();

  constructor(share: number, signal: AbortSignal) {
    this.#share = share;
    this.#signal = signal;
  }

  /** Rests for what was worked since the last rest. */
  async pause(): Promise<void> {
    if (this.#share === 1) return;
    const rest = (monotonicNow() - this.#since) * (1 / this.#share - 1);
    await delay(rest, undefined, { signal: this.#signal }).catch(() => {});
    this.#since = monotonicNow();
  }
}

function isOver({ until, signal }: Shift): boolean {
  return signal.aborted || monotonicNow() >= until;
}

/** A deadline for one step, no later than `latest`. */
function step(latest = Number.POSITIVE_INFINITY): { readonly deadline: number } {
  return { deadline: Math.min(latest, monotonicNow() + STEP_MS) };
}

function rateOf(seen: readonly { readonly at: number; readonly done: number }[]): number | undefined {
  const [first, last] = [seen[0], seen.at(-1)];
  if (first === undefined || last === undefined || first === last) return undefined;
  return ((last.done - first.done) / (last.at - first.at)) * 1000;
}

function expectJob(job: JobRecord | undefined): JobRecord {
  if (job === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
  return job;
}
