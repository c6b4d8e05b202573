/**
 * Tenants: made, looked at, switched off and on.
 *
 * Knows their rows' meaning; that everything of a disabled tenant stops is seen to where it is used.
 */
import type { Call } from '../call.ts';
import { KeywardError } from '../errors.ts';
import { newId, type TenantId } from '../ids.ts';
import type { Store, Tx } from '../store/store.ts';
import {
  findTenantByName,
  insertTenant,
  listTenants,
  lockTenant,
  setTenantState,
  type TenantRecord,
  type TenantState,
} from '../store/tenants.ts';
import type { KeyCache } from './key-cache.ts';
import type { KeyringParts, ListRequest } from './keyring.ts';
import { requireEtag } from './mutations.ts';
import { formatTenantName, type TenantName } from './names.ts';
import { BY_NAME, type Page, readPage } from './page-token.ts';

/** See this file's first paragraph. */
export class Tenants {
  readonly #store: Store;
  readonly #cache: KeyCache;
  readonly #systemTenantId: TenantId;

  constructor({ store, cache, systemTenantId }: Pick<KeyringParts, 'store' | 'cache' | 'systemTenantId'>) {
    this.#store = store;
    this.#cache = cache;
    this.#systemTenantId = systemTenantId;
  }

  /** Throws RESOURCE_EXISTS. */
  create(call: Call, name: TenantName): Promise<TenantRecord> {
    const tenantId = newId<TenantId>();
    const mutation = {
      tenantId: this.#systemTenantId,
      resource: formatTenantName(name),
      change: { kind: 'tenant', subjectId: tenantId },
    } as const;
    return this.#store.mutate(call, mutation, (tx) => insertTenant(tx, { tenantId, name: name.tenant }), {
      reference: { tenantId },
      rebuild: expectTenant,
    });
  }

  /** Throws RESOURCE_NOT_FOUND. */
  async get(call: Call, name: TenantName): Promise<TenantRecord> {
    const tenant = await findTenantByName(this.#store, call, name.tenant);
    if (tenant === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
    return tenant;
  }

  /** Tenants by name. */
  list(call: Call, request: ListRequest): Promise<Page<TenantRecord>> {
    return readPage('tenants', request, BY_NAME, (page) => listTenants(this.#store, call, page));
  }

  /** Throws RESOURCE_NOT_FOUND, ETAG_MISMATCH. Setting the state that it has changes nothing. */
  async setState(call: Call, name: TenantName, etag: string, state: TenantState): Promise<TenantRecord> {
    const { tenantId } = await this.get(call, name);
    const mutation = {
      tenantId,
      resource: formatTenantName(name),
      change: { kind: 'tenant', subjectId: tenantId },
    } as const;
    const changed = await this.#store.mutate(
      call,
      mutation,
      async (tx) => {
        const tenant = await expectTenant(tx, { tenantId });
        requireEtag(etag, tenant.revision);
        return tenant.state === state ? tenant : setTenantState(tx, tenantId, state);
      },
      { reference: { tenantId }, rebuild: expectTenant },
    );
    this.#cache.forgetTenants();
    return changed;
  }
}

async function expectTenant(tx: Tx, { tenantId }: Readonly<Record<string, unknown>>): Promise<TenantRecord> {
  const tenant = await lockTenant(tx, tenantId as TenantId);
  if (tenant === undefined) throw new Error('a tenant that was there is gone');
  return tenant;
}
