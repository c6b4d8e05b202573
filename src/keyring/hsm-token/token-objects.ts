/**
 * The token's objects as this replica knows them: which are recorded, which its agents hold, which
 * are for new things.
 *
 * Invariants: agents are told of an object before anything is under it, and this replica says that
 * it holds one only once all of its agents do; what isn't to be used any more, it says it holds
 * until none does. Decides nothing about an object's life: `token-keys.ts` does.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { monotonicNow } from '../../call.ts';
import { KeywardError } from '../../errors.ts';
import type { TokenObject } from '../../hsm/token-profile.ts';
import type { AnyId, RootKeyId, SealKeyId, TenantId } from '../../ids.ts';
import {
  listTokenObjects,
  removeReplicas,
  reportHeld,
  type TokenObjectRecord,
} from '../../store/hsm-token/token-objects.ts';
import type { Store } from '../../store/store.ts';
import type { CurrentKeys } from '../keys/key-versions.ts';

const READ_MS = 5_000;
const REPORT_PERIOD_MS = 2_000;
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
  /** As read at the start. */
  readonly records: readonly TokenObjectRecord[];
  readonly systemTenantId: TenantId;
}

/** Tells the agents which token objects to hold, and reports which this replica holds. */
export class TokenObjects {
  readonly #parts: TokenObjectsParts;
  readonly #replicaId = randomUUID();
  readonly #stopping = new AbortController();
  #records: readonly TokenObjectRecord[];
  #refreshing: Promise<void> | undefined;
  #isStale = false;
  /** The last refresh failed, or is under way. */
  #isBehind = false;
  #replicas = 1;
  #running: Promise<void> | undefined;

  constructor(parts: TokenObjectsParts) {
    this.#parts = parts;
    this.#records = parts.records;
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
        const replaced = error instanceof KeywardError && error.reason === 'TOKEN_KEY_NOT_READY';
        if (!replaced || attempt === TRIES) throw error;
        await this.refresh();
      }
    }
  }

  /** The key that is current for seals. Throws TOKEN_KEY_NOT_READY. */
  currentSealKey(): SealKeyId {
    return this.#current('seal', this.#parts.systemTenantId) as unknown as SealKeyId;
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

  async #refresh(): Promise<void> {
    const { store, tokens } = this.#parts;
    this.#isBehind = true;
    do {
      this.#isStale = false;
      this.#records = await listTokenObjects(store, deadline());
      await tokens.hold(this.#records);
      await this.report();
    } while (this.#isStale);
    this.#isBehind = false;
  }

  /** How many replicas run, this one among them, as of the last report. */
  get replicas(): number {
    return this.#replicas;
  }

  /**
   * Says that this replica runs, and what it holds; unless it ends. Throws what the store throws.
   */
  async report(): Promise<void> {
    const { store, tokens } = this.#parts;
    if (this.#stopping.signal.aborted) return;
    const { held } = tokens.agents;
    this.#replicas = await reportHeld(store, deadline(), { replicaId: this.#replicaId, held });
  }

  /**
   * Reports every two seconds, and makes up for what failed before, until
   * {@link TokenObjects.stop}.
   */
  start(onError: (error: unknown) => void): void {
    const { signal } = this.#stopping;
    const run = async () => {
      while (!signal.aborted) {
        await (this.#isBehind ? this.refresh() : this.report()).catch(onError);
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
    const ownsRoot = this.#records.some(
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
    const found = this.#records.find(
      (each) => each.tenantId === of && each.role === role && each.state === 'CURRENT',
    );
    if (found === undefined) throw new KeywardError('TOKEN_KEY_NOT_READY');
    return found.objectId;
  }
}

function deadline(): { readonly deadline: number } {
  return { deadline: monotonicNow() + READ_MS };
}
