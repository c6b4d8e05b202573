/**
 * HTTP/2 and TLS clients that misbehave, for tests: calls with whatever headers and bytes, frames
 * one by one, sockets that never shake hands.
 *
 * {@link call} speaks correct HTTP/2 and wrong gRPC; {@link FrameClient} owes nothing to anyone.
 * Everything is bounded: nothing here sends unless it is told to, and everything is closed by
 * `using`. Knows the service's address and certificates, not its methods.
 */
import {
  type ClientHttp2Session,
  connect as connectHttp2,
  constants,
  type OutgoingHttpHeaders,
} from 'node:http2';
import { createConnection, type Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { setImmediate as turn } from 'node:timers/promises';
import { type ConnectionOptions, connect as connectTls, TLSSocket } from 'node:tls';
import type { MessageTypeDefinition } from '@grpc/proto-loader';
import { packageDefinition } from '../../src/faces/contract/proto.ts';
import { clientSecret, RECORD_SUITE, RecordMaker } from './tls-records.ts';

/** Where the service is, and with which certificate, if any, to go there. */
export interface Peer {
  readonly port: number;
  readonly ca: string;
  readonly cert?: string;
  readonly key?: string;
  /** The address to come from: any of 127.0.0.0/8. */
  readonly localAddress?: string;
}

/** What came back. */
export interface Answer {
  readonly httpStatus: number | undefined;
  /** The gRPC status; undefined when none came. */
  readonly status: number | undefined;
  readonly message: string;
  /** Of ErrorInfo. */
  readonly reason: string | undefined;
  readonly metadata: Readonly<Record<string, string>>;
  readonly fields: readonly string[];
  /** Of RetryInfo. */
  readonly retryAfterMs: number | undefined;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly body: Buffer;
  /** The code that the stream was reset with; 0 when it wasn't. */
  readonly rstCode: number;
}

/** The five bytes before a message, and the message. */
export function grpcFrame(
  message: Uint8Array,
  options: { flag?: number; length?: number } = {},
): Buffer {
  const prefix = Buffer.alloc(5);
  prefix.writeUInt8(options.flag ?? 0);
  prefix.writeUInt32BE(options.length ?? message.length, 1);
  return Buffer.concat([prefix, message]);
}

/** A protobuf field that has a length (bytes, a string, a message), by its number. */
export function field(number: number, content: Uint8Array | string): Buffer {
  const bytes = typeof content === 'string' ? Buffer.from(content) : content;
  const { length } = bytes;
  if (number > 15 || length >= 2 ** 21) throw new RangeError('a number to 15 and less than 2 MiB');
  const head = [
    (number << 3) | 2,
    (length & 0x7f) | 0x80,
    ((length >> 7) & 0x7f) | 0x80,
    length >> 14,
  ];
  return Buffer.concat([Buffer.from(head), bytes]);
}

/**
 * A session that can be closed by `using`, its errors swallowed: what becomes of a call is in its
 * {@link Answer}.
 */
export function openSession(peer: Peer): ClientHttp2Session & Disposable {
  const session = connectHttp2(`https://127.0.0.1:${peer.port}`, {
    ...tlsOptions(peer),
    // So that it is the server whose limits are met.
    maxSendHeaderBlockLength: 10_000_000,
    maxSessionMemory: 1_000,
  });
  session.on('error', () => {});
  return Object.assign(session, { [Symbol.dispose]: () => session.destroy() });
}

interface CallParts {
  readonly path: string;
  readonly headers?: OutgoingHttpHeaders;
  /** Sent one after another; the request ends after them unless `unfinished`. */
  readonly body?: readonly Uint8Array[];
  readonly unfinished?: boolean;
  /** The body is sent when this is fulfilled. */
  readonly after?: Promise<unknown>;
  /** Resets the stream. */
  readonly signal?: AbortSignal;
}

/** Makes a call with these headers and bytes, and waits until its stream is closed. */
export function call(
  session: ClientHttp2Session,
  { path, headers, body = [], unfinished, after, signal }: CallParts,
): Promise<Answer> {
  const stream = session.request(
    {
      ':method': 'POST',
      ':path': path,
      'content-type': 'application/grpc',
      te: 'trailers',
      ...headers,
    },
    { endStream: false },
  );
  const received: Record<string, unknown> = {};
  const chunks: Buffer[] = [];
  stream.on('response', (values) => Object.assign(received, values));
  stream.on('trailers', (values) => Object.assign(received, values));
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  stream.on('error', () => {});
  signal?.addEventListener('abort', () => stream.close(constants.NGHTTP2_CANCEL));
  const send = () => {
    for (const bytes of body) stream.write(bytes);
    if (!unfinished) stream.end();
  };
  if (after === undefined) send();
  else void after.then(send);
  return new Promise((resolve) =>
    stream.once('close', () =>
      resolve(answerOf(received, Buffer.concat(chunks), stream.rstCode ?? 0)),
    ),
  );
}

function answerOf(
  headers: Readonly<Record<string, unknown>>,
  body: Buffer,
  rstCode: number,
): Answer {
  const details = headers['grpc-status-details-bin'];
  const number = (name: string) =>
    headers[name] === undefined ? undefined : Number(headers[name]);
  return {
    httpStatus: number(':status'),
    status: number('grpc-status'),
    message: decodeURI(String(headers['grpc-message'] ?? '')),
    ...detailsOf(details === undefined ? undefined : Buffer.from(String(details), 'base64')),
    headers,
    body,
    rstCode,
  };
}

type Message = Readonly<Record<string, unknown>>;

function decode(type: string, bytes: Buffer): Message {
  return (
    packageDefinition[type] as unknown as MessageTypeDefinition<Message, Message>
  ).deserialize(bytes);
}

/** What google.rpc.Status holds, as `grpc-status-details-bin` carries it. */
export function detailsOf(
  bytes: Buffer | undefined,
): Pick<Answer, 'reason' | 'metadata' | 'fields' | 'retryAfterMs'> {
  const all =
    bytes === undefined ? [] : (decode('google.rpc.Status', bytes)['details'] as Message[]);
  const detail = (type: string) => {
    const found = all.find((each) =>
      String(each['type_url'] ?? each['typeUrl']).endsWith(`.${type}`),
    );
    return found && decode(`google.rpc.${type}`, found['value'] as Buffer);
  };
  const info = detail('ErrorInfo');
  const violations = (detail('BadRequest')?.['fieldViolations'] ?? []) as {
    readonly field: string;
  }[];
  const delay = detail('RetryInfo')?.['retryDelay'] as
    | { seconds: number; nanos: number }
    | undefined;
  return {
    reason: info?.['reason'] as string | undefined,
    metadata: (info?.['metadata'] ?? {}) as Record<string, string>,
    fields: violations.map(({ field }) => field),
    retryAfterMs: delay && Number(delay.seconds) * 1000 + delay.nanos / 1e6,
  };
}

/** Frame types and flags (RFC 9113, 6). */
export const FRAME = {
  data: 0,
  headers: 1,
  priority: 2,
  rstStream: 3,
  settings: 4,
  ping: 6,
  goaway: 7,
  windowUpdate: 8,
  continuation: 9,
} as const;
export const FLAG = { endStream: 1, endHeaders: 4, ack: 1 } as const;
/** What a client begins an HTTP/2 connection with. */
export const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');

export interface Frame {
  readonly type: number;
  readonly flags: number;
  readonly stream: number;
  readonly payload: Buffer;
}

/** A frame's bytes. */
export function frame(
  type: number,
  flags: number,
  stream: number,
  payload: Uint8Array = Buffer.alloc(0),
): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head.writeUInt8(type, 3);
  head.writeUInt8(flags, 4);
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

/** 32 bits, as RST_STREAM and WINDOW_UPDATE carry them. */
export function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

/**
 * A header block of literals without indexing or Huffman's code (RFC 7541, 6.2.2); strings up to
 * 126 bytes. What is in `more` takes the place of what calls usually have.
 */
export function headerBlock(
  path: string,
  more: readonly (readonly [string, string])[] = [],
): Buffer {
  const named = new Set(more.map(([name]) => name));
  const usual = [
    [':method', 'POST'],
    [':scheme', 'https'],
    [':path', path],
    [':authority', 'localhost'],
    ['content-type', 'application/grpc'],
    ['te', 'trailers'],
  ] as const;
  const fields = [...usual.filter(([name]) => !named.has(name)), ...more];
  const literal = (text: string) =>
    Buffer.concat([Buffer.from([text.length]), Buffer.from(text, 'latin1')]);
  return Buffer.concat(
    fields.flatMap(([name, value]) => [Buffer.from([0]), literal(name), literal(value)]),
  );
}

/**
 * TCP under TLS that can be reset, and written to past TLS. (Node's own crashes if that is done to
 * it.)
 */
class TcpUnderTls extends Duplex {
  readonly #tcp: Socket;

  constructor(peer: Pick<Peer, 'port' | 'localAddress'>) {
    super();
    this.#tcp = connectTcp(peer);
    this.#tcp.on('data', (chunk) => this.push(chunk));
    this.#tcp.on('error', () => this.destroy());
    this.#tcp.on('close', () => {
      this.push(null);
      this.destroy();
    });
  }

  /** What TLS has still to say is said first: it takes some turns over what is no TCP for Node. */
  async settled(): Promise<void> {
    for (let turns = 0; turns < 5; turns += 1) await turn();
  }

  async reset(): Promise<void> {
    await this.settled();
    this.#tcp.resetAndDestroy();
    this.destroy();
  }

  override _write(chunk: Buffer, _encoding: unknown, done: () => void): void {
    this.#tcp.write(chunk, () => done());
  }

  override _read(): void {}

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#tcp.destroy();
    done(error);
  }
}

interface FrameClientOptions extends ConnectionOptions {
  /** Has the connection be one that can be reset. */
  readonly isResettable?: boolean;
  /** Has what is sent leave in records of our own, so that keys can be updated. */
  readonly ownRecords?: boolean;
}

/**
 * A connection, by TLS unless it was opened without, on which frames are sent as they are, right or
 * wrong.
 */
export class FrameClient implements Disposable {
  readonly frames: Frame[] = [];
  /** When the server has closed the connection. */
  readonly closed: Promise<void>;
  /** What frames go through: TLS, or TCP itself. */
  readonly #socket: Socket;
  readonly #tcp: TcpUnderTls | undefined;
  readonly #records: RecordMaker | undefined;
  #rest = Buffer.alloc(0);
  #isOurEnd = false;
  #failure: string | undefined;

  private constructor(socket: Socket, tcp?: TcpUnderTls, records?: RecordMaker) {
    this.#socket = socket;
    this.#tcp = tcp;
    this.#records = records;
    this.closed = new Promise((resolve) => {
      if (this.isClosed) resolve();
      socket.once('close', () => resolve());
      tcp?.once('close', () => resolve());
    });
    socket.on('error', (error) => {
      this.#failure ??= error.message;
    });
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
  }

  /** Shakes hands, and no more. */
  static async connect(peer: Peer, options: FrameClientOptions = {}): Promise<FrameClient> {
    const { ownRecords = false, isResettable = ownRecords, ...rest } = options;
    const tcp = isResettable ? new TcpUnderTls(peer) : undefined;
    const socket = connectTls({
      host: '127.0.0.1',
      port: peer.port,
      ALPNProtocols: ['h2'],
      ...tlsOptions(peer),
      ...(ownRecords ? { ciphers: RECORD_SUITE } : {}),
      ...(tcp && { socket: tcp }),
      ...rest,
    });
    const secret = clientSecret(socket);
    await new Promise<void>((resolve, reject) => {
      socket.once('secureConnect', resolve);
      socket.once('close', () =>
        reject(new Error('the connection was closed during its handshake')),
      );
      socket.on('error', reject);
    });
    if (!ownRecords) return new FrameClient(socket, tcp);
    const client = new FrameClient(socket, tcp, new RecordMaker(await secret));
    // By its first frame the server says that it has all of the handshake, which Node sends after
    // it calls it done.
    await Promise.race([client.closed, new Promise((resolve) => socket.once('data', resolve))]);
    return client;
  }

  /** Connects to a port without TLS. */
  static async connectPlain(peer: Pick<Peer, 'port' | 'localAddress'>): Promise<FrameClient> {
    const tcp = connectTcp(peer);
    await new Promise<void>((resolve, reject) => {
      tcp.once('connect', resolve);
      tcp.once('error', reject);
    });
    return new FrameClient(tcp);
  }

  /** The connection preface, with these settings: pairs of identifier and value. */
  begin(settings: readonly (readonly [number, number])[] = []): void {
    const payload = Buffer.concat(
      settings.map(([id, value]) =>
        Buffer.concat([Buffer.from([id >> 8, id & 0xff]), uint32(value)]),
      ),
    );
    this.send(PREFACE, frame(FRAME.settings, 0, 0, payload));
  }

  /** Sends bytes in one piece; what can't be sent any more is dropped. */
  send(...bytes: readonly Uint8Array[]): void {
    if (!this.#socket.writable) return;
    const all = Buffer.concat(bytes);
    if (this.#records === undefined) this.#socket.write(all);
    else this.#tcp?.write(this.#records.data(all));
  }

  /** Sends so many key updates of TLS, each of which asks for one in return. */
  updateKeys(count: number): void {
    const records = this.#records;
    if (records === undefined) throw new Error('only records of our own can update keys');
    if (!this.#socket.writable) return;
    this.#tcp?.write(Buffer.concat(Array.from({ length: count }, () => records.keyUpdate())));
  }

  /** Ends the connection by a TCP segment with RST, behind what was sent. */
  async reset(): Promise<void> {
    this.#isOurEnd = true;
    if (this.#tcp !== undefined) await this.#tcp.reset();
    else if (this.#socket instanceof TLSSocket)
      throw new Error('this connection is not resettable');
    else this.#socket.resetAndDestroy();
  }

  /** Whether it was the server that ended the connection. */
  get wasEnded(): boolean {
    return this.isClosed && !this.#isOurEnd;
  }

  /** How the connection ended, as this side saw it. */
  get ending(): string {
    const { code, text } = this.goaway ?? {};
    return `GOAWAY ${code} ${text}, error ${this.#failure}, ${this.frames.length} frames`;
  }

  /** Reads no more: the server's side fills up. */
  stopReading(): void {
    this.#socket.pause();
  }

  /** Whether the connection is closed, by whichever side. */
  get isClosed(): boolean {
    return this.#socket.destroyed || this.#tcp?.destroyed === true;
  }

  /** The code and text of the last GOAWAY. */
  get goaway(): { readonly code: number; readonly text: string } | undefined {
    const last = this.frames.findLast(({ type }) => type === FRAME.goaway);
    return (
      last && { code: last.payload.readUInt32BE(4), text: last.payload.subarray(8).toString() }
    );
  }

  /** Frames of a type that came. */
  received(type: number): Frame[] {
    return this.frames.filter((each) => each.type === type);
  }

  [Symbol.dispose](): void {
    if (!this.isClosed) this.#isOurEnd = true;
    this.#socket.destroy();
    this.#tcp?.destroy();
  }

  #receive(chunk: Buffer): void {
    this.#rest = Buffer.concat([this.#rest, chunk]);
    while (this.#rest.length >= 9) {
      const length = this.#rest.readUIntBE(0, 3);
      if (this.#rest.length < 9 + length) return;
      this.frames.push({
        type: this.#rest.readUInt8(3),
        flags: this.#rest.readUInt8(4),
        stream: this.#rest.readUInt32BE(5),
        payload: Buffer.from(this.#rest.subarray(9, 9 + length)),
      });
      this.#rest = this.#rest.subarray(9 + length);
    }
  }
}

/**
 * TCP under a {@link FrameClient}, given to it as the option `socket`, that keeps back what it is
 * to send from the answer to the first flight on: so that it all, and the reset after it, reach the
 * server between two of its turns.
 */
export class HeldSocket extends Duplex {
  readonly #tcp: Socket;
  readonly #held: Buffer[] = [];
  #isHolding = false;

  constructor(port: number) {
    super();
    this.#tcp = createConnection(port, '127.0.0.1');
    this.#tcp.on('error', () => this.destroy());
    this.#tcp.on('close', () => this.push(null));
    this.#tcp.once('data', () => this.hold());
    this.#tcp.on('data', (chunk) => this.push(chunk));
  }

  /** Keeps back from here on. */
  hold(): void {
    this.#isHolding = true;
  }

  /** Sends what was kept back, and then at once. */
  async release(): Promise<void> {
    await this.#settled();
    this.#isHolding = false;
    this.#tcp.write(Buffer.concat(this.#held.splice(0)));
  }

  /**
   * Sends what was kept back, and resets the connection (SO_LINGER of 0) so many microseconds
   * later.
   */
  async reset(delay = 0): Promise<void> {
    await this.release();
    const end = performance.now() + delay / 1_000;
    while (performance.now() < end); // No timer is that exact.
    this.#tcp.resetAndDestroy();
    this.destroy();
  }

  override _write(chunk: Buffer, _encoding: unknown, done: () => void): void {
    if (this.#isHolding) this.#held.push(chunk);
    else this.#tcp.write(chunk);
    done();
  }

  override _read(): void {}

  /** TLS over what is no TCP hands its records on in later turns. */
  async #settled(): Promise<void> {
    for (let turns = 0; turns < 5; turns += 1) await turn();
  }
}

/**
 * TCP connections on which these bytes are sent and then nothing; `open` says how many are still
 * there.
 */
export class SilentSockets implements Disposable {
  readonly #sockets: Socket[];

  constructor(
    peer: number | Pick<Peer, 'port' | 'localAddress'>,
    count: number,
    bytes: Uint8Array = Buffer.alloc(0),
  ) {
    this.#sockets = Array.from({ length: count }, () => {
      const socket = connectTcp(typeof peer === 'number' ? { port: peer } : peer);
      socket.on('error', () => {});
      socket.resume();
      if (bytes.length > 0) socket.write(bytes);
      return socket;
    });
  }

  get open(): number {
    return this.#sockets.filter(({ destroyed }) => !destroyed).length;
  }

  /** Ends them by TCP segments with RST. */
  reset(): void {
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  [Symbol.dispose](): void {
    for (const socket of this.#sockets) socket.destroy();
  }
}

function connectTcp({ port, localAddress }: Pick<Peer, 'port' | 'localAddress'>): Socket {
  return createConnection({
    host: '127.0.0.1',
    port,
    noDelay: true,
    ...(localAddress === undefined ? {} : { localAddress }),
  });
}

function tlsOptions({
  ca,
  cert,
  key,
  localAddress,
}: Peer): ConnectionOptions & { localAddress?: string | undefined } {
  return { ca, cert, key, servername: 'localhost', localAddress };
}
