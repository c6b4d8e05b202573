/**
 * People's passkeys: registered, listed, removed, and decided with.
 *
 * - A row counts only if its seal verifies, its columns are those that were sealed, and it is no
 *   older than what this replica has verified of the passkey; otherwise it is refused
 *   (PASSKEY_CORRUPT) with an alert. Remembers revisions only, and not for ever: an older row that
 *   was put back with its seal while no replica remembers a newer one verifies.
 * - Who has a passkey registers another only by an assertion of one. A credential is registered
 *   once; what was removed stays, as removed, and never comes back.
 * - Whether a decision is signed, agents say; what they seal is written in the transaction that
 *   decides, with the passkey's new counter.
 *
 * Knows no rule and no pending operation.
 */
import { hash, type X509Certificate } from 'node:crypto';
import { addDetail, type Call, monotonicNow } from '../call.ts';
import { KeywardError } from '../errors.ts';
import {
  type Assertion,
  DECISION_CODE,
  type Decision,
  type DecisionRecord,
  PASSKEY_ALGORITHMS,
  type PasskeyRecord,
  passkeyContent,
  readDecision,
  readPasskey,
} from '../hsm/approval-records.ts';
import { signCountOf, verifyAssertion } from '../hsm/assertion.ts';
import { VERDICT } from '../hsm/protocol.ts';
import { RECORD } from '../hsm/record-seal.ts';
import type { Agents } from '../hsm/token-router.ts';
import { type EnvironmentId, idToBytes, type SealKeyId, type TenantId } from '../ids.ts';
import { type ListRequest, type Page, readPage } from '../keyring/pages.ts';
import { Lru } from '../lru.ts';
import { formatPasskeyName, parsePasskeyName } from '../names.ts';
import type { Alerts } from '../signals/alerts.ts';
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
import { holdCurrentSealKey, isSealKeyInUse } from '../store/hsm-token/token-objects.ts';
import type { Store } from '../store/store.ts';
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
/** Of so many passkeys the revision is remembered. */
const REMEMBERED = 20_000;
/** An agent is given so many at a time. */
const AT_ONCE = 100;
/** A change waits no longer for an agent while it holds its row and a connection. */
const CHANGE_MS = 5_000;
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
export interface PasskeysParts {
  readonly store: Pick<Store, 'mutate' | 'query'>;
  readonly agents: Pick<Agents, 'call' | 'held'>;
  /** Knows which key is current for seals. */
  readonly states: {
    sealer(call: Pick<Call, 'deadline'>): { sealKey(tx?: Tx): Promise<SealKeyId | undefined> };
  };
  readonly systemTenantId: TenantId;
  readonly environmentId: EnvironmentId;
  readonly settings: PasskeySettings;
  readonly alerts: Alerts;
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

/** A moment before something is read. */
type Moment = number & { readonly kind: 'moment' };

/** Keeps people's passkeys, and has agents verify what they sign. */
export class Passkeys {
  readonly #parts: PasskeysParts;
  readonly #challenges: RegistrationChallenges;
  readonly #seen = new Lru<string, { readonly revision: bigint; readonly at: Moment }>(REMEMBERED);
  #moment = 0;

  constructor(parts: PasskeysParts) {
    this.#parts = parts;
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
      excludeCredentials: own.map(({ credentialId }) => ({
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
      const readAfter = this.#now();
      await this.#requireNew(query, call, wanted, async (credentialId) => {
        const row = await findPasskey(query, credentialId);
        return row && this.#verifiedOne(row, readAfter, call.deadline);
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
      const row = await this.#sealed(tx, call, added);
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
    const readAfter = this.#now();
    const row = await findPasskey(this.#query(call), credentialId);
    const passkey = row && (await this.#verifiedOne(row, readAfter, call.deadline));
    if (passkey === undefined || passkey.isRemoved) throw new KeywardError('RESOURCE_NOT_FOUND');
    return passkey;
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
    const readAfter = this.#now();
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
    return { items: await this.#verified(items, readAfter, call.deadline), nextPageToken };
  }

  /**
   * Removes a passkey for good. Throws RESOURCE_NOT_FOUND, PASSKEY_CORRUPT, and what agents and the
   * store throw.
   */
  async remove(call: Call, credentialId: Buffer): Promise<void> {
    const { store, systemTenantId: tenantId } = this.#parts;
    const resource = formatPasskeyName({ credentialId });
    await store.mutate(call, { tenantId, resource }, async (tx) => {
      const passkey = await this.#locked(tx, call, credentialId);
      if (passkey === undefined || passkey.isRemoved) throw new KeywardError('RESOURCE_NOT_FOUND');
      const removed = { ...passkey, isRemoved: true, revision: passkey.revision + 1n };
      await updatePasskey(tx, await this.#sealed(tx, call, removed));
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
    const readAfter = this.#now();
    const row = await lockPasskey(tx, assertion.credentialId);
    if (row === undefined || row.principal !== call.caller) throw notOne('unknownPasskey');
    const deadline = Math.min(call.deadline, monotonicNow() + CHANGE_MS);
    const passkey = await this.#verifiedOne(row, readAfter, deadline);
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
      return this.#corrupt(passkey, 'its seal does not match');
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
    read: (credentialId: Buffer) => Promise<PasskeyRecord | undefined>,
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
    read: (credentialId: Buffer) => Promise<PasskeyRecord | undefined>,
  ): Promise<Voucher> {
    const { assertion } = wanted;
    if (assertion === undefined) throw notOne('missing');
    const passkey = await read(assertion.credentialId);
    if (passkey === undefined || passkey.isRemoved || passkey.principal !== caller)
      throw notOne('unknownPasskey');
    const verdict = verifyAssertion(passkey, registrationAssertionChallenge(wanted), assertion);
    if (verdict !== VERDICT.done) throw this.#refusal(verdict, passkey);
    return { passkey, assertion };
  }

  async #noteUse(tx: Tx, call: Call, { passkey, assertion }: Voucher, now: Date): Promise<void> {
    const signCount = signCountOf(assertion.authenticatorData);
    const used = { ...passkey, signCount, lastUsedAt: now, revision: passkey.revision + 1n };
    await updatePasskey(tx, await this.#sealed(tx, call, used));
  }

  async #ownOf(
    query: Query,
    { deadline }: Pick<Call, 'deadline'>,
    principal: string,
  ): Promise<PasskeyRecord[]> {
    const readAfter = this.#now();
    const rows = await listPasskeys(query, { principal, limit: MAX_OF_CALLER });
    return this.#verified(rows, readAfter, deadline);
  }

  async #locked(tx: Tx, call: Call, credentialId: Buffer): Promise<PasskeyRecord | undefined> {
    const readAfter = this.#now();
    const row = await lockPasskey(tx, credentialId);
    if (row === undefined) return undefined;
    return this.#verifiedOne(row, readAfter, Math.min(call.deadline, monotonicNow() + CHANGE_MS));
  }

  /** The row of a passkey, by the seal key that is current until the transaction ends. */
  async #sealed(tx: Tx, call: Call, passkey: PasskeyRecord): Promise<PasskeyRow> {
    const { agents, states } = this.#parts;
    const deadline = Math.min(call.deadline, monotonicNow() + CHANGE_MS);
    const sealKeyId = await holdCurrentSealKey(tx, states.sealer(call));
    const content = passkeyContent(passkey);
    const request = { sealKeyId, kind: RECORD.passkey, contents: [content] };
    const { seals } = await agents.call('sealRecords', request, deadline);
    if (seals[0] === undefined) throw new Error('an agent sealed nothing');
    const { credentialId, principal, isRemoved, revision } = passkey;
    const columns = { credentialId, principal, isRemoved, revision };
    return { ...columns, content, sealKeyId, seal: Buffer.from(seals[0]) };
  }

  /** Returns the moment that rows are read after: what is seen later says nothing against them. */
  #now(): Moment {
    this.#moment += 1;
    return this.#moment as Moment;
  }

  /**
   * Returns the passkeys, if all of these rows verify. Throws PASSKEY_CORRUPT, TOKEN_KEY_NOT_READY,
   * and what agents throw.
   */
  async #verified(
    rows: readonly PasskeyRow[],
    readAfter: Moment,
    deadline: number,
  ): Promise<PasskeyRecord[]> {
    for (const [sealKeyId, some] of Map.groupBy(rows, (each) => each.sealKeyId))
      for (let start = 0; start < some.length; start += AT_ONCE)
        await this.#requireSealed(sealKeyId, some.slice(start, start + AT_ONCE), deadline);
    return rows.map((row) => {
      const passkey = readRow(row);
      if (passkey === undefined) throw this.#corrupt(row, 'its columns are not those sealed');
      const name = formatPasskeyName(row);
      const seen = this.#seen.get(name);
      if (seen !== undefined && seen.at <= readAfter && row.revision < seen.revision)
        throw this.#corrupt(
          row,
          `its revision is ${row.revision}, and it was ${seen.revision} before`,
        );
      if (seen === undefined || row.revision > seen.revision)
        this.#seen.set(name, { revision: row.revision, at: this.#now() });
      this.#parts.alerts.clear('passkey-corrupt', name);
      return passkey;
    });
  }

  async #verifiedOne(row: PasskeyRow, readAfter: Moment, deadline: number): Promise<PasskeyRecord> {
    const [passkey] = await this.#verified([row], readAfter, deadline);
    if (passkey === undefined) throw new Error('nothing was verified');
    return passkey;
  }

  async #requireSealed(
    sealKeyId: SealKeyId,
    rows: readonly PasskeyRow[],
    deadline: number,
  ): Promise<void> {
    const { store, agents } = this.#parts;
    const items = rows.map(({ content, seal }) => ({ content, seal }));
    const request = { sealKeyId, kind: RECORD.passkey, items };
    const { verified } = await agents.call('verifyRecords', request, deadline);
    const bad = rows.find((_, index) => verified[index] !== 1);
    if (bad === undefined) return;
    // A seal key that is in use and that no agent here has says nothing against a row.
    if (!agents.held.some((id) => id === `${sealKeyId}`))
      if (await isSealKeyInUse(store, { deadline }, sealKeyId))
        throw new KeywardError('TOKEN_KEY_NOT_READY');
    throw this.#corrupt(bad, 'its seal does not match');
  }

  #corrupt(passkey: Pick<PasskeyRow, 'credentialId'>, why: string): KeywardError {
    const name = formatPasskeyName(passkey);
    const detail = `${name}: ${why}`;
    this.#parts.alerts.raise('passkey-corrupt', name, { detail });
    return new KeywardError('PASSKEY_CORRUPT', { cause: new Error(detail) });
  }

  #query({ deadline }: Pick<Call, 'deadline'>): Query {
    return ((text: string, values: readonly unknown[] = []) =>
      this.#parts.store.query({ deadline }, text, values)) as Query;
  }
}

/** What was sealed, where the columns agree with it; else undefined. */
function readRow(row: PasskeyRow): PasskeyRecord | undefined {
  try {
    const passkey = readPasskey(row.content);
    const isSame =
      passkey.credentialId.equals(row.credentialId) &&
      passkey.principal === row.principal &&
      passkey.isRemoved === row.isRemoved &&
      passkey.revision === row.revision;
    return isSame ? passkey : undefined;
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
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
