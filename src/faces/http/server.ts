/**
 * The HTTP face: keyward.v1 by Connect's protocol, over HTTP/2 and HTTP/1.1, as JSON or protobuf;
 * and the page by which people sign off.
 *
 * Invariants:
 * - every connection and every call passes the same limits as gRPC's (`faces/transport/`), and is
 *   served by the same wrapper;
 * - nothing of a body is read before the call has a caller; bytes are counted as they come, and
 *   those of a request that is not served any more are not read;
 * - a request of HTTP/1.1 is served alone: the next one waits for its answer.
 * Knows no method's meaning.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import {
  constants,
  createSecureServer,
  type Http2SecureServer,
  type IncomingHttpHeaders,
  type ServerHttp2Stream,
} from 'node:http2';
import type { AddressInfo } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { type Serving, serveCall } from '../../calls/serve-call.ts';
import { KeywardError, toKeywardError } from '../../errors.ts';
import { readTraceContext } from '../../signals/trace-context.ts';
import type { Admission } from '../transport/admission.ts';
import { type Connection, destroySoon } from '../transport/connection.ts';
import type { Connections } from '../transport/connections.ts';
import { HEADROOM, http2Options, type ProtocolLimits } from '../transport/protocol-limits.ts';
import { type TlsFileNames, TlsFiles } from '../transport/tls-files.ts';
import { JsonCodec } from './codec.ts';
import { HEAD_BYTES, onlyMessage } from './envelopes.ts';
import { HttpCall } from './http-call.ts';
import { exchangeOf, type HttpMethod, httpMethods } from './methods.ts';
import { formOf, oversizeOf, refusalOf, timeoutMs, valuesOf } from './request-headers.ts';
import { type Page, SIGN_OFF_PATH, signOffPage } from './sign-off-page.ts';
import { Http1Wire, Http2Wire, type Wire } from './wire.ts';

export interface HttpServerOptions extends Omit<Serving, 'stopping'> {
  readonly admission: Admission;
  readonly connections: Connections;
  readonly limits: ProtocolLimits & {
    /** The longest that a call may take, if it is no stream, in milliseconds. */
    readonly deadlineMs: number;
  };
  /** host:port; port 0 takes a free one. */
  readonly listen: string;
  readonly tls: TlsFileNames;
  /** Whether people's browsers find the sign-off page here. */
  readonly hasSignOff: boolean;
}

/** How often HTTP/1.1 looks for requests that take too long to arrive. */
const LOOK_MS = 1_000;
/** By so much Node's end of a request is later than its deadline, also where the loop is late. */
const BEHIND_MS = 5_000;
/** What was destroyed is closed in a moment. */
const CLOSING_MS = 500;
/** What the bytes of no request are answered with, by what Node says of them. */
const REFUSED: Readonly<Record<string, string>> = {
  ERR_HTTP_REQUEST_TIMEOUT: '408 Request Timeout',
  HPE_HEADER_OVERFLOW: '431 Request Header Fields Too Large',
};
const IGNORE = () => {};

/** As HTTP/2 has it: the last are names and values in turns, as they came. */
type StreamListener = (
  stream: ServerHttp2Stream,
  headers: IncomingHttpHeaders,
  flags: number,
  rawHeaders: readonly string[],
) => void;

/** Serves the contract by Connect's protocol, and the sign-off page. */
export class HttpServer {
  readonly #options: HttpServerOptions;
  readonly #serving: Serving;
  readonly #codec = new JsonCodec();
  readonly #methods = httpMethods(this.#codec);
  readonly #page: Page | undefined;
  readonly #files: TlsFiles;
  readonly #server: Http2SecureServer;
  readonly #stopping = new AbortController();
  #unwatch: (() => void) | undefined;
  #drained: Promise<void> | undefined;

  /** Throws where the TLS files don't load, or the contract's descriptors were not generated. */
  constructor(options: HttpServerOptions) {
    const { services, recording, replays, outcomes, canaryWatch } = options;
    const { stepUp, approvalGate, log, limits } = options;
    this.#options = options;
    const stopping = this.#stopping.signal;
    const asked = { replays, outcomes, canaryWatch, stepUp, approvalGate };
    this.#serving = { services, recording, ...asked, log, stopping };
    this.#page = options.hasSignOff ? signOffPage() : undefined;
    this.#files = new TlsFiles(options.tls);
    this.#server = createSecureServer({
      ...http2Options(limits),
      ...this.#files.options,
      ...http1Options(limits),
    });
    this.#listenToPeers();
  }

  /** Begins to listen; returns the port. */
  async listen(): Promise<number> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const { hostname, port } = new URL(`tcp://${this.#options.listen}`);
    this.#server.once('error', reject);
    const host = hostname.replace(/^\[|\]$/g, '');
    this.#server.listen(Number(port), host, resolve);
    await promise;
    this.#server.off('error', reject);
    const { log } = this.#options;
    this.#unwatch = this.#files.watch(
      (files) => {
        this.#server.setSecureContext(files);
        log.info('certificates of the HTTP listener reloaded');
      },
      (error) =>
        log.error(
          { err: error },
          'cannot reload the certificates of the HTTP listener; the old ones stay in use',
        ),
    );
    return this.port;
  }

  /** The port that it listens at; 0 where it does not. */
  get port(): number {
    return (this.#server.address() as AddressInfo | null)?.port ?? 0;
  }

  /** Looks at once whether the TLS files have changed. */
  reload(): void {
    this.#files.look();
  }

  /**
   * Takes no new call, waits up to `limitMs` for those under way, then ends, also where a peer
   * never does. Called again, it waits for the same end.
   */
  drain(limitMs: number): Promise<void> {
    this.#drained ??= this.#drain(limitMs);
    return this.#drained;
  }

  async #drain(limitMs: number): Promise<void> {
    const { connections } = this.#options;
    this.#unwatch?.();
    this.#stopping.abort();
    if (!this.#server.listening) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#server.close(() => resolve());
    connections.endAll(this.#server);
    connections.destroyUnfinished(this.#server);
    const timer = setTimeout(() => {
      connections.destroyAll(this.#server);
      setTimeout(resolve, CLOSING_MS);
    }, limitMs);
    await promise;
    clearTimeout(timer);
  }

  #listenToPeers(): void {
    const server = this.#server;
    this.#options.connections.watch(server, { http1: true });
    server.on('clientError', (error: NodeJS.ErrnoException, socket: TLSSocket) =>
      this.#refuseBytes(error, socket),
    );
    const request = (isExpected: boolean) => (from: IncomingMessage, to: ServerResponse) =>
      this.#byHttp1(from, to, isExpected);
    // Of HTTP/1.1 alone: Node's types name the requests of HTTP/2's compatibility layer.
    const http1 = server as unknown as {
      on(event: string, listener: ReturnType<typeof request>): void;
    };
    http1.on('request', request(false));
    http1.on('checkContinue', request(true));
    http1.on('checkExpectation', request(false));
    const onStream: StreamListener = (stream, headers, _flags, rawHeaders) =>
      this.#byHttp2(stream, headers, rawHeaders);
    // Node's own, which would make requests of HTTP/2 streams too.
    server.removeAllListeners('stream');
    server.on('stream', onStream);
  }

  #byHttp2(
    stream: ServerHttp2Stream,
    headers: IncomingHttpHeaders,
    rawHeaders: readonly string[],
  ): void {
    stream.on('error', IGNORE); // 'close' follows, and is enough.
    const connection = this.#options.connections.of(stream);
    if (connection === undefined) stream.close(constants.NGHTTP2_REFUSED_STREAM);
    // Reset by the bytes that came with its headers: it costs no more.
    else if (stream.closed || stream.destroyed) connection.callReset(false);
    else this.#admit(new Http2Wire(stream, headers, rawHeaders), connection);
  }

  #byHttp1(request: IncomingMessage, response: ServerResponse, isExpected: boolean): void {
    request.on('error', IGNORE);
    response.on('error', IGNORE);
    const connection = this.#options.connections.ofSocket(request.socket);
    if (connection?.begins(response))
      this.#admit(new Http1Wire(request, response, { connection, isExpected }), connection);
    else request.socket.destroy();
  }

  #admit(wire: Wire, connection: Connection): void {
    const { admission, limits, log, outcomes } = this.#options;
    const method = this.#methods.get(wire.path);
    const form = {
      isJson: formOf(wire)?.isJson ?? true,
      isStream: method?.isStream ?? false,
    };
    const trace = readTraceContext(wire.headers);
    const codec = this.#codec;
    const call = new HttpCall({ wire, connection, form, trace, codec, log, outcomes });
    const page = wire.path === SIGN_OFF_PATH && wire.method === 'GET' ? this.#page : undefined;
    if (page !== undefined && oversizeOf(wire, limits) === undefined) {
      admission.visit(call, () => call.answerPage(page));
      return;
    }
    admission.admit({
      call,
      refusal: refusalOf(wire, method, limits),
      authorizations: valuesOf('authorization', wire.rawHeaders),
      timeoutMs: timeoutMs(wire),
      goOn: () => this.#read(call, method as HttpMethod),
    });
  }

  /** Answers what is no request of HTTP/1.1, or did not come in time, if no answer is under way. */
  #refuseBytes({ code = '' }: NodeJS.ErrnoException, socket: TLSSocket): void {
    const isIdle = this.#options.connections.ofSocket(socket)?.isIdle === true;
    const status = REFUSED[code] ?? '400 Bad Request';
    if (socket.writable && isIdle)
      socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
    destroySoon(socket);
  }

  /** Reads the body, within the method's limit and the caller's share. */
  #read(call: HttpCall, method: HttpMethod): void {
    const { admission } = this.#options;
    const maxBytes = method.maxBytes + (method.isStream ? HEAD_BYTES : 0);
    const tooLarge = () =>
      admission.turnOut(
        call,
        new KeywardError('MESSAGE_TOO_LARGE', { metadata: { limit: String(method.maxBytes) } }),
      );
    if (Number(call.wire.headers['content-length']) > maxBytes) {
      tooLarge();
      return;
    }
    const pieces: Buffer[] = [];
    let length = 0;
    call.wire.read({
      piece: (bytes) => {
        if (call.isOver || call.wire.isAnswering) return;
        length += bytes.length;
        if (length > maxBytes) tooLarge();
        else {
          pieces.push(bytes);
          admission.received(call, bytes.length);
        }
      },
      whole: () => {
        if (call.wire.isAnswering) return;
        const body = Buffer.concat(pieces);
        for (const piece of pieces) piece.fill(0);
        try {
          this.#serve(call, method, method.isStream ? onlyMessage(body) : body);
        } catch (error) {
          admission.turnOut(call, toKeywardError(error));
        }
      },
    });
  }

  #serve(call: HttpCall, method: HttpMethod, body: Buffer): void {
    const admitted = this.#options.admission.take(call);
    if (admitted === undefined) throw new Error('a call is served that was not admitted');
    serveCall(this.#serving, {
      ...exchangeOf(method, { admitted, body, isJson: call.form.isJson }),
      send: (answer) => call.send(answer),
      finish: (error, answer) => call.finish(error, answer),
      onCancelled: (listener) => call.onClose(listener),
    });
  }
}

function http1Options({ handshakeMs, deadlineMs, maxHeaderBytes }: HttpServerOptions['limits']) {
  return {
    allowHTTP1: true,
    headersTimeout: handshakeMs,
    // For streams, which have no deadline: their requests have to arrive all the same. A call is
    // answered at its deadline; Node, which counts from an earlier moment, must not be first.
    requestTimeout: Math.max(handshakeMs, deadlineMs) + BEHIND_MS,
    connectionsCheckingInterval: LOOK_MS,
    // Idle connections are ended as all are (`connection.ts`).
    keepAliveTimeout: 0,
    maxHeaderSize: HEADROOM * maxHeaderBytes,
  } as const;
}
