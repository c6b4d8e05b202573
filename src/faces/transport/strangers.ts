/**
 * Connections of peers that show no credentials, in plaintext, bounded on the sockets themselves,
 * whatever protocol is spoken on them.
 *
 * - There are at most {@link MAX_CONNECTIONS}. A newcomer takes the place of the oldest one of the
 *   address that has most, so that whoever opens thousands is in their own way, and a probe finds
 *   room.
 * - A connection has to ask for something soon, may send so many bytes and requests, and has an
 *   age: what breaks a limit is ended by destroying its socket, whatever the protocol makes of it.
 * - No socket is without a listener for errors, and what fails while a request is answered ends its
 *   connection, not the process.
 * - What was ended, and why, is in the log: counted, and not more often than every
 *   {@link REPORT_MS}.
 *
 * Does not know what is asked for.
 */
import { createServer, type Server, type Socket } from 'node:net';
import type { Logger } from 'pino';
import { monotonicNow } from '../../call.ts';
import { LeakyBucket } from './leaky-bucket.ts';

const MAX_CONNECTIONS = 64;
/**
 * A check is some 300 bytes, headers of its own besides, and the next one on the same connection
 * some 60.
 */
const BYTES = { burst: 16_384, perSecond: 2_048 };
const REQUESTS = { burst: 16, perSecond: 10 };
/** How soon a connection has to ask, and an answer to be taken. */
const SOON_MS = 5_000;
const IDLE_MS = 60_000;
const AGE_MS = 600_000;
const LOOK_MS = 100;
const REPORT_MS = 10_000;

/** Why a connection was ended. */
type Why = 'crowded' | 'silent' | 'idle' | 'aged' | 'flood' | 'protocol' | 'unfinished' | 'failed';
/** These are no abuse. */
const IN_ORDER: readonly Why[] = ['idle', 'aged'];

/** One connection, as the protocol that is spoken on it sees it. */
export interface Stranger {
  /**
   * Counts a request, until `onClose` calls its listener. Undefined where there was one too many,
   * which ends the connection.
   */
  asks(onClose: (listener: () => void) => void): Asking | undefined;
  /** Ends the connection for bytes that are not of its protocol. */
  breaksProtocol(): void;
}

/** What may be done about a request. */
export interface Asking {
  /** Has the request's time not be limited any more: it is one that stays open. */
  readonly stay: () => void;
  /** Runs what may throw, which ends the connection. */
  readonly attempt: (work: () => void) => void;
  /** Ends the connection because answering has failed. */
  readonly fail: (error: unknown) => void;
}

/** What a listener for strangers is made of. */
export interface StrangersParts {
  /** What is asked for there, for the log. */
  readonly name: string;
  readonly log: Logger;
  /** Speaks its protocol on a socket. */
  readonly serve: (socket: Socket, stranger: Stranger) => void;
}

/** Bounds a listener whose peers show nothing of who they are. */
export class Strangers {
  readonly #parts: StrangersParts;
  readonly #tcp: Server;
  /** The oldest first. */
  readonly #connections = new Set<Connection>();
  readonly #ended = new Map<Why, number>();
  #reportedAt = Number.NEGATIVE_INFINITY;
  #look: NodeJS.Timeout | undefined;

  constructor(parts: StrangersParts) {
    this.#parts = parts;
    const { name, log } = parts;
    this.#tcp = createServer({ noDelay: true, keepAlive: true }, (socket) => this.#accept(socket));
    this.#tcp.on('error', (err) =>
      log.error({ err }, `cannot accept connections on the ${name} listener`),
    );
  }

  /** Begins to listen on host:port; returns the port. Throws when it cannot. */
  async listen(address: string): Promise<number> {
    const { hostname, port } = new URL(`tcp://${address}`);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#tcp.once('error', reject);
    this.#tcp.listen({ host: hostname.replace(/^\[|\]$/g, ''), port: Number(port) }, resolve);
    await promise;
    this.#tcp.off('error', reject);
    this.#look = setInterval(() => this.#lookAtAll(), LOOK_MS).unref();
    const bound = this.#tcp.address();
    return typeof bound === 'object' && bound !== null ? bound.port : 0;
  }

  /** Ends at once. */
  stop(): void {
    clearInterval(this.#look);
    this.#tcp.close();
    for (const { socket } of this.#connections) socket.destroy();
  }

  #accept(socket: Socket): void {
    socket.on('error', () => {}); // 'close' follows, and is enough.
    if (this.#connections.size >= MAX_CONNECTIONS) this.#makeRoom();
    const connection = new Connection(socket);
    this.#connections.add(connection);
    socket.once('close', () => this.#connections.delete(connection));
    this.#parts.serve(socket, {
      asks: (onClose) => this.#begin(connection, onClose),
      breaksProtocol: () => this.#end(connection, 'protocol'),
    });
  }

  #makeRoom(): void {
    const byAddress = Map.groupBy(this.#connections, ({ address }) => address);
    const most = [...byAddress.values()].reduce((a, b) => (b.length > a.length ? b : a));
    if (most[0] !== undefined) this.#end(most[0], 'crowded');
  }

  #begin(connection: Connection, onClose: (listener: () => void) => void): Asking | undefined {
    if (!connection.asks()) {
      this.#end(connection, 'flood');
      return undefined;
    }
    const timer = setTimeout(() => this.#end(connection, 'unfinished'), SOON_MS).unref();
    onClose(() => {
      clearTimeout(timer);
      connection.answered();
    });
    const fail = (err: unknown) => {
      const { log, name } = this.#parts;
      log.error({ err }, `cannot answer a ${name} request`);
      this.#end(connection, 'failed');
    };
    const attempt = (work: () => void) => {
      try {
        work();
      } catch (error) {
        fail(error);
      }
    };
    return { stay: () => clearTimeout(timer), attempt, fail };
  }

  #lookAtAll(): void {
    const now = monotonicNow();
    for (const connection of this.#connections) {
      const why = connection.breaks(now);
      if (why !== undefined) this.#end(connection, why);
    }
    this.#report(now);
  }

  #end(connection: Connection, why: Why): void {
    // Its socket may be closed already: a protocol may say why only after that.
    if (connection.isEnded) return;
    connection.isEnded = true;
    this.#connections.delete(connection);
    connection.socket.destroy();
    if (!IN_ORDER.includes(why)) this.#ended.set(why, (this.#ended.get(why) ?? 0) + 1);
  }

  #report(now: number): void {
    if (this.#ended.size === 0 || now - this.#reportedAt < REPORT_MS) return;
    this.#reportedAt = now;
    this.#parts.log.warn(
      { ended: Object.fromEntries(this.#ended) },
      `${this.#parts.name} connections were ended for breaking limits`,
    );
    this.#ended.clear();
  }
}

/** One connection, and what it has left of its limits. */
class Connection {
  readonly socket: Socket;
  readonly address: string | undefined;
  isEnded = false;
  readonly #openedAt = monotonicNow();
  readonly #bytes = new LeakyBucket(BYTES);
  readonly #requests = new LeakyBucket(REQUESTS);
  #bytesRead = 0;
  #streams = 0;
  /**
   * When it has had nothing to do from; it may do so until {@link SOON_MS} later, or
   * {@link IDLE_MS} once it has asked.
   */
  #idleSince = monotonicNow();
  #hasAsked = false;

  constructor(socket: Socket) {
    this.socket = socket;
    this.address = socket.remoteAddress;
  }

  /** A request has come; returns whether it may. */
  asks(): boolean {
    this.#hasAsked = true;
    this.#streams += 1;
    return !this.#requests.overflows();
  }

  /** A request is over. */
  answered(): void {
    this.#streams -= 1;
    this.#idleSince = monotonicNow();
  }

  /** The limit that it breaks. */
  breaks(now: number): Why | undefined {
    const { bytesRead } = this.socket;
    const isFlood = this.#bytes.overflows(bytesRead - this.#bytesRead);
    this.#bytesRead = bytesRead;
    if (isFlood) return 'flood';
    if (now - this.#openedAt > AGE_MS) return 'aged';
    if (this.#streams > 0) return undefined;
    if (now - this.#idleSince > (this.#hasAsked ? IDLE_MS : SOON_MS))
      return this.#hasAsked ? 'idle' : 'silent';
    return undefined;
  }
}
