/**
 * Adds `keyward keys …`: a tenant's keys and their versions.
 *
 * - Each command is one call of the client, except `keys update`, which reads the labels it
 *   changes.
 * - Rotation is in `rotation.ts`, destruction in `destruction.ts`.
 */
import type { Command } from 'commander';
import { type Key, type KeywardClient, KeywardError } from 'keyward-client';
import { addChange } from './changes.ts';
import { addDestruction, destructionLoss } from './destruction.ts';
import { UsageError } from './failures.ts';
import { keyName, keyVersionName, lastPart, oneTenant, parentOf } from './names.ts';
import {
  ahead,
  type ChangeOptions,
  changeOf,
  count,
  duration,
  given,
  type ListOptions,
  limitOption,
  pairsOption,
  withEtag,
  withFilter,
  withRequestId,
  wordsOption,
} from './options.ts';
import { EPOCH, KEY, KEY_VERSION, KEY_VERSION_USE } from './output/resources.ts';
import { addRotation } from './rotation.ts';
import { withClient } from './session.ts';

/** How often labels that changed meanwhile are read again. */
const UPDATE_TRIES = 5;

/** Adds `keys`. */
export function addKeys(program: Command): void {
  const keys = program.command('keys').description("manage a tenant's keys and their versions");
  addCreateKey(keys);
  addListKeys(keys);
  keys
    .command('get <key>')
    .description('show one key')
    .action((key: string, _options, command: Command) =>
      withClient(command, async (keyward, { output, tenant }) => {
        await output.one(KEY, await keyward.getKey({ name: keyName(key, tenant) }));
      }),
    );
  addUpdateKey(keys);
  addEpochs(keys);
  addRotation(keys);
  addChange(keys.command('disable <key>'), {
    description: 'stop all use of a key until it is enabled again',
    columns: KEY,
    nameOf: keyName,
    change: (keyward, request) => keyward.disableKey(request),
  });
  addChange(keys.command('enable <key>'), {
    description: 'undo disable',
    columns: KEY,
    nameOf: keyName,
    change: (keyward, request) => keyward.enableKey(request),
  });
  addDestruction(keys.command('destroy <key>'), keys.command('restore <key>'), {
    does: 'schedule a key with all of its versions and stored data keys for destruction',
    columns: KEY,
    nameOf: keyName,
    destroy: async (keyward, request) => {
      const answer = await keyward.scheduleKeyDestruction(request);
      return { item: answer.key, answer };
    },
    lossOf: destructionLoss,
    restore: (keyward, request) => keyward.restoreKey(request),
  });
  withFilter(keys.command('versions <key>'), 'state')
    .addOption(limitOption())
    .description("list all of a key's versions with their use, newest first")
    .action((key: string, _options, command: Command) =>
      withClient<ListOptions>(command, (keyward, { output, tenant, filter = '' }) =>
        output.all(
          KEY_VERSION_USE,
          keyward.keyVersions(keyName(key, tenant), { filter }),
          'key versions',
        ),
      ),
    );
  addKeyVersion(keys);
}

interface NewKeyOptions extends ChangeOptions {
  readonly description?: string;
  readonly label: ReadonlyMap<string, string>;
}

interface ScheduledKeyOptions extends NewKeyOptions {
  readonly rotationPeriod?: number;
  readonly nextRotation?: Date;
  readonly usageLimit?: number;
  readonly epochMessages?: number;
  readonly epochAge?: number;
}

function addCreateKey(keys: Command): void {
  withRequestId(keys.command('create <key>'))
    .description('create a key: tenants/acme/keys/orders, or orders with --tenant acme')
    .option('--description <text>', 'what it is for; not secret')
    .addOption(pairsOption('--label', 'a label; repeatable'))
    .option(
      '--rotation-period <duration>',
      'rotate it automatically after each such period: 90d, 12h',
      duration,
    )
    .option(
      '--next-rotation <when>',
      'the first rotation, in RFC 3339 or from now (default: after one period)',
      ahead,
    )
    .option('--usage-limit <count>', 'rotate it after this many encryptions and data keys', count)
    .option(
      '--epoch-messages <count>',
      'have HSM agents keep the key of an epoch for this many messages; see SECURITY.md',
      count,
    )
    .option('--epoch-age <duration>', 'and for this time at most (default: 5m)', duration)
    .action((key: string, _options, command: Command) =>
      withClient<ScheduledKeyOptions>(command, async (keyward, { output, tenant, ...options }) => {
        const name = keyName(key, tenant);
        const created = await keyward.createKey({
          parent: parentOf(name),
          keyId: lastPart(name),
          description: options.description ?? '',
          labels: options.label,
          ...given({
            rotationPeriodSeconds: options.rotationPeriod,
            nextRotationTime: options.nextRotation,
            rotationUsageLimit: options.usageLimit,
            epochMaxMessages: options.epochMessages,
            epochMaxAgeSeconds: options.epochAge,
          }),
          ...changeOf(options),
        });
        await output.one(KEY, created);
      }),
    );
}

function addListKeys(keys: Command): void {
  withFilter(keys.command('list [tenant]'), 'state and labels.{name}')
    .addOption(limitOption())
    .description("list all of a tenant's keys")
    .action((whose: string | undefined, _options, command: Command) =>
      withClient<ListOptions>(command, async (keyward, { output, tenant, filter = '' }) => {
        const parent = oneTenant(
          whose,
          tenant,
          'cannot list keys: no tenant is named; write keyward keys list acme',
        );
        await output.all(KEY, keyward.keys(parent, { filter }), 'keys');
      }),
    );
}

interface UpdateOptions extends NewKeyOptions {
  readonly removeLabel: readonly string[];
}

function addUpdateKey(keys: Command): void {
  withEtag(keys.command('update <key>'))
    .description("change a key's description or labels")
    .option('--description <text>', 'what it is for; not secret')
    .addOption(pairsOption('--label', 'a label to add or change; repeatable'))
    .addOption(wordsOption('--remove-label <name>', 'a label to remove; repeatable'))
    .addHelpText(
      'after',
      '\nOther labels stay unchanged. To repeat the command with --request-id, also give --etag.',
    )
    .action((key: string, _options, command: Command) =>
      withClient<UpdateOptions>(command, async (keyward, { output, tenant, ...options }) => {
        const { description, label, removeLabel } = options;
        const name = keyName(key, tenant);
        const both = removeLabel.find((word) => label.has(word));
        if (both !== undefined)
          throw new UsageError(
            `cannot update the key: --label and --remove-label both name ${both}`,
          );
        if (label.size + removeLabel.length > 0) {
          await output.one(KEY, await updateLabels(keyward, name, options));
        } else if (description !== undefined) {
          const { etag = '', ...change } = changeOf(options);
          await output.one(
            KEY,
            await keyward.updateKey({ key: { name, description, etag }, ...change }),
          );
        } else {
          throw new UsageError(
            'cannot update the key: no change is named; give --description, --label or ' +
              '--remove-label',
          );
        }
      }),
    );
}

interface EpochOptions extends ChangeOptions {
  readonly messages?: number;
  readonly age?: number;
}

function addEpochs(keys: Command): void {
  withEtag(keys.command('epochs <key>'))
    .description("have HSM agents keep the keys of a key's derivation epochs, or no longer")
    .option('--messages <count>', 'for this many messages; 0 for no epochs', count)
    .option('--age <duration>', 'and for this time at most: 45s, 5m, up to 1h', duration)
    .addHelpText(
      'after',
      '\nFor HSMs that are slow or far away. SECURITY.md states what an attacker gains who reads ' +
        "an agent's memory.",
    )
    .action((key: string, _options, command: Command) =>
      withClient<EpochOptions>(command, async (keyward, { output, tenant, ...options }) => {
        const { messages, age } = options;
        if (messages === undefined && age === undefined)
          throw new UsageError(
            'cannot change the epochs: no change is named; give --messages or --age',
          );
        const { etag = '', ...change } = changeOf(options);
        const bounds = given({ epochMaxMessages: messages, epochMaxAgeSeconds: age });
        const name = keyName(key, tenant);
        const updated = await keyward.updateKey({ key: { name, etag, ...bounds }, ...change });
        await output.one(EPOCH, updated);
      }),
    );
}

/**
 * Reads, changes and writes the labels, under the etag that was read, so that no label is lost;
 * reads again when it has changed.
 */
async function updateLabels(
  keyward: KeywardClient,
  name: string,
  options: UpdateOptions,
): Promise<Key> {
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
      const lost = error instanceof KeywardError && error.reason === 'ETAG_MISMATCH';
      if (!lost || expected !== undefined || attempt === UPDATE_TRIES) throw error;
    }
  }
}

function addKeyVersion(keys: Command): void {
  const version = keys
    .command('version')
    .description(
      'one version: tenants/acme/keys/orders/versions/3, or orders/versions/3 with --tenant acme',
    );
  version
    .command('get <version>')
    .description('show one version with its use')
    .action((name: string, _options, command: Command) =>
      withClient(command, async (keyward, { output, tenant }) => {
        const found = await keyward.getKeyVersion({ name: keyVersionName(name, tenant) });
        await output.one(KEY_VERSION_USE, found);
      }),
    );
  addChange(version.command('disable <version>'), {
    description: 'stop all use of one version until it is enabled again',
    columns: KEY_VERSION,
    nameOf: keyVersionName,
    change: (keyward, request) => keyward.disableKeyVersion(request),
  });
  addChange(version.command('enable <version>'), {
    description: 'undo disable',
    columns: KEY_VERSION,
    nameOf: keyVersionName,
    change: (keyward, request) => keyward.enableKeyVersion(request),
  });
  const [destroy, restore] = [
    version.command('destroy <version>'),
    version.command('restore <version>'),
  ];
  addDestruction(destroy, restore, {
    does: 'schedule one version for destruction',
    columns: KEY_VERSION,
    nameOf: keyVersionName,
    destroy: async (keyward, request) => {
      const answer = await keyward.scheduleKeyVersionDestruction(request);
      return { item: answer.keyVersion, answer };
    },
    lossOf: destructionLoss,
    restore: (keyward, request) => keyward.restoreKeyVersion(request),
  });
}
