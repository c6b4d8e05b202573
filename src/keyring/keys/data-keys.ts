/**
 * Stored data keys: issued, kept wrapped, opened for their owners, deleted.
 *
 * Invariants: a data key's bytes never change; its row's UUID is the subject of its ciphertext, so
 * that no row opens as another; it is wrapped under the version that is primary when its row is
 * written, so that a rotation leaves none behind that its job doesn't see; its plaintext comes back
 * only where a caller is to receive it. Knows no gRPC and no SQL.
 */
import { addDetail, type Call, type Reference } from '../../call.ts';
import { KeywardError, REASONS } from '../../errors.ts';
import { PURPOSE } from '../../hsm/ciphertext.ts';
import type { Agents } from '../../hsm/token-router.ts';
import { type DataKeyId, idToBytes, newId, newOrderedId, type TenantId } from '../../ids.ts';
import {
  type DataKeyName,
  formatDataKeyName,
  formatKeyName,
  formatKeyVersionName,
  type KeyName,
} from '../../names.ts';
import type { Alerts } from '../../signals/alerts.ts';
import {
  type DataKeyRecord,
  deleteDataKey,
  findDataKey,
  insertDataKey,
  listDataKeys,
} from '../../store/keys/data-keys.ts';
import type { Store } from '../../store/store.ts';
import { requireEtag } from '../own-calls.ts';
import { BY_NAME, type ListRequest, type Page, readPage } from '../pages.ts';
import { contextDigest, type EncryptionContext } from './encryption-context.ts';
import type { KeyCache } from './key-cache.ts';
import { identify, type KeyIdentity } from './mutations.ts';
import { findPrimary, type QuotaLimits, requireTenantEnabled, requireUsable } from './usable.ts';
import { noteKeyVersion, type UsageRecorder } from './usage.ts';

/** How often a data key is issued anew because its key was rotated meanwhile. */
const TRIES = 5;
const NOTHING = Buffer.alloc(0);

/** A data key; its plaintext is empty where it isn't to be seen. */
export interface OpenedDataKey {
  readonly record: DataKeyRecord;
  readonly plaintext: Buffer;
}

export interface NewDataKey {
  readonly parent: KeyName;
  /** The last part of its name; empty for one that is generated. */
  readonly id: string;
  readonly context: EncryptionContext;
  /** Bytes. */
  readonly length: number;
  readonly reveal: boolean;
}

/** What {@link DataKeys} stands on. */
export interface DataKeysParts {
  readonly store: Store;
  readonly agents: Agents;
  readonly cache: KeyCache;
  readonly usage: UsageRecorder;
  readonly quotas: QuotaLimits;
  readonly alerts: Alerts;
}

/** Creates, opens, lists and deletes stored data keys. */
export class DataKeys {
  readonly #parts: DataKeysParts;

  constructor(parts: DataKeysParts) {
    this.#parts = parts;
  }

  /**
   * Issues and keeps a data key. Throws RESOURCE_NOT_FOUND, RESOURCE_EXISTS, QUOTA_EXCEEDED, and
   * FAILED_PRECONDITION as Encrypt.
   */
  async create(call: Call, request: NewDataKey): Promise<OpenedDataKey> {
    const { cache } = this.#parts;
    const identity = await identify(cache, call, request.parent);
    const id = request.id || `dk-${newOrderedId(Date.now()).replaceAll('-', '')}`;
    const name = { ...request.parent, dataKey: id };
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#issue(call, request, name, identity);
      } catch (error) {
        const rotated = error instanceof KeywardError && error.reason === 'CONFLICT';
        if (!rotated || attempt === TRIES) throw error;
        cache.forget(identity.tenantId, identity.keyId);
      }
    }
  }

  /**
   * Returns a data key that the same request has made before, as it was then, with its plaintext.
   * Throws RESOURCE_NOT_FOUND for one that was deleted since, and as {@link DataKeys.get} what
   * keeps it from being opened now; the error says that it was made.
   */
  async createAgain(
    call: Call,
    { parent, context }: NewDataKey,
    made: Reference,
  ): Promise<OpenedDataKey> {
    const { tenantId, keyId } = await identify(this.#parts.cache, call, parent);
    const name = { ...parent, dataKey: String(made['dataKey']) };
    notePlaintext(call, true);
    try {
      const record = await this.#find(call, tenantId, { tenantId, keyId }, name);
      if (record.dataKeyId !== made['dataKeyId']) throw new KeywardError('RESOURCE_NOT_FOUND');
      const plaintext = await this.#open(call, name, record, context);
      const asMade = { version: Number(made['version']), rewrappedAt: null };
      return { record: { ...record, ...asMade }, plaintext };
    } catch (error) {
      throw wasMade(error, formatDataKeyName(name, name.dataKey));
    }
  }

  /**
   * Opens a stored data key. Throws RESOURCE_NOT_FOUND, DECRYPTION_FAILED, and FAILED_PRECONDITION
   * as Decrypt.
   */
  async get(call: Call, name: DataKeyName, context: EncryptionContext): Promise<OpenedDataKey> {
    const { tenantId, keyId } = await identify(this.#parts.cache, call, name);
    const record = await this.#find(call, tenantId, { tenantId, keyId }, name);
    notePlaintext(call, true);
    return { record, plaintext: await this.#open(call, name, record, context) };
  }

  /** A key's data keys by name, as they are kept. */
  async list(call: Call, parent: KeyName, request: ListRequest): Promise<Page<DataKeyRecord>> {
    const { store, cache } = this.#parts;
    const { tenantId, keyId } = await identify(cache, call, parent);
    return readPage(`dataKeys ${formatKeyName(parent)}`, request, BY_NAME, (page) =>
      store.read(call, tenantId, (tx) => listDataKeys(tx, tenantId, keyId, page)),
    );
  }

  /** Deletes a data key for good. Throws RESOURCE_NOT_FOUND, ETAG_MISMATCH. */
  async delete(call: Call, name: DataKeyName, etag: string): Promise<void> {
    const { store, cache } = this.#parts;
    const { tenantId, keyId } = await identify(cache, call, name);
    const resource = formatDataKeyName(name, name.dataKey);
    const mutation = { tenantId, ids: { keyId }, resource };
    await store.mutate(call, mutation, async (tx) => {
      const record = await findDataKey(tx, tenantId, keyId, name.dataKey);
      if (record === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
      requireEtag(etag, record.dataKeyId);
      if (!(await deleteDataKey(tx, tenantId, keyId, record)))
        throw new KeywardError('RESOURCE_NOT_FOUND');
      tx.changed({ kind: 'dataKey', before: contentOf(record) });
    });
  }

  /** Throws CONFLICT when the key was rotated while its primary issued this. */
  async #issue(
    call: Call,
    { context, length, reveal }: NewDataKey,
    name: DataKeyName,
    identity: KeyIdentity,
  ): Promise<OpenedDataKey> {
    const { store, agents, cache, usage, quotas } = this.#parts;
    const { tenantId, keyId } = identity;
    const limit = quotas.of(await cache.tenant(name.tenant), 'storedDataKeys');
    const primary = await findPrimary(cache, name);
    const dataKeyId = newId<DataKeyId>();
    const binding = { subject: idToBytes(dataKeyId), contextDigest: contextDigest(context) };
    const issued = await agents.call(
      'issueDataKey',
      {
        keyVersion: primary.sealed,
        purpose: PURPOSE.storedDataKey,
        ...binding,
        length,
        reveal: reveal ? 1 : 0,
      },
      call.deadline,
    );
    // Before the entry is written, which is with the row.
    noteKeyVersion(call, name, primary);
    notePlaintext(call, reveal);
    let given = false;
    try {
      const record = await store.mutate(
        call,
        { tenantId, ids: { keyId }, resource: formatDataKeyName(name, name.dataKey) },
        async (tx) => {
          const { version } = primary.record;
          const { contextDigest: digest } = binding;
          const row = { name: name.dataKey, dataKeyId, contextDigest: digest, version };
          const dataKey = { ...row, ciphertext: issued.ciphertext };
          const inserted = await insertDataKey(tx, tenantId, keyId, dataKey, limit);
          if (inserted === undefined) throw new KeywardError('CONFLICT');
          if (inserted === 'taken') throw new KeywardError('RESOURCE_EXISTS');
          tx.changed({ kind: 'dataKey', after: { ...contentOf(inserted), length } });
          return inserted;
        },
        // A plaintext isn't kept: it is opened again.
        (made) =>
          reveal
            ? { reference: { dataKey: made.name, dataKeyId, version: made.version } }
            : { answer: { content: { record: made, plaintext: NOTHING } } },
      );
      usage.encrypted(call, name, primary);
      given = true;
      return { record, plaintext: issued.plaintext };
    } finally {
      if (!given) issued.plaintext.fill(0);
    }
  }

  async #find(
    call: Call,
    tenantId: TenantId,
    { keyId }: KeyIdentity,
    name: DataKeyName,
  ): Promise<DataKeyRecord> {
    const record = await this.#parts.store.read(call, tenantId, (tx) =>
      findDataKey(tx, tenantId, keyId, name.dataKey),
    );
    if (record === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
    return record;
  }

  async #open(
    call: Call,
    name: KeyName,
    record: DataKeyRecord,
    context: EncryptionContext,
  ): Promise<Buffer> {
    const { agents, cache, usage } = this.#parts;
    const tenant = await cache.tenant(name.tenant);
    const key = await cache.named(name);
    const version = await cache.version(key, record.version);
    if (version === undefined) {
      const resource = formatKeyVersionName(name, record.version);
      this.#parts.alerts.raise('stored-row-corrupt', resource, { resource });
      throw new KeywardError('STORED_ROW_CORRUPT');
    }
    requireTenantEnabled(tenant);
    requireUsable(key, version);
    const { plaintext } = await agents.call(
      'open',
      {
        keyVersion: version.sealed,
        subject: idToBytes(record.dataKeyId),
        contextDigest: contextDigest(context),
        ciphertext: record.ciphertext,
      },
      call.deadline,
    );
    usage.decrypted(call, name, version);
    return plaintext;
  }
}

/** Notes whether the caller gets the data key itself, if the call ends well. */
function notePlaintext({ audit }: Pick<Call, 'audit'>, reveal: boolean): void {
  if (audit !== undefined) addDetail(audit, { plaintextReturned: reveal });
}

/** What an audit entry says of a stored data key. */
function contentOf({ dataKeyId, version }: DataKeyRecord): object {
  return { dataKeyId, version };
}

/** What keeps a plaintext from being returned again, where it is no fault that passes. */
const NOT_NOW: readonly string[] = ['FAILED_PRECONDITION', 'NOT_FOUND'];

/** The error, with the name of what was made all the same. */
function wasMade(error: unknown, name: string): unknown {
  if (!(error instanceof KeywardError) || !NOT_NOW.includes(REASONS[error.reason].status))
    return error;
  const why =
    error.reason === 'RESOURCE_NOT_FOUND' ? 'it was deleted since' : REASONS[error.reason].message;
  return new KeywardError(error.reason, {
    message: `cannot return the plaintext again, though the request has made ${name}: ${why}`,
    metadata: { ...error.metadata, made: name },
    cause: error,
  });
}
