/**
 * Finds the service and the caller's credentials, and runs one command with a client.
 *
 * - Each setting comes from its flag, else its variable, else the profile in use
 *   (`client/src/settings/`).
 * - Who signs in has a profile with an issuer in place of a token file (`signed-in.ts`).
 */
import type { Command } from 'commander';
import {
  type ConnectOptions,
  connect,
  type KeywardClient,
  KeywardError,
  type StepUp,
} from 'keyward-client';
import {
  credentialsOf,
  findConnection,
  type Profile,
  type Profiles,
  placeOf,
  profileUsed,
  type Setting,
  type Settings,
  settingsGiven,
  type UsableSettings,
} from 'keyward-client/settings';
import { troubleOnTheWay } from './doctor/reach.ts';
import { type Asked, noteAsked, UsageError, unreached } from './failures.ts';
import { type GlobalOptions, optionsOf } from './globals.ts';
import type { Tenant } from './names.ts';
import { type SignedIn, signedInBy } from './signed-in.ts';

/** Fewer than a program's: a person at a terminal wants to know soon. */
const RETRIES = 2;

const FLAGS: Readonly<Record<Setting, string>> = {
  address: '--address',
  caFile: '--ca-file',
  certFile: '--cert-file',
  keyFile: '--key-file',
  tokenFile: '--token-file',
  serverName: '--server-name',
};

/**
 * Gives `work` a client by the command's options, closed afterwards, and the options. `retries` is
 * for commands that are to outlast a service that is started again.
 */
export async function withClient<Options extends object>(
  command: Command,
  work: (keyward: KeywardClient, options: GlobalOptions & Options) => Promise<void>,
  { retries = RETRIES }: { readonly retries?: number } = {},
): Promise<void> {
  const options = optionsOf<Options>(command);
  const { settings, signedIn } = connectionOf(options);
  const { tenant } = settings;
  const keyward = connected({
    ...placeOf(settings),
    ...(signedIn === undefined ? credentialsOf(settings) : await callerBy(signedIn)),
    defaultTimeoutMs: options.timeout,
    retries,
  });
  try {
    await work(keyward, {
      ...(tenant !== undefined && { tenant: { name: tenant, isGiven: false } }),
      ...options,
    });
  } catch (error) {
    noteAsked(error, askedBy(command, options, options.tenant?.name ?? tenant));
    throw await explained(error, settings, options);
  } finally {
    keyward.close();
  }
}

/** How long each step may take to find out why the service cannot be reached. */
const DIAGNOSIS_MS = 3_000;

/** What keeps the service from being reached, in the doctor's words; any other error as it is. */
async function explained(
  error: unknown,
  settings: Connection['settings'],
  { timeout }: GlobalOptions,
): Promise<unknown> {
  if (!(error instanceof KeywardError) || !unreached(error)) return error;
  const { code } = error;
  // Of several, the one that is preferred.
  const [address = ''] = settings.address.split(/\s*,\s*/);
  const patience = Math.min(timeout, DIAGNOSIS_MS);
  const trouble = await troubleOnTheWay({ ...settings, address }, patience);
  const message = `${trouble ?? error.message}; "keyward doctor" shows more`;
  return new KeywardError({ code, message, cause: error });
}

/** Arguments that name nothing in the service. */
const NO_RESOURCE: readonly string[] = ['bytes', 'folder', 'file', 'paths'];

/** What in the service the user named: by the first argument, else by `--key`. */
function namedBy(command: Command, tenant: Tenant | undefined): string | undefined {
  const [argument, next] = command.registeredArguments;
  const isNext = next !== undefined && argument?.name() === 'tenant' && command.args.length === 1;
  // What comes after a tenant that is no argument.
  if (isNext && tenant?.isGiven) return undefined;
  const isResource = argument !== undefined && !NO_RESOURCE.includes(argument.name());
  return isResource ? command.args[0] : command.opts<{ readonly key?: string }>().key;
}

/** Those that are about a second key, which they need not name. */
const OF_TWO_KEYS: readonly string[] = ['re-encrypt'];

function askedBy(
  command: Command,
  { tenant: given }: GlobalOptions,
  tenant: string | undefined,
): Asked {
  const named = namedBy(command, given);
  const flag = (name: string) => command.options.find(({ long }) => long === `--${name}`)?.long;
  const written = (field: string) => {
    const last = field.replace(/^.*\./, '').replaceAll('_', '-');
    const own = flag(last) ?? (last.endsWith('-id') ? flag('id') : undefined);
    const word =
      command.args[command.registeredArguments.findIndex((each) => each.name() === last)];
    return own ?? word ?? (/^name$|-id$/.test(last) ? named : undefined) ?? field;
  };
  const { id, dataKeyId } = command.opts<{ id?: string; dataKeyId?: string }>();
  const ids = [id, dataKeyId].filter((each) => each !== undefined).join(' or ');
  const created = command.name() === 'create' ? ids || named : undefined;
  const only = OF_TWO_KEYS.includes(command.name()) ? undefined : named;
  return { what: named ?? tenant, only, created, written };
}

/** Returns a client of the service. Throws UsageError where there can be none. */
export function connected(options: ConnectOptions): KeywardClient {
  return usable(() => connect(options));
}

/** Returns what is made of the user's files. Throws UsageError where that cannot be. */
function usable<T>(make: () => T): T {
  try {
    return make();
  } catch (error) {
    throw new UsageError((error as Error).message, { cause: error });
  }
}

/** What flags and variables say, whatever a profile has, and which of them do. */
export function givenBy(options: GlobalOptions): {
  readonly settings: Settings;
  readonly by: string[];
} {
  return settingsGiven(options, FLAGS);
}

/** Returns the profile of them that is used: the one that is named, else the default. */
export function profileInUse(
  options: GlobalOptions,
  profiles: Profiles | undefined,
): Profile | undefined {
  return profileUsed(options, profiles);
}

/** How a command reaches the service. */
export interface Connection {
  readonly settings: UsableSettings;
  /** Where the profile in use is of a person who signs in, and nothing else was given. */
  readonly signedIn: SignedIn | undefined;
}

/** Returns how a command reaches the service. Throws UsageError. */
export function connectionOf(options: GlobalOptions): Connection {
  const { settings, profile, file } = findConnection(options, FLAGS);
  return { settings, signedIn: signedInBy(settings, file, profile?.name) };
}

/** Asked once here, so that what is wrong with the sign-in is told before any call. */
async function callerBy(signedIn: SignedIn) {
  await signedIn.token();
  return {
    token: () => signedIn.token(),
    stepUp: (wanted: StepUp) => signedIn.stepUp(wanted),
  };
}
