/**
 * When a call that finds the server full is told so: at once while there is time for it, else in
 * turn.
 *
 * A refusal takes a good part of what a call does, and whoever is refused soon calls again: with
 * more calls than can be read, refusing all of them at once would leave no time to do any.
 *
 * Invariants:
 * - there is a refusal for every {@link CALLS_EACH} calls done, and for every {@link IDLE_MS_EACH}
 *   in which the event loop had nothing to do, and {@link LEAST_PER_SECOND} in any case;
 * - none waits for longer than {@link LONGEST_MS}, nor for half of the time that its caller gives;
 * - no more than {@link MOST_WAITING} wait, and what they send meanwhile is not kept: whoever sends
 *   more than {@link SMALL_BYTES} is refused at that, lest it sends more.
 * Knows no caller and no method.
 */
import { performance } from 'node:perf_hooks';
import { monotonicNow } from '../../call.ts';
import { SERVER_BUSY } from '../../errors.ts';
import type { ArrivingCall } from './arriving-call.ts';

type Refusable = Pick<ArrivingCall, 'fail' | 'isOver' | 'skipRequest'>;

const CALLS_EACH = 6;
const IDLE_MS_EACH = 0.4;
const LEAST_PER_SECOND = 50;
const LONGEST_MS = 2_500;
const MOST_WAITING = 4_096;
const SMALL_BYTES = 16_384;
/** What may have been saved for a moment with more of them. */
const MOST_AT_ONCE = 64;
const TICK_MS = 10;

/** Two clocks that only go forward, in milliseconds. */
export interface PaceClock {
  now(): number;
  /** For how long the event loop has had nothing to do. */
  idle(): number;
}

const CLOCK: PaceClock = {
  now: monotonicNow,
  idle: () => performance.eventLoopUtilization().idle,
};

interface Waiting {
  readonly call: Refusable;
  readonly until: number;
}

/** Refuses calls, at a pace. */
export class RefusalPace {
  /** The oldest first. */
  readonly #waiting: Waiting[] = [];
  readonly #clock: PaceClock;
  #credit = MOST_AT_ONCE;
  #lookedAt: number;
  #idle: number;
  #timer: NodeJS.Timeout | undefined;

  constructor(clock: PaceClock = CLOCK) {
    this.#clock = clock;
    this.#lookedAt = clock.now();
    this.#idle = clock.idle();
  }

  /** Refuses a call that has so much time, in milliseconds, before long. */
  refuse(call: Refusable, timeoutMs: number): void {
    if (this.#timer === undefined) this.#look();
    if (this.#credit >= 1 && this.#waiting.length === 0) {
      this.#credit -= 1;
      call.fail(SERVER_BUSY);
    } else if (this.#waiting.length >= MOST_WAITING) call.fail(SERVER_BUSY);
    else {
      const until = this.#clock.now() + Math.min(LONGEST_MS, timeoutMs / 2);
      this.#waiting.push({ call, until });
      let bytes = 0;
      call.skipRequest((piece) => {
        bytes += piece.length;
        if (bytes > SMALL_BYTES) call.fail(SERVER_BUSY);
      });
      this.#timer ??= setInterval(() => this.#tick(), TICK_MS);
    }
  }

  /** Notes that a call is done. */
  done(): void {
    this.#gain(1 / CALLS_EACH);
  }

  #tick(): void {
    this.#look();
    this.#proceed();
    if (this.#waiting.length > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** Counts what the time since the last look allows. */
  #look(): void {
    const [now, idle] = [this.#clock.now(), this.#clock.idle()];
    const sinceMs = now - this.#lookedAt;
    this.#gain((LEAST_PER_SECOND * sinceMs) / 1_000 + (idle - this.#idle) / IDLE_MS_EACH);
    this.#lookedAt = now;
    this.#idle = idle;
  }

  #gain(amount: number): void {
    this.#credit = Math.min(MOST_AT_ONCE, this.#credit + amount);
  }

  /** Refuses those whose turn it is. */
  #proceed(): void {
    const now = this.#clock.now();
    let count = 0;
    for (const { call, until } of this.#waiting) {
      if (until > now && !call.isOver) {
        if (this.#credit < 1) break;
        this.#credit -= 1;
      }
      call.fail(SERVER_BUSY);
      count += 1;
    }
    this.#waiting.splice(0, count);
  }
}
