/**
 * Entries of calls that change nothing, made durable in groups: what waits while one group is being
 * written is the next.
 *
 * Invariants: when {@link AuditWriter.write} returns, the entry is durable; when it throws, its
 * caller gets nothing; it does one of the two within `waitMs` or little more after the database
 * wrote anything last. Whose log an entry is in, `logOf` vouches for, not the database. What waits
 * is bounded by the calls that wait for it. What changes state is recorded in its own transaction,
 * not here.
 */
import { randomUUID } from 'node:crypto';
import { monotonicNow } from '../call.ts';
import { KeywardError } from '../errors.ts';
import type { TenantId } from '../ids.ts';
import { type TraceLink, traced, tracedGroup, traceLink } from '../signals/tracing.ts';
import { appendEntries, type TenantLine } from '../store/audit/audit.ts';
import { auditLine, tenantOf } from '../store/audit/audit-entry.ts';
import type { Store } from '../store/store.ts';
import { type CallRecord, Refusals } from './refusals.ts';

/** How often it is looked whether a call has waited for too long. */
const LOOK_MS = 40;
/** So long after that a database is given up that has not answered, with its connection. */
const GRACE_MS = 1_560;
/** Groups that are on their way at once: while one is being flushed to disk, another travels. */
const GROUPS = 2;
/** In one group at most; what waits more is in the next. */
const MAX_ENTRIES = 2_000;
const MAX_CHARACTERS = 1024 * 1024;
/** A line that waits, and who waits for it. */
interface Pending {
  readonly entry: TenantLine;
  readonly since: number;
  readonly settled: PromiseWithResolvers<void>;
  /** To the span of the call that waits. */
  readonly link: TraceLink | undefined;
}

export interface AuditWriterParts {
  readonly store: Pick<Store, 'append'>;
  /** How long a call waits for its entry while nothing at all is written, in milliseconds. */
  readonly waitMs: number;
  /**
   * In whose log an entry is that is about the tenant of this name: in that of `system`, where no
   * tenant of that name verifies. Never rejects.
   */
  readonly logOf: (tenant: string) => TenantId | Promise<TenantId>;
  /** Hears of each group, how many entries it had and whether they are durable. */
  readonly onGroup?: (entries: number, isDurable: boolean) => void;
}

/** Writes entries of calls that change nothing, in groups. */
export class AuditWriter {
  readonly #parts: AuditWriterParts;
  readonly #queue: Pending[] = [];
  /** Groups that are on their way. */
  readonly #groups = new Set<readonly Pending[]>();
  #looking: NodeJS.Timeout | undefined;
  /** When a group was written last. */
  #wroteAt = 0;
  readonly #refusals = new Refusals((record, count) => this.write(record, count));

  constructor(parts: AuditWriterParts) {
    this.#parts = parts;
  }

  /** How many entries wait to be durable, be they on their way or not. */
  get waiting(): number {
    return [...this.#groups].reduce((sum, { length }) => sum + length, this.#queue.length);
  }

  /**
   * Makes an entry durable. Throws AUDIT_UNAVAILABLE, `waitMs` after the database wrote anything
   * last.
   */
  write(record: CallRecord, count?: number): Promise<void> {
    return traced('audit', 'entry', () => this.#write(record, count));
  }

  #write(record: CallRecord, count: number | undefined): Promise<void> {
    const log = this.#parts.logOf(record.call.audit?.tenant ?? tenantOf(record.resource));
    // Most are known, and of a call that was refused it is found out while nothing else waits.
    return typeof log === 'string'
      ? this.#enqueue(log, record, count)
      : inTime(log, this.#parts.waitMs).then((tenantId) => this.#enqueue(tenantId, record, count));
  }

  #enqueue(tenantId: TenantId, record: CallRecord, count: number | undefined): Promise<void> {
    const line = auditLine({
      ...record,
      entryId: randomUUID(),
      ...(count === undefined ? {} : { count }),
    });
    const entry = { tenantId, line };
    const settled = Promise.withResolvers<void>();
    this.#queue.push({ entry, since: monotonicNow(), settled, link: traceLink() });
    // What else this turn of the event loop brings goes along.
    if (this.#groups.size < GROUPS) setImmediate(() => this.#send());
    this.#looking ??= setInterval(() => setImmediate(() => this.#giveUp()), LOOK_MS);
    return settled.promise;
  }

  /**
   * As {@link AuditWriter.write}, for a call of which anyone can make any number: one of many, it
   * may share an entry (`refusals.ts`).
   */
  writeRefusal(record: CallRecord): Promise<void> {
    return this.#refusals.write(record);
  }

  #send(): void {
    if (this.#groups.size >= GROUPS || this.#queue.length === 0) return;
    const group = this.#queue.splice(0, groupSize(this.#queue));
    this.#groups.add(group);
    void tracedGroup('audit', group, () => this.#append(group)).finally(() => {
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
      monotonicNow() - Math.max(since, this.#wroteAt) >= this.#parts.waitMs;
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
    const deadline = monotonicNow() + this.#parts.waitMs + GRACE_MS;
    try {
      await appendEntries(
        this.#parts.store,
        { deadline },
        group.map(({ entry }) => entry),
      );
      this.#wroteAt = monotonicNow();
      this.#parts.onGroup?.(group.length, true);
      for (const { settled } of group) settled.resolve();
    } catch (cause) {
      this.#parts.onGroup?.(group.length, false);
      for (const { settled } of group)
        settled.reject(new KeywardError('AUDIT_UNAVAILABLE', { cause }));
    }
  }
}

/** Throws AUDIT_UNAVAILABLE when it takes longer than that. */
async function inTime<T>(looking: Promise<T>, waitMs: number): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new KeywardError('AUDIT_UNAVAILABLE')), waitMs);
  try {
    return await Promise.race([looking, late]);
  } finally {
    clearTimeout(timer);
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
