/**
 * A connection on which HTTP/2 is spoken: PINGs, SETTINGS, and how it ends.
 *
 * Invariants:
 * - whatever HTTP/2 makes of the session: one that is over takes its socket with it, and a peer
 *   that has gone without a word is found out;
 * - a connection that ends says by GOAWAY which streams it takes, and takes none beyond them, so
 *   that a client can repeat the others and nothing is done twice.
 */
import { constants, type ServerHttp2Session } from 'node:http2';
import { constants as systemConstants } from 'node:os';
import type { TLSSocket } from 'node:tls';
import { Connection, type ConnectionParts, destroySoon } from './connection.ts';
import { LeakyBucket } from './leaky-bucket.ts';

/** What a socket says of a peer that is gone. */
const GONE: ReadonlySet<string> = new Set(['ECONNRESET', 'EPIPE', 'ETIMEDOUT']);
/** How often it is asked whether the peer has reset the connection. */
const RESET_LOOK_MS = 2_000;
const NO_PEER = -systemConstants.errno.ENOTCONN;
/** What the server sends to acknowledge a PING, and SETTINGS (RFC 9113, 4.1, 6.5 and 6.7). */
const PING_BYTES = 17;
const SETTINGS_BYTES = 9;
/**
 * More than what acknowledges one frame: a HEADERS frame of an answer with its trailers, or DATA.
 */
const SERVED_BYTES = 32;

/** Of Node's own of a socket, what asks the kernel. */
interface Handle {
  /** Returns 0, or a system error. */
  getpeername?(into: object): number;
}

/** Bounds what one HTTP/2 connection may do, and ends it in order. */
export class Http2Connection extends Connection {
  readonly #session: ServerHttp2Session;
  readonly #parts: ConnectionParts;
  /** The last stream that is taken. */
  #lastStream = Infinity;
  readonly #pings: LeakyBucket;
  /**
   * Bytes of acknowledgements that were asked for, and the most bytes beside them that were sent.
   */
  #acknowledged = 0;
  #served = 0;
  /** Bytes that had come when they were last looked at, and whether the peer was asked for more. */
  #heard = 0;
  #isAsked = false;

  constructor(session: ServerHttp2Session, parts: ConnectionParts) {
    super(parts);
    const { socket, limits } = parts;
    this.#session = session;
    this.#parts = parts;
    this.#pings = new LeakyBucket({ perSecond: 1, burst: limits.maxPings });
    const keepalive = setInterval(() => this.#lookForPeer(), limits.keepaliveMs).unref();
    const resets = setInterval(() => wasReset(socket) && socket.destroy(), RESET_LOOK_MS).unref();
    socket.once('close', () => {
      clearInterval(keepalive);
      clearInterval(resets);
    });
    takeSocketAlong(session, socket);
    session.on('error', (error: NodeJS.ErrnoException) => this.#failed(error));
    session.once('localSettings', () => this.settle());
    session.on('ping', () => this.#count('pings', PING_BYTES));
    session.on('remoteSettings', () => this.#count('settings', SETTINGS_BYTES));
  }

  /**
   * Whether a stream of this id is served: not beyond those that an ending connection has said it
   * takes.
   */
  override takes(stream: number): boolean {
    return stream <= this.#lastStream;
  }

  override callOpened(): void {
    super.callOpened();
    this.#pings.empty();
  }

  /**
   * Not by a first GOAWAY that takes every stream and a second one later (RFC 9113, 6.8): after any
   * GOAWAY that Node lets us send, nghttp2 answers no new stream, so calls begun between the two
   * would hang.
   */
  protected override sayGoodbye(): void {
    this.#session.close();
  }

  protected override sayWhy(text: string): void {
    this.#session.goaway(constants.NGHTTP2_ENHANCE_YOUR_CALM, this.#lastStream, Buffer.from(text));
  }

  /** Says whether the session is there to be ended. */
  protected override beginEnding(): boolean {
    if (this.isEnding) return false;
    this.#lastStream = this.#session.state.lastProcStreamID ?? 0;
    super.beginEnding();
    if (this.#session.destroyed) this.#parts.socket.destroy();
    return !this.#session.destroyed;
  }

  /**
   * HTTP/2 has ended the connection by itself: for what the peer sent, unless the peer is only
   * gone.
   */
  #failed({ code, message }: NodeJS.ErrnoException): void {
    if (code !== undefined && GONE.has(code)) return;
    this.#warn('a connection is ended: its peer violated HTTP/2', { cause: message });
  }

  /**
   * Counts what costs an acknowledgement and means no work. As gRFC A8 has it, the count begins
   * again when DATA or HEADERS were sent: clients measure by PINGs how fast they can be sent an
   * answer. What was sent is what the socket took beyond acknowledgements.
   */
  #count(what: 'pings' | 'settings', bytes: number): void {
    const { socket } = this.#parts;
    const served = socket.bytesWritten - this.#acknowledged;
    this.#acknowledged += bytes;
    if (served >= this.#served + SERVED_BYTES) {
      this.#served = served;
      this.#pings.empty();
    }
    if (this.#pings.overflows()) this.calm(what);
  }

  /**
   * Ends what HTTP/2 doesn't know to be over: a peer may be gone without a word, and a session that
   * it destroys may wait for its peer without end.
   */
  #lookForPeer(): void {
    const { socket } = this.#parts;
    if (this.#session.destroyed) {
      socket.destroy();
      return;
    }
    if (this.isEnding) return; // Within its time.
    const isQuiet = socket.bytesRead === this.#heard;
    this.#heard = socket.bytesRead;
    if (isQuiet && this.#isAsked) this.#isGone();
    else if (isQuiet && !this.#session.closed) this.#session.ping(() => {});
    this.#isAsked = isQuiet;
  }

  #isGone(): void {
    this.#warn('a connection is closed: its peer is silent, and answers no PING', {});
    this.#parts.socket.destroy();
  }

  #warn(message: string, more: object): void {
    const fields = { caller: this.certificate?.name, address: this.address, ...more };
    this.#parts.lines.warn({ message, fields, key: fields.caller ?? fields.address });
  }
}

/**
 * Has a session that is destroyed end its socket: HTTP/2 waits for writes first, which a peer that
 * is gone never takes.
 */
function takeSocketAlong(session: ServerHttp2Session, socket: TLSSocket): void {
  const destroy = session.destroy.bind(session);
  session.destroy = (...reasons) => {
    destroy(...reasons);
    destroySoon(socket);
  };
}

/**
 * Whether the peer has reset the connection, which Node may not know: where a write of TLS fails,
 * nothing tells HTTP/2, its next one is never finished, and it reads nothing until it is. So the
 * kernel is asked, which knows no peer of a connection that was reset; `remoteAddress` is what it
 * once said.
 */
function wasReset(socket: TLSSocket): boolean {
  const { _handle } = socket as { readonly _handle?: Handle | null };
  return _handle?.getpeername?.({}) === NO_PEER;
}
