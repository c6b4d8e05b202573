/**
 * The heart: tenants, keys and their versions, and what is encrypted under them. Each method reads as its steps.
 *
 * Invariants: old versions decrypt, only the primary encrypts; a new version is proven by its agent before a row of it
 * is written, and becomes primary in the transaction that inserts it; a ciphertext that doesn't open fails in one way
 * whatever the cause. Requests arrive validated. Knows no gRPC, no SQL, no PKCS#11, and holds no key material.
 */
import type { Call } from '../call.ts';
import { KeywardError } from '../errors.ts';
import type { HsmAgents } from '../hsm/agents.ts';
import { NO_SUBJECT, PURPOSE, parseHeader } from '../hsm/ciphertext.ts';
import { ALGORITHM, type KeyVersionIdentity } from '../hsm/key-version.ts';
import { type KeyId, newId, type RootKeyId, type SealKeyId, type TenantId } from '../ids.ts';
import {
  findHighestVersion,
  insertKey,
  insertPrimaryVersion,
  type KeyRecord,
  type KeyVersionRecord,
  listKeys,
  listVersions,
  lockKey,
} from '../store/keys.ts';
import type { Store } from '../store/store.ts';
import { insertTenant, listTenants, type TenantRecord } from '../store/tenants.ts';
import { contextDigest, type EncryptionContext } from './encryption-context.ts';
import type { KeyCache, LoadedVersion } from './key-cache.ts';
import { formatKeyName, formatTenantName, type KeyName, type TenantName } from './names.ts';
import { decodePageToken, type Page, toPage } from './page-token.ts';

/** The token objects under which new key versions are wrapped and sealed. */
export interface CurrentKeys {
  readonly rootKeyId: RootKeyId;
  readonly sealKeyId: SealKeyId;
}

/** A key under its name. */
export interface NamedKey {
  readonly name: KeyName;
  readonly record: KeyRecord;
}

/** Which page of a list. */
export interface PageRequest {
  readonly pageSize: number;
  readonly pageToken: string;
}

/** How often a rotation that lost to another is tried again. */
const ROTATION_TRIES = 5;

/** What Decrypt opens: a stored data key's ciphertext isn't a caller's to give. */
const CALLERS_PURPOSES = [PURPOSE.payload, PURPOSE.dataKey] as const;

/** See this file's first paragraph. */
export class Keyring {
  readonly #store: Store;
  readonly #agents: HsmAgents;
  readonly #cache: KeyCache;
  readonly #current: CurrentKeys;

  constructor(parts: { store: Store; agents: HsmAgents; cache: KeyCache; current: CurrentKeys }) {
    this.#store = parts.store;
    this.#agents = parts.agents;
    this.#cache = parts.cache;
    this.#current = parts.current;
  }

  // ---- encryption

  /** Encrypts up to 64 KiB under the key's primary version. */
  async encrypt(
    call: Call,
    request: { readonly name: KeyName; readonly plaintext: Buffer; readonly context: EncryptionContext },
  ): Promise<{ readonly ciphertext: Buffer; readonly version: number }> {
    const key = await this.#cache.named(call, request.name);
    const primary = requireEnabled(key.primary);
    const { ciphertext } = await this.#agents.call(
      'seal',
      {
        keyVersion: primary.sealed,
        purpose: PURPOSE.payload,
        subject: NO_SUBJECT,
        contextDigest: contextDigest(request.context),
        plaintext: request.plaintext,
      },
      call.deadline,
    );
    return { ciphertext, version: primary.record.version };
  }

  /** Opens a payload or a data key. Throws DECRYPTION_FAILED for whatever doesn't open. */
  async decrypt(
    call: Call,
    request: {
      readonly parent: TenantName;
      readonly ciphertext: Buffer;
      readonly context: EncryptionContext;
      readonly expectedKey: KeyName | undefined;
    },
  ): Promise<{ readonly plaintext: Buffer; readonly key: KeyName; readonly version: number }> {
    const { tenantId } = await this.#cache.tenant(call, request.parent.tenant);
    const header = parseHeader(request.ciphertext, CALLERS_PURPOSES);
    const key = await this.#cache.key(tenantId, header.keyId);
    if (key === undefined || (request.expectedKey && request.expectedKey.key !== key.record.name)) {
      throw new KeywardError('DECRYPTION_FAILED');
    }
    const version = await this.#cache.version(key, header.version);
    if (version === undefined) throw new KeywardError('DECRYPTION_FAILED');
    const { plaintext } = await this.#agents.call(
      'open',
      {
        keyVersion: requireEnabled(version).sealed,
        subject: NO_SUBJECT,
        contextDigest: contextDigest(request.context),
        ciphertext: request.ciphertext,
      },
      call.deadline,
    );
    return { plaintext, key: { ...request.parent, key: key.record.name }, version: header.version };
  }

  /** Issues a data key of `length` bytes. */
  async generateDataKey(
    call: Call,
    request: { readonly name: KeyName; readonly context: EncryptionContext; readonly length: number },
  ): Promise<{ readonly plaintext: Buffer; readonly wrappedDataKey: Buffer; readonly version: number }> {
    const key = await this.#cache.named(call, request.name);
    const primary = requireEnabled(key.primary);
    const { plaintext, ciphertext } = await this.#agents.call(
      'issueDataKey',
      {
        keyVersion: primary.sealed,
        purpose: PURPOSE.dataKey,
        subject: NO_SUBJECT,
        contextDigest: contextDigest(request.context),
        length: request.length,
      },
      call.deadline,
    );
    return { plaintext, wrappedDataKey: ciphertext, version: primary.record.version };
  }

  // ---- keys

  /** Creates a key with its version 1. Throws RESOURCE_NOT_FOUND for the tenant, RESOURCE_EXISTS for the key. */
  async createKey(call: Call, name: KeyName): Promise<NamedKey> {
    const { tenantId } = await this.#cache.tenant(call, name.tenant);
    const keyId = newId<KeyId>();
    const version = await this.#makeVersion(call, tenantId, keyId, 1);
    const mutation = {
      tenantId,
      resource: formatKeyName(name),
      change: { kind: 'key', subjectId: keyId },
    } as const;
    const record = await this.#store.mutate(call, mutation, (tx) =>
      insertKey(tx, { name: name.key, version }),
    );
    return { name, record };
  }

  /** Throws RESOURCE_NOT_FOUND. */
  async getKey(call: Call, name: KeyName): Promise<NamedKey> {
    return { name, record: (await this.#cache.named(call, name)).record };
  }

  /** A tenant's keys by name. */
  async listKeys(call: Call, parent: TenantName, page: PageRequest): Promise<Page<NamedKey>> {
    const { tenantId } = await this.#cache.tenant(call, parent.tenant);
    const list = `keys ${parent.tenant}`;
    const after = decodePageToken(list, page.pageToken);
    const limit = page.pageSize + 1;
    const rows = await this.#store.read(call, tenantId, (tx) =>
      listKeys(tx, tenantId, after === undefined ? { limit } : { after, limit }),
    );
    return toPage(
      list,
      rows,
      page.pageSize,
      (row) => row.name,
      (record) => ({ name: { ...parent, key: record.name }, record }),
    );
  }

  /** A key's versions, newest first. */
  async listKeyVersions(call: Call, name: KeyName, page: PageRequest): Promise<Page<KeyVersionRecord>> {
    const { tenantId, keyId } = (await this.#cache.named(call, name)).record;
    const list = `versions ${formatKeyName(name)}`;
    const before = decodePageToken(list, page.pageToken);
    const limit = page.pageSize + 1;
    const rows = await this.#store.read(call, tenantId, (tx) =>
      listVersions(tx, tenantId, keyId, before === undefined ? { limit } : { before: Number(before), limit }),
    );
    return toPage(
      list,
      rows,
      page.pageSize,
      (row) => String(row.version),
      (row) => row,
    );
  }

  /** Makes a new version and makes it the primary. Throws CONFLICT when other rotations keep coming first. */
  async rotateKey(call: Call, name: KeyName): Promise<NamedKey> {
    const { tenantId, keyId } = (await this.#cache.named(call, name)).record;
    for (let attempt = 1; ; attempt++) {
      try {
        return { name, record: await this.#addVersion(call, name, tenantId, keyId) };
      } catch (error) {
        const lost = error instanceof KeywardError && error.reason === 'CONFLICT';
        if (!lost || attempt === ROTATION_TRIES) throw error;
      } finally {
        this.#cache.forget(tenantId, keyId);
      }
    }
  }

  async #addVersion(call: Call, name: KeyName, tenantId: TenantId, keyId: KeyId): Promise<KeyRecord> {
    const before = await this.#store.read(call, tenantId, (tx) => findHighestVersion(tx, tenantId, keyId));
    const version = await this.#makeVersion(call, tenantId, keyId, before + 1);
    const mutation = {
      tenantId,
      resource: formatKeyName(name),
      change: { kind: 'key', subjectId: keyId },
    } as const;
    return this.#store.mutate(call, mutation, async (tx) => {
      const locked = await lockKey(tx, tenantId, keyId);
      if (locked?.highestVersion !== before) throw new KeywardError('CONFLICT');
      return { ...locked.key, primary: await insertPrimaryVersion(tx, version) };
    });
  }

  async #makeVersion(call: Call, tenantId: TenantId, keyId: KeyId, version: number) {
    const identity: KeyVersionIdentity = {
      tenantId,
      keyId,
      version,
      algorithm: ALGORITHM.hmacSha512Aes256Gcm,
    };
    const sealed = await this.#agents.call(
      'createKeyVersion',
      { ...identity, ...this.#current },
      call.deadline,
    );
    return { ...sealed, state: 'ENABLED' } as const;
  }

  // ---- tenants

  /** Throws RESOURCE_EXISTS. */
  async createTenant(call: Call, name: TenantName): Promise<TenantRecord> {
    const tenantId = newId<TenantId>();
    const mutation = {
      tenantId,
      resource: formatTenantName(name),
      change: { kind: 'tenant', subjectId: tenantId },
    } as const;
    return this.#store.mutate(call, mutation, (tx) => insertTenant(tx, { tenantId, name: name.tenant }));
  }

  /** Throws RESOURCE_NOT_FOUND. */
  getTenant(call: Call, name: TenantName): Promise<TenantRecord> {
    return this.#cache.tenant(call, name.tenant);
  }

  /** All tenants by name. */
  async listTenants(call: Call, page: PageRequest): Promise<Page<TenantRecord>> {
    const after = decodePageToken('tenants', page.pageToken);
    const limit = page.pageSize + 1;
    const rows = await listTenants(this.#store, call, after === undefined ? { limit } : { after, limit });
    return toPage(
      'tenants',
      rows,
      page.pageSize,
      (row) => row.name,
      (row) => row,
    );
  }
}

function requireEnabled(version: LoadedVersion): LoadedVersion {
  const { state } = version.record;
  if (state !== 'ENABLED') {
    throw new KeywardError('KEY_VERSION_NOT_ENABLED', {
      metadata: { state, version: String(version.record.version) },
    });
  }
  return version;
}
