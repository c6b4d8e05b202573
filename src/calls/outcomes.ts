/**
 * What came of each call, told to whatever listens: metrics, conditions of alerts.
 *
 * - A call is reported once: by the wrapper round every call before its answer leaves, or by its
 *   face where it was refused before it was let in.
 * - A report has what a log line may have: no payload, no context, no token.
 * - A listener that throws harms neither the call nor the other listeners.
 *
 * Listeners run within the call, so they must be cheap: what takes time, they do later.
 */
import type { Logger } from 'pino';
import type { AuditNotes } from '../call.ts';
import type { KeywardError } from '../errors.ts';
import type { TraceContext } from '../signals/trace-context.ts';

/** What a call came in by. */
export type Face = 'grpc' | 'http' | 'approved';

/** What came of one call. */
export interface CallOutcome {
  /** UUID of the call. */
  readonly requestId: string;
  /**
   * The full name of the method, as `keyward.v1.KeyService/CreateKey`. Of a call that was refused
   * it is the caller's text, and may name no method.
   */
  readonly method: string;
  readonly face: Face;
  /** Whether it was let in; else its headers or its caller were refused, or its request. */
  readonly isAdmitted: boolean;
  /** The caller's name, as far as it is known. */
  readonly caller: string | undefined;
  /** The IP address that it came from. */
  readonly address: string | undefined;
  /** Which trace it is part of, if any. */
  readonly trace: TraceContext | undefined;
  /**
   * The last part of the name of the tenant that it was about, where its caller has any rights in
   * that tenant: so no names of a caller's making.
   */
  readonly tenant: string | undefined;
  /** The resource that it was about, as far as its request was read. */
  readonly resource: string | undefined;
  /**
   * Which key version was used, and what came of a batch's items, as its audit entry says;
   * undefined of a call that was refused.
   */
  readonly notes: Pick<AuditNotes, 'keyVersion' | 'items'> | undefined;
  /** Why it failed; undefined where it did not. */
  readonly error: KeywardError | undefined;
  readonly durationMs: number;
}

/** Hears what came of a call. */
export type OutcomeListener = (outcome: CallOutcome) => void;

/** Tells listeners what came of each call. */
export class CallOutcomes {
  readonly #log: Pick<Logger, 'error'>;
  readonly #listeners: OutcomeListener[] = [];

  constructor(log: Pick<Logger, 'error'>) {
    this.#log = log;
  }

  /** Has the listener hear of every call from now on. */
  listen(listener: OutcomeListener): void {
    this.#listeners.push(listener);
  }

  /** Tells every listener. Never throws. */
  report(outcome: CallOutcome): void {
    for (const listener of this.#listeners) {
      try {
        listener(outcome);
      } catch (err) {
        this.#log.error({ requestId: outcome.requestId, err }, 'cannot note the outcome of a call');
      }
    }
  }
}
