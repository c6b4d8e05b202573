/**
 * Silences: which alerts are not delivered, and until when. Set by administrators.
 *
 * Invariants:
 * - a list that does not verify, or is older than what this replica has verified before, counts as
 *   empty, with an alert: everything is delivered then;
 * - an alert that is silenced is recorded and logged all the same, and is delivered if it lasts
 *   longer than its silence.
 */
import { type Call, monotonicNow } from '../call.ts';
import { KeywardError } from '../errors.ts';
import { encodeAlertSilences } from '../hsm/alert-silences.ts';
import { RECORD } from '../hsm/record-seal.ts';
import type { Agents } from '../hsm/token-router.ts';
import { type AnyId, newId, type SealKeyId, type TenantId } from '../ids.ts';
import { changeDeadline, sealMatches } from '../sealed-rows.ts';
import { ALERTS, type AlertId, type Alerts } from '../signals/alerts.ts';
import {
  findSilences,
  lockSilences,
  SILENCES_SEAL,
  type SilencesRecord,
  writeSilences,
} from '../store/alerts/silences.ts';
import type { MutationTx, Query, Tx } from '../store/core/transaction.ts';
import { findCurrentSealKey, holdCurrentSealKey } from '../store/hsm-token/token-objects.ts';
import type { Store } from '../store/store.ts';

/** What alerts about the list are about, and the resource of changes to it. */
const RESOURCE = 'alertSilences';
const READ_MS = 5_000;
/** So many silences there are at most at a time. */
const LIMIT = 200;
/** What does not verify is verified again after so long. */
const AGAIN_MS = 30_000;

/** Says which alerts are not delivered. */
export interface Silence {
  readonly silenceId: AnyId;
  readonly condition: AlertId;
  /** Empty for whatever an alert of that condition is about. */
  readonly subject: string;
  readonly until: Date;
  readonly reason: string;
  readonly creator: string;
  readonly createdAt: Date;
}

/** What a caller wants not to be delivered. */
export type NewSilence = Pick<Silence, 'condition' | 'subject' | 'until' | 'reason'>;

/** What {@link Silences} stands on. */
export interface SilencesParts {
  readonly store: Pick<Store, 'mutate' | 'query'>;
  readonly agents: Pick<Agents, 'call' | 'held'>;
  /** Knows which key is current for seals. */
  readonly states: {
    sealer(call: Pick<Call, 'deadline'>): { sealKey(tx?: Tx): Promise<SealKeyId | undefined> };
  };
  readonly systemTenantId: TenantId;
  readonly alerts: Alerts;
}

/** Keeps, and follows, the list of silences. */
export class Silences {
  readonly #parts: SilencesParts;
  #list: readonly Silence[] = [];
  /** The newest that verified. */
  #seen: SilencesRecord | undefined;
  /** Which revision was looked at last, and when, where it did not verify. */
  #known: { readonly revision: string | null; readonly triedAt?: number } | undefined;

  constructor(parts: SilencesParts) {
    this.#parts = parts;
  }

  /** Whether such an alert is not to be delivered now. */
  covers({ condition, subject }: Pick<Silence, 'condition' | 'subject'>): boolean {
    const now = Date.now();
    return this.#list.some(
      (each) =>
        each.condition === condition &&
        (each.subject === '' || each.subject === subject) &&
        each.until.getTime() > now,
    );
  }

  /** Hears which revision the database has; reads and verifies another one. Never rejects. */
  async follow(revision: string | null): Promise<void> {
    const { revision: known, triedAt } = this.#known ?? {};
    const isLater = triedAt !== undefined && monotonicNow() - triedAt >= AGAIN_MS;
    if (known !== revision || isLater) await this.#reread(revision);
  }

  async #reread(revision: string | null): Promise<void> {
    const deadline = monotonicNow() + READ_MS;
    const query = this.#query(deadline);
    try {
      this.#list = await this.#verified(await findSilences(query), deadline);
      this.#known = { revision };
    } catch {
      // It is not known what it has: everything is delivered.
      this.#list = [];
      this.#known = { revision, triedAt: monotonicNow() };
    }
  }

  /** Returns those that are not over. Throws ALERT_SILENCES_CORRUPT, and what agents throw. */
  async list({ deadline }: Call): Promise<readonly Silence[]> {
    const list = await this.#verified(await findSilences(this.#query(deadline)), deadline);
    return list.filter(({ until }) => until.getTime() > Date.now());
  }

  /** Adds one; on this replica it holds at once. Throws what agents and the store throw. */
  async add(call: Call, wanted: NewSilence): Promise<Silence> {
    const { systemTenantId: tenantId } = this.#parts;
    const silence: Silence = {
      ...wanted,
      silenceId: newId(),
      creator: call.caller,
      createdAt: new Date(),
    };
    const mutation = { tenantId, resource: nameOf(silence) };
    const added = await this.#parts.store.mutate(call, mutation, async (tx) => {
      await this.#change(tx, call, (list) => {
        if (list.length >= LIMIT) throw new KeywardError('ALERT_SILENCES_FULL');
        tx.changed({ kind: 'alertSilence', after: contentOf(silence) });
        return [...list, silence];
      });
      return silence;
    });
    await this.#reread(null);
    return added;
  }

  /** Ends one at once. Throws RESOURCE_NOT_FOUND, and what agents and the store throw. */
  async remove(call: Call, silenceId: AnyId): Promise<void> {
    const { systemTenantId: tenantId } = this.#parts;
    await this.#parts.store.mutate(call, { tenantId, resource: nameOf({ silenceId }) }, (tx) =>
      this.#change(tx, call, (list) => {
        const found = list.find((each) => each.silenceId === silenceId);
        if (found === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
        tx.changed({ kind: 'alertSilence', before: contentOf(found) });
        return list.filter((each) => each !== found);
      }),
    );
    await this.#reread(null);
  }

  /** Changes the list, from one that verified, or from none. Those that are over fall out. */
  async #change(
    tx: MutationTx,
    call: Call,
    change: (list: readonly Silence[]) => readonly Silence[],
  ): Promise<void> {
    const { agents, states } = this.#parts;
    const deadline = changeDeadline(call);
    const before = await lockSilences(tx);
    if (before === undefined) throw new Error('the database has lost its list of silences');
    const list = await this.#verified(before, deadline).catch((error: unknown) => {
      // A list that does not verify has counted as empty.
      if (isCorrupt(error)) return [];
      throw error;
    });
    const after = change(list.filter(({ until }) => until.getTime() > Date.now()));
    const seen = this.#seen?.revision ?? 0n;
    const revision = (before.revision > seen ? before.revision : seen) + 1n;
    const content = JSON.stringify(after);
    const sealKeyId = await holdCurrentSealKey(tx, states.sealer(call));
    const contents = [encodeAlertSilences({ revision, content })];
    const request = { sealKeyId, kind: RECORD.alertSilences, contents };
    const { seals } = await agents.call('sealRecords', request, deadline);
    if (seals[0] === undefined) throw new Error('an agent sealed nothing');
    await writeSilences(tx, { revision, content, sealKeyId, seal: Buffer.from(seals[0]) });
  }

  async #verified(
    record: SilencesRecord | undefined,
    deadline: number,
  ): Promise<readonly Silence[]> {
    const { alerts } = this.#parts;
    const problem = await this.#problem(record, deadline);
    if (problem !== undefined || record === undefined) {
      alerts.raise('silences-corrupt', RESOURCE, { problem });
      throw new KeywardError('ALERT_SILENCES_CORRUPT', { cause: new Error(problem) });
    }
    alerts.clear('silences-corrupt', RESOURCE);
    this.#seen = record;
    return record.seal === null ? [] : parseSilences(record.content);
  }

  async #problem(
    record: SilencesRecord | undefined,
    deadline: number,
  ): Promise<string | undefined> {
    if (record === undefined) return 'its row is missing';
    const { revision, sealKeyId, seal, content } = record;
    if (this.#seen !== undefined && revision < this.#seen.revision)
      return `its revision is ${revision}, and it was ${this.#seen.revision} before`;
    // As the migration makes it: no silence was ever set.
    if (revision === 0n && seal === null && content === '[]') return undefined;
    if (sealKeyId === null || seal === null || revision < 0n) return 'it is not sealed';
    const row = { content: encodeAlertSilences({ revision, content }), sealKeyId, seal };
    const matches = await sealMatches(this.#parts, RECORD.alertSilences, row, deadline);
    return matches ? undefined : 'its seal does not match';
  }

  #query(deadline: number): Query {
    return ((text: string, values: readonly unknown[] = []) =>
      this.#parts.store.query({ deadline }, text, values)) as Query;
  }
}

function isCorrupt(error: unknown): boolean {
  return error instanceof KeywardError && error.reason === 'ALERT_SILENCES_CORRUPT';
}

/** Returns the name of a silence. */
export function nameOf({ silenceId }: Pick<Silence, 'silenceId'>): string {
  return `${RESOURCE}/${silenceId}`;
}

/** What an audit entry says of a silence. */
function contentOf({ condition, subject, until, reason }: Silence): object {
  return { condition, subject, until: until.toISOString(), reason };
}

/** From what was sealed; one of a condition that this release does not have covers nothing. */
function parseSilences(content: string): readonly Silence[] {
  const list = JSON.parse(content) as readonly (Omit<Silence, 'until' | 'createdAt'> & {
    readonly until: string;
    readonly createdAt: string;
  })[];
  return list.flatMap((each) =>
    Object.hasOwn(ALERTS, each.condition)
      ? [{ ...each, until: new Date(each.until), createdAt: new Date(each.createdAt) }]
      : [],
  );
}

/** The list, as a kind of record for `keyring/seals/reseal.ts`. */
export const ALERT_SILENCES = {
  kind: RECORD.alertSilences,
  findFormer: SILENCES_SEAL.findFormerKeys,
  readStale: async (query: Query, former: SealKeyId, after: SilencesRecord | undefined) => {
    const [row, sealKeyId] = [await findSilences(query), await findCurrentSealKey(query)];
    if (after !== undefined || row?.seal == null || sealKeyId === undefined) return [];
    if (row.sealKeyId !== former) return [];
    const content = encodeAlertSilences(row);
    return [{ row, resource: RESOURCE, content, seal: row.seal, sealKeyId }];
  },
  write: SILENCES_SEAL.rewrite,
} as const;
