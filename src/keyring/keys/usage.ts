/**
 * Counting how versions are used, off the hot path: a call costs a look-up in a map, and reports go
 * out by themselves.
 *
 * Invariants: a use is counted once its call's entry is durable, and not where the call fails; what
 * was counted is in exactly one report, and a report that may not have arrived is sent again as it
 * was, before any later one; so the sums are never higher than what was recorded, and lower than
 * what was answered only by what a killed process had not reported. What a use is, callers decide;
 * the reconciler's own work is none.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { type Call, monotonicNow, onceRecorded } from '../../call.ts';
import { formatKeyVersionName, type KeyName } from '../../names.ts';
import { addReport, removeReplica, type VersionUse } from '../../store/keys/usage.ts';
import type { Store } from '../../store/store.ts';
import type { LoadedVersion } from './key-cache.ts';

const REPORT_TIMEOUT_MS = 5_000;

interface Count {
  encrypted: number;
  decrypted: number;
  /** In `performance.now`'s milliseconds. */
  lastEncrypt: number | undefined;
  lastDecrypt: number | undefined;
}

/** Counts, of which no more are added to. */
interface Pending {
  readonly sequence: number;
  readonly until: number;
  readonly counts: ReadonlyMap<LoadedVersion, Count>;
}

/** Notes for a call's audit entry which version of a key was used. */
export function noteKeyVersion(
  { audit }: Pick<Call, 'audit'>,
  name: KeyName,
  { record }: Pick<LoadedVersion, 'record'>,
): void {
  if (audit === undefined) return;
  audit.keyId = record.keyId;
  audit.keyVersion = formatKeyVersionName(name, record.version);
}

/** Counts the use of key versions, and reports it in the background. */
export class UsageRecorder {
  readonly #store: Store;
  readonly #replicaId = randomUUID();
  readonly #stopping = new AbortController();
  #counts = new Map<LoadedVersion, Count>();
  #sequence = 0;
  #pending: Pending | undefined;
  #running: Promise<void> | undefined;

  constructor(store: Store) {
    this.#store = store;
  }

  /**
   * Counts an encryption under a key's version, once it is recorded, and notes that version for the
   * call's entry.
   */
  encrypted(call: Pick<Call, 'audit'>, name: KeyName, version: LoadedVersion): void {
    noteKeyVersion(call, name, version);
    this.countEncrypted(call, version, 1);
  }

  /** Counts so many encryptions under a key's version, once they are recorded. */
  countEncrypted(call: Pick<Call, 'audit'>, version: LoadedVersion, times: number): void {
    onceRecorded(call, () => {
      const count = this.#countOf(version);
      count.encrypted += times;
      count.lastEncrypt = performance.now();
    });
  }

  /**
   * Counts a decryption under a key's version, once it is recorded, and notes that version for the
   * call's entry.
   */
  decrypted(call: Pick<Call, 'audit'>, name: KeyName, version: LoadedVersion): void {
    noteKeyVersion(call, name, version);
    this.countDecrypted(call, version, 1);
  }

  /** Counts so many decryptions under a key's version, once they are recorded. */
  countDecrypted(call: Pick<Call, 'audit'>, version: LoadedVersion, times: number): void {
    onceRecorded(call, () => {
      const count = this.#countOf(version);
      count.decrypted += times;
      count.lastDecrypt = performance.now();
    });
  }

  /**
   * Reports every `periodMs`, somewhat less at random; `onError` hears of reports that could not be
   * made yet.
   */
  start(periodMs: number, onError: (error: unknown) => void): void {
    const { signal } = this.#stopping;
    const run = async () => {
      while (!signal.aborted) {
        await this.report().catch(onError);
        await delay(periodMs * (0.8 + Math.random() / 5), undefined, { signal }).catch(() => {});
      }
    };
    this.#running ??= run();
  }

  /** Reports what is left; nobody waits for this replica any more then. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
    await this.report();
    if (this.#counts.size > 0) await this.report();
    await removeReplica(this.#store, deadline(), this.#replicaId);
  }

  /**
   * Sends the report that is due, or the last one if that may not have arrived. Throws what the
   * store throws.
   */
  async report(): Promise<void> {
    this.#pending ??= this.#cut();
    const { sequence, until, counts } = this.#pending;
    const now = performance.now();
    await addReport(this.#store, deadline(), {
      replicaId: this.#replicaId,
      sequence,
      ageMs: now - until,
      uses: addUp(counts, now),
    });
    this.#pending = undefined;
  }

  #cut(): Pending {
    const counts = this.#counts;
    this.#counts = new Map();
    this.#sequence += 1;
    return { sequence: this.#sequence, until: performance.now(), counts };
  }

  #countOf(version: LoadedVersion): Count {
    const known = this.#counts.get(version);
    if (known !== undefined) return known;
    const count = { encrypted: 0, decrypted: 0, lastEncrypt: undefined, lastDecrypt: undefined };
    this.#counts.set(version, count);
    return count;
  }
}

/** One use for each version: one that was loaded twice was counted in two places. */
function addUp(counts: Pending['counts'], now: number): VersionUse[] {
  const uses = new Map<string, VersionUse>();
  for (const [{ record }, count] of counts) {
    const { tenantId, keyId, version } = record;
    const path = `${keyId}/${version}`;
    const before = uses.get(path);
    uses.set(path, {
      tenantId,
      keyId,
      version,
      encrypted: count.encrypted + (before?.encrypted ?? 0),
      decrypted: count.decrypted + (before?.decrypted ?? 0),
      sinceEncryptMs: latest(before?.sinceEncryptMs, count.lastEncrypt, now),
      sinceDecryptMs: latest(before?.sinceDecryptMs, count.lastDecrypt, now),
    });
  }
  return [...uses.values()];
}

function latest(
  since: number | undefined,
  last: number | undefined,
  now: number,
): number | undefined {
  if (last === undefined) return since;
  return Math.min(since ?? Number.POSITIVE_INFINITY, now - last);
}

function deadline(): { readonly deadline: number } {
  return { deadline: monotonicNow() + REPORT_TIMEOUT_MS };
}
