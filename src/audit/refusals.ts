/**
 * Entries of which anyone can cause any number: calls that were refused, that found nothing, or
 * that need no permission. A flood of them becomes few entries, and what was merged is counted.
 *
 * Invariants:
 * - what is one kind is decided by who calls and why it is recorded, and never by text of the
 *   caller's choosing: no method's path, no name;
 * - of a kind the first few in a second have an entry each, and those after them share one with all
 *   that come in the same moment;
 * - callers without rights leave no more entries in a second than the ceiling, however many they
 *   are; the rest of them is counted in entries of its own;
 * - nobody's call returns before the entry that counts it is durable.
 */
import { type AuditNotes, addDetail, monotonicNow, ownWork } from '../call.ts';
import { REASONS, type Reason } from '../errors.ts';
import { SYSTEM_TENANT } from '../names.ts';
import { type AuditEntry, tenantOf } from '../store/audit/audit-entry.ts';

/** So many of one kind in a second are written as they come. */
const FREE = 20;
/** The rest, in groups of so many milliseconds. */
const GROUP_MS = 60;
const SECOND_MS = 1_000;
/** So many entries in a second are left to callers without rights. */
const CEILING = 100;
/** Of what a shared entry stands for, so many methods and resources are named. */
const NAMED = 10;
/** Kinds that are told apart in a second; the rest is counted together. */
const KINDS = 10_000;

/** What is to be recorded. */
export type CallRecord = Omit<AuditEntry, 'entryId' | 'count'>;

/** Those of one kind that wait for more of it. */
interface Waiting {
  readonly record: CallRecord;
  count: number;
  readonly methods: Set<string>;
  readonly resources: Set<string>;
  readonly settled: PromiseWithResolvers<void>;
}

/** What was over the ceiling since the last entry that counted it. */
interface Rest {
  count: number;
  readonly replica: string | undefined;
  readonly outcomes: Map<string, number>;
  readonly settled: PromiseWithResolvers<void>;
}

/** Merges entries of which anyone can cause any number. */
export class Refusals {
  readonly #write: (record: CallRecord, count?: number) => Promise<void>;
  readonly #waiting = new Map<string, Waiting>();
  #rest: Rest | undefined;
  /** How many of each kind there were in this second. */
  #recent = new Map<string, number>();
  /** How many entries callers without rights have left in it. */
  #left = 0;
  #recentSince = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(write: (record: CallRecord, count?: number) => Promise<void>) {
    this.#write = write;
  }

  /** Returns when the entry is durable that counts it. Throws AUDIT_UNAVAILABLE. */
  write(record: CallRecord): Promise<void> {
    this.#beginSecond();
    const kind = kindOf(record);
    const waiting = this.#waiting.get(kind);
    if (waiting !== undefined) return join(waiting, record);
    const count = (this.#recent.get(kind) ?? 0) + 1;
    if (count > 1 || this.#recent.size < KINDS) this.#recent.set(kind, count);
    else return this.#addToRest(record, 1);
    if (count <= FREE) return this.#writeBelowCeiling(record);
    const added: Waiting = {
      record,
      count: 0,
      methods: new Set(),
      resources: new Set(),
      settled: Promise.withResolvers(),
    };
    this.#waiting.set(kind, added);
    this.#wakeLater();
    return join(added, record);
  }

  #beginSecond(): void {
    const now = monotonicNow();
    if (now - this.#recentSince < SECOND_MS) return;
    this.#recent = new Map();
    this.#left = 0;
    this.#recentSince = now;
  }

  #wakeLater(): void {
    this.#timer ??= setTimeout(() => this.#writeWaiting(), GROUP_MS);
  }

  #writeWaiting(): void {
    this.#timer = undefined;
    this.#beginSecond();
    for (const waiting of this.#waiting.values())
      this.#writeBelowCeiling(mergedOf(waiting), waiting.count).then(
        waiting.settled.resolve,
        waiting.settled.reject,
      );
    this.#waiting.clear();
    const rest = this.#rest;
    this.#rest = undefined;
    if (rest !== undefined)
      this.#write(restOf(rest), rest.count).then(rest.settled.resolve, rest.settled.reject);
  }

  #writeBelowCeiling(record: CallRecord, count = 1): Promise<void> {
    const isUnderIt = record.call.audit?.tenant ?? tenantOf(record.resource);
    if (isUnderIt !== SYSTEM_TENANT) return this.#write(record, count > 1 ? count : undefined);
    if (this.#left >= CEILING) return this.#addToRest(record, count);
    this.#left += 1;
    return this.#write(record, count > 1 ? count : undefined);
  }

  #addToRest({ call, outcome }: CallRecord, count: number): Promise<void> {
    this.#rest ??= {
      count: 0,
      replica: call.audit?.replica,
      outcomes: new Map(),
      settled: Promise.withResolvers(),
    };
    const { outcomes, settled } = this.#rest;
    this.#rest.count += count;
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + count);
    this.#wakeLater();
    return settled.promise;
  }
}

/** Of this a caller is known, and has proven too little for what it asks. */
const STEP_UP: Reason = 'STEP_UP_REQUIRED';

/**
 * Who, in whose log, and why: a caller by name, or who has no name that is proven, by certificate
 * or address.
 */
function kindOf({ call, resource, outcome }: CallRecord): string {
  const { audit, caller } = call;
  const isUnknown = outcome !== STEP_UP && statusOf(outcome) === 'UNAUTHENTICATED';
  const who = isUnknown ? (audit?.certificate ?? audit?.address ?? '') : caller;
  return JSON.stringify([isUnknown, who, audit?.tenant ?? tenantOf(resource), outcome]);
}

function statusOf(outcome: string): string | undefined {
  return Object.hasOwn(REASONS, outcome)
    ? REASONS[outcome as keyof typeof REASONS].status
    : undefined;
}

function join(waiting: Waiting, { call, resource }: CallRecord): Promise<void> {
  waiting.count += 1;
  for (const [names, name] of [
    [waiting.methods, call.method],
    [waiting.resources, resource],
  ] as const)
    if (names.size < NAMED) names.add(name);
  return waiting.settled.promise;
}

/** The first one, with what the others were about. */
function mergedOf({ record, methods, resources }: Waiting): CallRecord {
  const audit: AuditNotes = { ...record.call.audit };
  if (methods.size > 1) addDetail(audit, { methods: [...methods] });
  if (resources.size > 1) addDetail(audit, { resources: [...resources] });
  return { ...record, call: { ...record.call, audit } };
}

/** An entry of the service's own, for all that was over the ceiling. */
function restOf({ replica, outcomes }: Rest): CallRecord {
  const detail = { outcomes: Object.fromEntries(outcomes) };
  const audit: AuditNotes = { ...(replica === undefined ? {} : { replica }), detail };
  const call = { ...ownWork('CountRefusals'), audit };
  return { call, resource: 'auditLog', outcome: 'OK' };
}
