/**
 * Admission: every HTTP/2 stream before grpc-js sees it, which of them may become a call, and for how long.
 *
 * Invariants: a call is served only through here, and so has an id and a deadline from its first header on, and a caller
 * before any of it goes further (`access/identity.ts` says who it is), whichever method it is of;
 * work is counted from its first header until its last effect, not until the caller lost interest; no stream but a
 * health watch outlives its deadline by more than {@link BACKSTOP_MS}, be it that its request never ends or that its
 * answer is never read; what grpc-js refuses by itself leaves with a reason too. Of a request's headers only those in
 * {@link FORWARDED} go further; a token ends here. Knows no method.
 */
import { randomUUID } from 'node:crypto';
import {
  constants,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
  type ServerHttp2Stream,
} from 'node:http2';
import type { Metadata } from '@grpc/grpc-js';
import type { Logger } from 'pino';
import type { Caller, Identity } from '../access/identity.ts';
import { millisecondsLeft, monotonicNow } from '../call.ts';
import { KeywardError } from '../errors.ts';
import type { Connection, Connections } from './connections.ts';
import { bareError, errorHeaders, toKeywardError } from './status.ts';

/** What callers may ask of the server at once. */
export interface AdmissionLimits {
  /** Calls at once; as many streams that have no end of their own may be open besides. */
  readonly maxCalls: number;
  /** Bytes of requests at once, whole or not. */
  readonly maxRequestBytes: number;
  /** The header list of one call, as HTTP/2 counts it. */
  readonly maxHeaderBytes: number;
  /** The deadline of a call that brings none, and the longest that any may bring, in milliseconds. */
  readonly deadlineMs: number;
}

/** A call that was let in. */
export interface AdmittedCall {
  /** UUID of the call. */
  readonly id: string;
  readonly caller: Caller;
  /** Who makes it, asked again: as it is now. Throws, or rejects with, a KeywardError. */
  identify(): Caller | Promise<Caller>;
  /** SHA-256 of the connection's client certificate, base64url, if it has one. */
  readonly certificate: string | undefined;
  /** The IP address that it came from. */
  readonly address: string | undefined;
  /** When its headers came, and when it must be over: in `monotonicNow`'s milliseconds. */
  readonly startedAt: number;
  readonly deadline: number;
  /** Says that work has begun that may outlive the stream; the returned function, called once, that it is over. */
  hold(): () => void;
}

/** A call that was not let in because of who makes it, or because nobody knows. */
export interface RefusedCall extends Pick<AdmittedCall, 'id' | 'certificate' | 'address' | 'startedAt'> {
  /** As far as it is known. */
  readonly callerName: string | undefined;
  /** As in a path, without the slash before it; `unknown` where it is no name. */
  readonly method: string;
}

export interface AdmissionParts {
  readonly limits: AdmissionLimits;
  /** The paths of calls that may have no end of their own, besides gRPC's own. */
  readonly streams: ReadonlySet<string>;
  readonly identity: Identity;
  /** Puts a refusal on record, and returns it. Never rejects. */
  readonly recordRefusal: (error: KeywardError, call: RefusedCall) => Promise<KeywardError>;
  readonly log: Logger;
}

/** grpc-js's own listener. */
export type Dispatch = (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void;

/** As HTTP/2 has it: the last are names and values in turns, as they came. */
type StreamListener = (
  stream: ServerHttp2Stream,
  headers: IncomingHttpHeaders,
  flags: number,
  rawHeaders: readonly string[],
) => void;

/** What a request says of itself. */
interface RequestHeaders {
  readonly headers: IncomingHttpHeaders;
  readonly path: string;
  /** Every value of `authorization`: Node keeps the first of several and says nothing. */
  readonly authorizations: readonly string[];
}

/** How a call's id gets through grpc-js to its handler; whatever a client sends under this name is dropped. */
const CALL_HEADER = 'keyward-call';
const FORWARDED = [':path', ':authority', 'content-type', 'te'] as const;
const LONG_LIVED = /^\/grpc\.(health\.v1\.Health\/Watch$|reflection\.)/;
const HEALTH = /^\/grpc\.health\.v1\.Health\//;
/** gRPC's own content types: `+json` and grpc-web are something else. */
const CONTENT_TYPE = /^application\/grpc(\+proto)?\s*(;|$)/i;
const TIMEOUT = /^(\d{1,8})([HMSmun])$/;
/** Longer than Node's timers go; nobody waits for that. */
const LONGEST_TIMER_MS = 2 ** 31 - 1 - 60_000;
const UNIT_MS: Readonly<Record<string, number>> = { H: 3.6e6, M: 6e4, S: 1e3, m: 1, u: 1e-3, n: 1e-6 };
/** The wrapper round the call answers at the deadline; this much later whatever is left of the stream is closed. */
const BACKSTOP_MS = 250;

/** See this file's first paragraph. */
export class Admission {
  readonly #limits: AdmissionLimits;
  readonly #streams: ReadonlySet<string>;
  readonly #identity: Identity;
  readonly #recordRefusal: AdmissionParts['recordRefusal'];
  readonly #log: Logger;
  readonly #admitted = new Map<string, Stream>();
  /** Calls whose request hasn't arrived whole, the oldest first: they give way to others, since they may never. */
  readonly #arriving = new Set<Stream>();
  /** How many are open: calls, and streams without an end. */
  readonly #open = { call: 0, longLived: 0 };
  #requestBytes = 0;

  constructor({ limits, streams, identity, recordRefusal, log }: AdmissionParts) {
    this.#limits = limits;
    this.#recordRefusal = recordRefusal;
    this.#streams = streams;
    this.#identity = identity;
    this.#log = log;
  }

  /** The call whose headers these are; undefined if it didn't come through here. */
  take(metadata: Metadata): AdmittedCall | undefined {
    const stream = this.#admitted.get(String(metadata.get(CALL_HEADER)[0]));
    const call = stream?.admitted();
    if (stream === undefined || call === undefined) return undefined;
    stream.isTaken = true;
    this.#arriving.delete(stream);
    return call;
  }

  /** The listener to put before grpc-js's. */
  before(dispatch: Dispatch, connections: Connections): StreamListener {
    return (http2Stream, headers, _flags, rawHeaders) => {
      const connection = connections.of(http2Stream.session);
      if (connection === undefined) {
        http2Stream.close(constants.NGHTTP2_REFUSED_STREAM);
        return;
      }
      const path = String(headers[':path']);
      const authorizations = valuesOf('authorization', rawHeaders);
      this.#admit(http2Stream, { headers, path, authorizations }, connection, dispatch);
    };
  }

  #admit(
    http2Stream: ServerHttp2Stream,
    request: RequestHeaders,
    connection: Connection,
    dispatch: Dispatch,
  ): void {
    const { headers, path } = request;
    http2Stream.on('error', () => {}); // 'close' follows, and is enough.
    if (http2Stream.closed || http2Stream.destroyed) return; // Reset by the bytes that came with its headers.
    const stream = new Stream(http2Stream, path, connection, this.#log);
    connection.streamOpened();
    http2Stream.once('close', () => connection.streamClosed());
    const refusal = this.#refusalOf(request, connection.isProven);
    if (refusal !== undefined) {
      stream.fail(refusal.error, refusal.httpStatus);
      return;
    }
    this.#count(stream, http2Stream, path);
    const deadlineMs = this.#deadlineMs(headers, path);
    if (Number.isFinite(deadlineMs)) stream.expireAfter(deadlineMs);
    const goOn = (caller: Caller) => {
      connection.proven();
      stream.caller = caller;
      // It may be over: what waits to be verified gives way to others, too.
      if (http2Stream.closed || http2Stream.destroyed) return;
      dispatch(http2Stream, forwarded(headers, stream.id));
      http2Stream.on('data', ({ length }: Buffer) => this.#received(stream, length));
    };
    const refuse = async (thrown: unknown) => {
      const error = toKeywardError(thrown);
      stream.fail(await this.#recordRefusal(error, stream.refused()));
    };
    stream.identify = () => this.#identity.callerOf(connection.certificate, request.authorizations);
    try {
      const caller = stream.identify();
      if (caller instanceof Promise) caller.then(goOn).catch(refuse);
      else goOn(caller);
    } catch (error) {
      void refuse(error);
    }
  }

  #refusalOf(
    { headers, path }: RequestHeaders,
    isProven: boolean,
  ): { readonly error: KeywardError; readonly httpStatus?: number } | undefined {
    const malformed = (message: string) => new KeywardError('MALFORMED_REQUEST', { message });
    if (headers[':method'] !== 'POST')
      return { error: malformed('gRPC calls are made by POST.'), httpStatus: 405 };
    if (!CONTENT_TYPE.test(headers['content-type'] ?? ''))
      return { error: malformed('The content type must be application/grpc.'), httpStatus: 415 };
    // HTTP/2 checks it too, but not before the client has acknowledged the limit, which it may never do.
    if (headerBytes(headers) > this.#limits.maxHeaderBytes) {
      const message = 'The headers are larger than the server takes.';
      return { error: new KeywardError('MESSAGE_TOO_LARGE', { message }), httpStatus: 431 };
    }
    // grpc-js inflates every message of a frame at once, before it has counted them: 16 KiB become gigabytes.
    if ((headers['grpc-encoding'] ?? 'identity') !== 'identity')
      return { error: new KeywardError('COMPRESSION_NOT_SUPPORTED') };
    const timeout = headers['grpc-timeout'];
    if (timeout !== undefined && !TIMEOUT.test(String(timeout)))
      return { error: malformed('grpc-timeout must be up to eight digits and a unit.') };
    if (/^0+\D/.test(String(timeout))) return { error: new KeywardError('DEADLINE_EXCEEDED') };
    return this.#hasRoom(path, isProven) ? undefined : { error: new KeywardError('SERVER_BUSY') };
  }

  /**
   * Makes room at the cost of the call that has been arriving for longest, first of one that has no caller yet; who comes by
   * a connection that has shown nothing can have no other's place. Health checks are never turned away.
   */
  #hasRoom(path: string, isProven: boolean): boolean {
    const { maxCalls } = this.#limits;
    if (this.#isLongLived(path)) return this.#open.longLived < maxCalls;
    if (this.#open.call >= maxCalls) {
      const nameless = this.#arriving.values().find(({ caller }) => caller === undefined);
      const oldest = nameless ?? (isProven ? first(this.#arriving) : undefined);
      if (oldest === undefined) return HEALTH.test(path) && isProven;
      this.#turnOut(oldest);
    }
    return true;
  }

  /** Infinity for a stream that brings no deadline; gRPC's own ones heed none. */
  #deadlineMs(headers: IncomingHttpHeaders, path: string): number {
    if (LONG_LIVED.test(path)) return Infinity;
    const [, amount, unit = ''] = TIMEOUT.exec(String(headers['grpc-timeout'])) ?? [];
    const given = Number(amount ?? Infinity) * (UNIT_MS[unit] ?? 1);
    if (this.#streams.has(path)) return given > LONGEST_TIMER_MS ? Infinity : given;
    return Math.min(this.#limits.deadlineMs, given);
  }

  #isLongLived(path: string): boolean {
    return LONG_LIVED.test(path) || this.#streams.has(path);
  }

  /** From here on the stream counts, until it is closed and nothing works for it any more. */
  #count(stream: Stream, http2Stream: ServerHttp2Stream, path: string): void {
    const kind = this.#isLongLived(path) ? 'longLived' : 'call';
    this.#open[kind] += 1;
    this.#admitted.set(stream.id, stream);
    if (kind === 'call') this.#arriving.add(stream);
    stream.onOver = () => {
      this.#open[kind] -= 1;
      this.#requestBytes -= stream.requestBytes;
      this.#admitted.delete(stream.id);
    };
    const release = stream.hold();
    http2Stream.once('close', () => {
      this.#arriving.delete(stream);
      release();
    });
  }

  #received(stream: Stream, length: number): void {
    stream.requestBytes += length;
    this.#requestBytes += length;
    if (this.#requestBytes <= this.#limits.maxRequestBytes) return;
    const largest = [...this.#arriving].reduce((a, b) => (b.requestBytes > a.requestBytes ? b : a), stream);
    this.#turnOut(largest);
  }

  #turnOut(stream: Stream): void {
    this.#arriving.delete(stream);
    stream.fail(new KeywardError('SERVER_BUSY'));
  }
}

/** One stream and what is known of it. */
class Stream {
  readonly id = randomUUID();
  /** Set when it is known. */
  caller: Caller | undefined;
  identify: AdmittedCall['identify'] | undefined;
  readonly #startedAt = monotonicNow();
  deadline = Infinity;
  requestBytes = 0;
  /** The wrapper has it, and will answer and log it. */
  isTaken = false;
  onOver: (() => void) | undefined;
  readonly #stream: ServerHttp2Stream;
  readonly #path: string;
  readonly #connection: Connection;
  readonly #log: Logger;
  #holds = 0;

  constructor(stream: ServerHttp2Stream, path: string, connection: Connection, log: Logger) {
    this.#stream = stream;
    this.#path = path;
    this.#connection = connection;
    this.#log = log;
    const respond = stream.respond.bind(stream);
    stream.respond = (headers, options) => {
      respond(this.#explained(headers as OutgoingHttpHeaders), options);
      // An answer before its request's end: the rest of the request is of no use to anyone.
      if (options?.endStream) setImmediate(() => stream.close(constants.NGHTTP2_NO_ERROR));
    };
  }

  /** The call, once it has a caller. */
  admitted(): AdmittedCall | undefined {
    const { id, caller, identify, deadline } = this;
    if (caller === undefined || identify === undefined) return undefined;
    return { id, caller, identify, deadline, ...this.#origin(), hold: () => this.hold() };
  }

  /** The call as one that was refused. */
  refused(): RefusedCall {
    const { id, method } = this;
    return { id, method, callerName: this.#connection.certificate?.name, ...this.#origin() };
  }

  /** A caller's text until a method of that name is found. */
  get method(): string {
    return /^\/[\w.]{1,200}\/\w{1,100}$/.test(this.#path) ? this.#path.slice(1) : 'unknown';
  }

  #origin() {
    const { certificate, address } = this.#connection;
    return { certificate: certificate?.thumbprint, address, startedAt: this.#startedAt };
  }

  hold(): () => void {
    this.#holds += 1;
    return () => {
      this.#holds -= 1;
      if (this.#holds === 0) this.onOver?.();
    };
  }

  /** Closes the stream when its time is up, answered or not. */
  expireAfter(deadlineMs: number): void {
    this.deadline = this.#startedAt + deadlineMs;
    const timer = setTimeout(
      () => this.fail(new KeywardError('DEADLINE_EXCEEDED')),
      millisecondsLeft(this.deadline) + BACKSTOP_MS,
    );
    this.#stream.once('close', () => clearTimeout(timer));
  }

  /** Answers with an error if nothing was answered, and closes the stream. */
  fail(error: KeywardError, httpStatus = 200): void {
    const stream = this.#stream;
    if (stream.destroyed || stream.closed) return;
    if (stream.headersSent) {
      stream.close(constants.NGHTTP2_CANCEL);
      return;
    }
    if (!this.isTaken) this.#writeLogLine(error);
    stream.respond({ ...errorHeaders(error, this.id), ':status': httpStatus }, { endStream: true });
    stream.close(constants.NGHTTP2_NO_ERROR);
  }

  /** What grpc-js answers by itself, with a reason; what it claims to accept, made true. */
  #explained(headers: OutgoingHttpHeaders): OutgoingHttpHeaders {
    if ('grpc-accept-encoding' in headers) return { ...headers, 'grpc-accept-encoding': 'identity' };
    const error = bareError(headers);
    if (error === undefined) return headers;
    this.#writeLogLine(error);
    return errorHeaders(error, this.id);
  }

  #writeLogLine(error: KeywardError): void {
    this.#log.info(
      {
        requestId: this.id,
        method: this.method,
        caller: this.caller?.name ?? this.#connection.certificate?.name,
        token: this.caller?.token,
        outcome: error.reason,
        durationMs: Math.round((monotonicNow() - this.#startedAt) * 1000) / 1000,
        ...causeOf(error),
      },
      'call refused',
    );
  }
}

function first<T>(set: ReadonlySet<T>): T | undefined {
  const [one] = set;
  return one;
}

/** Our own words for what we refuse; of what we didn't expect all there is. */
function causeOf({ reason, cause }: KeywardError): object {
  if (cause === undefined) return {};
  return reason === 'INTERNAL' ? { err: cause } : { cause: String(cause) };
}

function valuesOf(name: string, rawHeaders: readonly string[]): string[] {
  return rawHeaders.filter((_, index) => index % 2 === 1 && rawHeaders[index - 1] === name);
}

/** With 32 bytes for each header (RFC 9113, 6.5.2). */
function headerBytes(headers: IncomingHttpHeaders): number {
  let bytes = 0;
  for (const name in headers) bytes += name.length + String(headers[name]).length + 32;
  return bytes;
}

function forwarded(headers: IncomingHttpHeaders, id: string): IncomingHttpHeaders {
  const kept: Record<string, string | string[] | undefined> = { [CALL_HEADER]: id };
  for (const name of FORWARDED) if (headers[name] !== undefined) kept[name] = headers[name];
  return kept;
}
