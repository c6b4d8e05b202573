/**
 * One request and its answer, by HTTP/2 or HTTP/1.1, as `http-call.ts` sees them.
 *
 * Invariants:
 * - every request and response has an 'error' listener before anything else is done with it;
 * - a body that was cut off never looks whole;
 * - once an answer has ended, nothing more of the request is read.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import {
  constants,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
  type ServerHttp2Stream,
} from 'node:http2';
import type { Http1Connection } from '../transport/http1-connection.ts';
import { Http2Ending } from '../transport/http2-ending.ts';

/** What is done with a body as it comes. */
export interface BodyReader {
  /** Called with each piece. */
  piece(bytes: Buffer): void;
  /** Called when the body is whole. */
  whole(): void;
}

/** One request and its answer. */
export interface Wire {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  /** Names and values in turns, as they came. */
  readonly rawHeaders: readonly string[];
  /** Whether it has ended, or is about to. */
  readonly isOver: boolean;
  /** Whether the peer ended it by a reset. */
  readonly wasReset: boolean;
  /** Whether an answer has begun. */
  readonly isAnswering: boolean;
  /** Has the listener called once when it has ended. */
  onClose(listener: () => void): void;
  /** Begins to read the body. */
  read(reader: BodyReader): void;
  /** Answers whole, and ends. */
  answer(status: number, headers: OutgoingHttpHeaders, body: Buffer): void;
  /** Begins an answer of many pieces. */
  begin(status: number, headers: OutgoingHttpHeaders): void;
  /** Sends a piece. Returns, where there is no room for another, what to wait for. */
  send(piece: Buffer): Promise<void> | undefined;
  /** Sends the last piece, and ends. */
  end(piece: Buffer): void;
  /** Ends in the middle of an answer. */
  cut(): void;
}

const IGNORE = () => {};
/** How long the end of an answer may take to be received while more of its request comes. */
const FAREWELL_MS = 100;

/** By a stream of HTTP/2. */
export class Http2Wire implements Wire {
  readonly headers: IncomingHttpHeaders;
  readonly rawHeaders: readonly string[];
  readonly #stream: ServerHttp2Stream;
  readonly #ending: Http2Ending;

  constructor(
    stream: ServerHttp2Stream,
    headers: IncomingHttpHeaders,
    rawHeaders: readonly string[],
  ) {
    this.#stream = stream;
    this.#ending = new Http2Ending(stream);
    this.headers = headers;
    this.rawHeaders = rawHeaders;
  }

  get method(): string {
    return String(this.headers[':method']);
  }

  get path(): string {
    return String(this.headers[':path']);
  }

  get isOver(): boolean {
    return this.#ending.isOver;
  }

  get wasReset(): boolean {
    return this.#ending.wasReset;
  }

  get isAnswering(): boolean {
    return this.#stream.headersSent;
  }

  onClose(listener: () => void): void {
    this.#stream.once('close', listener);
  }

  read({ piece, whole }: BodyReader): void {
    this.#stream.on('data', piece);
    // A stream that was reset, or whose socket is gone, ends too: with half of its body.
    this.#stream.once('end', () => {
      if (!this.#stream.aborted && !this.isOver) whole();
    });
    if (this.headers.expect === '100-continue')
      this.#stream.additionalHeaders({ ':status': constants.HTTP_STATUS_CONTINUE });
  }

  answer(status: number, headers: OutgoingHttpHeaders, body: Buffer): void {
    if (this.isOver) return;
    this.begin(status, { ...headers, 'content-length': body.length });
    this.end(body);
  }

  begin(status: number, headers: OutgoingHttpHeaders): void {
    if (!this.isOver) this.#stream.respond({ ':status': status, ...headers });
  }

  send(piece: Buffer): Promise<void> | undefined {
    if (this.isOver || this.#stream.write(piece)) return undefined;
    return drained(this.#stream);
  }

  end(piece: Buffer): void {
    if (this.isOver) return;
    this.#stream.end(piece, () =>
      // What is left of its request is of no use to anyone.
      setImmediate(() => this.#ending.close(constants.NGHTTP2_NO_ERROR)),
    );
  }

  cut(): void {
    this.#ending.close(constants.NGHTTP2_CANCEL);
  }
}

/** By an exchange of HTTP/1.1. */
export class Http1Wire implements Wire {
  readonly wasReset = false;
  readonly #request: IncomingMessage;
  readonly #response: ServerResponse;
  readonly #connection: Http1Connection;
  readonly #isExpected: boolean;
  #isClosed = false;

  /** `isExpected`: the client sends the body once it is told to (RFC 9110, 10.1.1). */
  constructor(
    request: IncomingMessage,
    response: ServerResponse,
    { connection, isExpected }: { connection: Http1Connection; isExpected: boolean },
  ) {
    request.on('error', IGNORE); // The response closes, too.
    response.on('error', IGNORE);
    this.#request = request;
    this.#response = response;
    this.#connection = connection;
    this.#isExpected = isExpected;
    this.onClose(() => {
      this.#isClosed = true;
    });
  }

  get method(): string {
    return String(this.#request.method);
  }

  get path(): string {
    return String(this.#request.url);
  }

  get headers(): IncomingHttpHeaders {
    return this.#request.headers;
  }

  get rawHeaders(): readonly string[] {
    return this.#request.rawHeaders;
  }

  get isOver(): boolean {
    return this.#isClosed || this.#request.socket.destroyed;
  }

  get isAnswering(): boolean {
    return this.#response.headersSent;
  }

  onClose(listener: () => void): void {
    this.#response.once('close', listener);
  }

  read({ piece, whole }: BodyReader): void {
    this.#request.on('data', piece);
    this.#request.once('end', () => {
      if (this.#request.complete && !this.isOver) whole();
    });
    if (this.#isExpected) this.#response.writeContinue();
  }

  answer(status: number, headers: OutgoingHttpHeaders, body: Buffer): void {
    if (this.isOver) return;
    this.begin(status, { ...headers, 'content-length': body.length });
    this.end(body);
  }

  begin(status: number, headers: OutgoingHttpHeaders): void {
    if (this.isOver) return;
    const isLast = !this.#request.complete || this.#connection.isEnding;
    if (!this.#request.complete) this.#leaveUnread();
    this.#response.writeHead(status, { ...headers, ...(isLast && { connection: 'close' }) });
  }

  send(piece: Buffer): Promise<void> | undefined {
    if (this.isOver || this.#response.write(piece)) return undefined;
    return drained(this.#response);
  }

  end(piece: Buffer): void {
    if (!this.isOver) this.#response.end(piece);
  }

  cut(): void {
    this.#request.socket.destroy();
  }

  /**
   * Has the connection end with the answer: kept alive, it would be read on, uncounted; closed with
   * something unread, as Node does, it would take back the answer.
   */
  #leaveUnread(): void {
    const { socket } = this.#request;
    this.#request.removeAllListeners('data');
    socket.destroySoon = () => {
      socket.end();
      this.#request.resume();
      setTimeout(() => socket.destroy(), FAREWELL_MS).unref();
    };
  }
}

/** Returns once there is room for more, or nobody reads it any more. */
function drained(stream: ServerHttp2Stream | ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      stream.off('drain', done);
      stream.off('close', done);
      resolve();
    };
    stream.once('drain', done);
    stream.once('close', done);
  });
}
