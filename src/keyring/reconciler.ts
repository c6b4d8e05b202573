/**
 * What the service does by itself, in every replica: rotates what is due, destroys what is due,
 * brings new token keys into use, works on re-wrap jobs and on seals.
 *
 * Invariant: all state is in rows, so a pass that is cut off anywhere loses nothing: the next one,
 * on any replica, goes on. Ticks come from node-cron, at a moment of each replica's own; what is
 * due, Postgres decides, by its clock. What one thing fails of stops no other. Knows the order of
 * the steps; what they are is in `rotation.ts`, `destruction.ts`, `shredding.ts`, `token-keys.ts`,
 * `rewrap.ts`, `seals.ts`.
 */
import { schedule } from 'node-cron';
import { findDue } from '../store/lifecycle/maintenance.ts';
import type { Store } from '../store/store.ts';
import type { Keyring } from './keyring.ts';
import { ownCall } from './own-calls.ts';

/** So long a pass works on jobs before it looks for what is due again. */
const SLICE_MS = 5_000;
const LOOK_MS = 5_000;
/** What is due is taken so many at a time. */
const LIMIT = 100;

export interface ReconcilerLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

export interface ReconcilerOptions {
  readonly store: Store;
  readonly keyring: Pick<
    Keyring,
    'rotation' | 'destruction' | 'shredding' | 'tokenKeys' | 'rewrap' | 'seals'
  >;
  readonly log: ReconcilerLog;
}

/** Performs due work in every replica, a pass at each tick. */
export class Reconciler {
  readonly #options: ReconcilerOptions;
  readonly #stopping = new AbortController();
  #woken = Promise.withResolvers<void>();
  #running: Promise<void> | undefined;
  #endTicks: (() => unknown) | undefined;

  constructor(options: ReconcilerOptions) {
    this.#options = options;
  }

  /**
   * Works on each tick of the cron expression (seconds first), up to `jitterMs` later, and when
   * woken.
   */
  start(ticks: string, jitterMs: number): void {
    const task = schedule(ticks, () => this.wake(), { maxRandomDelay: jitterMs });
    this.#endTicks = () => task.destroy();
    this.#running ??= this.#run();
  }

  /** There is something to do: now, not at the next tick. */
  wake(): void {
    this.#woken.resolve();
  }

  /** Ends after the step that is under way; another replica, or the next start, goes on. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#endTicks?.();
    this.wake();
    await this.#running;
  }

  /**
   * Does what is due now. Returns whether there is more. Throws only if it can't be found out what
   * is due.
   */
  async pass(): Promise<boolean> {
    const { store, keyring, log } = this.#options;
    const { rotation, destruction, shredding, tokenKeys, rewrap } = keyring;
    const due = await findDue(store, ownCall('FindDue', LOOK_MS), LIMIT);
    const failed = (what: string) => (err: unknown, resource?: string) => {
      log.warn({ err, resource }, `${what} failed and will be tried again`);
    };
    const rotated = await rotation.rotateDue(due.rotations, failed('a rotation'));
    for (const resource of rotated) log.info({ resource }, 'rotated');
    const destroyed = await destruction.destroyDue(due.destructions, failed('a destruction'));
    for (const fields of destroyed) log.info(fields, 'destroyed');
    const shredded = await shredding.shredDue(due.shreddings, failed('a shredding'));
    for (const fields of shredded) log.info(fields, 'shredded');
    const { made, activated } = await tokenKeys.advance(
      due.tokenKeys,
      failed('a step of a token key'),
    );
    for (const resource of activated) log.info({ resource }, 'a new token key is current');
    const moreSeals = (due.hasStaleSeals || activated.length > 0) && (await this.#reseal());
    // Rotations, of whatever, have started jobs.
    const hasJobs = due.hasJobs || rotated.length + activated.length > 0;
    const more =
      hasJobs && (await rewrap.work(SLICE_MS, this.#stopping.signal, failed('re-wrapping')));
    // What was made may be current at once.
    return more || moreSeals || made.length > 0 || rotated.length + destroyed.length >= LIMIT;
  }

  /** Returns whether there is more. */
  async #reseal(): Promise<boolean> {
    const { keyring, log } = this.#options;
    const onCorrupt = (resource: string) =>
      log.warn(
        { alert: 'seal-corrupt', resource },
        'a sealed record failed verification and stays under a replaced seal key',
      );
    try {
      const { resealed, finished } = await keyring.seals.work(
        SLICE_MS,
        this.#stopping.signal,
        onCorrupt,
      );
      if (resealed > 0) log.info({ resealed }, 'sealed again');
      return !finished;
    } catch (err) {
      log.warn({ err }, 'sealing again failed and will be tried again');
      return false;
    }
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      await this.#woken.promise;
      this.#woken = Promise.withResolvers();
      let more = !signal.aborted;
      while (more) more = (await this.#attempt()) && !signal.aborted;
    }
  }

  async #attempt(): Promise<boolean> {
    try {
      return await this.pass();
    } catch (err) {
      this.#options.log.warn({ err }, 'a pass failed and will be tried again at the next tick');
      return false;
    }
  }
}
