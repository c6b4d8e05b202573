/**
 * Resource names: `tenants/{tenant}`, `tenants/{tenant}/keys/{key}`, `…/versions/{version}`,
 * `…/dataKeys/{data_key}`, `tenants/{tenant}/rewrapJobs/{job}`,
 * `tenants/{tenant}/tokenKeys/{uuid}`, `tenants/{tenant}/roleBindings/{role_binding}`,
 * `tenants/{tenant}/roles/{role}`, `tenants/{tenant}/canaries/{canary}`,
 * `tenants/{tenant}/suspensions/{suspension}`, `tenants/{tenant}/approvalRules`,
 * `tenants/{tenant}/pendingOperations/{uuid}`, `passkeys/{credential id}`.
 *
 * Owns their grammar; a name that parses formats back to the same text. Knows no request and no
 * row.
 */
import type { AnyId, JobId, OperationId } from './ids.ts';

/** The last part of a tenant's or a key's name. */
export const ID_PATTERN = /^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$/;
/** What {@link ID_PATTERN} asks for, in words for a caller. */
export const ID_RULE = 'must match [a-z]([a-z0-9-]{0,61}[a-z0-9])?';
/** The last part of a name, and the name of a key, that are as long as any. */
export const LONGEST_ID = 'k'.repeat(63);
export const LONGEST_KEY_NAME = `tenants/${LONGEST_ID}/keys/${LONGEST_ID}`;
/** The highest number that a version has. */
export const MAX_VERSION = 2_147_483_647;
/** The longest credential id that there is (WebAuthn Level 3, section 4). */
export const MAX_CREDENTIAL_ID_BYTES = 1_023;
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

/** `tenants/{tenant}/keys/{key}/dataKeys/{data_key}` */
export interface DataKeyName extends KeyName {
  readonly dataKey: string;
}

/** `tenants/{tenant}/rewrapJobs/{job}` */
export interface JobName extends TenantName {
  readonly job: JobId;
}

/** `tenants/{tenant}/tokenKeys/{uuid}` */
export interface TokenKeyName extends TenantName {
  readonly tokenKey: AnyId;
}

/** `tenants/{tenant}/roleBindings/{role_binding}` */
export interface RoleBindingName extends TenantName {
  readonly roleBinding: string;
}

/** `tenants/{tenant}/roles/{role}` */
export interface RoleName extends TenantName {
  readonly role: string;
}

/** `tenants/{tenant}/canaries/{canary}` */
export interface CanaryName extends TenantName {
  readonly canary: string;
}

/** `tenants/{tenant}/suspensions/{suspension}` */
export interface SuspensionName extends TenantName {
  readonly suspension: string;
}

/** `tenants/{tenant}/pendingOperations/{uuid}` */
export interface PendingOperationName extends TenantName {
  readonly operation: OperationId;
}

/**
 * What a job is for; without a key, all of the tenant's; without a tenant, everything: `tenants/-`.
 */
export type Scope = KeyName | TenantName | { readonly tenant?: never };

const ALL_TENANTS = 'tenants/-';
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** Whether it is a UUID in lower-case text. */
export function isUuid(text: string): boolean {
  return UUID.test(text);
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

/** The parts of a stored data key's name, or undefined for what isn't one. */
export function parseDataKeyName(name: string): DataKeyName | undefined {
  const [, keyName = '', dataKey = ''] = /^(.*)\/dataKeys\/([^/]*)$/.exec(name) ?? [];
  const key = parseKeyName(keyName);
  return key !== undefined && ID_PATTERN.test(dataKey) ? { ...key, dataKey } : undefined;
}

/** The parts of a re-wrap job's name, or undefined for what isn't one. */
export function parseJobName(name: string): JobName | undefined {
  const [, tenantName = '', job = ''] = /^(.*)\/rewrapJobs\/([^/]*)$/.exec(name) ?? [];
  const tenant = parseTenantName(tenantName);
  return tenant !== undefined && isUuid(job) ? { ...tenant, job: job as JobId } : undefined;
}

/** The parts of a token key's name, or undefined for what isn't one. */
export function parseTokenKeyName(name: string): TokenKeyName | undefined {
  const [, tenantName = '', id = ''] = /^(.*)\/tokenKeys\/([^/]*)$/.exec(name) ?? [];
  const tenant = parseTenantName(tenantName);
  return tenant !== undefined && isUuid(id) ? { ...tenant, tokenKey: id as AnyId } : undefined;
}

/** The parts of a role binding's name, or undefined for what isn't one. */
export function parseRoleBindingName(name: string): RoleBindingName | undefined {
  const [, tenantName = '', roleBinding = ''] = /^(.*)\/roleBindings\/([^/]*)$/.exec(name) ?? [];
  const tenant = parseTenantName(tenantName);
  return tenant !== undefined && ID_PATTERN.test(roleBinding)
    ? { ...tenant, roleBinding }
    : undefined;
}

/** The parts of the name of a tenant's own role, or undefined for what isn't one. */
export function parseRoleName(name: string): RoleName | undefined {
  const [, tenantName = '', role = ''] = /^(.*)\/roles\/([^/]*)$/.exec(name) ?? [];
  const tenant = parseTenantName(tenantName);
  return tenant !== undefined && ID_PATTERN.test(role) ? { ...tenant, role } : undefined;
}

/** The parts of a canary's name, or undefined for what isn't one. */
export function parseCanaryName(name: string): CanaryName | undefined {
  const [, tenantName = '', canary = ''] = /^(.*)\/canaries\/([^/]*)$/.exec(name) ?? [];
  const tenant = parseTenantName(tenantName);
  return tenant !== undefined && ID_PATTERN.test(canary) ? { ...tenant, canary } : undefined;
}

/** The parts of a suspension's name, or undefined for what isn't one. */
export function parseSuspensionName(name: string): SuspensionName | undefined {
  const [, tenantName = '', suspension = ''] = /^(.*)\/suspensions\/([^/]*)$/.exec(name) ?? [];
  const tenant = parseTenantName(tenantName);
  return tenant !== undefined && ID_PATTERN.test(suspension)
    ? { ...tenant, suspension }
    : undefined;
}

/** Returns whose approval rules they are by their name, or undefined for what isn't one. */
export function parseApprovalRulesName(name: string): TenantName | undefined {
  const [, tenantName = ''] = /^(.*)\/approvalRules$/.exec(name) ?? [];
  return parseTenantName(tenantName);
}

/** Returns the parts of a pending operation's name, or undefined for what isn't one. */
export function parsePendingOperationName(name: string): PendingOperationName | undefined {
  const [, tenantName = '', id = ''] = /^(.*)\/pendingOperations\/([^/]*)$/.exec(name) ?? [];
  const tenant = parseTenantName(tenantName);
  return tenant !== undefined && isUuid(id)
    ? { ...tenant, operation: id as OperationId }
    : undefined;
}

/** Returns the UUID in a silence's name, or undefined for what isn't one. */
export function parseAlertSilenceName(name: string): AnyId | undefined {
  const [, id = ''] = /^alertSilences\/([^/]*)$/.exec(name) ?? [];
  return isUuid(id) ? (id as AnyId) : undefined;
}

/** Returns the credential id in a passkey's name, or undefined for what isn't one. */
export function parsePasskeyName(name: string): Buffer | undefined {
  const [, text = ''] = /^passkeys\/([A-Za-z0-9_-]+)$/.exec(name) ?? [];
  const id = Buffer.from(text, 'base64url');
  const isWhole = id.length > 0 && id.length <= MAX_CREDENTIAL_ID_BYTES;
  return isWhole && id.toString('base64url') === text ? id : undefined;
}

/** What a job is to be for, or undefined for what isn't the name of such a thing. */
export function parseScope(name: string): Scope | undefined {
  return name === ALL_TENANTS ? {} : (parseKeyName(name) ?? parseTenantName(name));
}

export function formatScope(scope: Scope): string {
  if (scope.tenant === undefined) return ALL_TENANTS;
  return 'key' in scope ? formatKeyName(scope) : formatTenantName(scope);
}

export function formatDataKeyName(name: KeyName, dataKey: string): string {
  return `${formatKeyName(name)}/dataKeys/${dataKey}`;
}

export function formatJobName({ tenant }: TenantName, job: string): string {
  return `${formatTenantName({ tenant })}/rewrapJobs/${job}`;
}

export function formatTokenKeyName({ tenant }: TenantName, id: string): string {
  return `${formatTenantName({ tenant })}/tokenKeys/${id}`;
}

export function formatRoleBindingName({ tenant }: TenantName, roleBinding: string): string {
  return `${formatTenantName({ tenant })}/roleBindings/${roleBinding}`;
}

export function formatRoleName({ tenant }: TenantName, role: string): string {
  return `${formatTenantName({ tenant })}/roles/${role}`;
}

export function formatCanaryName({ tenant }: TenantName, canary: string): string {
  return `${formatTenantName({ tenant })}/canaries/${canary}`;
}

export function formatSuspensionName({ tenant }: TenantName, suspension: string): string {
  return `${formatTenantName({ tenant })}/suspensions/${suspension}`;
}

export function formatApprovalRulesName({ tenant }: TenantName): string {
  return `${formatTenantName({ tenant })}/approvalRules`;
}

export function formatPasskeyName({ credentialId }: { readonly credentialId: Buffer }): string {
  return `passkeys/${credentialId.toString('base64url')}`;
}

export function formatPendingOperationName({ tenant }: TenantName, operation: OperationId): string {
  return `${formatTenantName({ tenant })}/pendingOperations/${operation}`;
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
