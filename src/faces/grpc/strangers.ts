/**
 * Connections of peers that show no credentials: HTTP/2 in plaintext, bounded on the sockets
 * themselves.
 *
 * - There are at most {@link MAX_CONNECTIONS}. A newcomer takes the place of the oldest one of the
 *   address that has most, so that whoever opens thousands is in their own way, and a probe finds
 *   room.
 * - A connection has to ask for something soon, may send so many bytes and requests, and has an
 *   age: what breaks a limit is ended by destroying its socket, whatever HTTP/2 makes of it.
 * - No event of a socket, session or stream is without a listener for errors, and what fails while
 *   one is served ends its connection, not the process.
 * - What was ended, and why, is in the log: counted, and not more often than every
 *   {@link REPORT_MS}.
 *
 * Does not know what is asked for.
 */
import {
  createServer,
  type Http2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Stream,
} from 'node:http2';
import { createServer as createTcpServer, type Server, type Socket } from 'node:net';
import type { Logger } from 'pino';
import { monotonicNow } from '../../call.ts';
import { LeakyBucket } from '../transport/leaky-bucket.ts';

const MAX_CONNECTIONS = 64;
const MAX_STREAMS = 8;
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

const OPTIONS = {
  settings: {
    maxConcurrentStreams: MAX_STREAMS,
    maxHeaderListSize: 4_096,
    initialWindowSize: 2_048,
  },
  maxHeaderListPairs: 32,
  maxSettings: 16,
  maxSessionMemory: 1,
  maxSessionInvalidFrames: 10,
  maxSessionRejectedStreams: 10,
  streamResetBurst: 20,
  streamResetRate: 5,
};

/** Why a connection was ended. */
type Why = 'crowded' | 'silent' | 'idle' | 'aged' | 'flood' | 'protocol' | 'unfinished' | 'failed';
/** These are no abuse. */
const IN_ORDER: readonly Why[] = ['idle', 'aged'];

/** A request, and what may be done about its connection. */
export interface Request {
  readonly stream: ServerHttp2Stream;
  readonly headers: IncomingHttpHeaders;
  /** Has the request's time not be limited any more: it is one that stays open. */
  readonly stay: () => void;
  /** Runs what may throw. */
  readonly attempt: (work: () => void) => void;
}

/** Bounds a listener whose peers show nothing of who they are. */
export class Strangers {
  readonly #log: Logger;
  readonly #serve: (request: Request) => void;
  readonly #http2: Http2Server = createServer(OPTIONS);
  readonly #tcp: Server;
  /** The oldest first. */
  readonly #connections = new Set<Connection>();
  readonly #ended = new Map<Why, number>();
  #reportedAt = Number.NEGATIVE_INFINITY;
  #look: NodeJS.Timeout | undefined;

  /** `serve` is given each request; what it throws ends the connection. */
  constructor(log: Logger, serve: (request: Request) => void) {
    this.#log = log;
    this.#serve = serve;
    this.#tcp = createTcpServer({ noDelay: true, keepAlive: true }, (socket) =>
      this.#accept(socket),
    );
    this.#tcp.on('error', (err) =>
      log.error({ err }, 'cannot accept connections on the health listener'),
    );
    this.#http2.on('sessionError', () => {});
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
    this.#http2.once('session', (session) => {
      session.on('error', (error: NodeJS.ErrnoException) => {
        // Else the peer has ended it, and 'close' of the socket follows.
        if (error.code?.startsWith('ERR_HTTP2')) this.#end(connection, 'protocol');
      });
      session.on('stream', (stream, headers) => this.#begin(connection, stream, headers));
    });
    // Makes a session of it, and emits that, before it returns.
    this.#http2.emit('connection', socket);
  }

  #makeRoom(): void {
    const byAddress = Map.groupBy(this.#connections, ({ address }) => address);
    const most = [...byAddress.values()].reduce((a, b) => (b.length > a.length ? b : a));
    if (most[0] !== undefined) this.#end(most[0], 'crowded');
  }

  #begin(connection: Connection, stream: ServerHttp2Stream, headers: IncomingHttpHeaders): void {
    stream.on('error', () => {}); // As of a socket.
    if (stream.destroyed || stream.closed) return;
    if (!connection.asks()) {
      this.#end(connection, 'flood');
      return;
    }
    const timer = setTimeout(() => this.#end(connection, 'unfinished'), SOON_MS).unref();
    stream.once('close', () => {
      clearTimeout(timer);
      connection.answered();
    });
    const attempt = (work: () => void) => {
      try {
        work();
      } catch (err) {
        this.#log.error({ err }, 'cannot answer a health request');
        this.#end(connection, 'failed');
      }
    };
    attempt(() => this.#serve({ stream, headers, stay: () => clearTimeout(timer), attempt }));
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
    // Its socket may be closed already: HTTP/2 says why only after that.
    if (connection.isEnded) return;
    connection.isEnded = true;
    this.#connections.delete(connection);
    connection.socket.destroy();
    if (!IN_ORDER.includes(why)) this.#ended.set(why, (this.#ended.get(why) ?? 0) + 1);
  }

  #report(now: number): void {
    if (this.#ended.size === 0 || now - this.#reportedAt < REPORT_MS) return;
    this.#reportedAt = now;
    this.#log.warn(
      { ended: Object.fromEntries(this.#ended) },
      'health connections were ended for breaking limits',
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
