/**
 * Tenants, keys and key versions as the hot path finds them: in memory, loaded from the store once.
 *
 * Invariants: what a name or a UUID stands for never changes, so those are kept until they fall
 * out; a key's state is dropped the moment a change to it is heard of, also while it is being
 * loaded (what is kept is the promise, so nothing read before a change is put in after it); what
 * isn't there is never remembered; and a replica that no longer hears of changes answers nothing
 * from here. How a key and its versions stand is verified once, when it is loaded, before anybody
 * gets it (`key-states.ts`); a version that was read later counts only if it stands as the key's
 * seal says. A load that several calls wait for is nobody's own: it has the tenant in its name and
 * a deadline of its own. Decides nothing: whether a key may be used is the keyring's to say.
 */
import { monotonicNow } from '../../call.ts';
import { KeywardError } from '../../errors.ts';
import { encode } from '../../hsm/codec.ts';
import { sealedKeyVersion } from '../../hsm/key-version.ts';
import type { KeyId, TenantId } from '../../ids.ts';
import { Lru } from '../../lru.ts';
import type { KeyName } from '../../names.ts';
import { findVersion, type KeyVersionRecord } from '../../store/keys/key-versions.ts';
import { findKey, findKeyId, type KeyRecord } from '../../store/keys/keys.ts';
import type { Store } from '../../store/store.ts';
import { findTenantByName, type TenantRecord } from '../../store/tenants/tenants.ts';
import { type KeyStates, standsAs } from './key-states.ts';

/** How long a load may take; each call that waits for it still ends at its own deadline. */
const LOAD_MS = 5_000;
/**
 * A key that doesn't verify is looked at anew after so long, so that its callers can't keep the HSM
 * and the log busy.
 */
const CORRUPT_MS = 1_000;
/** How often something is read that others keep changing meanwhile. */
const TRIES = 3;

/** A key version ready to be sent to an agent. */
export interface LoadedVersion {
  readonly record: KeyVersionRecord;
  /** The sealed version as agents read it, and as they name its handle. */
  readonly sealed: Buffer;
}

/** A key and those of its versions that have been asked for. */
export interface LoadedKey {
  readonly record: KeyRecord;
  readonly primary: LoadedVersion;
  readonly versions: Map<number, Promise<LoadedVersion | undefined>>;
}

/** Loads tenants, keys and versions once, and keeps them until they change. */
export class KeyCache {
  readonly #store: Store;
  readonly #isFresh: () => boolean;
  readonly #states: KeyStates;
  readonly #tenants: Lru<string, Promise<TenantRecord | undefined>>;
  readonly #keyIds: Lru<string, Promise<KeyId | undefined>>;
  readonly #keys: Lru<string, Promise<LoadedKey | undefined>>;

  /** At most `limit` keys; `isFresh` says whether this replica hears of changes. */
  constructor(store: Store, states: KeyStates, limit: number, isFresh: () => boolean) {
    this.#store = store;
    this.#states = states;
    this.#isFresh = isFresh;
    this.#tenants = new Lru(limit);
    this.#keyIds = new Lru(limit);
    this.#keys = new Lru(limit);
  }

  /** The tenant. Throws RESOURCE_NOT_FOUND. */
  async tenant(name: string): Promise<TenantRecord> {
    this.#requireFresh();
    const tenant = await (this.#tenants.get(name) ?? this.#loadTenant(name));
    if (tenant === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
    return tenant;
  }

  /** The key of that name. Throws RESOURCE_NOT_FOUND, KEY_STATE_CORRUPT, HSM_UNAVAILABLE. */
  async named(name: KeyName): Promise<LoadedKey> {
    const { tenantId } = await this.tenant(name.tenant);
    const path = `${tenantId}/${name.key}`;
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
      const record = await this.#store.read(loadDeadline(), tenantId, (tx) =>
        findVersion(tx, tenantId, keyId, number),
      );
      if (standsAs(stands, number, record)) return record && load(record);
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
    this.#keys.delete(pathOf(tenantId, keyId));
  }

  /** Forgets all tenants' states. */
  forgetTenants(): void {
    this.#tenants.clear();
  }

  /** Forgets everything. */
  clear(): void {
    this.#keys.clear();
    this.#keyIds.clear();
    this.#tenants.clear();
  }

  #loadTenant(name: string): Promise<TenantRecord | undefined> {
    return remember(this.#tenants, name, findTenantByName(this.#store, loadDeadline(), name));
  }

  #loadKeyId(path: string, tenantId: TenantId, name: string): Promise<KeyId | undefined> {
    const loading = this.#store.read(loadDeadline(), tenantId, (tx) =>
      findKeyId(tx, tenantId, name),
    );
    return remember(this.#keyIds, path, loading);
  }

  #load(tenantId: TenantId, keyId: KeyId): Promise<LoadedKey | undefined> {
    return remember(this.#keys, pathOf(tenantId, keyId), this.#loadVerified(tenantId, keyId));
  }

  async #loadVerified(tenantId: TenantId, keyId: KeyId): Promise<LoadedKey | undefined> {
    const readAfter = this.#states.now();
    const { deadline } = loadDeadline();
    const record = await this.#store.read({ deadline }, tenantId, (tx) =>
      findKey(tx, tenantId, keyId),
    );
    if (record === undefined) return undefined;
    await this.#states.verify([record.sealed], { readAfter, deadline });
    return { record, primary: load(record.primary), versions: new Map() };
  }

  #requireFresh(): void {
    if (!this.#isFresh()) throw new KeywardError('REPLICA_STALE');
  }
}

function load(record: KeyVersionRecord): LoadedVersion {
  return { record, sealed: encode(sealedKeyVersion, record) };
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
      const isCorrupt = error instanceof KeywardError && error.reason === 'KEY_STATE_CORRUPT';
      if (isCorrupt) setTimeout(drop, CORRUPT_MS).unref();
      else drop();
    },
  );
  return loading;
}

function loadDeadline(): { readonly deadline: number } {
  return { deadline: monotonicNow() + LOAD_MS };
}

function pathOf(tenantId: TenantId, keyId: KeyId): string {
  return `${tenantId}/${keyId}`;
}
