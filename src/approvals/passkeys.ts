/**
 * People's passkeys: registered, listed, removed, and decided with.
 *
 * - Nothing is known of a row but what verified (`passkey-seals.ts`).
 * - Who has a passkey registers another only by an assertion of one. A credential is registered
 *   once; what was removed stays, as removed, and never comes back.
 * - Whether a decision is signed, agents say; what they seal is written in the transaction that
 *   decides, with the passkey's new counter.
 *
 * Knows no rule and no pending operation.
 */
import { hash, type X509Certificate } from 'node:crypto';
import { addDetail, type Call } from '../call.ts';
import { KeywardError } from '../errors.ts';
import {
  type Assertion,
  DECISION_CODE,
  type Decision,
  type DecisionRecord,
  PASSKEY_ALGORITHMS,
  type PasskeyRecord,
  readDecision,
  readPasskey,
} from '../hsm/approval-records.ts';
import { signCountOf, verifyAssertion } from '../hsm/assertion.ts';
import { VERDICT } from '../hsm/protocol.ts';
import { type EnvironmentId, idToBytes, type SealKeyId, type TenantId } from '../ids.ts';
import { type ListRequest, type Page, readPage } from '../keyring/pages.ts';
import { formatPasskeyName, parsePasskeyName } from '../names.ts';
import { changeDeadline } from '../sealed-rows.ts';
import {
  countPasskeys,
  decisionTime,
  findPasskey,
  insertPasskey,
  listPasskeys,
  lockPasskey,
  lockPasskeysOf,
  type PasskeyRow,
  updatePasskey,
} from '../store/approvals/passkeys.ts';
import type { Query, Tx } from '../store/core/transaction.ts';
import { holdCurrentSealKey } from '../store/hsm-token/token-objects.ts';
import type { Store } from '../store/store.ts';
import { PasskeySeals, type PasskeySealsParts, type VerifiedPasskey } from './passkey-seals.ts';
import {
  challengeIn,
  type NewCredential,
  notAccepted,
  verifyRegistration,
} from './registration.ts';
import { REGISTRATION_MS, RegistrationChallenges } from './registration-challenges.ts';

/** So many passkeys a person and the service have at most. */
const MAX_OF_CALLER = 20;
const MAX_OF_SERVICE = 10_000;
const USER_LABEL = Buffer.from('keyward/v1/passkey-user\0', 'latin1');
const ASSERTION_LABEL = Buffer.from('keyward/v1/passkey-registration\0', 'latin1');

/** How passkeys are configured. */
export interface PasskeySettings {
  /** The domain that passkeys are for; undefined where there are none. */
  readonly relyingPartyId: string | undefined;
  readonly isDeviceBoundOnly: boolean;
  readonly attestationRoots: readonly X509Certificate[] | undefined;
}

/** What {@link Passkeys} stands on. */
export interface PasskeysParts extends PasskeySealsParts {
  readonly store: Pick<Store, 'mutate' | 'query'>;
  readonly systemTenantId: TenantId;
  readonly environmentId: EnvironmentId;
  readonly settings: PasskeySettings;
}

/** An assertion, and by which passkey it is said to be. */
export interface PasskeyAssertion extends Assertion {
  readonly credentialId: Buffer;
}

/** What a caller wants registered. */
export interface NewPasskey extends NewCredential {
  readonly displayName: string;
  /** By a passkey that the caller has already. */
  readonly assertion: PasskeyAssertion | undefined;
  readonly validateOnly: boolean;
}

/** What an authenticator is to make a passkey with. */
export interface RegistrationOptions {
  /** PublicKeyCredentialCreationOptionsJSON. */
  readonly creationOptions: string;
  readonly expiresAt: Date;
}

/** A pending operation as its row has it: what was sealed, by which key. */
export interface SealedOperation {
  readonly content: Buffer;
  readonly sealKeyId: SealKeyId;
  readonly seal: Buffer;
}

/** What was signed and by what it verifies, in base64url: for the audit log. */
export interface DecisionEvidence {
  readonly decision: Decision;
  readonly approver: string;
  readonly credentialId: string;
  /** SPKI. */
  readonly publicKey: string;
  readonly algorithm: number;
  readonly relyingPartyId: string;
  readonly clientDataJson: string;
  readonly authenticatorData: string;
  readonly signature: string;
}

/** A decision that an agent has verified and sealed. */
export interface SealedDecision {
  readonly record: DecisionRecord;
  /** What was sealed, by which key. */
  readonly content: Buffer;
  readonly sealKeyId: SealKeyId;
  readonly seal: Buffer;
  /** The passkey's public key: SPKI. */
  readonly publicKey: Buffer;
  readonly evidence: DecisionEvidence;
}

/** Keeps people's passkeys, and has agents verify what they sign. */
export class Passkeys {
  readonly #parts: PasskeysParts;
  readonly #challenges: RegistrationChallenges;
  readonly #seals: PasskeySeals;

  constructor(parts: PasskeysParts) {
    this.#parts = parts;
    this.#seals = new PasskeySeals(parts);
    this.#challenges = new RegistrationChallenges(parts.agents);
  }

  /**
   * Returns what an authenticator is to make a passkey for the caller with. Throws
   * PASSKEYS_NOT_CONFIGURED, PASSKEY_CORRUPT, and what agents and the store throw.
   */
  async begin(call: Call): Promise<RegistrationOptions> {
    const { attestationRoots } = this.#parts.settings;
    const relyingPartyId = this.#relyingPartyId();
    const { challenge, expiresAt } = await this.#challenges.make(call);
    const own = await this.#ownOf(this.#query(call), call, call.caller);
    const options = {
      rp: { id: relyingPartyId, name: 'Keyward' },
      user: { id: this.#userId(call.caller), name: call.caller, displayName: call.caller },
      challenge: challenge.toString('base64url'),
      pubKeyCredParams: Object.values(PASSKEY_ALGORITHMS).map((alg) => ({
        type: 'public-key',
        alg,
      })),
      timeout: REGISTRATION_MS,
      excludeCredentials: own.map(({ record: { credentialId } }) => ({
        type: 'public-key',
        id: credentialId.toString('base64url'),
      })),
      authenticatorSelection: {
        residentKey: 'required',
        requireResidentKey: true,
        userVerification: 'required',
      },
      attestation: attestationRoots === undefined ? 'none' : 'direct',
      extensions: {},
    };
    return { creationOptions: JSON.stringify(options), expiresAt };
  }

  /**
   * Registers what an authenticator has made for the caller; the entry belongs to that tenant.
   * Throws PASSKEYS_NOT_CONFIGURED, PASSKEY_NOT_ACCEPTED, ASSERTION_NOT_ACCEPTED, RESOURCE_EXISTS,
   * PASSKEYS_FULL, PASSKEY_CORRUPT, and what agents and the store throw.
   */
  async register(call: Call, tenantId: TenantId, wanted: NewPasskey): Promise<PasskeyRecord> {
    const { store, settings } = this.#parts;
    const relyingPartyId = this.#relyingPartyId();
    const challenge = challengeIn(wanted);
    const askedAt = call.requestedAt?.getTime() ?? Date.now();
    if (challenge === undefined || !(await this.#challenges.isGood(call, challenge, askedAt)))
      throw notAccepted(
        'it does not answer options that the caller was given in the last five minutes',
      );
    const made = await verifyRegistration(wanted, challenge, { ...settings, relyingPartyId });
    const passkey = (createdAt: Date): PasskeyRecord => ({
      ...made,
      principal: call.caller,
      displayName: wanted.displayName,
      createdAt,
      lastUsedAt: undefined,
      isRemoved: false,
      revision: 1n,
    });
    if (wanted.validateOnly) {
      if (call.audit !== undefined) addDetail(call.audit, { validateOnly: true });
      const query = this.#query(call);
      const readAfter = this.#seals.now();
      await this.#requireNew(query, call, wanted, async (credentialId) => {
        const row = await findPasskey(query, credentialId);
        return row && this.#seals.verifiedOne(row, readAfter, call.deadline);
      });
      return passkey(new Date());
    }
    const resource = formatPasskeyName(wanted);
    return store.mutate(call, { tenantId, resource }, async (tx) => {
      const query: Query = (text, values) => tx.query(text, values);
      await lockPasskeysOf(tx, call.caller);
      const by = await this.#requireNew(query, call, wanted, (id) => this.#locked(tx, call, id));
      const now = await decisionTime(tx);
      if (by !== undefined) await this.#noteUse(tx, call, by, now);
      const added = passkey(now);
      const row = await this.#seals.seal(tx, call, undefined, added);
      if (!(await insertPasskey(tx, this.#parts.systemTenantId, row)))
        throw new KeywardError('RESOURCE_EXISTS');
      const vouched = by && { assertion: textsOf(by.assertion) };
      tx.changed({ kind: 'passkey', after: { ...leafOf(added), ...vouched } });
      return added;
    });
  }

  /**
   * Returns a passkey that was not removed. Throws RESOURCE_NOT_FOUND, PASSKEY_CORRUPT, and what
   * agents and the store throw.
   */
  async get(call: Pick<Call, 'deadline'>, credentialId: Buffer): Promise<PasskeyRecord> {
    const readAfter = this.#seals.now();
    const row = await findPasskey(this.#query(call), credentialId);
    const found = row && (await this.#seals.verifiedOne(row, readAfter, call.deadline));
    if (found === undefined || found.record.isRemoved) throw new KeywardError('RESOURCE_NOT_FOUND');
    return found.record;
  }

  /**
   * Lists the passkeys of a caller, or of everyone. Throws PASSKEY_CORRUPT, and what agents and the
   * store throw.
   */
  async list(
    call: Pick<Call, 'deadline'>,
    principal: string | undefined,
    request: Omit<ListRequest, 'conditions'>,
  ): Promise<Page<PasskeyRecord>> {
    const readAfter = this.#seals.now();
    const { items, nextPageToken } = await readPage(
      `passkeys of ${principal ?? 'all'}`,
      { ...request, conditions: [] },
      {
        positionOf: ({ credentialId }: PasskeyRow) => credentialId.toString('base64url'),
        isPosition: (text) => parsePasskeyName(`passkeys/${text}`) !== undefined,
      },
      ({ after, limit }) => {
        const behind = after === undefined ? undefined : Buffer.from(after, 'base64url');
        return listPasskeys(this.#query(call), { principal, after: behind, limit });
      },
    );
    const verified = await this.#seals.verified(items, readAfter, call.deadline);
    return { items: verified.map(({ record }) => record), nextPageToken };
  }

  /**
   * Removes a passkey for good. Throws RESOURCE_NOT_FOUND, PASSKEY_CORRUPT, and what agents and the
   * store throw.
   */
  async remove(call: Call, credentialId: Buffer): Promise<void> {
    const { store, systemTenantId: tenantId } = this.#parts;
    const resource = formatPasskeyName({ credentialId });
    await store.mutate(call, { tenantId, resource }, async (tx) => {
      const locked = await this.#locked(tx, call, credentialId);
      if (locked === undefined || locked.record.isRemoved)
        throw new KeywardError('RESOURCE_NOT_FOUND');
      const { record: passkey, row } = locked;
      const removed = { ...passkey, isRemoved: true, revision: passkey.revision + 1n };
      await updatePasskey(tx, await this.#seals.seal(tx, call, row, removed));
      tx.changed({ kind: 'passkey', before: leafOf(passkey) });
    });
  }

  /**
   * Has an agent verify that the caller decides so on a sealed operation, and seal that; writes the
   * passkey's new counter in the transaction. Throws ASSERTION_NOT_ACCEPTED, PASSKEY_CORRUPT,
   * STORED_ROW_CORRUPT where the operation's seal does not verify, and what agents and the store
   * throw.
   */
  async decide(
    call: Call,
    tx: Tx,
    {
      operation,
      decision,
      assertion,
    }: {
      readonly operation: SealedOperation;
      readonly decision: Decision;
      readonly assertion: PasskeyAssertion;
    },
  ): Promise<SealedDecision> {
    const { agents, states } = this.#parts;
    const readAfter = this.#seals.now();
    const row = await lockPasskey(tx, assertion.credentialId);
    if (row === undefined || row.principal !== call.caller) throw notOne('unknownPasskey');
    const deadline = changeDeadline(call);
    const { record: passkey } = await this.#seals.verifiedOne(row, readAfter, deadline);
    const sealKeyId = await holdCurrentSealKey(tx, states.sealer(call));
    const { credentialId: _, ...signed } = assertion;
    const reply = await agents.call(
      'decide',
      {
        sealKeyId,
        operation: operation.content,
        operationSealKeyId: operation.sealKeyId,
        operationSeal: operation.seal,
        decision: DECISION_CODE[decision],
        passkey: row.content,
        passkeySealKeyId: row.sealKeyId,
        passkeySeal: row.seal,
        ...signed,
        decidedAt: await decisionTime(tx),
      },
      deadline,
    );
    if (reply.verdict !== VERDICT.done) throw this.#refusal(reply.verdict, row);
    // Copies: what came is part of a frame, which is overwritten.
    const used = Buffer.from(reply.passkey);
    await updatePasskey(tx, {
      ...row,
      revision: readPasskey(used).revision,
      content: used,
      sealKeyId,
      seal: Buffer.from(reply.passkeySeal),
    });
    const content = Buffer.from(reply.decision);
    return {
      record: readDecision(content),
      content,
      sealKeyId,
      seal: Buffer.from(reply.decisionSeal),
      publicKey: passkey.publicKey,
      evidence: evidenceOf(decision, passkey, assertion),
    };
  }

  #refusal(verdict: number, passkey: Pick<PasskeyRow, 'credentialId'>): KeywardError {
    if (verdict === VERDICT.passkeyNotSealed)
      return this.#seals.corrupt(passkey, 'its seal does not match');
    if (verdict === VERDICT.counter) {
      const name = formatPasskeyName(passkey);
      this.#parts.alerts.raise('passkey-counter', name, { passkey: name });
    }
    if (verdict === VERDICT.operationNotSealed) return new KeywardError('STORED_ROW_CORRUPT');
    return notOne(nameOf(verdict));
  }

  /** The domain that passkeys are for. Throws PASSKEYS_NOT_CONFIGURED. */
  #relyingPartyId(): string {
    const { relyingPartyId } = this.#parts.settings;
    if (relyingPartyId === undefined) throw new KeywardError('PASSKEYS_NOT_CONFIGURED');
    return relyingPartyId;
  }

  /** Tells authenticators one user from another, and nothing else. */
  #userId(caller: string): string {
    const { environmentId } = this.#parts;
    const input = Buffer.concat([USER_LABEL, idToBytes(environmentId), Buffer.from(caller)]);
    return hash('sha256', input, 'buffer').toString('base64url');
  }

  /**
   * Throws unless the caller may have one more passkey, of a credential that never was one. Returns
   * the passkey that vouches for it, as `read` reads it; undefined for the caller's first.
   */
  async #requireNew(
    query: Query,
    call: Call,
    wanted: NewPasskey,
    read: (credentialId: Buffer) => Promise<VerifiedPasskey | undefined>,
  ): Promise<Voucher | undefined> {
    const own = await this.#ownOf(query, call, call.caller);
    // An assertion is never passed over: what brings one may have gone without approval for it.
    const isFirst = own.length === 0 && wanted.assertion === undefined;
    const by = isFirst ? undefined : await this.#voucherOf(call, wanted, read);
    if (await findPasskey(query, wanted.credentialId)) throw new KeywardError('RESOURCE_EXISTS');
    if (own.length >= MAX_OF_CALLER || (await countPasskeys(query)) >= MAX_OF_SERVICE)
      throw new KeywardError('PASSKEYS_FULL');
    return by;
  }

  /** Returns the passkey whose assertion a registration brings. Throws ASSERTION_NOT_ACCEPTED. */
  async #voucherOf(
    { caller }: Call,
    wanted: NewPasskey,
    read: (credentialId: Buffer) => Promise<VerifiedPasskey | undefined>,
  ): Promise<Voucher> {
    const { assertion } = wanted;
    if (assertion === undefined) throw notOne('missing');
    const found = await read(assertion.credentialId);
    if (found === undefined || found.record.isRemoved || found.record.principal !== caller)
      throw notOne('unknownPasskey');
    const { row, record: passkey } = found;
    const verdict = verifyAssertion(passkey, registrationAssertionChallenge(wanted), assertion);
    if (verdict !== VERDICT.done) throw this.#refusal(verdict, passkey);
    return { row, passkey, assertion };
  }

  async #noteUse(tx: Tx, call: Call, by: Voucher, now: Date): Promise<void> {
    const { row, passkey, assertion } = by;
    const signCount = signCountOf(assertion.authenticatorData);
    const used = { ...passkey, signCount, lastUsedAt: now, revision: passkey.revision + 1n };
    await updatePasskey(tx, await this.#seals.seal(tx, call, row, used));
  }

  async #ownOf(
    query: Query,
    { deadline }: Pick<Call, 'deadline'>,
    principal: string,
  ): Promise<VerifiedPasskey[]> {
    const readAfter = this.#seals.now();
    const rows = await listPasskeys(query, { principal, limit: MAX_OF_CALLER });
    return this.#seals.verified(rows, readAfter, deadline);
  }

  async #locked(tx: Tx, call: Call, credentialId: Buffer): Promise<VerifiedPasskey | undefined> {
    const readAfter = this.#seals.now();
    const row = await lockPasskey(tx, credentialId);
    if (row === undefined) return undefined;
    return this.#seals.verifiedOne(row, readAfter, changeDeadline(call));
  }

  #query({ deadline }: Pick<Call, 'deadline'>): Query {
    return ((text: string, values: readonly unknown[] = []) =>
      this.#parts.store.query({ deadline }, text, values)) as Query;
  }
}

/** Returns what an existing passkey signs to have another registered. */
export function registrationAssertionChallenge({
  clientDataJson,
  attestationObject,
}: Pick<NewCredential, 'clientDataJson' | 'attestationObject'>): Buffer {
  const digests = [clientDataJson, attestationObject].map((part) => hash('sha256', part, 'buffer'));
  return hash('sha256', Buffer.concat([ASSERTION_LABEL, ...digests]), 'buffer');
}

/** A passkey that vouches for another of its owner, and by what. */
interface Voucher {
  readonly row: PasskeyRow;
  readonly passkey: PasskeyRecord;
  readonly assertion: PasskeyAssertion;
}

function nameOf(verdict: number): string {
  return Object.entries(VERDICT).find(([, code]) => code === verdict)?.[0] ?? `${verdict}`;
}

/** Why an assertion is none by a passkey of the caller over what it is to be. */
function notOne(problem: string): KeywardError {
  return new KeywardError('ASSERTION_NOT_ACCEPTED', { metadata: { problem } });
}

/** What an entry says of a passkey: all that a later check needs. */
function leafOf(passkey: PasskeyRecord): object {
  const { principal, algorithm, attestation, aaguid, displayName, relyingPartyId } = passkey;
  return {
    principal,
    displayName,
    algorithm,
    publicKey: passkey.publicKey.toString('base64url'),
    deviceBound: !passkey.isBackupEligible,
    attestation,
    aaguid,
    relyingPartyId,
  };
}

function textsOf({ credentialId, ...assertion }: PasskeyAssertion) {
  return {
    credentialId: credentialId.toString('base64url'),
    clientDataJson: assertion.clientDataJson.toString('base64url'),
    authenticatorData: assertion.authenticatorData.toString('base64url'),
    signature: assertion.signature.toString('base64url'),
  };
}

function evidenceOf(
  decision: Decision,
  { principal, publicKey, algorithm, relyingPartyId }: PasskeyRecord,
  assertion: PasskeyAssertion,
): DecisionEvidence {
  return {
    decision,
    approver: principal,
    publicKey: publicKey.toString('base64url'),
    algorithm,
    relyingPartyId,
    ...textsOf(assertion),
  };
}
