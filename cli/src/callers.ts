/**
 * Adds `keyward whoami`: the caller, and the roles that they have.
 */
import type { Command } from 'commander';
import type { Caller, KeywardClient } from 'keyward-client';
import { bindingsOf, mayList } from './bindings.ts';
import { lastPart, SHARED, tenantName } from './names.ts';
import type { Columns } from './output/output.ts';
import { CALLER } from './output/resources.ts';
import { withClient } from './session.ts';

const WITH_ROLES: Columns<Caller & { readonly roles: readonly string[] | undefined }> = {
  ...CALLER,
  ROLES: ({ roles }) =>
    roles === undefined ? 'you may not list role bindings' : roles.join(', ') || 'none',
};

/** Adds `whoami`. */
export function addWhoami(program: Command): void {
  program
    .command('whoami')
    .description('show your name as role bindings use it, how you proved it, and your roles')
    .addHelpText(
      'after',
      '\nEvery caller may ask. Roles are of the tenant that --tenant or the profile names, and ' +
        'of system,\nwhere you may list role bindings; "keyward access test" asks for permissions.',
    )
    .action((_options, command: Command) =>
      withClient(command, async (keyward, { output, tenant }) => {
        const caller = await keyward.getCaller();
        const parents = new Set([tenant === undefined ? SHARED : tenantName(tenant.name), SHARED]);
        await output.one(WITH_ROLES, { ...caller, roles: await rolesOf(keyward, caller, parents) });
      }),
    );
}

/** Returns the roles that bindings there give; undefined where the caller may list none of them. */
async function rolesOf(
  keyward: KeywardClient,
  { name: principal, groups }: Caller,
  parents: Iterable<string>,
): Promise<string[] | undefined> {
  const members = [{ principal }, ...groups.map((group) => ({ group }))];
  let roles: string[] | undefined;
  for (const parent of parents) {
    if (!(await mayList(keyward, parent))) continue;
    roles ??= [];
    for (const member of members)
      for (const { role, keyPattern, allTenants } of await bindingsOf(keyward, parent, member)) {
        const where = allTenants ? 'all tenants' : lastPart(parent);
        const of = keyPattern === '' ? '' : `, ${keyPattern}`;
        roles.push(`${lastPart(role)} (${where}${of})`);
      }
  }
  return roles;
}
