/**
 * Makes and deletes canaries, and suspends callers and lifts that.
 *
 * - A canary is sealed under a context digest that is drawn for it and kept by nobody, so that no
 *   call can open it: what a caller meets is what a real ciphertext does with another context, by
 *   the same code and in the same time. In form it is what it is made as, under a real version.
 * - A change verifies the seal and the tenant's rows, seals what is after it, and commits it with
 *   its audit entry and its announcement in one transaction.
 * - Whether a caller may do it is decided before.
 */
import { hash, randomBytes, randomUUID } from 'node:crypto';
import type { Call } from '../../call.ts';
import { KeywardError } from '../../errors.ts';
import { CONTEXT_DIGEST_BYTES, NO_SUBJECT, PURPOSE, saltDigest } from '../../hsm/ciphertext.ts';
import { RECORD } from '../../hsm/record-seal.ts';
import type { Agents } from '../../hsm/token-router.ts';
import {
  type AnyId,
  type DataKeyId,
  idToBytes,
  newId,
  newOrderedId,
  type SealKeyId,
  type TenantId,
} from '../../ids.ts';
import {
  type CanaryName,
  formatCanaryName,
  formatSuspensionName,
  type KeyName,
  type SuspensionName,
  type TenantName,
} from '../../names.ts';
import {
  type CanaryRow,
  type CanaryRows,
  deleteCanary,
  deleteSuspension,
  insertCanary,
  insertSuspension,
  lockCanaries,
  type SuspensionRow,
  writeCanarySeal,
} from '../../store/canaries/canaries.ts';
import type { Changed, Tx } from '../../store/core/transaction.ts';
import { deleteDataKey, insertDataKey } from '../../store/keys/data-keys.ts';
import type { Mutation, Store } from '../../store/store.ts';
import type { KeyCache, LoadedVersion } from '../keys/key-cache.ts';
import { identify, type KeyIdentity } from '../keys/mutations.ts';
import { findPrimary, type QuotaLimits } from '../keys/usable.ts';
import { noteKeyVersion, type UsageRecorder } from '../keys/usage.ts';
import { ownCall, requireEtag } from '../own-calls.ts';
import { BY_NAME, type ListRequest, type Page, readPage } from '../pages.ts';
import type { Canaries, Canary } from './canaries.ts';
import { type CanaryContent, type CanaryKind, sealRecord } from './canary-record.ts';
import { canaryContent, digestOf } from './canary-seal.ts';

/** Every replica has all of them in memory, and reads all of them at a change. */
const MAX_OF_SERVICE = 10_000;
const MAX_OF_TENANT = 1_000;
/** How often a canary is made anew because its key was rotated meanwhile. */
const TRIES = 5;
const OWN_CALL_MS = 10_000;

/** What {@link CanaryChanges} stands on. */
export interface CanaryChangesParts {
  readonly store: Store;
  readonly agents: Agents;
  readonly cache: KeyCache;
  readonly usage: UsageRecorder;
  readonly quotas: QuotaLimits;
  readonly canaries: Canaries;
  /** Knows which key is current for seals. */
  readonly tokenObjects: { currentSealKey(): SealKeyId };
  readonly systemTenantId: TenantId;
}

export interface NewCanary {
  readonly parent: KeyName;
  /** The last part of its name; empty for one that is generated. */
  readonly id: string;
  readonly kind: CanaryKind;
  /** Of the payload or the data key, in bytes. */
  readonly length: number;
  /** The last part of a stored data key's name; empty for one that is generated. */
  readonly dataKeyId: string;
  readonly suspends: boolean;
  readonly description: string;
}

/** A canary that was made, and what is to be laid out of it: nothing for a stored data key. */
export interface MadeCanary {
  readonly canary: Canary;
  readonly ciphertext: Buffer;
}

export interface NewSuspension {
  readonly caller: string;
  readonly description: string;
  /** The canary that the caller wanted opened, by the last part of its name, and by which call. */
  readonly canaryId?: string;
  readonly requestId?: string;
}

/** What a change makes of a tenant's rows, and what its audit entry says. */
interface RowsChange<T> {
  readonly result: T;
  readonly rows: CanaryRows;
  readonly changed: Changed;
}

/** Makes and deletes canaries, and suspends callers and lifts that. */
export class CanaryChanges {
  readonly #parts: CanaryChangesParts;

  constructor(parts: CanaryChangesParts) {
    this.#parts = parts;
  }

  /**
   * Makes a canary under the key's primary version. Throws RESOURCE_NOT_FOUND, RESOURCE_EXISTS,
   * CANARIES_FULL, CANARIES_CORRUPT, QUOTA_EXCEEDED, and FAILED_PRECONDITION as Encrypt.
   */
  async create(call: Call, asked: NewCanary): Promise<MadeCanary> {
    const { cache, usage } = this.#parts;
    const identity = await identify(cache, call, asked.parent);
    const canaryId = asked.id || `c${randomUUID().replaceAll('-', '')}`;
    for (let attempt = 1; ; attempt++) {
      const primary = await findPrimary(cache, asked.parent);
      try {
        // Before the entry is written, which is with the row.
        noteKeyVersion(call, asked.parent, primary);
        const made = await this.#make(call, { ...asked, id: canaryId }, identity, primary);
        usage.encrypted(call, asked.parent, primary);
        return made;
      } catch (error) {
        const rotated = error instanceof KeywardError && error.reason === 'CONFLICT';
        if (!rotated || attempt === TRIES) throw error;
        cache.forget(identity.tenantId, identity.keyId);
      }
    }
  }

  /** Throws RESOURCE_NOT_FOUND. */
  get(name: CanaryName): Canary {
    const found = this.#parts.canaries
      .canariesOf(name.tenant)
      .find(({ row }) => row.canaryId === name.canary);
    if (found === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
    return found;
  }

  /** Lists a tenant's canaries by name. */
  list({ tenant }: TenantName, request: ListRequest): Promise<Page<Canary>> {
    const named = this.#parts.canaries
      .canariesOf(tenant)
      .map((canary) => ({ name: canary.row.canaryId, canary }));
    return pageOf(`canaries ${tenant}`, request, named, ({ canary }) => canary);
  }

  /**
   * Deletes a canary, and with it the stored data key that was made for it. Throws
   * RESOURCE_NOT_FOUND, ETAG_MISMATCH, CANARIES_CORRUPT.
   */
  async delete(call: Call, name: CanaryName, etag: string): Promise<void> {
    const { cache, canaries } = this.#parts;
    const { tenantId } = await cache.tenant(name.tenant);
    const resource = formatCanaryName(name, name.canary);
    const known = canaries.canariesOf(name.tenant);
    await this.#change(call, tenantId, { resource }, async (tx, rows) => {
      const canary = rows.canaries.find(({ canaryId }) => canaryId === name.canary);
      if (canary === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
      requireEtag(etag, canary.uid);
      const dataKey = known.find(({ row }) => row.uid === canary.uid)?.content?.dataKey;
      if (dataKey !== undefined)
        await deleteDataKey(tx, tenantId, canary.keyId, {
          name: dataKey.name,
          dataKeyId: dataKey.id,
        });
      await deleteCanary(tx, tenantId, name.canary);
      return {
        result: undefined,
        rows: { ...rows, canaries: rows.canaries.filter((each) => each !== canary) },
        changed: { kind: 'canary', before: leafOf(canary) },
      };
    });
  }

  /**
   * Suspends a caller in the tenant; in `system`, everywhere. Throws RESOURCE_EXISTS where it is
   * suspended there, CANARIES_FULL, CANARIES_CORRUPT.
   */
  async suspend(call: Call, parent: TenantName, asked: NewSuspension): Promise<SuspensionRow> {
    const { tenantId } = await this.#parts.cache.tenant(parent.tenant);
    const suspensionId = `s${randomUUID().replaceAll('-', '')}`;
    const resource = formatSuspensionName(parent, suspensionId);
    return this.#change(call, tenantId, { resource }, async (tx, rows, now) => {
      const { suspensions: ofService } = this.#parts.canaries.count;
      requireRoom(rows.suspensions.length, ofService);
      const suspension: SuspensionRow = {
        tenantId,
        suspensionId,
        caller: asked.caller,
        canaryId: asked.canaryId ?? '',
        requestId: asked.requestId ?? '',
        description: asked.description,
        createdAt: now,
        creator: call.caller,
      };
      await insertSuspension(tx, suspension);
      return {
        result: suspension,
        rows: { ...rows, suspensions: [...rows.suspensions, suspension] },
        changed: { kind: 'suspension', after: suspensionLeaf(suspension) },
      };
    });
  }

  /**
   * Suspends the caller that wanted a canary opened, as the service's own work. Throws as {@link
   * CanaryChanges.suspend}.
   */
  async suspendFor(
    { tenant, name, row }: Canary,
    { caller, requestId }: { readonly caller: string; readonly requestId: string },
  ): Promise<void> {
    const call = ownCall('SuspendCaller', OWN_CALL_MS);
    const description = `wanted ${name} opened`;
    const asked = { caller, description, canaryId: row.canaryId, requestId };
    await this.suspend(call, { tenant }, asked).catch((error: unknown) => {
      if (!(error instanceof KeywardError) || error.reason !== 'RESOURCE_EXISTS') throw error;
    });
  }

  /** Lists a tenant's suspensions by name. Throws RESOURCE_NOT_FOUND. */
  async listSuspensions(
    { tenant }: TenantName,
    request: ListRequest,
  ): Promise<Page<SuspensionRow>> {
    const { tenantId } = await this.#parts.cache.tenant(tenant);
    const named = this.#parts.canaries
      .suspensionsOf(tenantId)
      .map((suspension) => ({ name: suspension.suspensionId, suspension }));
    return pageOf(`suspensions ${tenant}`, request, named, ({ suspension }) => suspension);
  }

  /** Lifts a suspension. Throws RESOURCE_NOT_FOUND, CANARIES_CORRUPT. */
  async lift(call: Call, name: SuspensionName): Promise<void> {
    const { tenantId } = await this.#parts.cache.tenant(name.tenant);
    const resource = formatSuspensionName(name, name.suspension);
    await this.#change(call, tenantId, { resource }, async (tx, rows) => {
      const suspension = rows.suspensions.find(
        ({ suspensionId }) => suspensionId === name.suspension,
      );
      if (suspension === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
      await deleteSuspension(tx, tenantId, name.suspension);
      return {
        result: undefined,
        rows: { ...rows, suspensions: rows.suspensions.filter((each) => each !== suspension) },
        changed: { kind: 'suspension', before: suspensionLeaf(suspension) },
      };
    });
  }

  /** Throws CONFLICT when the key was rotated meanwhile. */
  async #make(
    call: Call,
    asked: NewCanary,
    { tenantId, keyId }: KeyIdentity,
    primary: LoadedVersion,
  ): Promise<MadeCanary> {
    const { agents, canaries, quotas, cache } = this.#parts;
    const { parent, id: canaryId, kind, suspends, description } = asked;
    const isStored = kind === 'storedDataKey';
    const dataKeyId = newId<DataKeyId>();
    const contextDigest = randomBytes(CONTEXT_DIGEST_BYTES);
    const subject = isStored ? idToBytes(dataKeyId) : NO_SUBJECT;
    const ciphertext = await this.#ciphertextOf(call, asked, primary, { subject, contextDigest });
    const dataKeyName = asked.dataKeyId || `dk-${newOrderedId(Date.now()).replaceAll('-', '')}`;
    const limit = quotas.of(await cache.tenant(parent.tenant), 'storedDataKeys');
    const uid = newId<AnyId>();
    const { version } = primary.record;
    const name = formatCanaryName(parent, canaryId);
    const mutation = { resource: name, ids: { keyId } };
    const made = await this.#change(call, tenantId, mutation, async (tx, rows, now) => {
      requireRoom(rows.canaries.length, canaries.count.canaries);
      if (rows.canaries.some((each) => each.canaryId === canaryId))
        throw new KeywardError('RESOURCE_EXISTS');
      if (isStored) {
        const row = { name: dataKeyName, dataKeyId, contextDigest, version, ciphertext };
        const inserted = await insertDataKey(tx, tenantId, keyId, row, limit);
        if (inserted === undefined) throw new KeywardError('CONFLICT');
        if (inserted === 'taken') throw new KeywardError('RESOURCE_EXISTS');
      }
      const content: CanaryContent = {
        kind,
        saltDigest: saltDigest(ciphertext),
        ...(isStored ? { dataKey: { name: dataKeyName, id: dataKeyId } } : {}),
        suspends,
        description,
        createdAt: now.getTime(),
        creator: call.caller,
      };
      const record = await sealRecord(agents, primary, uid, content, call.deadline);
      const row: CanaryRow = { tenantId, canaryId, uid, keyId, version, record };
      await insertCanary(tx, row);
      return {
        result: { row, tenant: parent.tenant, key: parent.key, name, content },
        rows: { ...rows, canaries: [...rows.canaries, row] },
        changed: { kind: 'canary', after: leafOf(row) },
      };
    });
    return { canary: made, ciphertext: isStored ? Buffer.alloc(0) : ciphertext };
  }

  async #ciphertextOf(
    { deadline }: Call,
    { kind, length }: NewCanary,
    { sealed: keyVersion }: LoadedVersion,
    binding: { readonly subject: Buffer; readonly contextDigest: Buffer },
  ): Promise<Buffer> {
    const { agents } = this.#parts;
    if (kind === 'payload') {
      const plaintext = randomBytes(length);
      const request = { keyVersion, purpose: PURPOSE.payload, ...binding, plaintext };
      return Buffer.from((await agents.call('seal', request, deadline)).ciphertext);
    }
    const purpose = PURPOSE[kind];
    const request = { keyVersion, purpose, ...binding, length, reveal: 0 };
    return Buffer.from((await agents.call('issueDataKey', request, deadline)).ciphertext);
  }

  /**
   * One change: all locked, the seal and the tenant's rows verified, changed, sealed, announced.
   */
  async #change<T>(
    call: Call,
    tenantId: TenantId,
    mutation: Pick<Mutation, 'resource' | 'ids'>,
    apply: (tx: Tx, rows: CanaryRows, now: Date) => Promise<RowsChange<T>>,
  ): Promise<T> {
    const { store, canaries, systemTenantId } = this.#parts;
    const change = { kind: 'canaries', subjectId: systemTenantId } as const;
    const result = await store.mutate(call, { tenantId, ...mutation, change }, async (tx) => {
      const { newest } = canaries;
      const { sealed, now, ...before } = await lockCanaries(tx);
      await canaries.requireSealed(sealed, newest, call.deadline);
      const { revision = 0n, digests = {} } = sealed ?? {};
      if (digestOf(before) !== digests[tenantId])
        throw canaries.corrupt(`rows of the tenant ${tenantId} are not as they were sealed`);
      const { result: made, rows, changed } = await apply(tx, before, now);
      const { [tenantId]: _, ...others } = digests;
      const digest = digestOf(rows);
      const after = {
        revision: revision + 1n,
        digests: digest === undefined ? others : { ...others, [tenantId]: digest },
      };
      await this.#seal(tx, call, after);
      tx.changed({ ...changed, canaryRevision: `${after.revision}` });
      return made;
    });
    // It is done, whether or not this replica can read it at once.
    await canaries.reload().catch(() => canaries.forget());
    return result;
  }

  async #seal(
    tx: Tx,
    { deadline }: Call,
    after: { readonly revision: bigint; readonly digests: Readonly<Record<string, string>> },
  ): Promise<void> {
    const sealKeyId = this.#parts.tokenObjects.currentSealKey();
    const request = { sealKeyId, kind: RECORD.canaries, contents: [canaryContent(after)] };
    const { seals } = await this.#parts.agents.call('sealRecords', request, deadline);
    if (seals[0] === undefined) throw new Error('an agent sealed nothing');
    await writeCanarySeal(tx, { ...after, sealKeyId, seal: Buffer.from(seals[0]) });
  }
}

/** Throws CANARIES_FULL. */
function requireRoom(ofTenant: number, ofService: number): void {
  if (ofTenant >= MAX_OF_TENANT || ofService >= MAX_OF_SERVICE)
    throw new KeywardError('CANARIES_FULL');
}

/** What an entry says of a canary: nothing that tells which ciphertext it is. */
function leafOf({ uid, record }: CanaryRow): object {
  return { uid, recordDigest: hash('sha256', record, 'base64') };
}

function suspensionLeaf({ caller, canaryId, requestId }: SuspensionRow): object {
  return { caller, ...(canaryId === '' ? {} : { canary: canaryId, requestId }) };
}

async function pageOf<Row extends { readonly name: string }, T>(
  list: string,
  request: ListRequest,
  rows: readonly Row[],
  of: (row: Row) => T,
): Promise<Page<T>> {
  const { items, nextPageToken } = await readPage(
    list,
    request,
    BY_NAME,
    async ({ after = '', limit }) => rows.filter(({ name }) => name > after).slice(0, limit),
  );
  return { items: items.map(of), nextPageToken };
}
