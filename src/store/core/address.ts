/**
 * Where the database is: from a URL to what pg connects with.
 *
 * Its invariant: over a network only TLS with a verified certificate for the very host name.
 * Loopback and Unix sockets may go without. Parameters that a connection pooler in transaction mode
 * refuses, or that would weaken this, are refused by name rather than handed through. No message
 * holds the URL: there is a password in it.
 */
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import type pg from 'pg';

const VERIFIED_MODES = ['require', 'verify-ca', 'verify-full'];
const WEAK_MODES = ['disable', 'allow', 'prefer', 'no-verify'];

/** What pg connects with, and how a person names it. */
export interface Address {
  readonly config: pg.ClientConfig;
  /** `host:port/database`, for messages. */
  readonly display: string;
}

/**
 * Reads `postgresql://user:password@host:port/database?sslmode=…`, or `…?host=/directory` for a
 * Unix socket.
 *
 * TLS modes from `require` on all mean `verify-full`, against the certificates in `caFile` (or
 * `sslrootcert`), else against those that Node trusts.
 *
 * @throws Error, in words for the operator, on anything that it doesn't understand or that isn't
 * safe.
 */
export function parseAddress(url: string, caFile?: string): Address {
  const parsed = parseUrl(url);
  const parameters = readParameters(parsed);
  const host = parameters.host ?? decodeURIComponent(parsed.hostname.replace(/^\[(.*)\]$/, '$1'));
  if (host === '') throw new Error('cannot use the database URL: it names no host');
  const database = decodeURIComponent(parsed.pathname.slice(1));
  if (database === '') throw new Error('cannot use the database URL: it names no database');
  const port = parsed.port === '' ? 5432 : Number(parsed.port);
  return {
    display: `${host}:${port}/${database}`,
    config: {
      host,
      port,
      database,
      user: decodeURIComponent(parsed.username),
      ...(parsed.password === '' ? {} : { password: decodeURIComponent(parsed.password) }),
      application_name: parameters.applicationName ?? 'keyward',
      ssl: tlsFor(host, parameters.sslMode, caFile ?? parameters.caFile),
      keepAlive: true,
    },
  };
}

function parseUrl(url: string): URL {
  // WHATWG URLs have no user without a host, libpq's have: the host is then a parameter, checked by
  // the caller.
  const withHost = url.replace(/^(postgres(?:ql)?:\/\/[^@/]*@)\//, '$1localhost/');
  if (!URL.canParse(withHost)) throw new Error('cannot use the database URL: it is not a URL');
  const parsed = new URL(withHost);
  if (parsed.protocol !== 'postgres:' && parsed.protocol !== 'postgresql:') {
    throw new Error('cannot use the database URL: it must begin with postgresql://');
  }
  if (parsed.username === '') throw new Error('cannot use the database URL: it names no user');
  return parsed;
}

interface Parameters {
  readonly host?: string;
  readonly sslMode?: string;
  readonly caFile?: string;
  readonly applicationName?: string;
}

function readParameters(url: URL): Parameters {
  const names: Readonly<Record<string, keyof Parameters>> = {
    host: 'host',
    sslmode: 'sslMode',
    sslrootcert: 'caFile',
    application_name: 'applicationName',
  };
  const parameters: { -readonly [Name in keyof Parameters]: string } = {};
  for (const [name, value] of url.searchParams) {
    const known = Object.hasOwn(names, name) ? names[name] : undefined;
    if (known === undefined) {
      const accepted = Object.keys(names).join(', ');
      throw new Error(
        `cannot use the database URL: its parameter ${name} is not supported; supported are ${accepted}`,
      );
    }
    parameters[known] = value;
  }
  if (parameters.host !== undefined && !parameters.host.startsWith('/')) {
    throw new Error(
      'cannot use the database URL: its parameter host must be the directory of a Unix socket',
    );
  }
  return parameters;
}

function tlsFor(
  host: string,
  sslMode: string | undefined,
  caFile: string | undefined,
): pg.ClientConfig['ssl'] {
  if (sslMode !== undefined && !VERIFIED_MODES.includes(sslMode) && !WEAK_MODES.includes(sslMode)) {
    throw new Error(`cannot use the database URL: its sslmode ${sslMode} is not known`);
  }
  if (host.startsWith('/')) return false;
  const wanted = sslMode !== undefined && VERIFIED_MODES.includes(sslMode);
  if (isLoopback(host) && !wanted) return false;
  if (sslMode !== undefined && !wanted) {
    throw new Error(
      `cannot use the database URL: sslmode ${sslMode} does not protect the connection to ${host}; use verify-full`,
    );
  }
  return {
    rejectUnauthorized: true,
    ...(caFile === undefined ? {} : { ca: readCertificates(caFile) }),
  };
}

function readCertificates(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new Error(`cannot read the database's CA file ${path}`, { cause });
  }
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));
}
