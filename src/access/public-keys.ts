/**
 * Reads an issuer's public keys from a JSON Web Key Set (RFC 7517).
 *
 * - A key is used only for signatures, only with algorithms that both the issuer's list and the key
 *   allow, and only if it is strong and well formed. Symmetric keys are never used.
 * - Two keys with the same `kid` count as none.
 * - Other keys in a set are skipped; what is not a set is refused.
 */
import { createHash, createPublicKey, type JsonWebKey, type KeyObject } from 'node:crypto';
import { z } from 'zod';
import { parseStrictJson } from './strict-json.ts';

/** What tokens may be signed with: each with what its key has to be. */
const KEY_OF = {
  RS256: 'RSA',
  RS384: 'RSA',
  RS512: 'RSA',
  PS256: 'RSA',
  PS384: 'RSA',
  PS512: 'RSA',
  ES256: 'P-256',
  ES384: 'P-384',
  ES512: 'P-521',
  EdDSA: 'Ed25519',
} as const;

/** Names an algorithm that an issuer may use. */
export type Algorithm = keyof typeof KEY_OF;
export const ALGORITHMS = Object.keys(KEY_OF) as readonly Algorithm[];

/** Holds one key: the same object as long as the issuer publishes the same key. */
export interface PublicKey {
  readonly key: KeyObject;
  readonly algorithms: readonly string[];
  /** SHA-256 of what makes up this object. */
  readonly fingerprint: string;
}

/** Maps `kid` to a key. */
export type PublicKeys = ReadonlyMap<string, PublicKey>;

const MAX_KEYS = 100;
const RSA_BITS = { least: 2_048, most: 8_192 } as const;
/** FIPS 186-5 wants more than 2^16; a large one costs time. */
const RSA_EXPONENT = { least: 65_537n, most: 0xffff_ffffn } as const;
/**
 * Where the powers of 65537 are few: a modulus that is one of them modulo every such prime was made
 * by CVE-2017-15361.
 */
const ROCA_PRIMES = [11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157];

const number = z.string().regex(/^[\w-]+$/);
const common = {
  kid: z.string().min(1).max(256),
  use: z.literal('sig').optional(),
  key_ops: z
    .array(z.string())
    .refine((operations) => operations.includes('verify'))
    .optional(),
  alg: z.string().optional(),
};
const KEY = z.discriminatedUnion('kty', [
  // A first byte of 0 is another spelling of the same key (RFC 7518, 2).
  z.object({
    kty: z.literal('RSA'),
    n: number.refine((n) => Buffer.from(n, 'base64url')[0] !== 0),
    e: number,
    ...common,
  }),
  z.object({
    kty: z.literal('EC'),
    crv: z.enum(['P-256', 'P-384', 'P-521']),
    x: number,
    y: number,
    ...common,
  }),
  z.object({ kty: z.literal('OKP'), crv: z.literal('Ed25519'), x: number, ...common }),
]);
const SET = z.object({ keys: z.array(z.unknown()).max(MAX_KEYS) });

/**
 * Returns the keys of a set that may be used with `allowed`. An unchanged key stays the same object
 * as before. Throws for what is not a set.
 */
export function readKeySet(
  bytes: Uint8Array,
  allowed: readonly Algorithm[],
  before: PublicKeys = new Map(),
): PublicKeys {
  const keys = keysOf(bytes);
  const found = new Map<string, PublicKey>();
  const ambiguous = new Set<string>();
  for (const jwk of keys) {
    const { kid } = (jwk ?? {}) as { readonly kid?: unknown };
    const key = readKey(jwk, allowed);
    if (key === undefined || typeof kid !== 'string') continue;
    if (found.has(kid)) ambiguous.add(kid);
    const same = before.get(kid);
    found.set(kid, same?.fingerprint === key.fingerprint ? same : key);
  }
  for (const kid of ambiguous) found.delete(kid);
  return found;
}

function keysOf(bytes: Uint8Array): readonly unknown[] {
  try {
    return SET.parse(parseStrictJson(bytes)).keys;
  } catch (cause) {
    throw new Error(`must be a JSON Web Key Set of up to ${MAX_KEYS} keys`, { cause });
  }
}

function readKey(jwk: unknown, allowed: readonly Algorithm[]): PublicKey | undefined {
  const parsed = KEY.safeParse(jwk);
  // A private key that is published is no secret any more.
  if (!parsed.success || Object.hasOwn(jwk as object, 'd')) return undefined;
  const { data } = parsed;
  const kind = data.kty === 'RSA' ? 'RSA' : data.crv;
  const algorithms = allowed.filter(
    (algorithm) => KEY_OF[algorithm] === kind && (data.alg === undefined || data.alg === algorithm),
  );
  if (algorithms.length === 0) return undefined;
  try {
    const key = createPublicKey({ key: data as JsonWebKey, format: 'jwk' });
    if (!isStrongEnough(key) || (data.kty === 'RSA' && isRoca(data.n))) return undefined;
    const content = JSON.stringify([key.export({ format: 'jwk' }), algorithms]);
    return { key, algorithms, fingerprint: createHash('sha256').update(content).digest('base64') };
  } catch {
    return undefined; // Not a key: a point off its curve, say.
  }
}

function isStrongEnough({ asymmetricKeyType, asymmetricKeyDetails }: KeyObject): boolean {
  if (asymmetricKeyType !== 'rsa') return true;
  const { modulusLength = 0, publicExponent = 0n } = asymmetricKeyDetails ?? {};
  return (
    modulusLength >= RSA_BITS.least &&
    modulusLength <= RSA_BITS.most &&
    publicExponent >= RSA_EXPONENT.least &&
    publicExponent <= RSA_EXPONENT.most
  );
}

/**
 * Whether the private key of that modulus can be computed, since its primes were made by a formula.
 */
function isRoca(modulus: string): boolean {
  const n = BigInt(`0x${Buffer.from(modulus, 'base64url').toString('hex')}`);
  return ROCA_PRIMES.every((prime) => {
    const remainder = Number(n % BigInt(prime));
    for (let power = 1, i = 0; i < prime; i += 1, power = (power * 65_537) % prime) {
      if (power === remainder) return true;
    }
    return false;
  });
}
