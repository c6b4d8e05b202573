/**
 * Issuers of tokens for development: what the server reads to accept them, and the tokens.
 *
 * Owns a folder with a key of their own, what is public of it, and the issuers file. Two of them,
 * as there are two kinds in life: one for services, whose tokens name the tenants that they are
 * good for, and one for people, whose tokens name their groups. A third is the provider at which
 * people sign in (`provider.ts`). Invariant: every token is marked as
 * for development, so that no server in production accepts it, whatever its issuers file says.
 * Knows nobody who has a token.
 */
import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  randomUUID,
  X509Certificate,
} from 'node:crypto';
import { join } from 'node:path';
import { SignJWT } from 'jose';
import { readIfThere, writePrivate, writePrivateJson } from './files.ts';
import { SIGN_IN_ISSUER } from './people.ts';

const ALGORITHM = 'ES256';
const KEY_ID = 'development';
const AUDIENCE = 'keyward';
/** How long a token is good for. */
export const TOKEN_LIFETIME_SECONDS = 3_600;

/** `iss` of each, by its name in callers' names. */
const ISSUERS = {
  'dev-services': 'https://keyward.dev/services',
  'dev-people': 'https://keyward.dev/people',
} as const;

/** Whom a token stands for. */
export type TokenRequest = { readonly subject: string } & (
  | {
      readonly issuer: 'dev-services';
      /** The last parts of their names. */
      readonly tenants: readonly string[];
      /** PEM: the certificate that the token is bound to. */
      readonly certificate: string;
    }
  | { readonly issuer: 'dev-people'; readonly groups: readonly string[] }
);

/** Issues tokens for the development environment. */
export interface Issuers {
  /** For KEYWARD_ISSUERS_FILE. */
  readonly file: string;
  /** A token that is good for {@link TOKEN_LIFETIME_SECONDS} from now. */
  issue(request: TokenRequest): Promise<string>;
}

/**
 * Finds the key in the folder or makes it, and writes the files that the server reads. With
 * `signIn`, the `iss` of the provider at which people sign in, its tokens are accepted too.
 */
export function openIssuers(directory: string, signIn?: string): Issuers {
  const key = openKey(join(directory, 'key.pem'));
  const jwksFile = join(directory, 'jwks.json');
  const jwk = createPublicKey(key).export({ format: 'jwk' });
  writePrivateJson(jwksFile, { keys: [{ ...jwk, kid: KEY_ID, alg: ALGORITHM, use: 'sig' }] });
  const file = join(directory, 'issuers.json');
  const common = {
    audience: AUDIENCE,
    algorithms: [ALGORITHM],
    jwksFile,
    maxLifetimeSeconds: TOKEN_LIFETIME_SECONDS,
  };
  const claims = {
    'dev-services': { tenants: 'tenants' },
    'dev-people': { groups: 'groups' },
  } as const;
  const names = Object.keys(ISSUERS) as (keyof typeof ISSUERS)[];
  const own = names.map((name) => ({
    name,
    issuer: ISSUERS[name],
    ...common,
    claims: claims[name],
  }));
  writePrivateJson(file, { issuers: signIn === undefined ? own : [...own, providerAt(signIn)] });
  return { file, issue: (request) => issue(key, request) };
}

function providerAt(issuer: string): object {
  return {
    name: SIGN_IN_ISSUER,
    issuer,
    audience: AUDIENCE,
    algorithms: [ALGORITHM],
    jwksUrl: `${issuer}/jwks`,
    maxLifetimeSeconds: TOKEN_LIFETIME_SECONDS,
    claims: { groups: 'groups' },
    vouchesForAuthentication: true,
  };
}

function openKey(file: string): KeyObject {
  const kept = readIfThere(file);
  if (kept !== undefined) return createPrivateKey(kept);
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  writePrivate(file, privateKey.export({ type: 'pkcs8', format: 'pem' }).toString());
  return privateKey;
}

function issue(key: KeyObject, { subject, ...request }: TokenRequest): Promise<string> {
  const claims =
    request.issuer === 'dev-people'
      ? { groups: request.groups }
      : { tenants: request.tenants, cnf: { 'x5t#S256': thumbprint(request.certificate) } };
  const now = Math.floor(Date.now() / 1000);
  return new SignJWT({ keyward_development: true, ...claims })
    .setProtectedHeader({ alg: ALGORITHM, kid: KEY_ID, typ: 'at+jwt' })
    .setIssuer(ISSUERS[request.issuer])
    .setAudience(AUDIENCE)
    .setSubject(subject)
    .setJti(randomUUID())
    .setIssuedAt(now)
    .setExpirationTime(now + TOKEN_LIFETIME_SECONDS)
    .sign(key);
}

/** RFC 8705, 3.1. */
function thumbprint(certificate: string): string {
  const { fingerprint256 } = new X509Certificate(certificate);
  return Buffer.from(fingerprint256.replaceAll(':', ''), 'hex').toString('base64url');
}
