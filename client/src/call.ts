/**
 * The channel, and one call over it, with one answer or a stream of them: deadline, cancellation,
 * retries.
 *
 * Its invariants: TLS 1.3 with the caller's certificate, his token, or both, or nothing; every call
 * ends, by its deadline at the latest, retries included, and only a stream may be without one; a
 * retry sends the very same bytes, so that a change with a request id is made once. What grpc-js
 * would do unasked is off: its own retries, service configuration out of DNS, HTTP proxies out of
 * the environment, connections shared between clients. Knows nothing of what the methods mean.
 */
import { isIP } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { checkServerIdentity, createSecureContext } from 'node:tls';
import { Client, credentials, Metadata, type ServiceError } from '@grpc/grpc-js';
import { endingHandshakes } from './connecting.ts';
import { CHECKSUM_MISMATCH, errorOf, KeywardError, STEP_UP_REQUIRED } from './errors.ts';
import type { TokenSource } from './token.ts';
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

/** Which trace a call is part of: W3C Trace Context's headers. */
export interface TraceHeaders {
  readonly traceparent?: string;
  readonly tracestate?: string;
}

/** The stronger or fresher proof that a call wants (RFC 9470). */
export interface StepUp {
  /** Of which one will do; empty for any. */
  readonly acrValues: readonly string[];
  /** Authentication methods that `amr` must all have; empty for any. */
  readonly methods: readonly string[];
  /** How old the sign-in may be. */
  readonly maxAgeSeconds: number | undefined;
}

interface TransportOptions {
  readonly address: string;
  readonly ca: string | Uint8Array;
  /** The caller's, unless a token is all that he has. */
  readonly identity?:
    | { readonly cert: string | Uint8Array; readonly key: string | Uint8Array }
    | undefined;
  readonly token?: TokenSource | undefined;
  readonly stepUp?: ((wanted: StepUp) => Promise<string>) | undefined;
  readonly traceContext?: (() => TraceHeaders) | undefined;
  readonly serverName?: string | undefined;
  readonly defaultTimeoutMs: number;
  readonly retries: number;
}

/** The first back-off when the service gives none, in milliseconds; it doubles. */
const FIRST_BACKOFF_MS = 200;

/**
 * The longest answer taken, in bytes: services of this release keep to 4 MiB, earlier ones have
 * pages of six times as much.
 */
const MAX_ANSWER_BYTES = 67_108_864;

/** A call under way, from before its first attempt to after its last. */
interface Ongoing {
  /** Milliseconds of the clock; Infinity for none. Later by what a step-up took. */
  deadline: number;
  /** Aborts when the caller cancels the call, and when the client is closed. */
  readonly ending: AbortSignal;
  readonly callers: AbortSignal | undefined;
  readonly trace: TraceHeaders | undefined;
  /** The token that was sent last. */
  token?: string;
  /** Another was asked for since the service's last answer. */
  hasNewToken: boolean;
  hasSteppedUp: boolean;
  /** To be called at its end, however it ended. */
  readonly forget: () => void;
}

/** A channel to one address. Connects when first used. */
export class Transport {
  readonly #options: TransportOptions;
  readonly #client: Client;
  readonly #inFlight = new Set<AbortController>();
  #closed = false;

  /** Throws what node:tls throws for a certificate or key that isn't one. */
  constructor(options: TransportOptions) {
    this.#options = options;
    this.#client = new Client(options.address, channelCredentials(options), {
      'grpc.enable_retries': 0,
      'grpc.service_config_disable_resolution': 1,
      'grpc.enable_http_proxy': 0,
      'grpc.use_local_subchannel_pool': 1,
      // So that a retry finds a service that has just come back; grpc-js waits 1 s, then up to 2
      // minutes.
      'grpc.initial_reconnect_backoff_ms': 100,
      'grpc.max_reconnect_backoff_ms': 5_000,
      // A peer that vanished without a word is noticed here, not after TCP's quarter of an hour.
      'grpc.keepalive_time_ms': 60_000,
      'grpc.keepalive_timeout_ms': 10_000,
      'grpc.max_receive_message_length': MAX_ANSWER_BYTES,
      'grpc.ssl_target_name_override': sniName(options),
    });
  }

  /** Calls in flight, and later ones, reject. No socket is left. Twice is as good as once. */
  close(): void {
    this.#closed = true;
    for (const call of this.#inFlight) call.abort();
    this.#client.close();
  }

  /**
   * Rejects with a {@link KeywardError}, or a TypeError for a request that can't be sent as
   * it is.
   */
  async call<Response>(
    method: Method,
    request: unknown,
    options: CallOptions = {},
  ): Promise<Response> {
    const call = this.#begin(options.signal, options.timeoutMs ?? this.#options.defaultTimeoutMs);
    try {
      const bytes = method.serialize(request);
      return await this.#attempts(call, async () =>
        decode<Response>(method, await this.#send(method.path, bytes, call), request),
      );
    } finally {
      call.forget();
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
    const call = this.#begin(options.signal, options.timeoutMs);
    try {
      let rest = request;
      for (let retries = 0; ; retries += 1) {
        const bytes = method.serialize(rest);
        this.#throwIfEnded(call);
        try {
          for await (const answer of this.#receive(method.path, bytes, call)) {
            // What came in before the call was cancelled is not given out after.
            this.#throwIfEnded(call);
            const response = decode<Response>(method, answer, rest);
            rest = method.after?.(rest, response) ?? rest;
            yield response;
            retries = 0;
            call.hasNewToken = false;
            call.hasSteppedUp = false;
          }
          return;
        } catch (error) {
          await this.#beforeRetry(call, error, retries);
        }
      }
    } finally {
      call.forget();
    }
  }

  #begin(signal: AbortSignal | undefined, timeoutMs: number | undefined): Ongoing {
    // NaN and Infinity would be no deadline at all.
    if (timeoutMs !== undefined && !(timeoutMs >= 0 && timeoutMs < 2 ** 31))
      throw new TypeError('timeoutMs must be milliseconds below 2^31');
    // One controller per call, because `AbortSignal.any` of a long-lived signal leaks on Node 20
    // (60 B a call).
    const ending = new AbortController();
    const end = () => ending.abort();
    this.#inFlight.add(ending);
    signal?.addEventListener('abort', end, { once: true });
    return {
      deadline: timeoutMs === undefined ? Number.POSITIVE_INFINITY : Date.now() + timeoutMs,
      ending: ending.signal,
      callers: signal,
      trace: this.#options.traceContext?.(),
      hasNewToken: false,
      hasSteppedUp: false,
      forget: () => {
        signal?.removeEventListener('abort', end);
        this.#inFlight.delete(ending);
      },
    };
  }

  async #attempts<Response>(call: Ongoing, attempt: () => Promise<Response>): Promise<Response> {
    for (let retries = 0; ; retries += 1) {
      this.#throwIfEnded(call);
      try {
        return await attempt();
      } catch (error) {
        await this.#beforeRetry(call, error, retries);
      }
    }
  }

  /**
   * Returns when the call may be tried again; throws `error` where that can't help, and what the
   * call has ended with.
   */
  async #beforeRetry(call: Ongoing, error: unknown, retries: number): Promise<void> {
    this.#throwIfEnded(call);
    if (await this.#hasSteppedUp(call, error)) return;
    if (await this.#hasNewToken(call, error)) return;
    const delayMs = retries < this.#options.retries ? backoff(error, retries) : undefined;
    if (delayMs === undefined || Date.now() + delayMs >= call.deadline) throw error;
    // An abort ends the wait early, and the next attempt's first line says which it was.
    await sleep(delayMs, undefined, { signal: call.ending }).catch(() => {});
  }

  /**
   * Once, where the service wants a stronger proof, and the caller can give one. A person may have
   * to, so the time that it takes is not the call's.
   */
  async #hasSteppedUp(call: Ongoing, error: unknown): Promise<boolean> {
    const { stepUp, token } = this.#options;
    const wanted = stepUpOf(error);
    if (wanted === undefined || stepUp === undefined || token === undefined || call.hasSteppedUp)
      return false;
    call.hasSteppedUp = true;
    const began = Date.now();
    const stronger = stepUp(wanted);
    token.replace(await beforeEnd({ ...call, deadline: Number.POSITIVE_INFINITY }, stronger));
    call.deadline += Date.now() - began;
    this.#throwIfEnded(call);
    return true;
  }

  /** Once, where the service has refused a token, and the caller can give another. */
  async #hasNewToken(call: Ongoing, error: unknown): Promise<boolean> {
    const { token, hasNewToken } = call;
    const isRefused = error instanceof KeywardError && error.code === 'UNAUTHENTICATED';
    if (!isRefused || token === undefined || hasNewToken) return false;
    call.hasNewToken = true;
    const source = this.#options.token;
    if (source === undefined) return false;
    const isOther = await beforeEnd(call, source.refused(token)).catch(() => false);
    this.#throwIfEnded(call);
    return isOther;
  }

  /** What goes with the request. Rejects when the token can't be had before the call ends. */
  async #metadata(call: Ongoing): Promise<Metadata> {
    const metadata = new Metadata();
    const { traceparent, tracestate } = call.trace ?? {};
    if (traceparent !== undefined) metadata.set('traceparent', traceparent);
    if (traceparent !== undefined && tracestate) metadata.set('tracestate', tracestate);
    const { token } = this.#options;
    if (token === undefined) return metadata;
    call.token = await beforeEnd(call, token.get()).catch((cause: unknown) => {
      this.#throwIfEnded(call);
      if (cause instanceof KeywardError) throw cause;
      throw new KeywardError({
        code: 'UNAUTHENTICATED',
        message: 'There is no token to call with.',
        cause,
      });
    });
    metadata.set('authorization', `Bearer ${call.token}`);
    return metadata;
  }

  #throwIfEnded({ callers }: Ongoing): void {
    if (this.#closed) {
      throw new KeywardError({ code: 'CANCELLED', message: 'The client is closed.' });
    }
    if (callers?.aborted) {
      throw new KeywardError({
        code: 'CANCELLED',
        message: 'The caller cancelled the call.',
        cause: callers.reason,
      });
    }
  }

  async #send(path: string, bytes: Buffer, call: Ongoing): Promise<Buffer> {
    const metadata = await this.#metadata(call);
    this.#throwIfEnded(call);
    const { deadline, ending } = call;
    return new Promise((resolve, reject) => {
      const request = this.#client.makeUnaryRequest(
        path,
        asItIs,
        asItIs,
        bytes,
        metadata,
        { deadline },
        (error, answer) => {
          ending.removeEventListener('abort', cancel);
          if (error !== null) reject(errorOf(error, this.#options.address));
          else resolve(answer as Buffer);
        },
      );
      const cancel = () => request.cancel();
      ending.addEventListener('abort', cancel, { once: true });
    });
  }

  /** One attempt at a stream. What it throws is as what {@link #send} rejects with. */
  async *#receive(
    path: string,
    bytes: Buffer,
    call: Ongoing,
  ): AsyncGenerator<Buffer, void, undefined> {
    const metadata = await this.#metadata(call);
    this.#throwIfEnded(call);
    const { deadline, ending } = call;
    const stream = this.#client.makeServerStreamRequest(path, asItIs, asItIs, bytes, metadata, {
      deadline,
    });
    // Cancelling ends the stream with an error, which nobody waits for when the caller has returned
    // early.
    stream.on('error', () => {});
    const cancel = () => stream.cancel();
    ending.addEventListener('abort', cancel, { once: true });
    try {
      for await (const answer of stream) yield answer;
    } catch (error) {
      throw errorOf(error as ServiceError, this.#options.address);
    } finally {
      ending.removeEventListener('abort', cancel);
      stream.cancel();
    }
  }
}

/** What `promise` gives, unless the call ends first. */
async function beforeEnd<T>({ deadline, ending }: Ongoing, promise: Promise<T>): Promise<T> {
  let forget = () => {};
  const end = new Promise<never>((_, reject) => {
    const fail = (code: 'DEADLINE_EXCEEDED' | 'CANCELLED') =>
      reject(new KeywardError({ code, message: 'There was no token before the end of the call.' }));
    const cancel = () => fail('CANCELLED');
    const late = () => fail('DEADLINE_EXCEEDED');
    const timer = Number.isFinite(deadline) ? setTimeout(late, deadline - Date.now()) : undefined;
    ending.addEventListener('abort', cancel, { once: true });
    forget = () => {
      clearTimeout(timer);
      ending.removeEventListener('abort', cancel);
    };
  });
  return Promise.race([promise, end]).finally(forget);
}

/** What a call wants that failed with STEP_UP_REQUIRED. */
function stepUpOf(error: unknown): StepUp | undefined {
  if (!(error instanceof KeywardError) || error.reason !== STEP_UP_REQUIRED) return undefined;
  const words = (name: string) => (error.metadata.get(name) ?? '').split(' ').filter(Boolean);
  const [seconds] = words('max_age');
  return {
    acrValues: words('acr_values'),
    methods: words('amr_values'),
    maxAgeSeconds: seconds === undefined ? undefined : Number(seconds),
  };
}

const asItIs = (bytes: Buffer): Buffer => bytes;

function decode<Response>(method: Method, answer: Buffer, request: unknown): Response {
  try {
    return method.deserialize(answer, request) as Response;
  } catch (error) {
    if (error instanceof KeywardError) throw error;
    const message = `The answer can't be read: ${(error as Error).message}`;
    throw new KeywardError({ code: 'INTERNAL', message, cause: error });
  }
}

/**
 * After how long to try again, or undefined: only when the service says that a retry helps, when
 * bytes changed on their way, or when no answer of the service's own came at all. Half as much
 * again at random, so that callers refused together don't come back together.
 */
function backoff(error: unknown, retries: number): number | undefined {
  if (!(error instanceof KeywardError)) return undefined;
  const { code, reason, retryDelayMs } = error;
  const helps =
    code === 'UNAVAILABLE' || code === 'RESOURCE_EXHAUSTED' || reason === CHECKSUM_MISMATCH;
  const invited = retryDelayMs !== undefined && helps;
  const unreached = code === 'UNAVAILABLE' && reason === undefined;
  if (!invited && !unreached) return undefined;
  const atLeast = Math.max(retryDelayMs ?? 0, invited ? 20 : FIRST_BACKOFF_MS * 2 ** retries);
  return atLeast * (1 + Math.random() / 2);
}

function channelCredentials(options: TransportOptions) {
  const context = createSecureContext({
    ca: Buffer.from(options.ca),
    ...(options.identity && {
      cert: Buffer.from(options.identity.cert),
      key: Buffer.from(options.identity.key),
    }),
    minVersion: 'TLSv1.3',
  });
  const expected = options.serverName ?? hostOf(options.address);
  return endingHandshakes(
    credentials.createFromSecureContext(context, {
      checkServerIdentity: (_host, certificate) => checkServerIdentity(expected, certificate),
    }),
  );
}

/**
 * The name sent in the handshake (RFC 6066), which can't be an IP address: grpc-js would send one
 * all the same, and Node warns of that on stderr. Which name the certificate must have is decided
 * by `checkServerIdentity`, not by this.
 */
function sniName(options: TransportOptions): string {
  const name = options.serverName ?? hostOf(options.address);
  return isIP(name) === 0 ? name : 'localhost';
}

/** `127.0.0.1` of `127.0.0.1:5005`, `::1` of `[::1]:5005`. */
function hostOf(address: string): string {
  return address.slice(0, address.lastIndexOf(':')).replace(/^\[(.*)\]$/, '$1');
}
