/**
 * Finds role bindings by what was bound, and names that no caller can have.
 */
import {
  type KeywardClient,
  KeywardError,
  type NewRoleBinding,
  type RoleBinding,
} from 'keyward-client';
import { lastPart } from './names.ts';

/** What a binding is looked for by. */
export interface Bound {
  readonly principal?: string | undefined;
  readonly group?: string | undefined;
  readonly role?: string;
}

/** Returns a tenant's bindings of that role to that caller or group. */
export async function bindingsOf(
  keyward: KeywardClient,
  parent: string,
  { principal, group, role }: Bound,
): Promise<RoleBinding[]> {
  const terms = Object.entries({ principal, group, role }).flatMap(([field, value]) =>
    value === undefined ? [] : [`${field} = "${value.replace(/["\\]/g, '\\$&')}"`],
  );
  const found: RoleBinding[] = [];
  for await (const binding of keyward.roleBindings(parent, { filter: terms.join(' AND ') }))
    found.push(binding);
  return found;
}

/**
 * Returns the binding that already gives what a new one would; undefined where there is none, or
 * the caller may not list them. No call is made that would be refused.
 */
export async function sameBinding(
  keyward: KeywardClient,
  parent: string,
  wanted: NewRoleBinding,
  id: string | undefined,
): Promise<RoleBinding | undefined> {
  if (!(await mayList(keyward, parent))) return undefined;
  const found = await bindingsOf(keyward, parent, wanted);
  return found.find(
    (each) =>
      textOf(each) === textOf(wanted) &&
      (id === undefined || lastPart(each.name) === id) &&
      (wanted.description === undefined || wanted.description === each.description),
  );
}

/** Returns whether the caller may list a tenant's bindings. Asks, so that nothing is refused. */
export async function mayList(keyward: KeywardClient, parent: string): Promise<boolean> {
  try {
    const asked = { resource: parent, permissions: ['roleBindings.list'] };
    return (await keyward.testPermissions(asked)).permissions.length > 0;
  } catch (error) {
    if (error instanceof KeywardError) return false;
    throw error;
  }
}

/** All that a binding gives, as one text. */
function textOf(binding: NewRoleBinding | RoleBinding): string {
  const { principal, group, role, keyPattern = '', allTenants = false } = binding;
  const { conditions = [], expireTime, overrideSeparationOfDuties = false } = binding;
  const wanted = conditions.map(({ contextKey, equals, oneOf, claim }) =>
    JSON.stringify([contextKey, equals, oneOf, claim]),
  );
  const rest = [allTenants, expireTime?.getTime(), overrideSeparationOfDuties];
  return JSON.stringify([principal, group, role, keyPattern, wanted.toSorted(), rest]);
}

/** Returns why no caller can have a name, or be in a group; undefined for one that can be. */
export function impossible({ principal, group }: Bound): string | undefined {
  if (principal !== undefined && !/^(spiffe:\/\/.|jwt:[^/]+\/.|dns:.|[\w.]+=.)/.test(principal))
    return (
      `no caller can have the name ${principal}: names begin with spiffe://, jwt:ISSUER/, dns:, ` +
      'or are a certificate\'s subject, as O=Acme,CN=batch; "keyward whoami" shows a caller\'s own'
    );
  if (group !== undefined && !/^[^/]+\/./.test(group))
    return `no caller can be in the group ${group}: groups are ISSUER/GROUP, as corp/support`;
  return undefined;
}
