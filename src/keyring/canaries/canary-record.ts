/**
 * What only an agent can read of a canary: what it is recognised by, and what people said of it.
 *
 * - It is encrypted under the version that the canary itself is under: a copy of the database does
 *   not tell which ciphertexts are canaries, and where that version is destroyed, so that nothing
 *   opens the canary any more, nothing recognises it either.
 * - No context and no subject of a caller's is this one's, so no call opens it.
 */
import { hash } from 'node:crypto';
import { KeywardError, REASONS } from '../../errors.ts';
import { PURPOSE } from '../../hsm/ciphertext.ts';
import type { Agents } from '../../hsm/token-router.ts';
import { type AnyId, type DataKeyId, idToBytes } from '../../ids.ts';
import type { CanaryRow } from '../../store/canaries/canaries.ts';
import type { KeyCache, LoadedVersion } from '../keys/key-cache.ts';

/** What a canary is made as. */
export type CanaryKind = 'payload' | 'dataKey' | 'storedDataKey';

/** What a record holds. */
export interface CanaryContent {
  readonly kind: CanaryKind;
  /** Of the ciphertext, as `saltDigest` makes it. */
  readonly saltDigest: string;
  /** Of a stored data key: the last part of its name, and its UUID. */
  readonly dataKey?: { readonly name: string; readonly id: DataKeyId };
  /** Whether who wants it opened is suspended. */
  readonly suspends: boolean;
  readonly description: string;
  /** In milliseconds since 1970. */
  readonly createdAt: number;
  readonly creator: string;
}

const CONTEXT_DIGEST = hash('sha256', 'keyward/v1/canary-record\0', 'buffer');
/** Failures that say that something is gone or does not verify, and nothing about the HSM. */
const LOST: readonly string[] = [
  'NOT_FOUND',
  'INVALID_ARGUMENT',
  'FAILED_PRECONDITION',
  'DATA_LOSS',
];

/** Encrypts a record. Throws what agents throw. */
export async function sealRecord(
  agents: Pick<Agents, 'call'>,
  { sealed: keyVersion }: LoadedVersion,
  uid: AnyId,
  content: CanaryContent,
  deadline: number,
): Promise<Buffer> {
  const plaintext = Buffer.from(JSON.stringify(content));
  const binding = { subject: idToBytes(uid), contextDigest: CONTEXT_DIGEST };
  const request = { keyVersion, purpose: PURPOSE.payload, ...binding, plaintext };
  const { ciphertext } = await agents.call('seal', request, deadline);
  // A copy: what came is part of a frame, which is overwritten.
  return Buffer.from(ciphertext);
}

/**
 * Opens a record, and says under which key it is. Returns undefined where the version is gone that
 * it is under. Throws what says nothing about that: HSM_UNAVAILABLE, DATABASE_UNAVAILABLE.
 */
export function openRecord(
  { agents, cache }: { readonly agents: Pick<Agents, 'call'>; readonly cache: KeyCache },
  { tenantId, keyId, version, uid, record }: CanaryRow,
  deadline: number,
): Promise<{ readonly key: string; readonly content: CanaryContent } | undefined> {
  return unlessLost(async () => {
    const key = await cache.key(tenantId, keyId);
    const loaded = key && (await cache.version(key, version));
    if (loaded === undefined || loaded.record.state === 'DESTROYED') return undefined;
    const binding = { subject: idToBytes(uid), contextDigest: CONTEXT_DIGEST };
    const request = { keyVersion: loaded.sealed, ...binding, ciphertext: record };
    const { plaintext } = await agents.call('open', request, deadline);
    const content = JSON.parse(plaintext.toString()) as CanaryContent;
    return { key: key?.record.name ?? '', content };
  });
}

/** Returns what `read` returns, or undefined where what it reads is gone or does not verify. */
export async function unlessLost<T>(read: () => Promise<T | undefined>): Promise<T | undefined> {
  try {
    return await read();
  } catch (error) {
    if (error instanceof KeywardError && LOST.includes(REASONS[error.reason].status))
      return undefined;
    throw error;
  }
}
