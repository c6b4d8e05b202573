/**
 * An issuer of tokens for tests: keys, tokens of any form, and an endpoint for its JWKS that counts
 * and can fail.
 *
 * Signs with node:crypto and not with what the service verifies with. Knows no test.
 */
import { generateKeyPairSync, type JsonWebKey, type KeyObject, sign } from 'node:crypto';
import { once } from 'node:events';
import { createServer as createHttpServer, type RequestListener } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { Credentials } from '../../dev/certificates.ts';
import type { Issuer } from '../../src/access/issuers.ts';

export const ISSUER = 'https://issuer.test/';
export const AUDIENCE = 'keyward';

/** A key that signs tokens. */
export interface SigningKey {
  readonly kid: string;
  readonly alg: string;
  readonly privateKey: KeyObject;
  /** As a JWKS has it. */
  readonly jwk: JsonWebKey & { readonly kid: string };
}

/** A new key for that algorithm: RS256, PS256, ES256, ES384, ES512 or EdDSA. */
export function signingKey(kid: string, alg = 'ES256', rsaBits = 2048): SigningKey {
  const { publicKey, privateKey } = keyPair(alg, rsaBits);
  return {
    kid,
    alg,
    privateKey,
    jwk: { ...publicKey.export({ format: 'jwk' }), kid, alg, use: 'sig' },
  };
}

function keyPair(alg: string, modulusLength: number) {
  if (alg === 'EdDSA') return generateKeyPairSync('ed25519');
  if (!alg.startsWith('ES')) return generateKeyPairSync('rsa', { modulusLength });
  const curves: Record<string, string> = { ES256: 'P-256', ES384: 'P-384', ES512: 'P-521' };
  return generateKeyPairSync('ec', { namedCurve: curves[alg] ?? '' });
}

/**
 * What is to be changed of a good token; `undefined` leaves a member out. Text and bytes are taken
 * as they are.
 */
export interface TokenChanges {
  readonly header?: Readonly<Record<string, unknown>> | string;
  readonly claims?: Readonly<Record<string, unknown>> | string | Buffer;
  /** Seconds since 1970, instead of now. */
  readonly now?: number;
}

/** A token by that key, good for ten minutes unless changed. */
export function tokenBy(key: SigningKey, changes: TokenChanges = {}): string {
  const now = changes.now ?? Math.floor(Date.now() / 1000);
  const header = { alg: key.alg, kid: key.kid, typ: 'at+jwt' };
  const claims = {
    iss: ISSUER,
    aud: AUDIENCE,
    sub: 'alice',
    iat: now,
    exp: now + 600,
    jti: 'token-1',
  };
  const signed = [jsonOf(header, changes.header), jsonOf(claims, changes.claims)]
    .map((part) => Buffer.from(part).toString('base64url'))
    .join('.');
  return `${signed}.${signatureOf(signed, key).toString('base64url')}`;
}

function jsonOf(good: object, changes: object | string | Buffer = {}): string | Buffer {
  return typeof changes === 'string' || Buffer.isBuffer(changes)
    ? changes
    : JSON.stringify({ ...good, ...changes });
}

function signatureOf(text: string, { alg, privateKey }: SigningKey): Buffer {
  const data = Buffer.from(text);
  if (alg === 'EdDSA') return sign(null, data, privateKey);
  const hash = `sha${alg.slice(2)}`;
  // Padding 6 is PSS, and a salt of -1 as long as the hash.
  if (alg.startsWith('PS'))
    return sign(hash, data, { key: privateKey, padding: 6, saltLength: -1 });
  return sign(hash, data, { key: privateKey, dsaEncoding: 'ieee-p1363' });
}

/** An issuer as the issuers file describes it, trusted with ES256, its keys at `url`. */
export function issuer(url: string, changes: Partial<Issuer> = {}): Issuer {
  return {
    name: 'test',
    issuer: ISSUER,
    audience: AUDIENCE,
    type: 'at+jwt',
    algorithms: ['ES256'],
    keys: { url },
    maxLifetimeSeconds: 3600,
    vouchesForAuthentication: false,
    claims: { principal: ['sub'] },
    ...changes,
  };
}

/** An endpoint for a JWKS, and what it is to do. */
export interface Endpoint extends AsyncDisposable {
  readonly url: string;
  /** What is published. */
  keys: readonly object[];
  /** How often it was asked. */
  requests: number;
  /** Answers in place of the set. */
  answer: RequestListener | undefined;
}

/** Starts an endpoint on a free port of 127.0.0.1; by https with these credentials. */
export async function startEndpoint(
  keys: readonly SigningKey[],
  credentials?: Credentials,
): Promise<Endpoint> {
  const listener: RequestListener = (request, response) => {
    endpoint.requests += 1;
    if (endpoint.answer !== undefined) endpoint.answer(request, response);
    else response.end(JSON.stringify({ keys: endpoint.keys }));
  };
  const server =
    credentials === undefined
      ? createHttpServer(listener)
      : createHttpsServer({ cert: credentials.certPem, key: credentials.keyPem }, listener);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const endpoint: Endpoint = {
    url: `${credentials === undefined ? 'http' : 'https'}://127.0.0.1:${port}/jwks`,
    keys: keys.map(({ jwk }) => jwk),
    requests: 0,
    answer: undefined,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
    },
  };
  return endpoint;
}
