/**
 * Seals of what the database says and no key version's row does: who may do what, and how keys
 * stand.
 *
 * Owns which kinds of record there are and what their seals are computed over; what a record's
 * content is, byte by byte, its own part of the code says. A seal of one kind verifies for no
 * other, nor as a key version's. Holds no key: the agent computes the HMAC in the token.
 */
import { type EnvironmentId, idToBytes } from '../ids.ts';

/** The kinds of record, as agents are told of them. */
export const RECORD = { policy: 1, keyState: 2 } as const;

/** One of {@link RECORD}'s values. */
export type RecordKind = (typeof RECORD)[keyof typeof RECORD];

const LABELS: ReadonlyMap<number, Buffer> = new Map([
  [RECORD.policy, Buffer.from('keyward/v1/seal/policy\0', 'latin1')],
  [RECORD.keyState, Buffer.from('keyward/v1/seal/key-state\0', 'latin1')],
]);

/**
 * What a record's seal is the HMAC of, under the seal key. Throws RangeError for a kind that there
 * isn't.
 */
export function recordSealInput(environment: EnvironmentId, kind: number, content: Buffer): Buffer {
  const label = LABELS.get(kind);
  if (label === undefined) throw new RangeError('there is no such kind of record');
  return Buffer.concat([label, idToBytes(environment), content]);
}
