/**
 * One call, with one answer or a stream of them, over the addresses of the service: deadline,
 * cancellation, retries, failover.
 *
 * Its invariants: every call ends, by its deadline at the latest, retries included, and only a
 * stream may be without one; a retry sends the very same bytes, so that a change with a request id
 * is made once; what must not be made twice is made again only where nothing of it was sent. Knows
 * nothing of what the methods mean, and nothing of connections (`endpoint.ts`).
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Metadata } from '@grpc/grpc-js';
import type { Credentials } from './credentials.ts';
import { type Attempt, Endpoint } from './endpoint.ts';
import { cancelledBy, KeywardError } from './errors.ts';
import type { ClientCall, Reporter, TraceHeaders } from './hooks.ts';
import type { Proofs, ProvenCall } from './proofs.ts';
import { backoffMs, canHelp, RetryBudget } from './retries.ts';
import { Throttle } from './throttle.ts';
import type { Method } from './wire.ts';

/** Options of one call. */
export interface CallOptions {
  /** Cancels the call: it rejects with `CANCELLED`, the signal's reason as its cause. */
  readonly signal?: AbortSignal;
  /**
   * Until when the call must be answered, retries included. The client's `defaultTimeoutMs` unless
   * given; none for what is watched.
   */
  readonly timeoutMs?: number;
}

/** What a client's options come to. */
export interface TransportOptions {
  readonly addresses: readonly string[];
  /** To each address. */
  readonly connections: number;
  readonly credentials: Credentials;
  readonly proofs: Proofs | undefined;
  readonly traceContext: (() => TraceHeaders) | undefined;
  readonly serverName: string | undefined;
  readonly defaultTimeoutMs: number;
  readonly retries: number;
  /** Whether calls are held back that a full service would refuse. */
  readonly throttle: boolean;
  readonly reporter: Reporter;
}

/** A call under way, from before its first attempt to after its last. */
interface Ongoing extends ProvenCall {
  /** What hooks know it as. */
  readonly call: ClientCall;
  /** Whether a second attempt could have a second effect. */
  readonly once: boolean;
  readonly callers: AbortSignal | undefined;
  readonly trace: TraceHeaders | undefined;
  attempts: number;
  /** How often all addresses have failed since the last answer. */
  retries: number;
  /** Where it failed since all had. */
  readonly tried: Set<Endpoint>;
  endpoint?: Endpoint;
  /** To be called once, at its end. */
  readonly end: (error?: unknown) => void;
}

/** The service at one address or several, the first that serves. Connects when first used. */
export class Transport {
  readonly #options: TransportOptions;
  readonly #endpoints: readonly Endpoint[];
  readonly #budget = new RetryBudget();
  /** By address and method: an address, or what it has for a method, may be full alone. */
  readonly #throttles = new Map<string, Throttle>();
  /** Ends each call under way; streams are told apart. */
  readonly #inFlight = new Map<AbortController, { readonly isStream: boolean }>();
  #isClosing = false;
  #isClosed = false;
  #whenIdle: (() => void) | undefined;
  #closing: Promise<void> | undefined;

  constructor(options: TransportOptions) {
    const { addresses, connections, serverName, credentials, reporter } = options;
    const { context } = credentials;
    const hasOthers = addresses.length > 1;
    this.#options = options;
    this.#endpoints = addresses.map(
      (address) => new Endpoint({ address, connections, serverName, context, reporter, hasOthers }),
    );
    credentials.onChange = (files, error) => {
      if (this.#isClosed) return;
      if (error === undefined)
        for (const endpoint of this.#endpoints) endpoint.renew(credentials.context);
      reporter.reloaded({ files, error });
    };
  }

  /**
   * Takes no more calls, ends streams, and resolves when the other calls have ended and no socket
   * is left. Twice is as good as once.
   */
  close(): Promise<void> {
    this.#closing ??= this.#drain();
    return this.#closing;
  }

  /** Ends everything at once. */
  destroy(): void {
    this.#isClosing = true;
    this.#isClosed = true;
    for (const ending of this.#inFlight.keys()) ending.abort();
    for (const endpoint of this.#endpoints) endpoint.close();
  }

  async #drain(): Promise<void> {
    this.#isClosing = true;
    // The consumer of a stream may never come back for its end.
    for (const [ending, { isStream }] of this.#inFlight) {
      if (!isStream) continue;
      ending.abort();
      this.#inFlight.delete(ending);
    }
    if (this.#inFlight.size > 0)
      await new Promise<void>((resolve) => {
        this.#whenIdle = resolve;
      });
    this.destroy();
  }

  /**
   * Rejects with a {@link KeywardError}, or a TypeError for a request that can't be sent as it is.
   */
  async call<Response>(
    method: Method,
    request: unknown,
    options: CallOptions = {},
  ): Promise<Response> {
    const bytes = method.serialize(request);
    const timeoutMs = options.timeoutMs ?? this.#options.defaultTimeoutMs;
    const call = this.#begin(method, { ...options, timeoutMs }, false);
    try {
      const answer = await this.#attempts(call, async (endpoint) =>
        decode<Response>(
          method,
          await endpoint.send(await this.#attempt(method, bytes, call)),
          request,
        ),
      );
      call.end();
      return answer;
    } catch (error) {
      call.end(error);
      throw error;
    }
  }

  /**
   * The answers of a streaming method: when the stream breaks where a retry can help, the call is
   * made anew, for what comes after the last answer where the method has such requests, and each of
   * its answers must say all by itself where not. Every answer makes the retries begin from the
   * first. Ends with the service's stream; throws as {@link call} rejects. Returning early cancels
   * the call.
   */
  async *stream<Response>(
    method: Method,
    request: unknown,
    options: CallOptions = {},
  ): AsyncGenerator<Response, void, undefined> {
    let rest = request;
    let bytes = method.serialize(rest);
    const call = this.#begin(method, options, true);
    try {
      for (;;) {
        this.#throwIfEnded(call);
        const endpoint = this.#pick(call);
        try {
          const attempt = await this.#attempt(method, bytes, call);
          for await (const answer of endpoint.receive(attempt)) {
            // What came in before the call was cancelled is not given out after.
            this.#throwIfEnded(call);
            const response = decode<Response>(method, answer, rest);
            rest = method.after?.(rest, response) ?? rest;
            yield response;
            this.#answered(call, endpoint);
          }
          return;
        } catch (error) {
          await this.#beforeRetry(call, endpoint, error);
          bytes = method.serialize(rest);
        }
      }
    } catch (error) {
      call.end(error);
      throw error;
    } finally {
      call.end();
    }
  }

  #begin({ path, once }: Method, options: CallOptions, isStream: boolean): Ongoing {
    const { signal, timeoutMs } = options;
    // NaN and Infinity would be no deadline at all.
    if (timeoutMs !== undefined && !(timeoutMs >= 0 && timeoutMs < 2 ** 31))
      throw new TypeError('timeoutMs must be milliseconds below 2^31');
    const { reporter, traceContext, credentials } = this.#options;
    const call = { method: path.slice(1) };
    const begun = performance.now();
    const trace = traceContext?.();
    // One controller per call, because `AbortSignal.any` of a long-lived signal leaks on Node 20
    // (60 B a call).
    const ending = new AbortController();
    const abort = () => ending.abort();
    let hasEnded = false;
    const ongoing: Ongoing = {
      call,
      once: once === true,
      deadline: timeoutMs === undefined ? Number.POSITIVE_INFINITY : Date.now() + timeoutMs,
      ending: ending.signal,
      callers: signal,
      trace: reporter.callStarted(call) ?? trace,
      hasNewToken: false,
      hasSteppedUp: false,
      attempts: 0,
      retries: 0,
      tried: new Set(),
      end: (error) => {
        if (hasEnded) return;
        hasEnded = true;
        signal?.removeEventListener('abort', abort);
        this.#inFlight.delete(ending);
        if (this.#inFlight.size === 0) this.#whenIdle?.();
        reporter.callEnded(call, endOf(ongoing, performance.now() - begun, error));
      },
    };
    if (this.#isClosing) abort();
    else this.#inFlight.set(ending, { isStream });
    signal?.addEventListener('abort', abort, { once: true });
    if (credentials.isDue) void credentials.look();
    return ongoing;
  }

  async #attempts<Response>(
    call: Ongoing,
    attempt: (endpoint: Endpoint) => Promise<Response>,
  ): Promise<Response> {
    for (;;) {
      this.#throwIfEnded(call);
      const endpoint = this.#pick(call);
      try {
        const response = await this.#throttled(call, endpoint, attempt);
        this.#answered(call, endpoint);
        return response;
      } catch (error) {
        await this.#beforeRetry(call, endpoint, error);
      }
    }
  }

  /** Makes an attempt, unless the service would most likely refuse it because it is full. */
  async #throttled<Response>(
    { call }: Ongoing,
    endpoint: Endpoint,
    attempt: (endpoint: Endpoint) => Promise<Response>,
  ): Promise<Response> {
    if (!this.#options.throttle) return attempt(endpoint);
    const throttle = this.#throttleOf(`${endpoint.address} ${call.method}`);
    throttle.admit();
    try {
      const response = await attempt(endpoint);
      throttle.succeeded();
      return response;
    } catch (error) {
      throttle.failed(error);
      throw error;
    }
  }

  #throttleOf(name: string): Throttle {
    let throttle = this.#throttles.get(name);
    if (throttle === undefined) {
      throttle = new Throttle();
      this.#throttles.set(name, throttle);
    }
    return throttle;
  }

  /** The first address that serves and where the call has not failed yet, else the first of all. */
  #pick(call: Ongoing): Endpoint {
    const left = this.#endpoints.filter((each) => !call.tried.has(each));
    const endpoint = left.find(({ isAvoided }) => !isAvoided) ?? left[0] ?? this.#endpoints[0];
    call.endpoint = endpoint as Endpoint;
    return call.endpoint;
  }

  #answered(call: Ongoing, endpoint: Endpoint): void {
    endpoint.answered();
    this.#budget.succeeded();
    call.retries = 0;
    call.tried.clear();
    call.hasNewToken = false;
    call.hasSteppedUp = false;
  }

  /**
   * Returns when the call may be tried again; throws `error` where that can't help, and what the
   * call has ended with.
   */
  async #beforeRetry(call: Ongoing, endpoint: Endpoint, error: unknown): Promise<void> {
    this.#throwIfEnded(call);
    if (error instanceof KeywardError && error.reason === undefined) {
      if (error.code === 'DEADLINE_EXCEEDED') endpoint.suspect(error);
      // The files may have been replaced, without which no connection succeeds.
      else if (error.code === 'UNAVAILABLE') await this.#options.credentials.look();
    }
    const hasOtherProof = await this.#options.proofs?.hasOther(call, error);
    this.#throwIfEnded(call);
    if (hasOtherProof) return;
    if (error instanceof KeywardError && error.code === 'UNAVAILABLE') endpoint.avoid(error);
    if (!canHelp(error, call.once) || !this.#budget.allows(error)) throw error;
    const delayMs = this.#delayMs(call, endpoint, error);
    if (delayMs === undefined || Date.now() + delayMs >= call.deadline) throw error;
    const { attempts: attempt } = call;
    const { address } = endpoint;
    this.#options.reporter.retried(call.call, { error, address, attempt, delayMs });
    if (delayMs === 0) return;
    // An abort ends the wait early, and the next attempt's first line says which it was.
    await sleep(delayMs, undefined, { signal: call.ending }).catch(() => {});
  }

  /** None while there is an address where the call has not failed; undefined after the last. */
  #delayMs(call: Ongoing, endpoint: Endpoint, error: KeywardError): number | undefined {
    const { retries } = this.#options;
    if (error.code === 'UNAVAILABLE') {
      call.tried.add(endpoint);
      if (retries > 0 && call.tried.size < this.#endpoints.length) return 0;
      call.tried.clear();
    }
    if (call.retries >= retries) return undefined;
    call.retries += 1;
    return backoffMs(error, call.retries - 1);
  }

  async #attempt({ path }: Method, bytes: Buffer, call: Ongoing): Promise<Attempt> {
    const metadata = await this.#metadata(call);
    this.#throwIfEnded(call);
    call.attempts += 1;
    const { deadline, ending } = call;
    return { path, bytes, metadata, deadline, ending };
  }

  /** What goes with the request. Rejects when the token can't be had before the call ends. */
  async #metadata(call: Ongoing): Promise<Metadata> {
    const metadata = new Metadata();
    const { traceparent, tracestate } = call.trace ?? {};
    if (traceparent !== undefined) metadata.set('traceparent', traceparent);
    if (traceparent !== undefined && tracestate) metadata.set('tracestate', tracestate);
    const { proofs } = this.#options;
    const token = await proofs?.token(call, () => this.#throwIfEnded(call));
    if (token !== undefined) metadata.set('authorization', `Bearer ${token}`);
    return metadata;
  }

  #throwIfEnded({ callers, ending }: Ongoing): void {
    if (callers?.aborted) throw cancelledBy(callers);
    if (ending.aborted)
      throw new KeywardError({ code: 'CANCELLED', message: 'The client is closed.' });
  }
}

/** What hooks hear of a call's end. */
function endOf({ attempts, endpoint }: Ongoing, durationMs: number, thrown: unknown) {
  const error = thrown === undefined || thrown instanceof Error ? thrown : new Error(`${thrown}`);
  const failed = error instanceof KeywardError ? (error.reason ?? error.code) : error?.name;
  const address = attempts === 0 ? undefined : endpoint?.address;
  return { outcome: failed ?? 'OK', error, durationMs, attempts, address };
}

function decode<Response>(method: Method, answer: Buffer, request: unknown): Response {
  try {
    return method.deserialize(answer, request) as Response;
  } catch (error) {
    if (error instanceof KeywardError) throw error;
    const message = `The answer can't be read: ${(error as Error).message}`;
    throw new KeywardError({ code: 'INTERNAL', message, cause: error });
  }
}
