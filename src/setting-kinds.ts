/**
 * The kinds of values that settings have: from the text of a variable to what it stands for.
 *
 * - A mistake is said in words that follow the variable's name, with the file's name where there is
 *   one, and nothing of the content of a file or a URL.
 * - Files are read to see that they can be, by what will read them; of a PIN file only its looks.
 */
import { accessSync, constants, readFileSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { z } from 'zod';
import { parseDenyList } from './access/deny-list.ts';
import { parseIssuers } from './access/issuers.ts';
import { parseReceivers } from './alerts/receivers.ts';
import { parseWitnesses } from './audit/witnesses.ts';
import { certificatesIn, privateKeyIn, requireAuthorities } from './pem.ts';
import { parseAddress } from './store/core/address.ts';

export const wholeNumber = (minimum: number, maximum: number) =>
  z
    .string()
    .regex(/^\d+$/, 'must be a whole number')
    .transform(Number)
    .refine((value) => value >= minimum && value <= maximum, `must be ${minimum} to ${maximum}`);
export const integer = (minimum: number, maximum: number, fallback: number) =>
  z.string().default(String(fallback)).pipe(wholeNumber(minimum, maximum));

const MAX_PROCESSES = 256;
/** A number of processes; `auto` is as many as this process may use cores. */
export const processCount = z
  .string()
  .default('1')
  .refine(
    (text) => text === 'auto' || (/^[1-9]\d{0,2}$/.test(text) && Number(text) <= MAX_PROCESSES),
    `must be 1 to ${MAX_PROCESSES}, or auto`,
  )
  .transform((text) => (text === 'auto' ? availableParallelism() : Number(text)));

/** What a check throws is a mistake, in its words. */
const checked = (check: (text: string) => unknown) =>
  z.string().superRefine((text, context) => {
    try {
      check(text);
    } catch (error) {
      context.addIssue({ code: 'custom', message: (error as Error).message });
    }
  });
export const file = checked((path) => requireReadable(path));
export const secretFile = checked((path) => requirePrivate(path));
/** A file that `parse` takes; it gets the text and the file's name. */
const parsed = (what: string, parse: (text: string, path: string) => unknown) => (path: string) => {
  requireReadable(path);
  try {
    parse(readFileSync(path, 'utf8'), path);
  } catch (error) {
    throw new Error(`must name ${what}: ${(error as Error).message}`);
  }
};
/** For what parses a text and does not know whose it is. */
const withPath = (parse: (text: string) => unknown) => (text: string, path: string) => {
  try {
    parse(text);
  } catch (error) {
    throw new Error(`${path}: ${(error as Error).message}`);
  }
};
export const certificatesFile = checked(parsed('certificates in PEM', certificatesIn));
export const authoritiesFile = checked(parsed('certificates of CAs in PEM', requireAuthorities));
export const privateKeyFile = secretFile.pipe(
  checked(parsed('a private key in PEM', privateKeyIn)),
);
export const denyListFile = checked(parsed('a list of certificates', withPath(parseDenyList)));
export const issuersFile = checked(parsed('a list of issuers', withPath(parseIssuers)));
export const witnessesFile = checked(parsed('a list of witnesses', withPath(parseWitnesses)));
export const receiversFile = checked(parsed('a list of receivers', withPath(parseReceivers)));
const DOMAIN =
  /^(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$/;
/** A domain of more than one label, or `localhost`: what browsers take as a relying party. */
export const relyingPartyId = z
  .string()
  .refine(
    (text) => text === 'localhost' || DOMAIN.test(text),
    'must be a domain, as keyward.example, or localhost',
  );
/** A page that browsers have passkeys on. */
export const signOffUrl = checked((text) => {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const isLocal = url?.protocol === 'http:' && url.hostname === 'localhost';
  if (url === undefined || (url.protocol !== 'https:' && !isLocal))
    throw new Error('must begin with https://');
  if (`${url.search}${url.hash}${url.username}${url.password}` !== '')
    throw new Error('must have no user, query or fragment');
});
export const flag = z
  .enum(['true', 'false'], 'must be true or false')
  .transform((value) => value === 'true');
export const names = z
  .string()
  .default('')
  .transform((list) =>
    list
      .split(',')
      .map((name) => name.trim())
      .filter((name) => name !== ''),
  )
  .refine((list) => !list.some((name) => /\s/.test(name)), 'must be separated by commas');
export const variableNames = names.refine(
  (list) => list.every((name) => /^[A-Za-z_][A-Za-z0-9_]*$/.test(name)),
  'must be names of environment variables',
);
export const databaseUrl = checked((url) => parseAddress(url));
export const listen = z
  .string()
  .regex(/^(\[[0-9a-f:.]+\]|[^:[\]]+):\d{1,5}$/i, 'must be host:port, IPv6 as [address]:port')
  .refine((address) => Number(/\d+$/.exec(address)?.[0]) <= 65_535, 'must have a port up to 65535');
export const tokenSelector = z
  .string()
  .min(1, 'must name a token')
  .refine((selector) => !selector.startsWith('pkcs11:') || isTokenUri(selector), {
    error:
      'must be a label, or a pkcs11: URI (RFC 7512) of token, serial, manufacturer and model ' +
      'only, without a PIN',
  });

/** Throws Error, in words for the operator. */
function requireReadable(path: string): void {
  let why = path === '' ? 'its name is empty' : '';
  try {
    accessSync(path, constants.R_OK);
    if (!statSync(path).isFile()) why = `${path} is not a file`;
  } catch (error) {
    why ||= (error as Error).message;
  }
  if (why !== '') throw new Error(`must name a file that can be read: ${why}`);
}

/** By the file's looks alone: its content may not be for this process to read. Throws Error. */
function requirePrivate(path: string): void {
  requireReadable(path);
  const { mode, size } = statSync(path);
  if ((mode & 0o077) !== 0)
    throw new Error(`must name a file that only its owner can read; chmod 600 ${path}`);
  if (size === 0) throw new Error(`must name a file with something in it: ${path} is empty`);
}

/** The longest name of a Unix socket, in bytes (unix(7)). */
const MAX_SOCKET_PATH = 107;
export const socketPath = z
  .string()
  .refine((path) => path.startsWith('/'), 'must be an absolute path of a socket')
  .refine(
    (path) => Buffer.byteLength(path) <= MAX_SOCKET_PATH,
    `must have at most ${MAX_SOCKET_PATH} bytes, as names of sockets must`,
  );

const URI_ATTRIBUTES = ['token', 'serial', 'manufacturer', 'model'];

function isTokenUri(uri: string): boolean {
  const parts = uri.slice('pkcs11:'.length).split(';');
  return parts.every((part) => {
    const [name = '', value] = part.split('=', 2);
    return (
      value !== undefined &&
      URI_ATTRIBUTES.includes(name) &&
      !value.includes('?') &&
      isPercentEncoded(value)
    );
  });
}

function isPercentEncoded(value: string): boolean {
  return !/%(?![0-9a-f]{2})/i.test(value) && URL.canParse(`pkcs11:${value}`);
}
