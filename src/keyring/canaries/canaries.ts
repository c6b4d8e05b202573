/**
 * The canaries and suspended callers of all tenants, in memory: whether a ciphertext is a canary,
 * and whether a caller is refused.
 *
 * - Recognising is one hash and one lookup, whatever the ciphertext is and however many canaries
 *   there are: it takes no longer for one than for any other.
 * - Read as a whole, and verified, when the feed tells of a change and at the age of caches; what
 *   does not verify, or is older than what this replica has applied, changes nothing and is an
 *   alert. Calls go on then, by what verified last.
 * - What cannot be read for longer than the replica may be behind answers REPLICA_STALE to who asks
 *   whether a caller is suspended.
 * - What is done about a canary that is opened is not known here.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { monotonicNow } from '../../call.ts';
import { KeywardError } from '../../errors.ts';
import { saltDigest } from '../../hsm/ciphertext.ts';
import { RECORD } from '../../hsm/record-seal.ts';
import type { Agents } from '../../hsm/token-router.ts';
import type { AnyId, TenantId } from '../../ids.ts';
import {
  type DataKeyName,
  formatCanaryName,
  formatDataKeyName,
  SYSTEM_TENANT,
} from '../../names.ts';
import { sealMatches } from '../../sealed-rows.ts';
import type { Alerts } from '../../signals/alerts.ts';
import {
  type CanaryRow,
  findCanaries,
  type StoredCanaries,
  type SuspensionRow,
} from '../../store/canaries/canaries.ts';
import type { Remembered } from '../../store/revisions.ts';
import type { Store } from '../../store/store.ts';
import type { AgingCache } from '../keys/cache-age.ts';
import type { KeyCache } from '../keys/key-cache.ts';
import { type CanaryContent, openRecord, unlessLost } from './canary-record.ts';
import { canaryContent, problemWithRows } from './canary-seal.ts';

const LOAD_MS = 10_000;
const RETRY_MS = 500;
/** So many records are opened at a time. */
const AT_ONCE = 32;
/** What alerts about all of them are about. */
const SUBJECT = 'canaries';

/** A canary. */
export interface Canary {
  readonly row: CanaryRow;
  /** The last parts of its tenant's and its key's names. */
  readonly tenant: string;
  readonly key: string;
  /** Its full name. */
  readonly name: string;
  /** Undefined where its key's version is destroyed: nothing opens it, nor recognises it. */
  readonly content: CanaryContent | undefined;
}

/** Recognises canaries. */
export interface Recogniser {
  /** Returns the canary that a ciphertext is, whatever became of the rest of its bytes. */
  ofCiphertext(ciphertext: Buffer): Canary | undefined;
  /** Returns the canary that a stored data key of that name is. */
  ofDataKey(name: DataKeyName): Canary | undefined;
}

export interface CanariesParts {
  readonly store: Pick<Store, 'reconcile' | 'query'>;
  readonly agents: Pick<Agents, 'call' | 'held'>;
  readonly cache: KeyCache;
  /** The tenant that what is of all tenants is announced for. */
  readonly systemTenantId: TenantId;
  /** For how long what the feed told of may be unread, in milliseconds. */
  readonly maxStalenessMs: number;
  readonly log: { warn(fields: object, message: string): void };
  readonly alerts: Alerts;
}

/** All that was read at once, and verified. */
interface Known {
  readonly revision: bigint;
  readonly canaries: readonly Canary[];
  readonly suspensions: readonly SuspensionRow[];
  readonly bySalt: ReadonlyMap<string, Canary>;
  readonly byDataKey: ReadonlyMap<string, Canary>;
  /** The callers that are suspended, by the last part of the tenant's name. */
  readonly suspended: ReadonlyMap<string, ReadonlySet<string>>;
}

const NOTHING: Known = {
  revision: 0n,
  canaries: [],
  suspensions: [],
  bySalt: new Map(),
  byDataKey: new Map(),
  suspended: new Map(),
};

/** Knows all canaries and suspended callers. */
export class Canaries implements AgingCache, Recogniser {
  readonly #parts: CanariesParts;
  readonly #stopping = new AbortController();
  #known = NOTHING;
  /** The newest revision that was applied here. */
  #newest = 0n;
  /** Since when the feed has told of what is not read yet; undefined while all is. */
  #behindSince: number | undefined = Number.NEGATIVE_INFINITY;
  /** Counts what the feed told of. */
  #news = 0;
  /** Counts what asked for a load, and up to which of them the last good load was. */
  #asked = 0;
  #answered = 0;
  #last: Promise<void> = Promise.resolve();
  #isStarted = false;
  #isReading = false;
  /** Of canaries that were opened, so that a change has only new ones opened. */
  readonly #opened = new Map<AnyId, Canary>();

  constructor(parts: CanariesParts) {
    this.#parts = parts;
  }

  /** Returns once they are known, or are found not to verify. */
  async start(): Promise<void> {
    this.#isStarted = true;
    await this.#untilRead();
  }

  stop(): void {
    this.#stopping.abort();
  }

  ofCiphertext(ciphertext: Buffer): Canary | undefined {
    return this.#known.bySalt.get(saltDigest(ciphertext));
  }

  ofDataKey(name: DataKeyName): Canary | undefined {
    return this.#known.byDataKey.get(formatDataKeyName(name, name.dataKey));
  }

  /** Returns whether the caller is suspended in the tenant, or everywhere. Throws REPLICA_STALE. */
  suspends(caller: string, tenant: string): boolean {
    const { suspended } = this.#known;
    if (this.#behindSince !== undefined) this.#requireCurrent(this.#behindSince);
    if (suspended.size === 0) return false;
    return Boolean(suspended.get(tenant)?.has(caller) || suspended.get(SYSTEM_TENANT)?.has(caller));
  }

  /** Returns the tenant's canaries by id. Throws REPLICA_STALE. */
  canariesOf(tenant: string): readonly Canary[] {
    if (this.#behindSince !== undefined) this.#requireCurrent(this.#behindSince);
    return this.#known.canaries.filter((each) => each.tenant === tenant);
  }

  /** Returns the tenant's suspensions by id. Throws REPLICA_STALE. */
  suspensionsOf(tenantId: TenantId): readonly SuspensionRow[] {
    if (this.#behindSince !== undefined) this.#requireCurrent(this.#behindSince);
    return this.#known.suspensions.filter((each) => each.tenantId === tenantId);
  }

  /** Returns how many there are, of all tenants. */
  get count(): { readonly canaries: number; readonly suspensions: number } {
    const { canaries, suspensions } = this.#known;
    return { canaries: canaries.length, suspensions: suspensions.length };
  }

  /** The feed tells of a change: reads them again, until that succeeds. */
  forget(): void {
    this.#news += 1;
    this.#behindSince ??= monotonicNow();
    // What is told before the agents are there is read at the start.
    if (this.#isStarted) void this.#untilRead();
  }

  /**
   * Reads them again. Returns once what was committed before this was called is known here. Throws
   * CANARIES_CORRUPT, and what the store and the agents throw.
   */
  reload(): Promise<void> {
    this.#asked += 1;
    const asked = this.#asked;
    const before = this.#last.catch(() => {});
    this.#last = before.then(() => (this.#answered >= asked ? undefined : this.#load()));
    return this.#last;
  }

  /**
   * Throws CANARIES_CORRUPT, with an alert, unless the row of the seal is what was sealed, and no
   * older than `newest`; and what agents throw. What it says of rows is not looked at.
   */
  async requireSealed(
    sealed: StoredCanaries['sealed'],
    newest: bigint,
    deadline: number,
  ): Promise<void> {
    const problem = await this.#problemWithSeal(sealed, newest, deadline);
    if (problem !== undefined) throw this.corrupt(problem);
  }

  /** Returns the newest revision that was applied here. */
  get newest(): bigint {
    return this.#newest;
  }

  /** Raises the alert, and returns the error. */
  corrupt(problem: string): KeywardError {
    this.#parts.alerts.raise('canaries-corrupt', SUBJECT, { problem });
    return new KeywardError('CANARIES_CORRUPT');
  }

  *remembered(): Iterable<Remembered> {
    const { systemTenantId: tenantId } = this.#parts;
    const entry = this.#known;
    const { revision } = entry;
    if (entry !== NOTHING)
      yield { kind: 'canaries', tenantId, subjectId: tenantId, revision, entry };
  }

  keeps({ entry }: Remembered): boolean {
    return this.#known === entry;
  }

  verifyAgain(): Promise<void> {
    return this.reload();
  }

  #requireCurrent(behindSince: number): void {
    if (monotonicNow() - behindSince > this.#parts.maxStalenessMs)
      throw new KeywardError('REPLICA_STALE');
  }

  async #untilRead(): Promise<void> {
    const { signal } = this.#stopping;
    if (this.#isReading) return;
    this.#isReading = true;
    while (this.#behindSince !== undefined && !signal.aborted) {
      try {
        await this.reload();
      } catch (err) {
        if (err instanceof KeywardError && err.reason === 'CANARIES_CORRUPT') continue;
        this.#parts.log.warn({ err }, 'cannot read the canaries; trying again');
        await delay(RETRY_MS, undefined, { signal }).catch(() => {});
      }
    }
    this.#isReading = false;
  }

  async #load(): Promise<void> {
    const deadline = monotonicNow() + LOAD_MS;
    // As of before it is read: a newer one may be applied meanwhile.
    const [newest, asked, news] = [this.#newest, this.#asked, this.#news];
    try {
      const stored = await this.#parts.store.reconcile({ deadline }, findCanaries);
      await this.requireSealed(stored.sealed, newest, deadline);
      const problem = problemWithRows(stored);
      if (problem !== undefined) throw this.corrupt(problem);
      await this.#apply(stored, deadline);
      this.#answered = asked;
      this.#parts.alerts.clear('canaries-corrupt', SUBJECT);
      if (news === this.#news) this.#behindSince = undefined;
    } catch (error) {
      // What does not verify is no news: what verified last counts.
      const isCorrupt = error instanceof KeywardError && error.reason === 'CANARIES_CORRUPT';
      if (isCorrupt && news === this.#news) this.#behindSince = undefined;
      throw error;
    }
  }

  async #apply(stored: StoredCanaries, deadline: number): Promise<void> {
    const tenants = await this.#tenantsOf([...stored.canaries, ...stored.suspensions]);
    const canaries = await this.#open(stored.canaries, tenants, deadline);
    const suspended = new Map<string, Set<string>>();
    for (const { tenantId, caller } of stored.suspensions) {
      const tenant = tenants.get(tenantId);
      if (tenant !== undefined)
        suspended.set(tenant, (suspended.get(tenant) ?? new Set()).add(caller));
    }
    const bySalt = new Map<string, Canary>();
    const byDataKey = new Map<string, Canary>();
    for (const canary of canaries) {
      const { saltDigest: salt, dataKey } = canary.content ?? {};
      if (salt !== undefined) bySalt.set(salt, canary);
      if (dataKey !== undefined) byDataKey.set(formatDataKeyName(canary, dataKey.name), canary);
    }
    const revision = stored.sealed?.revision ?? 0n;
    this.#known = {
      revision,
      canaries: canaries.toSorted((a, b) => (a.row.canaryId < b.row.canaryId ? -1 : 1)),
      suspensions: stored.suspensions.toSorted((a, b) =>
        a.suspensionId < b.suspensionId ? -1 : 1,
      ),
      bySalt,
      byDataKey,
      suspended,
    };
    if (revision > this.#newest) this.#newest = revision;
  }

  /** Of tenants that do not verify, nothing is known, and nothing is done in them. */
  async #open(
    rows: readonly CanaryRow[],
    tenants: ReadonlyMap<TenantId, string>,
    deadline: number,
  ): Promise<Canary[]> {
    const canaries: Canary[] = [];
    const open = async (row: CanaryRow) => {
      const tenant = tenants.get(row.tenantId);
      if (tenant !== undefined) canaries.push(await this.#openOne(row, tenant, deadline));
    };
    for (let start = 0; start < rows.length; start += AT_ONCE)
      await Promise.all(rows.slice(start, start + AT_ONCE).map(open));
    const kept = new Set(rows.map(({ uid }) => uid));
    for (const uid of this.#opened.keys()) if (!kept.has(uid)) this.#opened.delete(uid);
    return canaries;
  }

  async #openOne(row: CanaryRow, tenant: string, deadline: number): Promise<Canary> {
    const name = formatCanaryName({ tenant }, row.canaryId);
    const before = this.#opened.get(row.uid);
    if (before?.row.record.equals(row.record)) return { ...before, row, tenant, name };
    const opened = await openRecord(this.#parts, row, deadline);
    const canary = { row, tenant, name, key: opened?.key ?? '', content: opened?.content };
    if (opened !== undefined) this.#opened.set(row.uid, canary);
    return canary;
  }

  async #tenantsOf(
    rows: readonly { readonly tenantId: TenantId }[],
  ): Promise<ReadonlyMap<TenantId, string>> {
    const tenants = new Map<TenantId, string>();
    for (const tenantId of new Set(rows.map((row) => row.tenantId))) {
      const tenant = await unlessLost(() => this.#parts.cache.tenantById(tenantId));
      if (tenant !== undefined) tenants.set(tenantId, tenant.name);
    }
    return tenants;
  }

  async #problemWithSeal(
    sealed: StoredCanaries['sealed'],
    newest: bigint,
    deadline: number,
  ): Promise<string | undefined> {
    if (sealed === undefined) return 'the row of the seal is missing';
    if (sealed.revision < newest)
      return `the revision is ${sealed.revision}, and it was ${newest} before`;
    const { sealKeyId, seal, revision, digests } = sealed;
    if (sealKeyId === null || seal === null)
      return revision === 0n && Object.keys(digests).length === 0 ? undefined : 'it is not sealed';
    const row = { content: canaryContent(sealed), sealKeyId, seal };
    const matches = await sealMatches(this.#parts, RECORD.canaries, row, deadline);
    return matches ? undefined : 'the seal does not match';
  }
}
