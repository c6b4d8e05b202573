/**
 * What the kinds of re-wrapping have in common: a range is worked through step by step, and rested
 * in between.
 *
 * Knows no kind.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { monotonicNow } from '../call.ts';
import type { Lease } from '../store/lifecycle/rewrap-ranges.ts';

/** How long one step may take, in milliseconds. */
export const STEP_MS = 10_000;

/** How many are read and written at a time, and how many given to an agent at once. */
export interface BatchSizes {
  readonly batch: number;
  readonly operation: number;
}

/** How many stored data keys, or key versions, are dealt with at a time. */
export interface RewrapSizes {
  /**
   * Stale things that a replica takes on at once; what it loses if it is killed is a batch, not a
   * range.
   */
  readonly range: number;
  /** Read, and written in one transaction. */
  readonly batch: number;
  /**
   * An agent is busy with as many for 1.4 ms, at a share of 1; a caller's operation may have to
   * wait for that.
   */
  readonly operation: number;
}

/** What the service works with. */
export const REWRAP_SIZES: RewrapSizes = { range: 10_000, batch: 500, operation: 32 };

export interface RewrapSettings {
  /** How much of the time this replica may work on jobs: above 0, to 1. */
  readonly share: number;
  /** How many ranges it works on at once, if it may work all the time. */
  readonly workers: number;
  readonly sizes: RewrapSizes;
}

/** One kind of re-wrapping. */
export interface RangeWork {
  /**
   * Deals with the next batch of a range, behind the lease's `afterName`; returns up to where it is
   * then. `finished`: that was its end. `lost`: it is another's by now, and nothing was written.
   * `moved`: what things are brought under has changed, or a switch is set, and nothing was
   * written.
   */
  step(lease: Lease, throttle: Throttle): Promise<StepResult>;
}

export type StepResult = 'finished' | 'lost' | 'moved' | { readonly afterName: string };

/** Rests after work so that of all the time only a share is worked. */
export class Throttle {
  readonly #share: number;
  readonly #signal: AbortSignal;
  #since = monotonicNow();

  constructor(share: number, signal: AbortSignal) {
    this.#share = share;
    this.#signal = signal;
  }

  /** Rests for what was worked since the last rest. */
  async pause(): Promise<void> {
    if (this.#share === 1) return;
    const rest = (monotonicNow() - this.#since) * (1 / this.#share - 1);
    await delay(rest, undefined, { signal: this.#signal }).catch(() => {});
    this.#since = monotonicNow();
  }
}

/** A deadline for one step, no later than `latest`. */
export function step(latest = Number.POSITIVE_INFINITY): { readonly deadline: number } {
  return { deadline: Math.min(latest, monotonicNow() + STEP_MS) };
}
