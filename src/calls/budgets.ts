/**
 * What callers may have of the process at once, each no more than it leaves to others
 * (`shares.ts`).
 *
 * Calls under way, open streams, bytes of requests and of what is made for them, and the event
 * loop's time for decoding.
 * Invariants:
 * - health, audit and administration have pools of their own, which no use of keys can fill;
 * - decoding has at most half of each second, so that what one caller sends holds up nobody else's
 *   calls for longer;
 * - a call that cannot be finished in time while many are under way is refused before it costs
 *   anything.
 * Knows no connection and no method but by its path.
 */
import { KeywardError } from '../errors.ts';
import { Shares } from './shares.ts';

/** The sizes of what is shared. */
export interface BudgetLimits {
  /**
   * Calls that use keys at once. Of other calls there may be an eighth as many besides, and of
   * streams that have no end of their own as many.
   */
  readonly maxCalls: number;
  /** Bytes of requests at once, whole or not, and of their answers. */
  readonly maxRequestBytes: number;
}

const OTHER_CALLS = 1 / 8;
const LEAST_OTHER_CALLS = 16;
const DECODING_WINDOW_MS = 1_000;
const DECODING_MS = 500;
/** Smaller messages are decoded in less time than it would take to keep account of it. */
const CHEAP_BYTES = 4_096;
/** With fewer calls under way none is refused for being late. */
const BUSY_CALLS = 32;
/** How much a call says of how long the next one takes. */
const SAMPLE_WEIGHT = 1 / 16;

/** Bounds what all callers have of the process at once, and of each second. */
export class Budgets {
  /** Calls that use keys. */
  readonly keyUses: Shares;
  /** Calls of health, audit and administration. */
  readonly otherCalls: Shares;
  /** Streams of the contract. */
  readonly streams: Shares;
  /** Streams of gRPC's own services. */
  readonly watches: Shares;
  /** Bytes of requests, and of what is made for them. */
  readonly bytes: Shares;
  readonly #expectedMs = new Map<string, number>();
  #decoding = new Shares(DECODING_MS);
  #windowEndsAt = 0;

  constructor({ maxCalls, maxRequestBytes }: BudgetLimits) {
    this.keyUses = new Shares(maxCalls);
    this.otherCalls = new Shares(Math.max(LEAST_OTHER_CALLS, Math.floor(maxCalls * OTHER_CALLS)));
    this.streams = new Shares(maxCalls);
    this.watches = new Shares(maxCalls);
    this.bytes = new Shares(maxRequestBytes);
  }

  /**
   * Returns what `decode` does with a message of so many bytes. Throws SERVER_BUSY, without
   * decoding, for a principal that has had its share of this second.
   */
  decode<T>(principal: string, length: number, decode: () => T): T {
    if (length <= CHEAP_BYTES) return decode();
    if (this.#decodingNow().isExceededBy(principal)) {
      const retryAfterMs = Math.ceil(this.#windowEndsAt - performance.now());
      throw new KeywardError('SERVER_BUSY', { retryAfterMs });
    }
    // The thread's own time: what else the machine does is nobody's share.
    const before = process.threadCpuUsage();
    try {
      return decode();
    } finally {
      const { user, system } = process.threadCpuUsage(before);
      this.#decodingNow().take(principal, (user + system) / 1_000);
    }
  }

  /** What was decoded in this second. */
  #decodingNow(): Shares {
    const now = performance.now();
    if (now < this.#windowEndsAt) return this.#decoding;
    this.#windowEndsAt = now + DECODING_WINDOW_MS;
    this.#decoding = new Shares(DECODING_MS);
    return this.#decoding;
  }

  /** Notes how long a call took; of one that ran out of time, how long it had. */
  finished(path: string, tookMs: number, ranOut: boolean): void {
    // Nobody knows how long it would have taken; twice as long lets the next ones be refused, and
    // those after them through.
    const sample = ranOut ? 2 * tookMs : tookMs;
    const before = this.#expectedMs.get(path) ?? sample;
    this.#expectedMs.set(path, before + SAMPLE_WEIGHT * (sample - before));
  }

  /**
   * Whether a call would be in vain: calls of its method take longer now than it has, while many
   * are under way.
   */
  isInVain(path: string, deadlineMs: number): boolean {
    return this.keyUses.used >= BUSY_CALLS && (this.#expectedMs.get(path) ?? 0) > deadlineMs;
  }
}
