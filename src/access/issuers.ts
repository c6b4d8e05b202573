/**
 * Parses the file of issuers whose tokens are accepted; docs/access.md describes its format.
 *
 * - A file with a mistake is refused as a whole, and every mistake is reported at once.
 * - A member of an unknown name is a mistake, since it may have been meant as a limit.
 */
import { accessSync, constants, readFileSync } from 'node:fs';
import { z } from 'zod';
import { requireAuthorities } from '../pem.ts';
import { ALGORITHMS, type Algorithm } from './public-keys.ts';
import { parseStrictJson } from './strict-json.ts';

/** Where an issuer's keys are. */
export type KeySource =
  | { readonly file: string }
  | {
      readonly url: string;
      /** PEM of the authorities that may vouch for the endpoint, in place of Node's own. */
      readonly ca?: string | undefined;
      /** A file with the bearer token that the endpoint wants, read for each request. */
      readonly tokenFile?: string | undefined;
    };

/** One issuer, and what its tokens have to be. */
export interface Issuer {
  /** In callers' names. */
  readonly name: string;
  /** `iss`, exactly. */
  readonly issuer: string;
  readonly audience: string;
  /** `typ`, in lower case and without `application/`; null for tokens that have none. */
  readonly type: string | null;
  readonly algorithms: readonly Algorithm[];
  readonly keys: KeySource;
  readonly maxLifetimeSeconds: number;
  /** Whether its `acr`, `amr` and `auth_time` count where approval rules ask for them. */
  readonly vouchesForAuthentication: boolean;
  /** Where in a token's claims each is: names, one within the other. */
  readonly claims: {
    readonly principal: readonly string[];
    readonly tenants?: readonly string[] | undefined;
    readonly groups?: readonly string[] | undefined;
  };
}

/** A claim's name, or the names of one within the other. */
const claim = z
  .union([z.string().min(1), z.array(z.string().min(1)).min(1).max(5)])
  .transform((path) => [path].flat());

const file = z.string().refine(isReadable, 'must name a file that can be read');
const caFile = file.refine((path) => hasAuthorities(path), {
  error: 'must name certificates of CAs in PEM, all of which can be read',
});

const ISSUER = z
  .strictObject({
    name: z
      .string()
      .regex(
        /^[a-z][a-z0-9-]{0,30}$/,
        'must be up to 31 characters of a-z, 0-9 and -, beginning with a letter',
      ),
    issuer: z.string().min(1).max(512),
    audience: z.string().min(1).max(512),
    type: z.union([z.null(), z.string().min(1).max(64).transform(mediaType)]).default('at+jwt'),
    algorithms: z.array(z.enum(ALGORITHMS)).min(1),
    jwksUrl: z
      .string()
      .refine(isTrustworthy, 'must be https://, or http:// on a loopback address')
      .optional(),
    jwksCaFile: caFile.optional(),
    jwksTokenFile: file.optional(),
    jwksFile: file.optional(),
    maxLifetimeSeconds: z.int().min(1).max(86_400).default(3_600),
    vouchesForAuthentication: z.boolean().default(false),
    claims: z
      .strictObject({
        principal: claim.default(['sub']),
        tenants: claim.optional(),
        groups: claim.optional(),
      })
      .default({ principal: ['sub'] }),
  })
  .refine(({ jwksUrl, jwksFile }) => (jwksUrl === undefined) !== (jwksFile === undefined), {
    error: 'must have either jwksUrl or jwksFile',
  })
  .refine(({ jwksCaFile, jwksUrl }) => jwksCaFile === undefined || jwksUrl?.startsWith('https:'), {
    error: 'jwksCaFile must come with a jwksUrl that is https',
  })
  .refine(
    ({ jwksTokenFile, jwksUrl }) => jwksTokenFile === undefined || jwksUrl?.startsWith('https:'),
    { error: 'jwksTokenFile must come with a jwksUrl that is https' },
  );

const FILE = z.strictObject({
  issuers: z
    .array(ISSUER)
    .min(1)
    .refine((all) => areDistinct(all.map(({ name }) => name)), 'must have distinct names')
    .refine((all) => areDistinct(all.map(({ issuer }) => issuer)), 'must have distinct issuers'),
});

/** The issuers that the file's text describes. Throws an error with every mistake, a line each. */
export function parseIssuers(text: string): readonly Issuer[] {
  let json: unknown;
  try {
    json = parseStrictJson(Buffer.from(text));
  } catch (cause) {
    throw new Error('must be JSON with each name once', { cause });
  }
  const result = FILE.safeParse(json);
  if (!result.success) {
    const lines = result.error.issues.map(
      ({ path, message }) => `${path.map(String).join('.')}: ${message}`,
    );
    throw new Error(`must be a list of issuers\n${lines.join('\n')}`);
  }
  return result.data.issuers.map(
    ({ jwksUrl, jwksFile = '', jwksCaFile, jwksTokenFile, ...rest }) => ({
      ...rest,
      keys:
        jwksUrl === undefined
          ? { file: jwksFile }
          : {
              url: jwksUrl,
              ca: jwksCaFile === undefined ? undefined : readFileSync(jwksCaFile, 'utf8'),
              tokenFile: jwksTokenFile,
            },
    }),
  );
}

/** A `typ` as it is compared (RFC 7515, 4.1.9). */
export function mediaType(type: string): string {
  return type.toLowerCase().replace(/^application\//, '');
}

/** Over plain HTTP whoever is on the way decides which keys are believed. */
function isTrustworthy(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { protocol, hostname, username, password } = new URL(text);
  if (username !== '' || password !== '') return false;
  const isLoopback = /^(localhost|127(\.\d+){3}|\[::1\])$/.test(hostname);
  return protocol === 'https:' || (protocol === 'http:' && isLoopback);
}

function isReadable(path: string): boolean {
  try {
    accessSync(path, constants.R_OK);
    return true;
  } catch {
    return false;
  }
}

function hasAuthorities(path: string): boolean {
  try {
    requireAuthorities(readFileSync(path, 'utf8'), path);
    return true;
  } catch {
    return false;
  }
}

function areDistinct(values: readonly string[]): boolean {
  return new Set(values).size === values.length;
}
