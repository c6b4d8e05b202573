/**
 * What may be used: the states that keep a tenant, a key or a version from encrypting and
 * decrypting.
 *
 * Invariant: old versions decrypt, only the primary encrypts; nothing is used of which the tenant,
 * the key or the version is not enabled. Answers from memory, as fresh as the cache is.
 */
import { KeywardError } from '../../errors.ts';
import type { KeyName } from '../../names.ts';
import type { Quotas, TenantRecord } from '../../store/tenants/tenants.ts';
import type { KeyCache, LoadedKey, LoadedVersion } from './key-cache.ts';

/** Knows how much of something a tenant may have. */
export interface QuotaLimits {
  of(tenant: Pick<TenantRecord, 'name' | 'quotas'>, which: keyof Quotas): number;
}

/** Throws RESOURCE_NOT_FOUND, TENANT_DISABLED. */
export async function findEnabledTenant(cache: KeyCache, name: string): Promise<TenantRecord> {
  const tenant = await cache.tenant(name);
  requireTenantEnabled(tenant);
  return tenant;
}

/**
 * The version that encrypts. Throws RESOURCE_NOT_FOUND, or FAILED_PRECONDITION for what is not
 * enabled.
 */
export async function findPrimary(cache: KeyCache, name: KeyName): Promise<LoadedVersion> {
  requireTenantEnabled(await cache.tenant(name.tenant));
  const key = await cache.named(name);
  return requireUsable(key, key.primary);
}

/** Throws TENANT_DISABLED. */
export function requireTenantEnabled({ state }: Pick<TenantRecord, 'state'>): void {
  if (state !== 'ENABLED') throw new KeywardError('TENANT_DISABLED');
}

/** Throws KEY_NOT_ENABLED, KEY_VERSION_NOT_ENABLED. */
export function requireUsable(key: LoadedKey, version: LoadedVersion): LoadedVersion {
  const { name } = key.record;
  if (key.record.state !== 'ENABLED')
    throw new KeywardError('KEY_NOT_ENABLED', {
      metadata: { key: name, state: key.record.state },
    });
  const { state, version: number } = version.record;
  if (state === 'ENABLED') return version;
  throw new KeywardError('KEY_VERSION_NOT_ENABLED', {
    metadata: { key: name, state, version: String(number) },
  });
}
