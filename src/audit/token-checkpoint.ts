/**
 * The last checkpoint in the token itself: coarsely, since tokens write slowly and wear by it.
 *
 * Invariants: it is written in the background, and never two at once, so that a token that is slow,
 * full or away holds up neither the log nor callers; what is left out between is written when the
 * sequencer ends in order. That nothing but a signed checkpoint gets there, and none in place of a
 * later one, is the agent's to see to.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { monotonicNow } from '../call.ts';
import { signerOf } from '../hsm/checkpoint.ts';
import type { Agents } from '../hsm/token-router.ts';
import type { KeptCheckpoint } from './kept-checkpoint.ts';

const READ_MS = 5_000;
/** A token that doesn't keep it in so long isn't waited for at the end. */
const FLUSH_MS = 5_000;

interface TokenCheckpointParts {
  readonly agents: Pick<Agents, 'call'>;
  /** Has the current token keep a note, durably. Rejects when it doesn't. */
  readonly keep: (note: string) => Promise<void>;
  /** At most one is written in so long, or one for each log and signing key. */
  readonly periodMs: number;
  readonly log: { warn(fields: object, message: string): void };
}

/** Keeps the log's last checkpoint in the token, at most once a period. */
export class TokenCheckpoint implements KeptCheckpoint {
  readonly #parts: TokenCheckpointParts;
  /** What was begun last: when, and whose it was. */
  #begun: { readonly at: number; readonly signer: string } | undefined;
  #writing: Promise<void> | undefined;
  /** What was given last, and what is in the token of that. */
  #given: string | undefined;
  #kept: string | undefined;

  constructor(parts: TokenCheckpointParts) {
    this.#parts = parts;
  }

  async read(): Promise<string | undefined> {
    const { note } = await this.#parts.agents.call(
      'readKeptCheckpoint',
      {},
      monotonicNow() + READ_MS,
    );
    return note ?? undefined;
  }

  /**
   * Begins to keep the note if it is time to, and doesn't wait; what becomes of it is in the log.
   */
  async write(note: string): Promise<void> {
    this.#given = note;
    // A token that key versions have moved to has none yet, nor has a log that was begun anew.
    const signer = signerOf(note);
    const [begun, now] = [this.#begun, monotonicNow()];
    if (begun?.signer === signer && now - begun.at < this.#parts.periodMs) return;
    this.#begun = { at: now, signer };
    if (this.#writing !== undefined)
      this.#parts.log.warn(
        {},
        'cannot keep the checkpoint in the token: it is still keeping the one before',
      );
    else this.#begin(note);
  }

  async flush(): Promise<void> {
    const flushed = async () => {
      await this.#writing;
      if (this.#given === undefined || this.#given === this.#kept) return;
      this.#begin(this.#given);
      await this.#writing;
    };
    await Promise.race([flushed(), delay(FLUSH_MS, undefined, { ref: false })]);
  }

  #begin(note: string): void {
    this.#writing = this.#parts
      .keep(note)
      .then(
        () => {
          this.#kept = note;
        },
        (err: unknown) =>
          this.#parts.log.warn({ err }, 'cannot keep the last checkpoint in the token'),
      )
      .finally(() => {
        this.#writing = undefined;
      });
  }
}
