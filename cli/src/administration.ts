/**
 * `keyward tenants …` and `keyward keys …`.
 *
 * Owns their words and arguments; each is one call of the client.
 */
import type { Command } from 'commander';
import { UsageError } from './failures.ts';
import { keyName, lastPart, parentOf, tenantName } from './names.ts';
import { KEY, KEY_VERSION, printAll, printOne, TENANT } from './print.ts';
import { withClient } from './session.ts';

/** Adds `tenants`. */
export function addTenants(program: Command): void {
  const tenants = program.command('tenants').description('the tenants that share the service');
  tenants
    .command('create <tenant>')
    .description('create a tenant: acme or tenants/acme')
    .action((tenant: string, _options, command: Command) =>
      withClient(command, async (keyward, { output }) => {
        const tenantId = lastPart(tenantName(tenant));
        await printOne(output, TENANT, await keyward.createTenant({ tenantId }));
      }),
    );
  tenants
    .command('list')
    .description('list all tenants')
    .action((_options, command: Command) =>
      withClient(command, (keyward, { output }) => printAll(output, TENANT, keyward.tenants())),
    );
  tenants
    .command('get <tenant>')
    .description('show one tenant')
    .action((tenant: string, _options, command: Command) =>
      withClient(command, async (keyward, { output }) => {
        await printOne(output, TENANT, await keyward.getTenant({ name: tenantName(tenant) }));
      }),
    );
}

interface KeyOptions {
  readonly tenant?: string;
}

/** Adds `keys`. */
export function addKeys(program: Command): void {
  const keys = program.command('keys').description("a tenant's keys and their versions");
  const add = (words: string, description: string) =>
    keys
      .command(words)
      .description(description)
      .option('--tenant <tenant>', 'whose key it is, when <key> is only its id');

  add('create <key>', 'create a key: tenants/acme/keys/orders, or orders with --tenant acme').action(
    (key: string, _options, command: Command) =>
      withClient<KeyOptions>(command, async (keyward, { output, tenant }) => {
        const name = keyName(key, tenant);
        const request = { parent: parentOf(name), keyId: lastPart(name) };
        await printOne(output, KEY, await keyward.createKey(request));
      }),
  );
  keys
    .command('list [tenant]')
    .description("list all of a tenant's keys")
    .option('--tenant <tenant>', 'whose keys, as well as by the argument')
    .action((given: string | undefined, _options, command: Command) =>
      withClient<KeyOptions>(command, async (keyward, { output, tenant }) => {
        const whose = given ?? tenant;
        if (whose === undefined) throw new UsageError('whose keys? Name the tenant: keyward keys list acme');
        const parent = tenantName(whose);
        if (tenant !== undefined && tenantName(tenant) !== parent) {
          throw new UsageError(`${given} is not ${tenant}: name one tenant`);
        }
        await printAll(output, KEY, keyward.keys(parent));
      }),
    );
  add('get <key>', 'show one key').action((key: string, _options, command: Command) =>
    withClient<KeyOptions>(command, async (keyward, { output, tenant }) => {
      await printOne(output, KEY, await keyward.getKey({ name: keyName(key, tenant) }));
    }),
  );
  add('rotate <key>', 'make a new primary version; older ones go on decrypting').action(
    (key: string, _options, command: Command) =>
      withClient<KeyOptions>(command, async (keyward, { output, tenant }) => {
        await printOne(output, KEY, await keyward.rotateKey({ name: keyName(key, tenant) }));
      }),
  );
  add('versions <key>', "list all of a key's versions, newest first").action(
    (key: string, _options, command: Command) =>
      withClient<KeyOptions>(command, (keyward, { output, tenant }) =>
        printAll(output, KEY_VERSION, keyward.keyVersions(keyName(key, tenant))),
      ),
  );
}
