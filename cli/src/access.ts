/**
 * Adds `keyward access …`: role bindings.
 *
 * - Each command is one call of the client. Roles are in `roles.ts`, questions in `questions.ts`.
 */
import { type Command, Option } from 'commander';
import type { KeywardClient, NewContextCondition, NewRoleBinding } from 'keyward-client';
import { type Bound, bindingsOf, impossible, sameBinding } from './bindings.ts';
import { UsageError } from './failures.ts';
import { oneTenant, roleBindingName, roleName } from './names.ts';
import {
  ahead,
  type ChangeOptions,
  changeOf,
  claimPath,
  given,
  type ListOptions,
  limitOption,
  type Pairs,
  pairsOption,
  withFilter,
  withRequestId,
} from './options.ts';
import { ROLE_BINDING } from './output/resources.ts';
import { addQuestions } from './questions.ts';
import { addRoles } from './roles.ts';
import { withClient } from './session.ts';

/** Adds `access`. */
export function addAccess(program: Command): void {
  const access = program.command('access').description('manage access: role bindings and roles');
  addBind(access);
  addBindings(access);
  access
    .command('get <binding>')
    .description('show one role binding: tenants/acme/roleBindings/…, or its id with --tenant acme')
    .action((binding: string, _options, command: Command) =>
      withClient(command, async (keyward, { output, tenant }) => {
        const name = roleBindingName(binding, tenant);
        await output.one(ROLE_BINDING, await keyward.getRoleBinding({ name }));
      }),
    );
  addUnbind(access);
  addRoles(access);
  addQuestions(access);
}

interface BindOptions extends ChangeOptions {
  readonly principal?: string;
  readonly group?: string;
  readonly role: string;
  readonly keys?: string;
  readonly allTenants?: boolean;
  readonly expires?: Date;
  readonly context: Pairs;
  readonly contextOneOf: Pairs;
  readonly contextClaim: Pairs;
  readonly overrideSeparationOfDuties?: boolean;
  readonly description?: string;
  readonly id?: string;
}

function addBind(access: Command): void {
  withConditions(withRequestId(access.command('bind [tenant]')))
    .description('bind a role to a caller or a group in a tenant: acme or tenants/acme')
    .addOption(
      new Option('--principal <name>', 'the caller, as whoami shows it').conflicts('group'),
    )
    .option('--group <issuer/group>', 'every caller whose token has this group')
    .requiredOption(
      '--role <role>',
      "the role: a predefined one's id, or tenants/acme/roles/… for one of the tenant's own",
    )
    .option(
      '--keys <pattern>',
      'only for these keys: an id, or its beginning and * (default: everything in the tenant)',
    )
    .option('--all-tenants', 'in every tenant, including future ones; only in "system"')
    .option(
      '--expires <when>',
      'when it expires: RFC 3339, or a duration from now, by the local clock (default: never)',
      ahead,
    )
    .option(
      '--override-separation-of-duties',
      'allow that the caller can then both administer and use the same key',
    )
    .option('--description <text>', 'what it is for; not secret')
    .option('--id <id>', 'the last part of its name (default: generated)')
    .addHelpText('after', BIND_HELP)
    .action((whose: string | undefined, _options, command: Command) =>
      withClient<BindOptions>(command, async (keyward, { output, tenant, id, ...options }) => {
        const question = 'cannot bind the role: no tenant is named; write keyward access bind acme';
        const parent = oneTenant(whose, tenant, question);
        const roleBinding = newBinding(options);
        const why = impossible(roleBinding);
        if (why !== undefined) output.remark(`warning: ${why}`);
        const same = await sameBinding(keyward, parent, roleBinding, id);
        if (same !== undefined) {
          output.remark('nothing to do: this is bound already');
          return output.one(ROLE_BINDING, same);
        }
        const created = await keyward.createRoleBinding({
          parent,
          roleBinding,
          ...given({ roleBindingId: id }),
          ...changeOf(options),
        });
        await output.one(ROLE_BINDING, created);
      }),
    );
}

const BIND_HELP = `
With --context, --context-one-of and --context-claim it allows only calls whose encryption
context has all of these entries. The names of nested claims are joined by dots; write names that
have dots as a list in JSON: conversation='["https://example.com/chat","id"]'. To repeat the
command with --request-id, give --expires as a time.

  keyward access bind acme --principal spiffe://example.org/orders \\
    --role encrypter --keys 'orders-*'
  keyward access bind acme --group corp/support --role decrypter --expires 8h \\
    --context-claim conversation=chat.id`;

function withConditions(command: Command): Command {
  return command
    .addOption(
      pairsOption('--context', 'an entry that the encryption context must have; repeatable'),
    )
    .addOption(
      pairsOption(
        '--context-one-of',
        'an entry and its allowed values, separated by commas; repeatable',
      ),
    )
    .addOption(
      pairsOption(
        '--context-claim',
        "an entry and the claim in the caller's token that it must equal; repeatable",
      ),
    );
}

function newBinding({
  principal,
  group,
  ...options
}: Omit<BindOptions, 'output' | 'id'>): NewRoleBinding {
  const { role, keys, allTenants, expires, overrideSeparationOfDuties, description } = options;
  const rest = {
    role: roleName(role),
    conditions: conditionsOf(options),
    ...given({
      keyPattern: keys,
      allTenants,
      expireTime: expires,
      overrideSeparationOfDuties,
      description,
    }),
  };
  if (principal !== undefined) return { principal, ...rest };
  if (group !== undefined) return { group, ...rest };
  throw new UsageError('cannot bind the role: no member is named; give --principal or --group');
}

function conditionsOf({
  context,
  contextOneOf,
  contextClaim,
}: Pick<BindOptions, 'context' | 'contextOneOf' | 'contextClaim'>): NewContextCondition[] {
  return [
    ...[...context].map(([contextKey, equals]) => ({ contextKey, equals })),
    ...[...contextOneOf].map(([contextKey, values]) => ({ contextKey, oneOf: values.split(',') })),
    ...[...contextClaim].map(([contextKey, claim]) => ({ contextKey, claim: claimPath(claim) })),
  ];
}

interface UnbindOptions extends ChangeOptions {
  readonly principal?: string;
  readonly group?: string;
  readonly role?: string;
}

function addUnbind(access: Command): void {
  withRequestId(access.command('unbind [binding]'))
    .description('delete a role binding, within 2 seconds on every replica')
    .addOption(
      new Option('--principal <name>', 'instead of a name: that of this caller').conflicts('group'),
    )
    .option('--group <issuer/group>', 'instead of a name: that of this group')
    .option('--role <role>', 'the role, with --principal or --group')
    .addHelpText(
      'after',
      '\nName the binding, or its tenant and what was bound:\n' +
        '\n  keyward access unbind tenants/acme/roleBindings/…' +
        '\n  keyward access unbind acme --principal spiffe://example.org/orders --role encrypter',
    )
    .action((named: string | undefined, _options, command: Command) =>
      withClient<UnbindOptions>(command, async (keyward, { output, tenant, ...options }) => {
        const isNamed = [options.principal, options.group, options.role].every(
          (each) => each === undefined,
        );
        if (isNamed && named === undefined) throw new UsageError(NOT_SAID);
        const name = isNamed
          ? roleBindingName(named ?? '', tenant)
          : await theOne(keyward, oneTenant(named, tenant, NOT_SAID), options);
        await keyward.deleteRoleBinding({ name, ...changeOf(options) });
        await output.done(`Deleted ${name}.`);
      }),
    );
}

const NOT_SAID =
  'cannot delete the role binding: none is named; write its name, or its tenant with --role, and ' +
  '--principal or --group';

/** Returns the name of the only binding of that role to that caller or group. */
async function theOne(
  keyward: KeywardClient,
  parent: string,
  { principal, group, role }: UnbindOptions,
): Promise<string> {
  const member = principal ?? group;
  if (member === undefined || role === undefined)
    throw new UsageError(
      'cannot delete the role binding: give --role, and --principal or --group, or its name',
    );
  const bound = { ...given({ principal, group }), role: roleName(role) } as Bound;
  const found = await bindingsOf(keyward, parent, bound);
  const [only, ...others] = found.map(({ name }) => name);
  if (only === undefined)
    throw new Error(
      `cannot delete the role binding: ${parent} has none of ${bound.role} to ${member}, or you ` +
        'may not see it',
    );
  if (others.length > 0)
    throw new UsageError(
      `cannot delete the role binding: ${found.length} are of ${bound.role} to ${member}; name ` +
        `one of ${[only, ...others].join(', ')}`,
    );
  return only;
}

function addBindings(access: Command): void {
  withFilter(
    access.command('bindings [tenant]'),
    'principal, group and role',
    'role = "roles/decrypter"',
  )
    .addOption(limitOption())
    .description("list all of a tenant's role bindings")
    .addHelpText('after', '\nBindings for all tenants are listed only in "system".')
    .action((whose: string | undefined, _options, command: Command) =>
      withClient<ListOptions>(command, async (keyward, { output, tenant, filter = '' }) => {
        const question =
          'cannot list bindings: no tenant is named; write keyward access bindings acme';
        const parent = oneTenant(whose, tenant, question);
        await output.all(ROLE_BINDING, keyward.roleBindings(parent, { filter }), 'role bindings');
      }),
    );
}
