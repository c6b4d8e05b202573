/**
 * Reports that nothing of the audit log is signed, and that it is signed again: each once.
 *
 * Invariants: a contradiction is an alert, reported until it changes; each replica that has
 * reported that nothing is signed also reports the end of it, whichever replica signs.
 */
import type { Alerts } from '../signals/alerts.ts';

interface StandstillLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

/** What the log contradicts, in words, and the checkpoint that stands against it where known. */
export interface Contradiction {
  readonly contradiction: string;
  readonly checkpoint?: string;
}

/** Holds what this replica has reported of the log's signing. */
export class Standstill {
  readonly #log: StandstillLog;
  readonly #alerts: Alerts;
  /** What was reported last; undefined while the log is signed. */
  #reported: { readonly contradiction?: string; readonly last: string | undefined } | undefined;

  constructor({ log, alerts }: { readonly log: StandstillLog; readonly alerts: Alerts }) {
    this.#log = log;
    this.#alerts = alerts;
  }

  /** Whether the last report was that nothing is signed. */
  get isReported(): boolean {
    return this.#reported !== undefined;
  }

  /** Reports what the log contradicts; `last` is the note of its last checkpoint. */
  contradicted(found: Contradiction, last: string | undefined): void {
    const { contradiction } = found;
    const isNews = contradiction !== this.#reported?.contradiction;
    this.#reported = { contradiction, last };
    if (isNews) this.#alerts.raise('audit-log-contradicted', 'audit log', found);
  }

  /** Reports that a checkpoint could not be signed, after the one with the note `last`. */
  failed(err: unknown, last: string | undefined): void {
    this.#reported = { ...this.#reported, last };
    this.#log.warn({ err }, 'cannot sign a checkpoint');
  }

  /** Hears of the log's last checkpoint, and reports that there is a new one if none was signed. */
  signed(note: string | undefined): void {
    if (this.#reported === undefined || note === this.#reported.last) return;
    this.#reported = undefined;
    this.#log.info({}, 'the audit log is signed again');
    this.#alerts.clear('audit-log-contradicted', 'audit log');
  }
}
