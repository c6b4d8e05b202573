/**
 * Whether a passkey is what its row says: seals of passkeys, verified and made by the agents.
 *
 * - A row counts only if its seal verifies, its columns are those that were sealed, and it is no
 *   older than what this replica has verified of the passkey; otherwise it is refused
 *   (PASSKEY_CORRUPT) with an alert. Remembers revisions only, and not for ever: an older row that
 *   was put back with its seal while no replica remembers a newer one verifies.
 * - What a passkey has become is sealed together with what it was, and with what shows that people
 *   have approved it.
 */
import type { Call } from '../call.ts';
import { KeywardError } from '../errors.ts';
import { type PasskeyRecord, passkeyContent, readPasskey } from '../hsm/approval-records.ts';
import { RECORD } from '../hsm/record-seal.ts';
import type { Agents } from '../hsm/token-router.ts';
import type { SealKeyId } from '../ids.ts';
import { formatPasskeyName } from '../names.ts';
import { changeDeadline, type Moment, NewestRevisions, sealsMatch } from '../sealed-rows.ts';
import type { Alerts } from '../signals/alerts.ts';
import type { PasskeyRow } from '../store/approvals/passkeys.ts';
import type { Tx } from '../store/core/transaction.ts';
import { holdCurrentSealKey } from '../store/hsm-token/token-objects.ts';
import type { Store } from '../store/store.ts';

/** Of so many passkeys the revision is remembered. */
const REMEMBERED = 20_000;

/** What {@link PasskeySeals} stands on. */
export interface PasskeySealsParts {
  readonly store: Pick<Store, 'query'>;
  readonly agents: Pick<Agents, 'call' | 'held'>;
  /** Knows which key is current for seals. */
  readonly states: {
    sealer(call: Pick<Call, 'deadline'>): { sealKey(tx?: Tx): Promise<SealKeyId | undefined> };
  };
  readonly alerts: Alerts;
}

/** A passkey that is as it was sealed. */
export interface VerifiedPasskey {
  readonly row: PasskeyRow;
  readonly record: PasskeyRecord;
}

/** Verifies and makes the seals of passkeys. */
export class PasskeySeals {
  readonly #parts: PasskeySealsParts;
  readonly #newest = new NewestRevisions<string>(REMEMBERED);

  constructor(parts: PasskeySealsParts) {
    this.#parts = parts;
  }

  /**
   * Returns the row of what a passkey has become, or of a new one, by the seal key that is current
   * until the transaction ends. Throws AGENT_RULE_NOT_MET, and what agents throw.
   */
  async seal(
    tx: Tx,
    call: Call,
    before: PasskeyRow | undefined,
    passkey: PasskeyRecord,
  ): Promise<PasskeyRow> {
    const { agents, states } = this.#parts;
    const deadline = changeDeadline(call);
    const sealKeyId = await holdCurrentSealKey(tx, states.sealer(call));
    const content = passkeyContent(passkey);
    const { warrant } = call;
    const request = { sealKeyId, kind: RECORD.passkey, before, content, warrant };
    const { seal } = await agents.call('sealRecordChange', request, deadline);
    const { credentialId, principal, isRemoved, revision } = passkey;
    const columns = { credentialId, principal, isRemoved, revision };
    return { ...columns, content, sealKeyId, seal: Buffer.from(seal) };
  }

  /** Returns the moment that rows are read after: what is seen later says nothing against them. */
  now(): Moment {
    return this.#newest.now();
  }

  /**
   * Returns the passkeys, if all of these rows verify. Throws PASSKEY_CORRUPT, TOKEN_KEY_NOT_READY,
   * and what agents throw.
   */
  async verified(
    rows: readonly PasskeyRow[],
    readAfter: Moment,
    deadline: number,
  ): Promise<VerifiedPasskey[]> {
    const matches = await sealsMatch(this.#parts, RECORD.passkey, rows, deadline);
    return rows.map((row, index) => {
      if (!matches[index]) throw this.corrupt(row, 'its seal does not match');
      const record = readRow(row);
      if (record === undefined) throw this.corrupt(row, 'its columns are not those sealed');
      const name = formatPasskeyName(row);
      const problem = this.#newest.note(name, row.revision, readAfter);
      if (problem !== undefined) throw this.corrupt(row, problem);
      this.#parts.alerts.clear('passkey-corrupt', name);
      return { row, record };
    });
  }

  /** As {@link PasskeySeals.verified}, of one. */
  async verifiedOne(
    row: PasskeyRow,
    readAfter: Moment,
    deadline: number,
  ): Promise<VerifiedPasskey> {
    const [passkey] = await this.verified([row], readAfter, deadline);
    if (passkey === undefined) throw new Error('nothing was verified');
    return passkey;
  }

  /** Reports a passkey that is not as it was sealed, and returns why a call fails by it. */
  corrupt(passkey: Pick<PasskeyRow, 'credentialId'>, why: string): KeywardError {
    const name = formatPasskeyName(passkey);
    const detail = `${name}: ${why}`;
    this.#parts.alerts.raise('passkey-corrupt', name, { detail });
    return new KeywardError('PASSKEY_CORRUPT', { cause: new Error(detail) });
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
