/**
 * What a passkey signs to decide on a pending operation, to the byte (docs/approvals.md).
 *
 * Knows no call and no authenticator.
 */
import { createHash } from 'node:crypto';
import type * as m from './messages.ts';

/** What a challenge is made of. */
export interface ChallengeInput {
  /** UUIDs. */
  readonly environmentId: string;
  readonly operationId: string;
  readonly method: string;
  /** SHA-256 of the canonical request. */
  readonly requestDigest: Buffer;
  readonly requester: string;
  readonly decision: 'approve' | 'reject';
  readonly expiresAt: Date;
}

const LABEL = Buffer.from('keyward/v1/approval\0', 'latin1');
const DECISION = { approve: 1, reject: 2 } as const;

/**
 * Returns the challenge of the WebAuthn assertion by which a person approves or rejects a pending
 * operation: 32 bytes, over what will be done, for whom, and until when. Computed from the
 * operation as it is shown, so that what is signed is what was seen. Throws a TypeError for an
 * operation without an expiry.
 */
export function approvalChallenge(
  operation: Pick<
    m.PendingOperation,
    'name' | 'method' | 'request' | 'requester' | 'expireTime' | 'environmentId'
  >,
  decision: ChallengeInput['decision'],
): Buffer {
  const { name, method, request, requester, expireTime: expiresAt, environmentId } = operation;
  if (expiresAt === undefined) throw new TypeError('the operation has no expiry');
  const operationId = name.slice(name.lastIndexOf('/') + 1);
  const requestDigest = sha256(request);
  return challengeOf({
    ...{ environmentId, operationId, method, requestDigest, requester, decision, expiresAt },
  });
}

/** Returns the challenge that is made of these. */
export function challengeOf(input: ChallengeInput): Buffer {
  const { method, requestDigest, requester, decision, expiresAt } = input;
  const expiry = Buffer.alloc(8);
  expiry.writeBigUInt64BE(BigInt(expiresAt.getTime()));
  return sha256(
    Buffer.concat([
      ...[LABEL, bytesOfUuid(input.environmentId), bytesOfUuid(input.operationId)],
      ...[withLength(method), requestDigest, withLength(requester)],
      ...[Buffer.of(DECISION[decision]), expiry],
    ]),
  );
}

function bytesOfUuid(uuid: string): Buffer {
  return Buffer.from(uuid.replaceAll('-', ''), 'hex');
}

function withLength(text: string): Buffer {
  const encoded = Buffer.from(text);
  const length = Buffer.alloc(2);
  length.writeUInt16BE(encoded.length);
  return Buffer.concat([length, encoded]);
}

/** SHA-256. */
export function sha256(data: Uint8Array): Buffer {
  return createHash('sha256').update(data).digest();
}
