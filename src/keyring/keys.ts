/**
 * Keys and their versions: made, rotated, described, switched off and on.
 *
 * Invariants: a new version is proven by its agent before a row of it is written, and becomes primary in the transaction
 * that inserts it; version numbers go up by one and are never used again; whatever changes a key is announced to all
 * replicas in the same transaction. Knows no gRPC and no SQL.
 */
import type { Call } from '../call.ts';
import { KeywardError } from '../errors.ts';
import type { HsmAgents } from '../hsm/agents.ts';
import { ALGORITHM } from '../hsm/key-version.ts';
import { type KeyId, newId, type TenantId } from '../ids.ts';
import {
  findHighestVersion,
  findKey,
  findVersion,
  insertKey,
  insertPrimaryVersion,
  type KeyRecord,
  type KeyState,
  type KeyVersionRecord,
  type KeyVersionState,
  type Labels,
  listKeys,
  listVersions,
  lockKey,
  type NewKeyVersion,
  setVersionState,
  updateKey,
} from '../store/keys.ts';
import { findReference, type Reference } from '../store/request-ids.ts';
import type { Mutation, Replay, Store, Tx } from '../store/store.ts';
import type { KeyCache } from './key-cache.ts';
import { type KeyringParts, type ListRequest, requireEtag } from './keyring.ts';
import {
  formatKeyName,
  formatKeyVersionName,
  type KeyName,
  type KeyVersionName,
  type TenantName,
} from './names.ts';
import { BY_NAME, BY_VERSION, type Page, readPage } from './page-token.ts';

/** How often a rotation that lost to another is tried again. */
const ROTATION_TRIES = 5;

/** A key's own fields that callers set. */
export interface KeyDescription {
  readonly description: string;
  readonly labels: Labels;
}

/** Which key, once its name is looked up. */
interface KeyIdentity {
  readonly tenantId: TenantId;
  readonly keyId: KeyId;
}

/** See this file's first paragraph. */
export class Keys {
  readonly #store: Store;
  readonly #agents: HsmAgents;
  readonly #cache: KeyCache;
  readonly #current: KeyringParts['current'];

  constructor({ store, agents, cache, current }: KeyringParts) {
    this.#store = store;
    this.#agents = agents;
    this.#cache = cache;
    this.#current = current;
  }

  /** Creates a key with its version 1. Throws RESOURCE_NOT_FOUND for the tenant, RESOURCE_EXISTS for the key. */
  async create(call: Call, name: KeyName, description: KeyDescription): Promise<KeyRecord> {
    const { tenantId } = await this.#requireTenantEnabled(name);
    const identity = { tenantId, keyId: newId<KeyId>() };
    const replay = replayOf({ keyId: identity.keyId, version: 1 }, tenantId);
    const replayed = await this.#replayed(call, tenantId, replay);
    if (replayed !== undefined) return replayed;
    const version = await this.#makeVersion(call, identity, 1);
    return this.#store.mutate(
      call,
      mutationOf(formatKeyName(name), identity),
      (tx) => insertKey(tx, { name: name.key, ...description, version }),
      replay,
    );
  }

  /** Throws RESOURCE_NOT_FOUND. */
  async get(name: KeyName): Promise<KeyRecord> {
    return (await this.#cache.named(name)).record;
  }

  /** A tenant's keys by name. */
  async list(call: Call, parent: TenantName, request: ListRequest): Promise<Page<KeyRecord>> {
    const { tenantId } = await this.#cache.tenant(parent.tenant);
    return readPage(`keys ${parent.tenant}`, request, BY_NAME, (page) =>
      this.#store.read(call, tenantId, (tx) => listKeys(tx, tenantId, page)),
    );
  }

  /** Makes a new version and makes it the primary. Throws CONFLICT when other rotations keep coming first. */
  async rotate(call: Call, name: KeyName, etag: string): Promise<KeyRecord> {
    await this.#requireTenantEnabled(name);
    const identity = await this.#identify(name);
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#addVersion(call, name, identity, etag);
      } catch (error) {
        const lost = error instanceof KeywardError && error.reason === 'CONFLICT';
        if (!lost || attempt === ROTATION_TRIES) throw error;
      }
    }
  }

  /** Changes what is given of a key's description and labels. Throws RESOURCE_NOT_FOUND, ETAG_MISMATCH. */
  update(call: Call, name: KeyName, etag: string, changes: Partial<KeyDescription>): Promise<KeyRecord> {
    return this.#change(call, name, etag, (tx, { tenantId, keyId }) =>
      updateKey(tx, tenantId, keyId, changes),
    );
  }

  /** Throws RESOURCE_NOT_FOUND, ETAG_MISMATCH. Setting the state that it has changes nothing. */
  setState(call: Call, name: KeyName, etag: string, state: KeyState): Promise<KeyRecord> {
    return this.#change(call, name, etag, (tx, { tenantId, keyId }, key) =>
      key.state === state ? Promise.resolve(key) : updateKey(tx, tenantId, keyId, { state }),
    );
  }

  /** Throws RESOURCE_NOT_FOUND. */
  async getVersion(name: KeyVersionName): Promise<KeyVersionRecord> {
    const key = await this.#cache.named(name);
    const version = await this.#cache.version(key, name.version);
    if (version === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
    return version.record;
  }

  /** A key's versions, newest first. */
  async listVersions(call: Call, name: KeyName, request: ListRequest): Promise<Page<KeyVersionRecord>> {
    const { tenantId, keyId } = await this.#identify(name);
    return readPage(`versions ${formatKeyName(name)}`, request, BY_VERSION, ({ after, ...page }) =>
      this.#store.read(call, tenantId, (tx) =>
        listVersions(tx, tenantId, keyId, after === undefined ? page : { ...page, before: Number(after) }),
      ),
    );
  }

  /** Throws RESOURCE_NOT_FOUND, ETAG_MISMATCH. Setting the state that it has changes nothing. */
  async setVersionState(
    call: Call,
    name: KeyVersionName,
    etag: string,
    state: KeyVersionState,
  ): Promise<KeyVersionRecord> {
    const identity = await this.#identify(name);
    const { tenantId, keyId } = identity;
    const find = async (tx: Tx) => {
      const version = await findVersion(tx, tenantId, keyId, name.version);
      if (version === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
      return version;
    };
    const changed = await this.#store.mutate(
      call,
      mutationOf(formatKeyVersionName(name, name.version), identity),
      async (tx) => {
        await lockKey(tx, tenantId, keyId);
        const version = await find(tx);
        requireEtag(etag, version.revision);
        if (version.state === state) return version;
        await setVersionState(tx, tenantId, keyId, version.version, state);
        return find(tx);
      },
      { reference: { keyId, version: name.version }, rebuild: find },
    );
    this.#cache.forget(tenantId, keyId);
    return changed;
  }

  async #addVersion(call: Call, name: KeyName, identity: KeyIdentity, etag: string): Promise<KeyRecord> {
    const { tenantId, keyId } = identity;
    const highest = await this.#store.read(call, tenantId, (tx) => findHighestVersion(tx, tenantId, keyId));
    const replay = replayOf({ keyId, version: highest + 1 }, tenantId);
    const replayed = await this.#replayed(call, tenantId, replay);
    if (replayed !== undefined) return replayed;
    const version = await this.#makeVersion(call, identity, highest + 1);
    const rotated = await this.#store.mutate(
      call,
      mutationOf(formatKeyName(name), identity),
      async (tx) => {
        const locked = await lockKey(tx, tenantId, keyId);
        if (locked?.highestVersion !== highest) throw new KeywardError('CONFLICT');
        requireEtag(etag, locked.key.revision);
        return insertPrimaryVersion(tx, version);
      },
      replay,
    );
    this.#cache.forget(tenantId, keyId);
    return rotated;
  }

  /** One change to a key: locked, its etag compared, announced. */
  async #change(
    call: Call,
    name: KeyName,
    etag: string,
    apply: (tx: Tx, identity: KeyIdentity, key: KeyRecord) => Promise<KeyRecord>,
  ): Promise<KeyRecord> {
    const identity = await this.#identify(name);
    const { tenantId, keyId } = identity;
    const changed = await this.#store.mutate(
      call,
      mutationOf(formatKeyName(name), identity),
      async (tx) => {
        const locked = await lockKey(tx, tenantId, keyId);
        if (locked === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
        requireEtag(etag, locked.key.revision);
        return apply(tx, identity, locked.key);
      },
      replayOf({ keyId }, tenantId),
    );
    this.#cache.forget(tenantId, keyId);
    return changed;
  }

  async #requireTenantEnabled({ tenant: name }: TenantName) {
    const tenant = await this.#cache.tenant(name);
    if (tenant.state !== 'ENABLED') throw new KeywardError('TENANT_DISABLED');
    return tenant;
  }

  async #identify(name: KeyName): Promise<KeyIdentity> {
    const { tenantId, keyId } = (await this.#cache.named(name)).record;
    return { tenantId, keyId };
  }

  /** The answer of an effect that the request id has had, looked for before the HSM is asked to do the work again. */
  #replayed<T>(call: Call, tenantId: TenantId, { rebuild }: Replay<T>): Promise<T | undefined> {
    if (call.idempotency === undefined) return Promise.resolve(undefined);
    return this.#store.read(call, tenantId, async (tx) => {
      const reference = await findReference(tx, tenantId, call);
      return reference && rebuild(tx, reference);
    });
  }

  /** A proven version of the key, not yet stored. */
  async #makeVersion(call: Call, { tenantId, keyId }: KeyIdentity, version: number): Promise<NewKeyVersion> {
    const algorithm = ALGORITHM.hmacSha512Aes256Gcm;
    const request = { tenantId, keyId, version, algorithm, ...this.#current };
    return { ...(await this.#agents.call('createKeyVersion', request, call.deadline)), state: 'ENABLED' };
  }
}

function mutationOf(resource: string, { tenantId, keyId }: KeyIdentity): Mutation {
  return { tenantId, resource, change: { kind: 'key', subjectId: keyId } };
}

/** A key's answer rebuilt: as it is now, but for the primary that the effect had made. */
function replayOf(reference: Reference, tenantId: TenantId): Replay<KeyRecord> {
  return {
    reference,
    rebuild: async (tx, { keyId, version }) => {
      const key = await findKey(tx, tenantId, keyId as KeyId);
      if (key === undefined) throw new Error('a key that a request made is gone');
      const primary = typeof version === 'number' && (await findVersion(tx, tenantId, key.keyId, version));
      return primary ? { ...key, primary } : key;
    },
  };
}
