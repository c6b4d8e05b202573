/**
 * Tenants: made, looked at, switched off and on, given quotas.
 *
 * Knows their rows' meaning; that everything of a disabled tenant stops is seen to where it is
 * used.
 */
import type { Call, Reference } from '../../call.ts';
import { invalidField, KeywardError } from '../../errors.ts';
import type { TenantId } from '../../ids.ts';
import { formatTenantName, SYSTEM_TENANT, type TenantName } from '../../names.ts';
import type { Condition } from '../../store/core/conditions.ts';
import type { Tx } from '../../store/core/transaction.ts';
import type { Mutation, Store } from '../../store/store.ts';
import { createTenant, type TenantChange } from '../../store/tenants/tenant-seals.ts';
import {
  findTenantByName,
  listTenants,
  type Quotas,
  selectTenants,
  type TenantRecord,
} from '../../store/tenants/tenants.ts';
import type { TokenKeys } from '../hsm-token/token-keys.ts';
import type { KeyCache } from '../keys/key-cache.ts';
import type { TenantSeals } from '../keys/tenant-seals.ts';
import { requireEtag } from '../own-calls.ts';
import { BY_NAME, type ListRequest, type Page, type PageQuery, readPage } from '../pages.ts';
import { changeRecorded, tenantChanged } from './tenant-content.ts';

/** So many are read and verified at once for a list. */
const LISTED = 200;

/** A change to a tenant, announced to all replicas. */
export function tenantMutation(tenantId: TenantId, name: TenantName): Mutation {
  return {
    tenantId,
    resource: formatTenantName(name),
    change: { kind: 'tenant', subjectId: tenantId },
  };
}

/** Throws DESTRUCTION_UNDER_WAY for a tenant that is to be shredded. */
export function requireTenantKept({ state }: Pick<TenantRecord, 'state'>): void {
  if (state === 'SHRED_SCHEDULED')
    throw new KeywardError('DESTRUCTION_UNDER_WAY', { metadata: { state } });
}

/** Returns the tenant as it is in this transaction. Throws RESOURCE_NOT_FOUND, TENANT_CORRUPT. */
export async function readTenant(
  tenantSeals: TenantSeals,
  { deadline }: Pick<Call, 'deadline'>,
  tx: Tx,
  tenantId: TenantId,
): Promise<TenantRecord> {
  const readAfter = tenantSeals.now();
  const [stored] = await selectTenants(tx.query, 'WHERE tenant_id = $1', [tenantId]);
  if (stored === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
  return tenantSeals.verifyOne(stored, { readAfter, deadline });
}

/** What {@link Tenants} stands on. */
export interface TenantsParts {
  readonly store: Store;
  readonly cache: KeyCache;
  readonly tenantSeals: TenantSeals;
  /** The reserved tenant, whose audit entries say what is done for the whole service. */
  readonly systemTenantId: TenantId;
}

/** Creates, reads, disables and enables tenants, and sets their quotas. */
export class Tenants {
  readonly #parts: TenantsParts;
  readonly #tokenKeys: Pick<TokenKeys, 'add'>;

  constructor(parts: TenantsParts, tokenKeys: Pick<TokenKeys, 'add'>) {
    this.#parts = parts;
    this.#tokenKeys = tokenKeys;
  }

  /**
   * With a root key of its own, returns when that is current, or shortly before the call's
   * deadline: until then its keys can't be made. Throws RESOURCE_EXISTS.
   */
  async create(
    call: Call,
    name: TenantName,
    { dedicatedRootKey }: Pick<TenantRecord, 'dedicatedRootKey'>,
  ): Promise<TenantRecord> {
    const { store, tenantSeals, systemTenantId } = this.#parts;
    const named = await tenantSeals.newTenant(call, name.tenant);
    const { tenantId } = named;
    const tenant = { tenantId, name: name.tenant, dedicatedRootKey };
    const created = await store.mutate(
      call,
      { ...tenantMutation(tenantId, name), tenantId: systemTenantId, ids: { tenantId } },
      async (tx) => {
        const made = await createTenant(tx, tenant, tenantSeals.sealer(call, named));
        tx.changed(tenantChanged(undefined, made));
        return made;
      },
      (content) => ({ answer: { content }, reference: { tenantId } }),
    );
    if (dedicatedRootKey) await this.#tokenKeys.add(call, created);
    return created;
  }

  /** Waits, as {@link Tenants.create} does, for the root key of a tenant that was made before. */
  async createAgain(
    call: Call,
    name: TenantName,
    { tenantId }: Reference,
    { dedicatedRootKey }: Pick<TenantRecord, 'dedicatedRootKey'>,
  ): Promise<undefined> {
    const tenant = { tenantId: tenantId as TenantId, name: name.tenant };
    if (dedicatedRootKey) await this.#tokenKeys.add(call, tenant);
  }

  /** The tenant as it is now. Throws RESOURCE_NOT_FOUND, TENANT_CORRUPT. */
  async get(call: Call, name: TenantName): Promise<TenantRecord> {
    const { store, tenantSeals } = this.#parts;
    const readAfter = tenantSeals.now();
    const stored = await findTenantByName(store, call, name.tenant);
    if (stored === undefined) tenantSeals.requireNeverSeen(name.tenant);
    const tenant =
      stored && (await tenantSeals.verifyOne(stored, { readAfter, deadline: call.deadline }));
    if (tenant === undefined || tenant.state === 'SHREDDED')
      throw new KeywardError('RESOURCE_NOT_FOUND');
    return tenant;
  }

  /** The tenant of that UUID, shredded or not. Throws RESOURCE_NOT_FOUND, TENANT_CORRUPT. */
  byId(tenantId: TenantId): Promise<TenantRecord> {
    return this.#parts.cache.tenantById(tenantId);
  }

  /** Tenants by name. Throws TENANT_CORRUPT where one on the way doesn't verify. */
  list(call: Call, request: ListRequest): Promise<Page<TenantRecord>> {
    return readPage('tenants', request, BY_NAME, (page) => this.#read(call, page));
  }

  /** Which of them are asked for, what is verified says: the database could hide some. */
  async #read(call: Call, { after, limit, conditions }: PageQuery): Promise<TenantRecord[]> {
    const { store, tenantSeals } = this.#parts;
    const found: TenantRecord[] = [];
    for (let from = after; ; ) {
      const readAfter = tenantSeals.now();
      const stored = await listTenants(store, call, { after: from, limit: LISTED });
      const tenants = await tenantSeals.verify(stored, { readAfter, deadline: call.deadline });
      found.push(...tenants.filter((tenant) => isListed(tenant, conditions)));
      if (stored.length < LISTED || found.length >= limit) return found.slice(0, limit);
      from = tenants.at(-1)?.name;
    }
  }

  /**
   * Throws RESOURCE_NOT_FOUND, ETAG_MISMATCH, DESTRUCTION_UNDER_WAY. Setting the state that it has
   * changes nothing.
   */
  setState(
    call: Call,
    name: TenantName,
    etag: string,
    state: 'ENABLED' | 'DISABLED',
  ): Promise<TenantRecord> {
    return this.#change(call, name, etag, (tenant) =>
      tenant.state === state ? undefined : { state, shredAt: null },
    );
  }

  /**
   * Changes what is given of a tenant's quotas; what it has beyond a lower one it keeps. Throws
   * RESOURCE_NOT_FOUND, ETAG_MISMATCH, DESTRUCTION_UNDER_WAY, and INVALID_FIELD for the reserved
   * tenant.
   */
  async setQuotas(
    call: Call,
    name: TenantName,
    etag: string,
    quotas: Partial<Quotas>,
  ): Promise<TenantRecord> {
    if (name.tenant === SYSTEM_TENANT)
      throw invalidField('tenant', 'must not be the reserved tenant, which has no quotas');
    return this.#change(call, name, etag, (tenant) => ({
      quotas: { ...tenant.quotas, ...quotas },
    }));
  }

  /**
   * One change to a tenant of which the etag is known: locked meanwhile, announced, forgotten here.
   */
  async #change(
    call: Call,
    name: TenantName,
    etag: string,
    decide: (tenant: TenantRecord) => TenantChange | undefined,
  ): Promise<TenantRecord> {
    const { store, cache, tenantSeals } = this.#parts;
    const { tenantId } = await this.get(call, name);
    const changed = await store.mutate(call, tenantMutation(tenantId, name), (tx) =>
      changeRecorded(tx, tenantId, tenantSeals.sealer(call), (tenant) => {
        requireEtag(etag, tenant.revision);
        requireTenantKept(tenant);
        return decide(tenant);
      }),
    );
    cache.forgetTenant(tenantId);
    return changed;
  }
}

function isListed({ state }: TenantRecord, conditions: readonly Condition[]): boolean {
  const holds = ({ field, operator, value }: Condition) => {
    if (field !== 'state') throw new Error(`a list has no column for ${field}`);
    return (state === value) === (operator === '=');
  };
  return state !== 'SHREDDED' && conditions.every(holds);
}
