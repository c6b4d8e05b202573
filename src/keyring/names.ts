/**
 * Resource names: `tenants/{tenant}`, `tenants/{tenant}/keys/{key}`, `…/versions/{version}`.
 *
 * Owns their grammar; a name that parses formats back to the same text. Knows no request and no row.
 */

/** The last part of a tenant's or a key's name. */
export const ID_PATTERN = /^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$/;
/** What {@link ID_PATTERN} asks for, in words for a caller. */
export const ID_RULE = 'must match [a-z]([a-z0-9-]{0,61}[a-z0-9])?';
const MAX_VERSION = 2_147_483_647;
/** The tenant that the service itself belongs to; it has no keys. */
export const SYSTEM_TENANT = 'system';

/** `tenants/{tenant}` */
export interface TenantName {
  readonly tenant: string;
}

/** `tenants/{tenant}/keys/{key}` */
export interface KeyName extends TenantName {
  readonly key: string;
}

/** `tenants/{tenant}/keys/{key}/versions/{version}` */
export interface KeyVersionName extends KeyName {
  readonly version: number;
}

/** The parts of a tenant's name, or undefined for what isn't one. */
export function parseTenantName(name: string): TenantName | undefined {
  const [collection, tenant, ...rest] = name.split('/');
  if (collection !== 'tenants' || tenant === undefined || rest.length > 0) return undefined;
  return ID_PATTERN.test(tenant) ? { tenant } : undefined;
}

/** The parts of a key's name, or undefined for what isn't one. */
export function parseKeyName(name: string): KeyName | undefined {
  const [tenants, tenant, keys, key, ...rest] = name.split('/');
  if (
    tenants !== 'tenants' ||
    keys !== 'keys' ||
    tenant === undefined ||
    key === undefined ||
    rest.length > 0
  ) {
    return undefined;
  }
  return ID_PATTERN.test(tenant) && ID_PATTERN.test(key) ? { tenant, key } : undefined;
}

/** A version's number, 1 to 2^31 − 1, or undefined for what isn't one. */
export function parseVersion(digits: string): number | undefined {
  const version = /^[1-9][0-9]{0,9}$/.test(digits) ? Number(digits) : 0;
  return version >= 1 && version <= MAX_VERSION ? version : undefined;
}

/** The parts of a key version's name, or undefined for what isn't one. */
export function parseKeyVersionName(name: string): KeyVersionName | undefined {
  const [, keyName = '', digits = ''] = /^(.*)\/versions\/([^/]*)$/.exec(name) ?? [];
  const key = parseKeyName(keyName);
  const version = parseVersion(digits);
  return key !== undefined && version !== undefined ? { ...key, version } : undefined;
}

export function formatTenantName({ tenant }: TenantName): string {
  return `tenants/${tenant}`;
}

export function formatKeyName({ tenant, key }: KeyName): string {
  return `tenants/${tenant}/keys/${key}`;
}

export function formatKeyVersionName(name: KeyName, version: number): string {
  return `${formatKeyName(name)}/versions/${version}`;
}
