/**
 * What a client tells a program of its calls and connections, for logs, metrics and traces.
 *
 * - Of every call a hook hears once that it starts and once that it ends, whatever becomes of it.
 * - A hook that throws fails no call: what is thrown first becomes a warning of the process.
 * - No hook gets a request, an answer, a token or a key.
 */
import type { KeywardError } from './errors.ts';

/** Which trace a call is part of: W3C Trace Context's headers. */
export interface TraceHeaders {
  readonly traceparent?: string;
  readonly tracestate?: string;
}

/** A call: one object for all that hooks hear of it. */
export interface ClientCall {
  /** As in `keyward.v1.KeyService/GetKey`. */
  readonly method: string;
}

/** How a call ended. */
export interface CallEnd {
  /** `OK`, else the error's reason, or its status where it has none. */
  readonly outcome: string;
  /** What the call rejects with: nearly always a `KeywardError`. */
  readonly error: Error | undefined;
  readonly durationMs: number;
  /** How often it was sent. */
  readonly attempts: number;
  /** Where it was sent last, if it was sent. */
  readonly address: string | undefined;
}

/** An attempt that failed and is made again. */
export interface CallRetry {
  /** What the attempt failed with. */
  readonly error: KeywardError;
  /** Where it was sent. */
  readonly address: string;
  /** 1 for the first. */
  readonly attempt: number;
  /** How long the client waits before it sends the call again; 0 at another address. */
  readonly delayMs: number;
}

/** What became of a connection, or of an address among several. */
export interface ConnectionEvent {
  readonly address: string;
  /**
   * - `connected`, `closed` (by the service too, when the connection has its age), `failed`: the
   *   connection;
   * - `avoided`: calls go to other addresses, because of `error`, until this one serves again;
   * - `restored`: it does.
   */
  readonly state: 'connected' | 'closed' | 'failed' | 'avoided' | 'restored';
  readonly error?: KeywardError;
}

/** Files of certificates and keys that were found changed. */
export interface ReloadEvent {
  readonly files: readonly string[];
  /** Why they are not used, and those before are; undefined where new connections use them. */
  readonly error: Error | undefined;
}

/** What a program wants to hear of. Each is called synchronously and returns quickly. */
export interface Hooks {
  /**
   * A call starts, in the caller's own asynchronous context. What it returns is sent with the call
   * in place of what `traceContext` says.
   */
  // biome-ignore lint/suspicious/noConfusingVoidType: a hook that returns nothing is usual
  readonly onCallStart?: (call: ClientCall) => TraceHeaders | undefined | void;
  /** A call has ended. Of one that nobody waits for any more, its loop left, the outcome is OK. */
  readonly onCallEnd?: (call: ClientCall, end: CallEnd) => void;
  /** An attempt has failed, and the call is made again. */
  readonly onRetry?: (call: ClientCall, retry: CallRetry) => void;
  /** A connection, or an address, is in another state. */
  readonly onConnection?: (event: ConnectionEvent) => void;
  /** Files of certificates and keys have changed. */
  readonly onReload?: (event: ReloadEvent) => void;
}

/** Tells all hooks. */
export class Reporter {
  readonly #hooks: readonly Hooks[];
  #hasWarned = false;
  /** Whether anyone wants to hear of connections. */
  readonly watchesConnections: boolean;

  constructor(hooks: Hooks | readonly Hooks[] = []) {
    this.#hooks = [hooks].flat();
    this.watchesConnections = this.#hooks.some((each) => each.onConnection !== undefined);
  }

  /** Returns the trace headers that a hook gives, the last one's. */
  callStarted(call: ClientCall): TraceHeaders | undefined {
    let headers: TraceHeaders | undefined;
    this.#each((hooks) => {
      headers = hooks.onCallStart?.(call) ?? headers;
    });
    return headers;
  }

  callEnded(call: ClientCall, end: CallEnd): void {
    this.#each((hooks) => hooks.onCallEnd?.(call, end));
  }

  retried(call: ClientCall, retry: CallRetry): void {
    this.#each((hooks) => hooks.onRetry?.(call, retry));
  }

  connection(event: ConnectionEvent): void {
    this.#each((hooks) => hooks.onConnection?.(event));
  }

  reloaded(event: ReloadEvent): void {
    this.#each((hooks) => hooks.onReload?.(event));
  }

  #each(tell: (hooks: Hooks) => void): void {
    for (const hooks of this.#hooks) {
      try {
        tell(hooks);
      } catch (error) {
        if (!this.#hasWarned)
          process.emitWarning(`a hook of keyward-client has thrown: ${String(error)}`);
        this.#hasWarned = true;
      }
    }
  }
}
