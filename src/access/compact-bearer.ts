/**
 * Parses a signed token in compact form (RFC 7515, 7.1) and verifies its signature.
 *
 * - It checks, beyond what jose does, that a token has one spelling: canonical base64url without
 *   padding, and no name twice in its header.
 * - The key is one of the issuer's, found by `kid`, never one that the token contains or points to.
 * - The algorithm is on the issuer's list and fits the key.
 */
import { compactVerify } from 'jose';
import { z } from 'zod';
import type { PublicKey } from './public-keys.ts';
import { notAccepted } from './refusal.ts';
import { parseStrictJson } from './strict-json.ts';

/** The largest token that is looked at, in bytes. */
const MAX_TOKEN_BYTES = 8_192;
const COMPACT = /^([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)\.([A-Za-z0-9_-]+)$/;
/**
 * Keys that a token brings or points to itself, and extensions: none is understood, so none may be
 * there.
 */
const FORBIDDEN = ['jwk', 'jku', 'x5u', 'x5c', 'crit', 'b64'] as const;
const HEADER = z.object({
  alg: z.string(),
  kid: z.string().regex(/^[\w.~:@+/=#-]{1,256}$/),
  typ: z.string().optional(),
});

/** A token whose signature was not verified yet. */
export interface CompactToken {
  readonly text: string;
  readonly header: {
    readonly alg: string;
    readonly kid: string;
    readonly typ?: string | undefined;
  };
  readonly payload: Buffer;
}

/** What verifies a signature: jose's. */
export type VerifySignature = (
  token: string,
  key: PublicKey['key'],
  options: { algorithms: string[] },
) => Promise<unknown>;

/** Takes a token apart. Throws a KeywardError for one that isn't written as it must be. */
export function readCompact(text: string): CompactToken {
  if (text.length > MAX_TOKEN_BYTES) throw notAccepted('the token is too large');
  const [, ...parts] = COMPACT.exec(text) ?? [];
  if (parts.length !== 3) throw notAccepted('the token is not a signed JWT in compact form');
  const [head, payload] = parts.map((part) => fromBase64url(part)) as [Buffer, Buffer, Buffer];
  const json = parsed(head, 'header');
  const header = HEADER.safeParse(json);
  if (!header.success) throw notAccepted('the token’s header has no valid alg and kid');
  const forbidden = FORBIDDEN.find((name) => Object.hasOwn(json as object, name));
  if (forbidden !== undefined) throw notAccepted(`the token’s header has ${forbidden}`);
  return { text, header: header.data, payload };
}

/** The JSON of one of a token's parts. */
export function parsed(bytes: Buffer, part: 'header' | 'payload'): unknown {
  try {
    return parseStrictJson(bytes);
  } catch {
    throw notAccepted(`the token’s ${part} is not JSON with each name once`);
  }
}

/** Bytes of base64url without padding, in the one spelling that encoding them gives. */
export function fromBase64url(text: string): Buffer {
  const bytes = Buffer.from(text, 'base64url');
  if (bytes.toString('base64url') !== text)
    throw notAccepted('the token is not in canonical base64url');
  return bytes;
}

/**
 * Throws unless `key` has signed the token, by an algorithm that both the issuer and the key allow.
 */
export async function verifySigned(
  { text, header: { alg } }: CompactToken,
  key: PublicKey | undefined,
  verify: VerifySignature = compactVerify,
): Promise<void> {
  if (key === undefined) throw notAccepted('the token’s kid names no key of its issuer');
  if (!key.algorithms.includes(alg))
    throw notAccepted('the token’s algorithm does not fit its key');
  try {
    await verify(text, key.key, { algorithms: [alg] });
  } catch (error) {
    throw notAccepted(
      `the token’s signature does not verify (${(error as { code?: string }).code})`,
    );
  }
}
