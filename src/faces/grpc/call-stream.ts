/**
 * One HTTP/2 stream on its way to being a call of gRPC's, and how it is answered.
 *
 * Invariant: every answer names the call's id, and what grpc-js answers without a reason leaves
 * with one.
 */
import { constants, type OutgoingHttpHeaders, type ServerHttp2Stream } from 'node:http2';
import type { KeywardError } from '../../errors.ts';
import { ArrivingCall, type ArrivingCallParts } from '../transport/arriving-call.ts';
import { Http2Ending } from '../transport/http2-ending.ts';
import { framed, MessageFrames } from './message-frames.ts';
import { bareError, errorHeaders } from './status.ts';

/** What a stream is made of. */
export interface CallStreamParts extends ArrivingCallParts {
  readonly stream: ServerHttp2Stream;
  /** The largest message that any method takes, for the error that says so. */
  readonly maxMessageBytes: number;
}

const MESSAGE_HEADERS = {
  ':status': 200,
  'content-type': 'application/grpc+proto',
  'grpc-accept-encoding': 'identity',
};
const STATUS_OK = { 'grpc-status': '0', 'grpc-message': 'OK' };

/** Holds one HTTP/2 stream on its way to being a call. */
export class CallStream extends ArrivingCall {
  override readonly face = 'grpc';
  readonly #stream: ServerHttp2Stream;
  readonly #ending: Http2Ending;
  readonly #maxMessageBytes: number;
  readonly #frames = new MessageFrames();

  constructor({ stream, maxMessageBytes, ...parts }: CallStreamParts) {
    super(parts);
    this.#stream = stream;
    this.#ending = new Http2Ending(stream);
    this.#maxMessageBytes = maxMessageBytes;
  }

  /** Has what grpc-js answers on the stream name the call, and its errors their reasons. */
  explainAnswers(): void {
    const stream = this.#stream;
    const respond = stream.respond.bind(stream);
    stream.respond = (headers, options) => {
      respond(this.#explained(headers as OutgoingHttpHeaders), options);
      // An answer before its request's end: the rest of the request is of no use to anyone.
      if (options?.endStream) setImmediate(() => this.#ending.close(constants.NGHTTP2_NO_ERROR));
    };
  }

  override get isOver(): boolean {
    return this.#ending.isOver;
  }

  override get wasReset(): boolean {
    return this.#ending.wasReset;
  }

  override onClose(listener: () => void): void {
    this.#stream.once('close', listener);
  }

  override skipRequest(piece: (bytes: Buffer) => void): void {
    this.#stream.on('data', piece);
  }

  /** Returns whether a message begins in these bytes of its request that is not plain. */
  hasCompressed(chunk: Buffer): boolean {
    return this.#frames.hasCompressed(chunk);
  }

  override get isAnswering(): boolean {
    return this.#stream.headersSent;
  }

  /** Answers a call that has one answer: with an error, or with a message. */
  finish(error: KeywardError | undefined, answer: Buffer | null): void {
    if (this.isOver || this.isAnswering) return;
    if (error !== undefined) {
      // It has no more to be read, so that nothing is to be closed.
      this.#stream.respond(this.#errorHeaders(error), { endStream: true });
      return;
    }
    if (answer === null) throw new Error('a call is answered with neither message nor error');
    const stream = this.#stream;
    stream.respond({ ...MESSAGE_HEADERS, ...this.answerHeaders }, { waitForTrailers: true });
    stream.once('wantTrailers', () => stream.sendTrailers(STATUS_OK));
    stream.end(framed(answer));
  }

  protected override answerError(error: KeywardError, httpStatus = 200): void {
    const headers = { ...this.#errorHeaders(error), ':status': httpStatus };
    this.#stream.respond(headers, { endStream: true });
    this.#ending.close(constants.NGHTTP2_NO_ERROR);
  }

  protected override cut(): void {
    this.#ending.close(constants.NGHTTP2_CANCEL);
  }

  #errorHeaders(error: KeywardError): OutgoingHttpHeaders {
    return { ...errorHeaders(error, this), ...this.answerHeaders };
  }

  /** What grpc-js answers by itself, with a reason; what it claims to accept, made true. */
  #explained(headers: OutgoingHttpHeaders): OutgoingHttpHeaders {
    const error = bareError(headers, {
      maxMessageBytes: this.#maxMessageBytes,
      isPartial: this.#frames.isPartial,
    });
    if (error !== undefined) {
      this.noteRefusal(error);
      return errorHeaders(error, this);
    }
    const named = { ...headers, ...this.answerHeaders };
    return 'grpc-accept-encoding' in headers
      ? { ...named, 'grpc-accept-encoding': 'identity' }
      : named;
  }
}
