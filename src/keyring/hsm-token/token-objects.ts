/**
 * The token's objects as this replica knows them: which are recorded, which its agents hold, which
 * are for new things.
 *
 * Invariants: agents are told of an object before anything is under it, and this replica says that
 * it holds one only once all of its agents do; what isn't to be used any more, it says it holds
 * until none does. Which is for new things is known only of a set of records that was verified
 * (`token-key-seals.ts`), and not at all while the last one read doesn't verify. What was read
 * before the agents could verify anything opens the token, no more. Decides nothing about an
 * object's life: `token-keys.ts` does.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { monotonicNow } from '../../call.ts';
import { KeywardError } from '../../errors.ts';
import type { TokenObject } from '../../hsm/token-profile.ts';
import type { AnyId, RootKeyId, SealKeyId, TenantId } from '../../ids.ts';
import type { Deadline, Tx } from '../../store/core/transaction.ts';
import { type ReplicaReport, removeReplicas, reportHeld } from '../../store/hsm-token/replicas.ts';
import { findTokenKeySet, type TokenKeySetRecord } from '../../store/hsm-token/token-key-set.ts';
import type { TokenObjectRecord } from '../../store/hsm-token/token-objects.ts';
import type { Store } from '../../store/store.ts';
import type { CurrentKeys } from '../keys/key-versions.ts';
import type { TokenKeySeals } from './token-key-seals.ts';

const READ_MS = 5_000;
const REPORT_PERIOD_MS = 2_000;
/** What is recorded is read and verified anew at the latest after so long. */
const AGE_MS = 30_000;
/** How often a change that meets another key than it was made under is made anew. */
const TRIES = 3;

/** The recorded objects, as agents are told of them. */
export function tokenObjectsOf(records: readonly TokenObjectRecord[]): TokenObject[] {
  return records.map((record) => {
    const { objectId, role } = record;
    const presence = presenceOf(record);
    return presence === undefined ? { objectId, role } : { objectId, role, presence };
  });
}

function presenceOf({ state, tenantState }: TokenObjectRecord): TokenObject['presence'] {
  if (state === 'DESTROYED') return 'gone';
  if (tenantState === 'SHREDDED') return 'possible';
  if (state === 'CURRENT' || state === 'RETIRED') return undefined;
  return state === 'CREATED' ? 'expected' : 'possible';
}

export interface TokenObjectsParts {
  readonly store: Store;
  readonly tokens: {
    /**
     * Has all of this replica's agents use what is recorded of their tokens. Throws
     * HSM_UNAVAILABLE.
     */
    hold(records: readonly TokenObjectRecord[]): Promise<void>;
    readonly agents: { readonly held: readonly AnyId[] };
  };
  readonly seals: TokenKeySeals;
  /** Returns what this replica reports of itself beside what it holds. */
  readonly describe: () => ReplicaReport;
  readonly systemTenantId: TenantId;
}

/** Tells the agents which token objects to hold, and reports which this replica holds. */
export class TokenObjects {
  readonly #parts: TokenObjectsParts;
  readonly #replicaId = randomUUID();
  readonly #stopping = new AbortController();
  /** Verified; undefined before any was. */
  #known: TokenKeySetRecord | undefined;
  #verifiedAt = 0;
  /** Why the last look was in vain, where it is what is recorded. */
  #corrupt: KeywardError | undefined;
  #refreshing: Promise<void> | undefined;
  #isStale = false;
  /** The last refresh failed, or is under way, or there was none. */
  #isBehind = true;
  #replicas = 1;
  #hasStarted = false;
  #running: Promise<void> | undefined;

  constructor(parts: TokenObjectsParts) {
    this.#parts = parts;
  }

  /**
   * Does what makes new key versions, with the keys that are current for the tenant; anew where
   * those were replaced meanwhile. Throws TOKEN_KEY_NOT_READY, and what `work` throws.
   */
  async withCurrent<T>(tenantId: TenantId, work: (current: CurrentKeys) => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await work(this.#currentFor(tenantId));
      } catch (error) {
        const reason = error instanceof KeywardError ? error.reason : undefined;
        // Those of another set, or of one that may verify by now.
        const mayBeOthers = reason === 'TOKEN_KEY_NOT_READY' || reason === 'TOKEN_KEYS_CORRUPT';
        if (!mayBeOthers || attempt === TRIES) throw error;
        await this.refresh();
      }
    }
  }

  /** The key that is current for seals. Throws TOKEN_KEY_NOT_READY, TOKEN_KEYS_CORRUPT. */
  currentSealKey(): SealKeyId {
    return this.#current('seal', this.#parts.systemTenantId) as unknown as SealKeyId;
  }

  /**
   * As {@link TokenObjects.currentSealKey}, read and verified anew in a transaction: another may
   * have become current since this replica has looked.
   */
  async readCurrentSealKey(tx: Tx, deadline: number): Promise<SealKeyId> {
    const { objects } = await this.#readVerified(tx, deadline);
    const found = objects.find(({ role, isCurrent }) => role === 'seal' && isCurrent);
    if (found === undefined) throw new KeywardError('TOKEN_KEY_NOT_READY');
    return found.objectId as unknown as SealKeyId;
  }

  /** What is recorded now, verified. Throws TOKEN_KEYS_CORRUPT, TOKEN_KEY_NOT_READY. */
  async list({ deadline }: Deadline): Promise<readonly TokenObjectRecord[]> {
    const { store } = this.#parts;
    const tx: Tx = { query: (text, values) => store.query({ deadline }, text, values) };
    return (await this.#readVerified(tx, deadline)).objects;
  }

  /**
   * Whether these are what is current for their tenants. Where they aren't, it is looked anew: they
   * may have been replaced. Throws TOKEN_KEYS_CORRUPT, TOKEN_KEY_NOT_READY.
   */
  async areCurrent(
    targets: readonly (CurrentKeys & { readonly tenantId: TenantId })[],
  ): Promise<boolean> {
    const isCurrent = ({ tenantId, rootKeyId, sealKeyId }: (typeof targets)[number]) => {
      const current = this.#currentFor(tenantId);
      return sealKeyId === current.sealKeyId && rootKeyId === current.rootKeyId;
    };
    if (this.#known !== undefined && this.#corrupt === undefined && targets.every(isCurrent))
      return true;
    await this.refresh();
    return targets.every(isCurrent);
  }

  /**
   * Reads what is recorded, has the agents hold that, and says what they hold. What comes while it
   * is at it is done after it, once. Throws what the store and the agents throw.
   */
  async refresh(): Promise<void> {
    if (this.#refreshing !== undefined) {
      this.#isStale = true;
      return this.#refreshing;
    }
    this.#refreshing = this.#refresh().finally(() => {
      this.#refreshing = undefined;
    });
    return this.#refreshing;
  }

  /**
   * Refreshes after a change of what is recorded. Before {@link TokenObjects.start}, which looks
   * anyway, does nothing: an agent that is told of a list while it starts is started again, and
   * logs in twice.
   */
  async onChange(): Promise<void> {
    if (this.#hasStarted) await this.refresh();
  }

  async #refresh(): Promise<void> {
    const { tokens } = this.#parts;
    this.#isBehind = true;
    do {
      this.#isStale = false;
      const set = await this.#readForAll();
      await tokens.hold(set.objects);
      await this.report();
    } while (this.#isStale);
    this.#isBehind = false;
  }

  /** Reads what is recorded, and has it count here if it verifies, else nothing. */
  async #readForAll(): Promise<TokenKeySetRecord> {
    const { store, seals } = this.#parts;
    const readAfter = seals.now();
    const { deadline: until } = deadline();
    const set = await findTokenKeySet({
      query: (text, values) => store.query({ deadline: until }, text, values),
    });
    const wasLookedFor = await this.#lookForSealKey(set);
    try {
      this.#known = await seals.verify(set, { readAfter, deadline: until, wasLookedFor });
      this.#verifiedAt = monotonicNow();
      this.#corrupt = undefined;
      return this.#known;
    } catch (error) {
      if (error instanceof KeywardError && error.reason === 'TOKEN_KEYS_CORRUPT')
        this.#corrupt = error;
      throw error;
    }
  }

  /**
   * A seal key that was made and became current while this replica heard of nothing is looked for
   * in the token before anything is said against what it has sealed. Returns whether it was.
   */
  async #lookForSealKey(set: TokenKeySetRecord | undefined): Promise<boolean> {
    const { tokens } = this.#parts;
    const wanted = set?.objects.find(
      ({ role, objectId }) => role === 'seal' && `${objectId}` === `${set.sealKeyId}`,
    );
    if (wanted === undefined) return true;
    if (tokens.agents.held.includes(wanted.objectId)) return false;
    // It needn't be there: the record isn't verified.
    const sought: TokenObjectRecord = { ...wanted, state: 'CREATED' };
    const known = this.#known?.objects ?? set?.objects ?? [];
    await tokens.hold([...known.filter(({ objectId }) => objectId !== wanted.objectId), sought]);
    return true;
  }

  async #readVerified(tx: Tx, until: number): Promise<TokenKeySetRecord> {
    const { seals } = this.#parts;
    const readAfter = seals.now();
    return seals.verify(await findTokenKeySet(tx), { readAfter, deadline: until });
  }

  /** How many replicas run, this one among them, as of the last report. */
  get replicas(): number {
    return this.#replicas;
  }

  /**
   * Says that this replica runs, and what it holds; unless it ends. Throws what the store throws.
   */
  async report(): Promise<void> {
    const { store, tokens, describe, systemTenantId: tenantId } = this.#parts;
    if (this.#stopping.signal.aborted) return;
    const { held } = tokens.agents;
    const replica = { tenantId, replicaId: this.#replicaId, held, report: describe() };
    const reported = await reportHeld(store, deadline(), replica);
    this.#replicas = reported.replicas;
    // Also where nobody has told this replica.
    const isOld = monotonicNow() - this.#verifiedAt > AGE_MS;
    if (isOld || reported.revision !== this.#known?.revision) this.#isBehind = true;
  }

  /**
   * Reports every two seconds, makes up for what failed before, and looks anew at what is recorded
   * when that has changed or is old, until {@link TokenObjects.stop}. Returns when it has looked
   * once.
   */
  async start(onError: (error: unknown) => void): Promise<void> {
    const { signal } = this.#stopping;
    this.#hasStarted = true;
    await this.refresh().catch(onError);
    const run = async () => {
      while (!signal.aborted) {
        await (this.#isBehind ? this.refresh() : this.report()).catch(onError);
        // It runs and holds what it held, whatever is recorded by now.
        if (this.#corrupt !== undefined) await this.report().catch(onError);
        await delay(REPORT_PERIOD_MS, undefined, { signal }).catch(() => {});
      }
    };
    this.#running ??= run();
  }

  /** Nobody waits for this replica any more. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
    await this.#refreshing?.catch(() => {});
    await removeReplicas(this.#parts.store, deadline(), this.#replicaId);
  }

  #currentFor(tenantId: TenantId): CurrentKeys {
    const { systemTenantId } = this.#parts;
    const ownsRoot = this.#known?.objects.some(
      (each) => each.tenantId === tenantId && each.role === 'root',
    );
    return {
      rootKeyId: this.#current(
        'root',
        ownsRoot ? tenantId : systemTenantId,
      ) as unknown as RootKeyId,
      sealKeyId: this.currentSealKey(),
    };
  }

  #current(role: 'root' | 'seal', of: TenantId): AnyId {
    if (this.#corrupt !== undefined) throw this.#corrupt;
    const found = this.#known?.objects.find(
      (each) => each.tenantId === of && each.role === role && each.isCurrent,
    );
    if (found === undefined) throw new KeywardError('TOKEN_KEY_NOT_READY');
    return found.objectId;
  }
}

function deadline(): { readonly deadline: number } {
  return { deadline: monotonicNow() + READ_MS };
}
