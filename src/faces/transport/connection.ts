/**
 * One connection whose peer may stay: what is known of the peer, and when and how the connection
 * ends.
 *
 * Invariants:
 * - its limits are kept by timers of its own and end at its socket, whatever HTTP/2 makes of the
 *   session: a session that is over takes its socket with it, and a peer that has gone without a
 *   word is found out;
 * - a connection that ends says by GOAWAY which streams it takes, and takes none beyond them, so
 *   that a client can repeat the others and nothing is done twice.
 *
 * Knows no call and no other connection.
 */
import { constants, type ServerHttp2Session } from 'node:http2';
import type { TLSSocket } from 'node:tls';
import type { ClientCertificate } from '../../access/certificates.ts';
import { LeakyBucket } from './leaky-bucket.ts';
import type { RareLines } from './rare-lines.ts';

/** What a peer may do with one connection. */
export interface ConnectionLimits {
  /** A connection without a call for so long is closed. */
  readonly idleMs: number;
  /**
   * A connection is closed after so long, a tenth more or less, so that certificates and replicas
   * come round.
   */
  readonly ageMs: number;
  /**
   * A peer from which nothing came for so long is asked by a PING; if nothing comes for as long
   * again, it is gone.
   */
  readonly keepaliveMs: number;
  /** PINGs and SETTINGS that may come while nothing is served; one is forgiven each second. */
  readonly maxPings: number;
  /**
   * Streams that a peer may reset each second (CVE-2023-44487); {@link RESETS} says how often,
   * when.
   */
  readonly maxResetsPerSecond: number;
  /** How long a connection that is being closed may take over it, its calls included. */
  readonly lingerMs: number;
}

/** What a connection is made of. */
export interface ConnectionParts {
  readonly session: ServerHttp2Session;
  readonly socket: TLSSocket;
  readonly certificate: ClientCertificate | undefined;
  /** In whose share its calls are until they have callers. */
  readonly principal: string;
  readonly limits: ConnectionLimits;
  readonly lines: RareLines;
  /**
   * Called once, when the peer has shown that it speaks HTTP/2 and listens: SETTINGS acknowledged,
   * or a call begun.
   */
  readonly onSettled: () => void;
  /** Called when a call has shown who is at the other end. */
  readonly onProven: (caller: string) => void;
  /** Called once, when the connection begins to end. */
  readonly onEnding: () => void;
}

/**
 * How many times the limit a peer may reset streams each second, and for how many seconds' worth at
 * once.
 *
 * A stranger: one that has not shown who it is. Early: by one that has, before its call began,
 * which keeps the event loop busy for nothing, but happens to honest callers while the server is
 * slow. Let in: calls whose deadline may just have passed; of those 64 can be in flight with a
 * deadline of 20 ms.
 */
const RESETS = {
  stranger: { times: 1, seconds: 10 },
  early: { times: 8, seconds: 1 },
  letIn: { times: 32, seconds: 10 },
} as const;
const NOTICE_MS = 100;
/** What a socket says of a peer that is gone. */
const GONE: ReadonlySet<string> = new Set(['ECONNRESET', 'EPIPE', 'ETIMEDOUT']);
const TOO_MANY = {
  pings: 'too many PINGs',
  settings: 'too many SETTINGS',
  resets: 'too many stream resets',
} as const;
/** What the server sends to acknowledge a PING, and SETTINGS (RFC 9113, 4.1, 6.5 and 6.7). */
const PING_BYTES = 17;
const SETTINGS_BYTES = 9;
/**
 * More than what acknowledges one frame: a HEADERS frame of an answer with its trailers, or DATA.
 */
const SERVED_BYTES = 32;

/** Bounds what one connection may do, and ends it in order. */
export class Connection {
  /** The client's; it has verified. */
  readonly certificate: ClientCertificate | undefined;
  /** The peer's IP address. */
  readonly address: string | undefined;
  readonly #parts: ConnectionParts;
  readonly #idle: NodeJS.Timeout;
  readonly #timers: readonly NodeJS.Timeout[];
  #isSettled = false;
  #isProven: boolean;
  #isEnding = false;
  /** The last stream that is taken. */
  #lastStream = Infinity;
  #streams = 0;
  readonly #pings: LeakyBucket;
  readonly #resets = new Map<keyof typeof RESETS, LeakyBucket>();
  /**
   * Bytes of acknowledgements that were asked for, and the most bytes beside them that were sent.
   */
  #acknowledged = 0;
  #served = 0;
  /** Bytes that had come when they were last looked at, and whether the peer was asked for more. */
  #heard = 0;
  #isAsked = false;

  constructor(parts: ConnectionParts) {
    const { session, socket, certificate, limits } = parts;
    this.#parts = parts;
    this.certificate = certificate;
    this.address = socket.remoteAddress;
    this.#isProven = certificate !== undefined;
    this.#pings = new LeakyBucket({ perSecond: 1, burst: limits.maxPings });
    this.#idle = setTimeout(() => this.#streams === 0 && this.end(), limits.idleMs).unref();
    const jitter = 0.9 + Math.random() / 5;
    this.#timers = [
      this.#idle,
      setTimeout(() => this.end(), limits.ageMs * jitter).unref(),
      setInterval(() => this.#lookForPeer(), limits.keepaliveMs).unref(),
    ];
    takeSocketAlong(session, socket);
    session.on('error', (error: NodeJS.ErrnoException) => this.#failed(error));
    session.once('localSettings', () => this.#settle());
    session.on('ping', () => this.#count('pings', PING_BYTES));
    session.on('remoteSettings', () => this.#count('settings', SETTINGS_BYTES));
    socket.once('close', () => {
      for (const timer of this.#timers) clearTimeout(timer);
      this.#beginEnding();
    });
  }

  /** In whose share its calls are until they have callers. */
  get principal(): string {
    return this.#parts.principal;
  }

  /** Whether it is known who is at the other end: by a certificate, or a call's token once. */
  get isProven(): boolean {
    return this.#isProven;
  }

  /** Whether no stream is open. */
  get isIdle(): boolean {
    return this.#streams === 0;
  }

  /**
   * Whether a stream of this id is served: not beyond those that an ending connection has said it
   * takes.
   */
  takes(stream: number): boolean {
    return stream <= this.#lastStream;
  }

  /** A call has shown who is at the other end. */
  proven(caller: string): void {
    if (this.#isProven) return;
    this.#isProven = true;
    this.#parts.onProven(caller);
  }

  /** A stream has begun. */
  streamOpened(): void {
    this.#settle();
    this.#streams += 1;
    this.#pings.empty();
  }

  /** A stream that had begun is over. */
  streamClosed(): void {
    this.#streams -= 1;
    if (this.#streams === 0) this.#idle.refresh();
  }

  /** The peer has reset a stream: before its call was let in, or afterwards. */
  streamReset(wasLetIn: boolean): void {
    const known = wasLetIn ? 'letIn' : 'early';
    const kind = this.#isProven ? known : 'stranger';
    let bucket = this.#resets.get(kind);
    if (bucket === undefined) {
      const { times, seconds } = RESETS[kind];
      const perSecond = times * this.#parts.limits.maxResetsPerSecond;
      bucket = new LeakyBucket({ perSecond, burst: seconds * perSecond });
      this.#resets.set(kind, bucket);
    }
    if (bucket.overflows()) this.#calm('resets');
  }

  /**
   * Ends in order: says at once which streams are still taken, lets them finish, and doesn't depend
   * on the peer for it.
   *
   * Not by a first GOAWAY that takes every stream and a second one later (RFC 9113, 6.8): after any
   * GOAWAY that Node lets us send, nghttp2 answers no new stream, so calls begun between the two
   * would hang.
   */
  end(): void {
    if (!this.#beginEnding()) return;
    const { session, socket, limits } = this.#parts;
    session.close();
    setTimeout(() => socket.destroy(), limits.lingerMs).unref();
  }

  /** Ends at once, telling the peer why; the calls under way are lost. */
  refuse(code: number, text: string): void {
    if (!this.#beginEnding()) return;
    const { session, socket } = this.#parts;
    session.goaway(code, this.#lastStream, Buffer.from(text));
    destroySoon(socket);
  }

  /**
   * HTTP/2 has ended the connection by itself: for what the peer sent, unless the peer is only
   * gone.
   */
  #failed({ code, message }: NodeJS.ErrnoException): void {
    if (code !== undefined && GONE.has(code)) return;
    const fields = { caller: this.certificate?.name, address: this.address, cause: message };
    const line = { message: 'a connection is ended: its peer violated HTTP/2', fields };
    this.#parts.lines.warn({ ...line, key: fields.caller ?? fields.address });
  }

  #settle(): void {
    if (this.#isSettled) return;
    this.#isSettled = true;
    this.#parts.onSettled();
  }

  /** Says whether the session is there to be ended. */
  #beginEnding(): boolean {
    if (this.#isEnding) return false;
    this.#isEnding = true;
    const { session, socket, onEnding } = this.#parts;
    this.#lastStream = session.state.lastProcStreamID ?? 0;
    onEnding();
    if (session.destroyed) socket.destroy();
    return !session.destroyed;
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
    if (this.#pings.overflows()) this.#calm(what);
  }

  /** Ends what goes beyond its limits, and says why. */
  #calm(what: 'pings' | 'settings' | 'resets'): void {
    if (this.#isEnding) return;
    const fields = { caller: this.certificate?.name, address: this.address };
    const message = `a connection is ended: ${TOO_MANY[what]}`;
    this.#parts.lines.warn({ message, key: fields.caller ?? fields.address, fields });
    // The text that clients know (gRFC A8); they keep more quiet after it.
    this.refuse(constants.NGHTTP2_ENHANCE_YOUR_CALM, `too_many_${what}`);
  }

  /**
   * Ends what HTTP/2 doesn't know to be over: nothing tells it that a write failed because of a
   * reset, after which it neither reads nor closes, and a session that it destroys may wait for its
   * peer without end.
   */
  #lookForPeer(): void {
    const { session, socket } = this.#parts;
    if (session.destroyed) {
      socket.destroy();
      return;
    }
    if (this.#isEnding) return; // Within its time.
    const isQuiet = socket.bytesRead === this.#heard;
    this.#heard = socket.bytesRead;
    if (isQuiet && this.#isAsked) socket.destroy();
    else if (isQuiet && !session.closed) session.ping(() => {});
    this.#isAsked = isQuiet;
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
 * Not at once: closing a socket that has something to read takes back what was sent on it, a
 * farewell, say.
 */
export function destroySoon(socket: TLSSocket): void {
  setTimeout(() => socket.destroy(), NOTICE_MS).unref();
}
