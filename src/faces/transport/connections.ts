/**
 * Connections to any of the listeners, from the first byte of TCP on: which are let in, how many
 * each peer may have, and which give way.
 *
 * Invariants:
 * - every socket that was accepted is known here until it is closed, so that
 *   {@link Connections.destroyAll} leaves none, and has a listener for its errors from its first
 *   moment;
 * - nothing that a peer does, or leaves undone, keeps a socket open beyond its limits: until its
 *   peer speaks HTTP a timer here ends it, afterwards `connection.ts`;
 * - a certificate that was presented verifies, and is worked out once; HTTP is spoken with nobody
 *   whose doesn't;
 * - who holds how many is in `places.ts`.
 *
 * Knows no call. What HTTP/2 itself limits (streams, headers, resets) is in `protocol-limits.ts`.
 */
import type { Http2SecureServer, ServerHttp2Session } from 'node:http2';
import { isIPv6, type Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { Logger } from 'pino';
import type { Identity } from '../../access/identity.ts';
import { refusalOf } from './certificate-refusal.ts';
import {
  type Connection,
  type ConnectionParts,
  destroySoon,
  type ConnectionLimits as LimitsOfOne,
} from './connection.ts';
import { Http1Connection } from './http1-connection.ts';
import { Http2Connection } from './http2-connection.ts';
import { type Occupant, Places } from './places.ts';
import { RareLines } from './rare-lines.ts';

/** What peers may do with connections. */
export interface ConnectionLimits extends LimitsOfOne {
  /** Connections in all. */
  readonly maxConnections: number;
  /**
   * How long a handshake may take, and as long again until the peer has acknowledged SETTINGS or
   * begun a call.
   */
  readonly handshakeMs: number;
}

/** A server whose connections these are. */
type Listener = Http2SecureServer;

/** One accepted socket. */
interface Accepted extends Occupant {
  readonly listener: Listener;
  readonly socket: Socket;
  readonly address: string;
  readonly timer: NodeJS.Timeout;
  isShaking: boolean;
  connection: Connection | undefined;
}

type SecureListener = (socket: TLSSocket) => void;

const IGNORE = () => {};

/** Bounds the connections of all listeners: how many, for how long, and what each may do. */
export class Connections {
  readonly #limits: ConnectionLimits;
  readonly #identity: Identity;
  readonly #log: Logger;
  readonly #lines: RareLines;
  readonly #places: Places<Accepted>;
  /** By their addresses and ports at both ends. */
  readonly #accepted = new Map<string, Accepted>();
  readonly #connections = new WeakMap<object, Connection>();

  constructor(limits: ConnectionLimits, identity: Identity, log: Logger) {
    this.#limits = limits;
    this.#identity = identity;
    this.#log = log;
    this.#lines = new RareLines(log);
    this.#places = new Places(limits.maxConnections);
  }

  /** How many connections there are, and may be. */
  get figures(): { readonly open: number; readonly limit: number } {
    return { open: this.#accepted.size, limit: this.#limits.maxConnections };
  }

  /** Begins to look after a server's connections; with `http1` those of HTTP/1.1 as well. */
  watch(server: Listener, { http1 = false } = {}): void {
    // Accepting fails while the process has no descriptor left, say.
    server.on('error', (error) =>
      this.#lines.warn({ message: 'cannot accept a connection', fields: { err: error } }),
    );
    server.on('sessionError', ({ message }: Error) =>
      this.#log.debug({ message }, 'a connection failed'),
    );
    server.on('tlsClientError', ({ message }: Error) =>
      this.#log.debug({ message }, 'a TLS handshake failed'),
    );
    server.on('connection', (socket: Socket) => this.#accept(server, socket));
    // Node's own among them begins to speak HTTP: not before it is known whether the peer may stay.
    const establish = server.listeners('secureConnection') as SecureListener[];
    server.removeAllListeners('secureConnection');
    let secured: { readonly socket: TLSSocket; readonly accepted: Accepted } | undefined;
    server.on('secureConnection', (socket: TLSSocket) => {
      const accepted = this.#secured(socket);
      if (accepted === undefined) return;
      if (http1 && socket.alpnProtocol !== 'h2') this.#openHttp1(socket, accepted);
      secured = { socket, accepted };
      for (const listener of establish) listener.call(server, socket);
      secured = undefined;
    });
    server.prependListener('session', (session: ServerHttp2Session) => {
      session.on('error', IGNORE); // 'close' follows.
      if (secured !== undefined) this.#openHttp2(session, secured.socket, secured.accepted);
    });
  }

  /**
   * The connection that a stream came by; undefined when that takes no stream, or not this one any
   * more.
   */
  of(stream: {
    readonly id?: number | undefined;
    readonly session: object | undefined;
  }): Connection | undefined {
    const connection = stream.session && this.#connections.get(stream.session);
    return connection?.takes(stream.id ?? Infinity) ? connection : undefined;
  }

  /** The connection that a request of HTTP/1.1 came by; undefined when that takes none any more. */
  ofSocket(socket: object): Http1Connection | undefined {
    const connection = this.#connections.get(socket);
    return connection instanceof Http1Connection && connection.takes() ? connection : undefined;
  }

  /** Ends every connection of a listener in order. */
  endAll(listener: Listener): void {
    for (const { connection } of this.#of(listener)) connection?.end();
  }

  /** Ends every connection of a listener at once, those that are no TLS yet too. */
  destroyAll(listener: Listener): void {
    for (const { socket } of this.#of(listener)) socket.destroy();
  }

  /** Ends those of a listener whose handshake isn't finished. */
  destroyUnfinished(listener: Listener): void {
    for (const { socket, isShaking } of this.#of(listener)) if (isShaking) socket.destroy();
  }

  #of(listener: Listener): Accepted[] {
    return [...this.#accepted.values()].filter((each) => each.listener === listener);
  }

  #accept(listener: Listener, socket: Socket): void {
    socket.on('error', IGNORE); // 'close' follows.
    const address = socket.remoteAddress;
    if (address === undefined) {
      socket.destroy(); // Gone already.
      return;
    }
    socket.setNoDelay(true);
    const peer = peerOf(socket);
    const accepted: Accepted = {
      listener,
      socket,
      address,
      timer: setTimeout(() => this.#giveUp(accepted), this.#limits.handshakeMs).unref(),
      isShaking: true,
      connection: undefined,
      get isIdle() {
        return this.connection?.isIdle ?? true;
      },
    };
    socket.once('close', () => {
      clearTimeout(accepted.timer);
      this.#places.leave(accepted);
      if (this.#accepted.get(peer) === accepted) this.#accepted.delete(peer);
    });
    this.#accepted.get(peer)?.socket.destroy(); // Of a socket that is closed, which Node hasn't said yet.
    this.#accepted.set(peer, accepted);
    this.#enter(accepted);
  }

  /** Ends one whose peer takes too long to shake hands, or to speak HTTP after that. */
  #giveUp({ socket, address, isShaking }: Accepted): void {
    const done = isShaking ? 'finished no TLS handshake' : 'spoke no HTTP';
    this.#lines.warn({
      message: `a connection is closed: its peer ${done} in time`,
      key: address,
      fields: { address, limitMs: this.#limits.handshakeMs },
    });
    socket.destroy();
  }

  /** Gives a place to a newcomer, at the cost of a stranger where there is none. */
  #enter(accepted: Accepted): void {
    const principal = networkOf(accepted.address);
    const verdict = this.#places.forStranger(principal);
    const dropped = verdict.may ? verdict.instead : accepted;
    if (dropped !== undefined) {
      this.#lines.warn({
        message: 'too many connections of unauthenticated peers; one is dropped',
        fields: { address: dropped.address, limit: this.#limits.maxConnections },
      });
      this.#places.leave(dropped);
      dropped.socket.destroy();
    }
    if (verdict.may) this.#places.enter(accepted, principal);
  }

  /** What was accepted as this socket, if its peer may go on. */
  #secured(socket: TLSSocket): Accepted | undefined {
    socket.on('error', IGNORE); // 'close' follows.
    const accepted = this.#accepted.get(peerOf(socket));
    if (accepted === undefined || accepted.socket.destroyed) {
      socket.destroy();
      return undefined;
    }
    accepted.isShaking = false;
    accepted.timer.refresh();
    socket.once('end', () => destroySoon(socket));
    const refusal = refusalOf(socket, this.#identity.acceptsTokens);
    if (refusal === undefined) return accepted;
    this.#lines.warn({
      message: 'a client certificate was refused',
      key: `${refusal.reason} ${accepted.address}`,
      fields: { ...refusal, address: accepted.address },
    });
    this.#places.end(accepted);
    socket.resume(); // Left unread, what comes would make the end a reset.
    socket.end();
    destroySoon(socket);
    return undefined;
  }

  #openHttp2(session: ServerHttp2Session, socket: TLSSocket, accepted: Accepted): void {
    this.#open(accepted, session, (parts) => new Http2Connection(session, parts), socket);
  }

  #openHttp1(socket: TLSSocket, accepted: Accepted): void {
    this.#open(accepted, socket, (parts) => new Http1Connection(parts), socket);
  }

  /** Makes the connection, which is found by `key` from here on. */
  #open(
    accepted: Accepted,
    key: object,
    make: (parts: ConnectionParts) => Connection,
    socket: TLSSocket,
  ): void {
    const certificate = socket.authorized
      ? this.#identity.certificate(socket.getPeerCertificate(true))
      : undefined;
    // A certificate without a name of the configured kind is nobody's but its own.
    const caller = certificate && (certificate.name ?? certificate.thumbprint);
    const connection = make({
      socket,
      certificate,
      principal: caller ?? `address ${networkOf(accepted.address)}`,
      limits: this.#limits,
      lines: this.#lines,
      onSettled: () => clearTimeout(accepted.timer),
      onProven: (proven) => this.#prove(accepted, proven),
      onEnding: () => this.#places.end(accepted),
    });
    accepted.connection = connection;
    this.#connections.set(key, connection);
    if (caller !== undefined) this.#prove(accepted, caller);
  }

  /**
   * Counts a connection as its caller's; where that has its share, one without a call gives way, or
   * this one.
   */
  #prove(accepted: Accepted, caller: string): void {
    const { connection, address } = accepted;
    const verdict = this.#places.forCaller(caller);
    if (verdict.may) {
      this.#places.prove(accepted, caller);
      if (verdict.instead === undefined) return;
    }
    const message = verdict.may
      ? 'a caller is at its limit of connections; the oldest one without a call is ended'
      : 'a caller is at its limit of connections, each with a call; a new one is refused';
    const fields = { caller, address, limit: this.#limits.maxConnections };
    this.#lines.warn({ message, key: caller, fields });
    if (verdict.may) verdict.instead?.connection?.end();
    else connection?.refuse('too_many_connections');
  }
}

/** A peer may have one port of its own for two of ours. */
function peerOf({ remoteAddress, remotePort, localAddress, localPort }: Socket): string {
  return `${remoteAddress} ${remotePort} ${localAddress} ${localPort}`;
}

/** Whom an address counts for: an IPv6 host has a whole /64 to choose from. */
export function networkOf(address: string): string {
  const plain = address.replace(/^::ffff:(?=\d+\.)/i, '').replace(/%.*$/, '');
  if (!isIPv6(plain)) return plain;
  const [head = '', tail] = plain.split('::');
  const groups = (text: string | undefined) => (text ? text.split(':') : []);
  const [left, right] = [groups(head), groups(tail)];
  const zeros = Array.from({ length: 8 - left.length - right.length }, () => '0');
  return `${[...left, ...zeros, ...right].slice(0, 4).join(':')}::/64`;
}
