/**
 * Tenants: made, looked at, switched off and on, given quotas.
 *
 * Knows their rows' meaning; that everything of a disabled tenant stops is seen to where it is
 * used.
 */
import type { Call } from '../../call.ts';
import { invalidField, KeywardError } from '../../errors.ts';
import { newId, type TenantId } from '../../ids.ts';
import { formatTenantName, SYSTEM_TENANT, type TenantName } from '../../names.ts';
import type { Tx } from '../../store/core/transaction.ts';
import type { Mutation, Store } from '../../store/store.ts';
import {
  findTenantByName,
  insertTenant,
  listTenants,
  lockTenant,
  type Quotas,
  setTenantQuotas,
  setTenantState,
  type TenantRecord,
} from '../../store/tenants/tenants.ts';
import type { TokenKeys } from '../hsm-token/token-keys.ts';
import type { KeyCache } from '../keys/key-cache.ts';
import { requireEtag } from '../own-calls.ts';
import { BY_NAME, type ListRequest, type Page, readPage } from '../pages.ts';

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

/** What {@link Tenants} stands on. */
export interface TenantsParts {
  readonly store: Store;
  readonly cache: KeyCache;
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
    const tenantId = newId<TenantId>();
    const created = await this.#parts.store.mutate(
      call,
      { ...tenantMutation(tenantId, name), tenantId: this.#parts.systemTenantId },
      (tx) => insertTenant(tx, { tenantId, name: name.tenant, dedicatedRootKey }),
      { reference: { tenantId }, rebuild: expectTenant },
    );
    if (dedicatedRootKey) await this.#tokenKeys.add(call, created);
    return created;
  }

  /** Throws RESOURCE_NOT_FOUND. */
  async get(call: Call, name: TenantName): Promise<TenantRecord> {
    const tenant = await findTenantByName(this.#parts.store, call, name.tenant);
    if (tenant === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
    return tenant;
  }

  /** Tenants by name. */
  list(call: Call, request: ListRequest): Promise<Page<TenantRecord>> {
    return readPage('tenants', request, BY_NAME, (page) =>
      listTenants(this.#parts.store, call, page),
    );
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
    return this.#change(call, name, etag, async (tx, tenant) =>
      tenant.state === state ? tenant : setTenantState(tx, tenant.tenantId, state),
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
    return this.#change(call, name, etag, (tx, tenant) =>
      setTenantQuotas(tx, tenant.tenantId, { ...tenant.quotas, ...quotas }),
    );
  }

  /**
   * One change to a tenant of which the etag is known: locked meanwhile, announced, forgotten here.
   */
  async #change(
    call: Call,
    name: TenantName,
    etag: string,
    apply: (tx: Tx, tenant: TenantRecord) => Promise<TenantRecord>,
  ): Promise<TenantRecord> {
    const { tenantId } = await this.get(call, name);
    const changed = await this.#parts.store.mutate(
      call,
      tenantMutation(tenantId, name),
      async (tx) => {
        const tenant = await expectTenant(tx, { tenantId });
        requireEtag(etag, tenant.revision);
        requireTenantKept(tenant);
        return apply(tx, tenant);
      },
      { reference: { tenantId }, rebuild: expectTenant },
    );
    this.#parts.cache.forgetTenants();
    return changed;
  }
}

async function expectTenant(
  tx: Tx,
  { tenantId }: Readonly<Record<string, unknown>>,
): Promise<TenantRecord> {
  const tenant = await lockTenant(tx, tenantId as TenantId);
  if (tenant === undefined) throw new Error('a tenant that was there is gone');
  return tenant;
}
