/**
 * Resource names as people type them: in full, or by the last part where the rest is known.
 *
 * Completes names and notices contradictions; which letters a name may have is the service's to say.
 */
import { UsageError } from './failures.ts';

/** `tenants/acme` of `acme` or `tenants/acme`. */
export function tenantName(given: string): string {
  const name = given.includes('/') ? given : `tenants/${given}`;
  if (!/^tenants\/[^/]+$/.test(name)) {
    throw new UsageError(`${given} is not a tenant: write acme or tenants/acme`);
  }
  return name;
}

/** `tenants/acme/keys/orders` of the same, or of `orders` and the tenant. */
export function keyName(given: string, tenant: string | undefined): string {
  const parent = tenant === undefined ? undefined : tenantName(tenant);
  if (!given.includes('/') && given !== '') {
    if (parent === undefined) {
      throw new UsageError(
        `which tenant's key is ${given}? Write tenants/…/keys/${given}, or give --tenant as well`,
      );
    }
    return `${parent}/keys/${given}`;
  }
  if (!/^tenants\/[^/]+\/keys\/[^/]+$/.test(given)) {
    throw new UsageError(
      `${given} is not a key: write tenants/acme/keys/orders, or orders with --tenant acme`,
    );
  }
  if (parent !== undefined && parentOf(given) !== parent) {
    throw new UsageError(`${given} is not a key of ${parent}`);
  }
  return given;
}

/** `tenants/acme/keys/orders/versions/3` of the same, or of `orders/versions/3` and the tenant. */
export function keyVersionName(given: string, tenant: string | undefined): string {
  const [, key, version] = /^(.*)\/versions\/([^/]+)$/s.exec(given) ?? [];
  if (key === undefined) {
    throw new UsageError(
      `${given} is not a version: write tenants/acme/keys/orders/versions/3, or orders/versions/3 with --tenant acme`,
    );
  }
  return `${keyName(key, tenant)}/versions/${version}`;
}

/** `tenants/acme` of `tenants/acme/keys/orders`. */
export function parentOf(key: string): string {
  return key.split('/').slice(0, 2).join('/');
}

/** `orders` of `tenants/acme/keys/orders`. */
export function lastPart(name: string): string {
  return name.slice(name.lastIndexOf('/') + 1);
}
