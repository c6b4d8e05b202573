/**
 * Adds `keyward access roles` and `access role …`: the roles of a tenant.
 *
 * - Each command is one call of the client.
 */
import type { Command } from 'commander';
import { lastPart, oneTenant, ownRoleName, parentOf } from './names.ts';
import {
  type ChangeOptions,
  changeOf,
  given,
  type TenantOptions,
  withRequestId,
  withTenant,
} from './options.ts';
import { printAll, printJson, printOne, ROLE } from './print.ts';
import { withClient } from './session.ts';

/** Adds `roles` and `role`. */
export function addRoles(access: Command): void {
  access
    .command('roles [tenant]')
    .description(
      "list the roles that can be bound in a tenant: the predefined ones, and the tenant's own",
    )
    .option('--tenant <tenant>', 'the tenant, instead of the argument')
    .action((whose: string | undefined, _options, command: Command) =>
      withClient<TenantOptions>(command, async (keyward, { output, tenant }) => {
        const question = 'cannot list roles: no tenant is named; write keyward access roles acme';
        const { roles } = await keyward.listRoles({ parent: oneTenant(whose, tenant, question) });
        await printAll(output, ROLE, roles);
      }),
    );
  const role = access
    .command('role')
    .description('manage a tenant\'s own roles; "roles" also lists the predefined ones');
  addCreateRole(role);
  withTenant(role.command('get <role>'), 'role')
    .description("show one of a tenant's own roles")
    .action((given: string, _options, command: Command) =>
      withClient<TenantOptions>(command, async (keyward, { output, tenant }) => {
        await printOne(output, ROLE, await keyward.getRole({ name: ownRoleName(given, tenant) }));
      }),
    );
  withRequestId(withTenant(role.command('delete <role>'), 'role'))
    .description("delete one of a tenant's own roles that no binding gives")
    .action((given: string, _options, command: Command) =>
      withClient<TenantOptions & ChangeOptions>(
        command,
        async (keyward, { output, tenant, ...options }) => {
          await keyward.deleteRole({ name: ownRoleName(given, tenant), ...changeOf(options) });
          if (output === 'json') await printJson({});
        },
      ),
    );
}

interface CreateOptions extends TenantOptions, ChangeOptions {
  readonly description?: string;
}

function addCreateRole(role: Command): void {
  withRequestId(withTenant(role.command('create <role> <permissions...>'), 'role'))
    .description(
      'create a role with permissions: tenants/acme/roles/opener, or opener with --tenant acme',
    )
    .option('--description <text>', 'what it is for; not secret')
    .addHelpText(
      'after',
      '\n  keyward access role create tenants/acme/roles/opener data.decrypt keys.get',
    )
    .action((name: string, permissions: string[], _options, command: Command) =>
      withClient<CreateOptions>(
        command,
        async (keyward, { output, tenant, description, ...options }) => {
          const full = ownRoleName(name, tenant);
          const created = await keyward.createRole({
            parent: parentOf(full),
            roleId: lastPart(full),
            role: { permissions, ...given({ description }) },
            ...changeOf(options),
          });
          await printOne(output, ROLE, created);
        },
      ),
    );
}
