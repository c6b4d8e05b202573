/**
 * Seals of what the database says and no key version's row does: who may do what, how keys stand,
 * which tenants there are, which keys of the token are current, whether maintenance is paused,
 * which canaries and suspended callers there are, which alerts are silenced, which calls want a
 * fresh proof or the approval of others, which passkeys people have, and what they decide on.
 *
 * Owns which kinds of record there are and what their seals are computed over; what a record's
 * content is, byte by byte, its own part of the code says. A seal of one kind verifies for no
 * other, nor as a key version's. Holds no key: the agent computes the HMAC in the token.
 */
import { type EnvironmentId, idToBytes } from '../ids.ts';

/**
 * The kinds of record, as agents are told of them. How keys stood was sealed without their
 * schedules once: such a seal is verified only to be replaced, by an operator.
 */
export const RECORD = {
  policy: 1,
  formerKeyState: 2,
  tenant: 3,
  tokenKeySet: 4,
  maintenance: 6,
  keyState: 7,
  canaries: 8,
  alertSilences: 9,
  approvalRules: 10,
  passkey: 11,
  pendingOperation: 12,
  /** What a person decided: an agent seals it that has verified their passkey's signature. */
  decision: 13,
  /** Which UUID a tenant's name has: an agent seals it that has drawn the UUID. */
  tenantName: 14,
} as const;

/** One of {@link RECORD}'s values. */
export type RecordKind = (typeof RECORD)[keyof typeof RECORD];

const LABELS: ReadonlyMap<number, Buffer> = new Map([
  [RECORD.policy, Buffer.from('keyward/v1/seal/policy\0', 'latin1')],
  [RECORD.formerKeyState, Buffer.from('keyward/v1/seal/key-state\0', 'latin1')],
  [RECORD.tenant, Buffer.from('keyward/v1/seal/tenant\0', 'latin1')],
  [RECORD.tokenKeySet, Buffer.from('keyward/v1/seal/token-keys\0', 'latin1')],
  [RECORD.maintenance, Buffer.from('keyward/v1/seal/maintenance\0', 'latin1')],
  [RECORD.keyState, Buffer.from('keyward/v2/seal/key-state\0', 'latin1')],
  [RECORD.canaries, Buffer.from('keyward/v1/seal/canaries\0', 'latin1')],
  [RECORD.alertSilences, Buffer.from('keyward/v1/seal/alert-silences\0', 'latin1')],
  [RECORD.approvalRules, Buffer.from('keyward/v1/seal/approval-rules\0', 'latin1')],
  [RECORD.passkey, Buffer.from('keyward/v1/seal/passkey\0', 'latin1')],
  [RECORD.pendingOperation, Buffer.from('keyward/v1/seal/pending-operation\0', 'latin1')],
  [RECORD.decision, Buffer.from('keyward/v1/seal/decision\0', 'latin1')],
  [RECORD.tenantName, Buffer.from('keyward/v1/seal/tenant-name\0', 'latin1')],
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
