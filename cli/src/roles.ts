/**
 * Adds `keyward access roles` and `access role …`: the roles of a tenant.
 *
 * - Each command is one call of the client.
 */
import type { Command } from 'commander';
import { lastPart, oneTenant, ownRoleName, parentOf } from './names.ts';
import { type ChangeOptions, changeOf, given, limitOption, withRequestId } from './options.ts';
import { ROLE } from './output/resources.ts';
import { withClient } from './session.ts';

/** Adds `roles` and `role`. */
export function addRoles(access: Command): void {
  access
    .command('roles [tenant]')
    .addOption(limitOption())
    .description(
      "list the roles that can be bound in a tenant: the predefined ones, and the tenant's own",
    )
    .action((whose: string | undefined, _options, command: Command) =>
      withClient(command, async (keyward, { output, tenant }) => {
        const question = 'cannot list roles: no tenant is named; write keyward access roles acme';
        const { roles } = await keyward.listRoles({ parent: oneTenant(whose, tenant, question) });
        await output.all(ROLE, roles, 'roles');
      }),
    );
  const role = access
    .command('role')
    .description('manage a tenant\'s own roles; "roles" also lists the predefined ones');
  addCreateRole(role);
  role
    .command('get <role>')
    .description("show one of a tenant's own roles")
    .action((given: string, _options, command: Command) =>
      withClient(command, async (keyward, { output, tenant }) => {
        await output.one(ROLE, await keyward.getRole({ name: ownRoleName(given, tenant) }));
      }),
    );
  withRequestId(role.command('delete <role>'))
    .description("delete one of a tenant's own roles that no binding gives")
    .action((given: string, _options, command: Command) =>
      withClient<ChangeOptions>(command, async (keyward, { output, tenant, ...options }) => {
        const name = ownRoleName(given, tenant);
        await keyward.deleteRole({ name, ...changeOf(options) });
        await output.done(`Deleted ${name}.`);
      }),
    );
}

interface CreateOptions extends ChangeOptions {
  readonly description?: string;
}

function addCreateRole(role: Command): void {
  withRequestId(role.command('create <role> <permissions...>'))
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
          await output.one(ROLE, created);
        },
      ),
    );
}
