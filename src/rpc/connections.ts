/**
 * Connections, from the first byte of TCP to the last: how many there may be, how long they may idle and live, and when
 * one that misbehaves is ended.
 *
 * Invariants: every socket that was accepted is known here until it is closed, so that {@link Connections.destroyAll}
 * leaves none; nothing that a peer does, or leaves undone, keeps one open beyond its limits; who has not proven yet who he
 * is makes way for others; a certificate that was presented verifies, and is worked out once, when its connection opens.
 * Knows no call. What HTTP/2 itself limits (streams, headers, resets,
 * the handshake's time) is in `credentials.ts`.
 */
import { constants, type Http2SecureServer, type ServerHttp2Session } from 'node:http2';
import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { Logger } from 'pino';
import type { ClientCertificate } from '../access/certificates.ts';
import type { Identity } from '../access/identity.ts';
import { LeakyBucket } from './leaky-bucket.ts';

/** What a peer may do with connections. */
export interface ConnectionLimits {
  /** Connections in all; at the limit one whose peer hasn't proven who he is gives way to a newcomer, others don't. */
  readonly maxConnections: number;
  /** A connection without a call for so long is closed. */
  readonly idleMs: number;
  /** A connection is closed after so long, a tenth more or less, so that certificates and replicas come round. */
  readonly ageMs: number;
  /** PINGs that may come between two calls; one is forgiven each second. */
  readonly maxPings: number;
  /** Calls that a peer may reset each second (CVE-2023-44487); {@link RESETS} says how often, when. */
  readonly maxResetsPerSecond: number;
  /** How long a connection that is being closed may take over it, its calls included. */
  readonly lingerMs: number;
}

/** The last stream id there can be: a GOAWAY with it announces that one with the true id will follow (RFC 9113, 6.8). */
const ANY_STREAM = 2 ** 31 - 1;
/** For calls that clients begin before they have seen the GOAWAY. (A PING's answer says less: many close instead of it.) */
const GOAWAY_NOTICE_MS = 2_000;
const PING_FORGIVEN_MS = 1_000;
const CALM_NOTICE_MS = 100;
/**
 * How many times the limit a peer may reset streams each second, and for how many seconds' worth at once: one that has not
 * shown who it is; one that has, before its call began, which keeps the event loop busy to no end, but happens to an honest
 * caller while the server is slow; calls that were let in, whose deadline may just have passed: of those 64 can be in flight
 * with a deadline of 20 ms.
 */
const RESETS = {
  stranger: { times: 1, seconds: 10 },
  early: { times: 16, seconds: 1 },
  letIn: { times: 32, seconds: 10 },
} as const;
type ResetKind = keyof typeof RESETS;

/** See this file's first paragraph. */
export class Connections {
  readonly #limits: ConnectionLimits;
  readonly #log: Logger;
  readonly #sockets = new Set<Socket>();
  /** Sockets whose handshake isn't finished, the oldest first, by their peer's address: for counting, not for trusting. */
  readonly #shaking = new Map<string, Socket>();
  /** Sockets whose peer has shown no certificate, and no token yet, the oldest first. */
  readonly #strangers = new Map<string, Socket>();
  readonly #identity: Identity;
  readonly #connections = new WeakMap<object, Connection>();

  constructor(limits: ConnectionLimits, identity: Identity, log: Logger) {
    this.#limits = limits;
    this.#identity = identity;
    this.#log = log;
  }

  /** Begins to look after a server's connections. */
  watch(server: Http2SecureServer): void {
    let finished: TLSSocket | undefined;
    server.on('connection', (socket: Socket) => this.#accept(socket));
    server.on('tlsClientError', ({ message }) => this.#log.debug({ message }, 'a TLS handshake failed'));
    // Node's own listener makes the session of the socket, and emits it, before the next listener is called.
    server.prependListener('secureConnection', (socket: TLSSocket) => {
      this.#shaking.delete(peerOf(socket));
      finished = socket;
    });
    server.prependListener('session', (session: ServerHttp2Session) => {
      if (finished !== undefined && this.#mayStay(finished)) this.#open(session, finished);
      else session.destroy();
      finished = undefined;
    });
  }

  /** The connection that a stream came by; undefined when it isn't one that was let in. */
  of(session: object | undefined): Connection | undefined {
    return session === undefined ? undefined : this.#connections.get(session);
  }

  /** Ends every connection at once, those that are no TLS yet too. */
  destroyAll(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Ends those whose handshake isn't finished. */
  destroyUnfinished(): void {
    for (const socket of this.#shaking.values()) socket.destroy();
  }

  /** Without a certificate only where tokens may take its place. One that was presented has to verify in any case. */
  #mayStay(socket: TLSSocket): boolean {
    const isBare = socket.getPeerX509Certificate() === undefined;
    return socket.authorized || (isBare && this.#identity.acceptsTokens);
  }

  #open(session: ServerHttp2Session, socket: TLSSocket): void {
    const certificate = socket.authorized
      ? this.#identity.certificate(socket.getPeerCertificate())
      : undefined;
    const peer = peerOf(socket);
    if (certificate === undefined) {
      this.#strangers.set(peer, socket);
      socket.once('close', () => this.#strangers.delete(peer));
    }
    const onProven = () => this.#strangers.delete(peer);
    const connection = new Connection({ session, socket, certificate, onProven }, this.#limits, this.#log);
    this.#connections.set(session, connection);
  }

  #accept(socket: Socket): void {
    const peer = peerOf(socket);
    if (this.#sockets.size >= this.#limits.maxConnections) {
      const oldest = first(this.#shaking) ?? first(this.#strangers);
      this.#log.debug({ peer: oldest?.[0] ?? peer }, 'too many connections; one is dropped');
      if (oldest !== undefined) {
        this.#shaking.delete(oldest[0]);
        this.#strangers.delete(oldest[0]);
      }
      (oldest?.[1] ?? socket).destroy();
      if (oldest === undefined) return;
    }
    this.#sockets.add(socket);
    this.#shaking.set(peer, socket);
    socket.once('close', () => {
      this.#sockets.delete(socket);
      if (this.#shaking.get(peer) === socket) this.#shaking.delete(peer);
    });
  }
}

/** What a connection is made of. */
interface ConnectionParts {
  readonly session: ServerHttp2Session;
  readonly socket: TLSSocket;
  readonly certificate: ClientCertificate | undefined;
  /** Called when a call has shown who is at the other end. */
  readonly onProven: () => void;
}

/** One connection that has shaken hands. */
export class Connection {
  /** The client's; it has verified. */
  readonly certificate: ClientCertificate | undefined;
  /** The peer's IP address; undefined for one that was gone at once. */
  readonly address: string | undefined;
  readonly #session: ServerHttp2Session;
  readonly #socket: TLSSocket;
  readonly #limits: ConnectionLimits;
  readonly #log: Logger;
  readonly #onProven: () => void;
  #isProven: boolean;
  readonly #idle: NodeJS.Timeout;
  #streams = 0;
  #pings = 0;
  #lastPingAt = 0;
  readonly #resets = new Map<ResetKind, LeakyBucket>();
  #ending = false;

  constructor(
    { session, socket, certificate, onProven }: ConnectionParts,
    limits: ConnectionLimits,
    log: Logger,
  ) {
    this.#session = session;
    this.#socket = socket;
    this.address = socket.remoteAddress;
    this.#limits = limits;
    this.#log = log;
    this.certificate = certificate;
    this.#isProven = certificate !== undefined;
    this.#onProven = onProven;
    this.#idle = setTimeout(() => this.#streams === 0 && this.#end(), limits.idleMs).unref();
    const jitter = 0.9 + Math.random() / 5;
    const age = setTimeout(() => this.#end(), limits.ageMs * jitter).unref();
    session.on('ping', () => this.#ping());
    socket.once('close', () => {
      clearTimeout(this.#idle);
      clearTimeout(age);
    });
  }

  /** In whose share its calls are until they have callers. */
  get principal(): string {
    return this.certificate?.name ?? `address ${this.address}`;
  }

  /** Whether it is known who is at the other end: by a certificate, or a call's token once. */
  get isProven(): boolean {
    return this.#isProven;
  }

  /** A call has shown who is at the other end. */
  proven(): void {
    if (this.#isProven) return;
    this.#isProven = true;
    this.#onProven();
  }

  /** A stream has begun. */
  streamOpened(): void {
    this.#streams += 1;
    this.#pings = 0;
  }

  /** A stream that had begun is over. */
  streamClosed(): void {
    this.#streams -= 1;
    if (this.#streams === 0) this.#idle.refresh();
  }

  /** The peer has reset a stream: before its call was let in, or afterwards. */
  streamReset(wasLetIn: boolean): void {
    const known = wasLetIn ? 'letIn' : 'early';
    const kind = this.isProven ? known : 'stranger';
    let bucket = this.#resets.get(kind);
    if (bucket === undefined) {
      const { times, seconds } = RESETS[kind];
      const perSecond = times * this.#limits.maxResetsPerSecond;
      bucket = new LeakyBucket({ perSecond, burst: seconds * perSecond });
      this.#resets.set(kind, bucket);
    }
    if (bucket.overflows()) this.#calm('too_many_resets');
  }

  #ping(): void {
    const now = Date.now();
    this.#pings = Math.max(0, this.#pings - Math.abs(now - this.#lastPingAt) / PING_FORGIVEN_MS) + 1;
    this.#lastPingAt = now;
    // The text that clients know (gRFC A8); they keep more quiet after it.
    if (this.#pings > this.#limits.maxPings) this.#calm('too_many_pings');
  }

  /** Ends what goes beyond its limits, and says why. */
  #calm(why: string): void {
    if (this.#ending || this.#session.destroyed) return;
    this.#ending = true;
    this.#log.warn({ caller: this.certificate?.name, address: this.address, why }, 'a connection is ended');
    this.#session.goaway(constants.NGHTTP2_ENHANCE_YOUR_CALM, 0, Buffer.from(why));
    // Not at once: closing a socket that has something to read takes back what was sent on it.
    setTimeout(() => this.#socket.destroy(), CALM_NOTICE_MS).unref();
  }

  /** Ends in order: announces it, lets calls finish, and doesn't depend on the peer for any of it. */
  #end(): void {
    if (this.#ending || this.#session.destroyed) return;
    this.#ending = true;
    this.#session.goaway(constants.NGHTTP2_NO_ERROR, ANY_STREAM);
    // What comes after that is refused as not begun.
    setTimeout(() => this.#session.close(), GOAWAY_NOTICE_MS).unref();
    setTimeout(() => this.#socket.destroy(), GOAWAY_NOTICE_MS + this.#limits.lingerMs).unref();
  }
}

function first<K, V>(map: ReadonlyMap<K, V>): [K, V] | undefined {
  return map.entries().next().value;
}

function peerOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}
