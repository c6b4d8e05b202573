/**
 * Where the service is and who calls, found out; and the client for one command.
 *
 * Each setting comes from its flag, else its environment variable, else the development identity that `npm start`
 * writes, `.keyward/client.json`, looked for from the current folder upward. Its invariant: an identity file that
 * belongs to another user is never followed, since it decides where plaintext goes. Knows nothing of the commands.
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
  readonly serverName?: string;
  /** Milliseconds. */
  readonly timeout: number;
}

type Setting = 'address' | 'caFile' | 'certFile' | 'keyFile';

const SOURCES: readonly { setting: Setting; flag: string; variable: string }[] = [
  { setting: 'address', flag: '--address', variable: 'KEYWARD_ADDRESS' },
  { setting: 'caFile', flag: '--ca-file', variable: 'KEYWARD_CA_FILE' },
  { setting: 'certFile', flag: '--cert-file', variable: 'KEYWARD_CERT_FILE' },
  { setting: 'keyFile', flag: '--key-file', variable: 'KEYWARD_KEY_FILE' },
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

function settingsOf(options: GlobalOptions): Record<Setting, string> & { serverName?: string } {
  const found = new Map<Setting, string>();
  for (const { setting, variable } of SOURCES) {
    const value = options[setting] ?? process.env[variable];
    if (value !== undefined && value !== '') found.set(setting, value);
  }
  const identity = found.size < SOURCES.length ? developmentIdentity(process.cwd()) : undefined;
  const value = (setting: Setting): string => {
    const given = found.get(setting) ?? identity?.[setting];
    if (given === undefined) throw new UsageError(missing(setting));
    return given;
  };
  const settings = {
    address: value('address'),
    caFile: value('caFile'),
    certFile: value('certFile'),
    keyFile: value('keyFile'),
  };
  const serverName = options.serverName ?? process.env['KEYWARD_SERVER_NAME'];
  return serverName === undefined ? settings : { ...settings, serverName };
}

function missing(setting: Setting): string {
  const source = SOURCES.find((row) => row.setting === setting);
  return (
    `${setting} is not known: give ${source?.flag}, set ${source?.variable}, or work in a folder ` +
    'with a running development service (.keyward/client.json, made by npm start)'
  );
}

function developmentIdentity(from: string): Partial<Record<Setting, string>> | undefined {
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

/** `{"address", "caFile", "certFile", "keyFile"}`, the files relative to the identity file's folder. */
function readIdentity(file: string): Partial<Record<Setting, string>> {
  let content: unknown;
  try {
    content = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new UsageError(`${file} can't be read: ${fileTrouble(error)}`, { cause: error });
  }
  const identity: Partial<Record<Setting, string>> = {};
  for (const { setting } of SOURCES) {
    const value = (content as Partial<Record<Setting, unknown>> | null)?.[setting];
    if (typeof value !== 'string') throw new UsageError(`${file} lacks ${setting}`);
    identity[setting] = setting === 'address' ? value : resolve(dirname(file), value);
  }
  return identity;
}
