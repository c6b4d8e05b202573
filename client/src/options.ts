/**
 * What a client is given: where the service is, who calls, and how the client is to behave.
 *
 * Its invariant: what makes no sense together is refused before anything is sent.
 */
import type { TransportOptions } from './call.ts';
import { type CredentialSources, Credentials, type PemSource } from './credentials.ts';
import { type Hooks, Reporter, type TraceHeaders } from './hooks.ts';
import { Proofs, type StepUp } from './proofs.ts';
import { credentialsOf, findConnection, placeOf, type Spelling } from './settings/connection.ts';
import { SettingsError } from './settings/errors.ts';
import { checked, type Token, TokenSource } from './token.ts';

/** PEM, as a file's path or as itself. */
type Pem<Name extends string> =
  | ({ readonly [N in `${Name}File`]: string } & { readonly [N in Name]?: never })
  | ({ readonly [N in Name]: string | Uint8Array } & { readonly [N in `${Name}File`]?: never });

/** No certificate. */
interface NoPem {
  readonly cert?: never;
  readonly certFile?: never;
  readonly key?: never;
  readonly keyFile?: never;
}

/** Who calls: whom a certificate or a token says, or a token that is bound to the certificate. */
type Caller =
  | (Pem<'cert'> & Pem<'key'> & { readonly token?: Token })
  | (NoPem & { readonly token: Token });

/** How a client behaves, wherever the service is and whoever calls. */
export interface ClientOptions {
  /**
   * How long a call may take, retries included, unless the call says otherwise. 10,000 unless
   * given.
   */
  readonly defaultTimeoutMs?: number;
  /**
   * How often at most a call is tried again, only where that can help; a change is made once all
   * the same. Another address that serves is tried besides. 4 unless given.
   */
  readonly retries?: number;
  /**
   * Whether the client holds back calls that a full service would most likely refuse: they are
   * refused as the service refuses them, and not sent. Yes unless `false`.
   */
  readonly throttle?: boolean;
  /**
   * How many connections there are to an address, which calls use in turn. A server process serves
   * a connection; several connections meet several of them. 1 unless given, up to 64.
   */
  readonly connections?: number;
  /**
   * Whether bytes are sent with their CRC32C, and answers compared with theirs. Yes unless `false`.
   */
  readonly checksums?: boolean;
  /**
   * Returns a token of a stronger or fresher sign-in by the same person. Called when the service
   * wants one (`STEP_UP_REQUIRED`), once for a call, and of a stream once between two answers. The
   * call is then made again, the same bytes, and its deadline is later by as long as this took. The
   * token is sent with other calls too, until it expires. With a `token` only.
   */
  readonly stepUp?: (wanted: StepUp) => Promise<string>;
  /**
   * Returns the trace context that a call is sent with. Asked when a call begins, in the caller's
   * own asynchronous context.
   */
  readonly traceContext?: () => TraceHeaders;
  /** Told of calls, retries, connections and files: one, or several in their order. */
  readonly hooks?: Hooks | readonly Hooks[];
}

/** Where the service is: one address, or several. */
interface Where {
  readonly address?: string;
  readonly addresses?: readonly string[];
  /** The name that the service's certificates must have, where it isn't the address's host. */
  readonly serverName?: string;
}

/**
 * Where the service is, how it proves itself (`ca`), and who calls (`cert` and `key`, `token`, or a
 * bound token with both).
 *
 * An address is `host:port`, an IPv6 address in brackets; `address` may also be several, separated
 * by commas. Calls go to the first that serves. Files of certificates and keys are read again when
 * they change. A `token` that is a function is called when a token is needed: at first, shortly
 * before the one that it gave expires, and once when the service refuses that.
 */
export type ConnectOptions = ClientOptions & Where & Pem<'ca'> & Caller;

/**
 * Where the service is and who calls, by the environment: `KEYWARD_ADDRESS`, `KEYWARD_CA_FILE`,
 * `KEYWARD_CERT_FILE`, `KEYWARD_KEY_FILE`, `KEYWARD_TOKEN_FILE`, `KEYWARD_SERVER_NAME`, and what
 * they leave out by a profile, as the `keyward` command reads it; and `KEYWARD_CONNECTIONS` and
 * `KEYWARD_THROTTLE`, where `connections` and `throttle` are not given.
 */
export type EnvironmentOptions = ClientOptions & {
  /** The profile's name. `KEYWARD_PROFILE`, else the default, unless given. */
  readonly profile?: string;
};

/** How each setting is given to {@link connect}. */
const SPELLING: Spelling = {
  address: 'address to connect()',
  caFile: 'caFile to connect()',
  certFile: 'certFile to connect()',
  keyFile: 'keyFile to connect()',
  tokenFile: 'token to connect()',
  serverName: 'serverName to connect()',
};

const MAX_CONNECTIONS = 64;
const CONNECTION = [
  ...['address', 'addresses', 'serverName', 'ca', 'caFile'],
  ...['cert', 'certFile', 'key', 'keyFile', 'token'],
];

/** A profile has one: left out here, the certificate alone would call. */
function refuseTokenFile({ token, tokenFile }: { token?: unknown; tokenFile?: unknown }): void {
  if (tokenFile !== undefined && token === undefined)
    throw new TypeError('connect() takes no tokenFile: give token, a function that reads the file');
}

/**
 * Returns the options with what the environment says, where they say nothing of the service and the
 * caller: options and environment are never mixed, so that no credential of the one goes to an
 * address of the other. Throws a SettingsError, and a TypeError for a mixture.
 */
export function withEnvironment(options: ConnectOptions | EnvironmentOptions): ConnectOptions {
  refuseTokenFile(options as object);
  const { profile, ...rest } = options as EnvironmentOptions & ConnectOptions;
  const given = CONNECTION.filter((name) => rest[name as keyof typeof rest] !== undefined);
  if (given.length > 0) {
    if (profile === undefined) return rest;
    throw new TypeError(`profile and ${given[0]} exclude each other: give one of them`);
  }
  const found = findConnection(profile === undefined ? {} : { profile }, SPELLING);
  const { issuer } = found.settings;
  if (issuer !== undefined)
    throw new SettingsError(
      `cannot connect as the profile ${found.profile?.name}: it is of a person who signs in with ` +
        'the command; give one with certFile and keyFile, or tokenFile',
    );
  const connections = rest.connections ?? connectionsIn(process.env);
  const throttle = rest.throttle ?? throttleIn(process.env);
  return {
    ...{ ...rest, ...placeOf(found.settings), ...credentialsOf(found.settings) },
    ...(connections !== undefined && { connections }),
    ...(throttle !== undefined && { throttle }),
  } as ConnectOptions;
}

/** Throws a SettingsError. */
function connectionsIn({ KEYWARD_CONNECTIONS: text }: NodeJS.ProcessEnv): number | undefined {
  if (!text) return undefined;
  if (/^\d{1,3}$/.test(text) && isConnections(Number(text))) return Number(text);
  throw new SettingsError(`KEYWARD_CONNECTIONS must be a whole number, 1 to ${MAX_CONNECTIONS}`);
}

/** Throws a SettingsError. */
function throttleIn({ KEYWARD_THROTTLE: text }: NodeJS.ProcessEnv): boolean | undefined {
  if (!text) return undefined;
  if (text === 'true' || text === 'false') return text === 'true';
  throw new SettingsError('KEYWARD_THROTTLE must be true or false');
}

function isConnections(number: number): boolean {
  return Number.isInteger(number) && number >= 1 && number <= MAX_CONNECTIONS;
}

/** Returns what a client's options come to. Throws a TypeError or a SettingsError. */
export function transportOptions(options: ConnectOptions): TransportOptions {
  const { serverName, defaultTimeoutMs = 10_000, retries = 4, checksums = true } = options;
  const { throttle = true } = options;
  const { ca, caFile, token, traceContext, stepUp, hooks, connections = 1 } = options;
  if (!Number.isInteger(retries) || retries < 0)
    throw new TypeError('retries must be a whole number');
  if (!isConnections(connections))
    throw new TypeError(`connections must be a whole number, 1 to ${MAX_CONNECTIONS}`);
  if (typeof throttle !== 'boolean') throw new TypeError('throttle must be true or false');
  if (typeof checksums !== 'boolean') throw new TypeError('checksums must be true or false');
  const addresses = addressesOf(options);
  const proofs = proofsOf(token, stepUp);
  const identity = identityOf(options);
  return {
    addresses,
    connections,
    serverName,
    defaultTimeoutMs,
    retries,
    throttle,
    traceContext,
    reporter: new Reporter(hooks),
    credentials: new Credentials({ ca: pem('ca', ca, caFile), identity }),
    proofs,
  };
}

function addressesOf({ address, addresses }: ConnectOptions): readonly string[] {
  if ((address === undefined) === (addresses === undefined))
    throw new TypeError('address or addresses must be given, and only one of them');
  const all: unknown = addresses ?? (typeof address === 'string' ? address.split(/\s*,\s*/) : 0);
  if (!Array.isArray(all) || all.length === 0) throw new TypeError('addresses must be a list');
  for (const [index, each] of all.entries()) {
    if (typeof each !== 'string' || !isAddress(each))
      throw new TypeError(`address must be host:port, not ${JSON.stringify(each)}`);
    if (all.indexOf(each) < index) throw new TypeError(`addresses must not have ${each} twice`);
  }
  return all as readonly string[];
}

function isAddress(text: string): boolean {
  const [, port] = /^(?:[^\s:/,[\]]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})$/.exec(text) ?? [];
  return port !== undefined && Number(port) > 0 && Number(port) < 65_536;
}

function proofsOf(token: Token | undefined, stepUp: ClientOptions['stepUp']): Proofs | undefined {
  if (token === undefined) return undefined;
  if (typeof token === 'string') checked(token);
  else if (typeof token !== 'function') throw new TypeError('token must be a string or a function');
  return new Proofs(new TokenSource(token), stepUp);
}

/** A key without a certificate, or the other way round, is a mistake, with a token or without. */
function identityOf(options: ConnectOptions): CredentialSources['identity'] {
  const { cert, certFile, key, keyFile, token } = options;
  const isBare = [cert, certFile, key, keyFile].every((given) => given === undefined);
  if (isBare && token !== undefined) return undefined;
  return { cert: pem('cert', cert, certFile), key: pem('key', key, keyFile) };
}

function pem(
  name: string,
  text: string | Uint8Array | undefined,
  file: string | undefined,
): PemSource {
  if (text !== undefined) return { name, pem: Buffer.from(text as string).toString() };
  if (file === undefined) throw new TypeError(`${name} or ${name}File must be given`);
  return { file };
}
