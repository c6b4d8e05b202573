/**
 * Counts what callers do, from the outcomes of their calls, until it is taken and reported.
 *
 * - A call costs a look-up in a map.
 * - Callers beyond {@link MAX_CALLERS} between two reports are not counted, nor are keys beyond
 *   {@link MAX_KEYS} of one: memory is bounded.
 * - What was refused before it was let in is no caller's.
 */
import type { CallOutcome } from '../calls/outcomes.ts';
import { REASONS } from '../errors.ts';

const MAX_CALLERS = 10_000;
const MAX_KEYS = 1_000;
const ENCRYPTION = /\/(Batch)?(Encrypt|GenerateDataKey\w*|CreateDataKey)$/;
const DECRYPTION = /\/(Batch)?(Decrypt|ReEncrypt|GetDataKey)$/;
/** The service's failures, not the caller's. */
const OF_SERVICE: readonly string[] = [
  'UNAVAILABLE',
  'INTERNAL',
  'DEADLINE_EXCEEDED',
  'CANCELLED',
  'RESOURCE_EXHAUSTED',
  'DATA_LOSS',
];

/** What one caller did since the last report. */
export interface CallerCount {
  readonly caller: string;
  encrypts: number;
  decrypts: number;
  others: number;
  failures: number;
  /** Names of the keys used. */
  readonly keys: Set<string>;
}

/** Counts what callers do. */
export class CallerCounts {
  #counts = new Map<string, CallerCount>();

  /** Counts a call. */
  readonly note = ({ caller, method, notes, error }: CallOutcome): void => {
    if (notes === undefined || caller === undefined) return;
    const count = this.#countOf(caller);
    if (count === undefined) return;
    const { keyVersion, items = [{ keyVersion, outcome: error?.reason ?? 'OK' }] } = notes;
    if (DECRYPTION.test(method)) count.decrypts += items.length;
    else if (ENCRYPTION.test(method)) count.encrypts += items.length;
    else count.others += 1;
    for (const item of items) {
      if (isOfCaller(item.outcome)) count.failures += 1;
      if (item.keyVersion !== undefined && count.keys.size < MAX_KEYS)
        count.keys.add(keyOf(item.keyVersion));
    }
  };

  /** Returns what was counted since the last time. */
  take(): readonly CallerCount[] {
    const counts = [...this.#counts.values()];
    this.#counts = new Map();
    return counts;
  }

  #countOf(caller: string): CallerCount | undefined {
    const known = this.#counts.get(caller);
    if (known !== undefined || this.#counts.size >= MAX_CALLERS) return known;
    const none = { encrypts: 0, decrypts: 0, others: 0, failures: 0 };
    const count = { caller, ...none, keys: new Set<string>() };
    this.#counts.set(caller, count);
    return count;
  }
}

/** Whether an outcome is a failure for something about the caller or the request. */
function isOfCaller(outcome: string): boolean {
  const row = REASONS[outcome as keyof typeof REASONS] as { readonly status: string } | undefined;
  return row !== undefined && !OF_SERVICE.includes(row.status);
}

/** The name of the key that a version is of. */
const keyOf = (version: string) => version.replace(/\/versions\/\d+$/, '');
