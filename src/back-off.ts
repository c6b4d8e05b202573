/**
 * How long to wait before something that keeps failing is started again: twice as long after each
 * failure, up to a limit, a random part of it less, so that many do not start together.
 */
import { monotonicNow } from './call.ts';

const FIRST_MS = 50;

/** Says when the next start may be. */
export class BackOff {
  readonly #limitMs: number;
  #waitMs = 0;
  #nextAt = 0;

  constructor(limitMs: number) {
    this.#limitMs = limitMs;
  }

  /** Whether the time has come. */
  get isOver(): boolean {
    return monotonicNow() >= this.#nextAt;
  }

  /** What was started has worked: the next failure is the first. */
  reset(): void {
    this.#waitMs = 0;
  }

  /** What was started has failed: the next start is later. */
  failed(): void {
    this.#waitMs = Math.min(this.#limitMs, this.#waitMs * 2 + FIRST_MS);
    this.#nextAt = monotonicNow() + this.#waitMs * (0.5 + Math.random() / 2);
  }
}
