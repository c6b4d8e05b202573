/**
 * A value that calls change one after another, and what others may see of it meanwhile.
 *
 * What is promised: on the replica that acknowledged a change at once, on every other within two
 * seconds; and nobody sees what was never there. Knows no service.
 */

/** What is promised of every replica (docs/access.md, docs/rotation.md). */
export const PROMISED_MS = 2_000;

/** When something went on, in `performance.now`'s milliseconds. */
export interface Span {
  readonly began: number;
  readonly ended: number;
}

interface Change<T> {
  readonly value: T;
  /** When it was asked for first. */
  readonly began: number;
  /** When each replica acknowledged it: the first answer, and each replay. */
  readonly acknowledged: Map<number, number>;
  readonly firstAcknowledged: number;
}

/** One value over time. */
export class Register<T> {
  readonly #changes: Change<T>[] = [];

  constructor(value: T) {
    const longAgo = Number.NEGATIVE_INFINITY;
    const acknowledged = new Map<number, number>();
    this.#changes.push({ value, began: longAgo, acknowledged, firstAcknowledged: longAgo });
  }

  /** The value, as of the last change. */
  get now(): T {
    return (this.#changes.at(-1) as Change<T>).value;
  }

  /** Notes a change that was asked for and acknowledged. */
  change(value: T, { began, ended }: Span, replica: number): void {
    const acknowledged = new Map([[replica, ended]]);
    this.#changes.push({ value, began, acknowledged, firstAcknowledged: ended });
  }

  /** Notes that a replica has been told of all changes by then. */
  told(replica: number, at: number): void {
    const { acknowledged } = this.#changes.at(-1) as Change<T>;
    if (!acknowledged.has(replica)) acknowledged.set(replica, at);
  }

  /** What may be seen in that time at that replica. */
  visible({ began, ended }: Span, replica: number): T[] {
    const seen: T[] = [];
    for (const change of this.#changes.toReversed()) {
      if (change.began > ended) continue;
      seen.push(change.value);
      const here = change.acknowledged.get(replica) ?? Number.POSITIVE_INFINITY;
      if (here <= began || change.firstAcknowledged + PROMISED_MS <= began) break;
    }
    return seen;
  }
}
