/**
 * Entries of calls that change nothing, made durable in groups: what waits while one group is being
 * written is the next.
 *
 * Invariants: when {@link AuditWriter.write} returns, the entry is durable; when it throws, its
 * caller gets nothing; it does one of the two within half a second after the database wrote
 * anything last. What waits is bounded by the calls that wait for it. A flood of one caller's
 * refusals becomes few entries, each with its count: those that wait together are one, and after
 * the first few in a second they wait for each other. What changes state is recorded in its own
 * transaction, not here.
 */
import { randomUUID } from 'node:crypto';
import { monotonicNow } from '../call.ts';
import { KeywardError } from '../errors.ts';
import { appendEntries, type TenantLine } from '../store/audit/audit.ts';
import { type AuditEntry, auditLine, tenantOf } from '../store/audit/audit-entry.ts';
import type { Store } from '../store/store.ts';

/** How long a call waits for its entry while nothing at all is written, looked at so often. */
const WAIT_MS = 440;
const LOOK_MS = 40;
/** When the database is given up that has not answered, and its connection with it. */
const GIVE_UP_MS = 2_000;
/** Groups that are on their way at once: while one is being flushed to disk, another travels. */
const GROUPS = 2;
/** In one group at most; what waits more is in the next. */
const MAX_ENTRIES = 2_000;
const MAX_CHARACTERS = 4 * 1024 * 1024;
/**
 * So many refusals of one kind in a second are written as they come; the rest in groups of so many
 * milliseconds.
 */
const FREE_REFUSALS = 20;
const REFUSAL_GROUP_MS = 60;
const SECOND_MS = 1_000;

/** What is to be recorded. */
export type CallRecord = Omit<AuditEntry, 'entryId' | 'count'>;

/** A line that waits, and who waits for it. */
interface Pending {
  readonly entry: TenantLine;
  readonly since: number;
  readonly settled: PromiseWithResolvers<void>;
}

/** Refusals of one kind that wait for more of it. */
interface Refusals {
  readonly record: CallRecord;
  count: number;
  readonly settled: PromiseWithResolvers<void>;
}

/** Writes entries of calls that change nothing, in groups. */
export class AuditWriter {
  readonly #store: Pick<Store, 'append'>;
  readonly #queue: Pending[] = [];
  /** Groups that are on their way. */
  readonly #groups = new Set<readonly Pending[]>();
  #looking: NodeJS.Timeout | undefined;
  /** When a group was written last. */
  #wroteAt = 0;
  /** Those that wait for more of their kind. */
  readonly #refusals = new Map<string, Refusals>();
  /** How many of each kind there were in this second. */
  #recent = new Map<string, number>();
  #recentSince = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(store: Pick<Store, 'append'>) {
    this.#store = store;
  }

  /**
   * Makes an entry durable. Throws AUDIT_UNAVAILABLE, half a second after the database wrote
   * anything last.
   */
  write(record: CallRecord, count?: number): Promise<void> {
    const line = auditLine({
      ...record,
      entryId: randomUUID(),
      ...(count === undefined ? {} : { count }),
    });
    const entry = { tenant: tenantOf(record.resource), line };
    const settled = Promise.withResolvers<void>();
    this.#queue.push({ entry, since: monotonicNow(), settled });
    // What else this turn of the event loop brings goes along.
    if (this.#groups.size < GROUPS) setImmediate(() => this.#send());
    this.#looking ??= setInterval(() => setImmediate(() => this.#giveUp()), LOOK_MS);
    return settled.promise;
  }

  /**
   * As {@link AuditWriter.write}, for a call that was refused: one of many, it may share an entry.
   */
  writeRefusal(record: CallRecord): Promise<void> {
    const { call, resource, outcome } = record;
    const kind = JSON.stringify([call.caller, call.method, tenantOf(resource), outcome]);
    const waiting = this.#refusals.get(kind);
    if (waiting !== undefined) {
      waiting.count += 1;
      return waiting.settled.promise;
    }
    if (this.#countRecent(kind) <= FREE_REFUSALS) return this.write(record);
    const settled = Promise.withResolvers<void>();
    this.#refusals.set(kind, { record, count: 1, settled });
    this.#timer ??= setTimeout(() => this.#writeRefusals(), REFUSAL_GROUP_MS);
    return settled.promise;
  }

  #countRecent(kind: string): number {
    const now = monotonicNow();
    if (now - this.#recentSince >= SECOND_MS) {
      this.#recent = new Map();
      this.#recentSince = now;
    }
    const count = (this.#recent.get(kind) ?? 0) + 1;
    this.#recent.set(kind, count);
    return count;
  }

  #writeRefusals(): void {
    this.#timer = undefined;
    for (const { record, count, settled } of this.#refusals.values())
      this.write(record, count > 1 ? count : undefined).then(settled.resolve, settled.reject);
    this.#refusals.clear();
  }

  #send(): void {
    if (this.#groups.size >= GROUPS || this.#queue.length === 0) return;
    const group = this.#queue.splice(0, groupSize(this.#queue));
    this.#groups.add(group);
    void this.#append(group).finally(() => {
      this.#groups.delete(group);
      this.#send();
    });
  }

  /**
   * Lets nobody wait for too long. After whatever has arrived was looked at: when this process
   * itself was held up, the database isn't to blame.
   */
  #giveUp(): void {
    // A database that is slow isn't one that hangs.
    const isLate = ({ since }: Pending) =>
      monotonicNow() - Math.max(since, this.#wroteAt) >= WAIT_MS;
    const late = [...this.#groups].flatMap((group) => group.filter(isLate));
    const end = this.#queue.findIndex((each) => !isLate(each));
    late.push(...this.#queue.splice(0, end < 0 ? this.#queue.length : end));
    for (const { settled } of late) settled.reject(new KeywardError('AUDIT_UNAVAILABLE'));
    if (this.#groups.size > 0 || this.#queue.length > 0) return;
    clearInterval(this.#looking);
    this.#looking = undefined;
  }

  /** Never rejects. */
  async #append(group: readonly Pending[]): Promise<void> {
    const deadline = monotonicNow() + GIVE_UP_MS;
    try {
      await appendEntries(
        this.#store,
        { deadline },
        group.map(({ entry }) => entry),
      );
      this.#wroteAt = monotonicNow();
      for (const { settled } of group) settled.resolve();
    } catch (cause) {
      for (const { settled } of group)
        settled.reject(new KeywardError('AUDIT_UNAVAILABLE', { cause }));
    }
  }
}

/**
 * How many of those that wait go into one group: the oldest, up to either limit, and at least one.
 */
function groupSize(queue: readonly Pending[]): number {
  let characters = 0;
  const end = queue.findIndex(({ entry }, index) => {
    characters += entry.line.length;
    return index >= MAX_ENTRIES || (index > 0 && characters > MAX_CHARACTERS);
  });
  return end < 0 ? queue.length : end;
}
