/**
 * HTTP/2 in plaintext for what is asked on the health listener: a stream for each request.
 *
 * - What a peer may do with its connection is `strangers.ts`'s.
 * - No session or stream is without a listener for errors, whatever its peer does.
 *
 * Does not know what is asked for.
 */
import {
  createServer,
  type Http2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Stream,
} from 'node:http2';
import type { Socket } from 'node:net';
import type { Asking, Stranger } from '../transport/strangers.ts';

const MAX_STREAMS = 8;

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

/** A request, and what may be done about it. */
export interface Request extends Asking {
  readonly stream: ServerHttp2Stream;
  readonly headers: IncomingHttpHeaders;
}

/** Makes requests of the streams of plaintext HTTP/2. */
export class HealthStreams {
  readonly #serve: (request: Request) => void;
  readonly #http2: Http2Server = createServer(OPTIONS);

  /** `serve` is given each request; what it throws ends the connection. */
  constructor(serve: (request: Request) => void) {
    this.#serve = serve;
    this.#http2.on('sessionError', () => {});
  }

  /** Speaks HTTP/2 on a socket. */
  accept(socket: Socket, stranger: Stranger): void {
    this.#http2.once('session', (session) => {
      session.on('error', (error: NodeJS.ErrnoException) => {
        // Else the peer has ended it, and 'close' of the socket follows.
        if (error.code?.startsWith('ERR_HTTP2')) stranger.breaksProtocol();
      });
      session.on('stream', (stream, headers) => this.#begin(stranger, stream, headers));
    });
    // Makes a session of it, and emits that, before it returns.
    this.#http2.emit('connection', socket);
  }

  #begin(stranger: Stranger, stream: ServerHttp2Stream, headers: IncomingHttpHeaders): void {
    stream.on('error', () => {}); // As of a socket.
    if (stream.destroyed || stream.closed) return;
    const asking = stranger.asks((listener) => stream.once('close', listener));
    asking?.attempt(() => this.#serve({ ...asking, stream, headers }));
  }
}
