/**
 * One HTTP/2 stream on its way to being a call: its id, its deadline, what it holds of the budgets,
 * its answer if it is not let in.
 *
 * Invariants:
 * - what it holds is given back once, when the stream is closed and nothing works for it any more;
 * - it is closed by its deadline, be it that its request never ends or that its answer is never
 *   read;
 * - every answer names the call's id, and what grpc-js answers without a reason leaves with one.
 * Knows no budget's rule and no method.
 */
import { randomUUID } from 'node:crypto';
import { constants, type OutgoingHttpHeaders, type ServerHttp2Stream } from 'node:http2';
import type { Logger } from 'pino';
import type { Caller } from '../../access/identity.ts';
import { millisecondsLeft, monotonicNow } from '../../call.ts';
import type { Shares } from '../../calls/shares.ts';
import { KeywardError } from '../../errors.ts';
import type { Connection } from '../transport/connections.ts';
import { MessageFrames } from './message-frames.ts';
import { bareError, errorHeaders, REQUEST_ID_HEADER } from './status.ts';

/** What a stream is made of. */
export interface CallStreamParts {
  readonly stream: ServerHttp2Stream;
  readonly path: string;
  readonly connection: Connection;
  /** The largest message that any method takes, for the error that says so. */
  readonly maxMessageBytes: number;
  readonly log: Logger;
}

/** The pools that a stream holds something of. */
export interface Held {
  /** Of calls, or of open streams: one. */
  readonly places: Shares;
  readonly requestBytes: Shares;
}

/**
 * The wrapper round the call answers at the deadline; this much later what is left of the stream is
 * closed.
 */
const BACKSTOP_MS = 250;
/** A caller that gives up this late into the time that it gave has seen its deadline pass. */
const RAN_OUT = 0.9;

/** Holds one HTTP/2 stream on its way to being a call. */
export class CallStream {
  readonly id = randomUUID();
  /** Set when it is known. */
  caller: Caller | undefined;
  /** In `monotonicNow`'s milliseconds. */
  readonly startedAt = monotonicNow();
  deadline = Infinity;
  /** The wrapper has it, and will answer and log it. */
  isTaken = false;
  readonly path: string;
  readonly #stream: ServerHttp2Stream;
  readonly #connection: Connection;
  readonly #maxMessageBytes: number;
  readonly #log: Logger;
  #principal: string;
  #held: Held | undefined;
  readonly #frames = new MessageFrames();
  #bytes = 0;
  #holds = 0;
  #isClosedHere = false;

  constructor({ stream, path, connection, maxMessageBytes, log }: CallStreamParts) {
    this.#stream = stream;
    this.path = path;
    this.#connection = connection;
    this.#principal = connection.principal;
    this.#maxMessageBytes = maxMessageBytes;
    this.#log = log;
    const respond = stream.respond.bind(stream);
    stream.respond = (headers, options) => {
      respond(this.#explained(headers as OutgoingHttpHeaders), options);
      // An answer before its request's end: the rest of the request is of no use to anyone.
      if (options?.endStream) setImmediate(() => this.#close(constants.NGHTTP2_NO_ERROR));
    };
  }

  /** In whose share it is: its caller's, or its connection's until there is a caller. */
  get principal(): string {
    return this.#principal;
  }

  /** Bytes of its request that were received and are not given back. */
  get requestBytes(): number {
    return this.#bytes;
  }

  /** Whether the stream has ended, or is about to. */
  get isOver(): boolean {
    return this.#stream.closed || this.#stream.destroyed;
  }

  /** Whether the peer ended it by a reset, rather than this server by an answer. */
  get wasReset(): boolean {
    return !this.#isClosedHere && this.#stream.rstCode !== constants.NGHTTP2_NO_ERROR;
  }

  /** Milliseconds since its first header. */
  get elapsedMs(): number {
    return monotonicNow() - this.startedAt;
  }

  /** Whether its time has passed, or so nearly that its caller may have given it up. */
  get ranOut(): boolean {
    return this.elapsedMs >= RAN_OUT * (this.deadline - this.startedAt);
  }

  /** A caller's text until a method of that name is found. */
  get method(): string {
    return /^\/[\w.]{1,200}\/\w{1,100}$/.test(this.path) ? this.path.slice(1) : 'unknown';
  }

  /** Where it came from. */
  get origin(): { readonly certificate: string | undefined; readonly address: string | undefined } {
    const { certificate, address } = this.#connection;
    return { certificate: certificate?.thumbprint, address };
  }

  /** Takes its place, until it is closed and nothing works for it any more. */
  occupy(held: Held): void {
    this.#held = held;
    held.places.take(this.#principal);
    this.#stream.once('close', this.hold());
  }

  /** Counts it as another principal's from here on. */
  moveTo(principal: string): void {
    if (principal === this.#principal || this.#held === undefined) return;
    const { places, requestBytes } = this.#held;
    places.give(this.#principal);
    places.take(principal);
    requestBytes.give(this.#principal, this.#bytes);
    requestBytes.take(principal, this.#bytes);
    this.#principal = principal;
  }

  /** Counts bytes of its request. Returns whether a message begins in them that is not plain. */
  received(chunk: Buffer): boolean {
    this.#bytes += chunk.length;
    this.#held?.requestBytes.take(this.#principal, chunk.length);
    return this.#frames.hasCompressed(chunk);
  }

  /**
   * Says that work has begun that may outlive the stream; the returned function, called once, that
   * it is over.
   */
  hold(): () => void {
    this.#holds += 1;
    return () => {
      this.#holds -= 1;
      if (this.#holds === 0) this.#giveBack();
    };
  }

  /** Closes the stream when its time is up, answered or not. */
  expireAfter(deadlineMs: number): void {
    this.deadline = this.startedAt + deadlineMs;
    const timer = setTimeout(
      () => this.fail(new KeywardError('DEADLINE_EXCEEDED')),
      millisecondsLeft(this.deadline) + BACKSTOP_MS,
    );
    this.#stream.once('close', () => clearTimeout(timer));
  }

  /** Answers with an error if nothing was answered, and closes the stream. */
  fail(error: KeywardError, httpStatus = 200): void {
    const stream = this.#stream;
    if (this.isOver) return;
    if (stream.headersSent) {
      this.#close(constants.NGHTTP2_CANCEL);
      return;
    }
    if (!this.isTaken) {
      this.#writeLogLine(error);
      this.#giveBackBytes();
    }
    stream.respond({ ...errorHeaders(error, this.id), ':status': httpStatus }, { endStream: true });
    this.#close(constants.NGHTTP2_NO_ERROR);
  }

  #close(code: number): void {
    if (this.#isClosedHere || this.#stream.destroyed) return;
    this.#isClosedHere = true;
    this.#stream.close(code);
    // A peer that reads nothing would have it wait to be closed for ever.
    const timer = setTimeout(() => this.#stream.destroy(), BACKSTOP_MS);
    this.#stream.once('close', () => clearTimeout(timer));
  }

  #giveBack(): void {
    this.#giveBackBytes();
    this.#held?.places.give(this.#principal);
    this.#held = undefined;
  }

  #giveBackBytes(): void {
    this.#held?.requestBytes.give(this.#principal, this.#bytes);
    this.#bytes = 0;
  }

  /** What grpc-js answers by itself, with a reason; what it claims to accept, made true. */
  #explained(headers: OutgoingHttpHeaders): OutgoingHttpHeaders {
    const error = bareError(headers, {
      maxMessageBytes: this.#maxMessageBytes,
      isPartial: this.#frames.isPartial,
    });
    if (error !== undefined) {
      this.#writeLogLine(error);
      return errorHeaders(error, this.id);
    }
    const named = { ...headers, [REQUEST_ID_HEADER]: this.id };
    return 'grpc-accept-encoding' in headers
      ? { ...named, 'grpc-accept-encoding': 'identity' }
      : named;
  }

  #writeLogLine(error: KeywardError): void {
    this.#log.info(
      {
        requestId: this.id,
        method: this.method,
        caller: this.caller?.name ?? this.#connection.certificate?.name,
        token: this.caller?.token,
        outcome: error.reason,
        durationMs: Math.round(this.elapsedMs * 1000) / 1000,
        ...causeOf(error),
      },
      'call refused',
    );
  }
}

/** Our own words for what we refuse; of what we didn't expect all there is. */
function causeOf({ reason, cause }: KeywardError): object {
  if (cause === undefined) return {};
  return reason === 'INTERNAL' ? { err: cause } : { cause: String(cause) };
}
