/**
 * Ends a serving process, on a signal, a part that cannot continue, or an unexpected failure.
 *
 * - It ends in order once; a second request ends it at once.
 * - An uncaught exception or unhandled rejection also ends it in order, within a limit, with the
 *   exit status {@link FAILED} and one log line with an alert; unrelated calls are answered.
 * - The log gets the names, messages and stacks of what was thrown, and no other value of it.
 */
import type { Alerts } from '../signals/alerts.ts';
import type { Logger } from '../signals/log.ts';
import { REPLICA } from './replica.ts';

/** The exit status after an unexpected failure: EX_SOFTWARE of sysexits.h. */
export const FAILED = 70;

/** The longest account of a failure that is logged, in characters, and how many causes of it. */
const ACCOUNT_LIMIT = 8_000;
const CAUSES = 5;
/** The longest that closing database and token may take after an unexpected failure. */
export const LETTING_GO_MS = 10_000;

/** Describes how a process ends in order. */
export interface EndInOrder {
  readonly inOrder: (why: string) => Promise<void>;
  /** The longest that the end may take after an unexpected failure, in milliseconds. */
  readonly limitMs: number;
}

/** Ends the process in order, once, on a signal or an unexpected failure. */
export class Ending {
  readonly #log: Logger;
  readonly #alerts: Alerts;
  #end: EndInOrder | undefined;
  #hasBegun = false;

  /** Ends this process from now on for what is not caught. */
  constructor(log: Logger, alerts: Alerts) {
    this.#log = log;
    this.#alerts = alerts;
    process.on('uncaughtException', (thrown, origin) => this.#failed(thrown, origin));
    // Node would make an exception of it, and put what it was rejected with into the message.
    process.on('unhandledRejection', (thrown) => this.#failed(thrown, 'unhandledRejection'));
  }

  /** Ends the process in this order on SIGTERM and SIGINT; before, nothing needs an order. */
  prepare(end: EndInOrder): void {
    this.#end = end;
    for (const signal of ['SIGTERM', 'SIGINT'] as const)
      process.on(signal, () => this.begin(signal, 0));
  }

  /**
   * Ends the process in order with this exit status; at once, and not with 0, if it is already
   * ending.
   */
  begin(why: string, exitCode: number): void {
    const end = this.#end;
    if (this.#hasBegun || end === undefined) process.exit(exitCode || 1);
    this.#hasBegun = true;
    this.#log.info({ why }, 'ending');
    end.inOrder(why).then(
      () => process.exit(exitCode),
      (err: unknown) => {
        this.#log.fatal({ err }, 'cannot end in order');
        process.exit(exitCode || 1);
      },
    );
  }

  /** Ends the process in order, unless it is already ending: what asks may not be alone in it. */
  join(why: string): void {
    if (!this.#hasBegun) this.begin(why, 0);
  }

  #failed(thrown: unknown, origin: string): void {
    this.#alerts.raise('process-failed', REPLICA, { origin, stack: accountOf(thrown) });
    if (this.#end !== undefined) setTimeout(() => this.#giveUp(), this.#end.limitMs);
    this.begin('an unexpected failure', FAILED);
  }

  #giveUp(): void {
    this.#log.fatal('cannot end in time');
    process.exit(FAILED);
  }
}

/** Returns its stack, and those of its causes. */
function accountOf(thrown: unknown): string {
  const account: string[] = [];
  for (let next = thrown; account.length < CAUSES; next = next.cause) {
    if (!(next instanceof Error)) {
      if (account.length === 0) account.push(`a value of type ${typeof next}`);
      break;
    }
    account.push(String(next.stack));
  }
  return account.join('\ncaused by: ').slice(0, ACCOUNT_LIMIT);
}
