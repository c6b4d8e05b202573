/**
 * Rotation: a new version of a key, made, proven, and made the primary; by request, by schedule, by
 * use. And its history.
 *
 * Invariants: a version is proven by its agent before a row of it is written; it becomes primary in
 * the transaction that inserts it, which also writes history and audit entry and starts the job
 * that re-wraps what is left behind; version numbers go up by one and are never used again; what is
 * due is asked for again under the key's lock, so that several replicas that find it due rotate
 * once. Knows no gRPC and no SQL.
 */
import { type Call, monotonicNow } from '../../call.ts';
import { KeywardError } from '../../errors.ts';
import type { Agents } from '../../hsm/token-router.ts';
import { formatKeyName, type KeyName } from '../../names.ts';
import type { Alerts } from '../../signals/alerts.ts';
import type { Tx } from '../../store/core/transaction.ts';
import { changeStates } from '../../store/keys/key-seals.ts';
import { findHighestVersion } from '../../store/keys/key-versions.ts';
import { insertPrimaryVersion, type KeyRecord } from '../../store/keys/keys.ts';
import { type DueRotation, findRotationCause } from '../../store/lifecycle/maintenance.ts';
import {
  insertJob,
  newJobId,
  type RotationCause,
  supersedeJobs,
} from '../../store/lifecycle/rewrap-jobs.ts';
import {
  insertRotation,
  listRotations,
  type RotationRecord,
} from '../../store/lifecycle/rotations.ts';
import type { Store } from '../../store/store.ts';
import type { KeyCache } from '../keys/key-cache.ts';
import type { KeyStates } from '../keys/key-states.ts';
import { type CurrentKeySource, makeKeyVersion } from '../keys/key-versions.ts';
import { identify, type KeyIdentity, keyMutation, requireKept } from '../keys/mutations.ts';
import { findEnabledTenant } from '../keys/usable.ts';
import { ownCall, requireEtag } from '../own-calls.ts';
import { BY_TO_VERSION, type ListRequest, type Page, readPage } from '../pages.ts';

/** How often a rotation that lost to another is tried again. */
const TRIES = 5;
const OWN_CALL_MS = 30_000;

/** Why a rotation is to be made, decided under the key's lock; undefined: it isn't. */
type Decision = (tx: Tx, key: KeyRecord) => Promise<RotationCause | undefined>;

/** What {@link Rotation} stands on. */
export interface RotationParts {
  readonly store: Store;
  readonly cache: KeyCache;
  readonly states: KeyStates;
  readonly agents: Agents;
  /** The token's objects, as this replica knows them. */
  readonly tokenObjects: CurrentKeySource;
  /** Tells the reconciler that there is something to do. */
  readonly wake: () => void;
  readonly alerts: Pick<Alerts, 'raise'>;
}

/** Rotates keys by request, schedule and use, and lists their rotations. */
export class Rotation {
  readonly #parts: RotationParts;

  constructor(parts: RotationParts) {
    this.#parts = parts;
  }

  /**
   * Makes a new version and makes it the primary. Throws RESOURCE_NOT_FOUND, TENANT_DISABLED,
   * ETAG_MISMATCH, DESTRUCTION_UNDER_WAY, KEY_STATE_CORRUPT, HSM_UNAVAILABLE, and CONFLICT when
   * other rotations keep coming first.
   */
  async rotate(call: Call, name: KeyName, etag: string): Promise<KeyRecord> {
    const { store, cache } = this.#parts;
    await findEnabledTenant(cache, name.tenant);
    const identity = await identify(cache, call, name);
    for (let attempt = 1; ; attempt++) {
      try {
        const { tenantId, keyId } = identity;
        const highest = await store.read(call, tenantId, (tx) =>
          findHighestVersion(tx, tenantId, keyId),
        );
        const decide: Decision = async (_, key) => {
          requireEtag(etag, key.revision);
          return 'request';
        };
        return await this.#addVersion(call, { name, identity, highest, decide });
      } catch (error) {
        if (!isConflict(error) || attempt === TRIES) throw error;
      }
    }
  }

  /**
   * Rotates what is due, each key by itself; `onError` hears of those that failed, which stay due.
   * Returns whose it was.
   */
  async rotateDue(
    due: readonly DueRotation[],
    onError: (error: unknown, resource: string) => void,
  ): Promise<string[]> {
    const rotated: string[] = [];
    for (const rotation of due) {
      const resource = formatKeyName(rotation);
      await this.#rotateDue(rotation).then(
        (done) => {
          if (done) rotated.push(resource);
        },
        (error: unknown) => onError(error, resource),
      );
    }
    return rotated;
  }

  /** A key's rotations, newest first. Throws RESOURCE_NOT_FOUND. */
  async list(call: Call, name: KeyName, request: ListRequest): Promise<Page<RotationRecord>> {
    const { store, cache } = this.#parts;
    const { tenantId, keyId } = await identify(cache, call, name);
    return readPage(
      `rotations ${formatKeyName(name)}`,
      request,
      BY_TO_VERSION,
      ({ after, limit }) =>
        store.read(call, tenantId, (tx) =>
          listRotations(
            tx,
            tenantId,
            keyId,
            after === undefined ? { limit } : { limit, before: Number(after) },
          ),
        ),
    );
  }

  /** Returns whether it was this that rotated the key: not if it isn't due any more. */
  async #rotateDue({ tenantId, keyId, tenant, key }: DueRotation): Promise<boolean> {
    const { store } = this.#parts;
    const call = ownCall('RotateKey', OWN_CALL_MS);
    const highest = await store.read(call, tenantId, (tx) =>
      findHighestVersion(tx, tenantId, keyId),
    );
    const decide: Decision = (tx) => findRotationCause(tx, tenantId, keyId);
    try {
      await this.#addVersion(call, {
        name: { tenant, key },
        identity: { tenantId, keyId },
        highest,
        decide,
      });
      return true;
    } catch (error) {
      if (isConflict(error)) return false;
      throw error;
    }
  }

  /**
   * Throws CONFLICT when the key has another version than `highest` by now, or `decide` finds no
   * cause.
   */
  async #addVersion(
    call: Call,
    {
      name,
      identity,
      highest,
      decide,
    }: {
      readonly name: KeyName;
      readonly identity: KeyIdentity;
      readonly highest: number;
      readonly decide: Decision;
    },
  ): Promise<KeyRecord> {
    const { store, cache, states, agents, tokenObjects, wake, alerts } = this.#parts;
    const { tenantId, keyId } = identity;
    const startedAt = monotonicNow();
    const rotated = await tokenObjects.withCurrent(tenantId, async (current) => {
      const version = await makeKeyVersion(agents, call, { ...identity, ...current }, highest + 1);
      return store.mutate(call, keyMutation(formatKeyName(name), identity), (tx) =>
        changeStates(tx, identity, states.sealer(call), async (stateTx, locked) => {
          if (locked.highestVersion !== highest) throw new KeywardError('CONFLICT');
          requireKept(locked.key);
          const cause = await decide(tx, locked.key);
          if (cause === undefined) throw new KeywardError('CONFLICT');
          const key = await insertPrimaryVersion(stateTx, version);
          tx.changed({ kind: 'key', cause });
          await this.#record(tx, call, { name, before: locked.key, cause, startedAt, highest });
          return key;
        }),
      );
    });
    cache.forget(tenantId, keyId);
    wake();
    const key = formatKeyName(name);
    const { version } = rotated.primary;
    alerts.raise('rotation-done', `${key} ${version}`, { key, version, caller: call.caller });
    return rotated;
  }

  /**
   * The rotation's history, and the job that finishes it instead of those that earlier ones had
   * started.
   */
  async #record(
    tx: Tx,
    call: Call,
    {
      name,
      before: { tenantId, keyId, primary },
      cause,
      startedAt,
      highest,
    }: {
      readonly name: KeyName;
      readonly before: KeyRecord;
      readonly cause: RotationCause;
      readonly startedAt: number;
      readonly highest: number;
    },
  ): Promise<void> {
    const jobId = await newJobId(tx);
    await supersedeJobs(tx, tenantId, keyId);
    await insertJob(tx, call, {
      tenantId,
      jobId,
      kind: 'data-keys',
      scope: formatKeyName(name),
      scopeTenantId: tenantId,
      scopeKeyId: keyId,
      cause,
    });
    await insertRotation(tx, {
      tenantId,
      keyId,
      fromVersion: primary.version,
      toVersion: highest + 1,
      cause,
      caller: call.caller,
      durationMs: monotonicNow() - startedAt,
      jobId,
    });
  }
}

function isConflict(error: unknown): boolean {
  return error instanceof KeywardError && error.reason === 'CONFLICT';
}
