/**
 * Adds `keyward encrypt`, `decrypt`, `re-encrypt`, `data-key` and `random`.
 *
 * - `decrypt` writes the plaintext's bytes to standard output and nothing else.
 * - A data key's plaintext is shown only if an option asks for it.
 * - No existing file is replaced by default.
 */
import { type Command, Option } from 'commander';
import type { DecryptRequest, KeywardClient } from 'keyward-client';
import { UsageError } from './failures.ts';
import {
  readCiphertext,
  readInput,
  refuseToOverwrite,
  writeOutput,
  writeStandardOutput,
  writeUnnamed,
} from './files.ts';
import type { GlobalOptions } from './globals.ts';
import { keyName, parentOf, tenantName } from './names.ts';
import { contextOption, type Pairs, pairsOption, wholeNumber, withForce } from './options.ts';
import type { Output } from './output/output.ts';
import { withClient } from './session.ts';

/** The most that Encrypt takes. */
const PLAINTEXT_BYTES = 65_536;

interface EncryptOptions {
  readonly context: Pairs;
  readonly in?: string;
  readonly out?: string;
  readonly force?: boolean;
  readonly raw?: boolean;
}

/** Adds `encrypt`. */
export function addEncrypt(program: Command): void {
  withForce(program.command('encrypt <key>'))
    .description('encrypt up to 64 KiB under the primary version of a key')
    .addOption(contextOption())
    .option('--in <file>', 'the file with the plaintext (default: standard input)')
    .option('--out <file>', 'write the raw ciphertext to this file')
    .option('--raw', 'write raw bytes to standard output, not base64')
    .addHelpText(
      'after',
      '\nThe ciphertext is printed in base64; --output json adds the key version.\n' +
        '\n  echo -n secret | keyward encrypt tenants/acme/keys/orders --context order=17 ' +
        '> secret.txt',
    )
    .action((key: string, _options, command: Command) =>
      withClient<EncryptOptions>(command, async (keyward, options) => {
        const { tenant, context, out } = options;
        const name = keyName(key, tenant);
        refuseToOverwrite([out], options);
        const plaintext = await readInput(
          options.in,
          PLAINTEXT_BYTES,
          () =>
            'cannot encrypt the plaintext: it is longer than 64 KiB; "keyward encrypt-file" ' +
            'takes any size',
        );
        const { ciphertext, keyVersion } = await keyward.encrypt({
          name,
          plaintext,
          encryptionContext: context,
        });
        await putBytes({ ciphertext }, { keyVersion }, options);
      }),
    );
}

interface OutputOptions {
  readonly output: Output;
  readonly out?: string;
  readonly force?: boolean;
  readonly raw?: boolean;
}

/**
 * The bytes to the file, or to standard output in base64 or raw; in JSON with the facts that belong
 * to them.
 */
async function putBytes(
  named: Readonly<Record<string, Buffer>>,
  facts: Readonly<Record<string, string>>,
  { output, out, force = false, raw = false }: OutputOptions,
  { secret = false } = {},
): Promise<void> {
  const [[name, bytes] = ['', Buffer.alloc(0)]] = Object.entries(named);
  if (out !== undefined) await writeOutput(out, bytes, { secret, force });
  else if (raw) await writeUnnamed(bytes, '--out');
  else if (!output.isData) await writeStandardOutput(`${bytes.toString('base64')}\n`);
  if (!output.isData || raw || out === '-') return;
  await output.data({
    ...(out === undefined ? { [name]: bytes.toString('base64') } : {}),
    ...facts,
  });
}

interface DecryptOptions {
  readonly key?: string;
  readonly context: Pairs;
  readonly in?: string;
  readonly out?: string;
  readonly force?: boolean;
  readonly raw?: boolean;
  readonly base64?: boolean;
}

/** Adds `decrypt`. */
export function addDecrypt(program: Command): void {
  withForce(program.command('decrypt'))
    .description('decrypt the output of encrypt or data-key, and write the plaintext')
    .option('--key <key>', 'the key that must have encrypted it (default: any key of the tenant)')
    .addOption(contextOption())
    .option('--in <file>', 'the file with the ciphertext (default: standard input)')
    .option('--out <file>', 'write the plaintext to this file, readable only by you')
    .addOption(
      new Option('--raw', 'the ciphertext is raw bytes (default: recognised)').conflicts('base64'),
    )
    .option('--base64', 'the ciphertext is base64 (default: recognised)')
    .addHelpText(
      'after',
      '\nWrites the plaintext byte for byte, and nothing else; to a terminal only if it is ' +
        'text, unless' +
        '\n"--out -" asks for it. --output json prints it in base64, with the key version.' +
        '\n\n  keyward decrypt --tenant acme --context order=17 < secret.txt',
    )
    .action((_options, command: Command) =>
      withClient<DecryptOptions>(command, async (keyward, options) => {
        const { out, output, force = false } = options;
        refuseToOverwrite([out], options);
        const request = await decryptRequest(options);
        const { plaintext, keyVersion } = await keyward.decrypt(request);
        if (out !== undefined) await writeOutput(out, plaintext, { secret: true, force });
        else if (!output.isData) await writeUnnamed(plaintext, '--out');
        if (!output.isData || out === '-') return;
        const shown = out === undefined ? { plaintext: plaintext.toString('base64') } : {};
        await output.data({ ...shown, keyVersion });
      }),
    );
}

async function decryptRequest(
  options: DecryptOptions & Pick<GlobalOptions, 'tenant'>,
): Promise<DecryptRequest> {
  const { tenant, raw, base64, context } = options;
  if (tenant === undefined && options.key === undefined) {
    throw new UsageError(
      'cannot decrypt the ciphertext: its tenant is missing; give --tenant, or the full ' +
        'name of its key as --key',
    );
  }
  const key = options.key === undefined ? undefined : keyName(options.key, tenant);
  const form = raw ? 'raw' : base64 ? 'base64' : undefined;
  return {
    parent: key === undefined ? tenantName(tenant?.name ?? '') : parentOf(key),
    ciphertext: await readCiphertext(options.in, form),
    encryptionContext: context,
    ...(key === undefined ? {} : { key }),
  };
}

interface DataKeyOptions {
  readonly context: Pairs;
  readonly length: number;
  readonly plaintextOut?: string;
  readonly wrappedOut?: string;
  readonly showPlaintext?: boolean;
  readonly withoutPlaintext?: boolean;
  readonly force?: boolean;
}

/** Adds `data-key`. */
export function addDataKey(program: Command): void {
  withForce(program.command('data-key <key>'))
    .description(
      'issue a data key for your own encryption; the service does not store it (see ' +
        '"stored-data-keys")',
    )
    .addOption(contextOption())
    .option('--length <bytes>', 'its length: 16, 32 or 64', wholeNumber, 32)
    .option('--plaintext-out <file>', 'write the raw data key to this file, readable only by you')
    .option('--wrapped-out <file>', 'write the raw wrapped data key to this file')
    .option('--show-plaintext', 'also print the data key')
    .addOption(
      new Option(
        '--without-plaintext',
        'issue it for another caller to open; the data key itself stays in the HSM agent',
      ).conflicts(['plaintextOut', 'showPlaintext']),
    )
    .addHelpText(
      'after',
      '\nPrints JSON: the key version, and the wrapped data key in base64 unless it goes ' +
        'to a file. The data key itself' +
        '\nis printed only with --show-plaintext; "keyward decrypt" recovers it from the ' +
        'wrapped one at any time.' +
        '\n\n  keyward data-key tenants/acme/keys/orders --plaintext-out key.bin ' +
        '--wrapped-out key.wrapped',
    )
    .action((key: string, _options, command: Command) =>
      withClient<DataKeyOptions>(command, async (keyward, options) => {
        const name = keyName(key, options.tenant);
        refuseToOverwrite([options.wrappedOut, options.plaintextOut], options);
        await deliver(await issue(keyward, name, options), options);
      }),
    );
}

/** A data key, with its plaintext unless that is not to be had. */
interface IssuedDataKey {
  readonly plaintext?: Buffer;
  readonly wrappedDataKey: Buffer;
  readonly keyVersion: string;
}

function issue(
  keyward: KeywardClient,
  name: string,
  options: DataKeyOptions,
): Promise<IssuedDataKey> {
  const { context, length, withoutPlaintext } = options;
  const request = { name, encryptionContext: context, length };
  return withoutPlaintext
    ? keyward.generateDataKeyWithoutPlaintext(request)
    : keyward.generateDataKey(request);
}

/** The wrapped one first: without it, the plaintext alone is of no use. */
async function deliver(
  dataKey: IssuedDataKey,
  options: DataKeyOptions & Pick<GlobalOptions, 'output'>,
): Promise<void> {
  const { plaintext, wrappedDataKey, keyVersion } = dataKey;
  const { plaintextOut, wrappedOut, showPlaintext, force = false } = options;
  if (wrappedOut !== undefined) await writeOutput(wrappedOut, wrappedDataKey, { force });
  if (plaintextOut !== undefined && plaintext !== undefined) {
    await writeOutput(plaintextOut, plaintext, { force, secret: true });
  }
  await options.output.data({
    keyVersion,
    ...(wrappedOut === undefined ? { wrappedDataKey: wrappedDataKey.toString('base64') } : {}),
    ...(showPlaintext && plaintext !== undefined
      ? { plaintext: plaintext.toString('base64') }
      : {}),
  });
}

interface ReEncryptOptions {
  readonly context: Pairs;
  readonly newContext: Pairs;
  readonly dropContext?: boolean;
  readonly sourceKey?: string;
  readonly in?: string;
  readonly out?: string;
  readonly force?: boolean;
  readonly raw?: boolean;
}

/** Adds `re-encrypt`. */
export function addReEncrypt(program: Command): void {
  withForce(program.command('re-encrypt <key>'))
    .description('re-encrypt a ciphertext or wrapped data key under the primary version of a key')
    .addOption(contextOption())
    .addOption(pairsOption('--new-context', 'a pair of the new encryption context; repeatable'))
    .addOption(
      new Option('--drop-context', 'give it no encryption context').conflicts('newContext'),
    )
    .option(
      '--source-key <key>',
      'the key that must have encrypted it (default: any key of the tenant)',
    )
    .option('--in <file>', 'the file with the ciphertext, raw or base64 (default: standard input)')
    .option('--out <file>', 'write the raw new ciphertext to this file')
    .option('--raw', 'write raw bytes to standard output, not base64')
    .addHelpText(
      'after',
      '\nWithout --new-context and --drop-context the context stays unchanged. The ' +
        'plaintext never leaves the HSM agent.' +
        '\n\n  keyward re-encrypt tenants/acme/keys/orders --context order=17 < secret.txt ' +
        '> new.txt',
    )
    .action((key: string, _options, command: Command) =>
      withClient<ReEncryptOptions>(command, async (keyward, options) => {
        const { tenant, context, newContext, dropContext, sourceKey } = options;
        refuseToOverwrite([options.out], options);
        const name = keyName(key, tenant);
        const { ciphertext, sourceKeyVersion, keyVersion } = await keyward.reEncrypt({
          name,
          ciphertext: await readCiphertext(options.in, undefined),
          sourceEncryptionContext: context,
          destinationEncryptionContext: dropContext
            ? {}
            : newContext.size > 0
              ? newContext
              : context,
          ...(sourceKey === undefined
            ? {}
            : { sourceKey: keyName(sourceKey, { name: parentOf(name), isGiven: true }) }),
        });
        await putBytes({ ciphertext }, { sourceKeyVersion, keyVersion }, options);
      }),
    );
}

interface RandomOptions {
  readonly out?: string;
  readonly force?: boolean;
  readonly raw?: boolean;
}

/** Adds `random`. */
export function addRandom(program: Command): void {
  withForce(program.command('random'))
    .argument('<bytes>', 'how many: 1 to 1,024', wholeNumber)
    .description("print random bytes from the HSM's generator, in base64")
    .option('--out <file>', 'write them raw to this file, readable only by you')
    .option('--raw', 'write raw bytes to standard output, not base64')
    .action((length: number, _options, command: Command) =>
      withClient<RandomOptions>(command, async (keyward, options) => {
        const { tenant, out } = options;
        if (tenant === undefined)
          throw new UsageError('cannot get random bytes: no tenant is named; give --tenant');
        refuseToOverwrite([out], options);
        const { data } = await keyward.generateRandomBytes({
          parent: tenantName(tenant.name),
          length,
        });
        await putBytes({ data }, {}, options, { secret: true });
      }),
    );
}
