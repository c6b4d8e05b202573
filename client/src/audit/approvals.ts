/**
 * What an export says about approvals, checked: that each decision was signed by a passkey over the
 * very request, and that nothing was done on fewer approvals than it wanted (docs/approvals.md).
 *
 * Invariants: nothing that an entry says about an approval is believed but what a signature, or an
 * earlier entry of the same log, bears out; one person counts once. The log itself is verified
 * before (`verify.ts`): here every line is what was logged.
 */
import { createPublicKey, type KeyObject, verify } from 'node:crypto';
import { challengeOf, sha256 } from '../approvals.ts';
import { AuditVerificationError } from './errors.ts';

/** What was found of approvals in an export. */
export interface ApprovalReport {
  /** How many decisions verified. */
  readonly decisions: number;
  /** How many operations were done that had been approved, each by enough people. */
  readonly operations: number;
  /**
   * Operations whose request was logged before the export begins: their decisions verified, and how
   * many they wanted is not known here.
   */
  readonly begunBefore: readonly string[];
}

/** An entry, as far as it is looked at here. */
interface Entry {
  readonly time: string;
  readonly caller: string;
  readonly method: string;
  readonly resource: string;
  readonly outcome: string;
  readonly change?: { readonly kind?: unknown; readonly after?: unknown };
  readonly detail?: {
    readonly evidence?: unknown;
    readonly pendingOperation?: unknown;
    readonly approvalsRequired?: unknown;
    readonly requestDigest?: unknown;
    readonly approvers?: unknown;
    readonly repeated?: unknown;
    readonly validateOnly?: unknown;
  };
}

/** A decision as its entry has it; bytes in base64url. */
interface Evidence {
  readonly operation: string;
  readonly method: string;
  readonly request?: string;
  readonly requestDigest: string;
  readonly requester: string;
  /** RFC 3339. */
  readonly expiresAt: string;
  readonly decision: string;
  readonly approver: string;
  readonly credentialId: string;
  readonly publicKey: string;
  /** As COSE numbers it. */
  readonly algorithm: number;
  readonly relyingPartyId: string;
  readonly clientDataJson: string;
  readonly authenticatorData: string;
  readonly signature: string;
}

/** A pending operation, as its entry and its decisions have it. */
interface Pending {
  readonly method: string;
  readonly requester: string;
  readonly requestDigest: string;
  required: number | undefined;
  readonly approvers: Set<string>;
  isDone: boolean;
}

const DECIDING: Readonly<Record<string, string>> = {
  'keyward.v1.ApprovalService/ApproveOperation': 'approve',
  'keyward.v1.ApprovalService/RejectOperation': 'reject',
};
/** What an entry has in it that is looked at here. */
const MENTIONS = ['ApprovalService/', 'RegisterPasskey', '"pendingOperation"'];
const BREAKING_GLASS = 'keyward.v1.ApprovalService/BreakGlass';
const REGISTERING = 'keyward.v1.PasskeyService/RegisterPasskey';
/** Flags of authenticator data (WebAuthn 6.1): a person was there, and proved who. */
const USER_PRESENT_AND_VERIFIED = 0x05;
const UUID_AT_END = /\/pendingOperations\/([0-9a-f-]{36})$/;

/** Checks the approvals of one log, entry after entry. */
export class ApprovalChecks {
  readonly #environmentId: string;
  readonly #isWhole: boolean;
  readonly #pending = new Map<string, Pending>();
  /** Of the passkeys whose registration is in the export: whose, and the key. */
  readonly #passkeys = new Map<string, { readonly principal: string; readonly key: string }>();
  #decisions = 0;
  #operations = 0;

  /** `origin` is the log's; `isWhole`: whether the export has the log's first entry. */
  constructor(origin: string, isWhole: boolean) {
    const [, environmentId = ''] = origin.split('/');
    this.#environmentId = environmentId;
    this.#isWhole = isWhole;
  }

  /**
   * Checks one entry. Throws an {@link AuditVerificationError} of the problem APPROVAL, with the
   * entry's place.
   */
  check(leafIndex: number, line: Buffer): void {
    // Most entries have none of it, and are not worth reading.
    if (!MENTIONS.some((word) => line.includes(word))) return;
    try {
      this.#check(JSON.parse(line.toString()));
    } catch (cause) {
      const { message } = cause as Error;
      throw new AuditVerificationError('APPROVAL', `entry ${leafIndex}: ${message}`, {
        leafIndex,
        cause,
      });
    }
  }

  /** Returns what was found so far. */
  get report(): ApprovalReport {
    const begunBefore = [...this.#pending]
      .filter(([, { required }]) => required === undefined)
      .map(([name]) => name);
    return { decisions: this.#decisions, operations: this.#operations, begunBefore };
  }

  #check(entry: Entry): void {
    const { detail = {}, method, outcome } = entry;
    if (outcome === 'APPROVAL_REQUIRED') this.#noteRequest(entry);
    else if (outcome !== 'OK' || changedNothing(entry)) return;
    else if (method === REGISTERING) this.#noteRegistration(entry);
    else if (method === BREAKING_GLASS) this.#noteBrokenGlass(entry);
    else if (method in DECIDING) this.#checkDecision(entry);
    else if (detail.approvers !== undefined) this.#checkDone(entry);
  }

  #noteRegistration({ caller, resource, change }: Entry): void {
    const { publicKey } = record(change?.after, 'what was registered');
    const [, credentialId = ''] = text(resource, 'resource').split('/');
    this.#passkeys.set(credentialId, {
      principal: caller,
      key: bytes(publicKey, 'publicKey').toString('base64'),
    });
  }

  #noteRequest({ caller, method, detail = {} }: Entry): void {
    const name = text(detail.pendingOperation, 'pendingOperation');
    // The same call made again names the same operation.
    if (this.#pending.has(name)) return;
    const required = approvals(detail.approvalsRequired);
    const requestDigest = text(detail.requestDigest, 'requestDigest');
    this.#pending.set(name, {
      ...{ method, requester: caller, requestDigest, required },
      ...{ approvers: new Set(), isDone: false },
    });
  }

  /** From then on it wants what the emergency's rule says; approvals before count no more. */
  #noteBrokenGlass({ resource, change }: Entry): void {
    const pending = this.#pending.get(resource);
    if (pending === undefined) {
      if (this.#isWhole) throw new Error('its operation was never asked for');
      return;
    }
    const { rule } = record(change?.after, 'the rule');
    pending.required = approvals(record(rule, 'the rule')['approvals']);
    pending.approvers.clear();
  }

  #checkDecision({ caller, time, method, detail = {} }: Entry): void {
    const evidence = readEvidence(detail.evidence);
    const { approver, requester, credentialId, operation, decision } = evidence;
    if (decision !== DECIDING[method]) throw new Error('its evidence is of another decision');
    if (approver !== caller) throw new Error('its evidence is of another caller');
    if (approver === requester) throw new Error('its requester decided himself');
    if (Date.parse(time) > Date.parse(evidence.expiresAt))
      throw new Error('it was decided too late');
    verifyAssertion(evidence, this.#environmentId);
    const known = this.#passkeys.get(credentialId);
    if (known === undefined && this.#isWhole) throw new Error('its passkey was never registered');
    if (known !== undefined && known.principal !== approver)
      throw new Error('its passkey is another person’s');
    if (known !== undefined && known.key !== bytes(evidence.publicKey, '').toString('base64'))
      throw new Error('its passkey was registered with another key');
    const pending = this.#pendingOf(evidence);
    if (pending.approvers.has(approver)) throw new Error('this person has decided before');
    if (decision === 'approve') pending.approvers.add(approver);
    this.#decisions += 1;
    this.#pending.set(operation, pending);
  }

  /** The operation that a decision is about, as it was asked for. */
  #pendingOf({ operation, method, requester, requestDigest }: Evidence): Pending {
    const known = this.#pending.get(operation);
    if (known === undefined && this.#isWhole) throw new Error('its operation was never asked for');
    const { method: asked, requester: by, requestDigest: digest } = known ?? {};
    if (known === undefined)
      return {
        ...{ method, requester, requestDigest, required: undefined },
        ...{ approvers: new Set(), isDone: false },
      };
    if (asked !== method || by !== requester || digest !== requestDigest)
      throw new Error('it was signed for another request than the one that was asked for');
    return known;
  }

  #checkDone({ caller, method, detail = {} }: Entry): void {
    const name = text(detail.pendingOperation, 'pendingOperation');
    const pending = this.#pending.get(name);
    if (pending === undefined) {
      if (this.#isWhole) throw new Error('it was done as approved, and was never asked for');
      return;
    }
    const { required, approvers, requester } = pending;
    if (pending.method !== method || requester !== caller)
      throw new Error('what was done is not what was asked for');
    if (pending.isDone) throw new Error('it was done twice');
    if (required !== undefined && approvers.size < required)
      throw new Error(`it was done on ${approvers.size} approvals, and wanted ${required}`);
    pending.isDone = true;
    if (required !== undefined) this.#operations += 1;
  }
}

/** Whether a call that succeeded was sent again, or only looked. */
function changedNothing({ change, detail = {} }: Entry): boolean {
  return change === undefined && (detail.repeated === true || detail.validateOnly === true);
}

/** Throws an Error unless the passkey signed exactly this decision, by a person who proved who. */
function verifyAssertion(evidence: Evidence, environmentId: string): void {
  const { relyingPartyId } = evidence;
  const challenge = challengeIn(evidence, environmentId).toString('base64url');
  const clientDataJson = bytes(evidence.clientDataJson, 'clientDataJson');
  const client = record(JSON.parse(clientDataJson.toString()), 'clientDataJson');
  if (client['type'] !== 'webauthn.get') throw new Error('what was signed is no assertion');
  if (client['challenge'] !== challenge) throw new Error('what was signed is another decision');
  if (client['crossOrigin'] === true || !isOriginOf(relyingPartyId, client['origin']))
    throw new Error('it was signed at another origin');
  const authenticatorData = bytes(evidence.authenticatorData, 'authenticatorData');
  const flags = authenticatorData[32] ?? 0;
  if (!authenticatorData.subarray(0, 32).equals(sha256(Buffer.from(relyingPartyId))))
    throw new Error('it was signed for another relying party');
  if ((flags & USER_PRESENT_AND_VERIFIED) !== USER_PRESENT_AND_VERIFIED)
    throw new Error('the authenticator did not verify who signed');
  const signed = Buffer.concat([authenticatorData, sha256(clientDataJson)]);
  if (!verifies(evidence, signed)) throw new Error('its signature does not verify');
}

/** What the passkey was to sign (docs/approvals.md). */
function challengeIn(evidence: Evidence, environmentId: string): Buffer {
  const { operation, method, request, requester, decision } = evidence;
  const [, operationId] = UUID_AT_END.exec(operation) ?? [];
  const requestDigest = bytes(evidence.requestDigest, 'requestDigest');
  if (operationId === undefined) throw new Error('its operation has no UUID');
  if (decision !== 'approve' && decision !== 'reject')
    throw new Error('its decision is neither approve nor reject');
  if (request !== undefined && !sha256(bytes(request, 'request')).equals(requestDigest))
    throw new Error('its request is not the one that was signed');
  const expiresAt = new Date(evidence.expiresAt);
  return challengeOf({
    ...{ environmentId, operationId, method, requestDigest, requester, decision, expiresAt },
  });
}

/** Whether a page of that origin may use passkeys of the relying party (WebAuthn 5.1.4.1). */
function isOriginOf(relyingPartyId: string, origin: unknown): boolean {
  if (typeof origin !== 'string' || !URL.canParse(origin)) return false;
  const { protocol, hostname } = new URL(origin);
  if (relyingPartyId === 'localhost') return hostname === 'localhost';
  const isWithin = hostname === relyingPartyId || hostname.endsWith(`.${relyingPartyId}`);
  return protocol === 'https:' && isWithin;
}

/** The algorithms by their COSE numbers, each for one kind of key: ES256, EdDSA, RS256. */
const KEY_TYPES: ReadonlyMap<number, string> = new Map([
  [-7, 'ec'],
  [-8, 'ed25519'],
  [-257, 'rsa'],
]);

function verifies({ algorithm, publicKey, signature }: Evidence, signed: Buffer): boolean {
  const spki = bytes(publicKey, 'publicKey');
  const key: KeyObject = createPublicKey({ key: spki, format: 'der', type: 'spki' });
  const { asymmetricKeyType, asymmetricKeyDetails } = key;
  if (asymmetricKeyType === undefined || KEY_TYPES.get(algorithm) !== asymmetricKeyType)
    throw new Error('its algorithm is not its key’s');
  if (asymmetricKeyType === 'ec' && asymmetricKeyDetails?.namedCurve !== 'prime256v1')
    throw new Error('its key is not on P-256');
  const hash = asymmetricKeyType === 'ed25519' ? null : 'sha256';
  return verify(hash, signed, key, bytes(signature, 'signature'));
}

const TEXTS = [
  ...(['operation', 'method', 'requestDigest', 'requester', 'decision', 'approver'] as const),
  ...(['credentialId', 'publicKey', 'relyingPartyId', 'expiresAt'] as const),
  ...(['clientDataJson', 'authenticatorData', 'signature'] as const),
];

function readEvidence(value: unknown): Evidence {
  const read = record(value, 'its evidence');
  for (const name of TEXTS) text(read[name], name);
  const { algorithm, request } = read;
  if (!Number.isSafeInteger(algorithm)) throw new Error('algorithm is missing');
  if (request !== undefined) text(request, 'request');
  return read as unknown as Evidence;
}

function record(value: unknown, what: string): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null) throw new Error(`${what} is missing`);
  return value as Readonly<Record<string, unknown>>;
}

function approvals(value: unknown): number {
  if (typeof value !== 'number' || value < 1) throw new Error('it wants no approval');
  return value;
}

function text(value: unknown, name: string): string {
  if (typeof value !== 'string' || value === '') throw new Error(`${name} is missing`);
  return value;
}

function bytes(value: unknown, name: string): Buffer {
  const encoded = text(value, name);
  const decoded = Buffer.from(encoded, 'base64url');
  if (decoded.toString('base64url') !== encoded) throw new Error(`${name} is not base64url`);
  return decoded;
}
