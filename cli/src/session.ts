/**
 * Where the service is and who calls, found out; and the client for one command.
 *
 * Each setting comes from its flag, else its environment variable, else the development identity that `npm start`
 * writes, `.keyward/client.json`, looked for from the current folder upward. A token that is given is not put together with
 * the identity's certificate, nor the other way round: the service refuses both unless they are bound. Its invariant: an
 * identity file that belongs to another user is never followed, since it decides where plaintext goes. Knows nothing of the
 * commands.
 */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import type { Command } from 'commander';
import { connect, type KeywardClient } from 'keyward-client';
import { fileTrouble, UsageError } from './failures.ts';

/** The options that every command has. */
export interface GlobalOptions {
  readonly output: 'table' | 'json';
  readonly address?: string;
  readonly caFile?: string;
  readonly certFile?: string;
  readonly keyFile?: string;
  readonly tokenFile?: string;
  readonly serverName?: string;
  /** Milliseconds. */
  readonly timeout: number;
}

type Setting = 'address' | 'caFile' | 'certFile' | 'keyFile' | 'tokenFile';

const CERTIFICATE = ['certFile', 'keyFile'] as const;

const SOURCES: readonly { setting: Setting; flag: string; variable: string }[] = [
  { setting: 'address', flag: '--address', variable: 'KEYWARD_ADDRESS' },
  { setting: 'caFile', flag: '--ca-file', variable: 'KEYWARD_CA_FILE' },
  { setting: 'certFile', flag: '--cert-file', variable: 'KEYWARD_CERT_FILE' },
  { setting: 'keyFile', flag: '--key-file', variable: 'KEYWARD_KEY_FILE' },
  { setting: 'tokenFile', flag: '--token-file', variable: 'KEYWARD_TOKEN_FILE' },
];

/**
 * Gives `work` a client by the command's options, closed afterwards, and the options. `retries` is for commands that are to
 * outlast a service that is started anew.
 */
export async function withClient<Options extends object>(
  command: Command,
  work: (keyward: KeywardClient, options: GlobalOptions & Options) => Promise<void>,
  { retries }: { readonly retries?: number } = {},
): Promise<void> {
  const options = command.optsWithGlobals<GlobalOptions & Options>();
  const settings = settingsOf(options);
  let keyward: KeywardClient;
  try {
    keyward = connect({
      ...settings,
      ...callerOf(settings),
      defaultTimeoutMs: options.timeout,
      ...(retries === undefined ? {} : { retries }),
    });
  } catch (error) {
    const { code, path } = error as NodeJS.ErrnoException;
    if (path !== undefined) throw new UsageError(`${path}: ${fileTrouble(error)}`, { cause: error });
    const what = code?.startsWith('ERR_OSSL') ? 'the CA, certificate or key file is not usable: ' : '';
    throw new UsageError(what + (error as Error).message, { cause: error });
  }
  try {
    await work(keyward, options);
  } finally {
    keyward.close();
  }
}

type Settings = Partial<Record<Setting, string>>;

function settingsOf(
  options: GlobalOptions,
): { address: string; caFile: string; serverName?: string } & Settings {
  const given: Settings = {};
  for (const { setting, variable } of SOURCES) {
    const value = options[setting] ?? process.env[variable];
    if (value !== undefined && value !== '') given[setting] = value;
  }
  const settings: Settings = isWhole(given) ? given : { ...identityFor(given), ...given };
  const { address = missing('address'), caFile = missing('caFile') } = settings;
  if (settings.certFile === undefined && settings.tokenFile === undefined) missing('certFile');
  if (settings.certFile === undefined && settings.keyFile !== undefined) missing('certFile');
  if (settings.certFile !== undefined && settings.keyFile === undefined) missing('keyFile');
  const serverName = options.serverName ?? process.env['KEYWARD_SERVER_NAME'];
  return { ...settings, address, caFile, ...(serverName === undefined ? {} : { serverName }) };
}

function isWhole({ address, caFile, certFile, keyFile, tokenFile }: Settings): boolean {
  const isSomebody = (certFile !== undefined && keyFile !== undefined) || tokenFile !== undefined;
  return address !== undefined && caFile !== undefined && isSomebody;
}

/** What of the development identity goes with what was given. */
function identityFor({ certFile, keyFile, tokenFile }: Settings): Settings {
  const identity = developmentIdentity(process.cwd()) ?? {};
  if (tokenFile !== undefined) {
    delete identity.certFile;
    delete identity.keyFile;
  } else if (certFile !== undefined || keyFile !== undefined) {
    delete identity.tokenFile;
  }
  return identity;
}

/** A token is read when it is needed, and again when it was refused: something may renew the file. */
function callerOf({ certFile, keyFile, tokenFile }: Settings) {
  const read = (file: string) => readFileSync(file, 'utf8').trim();
  const certificate = certFile === undefined || keyFile === undefined ? undefined : { certFile, keyFile };
  if (tokenFile === undefined) return certificate as NonNullable<typeof certificate>;
  read(tokenFile);
  return { ...certificate, token: () => read(tokenFile) };
}

function missing(setting: Setting): never {
  const source = SOURCES.find((row) => row.setting === setting);
  throw new UsageError(
    `${setting} is not known: give ${source?.flag}, set ${source?.variable}, or work in a folder ` +
      'with a running development service (.keyward/client.json, made by npm start)',
  );
}

function developmentIdentity(from: string): Settings | undefined {
  const file = join(from, '.keyward', 'client.json');
  if (!existsSync(file)) {
    const above = dirname(from);
    return above === from ? undefined : developmentIdentity(above);
  }
  const owner = statSync(file).uid;
  const self = process.getuid?.() ?? owner;
  if (owner !== self && owner !== 0) {
    throw new UsageError(
      `${file} belongs to another user and is not used; say yourself where the service is`,
    );
  }
  return readIdentity(file);
}

/** `{"address", "caFile", "certFile", "keyFile", "tokenFile"}`, the files relative to the identity file's folder. */
function readIdentity(file: string): Settings {
  let content: unknown;
  try {
    content = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new UsageError(`${file} can't be read: ${fileTrouble(error)}`, { cause: error });
  }
  const identity: Settings = {};
  for (const { setting } of SOURCES) {
    const value = (content as Partial<Record<Setting, unknown>> | null)?.[setting];
    if (typeof value === 'string')
      identity[setting] = setting === 'address' ? value : resolve(dirname(file), value);
  }
  const needed: Setting[] = ['address', 'caFile', ...(identity.tokenFile === undefined ? CERTIFICATE : [])];
  const lacking = needed.find((setting) => identity[setting] === undefined);
  if (lacking !== undefined) throw new UsageError(`${file} lacks ${lacking}`);
  return identity;
}
