/**
 * Whether the rows that this process has added to the inbox arrive in the log: what tells when
 * someone drops them all, so that no later one shows that they are missing.
 *
 * Invariant: a row counts as arrived only by what is remembered of writers and proven, and as
 * waiting only while it is there; both are looked at in one statement. Takes no row.
 */
import { createSecretKey, timingSafeEqual } from 'node:crypto';
import { monotonicNow } from '../call.ts';
import type { Agents } from '../hsm/token-router.ts';
import type { AnyId } from '../ids.ts';
import type { Alerts } from '../signals/alerts.ts';
import { type Arrivals, findArrivals } from '../store/audit/audit-inbox.ts';
import type { WriterIdentity } from '../store/audit/streams.ts';
import type { Store } from '../store/store.ts';
import { identityOf, NO_REPLICA } from './identity.ts';
import { Writers, writersMac } from './writers.ts';

const STEP_MS = 10_000;

export interface ArrivalWatchParts {
  readonly store: Pick<Store, 'streams' | 'sequence'>;
  readonly agents: Pick<Agents, 'call'>;
  readonly alerts: Alerts;
}

/** Looks, time after time, whether what was durable the time before is in the log or waits. */
export class ArrivalWatch {
  readonly #parts: ArrivalWatchParts;
  readonly #replicaId: AnyId;
  /** Of each stream, the last number that was durable at the last look. */
  #durable: ReadonlyMap<number, number> = new Map();
  /** What proves what is remembered of writers. */
  #memory: WriterIdentity | undefined;
  /** Of each stream, up to which number it was said. */
  readonly #said = new Map<number, number>();

  constructor(parts: ArrivalWatchParts, replicaId: AnyId) {
    this.#parts = parts;
    this.#replicaId = replicaId;
  }

  /** Reports rows that are gone. Throws what store and agents throw. */
  async look(): Promise<void> {
    const { store, agents } = this.#parts;
    const before = this.#durable;
    this.#durable = store.streams.durable;
    if (before.size === 0) return;
    const deadline = monotonicNow() + STEP_MS;
    const found = await store.sequence({ deadline }, (tx) => findArrivals(tx, this.#replicaId));
    if (found.writers !== undefined && found.writers.maskKeyId !== this.#memory?.maskKeyId)
      this.#memory = await identityOf(agents, NO_REPLICA);
    // By another token's key: the next step of the sequencer brings it under this one's.
    if (found.writers !== undefined && found.writers.maskKeyId !== this.#memory?.maskKeyId) return;
    const writers = provenWriters(found, this.#memory?.key);
    for (const [stream, number] of before)
      this.#report(stream, number, writers.last(this.#replicaId, stream), found);
  }

  #report(stream: number, durable: number, arrived: number, { waiting }: Arrivals): void {
    const first = Math.max(arrived, this.#said.get(stream) ?? 0) + 1;
    const gone = [];
    for (let number = first; number <= durable; number++)
      if (!waiting.has(`${stream}:${number}`)) gone.push(number);
    if (gone.length === 0) return;
    this.#said.set(stream, durable);
    const [from, to, rows] = [gone[0], gone.at(-1), gone.length];
    const place = { replica: this.#replicaId, stream, from, to, rows };
    const { alerts } = this.#parts;
    const found = { problem: 'missing', foundBy: 'writer', ...place };
    alerts.raise('audit-inbox', `replica ${this.#replicaId}`, found);
  }
}

/** What is remembered of writers, if it is proven; else nothing is. */
function provenWriters({ writers, treeSize }: Arrivals, key: Buffer | undefined): Writers {
  if (writers === undefined || key === undefined) return new Writers();
  const { content, mac } = writers;
  const expected = writersMac(createSecretKey(key), treeSize, content);
  const isProven = mac.length === expected.length && timingSafeEqual(mac, expected);
  return isProven ? Writers.parse(content) : new Writers();
}
