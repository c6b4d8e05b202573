/**
 * Lists the permissions and the predefined roles.
 *
 * - docs/access.md shows both lists, and a test compares them.
 * - The permission of a method is in its row in `operations/`.
 * - No predefined role can both administer keys and use them.
 */

interface PermissionRow {
  /**
   * Which side of the separation of duties it is on: it changes how keys stand, or uses what they
   * protect.
   */
  readonly duty?: 'administer' | 'use';
  /** Beyond any one tenant's say: allowed by no binding but one of the tenant `system`. */
  readonly ofSystem?: true;
  /**
   * A tenant's own to give; but what it is about in `system` is all tenants': jobs there re-wrap
   * everything, and who is suspended there is suspended everywhere.
   */
  readonly ofAllInSystem?: true;
  /**
   * Destroys something, changes who may do what, or takes a protection away: what approval rules
   * can make wait for others, and all of which rules concern that name nothing.
   */
  readonly dangerous?: true;
}

const ADMINISTER = { duty: 'administer' } as const;
const USE = { duty: 'use' } as const;
const OF_SYSTEM = { ofSystem: true } as const;
const OF_ALL_IN_SYSTEM = { ofAllInSystem: true } as const;
const DANGEROUS = { dangerous: true } as const;

/** Every permission; one or more methods need each. */
export const PERMISSIONS = {
  'data.encrypt': USE,
  'data.decrypt': USE,
  'data.reEncryptFrom': USE,
  'data.reEncryptTo': USE,
  'dataKeys.generate': USE,
  'dataKeys.generateWithoutPlaintext': USE,
  'dataKeys.create': USE,
  'dataKeys.get': USE,
  'dataKeys.list': {},
  'dataKeys.delete': { ...ADMINISTER, ...DANGEROUS },
  'random.generate': {},
  'keys.create': ADMINISTER,
  'keys.get': {},
  'keys.list': {},
  'keys.update': ADMINISTER,
  'keys.rotate': ADMINISTER,
  'keys.disable': ADMINISTER,
  'keys.enable': ADMINISTER,
  'keys.destroy': { ...ADMINISTER, ...DANGEROUS },
  'keys.restore': { ...ADMINISTER, ...DANGEROUS },
  'keyVersions.get': {},
  'keyVersions.list': {},
  'keyVersions.disable': ADMINISTER,
  'keyVersions.enable': ADMINISTER,
  'keyVersions.destroy': { ...ADMINISTER, ...DANGEROUS },
  'keyVersions.restore': { ...ADMINISTER, ...DANGEROUS },
  'rotations.list': {},
  'rewrapJobs.create': { ...ADMINISTER, ...OF_ALL_IN_SYSTEM },
  'rewrapJobs.get': OF_ALL_IN_SYSTEM,
  'rewrapJobs.list': OF_ALL_IN_SYSTEM,
  'rewrapJobs.cancel': { ...ADMINISTER, ...OF_ALL_IN_SYSTEM },
  'roleBindings.create': DANGEROUS,
  'roleBindings.createForAllTenants': OF_SYSTEM,
  'roleBindings.get': {},
  'roleBindings.list': {},
  'roleBindings.delete': DANGEROUS,
  'roles.create': DANGEROUS,
  'roles.get': {},
  'roles.list': {},
  'roles.delete': DANGEROUS,
  'access.explain': {},
  'approvalRules.get': {},
  'approvalRules.update': DANGEROUS,
  'approvalRules.updateForAllTenants': OF_SYSTEM,
  'passkeys.create': DANGEROUS,
  'passkeys.list': OF_SYSTEM,
  'passkeys.delete': { ...OF_SYSTEM, ...DANGEROUS },
  'operations.list': {},
  'operations.approve': {},
  'canaries.create': {},
  'canaries.get': {},
  'canaries.list': {},
  'canaries.delete': DANGEROUS,
  'suspensions.create': OF_ALL_IN_SYSTEM,
  'suspensions.list': {},
  'suspensions.delete': { ...OF_ALL_IN_SYSTEM, ...DANGEROUS },
  'auditEntries.list': {},
  'auditEntries.listForAllTenants': OF_SYSTEM,
  'auditLog.get': OF_SYSTEM,
  'auditLog.cosign': OF_SYSTEM,
  'tenants.create': OF_SYSTEM,
  'tenants.get': {},
  'tenants.list': OF_SYSTEM,
  'tenants.update': { ...OF_SYSTEM, ...DANGEROUS },
  'tenants.disable': { ...OF_SYSTEM, ...DANGEROUS },
  'tenants.enable': OF_SYSTEM,
  'tenants.shred': { ...OF_SYSTEM, ...DANGEROUS },
  'tenants.restore': { ...OF_SYSTEM, ...DANGEROUS },
  'maintenance.get': OF_SYSTEM,
  'maintenance.pause': { ...OF_SYSTEM, ...DANGEROUS },
  'maintenance.resume': OF_SYSTEM,
  'service.get': OF_SYSTEM,
  'tokenStatus.get': OF_SYSTEM,
  'alerts.list': OF_SYSTEM,
  'alerts.test': OF_SYSTEM,
  'alerts.silence': { ...OF_SYSTEM, ...DANGEROUS },
  'tokenKeys.rotateRoot': { ...OF_SYSTEM, ...DANGEROUS },
  'tokenKeys.rotateSeal': { ...OF_SYSTEM, ...DANGEROUS },
  'tokenKeys.get': OF_SYSTEM,
  'tokenKeys.list': OF_SYSTEM,
} as const satisfies Record<string, PermissionRow>;

export type Permission = keyof typeof PERMISSIONS;

/** Whether there is such a permission. */
export function isPermission(name: string): name is Permission {
  return Object.hasOwn(PERMISSIONS, name);
}

/** The duties that these permissions are part of. */
export function dutiesOf(permissions: Iterable<Permission>): ReadonlySet<'administer' | 'use'> {
  const rows: PermissionRow[] = [...permissions].map((name) => PERMISSIONS[name]);
  return new Set(rows.flatMap(({ duty }) => (duty === undefined ? [] : [duty])));
}

/** Whether no binding but one of the tenant `system` allows it. */
export function isOfSystem(permission: Permission): boolean {
  const row: PermissionRow = PERMISSIONS[permission];
  return row.ofSystem === true;
}

/**
 * Returns whether a binding in the tenant `system` that gives it reaches into other tenants, or
 * concerns the service.
 */
export function reachesTenants(permission: Permission): boolean {
  const { ofSystem, ofAllInSystem }: PermissionRow = PERMISSIONS[permission];
  return ofSystem === true || ofAllInSystem === true;
}

/** Returns whether approval rules can make calls wait that need it. */
export function isDangerous(permission: Permission): boolean {
  const row: PermissionRow = PERMISSIONS[permission];
  return row.dangerous === true;
}

interface RoleRow {
  /** For people, one sentence. */
  readonly description: string;
  readonly permissions: readonly Permission[];
}

const VIEW_KEYS = [
  'keys.get',
  'keys.list',
  'keyVersions.get',
  'keyVersions.list',
  'dataKeys.list',
  'rotations.list',
  'rewrapJobs.get',
  'rewrapJobs.list',
] as const satisfies readonly Permission[];

const VIEW_ACCESS = [
  'roleBindings.get',
  'roleBindings.list',
  'roles.get',
  'roles.list',
  'access.explain',
  'approvalRules.get',
  'operations.list',
  'tenants.get',
] as const satisfies readonly Permission[];

const ADMINISTER_ACCESS = [
  ...VIEW_ACCESS,
  'roleBindings.create',
  'roleBindings.delete',
  'roles.create',
  'roles.delete',
  'approvalRules.update',
  'passkeys.create',
] as const satisfies readonly Permission[];

const VIEW_SYSTEM = [
  'alerts.list',
  'passkeys.list',
  'tenants.list',
  'maintenance.get',
  'service.get',
  'tokenStatus.get',
  'tokenKeys.get',
  'tokenKeys.list',
] as const satisfies readonly Permission[];

/** Lists the predefined roles, by the last part of their names. */
export const PREDEFINED_ROLES = {
  encrypter: {
    description: 'Encrypts under a key, and re-encrypts to it.',
    permissions: ['data.encrypt', 'data.reEncryptTo', 'random.generate'],
  },
  decrypter: {
    description: 'Decrypts under a key, opens its stored data keys, and re-encrypts from it.',
    permissions: ['data.decrypt', 'data.reEncryptFrom', 'dataKeys.get'],
  },
  dataKeyIssuer: {
    description: 'Issues and stores data keys under a key.',
    permissions: [
      'dataKeys.generate',
      'dataKeys.generateWithoutPlaintext',
      'dataKeys.create',
      'random.generate',
    ],
  },
  keyViewer: {
    description:
      'Reads keys, their versions, data keys, rotations and jobs; uses and changes none.',
    permissions: VIEW_KEYS,
  },
  keyAdmin: {
    description: 'Creates, rotates, disables and destroys keys; uses none.',
    permissions: [
      ...VIEW_KEYS,
      'keys.create',
      'keys.update',
      'keys.rotate',
      'keys.disable',
      'keys.enable',
      'keys.destroy',
      'keys.restore',
      'keyVersions.disable',
      'keyVersions.enable',
      'keyVersions.destroy',
      'keyVersions.restore',
      'dataKeys.delete',
      'rewrapJobs.create',
      'rewrapJobs.cancel',
      'passkeys.create',
      'operations.list',
    ],
  },
  tenantAdmin: {
    description: 'Manages access in a tenant; neither administers nor uses its keys.',
    permissions: ADMINISTER_ACCESS,
  },
  securityAdmin: {
    description:
      'Lays canaries, suspends callers and lifts that; neither administers nor uses keys.',
    permissions: [
      'keys.get',
      'keys.list',
      'canaries.create',
      'canaries.get',
      'canaries.list',
      'canaries.delete',
      'suspensions.create',
      'suspensions.list',
      'suspensions.delete',
      'operations.list',
    ],
  },
  approver: {
    description:
      'Approves or rejects what others ask for, and sees the keys and the tenant that it is about.',
    permissions: [
      'operations.list',
      'operations.approve',
      'keys.get',
      'keys.list',
      'tenants.get',
      'passkeys.create',
    ],
  },
  auditor: {
    description:
      'Reads everything but data: keys, access, and in `tenants/system` the service itself.',
    permissions: [
      ...VIEW_KEYS,
      ...VIEW_ACCESS,
      ...VIEW_SYSTEM,
      'suspensions.list',
      'auditEntries.list',
      'auditEntries.listForAllTenants',
      'auditLog.get',
    ],
  },
  rootAdmin: {
    description:
      'Creates, disables and shreds tenants, rotates root keys, and manages access everywhere.',
    permissions: [
      ...ADMINISTER_ACCESS,
      ...VIEW_SYSTEM,
      'roleBindings.createForAllTenants',
      'approvalRules.updateForAllTenants',
      'auditLog.cosign',
      'tenants.create',
      'tenants.update',
      'tenants.disable',
      'tenants.enable',
      'tenants.shred',
      'tenants.restore',
      'maintenance.pause',
      'maintenance.resume',
      'alerts.test',
      'alerts.silence',
      'tokenKeys.rotateRoot',
      'tokenKeys.rotateSeal',
      'passkeys.delete',
    ],
  },
} as const satisfies Record<string, RoleRow>;
