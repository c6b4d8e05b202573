/**
 * The changes that every replica must hear of, and the feed that tells it.
 *
 * A change is a row, written in the transaction of what it reports. Replicas poll: no LISTEN, so a
 * pooler in transaction mode will do. Ids are handed out in another order than transactions commit
 * in, so a feed that remembers the last id misses some. This one remembers the *horizon*, the
 * oldest transaction that was running at its last poll: whatever wasn't visible then belongs to
 * that transaction or a later one, so the next poll reads from there. A writer that runs for long
 * only makes it read the same rows again, and those it has told of are left out. What is forgotten
 * because of a change isn't known here.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { monotonicNow } from '../call.ts';
import type { TenantId } from '../ids.ts';
import type { Primary, Tx } from './core/transaction.ts';

const POLL_MS = 250;
/** A poll is given up so long before the replica may no longer answer from memory. */
const GIVEN_UP_MS = 500;

/**
 * `destroyed`: a key, whose handles in the agents must be forgotten besides. `token`: the token's
 * objects. `versions`: key versions of the tenant, in any number; of any tenant, where it is
 * `system`. `shredded`: a tenant with all its keys, whose handles must be forgotten. `access`: who
 * may do what in the tenant. `canaries`: canaries and suspended callers, of any tenant.
 * `approvalRules`: the approval rules of the tenant.
 */
export type ChangeKind =
  | 'tenant'
  | 'key'
  | 'destroyed'
  | 'token'
  | 'versions'
  | 'shredded'
  | 'access'
  | 'canaries'
  | 'approvalRules';

export interface Change {
  /** Whose change it is: of a tenant that is made or shredded, `system`'s. */
  readonly tenantId: TenantId;
  readonly kind: ChangeKind;
  /**
   * The UUID of the tenant, key or token object that changed, or of the job that changed them; of
   * the tenant `system` for canaries.
   */
  readonly subjectId: string;
}

/** Reports a change to every replica, once `tx` is committed. */
export async function recordChange(tx: Tx, change: Change): Promise<void> {
  await tx.query('INSERT INTO changes (tenant_id, kind, subject_id) VALUES ($1, $2, $3)', [
    change.tenantId,
    change.kind,
    change.subjectId,
  ]);
}

export interface ChangeListener {
  /**
   * Something changed: forget what is remembered of it. May come more than once for one change.
   *
   * What was being read while this came may be from before the change, and must not be remembered
   * either.
   */
  onChange(change: Change): void;
  /** Anything may have changed: forget everything. Comes first of all. */
  onReset(): void;
  /** A poll failed. The feed goes on by itself. */
  onError(error: unknown): void;
}

interface PollRow {
  horizon: string;
  change_id: string | null;
  tenant_id: TenantId;
  kind: ChangeKind;
  subject_id: string;
}

// One statement, hence one snapshot for the horizon and for what is visible.
const POLLED = `pg_snapshot_xmin(s.snapshot)::text AS horizon, c.change_id, c.tenant_id, c.kind, c.subject_id
  FROM (SELECT pg_current_snapshot() AS snapshot) s LEFT JOIN changes c ON c.xid >= $1::xid8
  ORDER BY c.change_id`;

/** Tells one listener of every change that is committed, within 250 ms or little more. */
export class ChangeFeed {
  readonly #store: Primary;
  readonly #maxStalenessMs: number;
  readonly #listener: ChangeListener;
  readonly #stopping = new AbortController();
  #running: Promise<void> | undefined;
  /**
   * All transactions below are over, and their changes told of; undefined before the first poll.
   */
  #horizon: bigint | undefined;
  /** The changes at or above the horizon that have been told of. */
  #told = new Set<string>();
  #lastGoodBegan = Number.NEGATIVE_INFINITY;
  #isFailing = false;

  /**
   * `maxStalenessMs` is how long after the beginning of a good poll the replica may still answer
   * from memory.
   */
  constructor(store: Primary, maxStalenessMs: number, listener: ChangeListener) {
    this.#store = store;
    this.#maxStalenessMs = maxStalenessMs;
    this.#listener = listener;
  }

  /** Begins to poll, at once. */
  start(): void {
    this.#running ??= this.#run();
  }

  /** Ends polling, for good; a poll under way is waited for. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  /**
   * Whether every change that was committed `maxStalenessMs` ago has been told of; else nothing may
   * be answered from memory.
   */
  isFresh(): boolean {
    return monotonicNow() - this.#lastGoodBegan < this.#maxStalenessMs;
  }

  /** Whether the last poll failed. */
  get isFailing(): boolean {
    return this.#isFailing;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      const began = monotonicNow();
      try {
        await this.#poll(began);
        this.#isFailing = false;
      } catch (error) {
        this.#isFailing = true;
        this.#listener.onError(error);
      }
      const left = Math.max(0, began + POLL_MS - monotonicNow());
      await delay(left, undefined, { signal }).catch(() => {});
    }
  }

  async #poll(began: number): Promise<void> {
    const call = { deadline: began + this.#maxStalenessMs - GIVEN_UP_MS };
    const rows = await this.#store.queryPrimary<PollRow>(call, POLLED, [
      this.#horizon?.toString() ?? null,
    ]);
    const [first] = rows;
    if (first === undefined) throw new Error('a poll for changes returned no row');
    const horizon = BigInt(first.horizon);
    const changes = rows.filter((row) => row.change_id !== null);
    // A horizon that went back: another database, or an older copy of this one.
    const isSequel =
      this.#horizon !== undefined &&
      horizon >= this.#horizon &&
      began - this.#lastGoodBegan < this.#maxStalenessMs;
    if (isSequel) this.#tell(changes);
    else this.#listener.onReset();
    this.#told = new Set(changes.map((row) => String(row.change_id)));
    this.#horizon = horizon;
    this.#lastGoodBegan = began;
  }

  #tell(changes: readonly PollRow[]): void {
    for (const { change_id: id, tenant_id: tenantId, kind, subject_id: subjectId } of changes) {
      if (!this.#told.has(String(id))) this.#listener.onChange({ tenantId, kind, subjectId });
    }
  }
}
