/**
 * Completes resource names that people type in full, or by the last part where the rest is known.
 *
 * - It rejects contradictions; the service decides which letters a name may have.
 */
import { UsageError } from './failures.ts';

/** Names the tenant of what tenants share. */
export const SHARED = 'tenants/system';

/** The tenant of names that are not full. */
export interface Tenant {
  readonly name: string;
  /** Whether it is of this command alone, so that a full name of another tenant contradicts it. */
  readonly isGiven: boolean;
}

/** Returns `tenants/acme` for `acme` or `tenants/acme`. */
export function tenantName(given: string): string {
  const name = given.includes('/') ? given : `tenants/${given}`;
  if (!/^tenants\/[^/]+$/.test(name)) {
    throw new UsageError(`cannot use ${given}: it is not a tenant; write acme or tenants/acme`);
  }
  return name;
}

/**
 * Returns the tenant of a list, which the argument or `--tenant` names. Throws UsageError with
 * `question` for neither.
 */
export function oneTenant(
  given: string | undefined,
  tenant: Tenant | undefined,
  question: string,
): string {
  const whose = given ?? tenant?.name;
  if (whose === undefined) throw new UsageError(question);
  if (given === 'list')
    throw new UsageError(
      'cannot use list: it is not a tenant, and this command lists without it; leave it out, or ' +
        'write tenants/list for the tenant of that name',
    );
  const name = tenantName(whose);
  if (tenant?.isGiven && tenantName(tenant.name) !== name) {
    throw new UsageError(`cannot use both ${given} and --tenant ${tenant.name}: name one tenant`);
  }
  return name;
}

/**
 * Returns the tenant, if it is an argument, and the argument after it. With `--tenant` the only
 * argument is the latter.
 */
export function afterTenant(
  [first, second]: readonly (string | undefined)[],
  tenant: Tenant | undefined,
): readonly [whose: string | undefined, what: string | undefined] {
  return tenant?.isGiven && second === undefined ? [undefined, first] : [first, second];
}

/** Returns `tenants/acme/keys/orders` for the same, or for `orders` and the tenant. */
export function keyName(given: string, tenant: Tenant | undefined): string {
  return tenantsName(given, tenant, { what: 'key', collection: 'keys', example: 'orders' });
}

/** Returns `tenants/acme/rewrapJobs/…` for the same, or for its last part and the tenant. */
export function jobName(given: string, tenant: Tenant | undefined): string {
  return uuidName(given, tenant, {
    what: 'job',
    collection: 'rewrapJobs',
    listedBy: 'keyward jobs list',
  });
}

/**
 * Returns `tenants/acme/tokenKeys/…` for the same, or for its last part and the tenant; without a
 * tenant, a key that tenants share.
 */
export function tokenKeyName(given: string, tenant: Tenant | undefined): string {
  const own = tenant?.isGiven ? tenant : { name: SHARED, isGiven: true };
  const whose = given.includes('/') ? tenant : own;
  return tenantsName(given, whose, { what: 'token key', collection: 'tokenKeys', example: '…' });
}

/** Returns `tenants/acme/roleBindings/…` for the same, or for its last part and the tenant. */
export function roleBindingName(given: string, tenant: Tenant | undefined): string {
  return tenantsName(given, tenant, {
    what: 'role binding',
    collection: 'roleBindings',
    example: '…',
  });
}

/** Returns `tenants/acme/roles/opener` for the same, or for `opener` and the tenant. */
export function ownRoleName(given: string, tenant: Tenant | undefined): string {
  if (given.startsWith('roles/')) {
    throw new UsageError(
      `cannot use ${given}: it is a predefined role; "keyward access roles acme" shows it`,
    );
  }
  return tenantsName(given, tenant, { what: 'role', collection: 'roles', example: 'opener' });
}

/** Returns `tenants/acme/canaries/…` for the same, or for its last part and the tenant. */
export function canaryName(given: string, tenant: Tenant | undefined): string {
  return tenantsName(given, tenant, { what: 'canary', collection: 'canaries', example: '…' });
}

/** Returns `tenants/acme/suspensions/…` for the same, or for its last part and the tenant. */
export function suspensionName(given: string, tenant: Tenant | undefined): string {
  return tenantsName(given, tenant, {
    what: 'suspension',
    collection: 'suspensions',
    example: '…',
  });
}

/** Returns `tenants/acme/pendingOperations/…` for the same, or for its last part and the tenant. */
export function operationName(given: string, tenant: Tenant | undefined): string {
  return uuidName(given, tenant, {
    what: 'pending operation',
    collection: 'pendingOperations',
    listedBy: 'keyward approvals list',
  });
}

/** Returns `passkeys/…` for the same, or for its last part. */
export function passkeyName(given: string): string {
  return given.includes('/') ? given : `passkeys/${given}`;
}

/**
 * Returns `roles/decrypter` for the same or for `decrypter`, and `tenants/acme/roles/opener` for
 * the same.
 */
export function roleName(given: string): string {
  return given.includes('/') ? given : `roles/${given}`;
}

/**
 * Returns `tenants/acme/keys/orders/versions/3` for the same, or for `orders/versions/3` and the
 * tenant.
 */
export function keyVersionName(given: string, tenant: Tenant | undefined): string {
  return keysName(given, tenant, { what: 'version', collection: 'versions', example: '3' });
}

/**
 * Returns `tenants/acme/keys/orders/dataKeys/db` for the same, or for `orders/dataKeys/db` and the
 * tenant.
 */
export function dataKeyName(given: string, tenant: Tenant | undefined): string {
  return keysName(given, tenant, {
    what: 'stored data key',
    collection: 'dataKeys',
    example: 'db',
  });
}

/**
 * Returns the scope of a job or a question: a key, a tenant, or all tenants, which is `-`. With a
 * tenant, an id is a key's.
 */
export function scopeName(given: string, tenant: Tenant | undefined): string {
  const key = tenant?.isGiven || given.includes('/keys/');
  return key ? keyName(given, tenant) : tenantName(given);
}

interface Kind {
  readonly what: string;
  readonly collection: string;
  readonly example: string;
}

/** Returns the name of a resource of a tenant that the service has named by a UUID. */
function uuidName(
  given: string,
  tenant: Tenant | undefined,
  { listedBy, ...kind }: Omit<Kind, 'example'> & { readonly listedBy: string },
): string {
  const name = tenantsName(given, tenant, { ...kind, example: '…' });
  requireUuid(lastPart(name), { given, what: kind.what, listedBy });
  return name;
}

/** Throws UsageError for what no name of that kind ends in. */
function requireUuid(
  id: string,
  { given, what, listedBy }: Readonly<Record<'given' | 'what' | 'listedBy', string>>,
): void {
  if (/^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/.test(id)) return;
  throw new UsageError(
    `cannot use ${given}: it is not a ${what}, whose name ends in a UUID; "${listedBy}" shows them`,
  );
}

/** Returns `alertSilences/…` for the same, or for its last part. */
export function alertSilenceName(given: string): string {
  const name = given.includes('/') ? given : `alertSilences/${given}`;
  requireUuid(lastPart(name), { given, what: 'silence', listedBy: 'keyward alerts silences' });
  return name;
}

/** Returns the name of a resource of a tenant. */
function tenantsName(
  given: string,
  tenant: Tenant | undefined,
  { what, collection, example }: Kind,
): string {
  const parent = tenant === undefined ? undefined : tenantName(tenant.name);
  if (!given.includes('/') && given !== '') {
    if (parent === undefined) {
      throw new UsageError(
        `cannot find the ${what} ${given}: its tenant is missing; write ` +
          `tenants/…/${collection}/${given}, or give --tenant`,
      );
    }
    return `${parent}/${collection}/${given}`;
  }
  if (!new RegExp(`^tenants/[^/]+/${collection}/[^/]+$`).test(given)) {
    throw new UsageError(
      `cannot use ${given}: it is not a ${what}; write ` +
        `tenants/acme/${collection}/${example}, or ${example} with --tenant acme`,
    );
  }
  if (tenant?.isGiven && parentOf(given) !== parent) {
    throw new UsageError(
      `cannot use ${given}: it is not a ${what} of ${parent}, which --tenant names`,
    );
  }
  return given;
}

/** Returns the name of a resource of a key. */
function keysName(
  given: string,
  tenant: Tenant | undefined,
  { what, collection, example }: Kind,
): string {
  const [, key, id] = new RegExp(`^(.*)/${collection}/([^/]+)$`, 's').exec(given) ?? [];
  if (key === undefined) {
    const short = `orders/${collection}/${example}`;
    throw new UsageError(
      `cannot use ${given}: it is not a ${what}; write tenants/acme/keys/${short}, or ` +
        `${short} with --tenant acme`,
    );
  }
  return `${keyName(key, tenant)}/${collection}/${id}`;
}

/** Returns `tenants/acme` for `tenants/acme/keys/orders`. */
export function parentOf(key: string): string {
  return key.split('/').slice(0, 2).join('/');
}

/** Returns `orders` for `tenants/acme/keys/orders`. */
export function lastPart(name: string): string {
  return name.slice(name.lastIndexOf('/') + 1);
}
