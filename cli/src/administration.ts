/**
 * `keyward tenants …` and `keyward keys …`.
 *
 * Owns their words and arguments; each is one call of the client, but for `keys update`, which reads the labels that it
 * changes.
 */
import type { Command } from 'commander';
import { type Key, type KeywardClient, KeywardClientError } from 'keyward-client';
import { UsageError } from './failures.ts';
import { keyName, keyVersionName, lastPart, parentOf, tenantName } from './names.ts';
import { pairsOption, wordsOption } from './options.ts';
import { type Columns, KEY, KEY_VERSION, printAll, printOne, TENANT } from './print.ts';
import { withClient } from './session.ts';

/** How often labels that changed meanwhile are read again. */
const UPDATE_TRIES = 5;

interface ListOptions {
  readonly filter?: string;
}

interface ChangeOptions {
  readonly etag?: string;
  readonly requestId?: string;
}

/** Adds `tenants`. */
export function addTenants(program: Command): void {
  const tenants = program.command('tenants').description('the tenants that share the service');
  withRequestId(tenants.command('create <tenant>'))
    .description('create a tenant: acme or tenants/acme')
    .action((tenant: string, _options, command: Command) =>
      withClient<ChangeOptions>(command, async (keyward, { output, ...options }) => {
        const tenantId = lastPart(tenantName(tenant));
        await printOne(output, TENANT, await keyward.createTenant({ tenantId, ...changeOf(options) }));
      }),
    );
  withFilter(tenants.command('list'), 'state')
    .description('list all tenants')
    .action((_options, command: Command) =>
      withClient<ListOptions>(command, (keyward, { output, filter = '' }) =>
        printAll(output, TENANT, keyward.tenants({ filter })),
      ),
    );
  tenants
    .command('get <tenant>')
    .description('show one tenant')
    .action((tenant: string, _options, command: Command) =>
      withClient(command, async (keyward, { output }) => {
        await printOne(output, TENANT, await keyward.getTenant({ name: tenantName(tenant) }));
      }),
    );
  addChange(tenants.command('disable <tenant>'), {
    description: "stop all use of a tenant's keys until it is enabled again",
    columns: TENANT,
    nameOf: tenantName,
    change: (keyward, request) => keyward.disableTenant(request),
  });
  addChange(tenants.command('enable <tenant>'), {
    description: 'undo disable',
    columns: TENANT,
    nameOf: tenantName,
    change: (keyward, request) => keyward.enableTenant(request),
  });
}

interface KeyOptions {
  readonly tenant?: string;
}

/** Adds `keys`. */
export function addKeys(program: Command): void {
  const keys = program.command('keys').description("a tenant's keys and their versions");
  addCreateKey(keys);
  addListKeys(keys);
  withTenant(keys.command('get <key>'))
    .description('show one key')
    .action((key: string, _options, command: Command) =>
      withClient<KeyOptions>(command, async (keyward, { output, tenant }) => {
        await printOne(output, KEY, await keyward.getKey({ name: keyName(key, tenant) }));
      }),
    );
  addUpdateKey(keys);
  addChange(withTenant(keys.command('rotate <key>')), {
    description: 'make a new primary version; older ones go on decrypting',
    columns: KEY,
    nameOf: keyName,
    change: (keyward, request) => keyward.rotateKey(request),
  });
  addChange(withTenant(keys.command('disable <key>')), {
    description: 'stop all use of a key until it is enabled again',
    columns: KEY,
    nameOf: keyName,
    change: (keyward, request) => keyward.disableKey(request),
  });
  addChange(withTenant(keys.command('enable <key>')), {
    description: 'undo disable',
    columns: KEY,
    nameOf: keyName,
    change: (keyward, request) => keyward.enableKey(request),
  });
  withFilter(withTenant(keys.command('versions <key>')), 'state')
    .description("list all of a key's versions, newest first")
    .action((key: string, _options, command: Command) =>
      withClient<KeyOptions & ListOptions>(command, (keyward, { output, tenant, filter = '' }) =>
        printAll(output, KEY_VERSION, keyward.keyVersions(keyName(key, tenant), { filter })),
      ),
    );
  addKeyVersion(keys);
}

interface NewKeyOptions extends KeyOptions, ChangeOptions {
  readonly description?: string;
  readonly label: ReadonlyMap<string, string>;
}

function addCreateKey(keys: Command): void {
  withRequestId(withTenant(keys.command('create <key>')))
    .description('create a key: tenants/acme/keys/orders, or orders with --tenant acme')
    .option('--description <text>', 'what it is for; not secret')
    .addOption(pairsOption('--label', 'a label; repeat it for more'))
    .action((key: string, _options, command: Command) =>
      withClient<NewKeyOptions>(command, async (keyward, { output, tenant, ...options }) => {
        const name = keyName(key, tenant);
        const created = await keyward.createKey({
          parent: parentOf(name),
          keyId: lastPart(name),
          description: options.description ?? '',
          labels: options.label,
          ...changeOf(options),
        });
        await printOne(output, KEY, created);
      }),
    );
}

function addListKeys(keys: Command): void {
  withFilter(keys.command('list [tenant]'), 'state and labels.{name}')
    .description("list all of a tenant's keys")
    .option('--tenant <tenant>', 'whose keys, as well as by the argument')
    .action((given: string | undefined, _options, command: Command) =>
      withClient<KeyOptions & ListOptions>(command, async (keyward, { output, tenant, filter = '' }) => {
        const whose = given ?? tenant;
        if (whose === undefined) throw new UsageError('whose keys? Name the tenant: keyward keys list acme');
        const parent = tenantName(whose);
        if (tenant !== undefined && tenantName(tenant) !== parent) {
          throw new UsageError(`${given} is not ${tenant}: name one tenant`);
        }
        await printAll(output, KEY, keyward.keys(parent, { filter }));
      }),
    );
}

interface UpdateOptions extends NewKeyOptions {
  readonly removeLabel: readonly string[];
}

function addUpdateKey(keys: Command): void {
  withEtag(withTenant(keys.command('update <key>')))
    .description("change a key's description or labels")
    .option('--description <text>', 'what it is for; not secret')
    .addOption(pairsOption('--label', 'a label to add or change; repeat it for more'))
    .addOption(wordsOption('--remove-label <name>', 'a label to remove; repeat it for more'))
    .addHelpText(
      'after',
      '\nLabels that are not named stay as they are. To repeat the command under --request-id, give --etag too.',
    )
    .action((key: string, _options, command: Command) =>
      withClient<UpdateOptions>(command, async (keyward, { output, tenant, ...options }) => {
        const { description, label, removeLabel } = options;
        const name = keyName(key, tenant);
        const both = removeLabel.find((word) => label.has(word));
        if (both !== undefined) throw new UsageError(`is ${both} to be set or removed?`);
        if (label.size + removeLabel.length > 0) {
          await printOne(output, KEY, await updateLabels(keyward, name, options));
        } else if (description !== undefined) {
          const { etag = '', ...change } = changeOf(options);
          await printOne(
            output,
            KEY,
            await keyward.updateKey({ key: { name, description, etag }, ...change }),
          );
        } else {
          throw new UsageError('what is to change? Give --description, --label or --remove-label');
        }
      }),
    );
}

/** Read, change, write: under the etag that was read, so that nobody's label is lost; read again when it has changed. */
async function updateLabels(keyward: KeywardClient, name: string, options: UpdateOptions): Promise<Key> {
  const { description, label, removeLabel } = options;
  const { etag: expected, ...change } = changeOf(options);
  for (let attempt = 1; ; attempt++) {
    const seen = await keyward.getKey({ name });
    const labels = new Map([...Object.entries(seen.labels), ...label]);
    for (const word of removeLabel) labels.delete(word);
    const key = { name, labels, etag: expected ?? seen.etag };
    try {
      return await keyward.updateKey({
        key: description === undefined ? key : { ...key, description },
        ...change,
      });
    } catch (error) {
      const lost = error instanceof KeywardClientError && error.reason === 'ETAG_MISMATCH';
      if (!lost || expected !== undefined || attempt === UPDATE_TRIES) throw error;
    }
  }
}

interface Change<Item> {
  readonly description: string;
  readonly columns: Columns<Item>;
  readonly nameOf: (given: string, tenant: string | undefined) => string;
  readonly change: (
    keyward: KeywardClient,
    request: { readonly name: string } & ChangeOptions,
  ) => Promise<Item>;
}

/** A change to one thing, which its command's argument names; prints what became of it. */
function addChange<Item>(command: Command, { description, columns, nameOf, change }: Change<Item>): void {
  withEtag(command)
    .description(description)
    .action((given: string, _options, itself: Command) =>
      withClient<KeyOptions & ChangeOptions>(itself, async (keyward, { output, tenant, ...options }) => {
        const request = { name: nameOf(given, tenant), ...changeOf(options) };
        await printOne(output, columns, await change(keyward, request));
      }),
    );
}

function addKeyVersion(keys: Command): void {
  const version = keys
    .command('version')
    .description('one version: tenants/acme/keys/orders/versions/3, or orders/versions/3 with --tenant acme');
  withTenant(version.command('get <version>'))
    .description('show one version')
    .action((given: string, _options, command: Command) =>
      withClient<KeyOptions>(command, async (keyward, { output, tenant }) => {
        const found = await keyward.getKeyVersion({ name: keyVersionName(given, tenant) });
        await printOne(output, KEY_VERSION, found);
      }),
    );
  addChange(withTenant(version.command('disable <version>')), {
    description: 'stop all use of one version until it is enabled again',
    columns: KEY_VERSION,
    nameOf: keyVersionName,
    change: (keyward, request) => keyward.disableKeyVersion(request),
  });
  addChange(withTenant(version.command('enable <version>')), {
    description: 'undo disable',
    columns: KEY_VERSION,
    nameOf: keyVersionName,
    change: (keyward, request) => keyward.enableKeyVersion(request),
  });
}

function withTenant(command: Command): Command {
  return command.option('--tenant <tenant>', 'whose key it is, when <key> is only its id');
}

function withFilter(command: Command, fields: string): Command {
  return command.option(
    '--filter <filter>',
    `only those that match, by ${fields}: 'state = DISABLED', terms joined by AND`,
  );
}

function withRequestId(command: Command): Command {
  return command.option(
    '--request-id <uuid>',
    'the same command with the same id, within 24 hours, changes nothing more',
  );
}

function withEtag(command: Command): Command {
  return withRequestId(
    command.option('--etag <etag>', 'refuse when it has changed since (see --output json)'),
  );
}

function changeOf({ etag, requestId }: ChangeOptions): ChangeOptions {
  return { ...(etag === undefined ? {} : { etag }), ...(requestId === undefined ? {} : { requestId }) };
}
