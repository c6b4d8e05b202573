/**
 * The end of keys and versions: scheduled, looked at before, called back, and done when the time
 * has come.
 *
 * Invariants: what is scheduled can't be used from then on; nothing is destroyed before its time by
 * the database's clock, nor while maintenance is paused; a single version only if it isn't the
 * primary and no stored data key is wrapped under it, which is asked for under the key's lock both
 * when it is scheduled and when it is done; a whole key takes its stored data keys with it. Erased
 * are the wrapped bytes: rows and history stay. Knows no gRPC and no SQL.
 */
import type { Call } from '../../call.ts';
import { invalidField, KeywardError } from '../../errors.ts';
import {
  formatKeyName,
  formatKeyVersionName,
  type KeyName,
  type KeyVersionName,
} from '../../names.ts';
import type { Tx } from '../../store/core/transaction.ts';
import { countDataKeys, deleteAllDataKeys } from '../../store/keys/data-keys.ts';
import { changeStates } from '../../store/keys/key-seals.ts';
import {
  countKept,
  type KeyVersionRecord,
  setVersionState,
} from '../../store/keys/key-versions.ts';
import { type KeyRecord, updateKey } from '../../store/keys/keys.ts';
import { findTotalUsage, type UsageRecord } from '../../store/keys/usage.ts';
import {
  type DueDestruction,
  destroyDue,
  timeAfterDays,
} from '../../store/lifecycle/maintenance.ts';
import { supersedeJobs } from '../../store/lifecycle/rewrap-jobs.ts';
import type { Store } from '../../store/store.ts';
import type { KeyCache } from '../keys/key-cache.ts';
import { type KeyStates, readVerified, type Standing } from '../keys/key-states.ts';
import {
  changeKey,
  type DestructionRequest,
  expectKey,
  expectVersion,
  identify,
  type KeyIdentity,
  noteValidateOnly,
  requireKept,
} from '../keys/mutations.ts';
import { ownCall, requireEtag } from '../own-calls.ts';

/** A whole key with its data keys is one transaction: 1,000,000 of them took 5 s. */
const OWN_CALL_MS = 600_000;

/** What a destruction takes with it. */
export interface Impact {
  readonly keyVersions: number;
  readonly storedDataKeys: number;
  readonly usage: UsageRecord;
  readonly destroyAt: Date;
  /** Of what is to be destroyed, as it was looked at. */
  readonly etag: string;
}

/** What was destroyed, for the log. */
export interface Destroyed {
  readonly resource: string;
  readonly storedDataKeys: number;
}

/** What {@link Destruction} stands on. */
export interface DestructionParts {
  readonly store: Store;
  readonly cache: KeyCache;
  readonly states: KeyStates;
}

/** Schedules, undoes and performs the destruction of keys and versions. */
export class Destruction {
  readonly #parts: DestructionParts;

  constructor(parts: DestructionParts) {
    this.#parts = parts;
  }

  /**
   * Schedules a whole key. Throws RESOURCE_NOT_FOUND, ETAG_MISMATCH, DESTRUCTION_UNDER_WAY,
   * INVALID_FIELD.
   */
  async scheduleKey(
    call: Call,
    name: KeyName,
    request: DestructionRequest,
  ): Promise<{ readonly key: KeyRecord; readonly impact: Impact }> {
    requireEtagGiven(request);
    const look = async (tx: Tx, identity: KeyIdentity) => {
      const key = await expectKey(tx, identity);
      return { key, impact: await impactOn(tx, identity, request, key) };
    };
    const lookIfAllowed = async (tx: Tx, identity: KeyIdentity) => {
      const looked = await look(tx, identity);
      requireKept(looked.key);
      return looked;
    };
    if (request.validateOnly) return this.#read(call, name, lookIfAllowed);
    return changeKey(this.#parts, call, {
      name,
      resource: formatKeyName(name),
      apply: async (tx, { revision }, identity) => {
        requireEtag(request.etag, revision);
        const { impact } = await lookIfAllowed(tx, identity);
        const { tenantId, keyId } = identity;
        await supersedeJobs(tx, tenantId, keyId);
        const { destroyAt } = impact;
        const key = await updateKey(tx, tenantId, keyId, { state: 'DESTROY_SCHEDULED', destroyAt });
        return { key, impact: { ...impact, etag: key.revision } };
      },
    });
  }

  /**
   * Schedules one version. Throws as {@link scheduleKey}, and KEY_VERSION_IS_PRIMARY,
   * KEY_VERSION_IN_USE.
   */
  async scheduleVersion(
    call: Call,
    name: KeyVersionName,
    request: DestructionRequest,
  ): Promise<{ readonly version: KeyVersionRecord; readonly impact: Impact }> {
    requireEtagGiven(request);
    const look = async (tx: Tx, identity: KeyIdentity) => {
      const version = await expectVersion(tx, identity, name.version);
      return { version, impact: await impactOn(tx, identity, request, version, version.version) };
    };
    const lookIfAllowed = async (tx: Tx, identity: KeyIdentity) => {
      const looked = await look(tx, identity);
      const key = await expectKey(tx, identity);
      requireDestructible(key, looked);
      return { ...looked, key, versions: [looked.version] };
    };
    if (request.validateOnly) return this.#read(call, name, lookIfAllowed);
    return changeKey(this.#parts, call, {
      name,
      resource: formatKeyVersionName(name, name.version),
      apply: async (tx, _, identity) => {
        requireEtag(request.etag, (await expectVersion(tx, identity, name.version)).revision);
        const looked = await lookIfAllowed(tx, identity);
        const { destroyAt } = looked.impact;
        const version = await setVersionState(tx, looked.version, 'DESTROY_SCHEDULED', destroyAt);
        return { version, impact: { ...looked.impact, etag: version.revision } };
      },
    });
  }

  /**
   * Calls a key back: it is disabled then. Throws RESOURCE_NOT_FOUND, ETAG_MISMATCH,
   * DESTRUCTION_NOT_SCHEDULED.
   */
  restoreKey(call: Call, name: KeyName, etag: string): Promise<KeyRecord> {
    return changeKey(this.#parts, call, {
      name,
      resource: formatKeyName(name),
      apply: (tx, key) => {
        requireEtag(etag, key.revision);
        requireScheduled(key);
        return updateKey(tx, key.tenantId, key.keyId, { state: 'DISABLED', destroyAt: null });
      },
    });
  }

  /**
   * Calls a version back: it is disabled then. Throws as {@link restoreKey}, and
   * DESTRUCTION_UNDER_WAY for its key.
   */
  restoreVersion(call: Call, name: KeyVersionName, etag: string): Promise<KeyVersionRecord> {
    return changeKey(this.#parts, call, {
      name,
      resource: formatKeyVersionName(name, name.version),
      apply: async (tx, key, identity) => {
        requireKept(key);
        const version = await expectVersion(tx, identity, name.version);
        requireEtag(etag, version.revision);
        requireScheduled(version);
        return setVersionState(tx, version, 'DISABLED');
      },
    });
  }

  /**
   * Destroys what is due, each by itself; `onError` hears of what failed and stays due. Returns
   * what was destroyed.
   */
  async destroyDue(
    due: readonly DueDestruction[],
    onError: (error: unknown, resource: string) => void,
  ): Promise<Destroyed[]> {
    const destroyed: Destroyed[] = [];
    for (const destruction of due) {
      const { tenant, key, version } = destruction;
      const name = { tenant, key };
      const resource = version === null ? formatKeyName(name) : formatKeyVersionName(name, version);
      await this.#destroy(destruction, resource).then(
        (storedDataKeys) => {
          if (storedDataKeys !== undefined) destroyed.push({ resource, storedDataKeys });
        },
        (error: unknown) => onError(error, resource),
      );
    }
    return destroyed;
  }

  async #read<T extends Standing>(
    call: Call,
    name: KeyName,
    work: (tx: Tx, identity: KeyIdentity) => Promise<T>,
  ): Promise<T> {
    const identity = await identify(this.#parts.cache, call, name);
    noteValidateOnly(call);
    return readVerified(this.#parts, call, identity.tenantId, (tx) => work(tx, identity));
  }

  /**
   * Returns how many stored data keys went with it; undefined when nothing was to be destroyed any
   * more.
   */
  async #destroy(due: DueDestruction, resource: string): Promise<number | undefined> {
    const { store, cache, states } = this.#parts;
    const { tenantId, keyId, version } = due;
    const call = ownCall(version === null ? 'DestroyKey' : 'DestroyKeyVersion', OWN_CALL_MS);
    const change = { kind: 'destroyed', subjectId: keyId } as const;
    try {
      const deleted = await store.mutate(
        call,
        { tenantId, ids: { keyId }, resource, change, asReconciler: true },
        (tx) =>
          changeStates(tx, due, states.sealer(call), async (stateTx) => {
            if (!(await destroyDue(stateTx, due))) throw new KeywardError('CONFLICT');
            if (version !== null) return 0;
            const storedDataKeys = await deleteAllDataKeys(tx, tenantId, keyId);
            tx.changed({ kind: 'key', storedDataKeys });
            return storedDataKeys;
          }),
      );
      cache.forget(tenantId, keyId);
      return deleted;
    } catch (error) {
      if (error instanceof KeywardError && error.reason === 'CONFLICT') return undefined;
      throw error;
    }
  }
}

/** What would be lost with a key, or with the one version. */
async function impactOn(
  tx: Tx,
  { tenantId, keyId }: KeyIdentity,
  { windowDays }: DestructionRequest,
  { revision, destroyAt }: Pick<KeyRecord, 'revision' | 'destroyAt'>,
  version?: number,
): Promise<Impact> {
  return {
    keyVersions: version === undefined ? await countKept(tx, tenantId, keyId) : 1,
    storedDataKeys: await countDataKeys(tx, tenantId, keyId, version),
    usage: await findTotalUsage(tx, tenantId, keyId, version),
    destroyAt: destroyAt ?? (await timeAfterDays(tx, windowDays)),
    etag: revision,
  };
}

function requireEtagGiven({ etag, validateOnly }: DestructionRequest): void {
  if (etag === '' && !validateOnly)
    throw invalidField('etag', 'must be the etag of an answer to validate_only');
}

/** Throws what forbids destroying a version alone. */
function requireDestructible(
  key: KeyRecord,
  { version, impact }: { readonly version: KeyVersionRecord; readonly impact: Impact },
): void {
  requireKept(key);
  requireKept(version);
  if (key.primary.version === version.version) throw new KeywardError('KEY_VERSION_IS_PRIMARY');
  const { storedDataKeys } = impact;
  if (storedDataKeys === 0) return;
  throw new KeywardError('KEY_VERSION_IN_USE', {
    metadata: { stored_data_keys: String(storedDataKeys) },
  });
}

function requireScheduled({ state }: Pick<KeyRecord, 'state'>): void {
  if (state !== 'DESTROY_SCHEDULED')
    throw new KeywardError('DESTRUCTION_NOT_SCHEDULED', { metadata: { state } });
}
