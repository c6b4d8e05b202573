/**
 * What operators' programs ask, in plaintext by HTTP/1.1 on an address of its own: metrics, and
 * whether the process lives and is ready.
 *
 * - Nothing that is secret can be learned here, and nothing can be changed: there is GET and HEAD.
 * - What peers may do with connections is `transport/strangers.ts`'s; a connection has one request
 *   at a time, so that a peer that takes no answers costs one.
 * - No request, response or socket is without a listener for errors, and what fails while one is
 *   answered ends its connection, not the process.
 *
 * Does not know what the pages say.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Logger } from 'pino';
import { createServer } from '../../node-http.ts';
import { type Asking, type Stranger, Strangers } from '../transport/strangers.ts';

/** What a page answers. */
export interface Page {
  readonly status: number;
  readonly type: string;
  readonly body: Buffer | string;
}

/** Makes a page; `accept` is the request's header of that name, empty where there is none. */
export type PageMaker = (accept: string) => Page | Promise<Page>;

const MAX_HEADER_BYTES = 8_192;
const TEXT = 'text/plain; charset=utf-8';

/** Answers operators' programs in plaintext, on an address of its own. */
export class OperatorsListener {
  readonly #pages: Readonly<Record<string, PageMaker>>;
  readonly #strangers: Strangers;
  readonly #http: Server;
  /** Whose socket it is, while it is open. */
  readonly #peers = new WeakMap<Socket, Stranger>();
  /** Sockets that have a request under way. */
  readonly #busy = new WeakSet<Socket>();

  /** `pages` has them by their paths. */
  constructor(log: Logger, pages: Readonly<Record<string, PageMaker>>) {
    this.#pages = pages;
    this.#http = createServer({ maxHeaderSize: MAX_HEADER_BYTES, keepAliveTimeout: 0 });
    this.#http.on('request', (request, response) => this.#begin(request, response));
    this.#http.on('checkContinue', (request, response) => this.#begin(request, response));
    this.#http.on('checkExpectation', (request, response) => this.#begin(request, response));
    this.#http.on('connect', (_request, socket: Socket) => this.#refuse(socket));
    this.#http.on('clientError', (_error, socket: Socket) => this.#refuse(socket));
    this.#strangers = new Strangers({
      ...{ name: 'monitoring', log },
      serve: (socket, stranger) => {
        this.#peers.set(socket, stranger);
        this.#http.emit('connection', socket);
      },
    });
  }

  /** Begins to listen on host:port; returns the port. */
  listen(address: string): Promise<number> {
    return this.#strangers.listen(address);
  }

  /** Ends at once. */
  stop(): void {
    this.#strangers.stop();
  }

  /** Ends what is no request of HTTP/1.1. */
  #refuse(socket: Socket): void {
    const peer = this.#peers.get(socket);
    if (peer === undefined) socket.destroy();
    else peer.breaksProtocol();
  }

  #begin(request: IncomingMessage, response: ServerResponse): void {
    request.on('error', () => {}); // 'close' follows, and is enough.
    response.on('error', () => {});
    const { socket } = request;
    const peer = this.#peers.get(socket);
    // Of requests that do not wait for the answers before them none is answered.
    if (peer === undefined || this.#busy.has(socket)) {
      this.#refuse(socket);
      return;
    }
    this.#busy.add(socket);
    response.once('close', () => this.#busy.delete(socket));
    const asking = peer.asks((listener) => response.once('close', listener));
    if (asking !== undefined) this.#answer(request, response, asking);
  }

  #answer(request: IncomingMessage, response: ServerResponse, asking: Asking): void {
    const { method = '', url = '', headers } = request;
    const maker = this.#pages[url.split('?', 1)[0] ?? ''];
    // A body would have to be read: there is none that means anything.
    const hasBody = headers['transfer-encoding'] !== undefined || !/^0?$/.test(lengthOf(request));
    if (method !== 'GET' && method !== 'HEAD')
      send(response, { status: 405, type: TEXT, body: 'only GET and HEAD\n' }, true);
    else if (maker === undefined) {
      const body = `pages: ${Object.keys(this.#pages).join(', ')}\n`;
      send(response, { status: 404, type: TEXT, body }, hasBody);
    } else {
      const make = async () => {
        const page = await maker(headers.accept ?? '');
        if (!response.destroyed) send(response, page, hasBody);
      };
      make().catch(asking.fail);
    }
  }
}

function lengthOf({ headers }: IncomingMessage): string {
  return headers['content-length'] ?? '';
}

function send(response: ServerResponse, { status, type, body }: Page, closes: boolean): void {
  response.writeHead(status, {
    'content-type': type,
    'content-length': Buffer.byteLength(body),
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
    ...(status === 405 && { allow: 'GET, HEAD' }),
    ...(closes && { connection: 'close' }),
  });
  response.end(body);
}
