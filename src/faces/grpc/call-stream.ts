/**
 * One HTTP/2 stream on its way to being a call of gRPC's.
 *
 * Invariant: every answer names the call's id, and what grpc-js answers without a reason leaves
 * with one.
 */
import { constants, type OutgoingHttpHeaders, type ServerHttp2Stream } from 'node:http2';
import type { KeywardError } from '../../errors.ts';
import { ArrivingCall, type ArrivingCallParts } from '../transport/arriving-call.ts';
import { Http2Ending } from '../transport/http2-ending.ts';
import { MessageFrames } from './message-frames.ts';
import { bareError, errorHeaders } from './status.ts';

/** What a stream is made of. */
export interface CallStreamParts extends ArrivingCallParts {
  readonly stream: ServerHttp2Stream;
  /** The largest message that any method takes, for the error that says so. */
  readonly maxMessageBytes: number;
}

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

  /** Returns whether a message begins in these bytes of its request that is not plain. */
  hasCompressed(chunk: Buffer): boolean {
    return this.#frames.hasCompressed(chunk);
  }

  protected override get isAnswering(): boolean {
    return this.#stream.headersSent;
  }

  protected override answerError(error: KeywardError, httpStatus = 200): void {
    const headers = { ...errorHeaders(error, this), ':status': httpStatus };
    this.#stream.respond(headers, { endStream: true });
    this.#ending.close(constants.NGHTTP2_NO_ERROR);
  }

  protected override cut(): void {
    this.#ending.close(constants.NGHTTP2_CANCEL);
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
