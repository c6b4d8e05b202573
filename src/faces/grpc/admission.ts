/**
 * Admission: every HTTP/2 stream before grpc-js sees it, which of them may become a call, and for
 * how long.
 *
 * Invariants:
 * - a stream has an 'error' listener before anything else is done with it, whatever became of it by
 *   then;
 * - a call is served only through here, and so has an id and a deadline from its first header on,
 *   and a caller before any of it goes further (`access/identity.ts` says who it is), whichever
 *   method it is of;
 * - work is counted from its first header until its last effect, not until the caller lost
 *   interest, and in the caller's share (`budgets.ts`), in that of the connection until there is a
 *   caller;
 * - what a peer resets is counted against its connection.
 * Knows no method but by its path.
 */
import { constants, type IncomingHttpHeaders, type ServerHttp2Stream } from 'node:http2';
import type { Metadata } from '@grpc/grpc-js';
import type { Logger } from 'pino';
import type { Caller, Identity } from '../../access/identity.ts';
import { proofOf } from '../../access/proofs.ts';
import type { AdmittedCall, RefusedCall } from '../../calls/arrivals.ts';
import type { Budgets } from '../../calls/budgets.ts';
import type { Shares } from '../../calls/shares.ts';
import { KeywardError, toKeywardError } from '../../errors.ts';
import type { Connection, Connections } from '../transport/connections.ts';
import { CallStream } from './call-stream.ts';
import {
  CALL_HEADER,
  forwarded,
  type HeaderLimits,
  readHeaders,
  refusalOf,
  timeoutMs,
} from './request-headers.ts';

/** What callers may ask of the server at once. */
export interface AdmissionLimits extends HeaderLimits {
  /** The largest message that any method takes, in bytes. */
  readonly maxMessageBytes: number;
  /**
   * The deadline of a call that brings none, and the longest that any may bring, in milliseconds.
   */
  readonly deadlineMs: number;
}

export interface AdmissionParts {
  readonly limits: AdmissionLimits;
  /** What all callers have of the process, by whichever face. */
  readonly budgets: Budgets;
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

/** One call before it is let in. */
interface Arrival {
  readonly http2Stream: ServerHttp2Stream;
  readonly headers: IncomingHttpHeaders;
  readonly authorizations: readonly string[];
  readonly connection: Connection;
  readonly dispatch: Dispatch;
}

const LONG_LIVED = /^\/grpc\.health\.v1\.Health\/Watch$/;
/** What uses keys; the rest is health, audit and administration. */
const KEY_USE = /^\/keyward\.v1\.(EncryptionService|DataKeyService)\//;
/** Longer than Node's timers go; nobody waits for that. */
const LONGEST_TIMER_MS = 2 ** 31 - 1 - 60_000;
/** Decides which streams become calls. */
export class Admission {
  readonly #parts: AdmissionParts;
  readonly #budgets: Budgets;
  /** Streams that go on, by their id, with how to ask again who makes the call. */
  readonly #admitted = new Map<
    string,
    { readonly stream: CallStream; identify: AdmittedCall['identify'] }
  >();
  /**
   * Calls whose request hasn't arrived whole, the oldest first: they give way to others, since they
   * may never.
   */
  readonly #arriving = new Set<CallStream>();

  constructor(parts: AdmissionParts) {
    this.#parts = parts;
    this.#budgets = parts.budgets;
  }

  /**
   * Returns the call whose headers these are; undefined if it didn't come through here, or is over.
   */
  take(metadata: Metadata): AdmittedCall | undefined {
    const { stream, identify } = this.#admitted.get(String(metadata.get(CALL_HEADER)[0])) ?? {};
    const { caller } = stream ?? {};
    if (stream === undefined || identify === undefined || caller === undefined) return undefined;
    stream.isTaken = true;
    this.#arriving.delete(stream);
    const { id, startedAt, deadline, origin } = stream;
    return {
      ...{ id, caller, identify, startedAt, deadline, ...origin },
      decode: (length, decode) => this.#budgets.decode(stream.principal, length, decode),
      hold: () => stream.hold(),
    };
  }

  /** Returns the listener to put before grpc-js's. */
  before(dispatch: Dispatch, connections: Connections): StreamListener {
    return (http2Stream, headers, _flags, rawHeaders) => {
      http2Stream.on('error', () => {}); // 'close' follows, and is enough.
      const connection = connections.of(http2Stream);
      if (connection === undefined) {
        http2Stream.close(constants.NGHTTP2_REFUSED_STREAM);
        return;
      }
      // Reset by the bytes that came with its headers: it costs no more.
      if (http2Stream.closed || http2Stream.destroyed) connection.streamReset(false);
      else this.#admit({ http2Stream, headers, connection, dispatch }, rawHeaders);
    };
  }

  #admit(arrival: Omit<Arrival, 'authorizations'>, rawHeaders: readonly string[]): void {
    const { http2Stream, headers, connection } = arrival;
    const { limits, log } = this.#parts;
    const request = readHeaders(headers, rawHeaders);
    const { path, authorizations } = request;
    const { maxMessageBytes } = limits;
    const stream = new CallStream({ stream: http2Stream, path, connection, maxMessageBytes, log });
    connection.streamOpened();
    http2Stream.once('close', () => this.#closed(stream, connection));
    const refusal = refusalOf(request, limits);
    if (refusal !== undefined) {
      stream.fail(refusal.error, refusal.httpStatus);
      return;
    }
    const deadlineMs = this.#deadlineMs(headers, path);
    if (!this.#hasRoom(stream, connection.isProven) || this.#budgets.isInVain(path, deadlineMs)) {
      stream.fail(new KeywardError('SERVER_BUSY'));
      return;
    }
    stream.occupy({ places: this.#placesFor(path), requestBytes: this.#budgets.requestBytes });
    if (!this.#isLongLived(path)) this.#arriving.add(stream);
    if (Number.isFinite(deadlineMs)) stream.expireAfter(deadlineMs);
    this.#identify(stream, { ...arrival, authorizations });
  }

  /** Has the call go on once it is known who makes it. */
  #identify(stream: CallStream, arrival: Arrival): void {
    const { connection, authorizations } = arrival;
    const identify = () =>
      this.#parts.identity.callerOf(proofOf(connection.certificate, authorizations));
    const refuse = async (thrown: unknown) => {
      const error = toKeywardError(thrown);
      const { id, method, startedAt, origin } = stream;
      const call = { id, method, callerName: connection.certificate?.name, startedAt, ...origin };
      stream.fail(await this.#parts.recordRefusal(error, call));
    };
    const goOn = (caller: Caller) => {
      connection.proven(caller.name);
      stream.caller = caller;
      // It may be over: what waits to be verified gives way to others, too.
      if (stream.isOver) return;
      if (caller.name !== stream.principal) {
        if (!this.#placesFor(stream.path).allows(caller.name)) {
          this.#turnOut(stream);
          return;
        }
        stream.moveTo(caller.name);
      }
      this.#admitted.set(stream.id, { stream, identify });
      this.#pass(stream, arrival);
    };
    try {
      const caller = identify();
      if (caller instanceof Promise) caller.then(goOn).catch(refuse);
      else goOn(caller);
    } catch (error) {
      void refuse(error);
    }
  }

  /** Gives it to grpc-js, and looks at its request as it comes. */
  #pass(stream: CallStream, { http2Stream, headers, dispatch }: Arrival): void {
    dispatch(http2Stream, forwarded(headers, stream.id));
    // Before grpc-js's own.
    http2Stream.prependListener('data', (chunk: Buffer) => {
      if (stream.received(chunk)) {
        this.#arriving.delete(stream);
        stream.fail(new KeywardError('COMPRESSION_NOT_SUPPORTED'));
      } else if (this.#budgets.requestBytes.isExceededBy(stream.principal)) {
        this.#turnOut(this.#largestOf(stream));
      }
    });
  }

  #closed(stream: CallStream, connection: Connection): void {
    this.#admitted.delete(stream.id);
    this.#arriving.delete(stream);
    connection.streamClosed();
    if (stream.isTaken && !this.#isLongLived(stream.path))
      this.#budgets.finished(stream.path, stream.elapsedMs, stream.ranOut);
    if (stream.wasReset) connection.streamReset(stream.isTaken);
  }

  /**
   * Makes room, where there is none, at the cost of the principal's own call that has been arriving
   * for longest, else of one that has no caller yet; a connection that has shown nothing can have
   * no other's place.
   */
  #hasRoom(stream: CallStream, isProven: boolean): boolean {
    const { path, principal } = stream;
    const places = this.#placesFor(path);
    if (places.allows(principal)) return true;
    if (this.#isLongLived(path)) return false;
    const arriving = this.#arriving.values();
    const oldest = arriving.find(
      (each) =>
        this.#placesFor(each.path) === places &&
        (each.principal === principal || (isProven && each.caller === undefined)),
    );
    if (oldest === undefined) return false;
    this.#turnOut(oldest);
    return true;
  }

  #placesFor(path: string): Shares {
    if (LONG_LIVED.test(path)) return this.#budgets.watches;
    if (this.#parts.streams.has(path)) return this.#budgets.streams;
    return KEY_USE.test(path) ? this.#budgets.keyUses : this.#budgets.otherCalls;
  }

  /** Infinity for a stream that brings no deadline; gRPC's own ones heed none. */
  #deadlineMs(headers: IncomingHttpHeaders, path: string): number {
    if (LONG_LIVED.test(path)) return Infinity;
    const given = timeoutMs(headers);
    if (this.#parts.streams.has(path)) return given > LONGEST_TIMER_MS ? Infinity : given;
    return Math.min(this.#parts.limits.deadlineMs, given);
  }

  #isLongLived(path: string): boolean {
    return LONG_LIVED.test(path) || this.#parts.streams.has(path);
  }

  /** The same principal's call that has most bytes of a request that hasn't arrived whole. */
  #largestOf(stream: CallStream): CallStream {
    const { principal } = stream;
    let largest = stream;
    for (const each of this.#arriving)
      if (each.principal === principal && each.requestBytes > largest.requestBytes) largest = each;
    return largest;
  }

  #turnOut(stream: CallStream): void {
    this.#arriving.delete(stream);
    stream.fail(new KeywardError('SERVER_BUSY'));
  }
}
