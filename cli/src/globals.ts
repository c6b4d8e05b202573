/**
 * Adds the options that every command has, and reads them.
 *
 * - They may stand before or after a command's own.
 */
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { Tenant } from './names.ts';
import { duration } from './options.ts';
import { FORMATS, type Format, Output } from './output/output.ts';
import type { Settings } from './profiles.ts';

/** What every command is given. */
export interface GlobalOptions extends Omit<Settings, 'tenant'> {
  readonly output: Output;
  readonly profile?: string;
  /** Milliseconds. */
  readonly timeout: number;
  /** The tenant of names that are not full. */
  readonly tenant?: Tenant;
}

/** Adds the options of every command. */
export function addGlobals(program: Command): void {
  program
    .addOption(
      new Option('-o, --output <format>', 'the output format').choices(FORMATS).default('table'),
    )
    .option('--no-headers', 'print tables without their head')
    .option('--profile <name>', 'the profile to use (KEYWARD_PROFILE; see "keyward profiles")')
    .option('--tenant <tenant>', 'the tenant of names that are not full (KEYWARD_TENANT)')
    .option('--address <host:port>', 'the address of the service (KEYWARD_ADDRESS)')
    .option('--ca-file <file>', "PEM of the CA of the service's certificate (KEYWARD_CA_FILE)")
    .option('--cert-file <file>', 'PEM of your certificate (KEYWARD_CERT_FILE)')
    .option('--key-file <file>', "PEM of your certificate's private key (KEYWARD_KEY_FILE)")
    .option(
      '--token-file <file>',
      'your token, alone or bound to your certificate (KEYWARD_TOKEN_FILE)',
    )
    .option(
      '--server-name <name>',
      "the name in the service's certificate, if not the host (KEYWARD_SERVER_NAME)",
    )
    .addOption(
      new Option('--timeout <duration>', 'how long a call may take: 45s, 5m')
        .default(10_000, '10s')
        .argParser(milliseconds),
    );
}

/** A duration; or seconds without a unit. */
function milliseconds(text: string): number {
  const seconds = /^\d+(\.\d+)?$/.test(text) ? Number(text) : duration(text);
  if (!(seconds > 0 && seconds <= 86_400))
    throw new InvalidArgumentError('Write up to a day, as 45s or 5m.');
  return seconds * 1000;
}

/** What commander has of them. */
interface Parsed {
  readonly output: Format;
  readonly headers: boolean;
  readonly limit?: number;
  readonly tenant?: string;
}

/** Returns a command's options, those of every command among them. */
export function optionsOf<Options extends object>(command: Command): GlobalOptions & Options {
  const parsed = command.optsWithGlobals<Parsed & Options>();
  const { output: format, headers, limit } = parsed;
  const name = parsed.tenant ?? (process.env['KEYWARD_TENANT'] || undefined);
  const tenant: Tenant | undefined =
    name === undefined ? undefined : { name, isGiven: parsed.tenant !== undefined };
  const output = new Output({ format, headers, limit });
  return { ...parsed, output, ...(tenant && { tenant }) } as unknown as GlobalOptions & Options;
}
