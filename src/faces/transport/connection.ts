/**
 * One connection whose peer may stay: what is known of the peer, and when the connection ends,
 * whichever HTTP is spoken on it.
 *
 * Invariants:
 * - its limits are kept by timers of its own and end at its socket;
 * - one that ends takes no new call, and lets those under way finish within a time.
 *
 * How it tells the peer is `http2-connection.ts`'s and `http1-connection.ts`'s. Knows no call and
 * no other connection.
 */
import type { TLSSocket } from 'node:tls';
import type { ClientCertificate } from '../../access/certificates.ts';
import { LeakyBucket } from './leaky-bucket.ts';
import type { RareLines } from './rare-lines.ts';
import { clearRareTimer } from './rare-timer.ts';

/** What a peer may do with one connection. */
export interface ConnectionLimits {
  /** A connection without a call for so long is closed. */
  readonly idleMs: number;
  /**
   * A connection is closed after so long, a tenth more or less, so that certificates and replicas
   * come round; and when its certificate expires, if that is earlier.
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
  readonly socket: TLSSocket;
  readonly certificate: ClientCertificate | undefined;
  /** In whose share its calls are until they have callers. */
  readonly principal: string;
  readonly limits: ConnectionLimits;
  readonly lines: RareLines;
  /** Called once, when the peer has shown that it speaks HTTP and listens, or has begun a call. */
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
 * slow: 32 in flight with a deadline of 40 ms, and all of a second in which the server did
 * nothing. Let in: calls whose deadline may just have passed; of those 64 can be in flight with a
 * deadline of 20 ms.
 */
const RESETS = {
  stranger: { times: 1, seconds: 10 },
  early: { times: 8, seconds: 2 },
  letIn: { times: 32, seconds: 10 },
} as const;
const NOTICE_MS = 100;
const TOO_MANY = {
  pings: 'too many PINGs',
  settings: 'too many SETTINGS',
  resets: 'too many stream resets',
} as const;

/** Bounds what one connection may do, and ends it in order. */
export abstract class Connection {
  /** The client's; it has verified. */
  readonly certificate: ClientCertificate | undefined;
  /** The peer's IP address. */
  readonly address: string | undefined;
  readonly #parts: ConnectionParts;
  readonly #idle: NodeJS.Timeout;
  readonly #resets = new Map<keyof typeof RESETS, LeakyBucket>();
  #isSettled = false;
  #isProven: boolean;
  #isEnding = false;
  #calls = 0;

  constructor(parts: ConnectionParts) {
    const { socket, certificate, limits } = parts;
    this.#parts = parts;
    this.certificate = certificate;
    this.address = socket.remoteAddress;
    this.#isProven = certificate !== undefined;
    this.#idle = setTimeout(() => this.isIdle && this.end(), limits.idleMs).unref();
    const jitter = 0.9 + Math.random() / 5;
    const validMs = certificate === undefined ? Infinity : certificate.validity.until - Date.now();
    const ageMs = Math.max(0, Math.min(limits.ageMs * jitter, validMs));
    const age = setTimeout(() => this.end(), ageMs).unref();
    socket.once('close', () => {
      clearTimeout(this.#idle);
      clearRareTimer(age);
      this.beginEnding();
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

  /** Whether no call is under way. */
  get isIdle(): boolean {
    return this.#calls === 0;
  }

  /** Whether it ends, or has ended. */
  get isEnding(): boolean {
    return this.#isEnding;
  }

  /** Whether a call is served that came by the stream of this id, where there are streams. */
  abstract takes(stream: number): boolean;

  /** Ends in order: takes no new call, lets the others finish, and does not depend on the peer. */
  end(): void {
    if (!this.beginEnding()) return;
    const { socket, limits } = this.#parts;
    this.sayGoodbye();
    setTimeout(() => socket.destroy(), limits.lingerMs).unref();
  }

  /** Ends at once, telling the peer why if it can be told; the calls under way are lost. */
  refuse(text: string): void {
    if (!this.beginEnding()) return;
    this.sayWhy(text);
    destroySoon(this.#parts.socket);
  }

  /** A call has shown who is at the other end. */
  proven(caller: string): void {
    if (this.#isProven) return;
    this.#isProven = true;
    this.#parts.onProven(caller);
  }

  /** A call has begun. */
  callOpened(): void {
    this.settle();
    this.#calls += 1;
  }

  /** A call that had begun is over. */
  callClosed(): void {
    this.#calls -= 1;
    if (this.#calls === 0) this.#idle.refresh();
  }

  /** The peer has reset a call's stream: before it was let in, or afterwards. */
  callReset(wasLetIn: boolean): void {
    const known = wasLetIn ? 'letIn' : 'early';
    const kind = this.#isProven ? known : 'stranger';
    let bucket = this.#resets.get(kind);
    if (bucket === undefined) {
      const { times, seconds } = RESETS[kind];
      const perSecond = times * this.#parts.limits.maxResetsPerSecond;
      bucket = new LeakyBucket({ perSecond, burst: seconds * perSecond });
      this.#resets.set(kind, bucket);
    }
    if (bucket.overflows()) this.calm('resets');
  }

  /** Tells the peer in order which calls are still taken, and closes when they are over. */
  protected abstract sayGoodbye(): void;
  /** Tells the peer why it is cut off. */
  protected abstract sayWhy(text: string): void;

  /** The peer has shown that it speaks HTTP. */
  protected settle(): void {
    if (this.#isSettled) return;
    this.#isSettled = true;
    this.#parts.onSettled();
  }

  /** Says whether it had not begun to end before. */
  protected beginEnding(): boolean {
    if (this.#isEnding) return false;
    this.#isEnding = true;
    this.#parts.onEnding();
    return true;
  }

  /** Ends what goes beyond its limits, and says why. */
  protected calm(what: keyof typeof TOO_MANY): void {
    if (this.#isEnding) return;
    const fields = { caller: this.certificate?.name, address: this.address };
    const message = `a connection is ended: ${TOO_MANY[what]}`;
    this.#parts.lines.warn({ message, key: fields.caller ?? fields.address, fields });
    // The text that clients know (gRFC A8); they keep more quiet after it.
    this.refuse(`too_many_${what}`);
  }
}

/**
 * Not at once: closing a socket that has something to read takes back what was sent on it, a
 * farewell, say.
 */
export function destroySoon(socket: TLSSocket): void {
  setTimeout(() => socket.destroy(), NOTICE_MS).unref();
}
