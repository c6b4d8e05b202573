/**
 * Public keys of passkeys as authenticators write them (COSE: RFC 9053, section 7; RFC 8230), made
 * into SubjectPublicKeyInfo.
 */
import { createPublicKey, type JsonWebKey, type KeyObject } from 'node:crypto';
import { PASSKEY_ALGORITHMS, type PasskeyRecord } from './approval-records.ts';

/** COSE's names of a key's members (RFC 9053, section 7; RFC 8230, section 4). */
const COSE = { keyType: 1, algorithm: 3, curve: -1, x: -2, y: -3, modulus: -1, exponent: -2 };
const MIN_RSA_BITS = 2_048;

/** Returns the key as SPKI. Throws Error for what is no key of an accepted algorithm. */
export function publicKeyOfCose(
  cose: ReadonlyMap<number, unknown>,
): Pick<PasskeyRecord, 'algorithm' | 'publicKey'> {
  const algorithm = Number(cose.get(COSE.algorithm));
  const key = createPublicKey({ key: jwkOf(cose, algorithm), format: 'jwk' });
  if (key.asymmetricKeyType === 'rsa' && bitsOf(key) < MIN_RSA_BITS)
    throw new Error(`its RSA key has fewer than ${MIN_RSA_BITS} bits`);
  return { algorithm, publicKey: key.export({ format: 'der', type: 'spki' }) };
}

function bitsOf({ asymmetricKeyDetails }: KeyObject): number {
  return asymmetricKeyDetails?.modulusLength ?? 0;
}

function jwkOf(cose: ReadonlyMap<number, unknown>, algorithm: number): JsonWebKey {
  const [keyType, curve] = [cose.get(COSE.keyType), cose.get(COSE.curve)];
  const text = (member: number) => {
    const bytes = cose.get(member);
    if (!(bytes instanceof Uint8Array)) throw new Error('its public key lacks a member');
    return Buffer.from(bytes).toString('base64url');
  };
  if (algorithm === PASSKEY_ALGORITHMS.ES256 && keyType === 2 && curve === 1)
    return { kty: 'EC', crv: 'P-256', x: text(COSE.x), y: text(COSE.y) };
  if (algorithm === PASSKEY_ALGORITHMS.EdDSA && keyType === 1 && curve === 6)
    return { kty: 'OKP', crv: 'Ed25519', x: text(COSE.x) };
  if (algorithm === PASSKEY_ALGORITHMS.RS256 && keyType === 3)
    return { kty: 'RSA', n: text(COSE.modulus), e: text(COSE.exponent) };
  throw new Error('its public key is not of its algorithm');
}
