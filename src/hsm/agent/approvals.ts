/**
 * Verifies that a person has decided on a pending operation with their passkey, and has the
 * decision sealed.
 *
 * - A decision is sealed only for a sealed operation that is pending, and a sealed passkey of
 *   somebody else than its requester, whose signature is over this operation and this decision.
 * - The signature is verified as WebAuthn Level 3, section 7.2, has it, with user verification, by
 *   node:crypto alone, under the algorithm of the sealed passkey and no other.
 *
 * Knows no frame and no token: what seals and verifies seals is given.
 */
import {
  createPublicKey,
  hash,
  type KeyObject,
  type VerifyKeyObjectInput,
  verify,
} from 'node:crypto';
import type { EnvironmentId, SealKeyId } from '../../ids.ts';
import {
  type Assertion,
  assertionDigestOf,
  challengeOf,
  DECISION_CODE,
  type Decision,
  decisionContent,
  PASSKEY_ALGORITHMS,
  type PasskeyRecord,
  type PendingOperationRecord,
  passkeyContent,
  readPasskey,
  readPendingOperation,
} from '../approval-records.ts';
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

/** What an assertion is verified against. */
type AssertedPasskey = Pick<
  PasskeyRecord,
  'algorithm' | 'publicKey' | 'signCount' | 'isBackupEligible' | 'relyingPartyId'
>;

/**
 * Returns whether an assertion is this passkey's over this challenge, with the user present and
 * verified; otherwise the first thing that is wrong.
 */
export function verifyAssertion(
  passkey: AssertedPasskey,
  challenge: Buffer,
  assertion: Assertion,
): Verdict {
  return (
    problemWithClientData(assertion.clientDataJson, challenge, passkey.relyingPartyId) ??
    problemWithAuthenticatorData(assertion.authenticatorData, passkey) ??
    (isSigned(passkey, assertion) ? undefined : VERDICT.signature) ??
    problemWithCounter(signCountOf(assertion.authenticatorData), passkey) ??
    VERDICT.done
  );
}

function problemWithClientData(
  clientDataJson: Buffer,
  challenge: Buffer,
  relyingPartyId: string,
): Verdict | undefined {
  const clientData = parseObject(clientDataJson);
  if (clientData?.['type'] !== 'webauthn.get') return VERDICT.clientData;
  if (clientData['challenge'] !== challenge.toString('base64url')) return VERDICT.challenge;
  // A page within another's frame is where people are led to sign what they do not see.
  const isFramed = (clientData['crossOrigin'] ?? false) !== false || 'topOrigin' in clientData;
  if (isFramed || !isOriginOf(clientData['origin'], relyingPartyId)) return VERDICT.origin;
  return undefined;
}

function parseObject(bytes: Buffer): Readonly<Record<string, unknown>> | undefined {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    const value: unknown = JSON.parse(text);
    return value !== null && typeof value === 'object' ? { ...value } : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Tells whether it is the origin of a site of the relying party: by https its domain or one below;
 * `localhost` also by http.
 */
function isOriginOf(origin: unknown, relyingPartyId: string): boolean {
  if (typeof origin !== 'string' || !URL.canParse(origin)) return false;
  const { protocol, hostname, origin: canonical } = new URL(origin);
  if (origin !== canonical) return false;
  if (protocol === 'http:') return hostname === 'localhost' && relyingPartyId === 'localhost';
  if (protocol !== 'https:') return false;
  return hostname === relyingPartyId || hostname.endsWith(`.${relyingPartyId}`);
}

/** SHA-256 of the relying party's id, flags, and the counter; extensions may follow. */
const RP_ID_HASH_BYTES = 32;
const FLAGS_OFFSET = 32;
const COUNTER_OFFSET = 33;
const AUTHENTICATOR_DATA_BYTES = 37;
const FLAG = {
  userPresent: 0x01,
  userVerified: 0x04,
  backupEligible: 0x08,
  backedUp: 0x10,
  attestedData: 0x40,
  extensions: 0x80,
} as const;

function problemWithAuthenticatorData(
  data: Buffer,
  { relyingPartyId, isBackupEligible }: AssertedPasskey,
): Verdict | undefined {
  if (data.length < AUTHENTICATOR_DATA_BYTES) return VERDICT.authenticatorData;
  const flags = data.readUInt8(FLAGS_OFFSET);
  const has = (flag: keyof typeof FLAG) => (flags & FLAG[flag]) !== 0;
  if (data.length > AUTHENTICATOR_DATA_BYTES && !has('attestedData') && !has('extensions'))
    return VERDICT.authenticatorData;
  if (!data.subarray(0, RP_ID_HASH_BYTES).equals(hash('sha256', relyingPartyId, 'buffer')))
    return VERDICT.relyingParty;
  if (!has('userPresent')) return VERDICT.userNotPresent;
  if (!has('userVerified')) return VERDICT.userNotVerified;
  if (has('backupEligible') !== isBackupEligible || (has('backedUp') && !isBackupEligible))
    return VERDICT.backupEligibility;
  return undefined;
}

function signCountOf(authenticatorData: Buffer): number {
  return authenticatorData.readUInt32BE(COUNTER_OFFSET);
}

/**
 * A copy of a device-bound passkey shows by a counter that does not grow. Passkeys on several
 * devices have none in common: most stay at 0, and some count on each device.
 */
function problemWithCounter(
  counter: number,
  { signCount, isBackupEligible }: AssertedPasskey,
): Verdict | undefined {
  if (isBackupEligible || counter > signCount) return undefined;
  return counter === 0 && signCount === 0 ? undefined : VERDICT.counter;
}

/** The fewest bits that an RSA key may have. */
const MIN_RSA_BITS = 2_048;

/** What each algorithm's keys are, and how a signature by one is verified. */
const ALGORITHMS: ReadonlyMap<
  number,
  {
    readonly digest: 'sha256' | null;
    readonly isKey: (key: KeyObject) => boolean;
    readonly options?: Pick<VerifyKeyObjectInput, 'dsaEncoding'>;
  }
> = new Map([
  [
    PASSKEY_ALGORITHMS.ES256,
    {
      digest: 'sha256',
      isKey: ({ asymmetricKeyType, asymmetricKeyDetails }) =>
        asymmetricKeyType === 'ec' && asymmetricKeyDetails?.namedCurve === 'prime256v1',
      options: { dsaEncoding: 'der' },
    },
  ],
  [
    PASSKEY_ALGORITHMS.EdDSA,
    { digest: null, isKey: ({ asymmetricKeyType }) => asymmetricKeyType === 'ed25519' },
  ],
  [
    PASSKEY_ALGORITHMS.RS256,
    {
      digest: 'sha256',
      isKey: ({ asymmetricKeyType, asymmetricKeyDetails }) =>
        asymmetricKeyType === 'rsa' && (asymmetricKeyDetails?.modulusLength ?? 0) >= MIN_RSA_BITS,
    },
  ],
]);

function isSigned({ algorithm, publicKey }: AssertedPasskey, assertion: Assertion): boolean {
  const row = ALGORITHMS.get(algorithm);
  const key = publicKeyOf(publicKey);
  if (row === undefined || key === undefined || !row.isKey(key)) return false;
  const { authenticatorData, clientDataJson, signature } = assertion;
  const signed = Buffer.concat([authenticatorData, hash('sha256', clientDataJson, 'buffer')]);
  return verify(row.digest, signed, { key, ...row.options }, signature);
}

/** Returns the key, or undefined for what is none. */
function publicKeyOf(spki: Buffer): KeyObject | undefined {
  try {
    return createPublicKey({ key: spki, format: 'der', type: 'spki' });
  } catch {
    return undefined;
  }
}
