/**
 * How the server's side of an HTTP/2 stream ends.
 *
 * Invariant: what is closed here is gone soon after, whatever the peer reads or sends.
 */
import { constants, type ServerHttp2Stream } from 'node:http2';
import { BACKSTOP_MS } from './arriving-call.ts';

/** Ends one stream, and knows which side did. */
export class Http2Ending {
  readonly #stream: ServerHttp2Stream;
  #isClosedHere = false;

  constructor(stream: ServerHttp2Stream) {
    this.#stream = stream;
  }

  /** Whether the stream has ended, or is about to. */
  get isOver(): boolean {
    return this.#stream.closed || this.#stream.destroyed;
  }

  /** Whether the peer ended it by a reset, rather than this server. */
  get wasReset(): boolean {
    return !this.#isClosedHere && this.#stream.rstCode !== constants.NGHTTP2_NO_ERROR;
  }

  /** Closes the stream with this code. */
  close(code: number): void {
    if (this.#isClosedHere || this.#stream.destroyed) return;
    this.#isClosedHere = true;
    this.#stream.close(code);
    // A peer that reads nothing would have it wait to be closed for ever.
    const timer = setTimeout(() => this.#stream.destroy(), BACKSTOP_MS);
    this.#stream.once('close', () => clearTimeout(timer));
  }
}
