/**
 * Tenants, keys and key versions as the hot path finds them: in memory, loaded from the store once.
 *
 * Invariants: what a name or a UUID stands for never changes, so those are kept until they fall
 * out; a key's state is dropped the moment a change to it is heard of, also while it is being
 * loaded (what is kept is the promise, so nothing read before a change is put in after it); what
 * isn't there is never remembered; and a replica that no longer hears of changes answers nothing
 * from here. A tenant is verified once, when it is loaded (`tenant-seals.ts`), so that a name leads
 * to no other tenant than it was given to. How a key and its versions stand is verified once, when
 * it is loaded, before anybody gets it (`key-states.ts`); a version that was read later counts only
 * if it stands as the key's seal says. A load that several calls wait for is nobody's own: it has
 * the tenant in its name and a deadline of its own. That nothing is kept for longer than its age,
 * unless the database still has its revision, is `cache-age.ts`'s. Decides nothing: whether a key
 * may be used is the keyring's to say.
 */
import { monotonicNow } from '../../call.ts';
import { KeywardError } from '../../errors.ts';
import { encode } from '../../hsm/codec.ts';
import { sealedKeyVersion } from '../../hsm/key-version.ts';
import type { EpochBounds } from '../../hsm/protocol.ts';
import type { KeyId, TenantId } from '../../ids.ts';
import { type CacheFigures, Lru } from '../../lru.ts';
import type { KeyName } from '../../names.ts';
import type { Reading } from '../../sealed-rows.ts';
import type { Deadline, Tx } from '../../store/core/transaction.ts';
import type { KeyStateRecord } from '../../store/keys/key-states.ts';
import { findVersion, type KeyVersionRecord } from '../../store/keys/key-versions.ts';
import { findKey, findKeyNamed, type KeyRecord } from '../../store/keys/keys.ts';
import type { Remembered } from '../../store/revisions.ts';
import type { Store } from '../../store/store.ts';
import {
  findTenant,
  findTenantByName,
  type StoredTenant,
  type TenantRecord,
} from '../../store/tenants/tenants.ts';
import type { AgingCache } from './cache-age.ts';
import { type KeyStates, standsAs } from './key-states.ts';
import type { TenantSeals } from './tenant-seals.ts';

/** How long a load may take; each call that waits for it still ends at its own deadline. */
const LOAD_MS = 5_000;
/**
 * What doesn't verify is looked at anew after so long, so that its callers can't keep the HSM and
 * the log busy.
 */
const CORRUPT_MS = 1_000;
const CORRUPT: readonly string[] = ['KEY_STATE_CORRUPT', 'TENANT_CORRUPT'];
/** How often something is read that others keep changing meanwhile. */
const TRIES = 3;

/** A key version ready to be sent to an agent. */
export interface LoadedVersion {
  readonly record: KeyVersionRecord;
  /** The sealed version as agents read it, and as they name its handle. */
  readonly sealed: Buffer;
  /** Within which bounds agents keep keys of its epochs, if they do. */
  readonly epoch: EpochBounds | undefined;
}

/** A key and those of its versions that have been asked for. */
export interface LoadedKey {
  readonly record: KeyRecord;
  readonly primary: LoadedVersion;
  readonly versions: Map<number, Promise<LoadedVersion | undefined>>;
}

/** A key as it was read, not verified. */
interface ReadKey extends Reading {
  readonly record: KeyRecord;
}

export interface KeyCacheParts {
  readonly store: Store;
  readonly states: KeyStates;
  readonly tenantSeals: TenantSeals;
  /** How many keys are kept at most, and how many tenants. */
  readonly limit: number;
  /** Returns whether this replica hears of changes. */
  readonly isFresh: () => boolean;
  /** Hears of which tenant or key the state is forgotten, or that all are. */
  readonly onForget: (ofId?: TenantId | KeyId) => void;
}

/** Loads tenants, keys and versions once, and keeps them until they change. */
export class KeyCache implements AgingCache {
  readonly #store: Store;
  readonly #isFresh: () => boolean;
  readonly #onForget: KeyCacheParts['onForget'];
  readonly #states: KeyStates;
  readonly #tenantSeals: TenantSeals;
  readonly #tenants: Lru<string, Promise<TenantRecord | undefined>>;
  readonly #keyIds: Lru<string, Promise<KeyId | undefined>>;
  readonly #keys: Lru<string, Promise<LoadedKey | undefined>>;
  /** What loads have found. */
  readonly #foundTenants = new WeakMap<object, TenantRecord>();
  readonly #foundKeys = new WeakMap<object, LoadedKey>();
  /** Counts how often a key's state was forgotten. */
  #forgotten = 0;
  /** Counts the keys that were read together with their UUID. */
  #readByName = 0;

  constructor({ store, states, tenantSeals, limit, isFresh, onForget }: KeyCacheParts) {
    this.#store = store;
    this.#states = states;
    this.#tenantSeals = tenantSeals;
    this.#isFresh = isFresh;
    this.#onForget = onForget;
    this.#tenants = new Lru(limit);
    this.#keyIds = new Lru(limit);
    this.#keys = new Lru(limit);
  }

  /** How many tenants and keys are kept, and how often one was asked for. */
  get figures(): { readonly tenants: CacheFigures; readonly keys: CacheFigures } {
    const keys = this.#keys.figures;
    // What was read together with its UUID is found afterwards, and was not there before.
    const [hits, misses] = [keys.hits - this.#readByName, keys.misses + this.#readByName];
    return { tenants: this.#tenants.figures, keys: { ...keys, hits, misses } };
  }

  /**
   * Returns the tenant, at once where it is in memory: each call asks for it several times. Throws,
   * or rejects with, RESOURCE_NOT_FOUND, TENANT_CORRUPT, HSM_UNAVAILABLE.
   */
  tenant(name: string): TenantRecord | Promise<TenantRecord> {
    this.#requireFresh();
    const loading = this.#tenants.get(name) ?? this.#loadTenant(name);
    return this.#foundTenants.get(loading) ?? required(loading);
  }

  /**
   * The UUID of the tenant of that name, from memory where it is there, whatever has become of the
   * tenant since. Throws as {@link KeyCache.tenant}.
   */
  tenantIdOf(name: string): TenantId | Promise<TenantId> {
    return this.#tenantSeals.idOf(name) ?? this.#loadTenantId(name);
  }

  async #loadTenantId(name: string): Promise<TenantId> {
    return (await this.tenant(name)).tenantId;
  }

  /**
   * The tenant of that UUID, shredded or not, as it is now. Throws RESOURCE_NOT_FOUND,
   * TENANT_CORRUPT, HSM_UNAVAILABLE.
   */
  async tenantById(tenantId: TenantId): Promise<TenantRecord> {
    const tenant = await this.#readTenant((call) => findTenant(this.#store, call, tenantId));
    if (tenant === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
    return tenant;
  }

  /** The key of that name. Throws RESOURCE_NOT_FOUND, KEY_STATE_CORRUPT, HSM_UNAVAILABLE. */
  async named(name: KeyName): Promise<LoadedKey> {
    const { tenantId } = await this.tenant(name.tenant);
    const path = pathOf(tenantId, name.key);
    const keyId = await (this.#keyIds.get(path) ?? this.#loadKeyId(path, tenantId, name.key));
    if (keyId === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
    for (let attempt = 1; attempt <= TRIES; attempt++) {
      const key = await this.key(tenantId, keyId);
      if (key === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
      // A name never changes: one that does was tampered with, and what was loaded before tells
      // nothing of it.
      if (key.record.name === name.key) return key;
      this.#keyIds.delete(path);
      this.forget(tenantId, keyId);
    }
    throw new KeywardError('CONFLICT');
  }

  /** The tenant's key of that UUID, or undefined. Throws KEY_STATE_CORRUPT, HSM_UNAVAILABLE. */
  key(tenantId: TenantId, keyId: KeyId): Promise<LoadedKey | undefined> {
    this.#requireFresh();
    return this.#keys.get(pathOf(tenantId, keyId)) ?? this.#load(tenantId, keyId);
  }

  /** The key's version of that number, or undefined. Throws KEY_STATE_CORRUPT, HSM_UNAVAILABLE. */
  async version(key: LoadedKey, version: number): Promise<LoadedVersion | undefined> {
    if (key.primary.record.version === version) return key.primary;
    const known = key.versions.get(version);
    if (known !== undefined) return known;
    return remember(key.versions, version, this.#loadVersion(key, version));
  }

  async #loadVersion(
    { record: key }: LoadedKey,
    number: number,
  ): Promise<LoadedVersion | undefined> {
    const { tenantId, keyId } = key;
    let stands = key.sealed;
    for (let attempt = 1; attempt <= TRIES; attempt++) {
      const record = await this.#store.readAlone(loadDeadline(), tenantId, (tx) =>
        findVersion(tx, tenantId, keyId, number),
      );
      if (standsAs(stands, number, record)) return record && load(record, stands);
      // It was changed since the key was loaded, or tampered with: the key's seal as it is now says
      // which.
      this.forget(tenantId, keyId);
      const anew = await this.key(tenantId, keyId);
      if (anew === undefined) return undefined;
      stands = anew.record.sealed;
    }
    throw new KeywardError('CONFLICT');
  }

  /** Forgets a key's state; the next use reads it anew. */
  forget(tenantId: TenantId, keyId: KeyId): void {
    this.#forgotten += 1;
    this.#keys.delete(pathOf(tenantId, keyId));
    this.#onForget(keyId);
  }

  /** Forgets a tenant's state; its keys are kept. */
  forgetTenant(tenantId: TenantId): void {
    // One that is still being read by its name may be this one.
    this.#tenants.deleteWhere(
      (loading) => (this.#foundTenants.get(loading)?.tenantId ?? tenantId) === tenantId,
    );
    this.#onForget(tenantId);
  }

  /** Forgets a tenant's state and all its keys. */
  forgetAllOf(tenantId: TenantId): void {
    this.#forgotten += 1;
    const isOfTenant = (_: unknown, path: string) => path.startsWith(pathOf(tenantId, ''));
    this.#keys.deleteWhere(isOfTenant);
    this.#keyIds.deleteWhere(isOfTenant);
    this.forgetTenant(tenantId);
  }

  /** Forgets everything. */
  clear(): void {
    this.#forgotten += 1;
    this.#keys.clear();
    this.#keyIds.clear();
    this.#tenants.clear();
    this.#onForget();
  }

  *remembered(): Iterable<Remembered> {
    for (const entry of this.#tenants.values()) {
      const tenant = this.#foundTenants.get(entry);
      if (tenant === undefined) continue;
      const { tenantId, revision } = tenant;
      yield { kind: 'tenant', tenantId, subjectId: tenantId, revision: BigInt(revision), entry };
    }
    for (const entry of this.#keys.values()) {
      const record = this.#foundKeys.get(entry)?.record;
      if (record === undefined) continue;
      const { tenantId, keyId, sealed } = record;
      yield { kind: 'key', tenantId, subjectId: keyId, revision: sealed.revision, entry };
    }
  }

  keeps({ kind, tenantId, subjectId, entry }: Remembered): boolean {
    const name = this.#foundTenants.get(entry)?.name;
    return kind === 'key'
      ? this.#keys.peek(pathOf(tenantId, subjectId as KeyId)) === entry
      : name !== undefined && this.#tenants.peek(name) === entry;
  }

  async reload({ kind, tenantId, subjectId, entry }: Remembered): Promise<void> {
    const name = this.#foundTenants.get(entry)?.name;
    if (kind === 'key') await this.key(tenantId, subjectId as KeyId);
    else if (name !== undefined) await this.tenant(name);
  }

  async verifyAgain({ kind, tenantId, subjectId, entry }: Remembered): Promise<void> {
    const name = this.#foundTenants.get(entry)?.name;
    if (kind === 'key') await this.#loadVerified(tenantId, subjectId as KeyId);
    else if (name !== undefined) await this.#loadVerifiedTenant(name);
  }

  #loadTenant(name: string): Promise<TenantRecord | undefined> {
    const loading = remember(this.#tenants, name, this.#loadVerifiedTenant(name));
    return keepFound(this.#foundTenants, loading);
  }

  /** A shredded tenant answers as if it had never been. */
  async #loadVerifiedTenant(name: string): Promise<TenantRecord | undefined> {
    const tenant = await this.#readTenant((call) => findTenantByName(this.#store, call, name));
    if (tenant === undefined) this.#tenantSeals.requireNeverSeen(name);
    return tenant?.state === 'SHREDDED' ? undefined : tenant;
  }

  async #readTenant(
    read: (call: Deadline) => Promise<StoredTenant | undefined>,
  ): Promise<TenantRecord | undefined> {
    const readAfter = this.#tenantSeals.now();
    const { deadline } = loadDeadline();
    const stored = await read({ deadline });
    return stored && this.#tenantSeals.verifyOne(stored, { readAfter, deadline });
  }

  #loadKeyId(path: string, tenantId: TenantId, name: string): Promise<KeyId | undefined> {
    return remember(this.#keyIds, path, this.#loadNamed(tenantId, name));
  }

  /** Reads the key together with its UUID, since whoever asks for that wants the key next. */
  async #loadNamed(tenantId: TenantId, name: string): Promise<KeyId | undefined> {
    const forgotten = this.#forgotten;
    const found = await this.#read(tenantId, (tx) => findKeyNamed(tx, tenantId, name));
    if (found === undefined) return undefined;
    const { keyId } = found.record;
    // Whose state it is wasn't known while it was read: a change of it may have been heard of.
    if (forgotten === this.#forgotten && this.#keys.peek(pathOf(tenantId, keyId)) === undefined) {
      this.#keep(tenantId, keyId, this.#verify(found));
      this.#readByName += 1;
    }
    return keyId;
  }

  #load(tenantId: TenantId, keyId: KeyId): Promise<LoadedKey | undefined> {
    return this.#keep(tenantId, keyId, this.#loadVerified(tenantId, keyId));
  }

  #keep(tenantId: TenantId, keyId: KeyId, loading: Promise<LoadedKey | undefined>) {
    return keepFound(this.#foundKeys, remember(this.#keys, pathOf(tenantId, keyId), loading));
  }

  async #loadVerified(tenantId: TenantId, keyId: KeyId): Promise<LoadedKey | undefined> {
    const found = await this.#read(tenantId, (tx) => findKey(tx, tenantId, keyId));
    return found && this.#verify(found);
  }

  async #read(
    tenantId: TenantId,
    find: (tx: Tx) => Promise<KeyRecord | undefined>,
  ): Promise<ReadKey | undefined> {
    const readAfter = this.#states.now();
    const { deadline } = loadDeadline();
    const record = await this.#store.readAlone({ deadline }, tenantId, find);
    return record && { record, readAfter, deadline };
  }

  async #verify({ record, readAfter, deadline }: ReadKey): Promise<LoadedKey> {
    await this.#states.verify([record.sealed], { readAfter, deadline });
    return { record, primary: load(record.primary, record.sealed), versions: new Map() };
  }

  #requireFresh(): void {
    if (!this.#isFresh()) throw new KeywardError('REPLICA_STALE');
  }
}

async function required<T>(loading: Promise<T | undefined>): Promise<T> {
  const found = await loading;
  if (found === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
  return found;
}

function load(record: KeyVersionRecord, { derivationEpoch }: KeyStateRecord): LoadedVersion {
  return { record, sealed: encode(sealedKeyVersion, record), epoch: derivationEpoch ?? undefined };
}

interface Cache<K, V> {
  get(key: K): V | undefined;
  set(key: K, value: V): unknown;
  delete(key: K): unknown;
}

/**
 * Puts what is being loaded into the cache, and takes it out again if it fails or finds nothing: at
 * once, or when it may be asked again.
 */
function remember<K, T>(
  cache: Cache<K, Promise<T | undefined>>,
  key: K,
  loading: Promise<T | undefined>,
) {
  cache.set(key, loading);
  const drop = () => {
    if (cache.get(key) === loading) cache.delete(key);
  };
  loading.then(
    (found) => found ?? drop(),
    (error: unknown) => {
      const isCorrupt = error instanceof KeywardError && CORRUPT.includes(error.reason);
      if (isCorrupt) setTimeout(drop, CORRUPT_MS).unref();
      else drop();
    },
  );
  return loading;
}

/** Notes what a load has found, once it has. */
function keepFound<T>(found: WeakMap<object, T>, loading: Promise<T | undefined>) {
  loading.then(
    (value) => value === undefined || found.set(loading, value),
    () => {},
  );
  return loading;
}

function loadDeadline(): { readonly deadline: number } {
  return { deadline: monotonicNow() + LOAD_MS };
}

/** Where something of the tenant is kept. */
function pathOf(tenantId: TenantId, part: string): string {
  return `${tenantId}/${part}`;
}
