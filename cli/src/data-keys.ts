/**
 * Adds `keyward stored-data-keys …`: data keys that the service stores.
 *
 * - A plaintext is shown only if an option asks for it, and no existing file is replaced by
 *   default.
 */
import type { Command } from 'commander';
import type { DataKey, KeywardClient } from 'keyward-client';
import { type Loss, preview } from './destruction.ts';
import { printText, refuseToOverwrite, writeOutput } from './files.ts';
import { dataKeyName, keyName } from './names.ts';
import {
  type ChangeOptions,
  changeOf,
  contextOption,
  given,
  type ListOptions,
  limitOption,
  type Pairs,
  wholeNumber,
  withFilter,
  withForce,
  withRequestId,
} from './options.ts';
import type { Output } from './output/output.ts';
import { DATA_KEY, whenOf } from './output/resources.ts';
import { withClient } from './session.ts';

/** Adds `stored-data-keys`. */
export function addStoredDataKeys(program: Command): void {
  const dataKeys = program
    .command('stored-data-keys')
    .description(
      'manage data keys that the service stores, wrapped, and re-wraps under new versions ' +
        'of their key',
    );
  addCreate(dataKeys);
  addGet(dataKeys);
  withFilter(dataKeys.command('list <key>'), 'version', 'version = 1')
    .addOption(limitOption())
    .description("list all of a key's stored data keys")
    .action((key: string, _options, command: Command) =>
      withClient<ListOptions>(command, (keyward, { output, tenant, filter = '' }) =>
        output.all(
          DATA_KEY,
          keyward.dataKeys(keyName(key, tenant), { filter }),
          'stored data keys',
        ),
      ),
    );
  addDelete(dataKeys);
}

interface DeleteOptions extends ChangeOptions {
  readonly confirm?: string;
}

function addDelete(dataKeys: Command): void {
  withRequestId(dataKeys.command('delete <data-key>'))
    .description('delete one permanently; without --confirm, only show what would be lost')
    .option('--confirm <etag>', 'delete it, with the etag that the command without --confirm shows')
    .addHelpText('after', '\nIt is deleted at once. What was encrypted under it is lost then.')
    .action((dataKeyGiven: string, _options, command: Command) =>
      withClient<DeleteOptions>(
        command,
        async (keyward, { output, tenant, confirm, requestId }) => {
          const name = dataKeyName(dataKeyGiven, tenant);
          if (confirm === undefined) {
            const dataKey = await find(keyward, name);
            if (output.isData) return output.data(dataKey);
            return printText(
              preview(name, lossOf(dataKey), { etag: dataKey.etag, to: 'delete it' }),
            );
          }
          await keyward.deleteDataKey({
            name,
            ...changeOf({ etag: confirm, ...given({ requestId }) }),
          });
          await output.done(`Deleted ${name}.`);
        },
      ),
    );
}

/** Looks for it in the list, where it is not opened. */
async function find(keyward: KeywardClient, name: string): Promise<DataKey> {
  for await (const dataKey of keyward.dataKeys(keyOf(name), { pageSize: 1_000 }))
    if (dataKey.name === name) return dataKey;
  throw new Error(`cannot delete ${name}: there is no such stored data key`);
}

/** Returns `tenants/acme/keys/orders` for a data key of it. */
function keyOf(name: string): string {
  return name.slice(0, name.lastIndexOf('/dataKeys/'));
}

function lossOf({ keyVersion, length, createTime, rewrapTime }: DataKey): Loss {
  return {
    fate: 'deleted at once, and cannot be restored',
    facts: [
      ['length', `${length} bytes`],
      ['created', createTime.toISOString()],
      ['wrapped under', keyVersion],
      ['re-wrapped', whenOf(rewrapTime)],
    ],
    notices: [
      ['What was encrypted under it can no longer be decrypted then, unless you kept its bytes.'],
    ],
  };
}

interface PlaintextOptions {
  readonly output: Output;
  readonly plaintextOut?: string;
  readonly showPlaintext?: boolean;
  readonly force?: boolean;
}

function withPlaintext(command: Command): Command {
  return withForce(command)
    .option(
      '--plaintext-out <file>',
      'write the raw data key to this file, readable only by you; - for standard output',
    )
    .option('--show-plaintext', 'also print the data key, in base64');
}

interface CreateOptions extends ChangeOptions, PlaintextOptions {
  readonly id?: string;
  readonly context: Pairs;
  readonly length: number;
}

function addCreate(dataKeys: Command): void {
  withPlaintext(withRequestId(dataKeys.command('create <key>')))
    .description('create a data key and store it, wrapped under the primary version of a key')
    .option('--id <id>', 'the last part of its name (default: generated)')
    .addOption(contextOption())
    .option('--length <bytes>', 'its length: 16, 32 or 64', wholeNumber, 32)
    .addHelpText(
      'after',
      '\nWithout --plaintext-out and --show-plaintext, the data key stays in the HSM ' +
        'agent; "get" opens it at any time.' +
        '\n\n  keyward stored-data-keys create tenants/acme/keys/orders --id db --context use=db',
    )
    .action((key: string, _options, command: Command) =>
      withClient<CreateOptions>(
        command,
        async (keyward, { tenant, id, context, length, ...options }) => {
          const { plaintextOut, showPlaintext } = options;
          refuseToOverwrite([plaintextOut], options);
          const { dataKey, plaintext } = await keyward.createDataKey({
            parent: keyName(key, tenant),
            encryptionContext: context,
            length,
            returnPlaintext: plaintextOut !== undefined || showPlaintext === true,
            ...given({ dataKeyId: id }),
            ...changeOf(options),
          });
          await deliver(dataKey, plaintext, options);
        },
      ),
    );
}

interface GetOptions extends PlaintextOptions {
  readonly context: Pairs;
}

function addGet(dataKeys: Command): void {
  withPlaintext(dataKeys.command('get <data-key>'))
    .description(
      'open one: tenants/acme/keys/orders/dataKeys/db, or orders/dataKeys/db with --tenant acme',
    )
    .addOption(contextOption())
    .addHelpText(
      'after',
      '\nAlways opens it, but shows the data key itself only with --plaintext-out or ' +
        '--show-plaintext.' +
        '\n\n  keyward stored-data-keys get tenants/acme/keys/orders/dataKeys/db --context ' +
        'use=db --plaintext-out -',
    )
    .action((name: string, _options, command: Command) =>
      withClient<GetOptions>(command, async (keyward, { tenant, context, ...options }) => {
        refuseToOverwrite([options.plaintextOut], options);
        const { dataKey, plaintext } = await keyward.getDataKey({
          name: dataKeyName(name, tenant),
          encryptionContext: context,
        });
        await deliver(dataKey, plaintext, options);
      }),
    );
}

/** The plaintext to where it was asked for, then what there is to know of the data key. */
async function deliver(
  dataKey: DataKey,
  plaintext: Buffer | undefined,
  { output, plaintextOut, showPlaintext, force = false }: PlaintextOptions,
): Promise<void> {
  if (plaintextOut !== undefined && plaintext !== undefined) {
    await writeOutput(plaintextOut, plaintext, { force, secret: true });
    if (plaintextOut === '-') return;
  }
  if (!showPlaintext || plaintext === undefined) return output.one(DATA_KEY, dataKey);
  const shown = plaintext.toString('base64');
  await output.one({ ...DATA_KEY, PLAINTEXT: () => shown }, { ...dataKey, plaintext: shown });
}
