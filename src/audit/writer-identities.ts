/**
 * This process among those that write to the audit log's inbox, for as long as it runs.
 *
 * Invariants: when the current token has another mask key, the key is derived anew; a stream that
 * rests is closed within some seconds, and it is looked whether its rows arrive, so that rows that
 * someone drops are missed. Knows no entry.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { monotonicNow } from '../call.ts';
import type { Agents } from '../hsm/token-router.ts';
import type { AnyId } from '../ids.ts';
import type { Alerts } from '../signals/alerts.ts';
import type { Store } from '../store/store.ts';
import { ArrivalWatch } from './arrivals.ts';
import { identityOf, newReplicaId } from './identity.ts';

/** How often streams that rest are closed. */
const CLOSE_MS = 1_000;
/** How often it is looked whether rows arrive. */
const LOOK_MS = 5_000;
/** How often it is looked whether the mask key is another: the one before is good meanwhile. */
const RENEW_MS = 60_000;
const STEP_MS = 10_000;

export interface WriterIdentityParts {
  readonly store: Pick<Store, 'streams' | 'closeStreams' | 'sequence'>;
  readonly agents: Pick<Agents, 'call'>;
  readonly log: { warn(fields: object, message: string): void };
  readonly alerts: Alerts;
}

/** Gives the store its identity, and closes its streams. */
export class WriterIdentities {
  readonly #parts: WriterIdentityParts;
  readonly #replicaId = newReplicaId();
  readonly #watch: ArrivalWatch;
  #maskKeyId: AnyId | undefined;
  #renewedAt = Number.NEGATIVE_INFINITY;
  #lookedAt = Number.NEGATIVE_INFINITY;
  #timer: NodeJS.Timeout | undefined;
  #isStopped = false;
  #working: Promise<void> = Promise.resolve();

  constructor(parts: WriterIdentityParts) {
    this.#parts = parts;
    this.#watch = new ArrivalWatch(parts, this.#replicaId);
    parts.store.streams.awaitIdentity();
  }

  /** Returns once rows can be written, or when it is stopped. */
  async start(): Promise<void> {
    while (this.#maskKeyId === undefined && !this.#isStopped)
      await this.#renew().catch(async (err: unknown) => {
        this.#parts.log.warn({ err }, 'cannot derive the key of this replica; trying again');
        await delay(CLOSE_MS);
      });
    if (this.#isStopped) return;
    this.#timer = setInterval(() => {
      this.#working = this.#working.then(() => this.#work());
    }, CLOSE_MS);
  }

  /** Closes the streams: nothing more is written. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    clearInterval(this.#timer);
    await this.#working;
    await this.#close();
  }

  async #work(): Promise<void> {
    await this.#close();
    // While the token is away the key is good: what it proves can be verified again later.
    if (monotonicNow() - this.#renewedAt >= RENEW_MS) await this.#renew().catch(() => {});
    if (monotonicNow() - this.#lookedAt < LOOK_MS) return;
    this.#lookedAt = monotonicNow();
    await this.#watch
      .look()
      .catch((err: unknown) =>
        this.#parts.log.warn({ err }, 'cannot look whether entries arrive in the audit log'),
      );
  }

  /** What can't be closed now is closed later, unless nobody knows whether it was. */
  async #close(): Promise<void> {
    await this.#parts.store
      .closeStreams({ deadline: monotonicNow() + STEP_MS })
      .catch((err: unknown) =>
        this.#parts.log.warn({ err }, 'cannot close a stream of the audit log'),
      );
  }

  async #renew(): Promise<void> {
    this.#renewedAt = monotonicNow();
    const identity = await identityOf(this.#parts.agents, this.#replicaId);
    if (identity.maskKeyId === this.#maskKeyId) return;
    this.#maskKeyId = identity.maskKeyId;
    this.#parts.store.streams.use(identity);
  }
}
