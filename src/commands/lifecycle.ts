/**
 * Parts that start in order and stop in reverse.
 *
 * Invariants:
 * - each part stands on those before it: it starts after them and stops before them;
 * - what has started, or has begun to, is stopped, once, whenever the end comes;
 * - a part that cannot stop keeps none of the others from stopping.
 */

/** What starts and stops. */
export interface Part {
  readonly name: string;
  /** Returns when the parts after it may start. */
  start?(): Promise<void> | void;
  /** Returns when the parts before it may stop. */
  stop?(): Promise<void> | void;
}

/** Starts parts in their order, and stops them in reverse. */
export class Lifecycle {
  readonly #waiting: Part[];
  readonly #started: Part[] = [];
  #isStopping = false;

  constructor(parts: readonly Part[]) {
    this.#waiting = [...parts];
  }

  /**
   * Starts the parts. Throws what a part throws, unless that is stopped meanwhile; those after it
   * do not start then.
   */
  async start(): Promise<void> {
    for (let part = this.#waiting.shift(); part !== undefined; part = this.#waiting.shift()) {
      this.#started.push(part);
      try {
        await part.start?.();
      } catch (error) {
        if (this.#isStopping) return;
        throw error;
      }
    }
  }

  /** Stops what has started, and lets nothing more start. Throws the first of what parts throw. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    this.#waiting.length = 0;
    const failures: Error[] = [];
    for (let part = this.#started.pop(); part !== undefined; part = this.#started.pop()) {
      try {
        await part.stop?.();
      } catch (cause) {
        failures.push(new Error(`cannot stop ${part.name}`, { cause }));
      }
    }
    if (failures[0] !== undefined) throw failures[0];
  }
}
