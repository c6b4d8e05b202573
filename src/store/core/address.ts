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
import { requireAuthorities } from '../../pem.ts';

const VERIFIED_MODES = ['require', 'verify-ca', 'verify-full'];
const WEAK_MODES = ['disable', 'allow', 'prefer', 'no-verify'];

/** Where a database is, and how a person names it. */
export interface Address {
  /** What pg connects with: for each server of the database, in the order of the URL. */
  readonly servers: readonly [pg.ClientConfig, ...pg.ClientConfig[]];
  /** `host:port/database`, for messages; several hosts as the URL has them. */
  readonly display: string;
}

/**
 * Reads `postgresql://user:password@host:port/database?sslmode=…`, or `…?host=/directory` for a
 * Unix socket. Several servers, of which one accepts writes at a time, are
 * `…@one:5432,other:5432/…`.
 *
 * TLS modes from `require` on all mean `verify-full`, against the certificates in `caFile` (or
 * `sslrootcert`), else against those that Node trusts.
 *
 * @throws Error, in words for the operator, on anything that it doesn't understand or that isn't
 * safe.
 */
export function parseAddress(url: string, caFile?: string): Address {
  const [, before = '', hosts = '', after = ''] =
    /^([^/]*\/\/(?:[^@/?]*@)?)([^/?]*)(.*)$/s.exec(url) ?? [];
  const [, ...others] = hosts.split(',');
  if (others.length > 0 && hosts.split(',').includes(''))
    throw new Error('cannot use the database URL: one of its hosts is empty');
  const server = parseServer(
    others.length === 0 ? url : before + hosts.split(',')[0] + after,
    caFile,
  );
  const rest = others.map((host) => parseServer(before + host + after, caFile));
  const places = [server, ...rest].map(({ host, port }) => `${host}:${port}`);
  return { servers: [server, ...rest], display: `${places.join(',')}/${server.database}` };
}

function parseServer(url: string, caFile: string | undefined): pg.ClientConfig {
  const parsed = parseUrl(url);
  const parameters = readParameters(parsed);
  const host = parameters.host ?? decoded(parsed.hostname.replace(/^\[(.*)\]$/, '$1'), 'host');
  if (host === '') throw new Error('cannot use the database URL: it names no host');
  const database = decoded(parsed.pathname.slice(1), 'database');
  if (database === '') throw new Error('cannot use the database URL: it names no database');
  const port = parsed.port === '' ? 5432 : Number(parsed.port);
  return {
    host,
    port,
    database,
    user: decoded(parsed.username, 'user'),
    ...(parsed.password === '' ? {} : { password: decoded(parsed.password, 'password') }),
    application_name: parameters.applicationName ?? 'keyward',
    ssl: tlsFor(host, parameters.sslMode, caFile ?? parameters.caFile),
    keepAlive: true,
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
  readonly sessionAttributes?: string;
}

function readParameters(url: URL): Parameters {
  const names: Readonly<Record<string, keyof Parameters>> = {
    host: 'host',
    sslmode: 'sslMode',
    sslrootcert: 'caFile',
    application_name: 'applicationName',
    target_session_attrs: 'sessionAttributes',
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
  const { sessionAttributes = 'read-write' } = parameters;
  if (!['read-write', 'primary'].includes(sessionAttributes)) {
    throw new Error(
      `cannot use the database URL: its target_session_attrs is ${sessionAttributes}, and only a ` +
        'server that accepts writes is used; leave it out, or say read-write',
    );
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
    const pem = readFileSync(path, 'utf8');
    requireAuthorities(pem, path);
    return pem;
  } catch (cause) {
    throw new Error(`cannot use the database's CA file: ${(cause as Error).message}`, { cause });
  }
}

/** Decodes a part of the URL, which no message may quote. */
function decoded(part: string, name: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw new Error(
      `cannot use the database URL: its ${name} has a % that begins no escape; write %25 for %`,
    );
  }
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));
}
