/**
 * Log lines that a peer can cause as often as it likes, written as seldom as an operator can read
 * them.
 *
 * Invariants:
 * - the first line of a kind is written at once, the rest of a minute as one with their number;
 * - how many kinds are told apart at once is bounded, since peers choose what they are made of.
 */
import type { Logger } from 'pino';

/** One line. Those of the same message and key are of one kind. */
export interface RareLine {
  readonly message: string;
  /** What tells lines with the same message apart. */
  readonly key?: string | undefined;
  readonly fields: object;
}

const TOGETHER_MS = 60_000;
const MOST_KINDS = 64;

/** Writes few log lines for what happens often. */
export class RareLines {
  readonly #log: Logger;
  /** The lines of a kind since the first one: the last of them, and how many. */
  readonly #kinds = new Map<string, { last: RareLine; count: number }>();

  constructor(log: Logger) {
    this.#log = log;
  }

  /** Writes a warning, now or together with others of its kind. */
  warn(line: RareLine): void {
    const own = `${line.message} ${line.key ?? ''}`;
    const kind = this.#kinds.has(own) || this.#kinds.size < MOST_KINDS ? own : line.message;
    const known = this.#kinds.get(kind);
    if (known !== undefined) {
      known.last = line;
      known.count += 1;
      return;
    }
    this.#kinds.set(kind, { last: line, count: 0 });
    this.#log.warn(line.fields, line.message);
    setTimeout(() => this.#writeRest(kind), TOGETHER_MS).unref();
  }

  #writeRest(kind: string): void {
    const known = this.#kinds.get(kind);
    this.#kinds.delete(kind);
    if (known === undefined || known.count === 0) return;
    this.#log.warn({ ...known.last.fields, times: known.count }, known.last.message);
  }
}
