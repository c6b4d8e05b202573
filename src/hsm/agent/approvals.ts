/**
 * Verifies that a person has decided on a pending operation with their passkey, and has the
 * decision sealed.
 *
 * - A decision is sealed only for a sealed operation that is pending, and a sealed passkey of
 *   somebody else than its requester, whose signature is over this operation and this decision.
 *
 * Knows no frame and no token: what seals and verifies seals is given.
 */
import type { EnvironmentId, SealKeyId } from '../../ids.ts';
import {
  assertionDigestOf,
  challengeOf,
  DECISION_CODE,
  type Decision,
  decisionContent,
  type PasskeyRecord,
  type PendingOperationRecord,
  passkeyContent,
  readPasskey,
  readPendingOperation,
} from '../approval-records.ts';
import { signCountOf, verifyAssertion } from '../assertion.ts';
import { type ReplyOf, type RequestOf, VERDICT, type Verdict } from '../protocol.ts';
import { RECORD, type RecordKind } from '../record-seal.ts';
import { AgentFailure } from './failure.ts';

/** What seals records, and verifies their seals. */
export interface RecordSeals {
  sealVerified(request: RequestOf<'sealRecords'>): ReplyOf<'sealRecords'>;
  verifyRecords(request: RequestOf<'verifyRecords'>): ReplyOf<'verifyRecords'>;
}

/** So far may the server's time be from the agent's. */
const TIME_TOLERANCE_MS = 5 * 60_000;
const NOTHING = Buffer.alloc(0);

/**
 * Returns the sealed decision, and the passkey with its new counter, or the first thing that is
 * wrong. Throws what the token throws.
 */
export function decide(
  request: RequestOf<'decide'>,
  seals: RecordSeals,
  environmentId: EnvironmentId,
): ReplyOf<'decide'> {
  const decision = decisionOf(request.decision);
  const operation = verified(seals, RECORD.pendingOperation, readPendingOperation, {
    content: request.operation,
    seal: request.operationSeal,
    sealKeyId: request.operationSealKeyId,
  });
  if (operation === undefined) return refused(VERDICT.operationNotSealed);
  const passkey = verified(seals, RECORD.passkey, readPasskey, {
    content: request.passkey,
    seal: request.passkeySeal,
    sealKeyId: request.passkeySealKeyId,
  });
  if (passkey === undefined) return refused(VERDICT.passkeyNotSealed);
  const challenge = challengeOf({ ...operation, environmentId, decision });
  const verdict =
    circumstances(operation, passkey, request.decidedAt) ??
    verifyAssertion(passkey, challenge, request);
  if (verdict !== VERDICT.done) return refused(verdict);
  return sealed(request, seals, { decision, operation, passkey, challenge });
}

function decisionOf(code: number): Decision {
  if (code === DECISION_CODE.approve) return 'approve';
  if (code === DECISION_CODE.reject) return 'reject';
  throw new AgentFailure('internal', `there is no decision ${code}`);
}

function refused(verdict: Verdict): ReplyOf<'decide'> {
  const nothing = { passkey: NOTHING, passkeySeal: NOTHING };
  return { verdict, decision: NOTHING, decisionSeal: NOTHING, ...nothing };
}

/** Returns the record, or undefined where its seal does not verify. */
function verified<T>(
  seals: RecordSeals,
  kind: RecordKind,
  read: (content: Buffer) => T,
  record: { readonly content: Buffer; readonly seal: Buffer; readonly sealKeyId: SealKeyId },
): T | undefined {
  const { content, seal, sealKeyId } = record;
  const { verified: results } = seals.verifyRecords({
    sealKeyId,
    kind,
    items: [{ content, seal }],
  });
  return results[0] === 1 ? read(content) : undefined;
}

/** Returns what speaks against a decision, whatever was signed; undefined for nothing. */
function circumstances(
  { state, expiresAt, requester }: PendingOperationRecord,
  { principal, isRemoved }: PasskeyRecord,
  decidedAt: Date,
): Verdict | undefined {
  if (Math.abs(Date.now() - decidedAt.getTime()) > TIME_TOLERANCE_MS) return VERDICT.wrongTime;
  if (state !== 'PENDING') return VERDICT.notPending;
  if (decidedAt >= expiresAt) return VERDICT.expired;
  if (principal === requester) return VERDICT.ownOperation;
  if (isRemoved) return VERDICT.passkeyRemoved;
  return undefined;
}

function sealed(
  { sealKeyId, clientDataJson, authenticatorData, signature, decidedAt }: RequestOf<'decide'>,
  seals: RecordSeals,
  made: {
    readonly decision: Decision;
    readonly operation: PendingOperationRecord;
    readonly passkey: PasskeyRecord;
    readonly challenge: Buffer;
  },
): ReplyOf<'decide'> {
  const { decision, operation, passkey, challenge } = made;
  const seal = (kind: RecordKind, content: Buffer): Buffer => {
    const [only] = seals.sealVerified({ sealKeyId, kind, contents: [content] }).seals;
    if (only === undefined) throw new AgentFailure('internal', 'a record was not sealed');
    return only;
  };
  const decided = decisionContent({
    operationId: operation.operationId,
    decision,
    approver: passkey.principal,
    credentialId: passkey.credentialId,
    challenge,
    assertionDigest: assertionDigestOf({ clientDataJson, authenticatorData, signature }),
    decidedAt,
  });
  const used = passkeyContent({
    ...passkey,
    signCount: signCountOf(authenticatorData),
    lastUsedAt: decidedAt,
    revision: passkey.revision + 1n,
  });
  return {
    verdict: VERDICT.done,
    decision: decided,
    decisionSeal: seal(RECORD.decision, decided),
    passkey: used,
    passkeySeal: seal(RECORD.passkey, used),
  };
}
