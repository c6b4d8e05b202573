/**
 * HTTP clients for tests: requests with whatever method, headers and body, over HTTP/1.1 and
 * HTTP/2, and bytes as they are.
 *
 * Everything is bounded and closed when it is answered. Knows the service's address and
 * certificates, not its methods.
 */
import {
  type ClientHttp2Session,
  connect as connectHttp2,
  type OutgoingHttpHeaders,
} from 'node:http2';
import { request as requestHttps } from 'node:https';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { serialize } from '../../../src/faces/contract/proto.ts';
import { detailsOf, type Peer } from '../../faults/http2.ts';

/** A request. */
export interface HttpRequest {
  readonly path: string;
  readonly method?: string;
  readonly headers?: OutgoingHttpHeaders;
  /** As it is, or an object that is sent as JSON. */
  readonly body?: Uint8Array | string | object;
}

/** What came back. */
export interface HttpAnswer {
  /** The HTTP status; 0 where the connection was closed without one. */
  readonly status: number;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly body: Buffer;
  /** The body, where it is JSON. */
  readonly json: Readonly<Record<string, unknown>>;
}

/** Which HTTP is spoken. */
export type HttpVersion = 'HTTP/1.1' | 'HTTP/2';
export const HTTP_VERSIONS: readonly HttpVersion[] = ['HTTP/1.1', 'HTTP/2'];

/** Makes one request on a connection of its own. */
export function ask(peer: Peer, version: HttpVersion, request: HttpRequest): Promise<HttpAnswer> {
  return version === 'HTTP/2' ? askOnce(peer, request) : askHttp1(peer, request);
}

async function askOnce(peer: Peer, request: HttpRequest): Promise<HttpAnswer> {
  using session = openHttp2(peer);
  return await askHttp2(session, request);
}

/** Opens an HTTP/2 session that can be closed by `using`. */
export function openHttp2(peer: Peer): ClientHttp2Session & Disposable {
  const session = connectHttp2(`https://127.0.0.1:${peer.port}`, {
    ...tlsOf(peer),
    // So that it is the server whose limits are met.
    maxSendHeaderBlockLength: 10_000_000,
    maxSessionMemory: 1_000,
  });
  session.on('error', () => {});
  return Object.assign(session, { [Symbol.dispose]: () => session.destroy() });
}

/** Makes one request by a session. */
export function askHttp2(session: ClientHttp2Session, request: HttpRequest): Promise<HttpAnswer> {
  const { path, method = 'POST', headers, body } = request;
  const stream = session.request(
    { ':method': method, ':path': path, 'content-type': 'application/json', ...headers },
    { endStream: false },
  );
  const received: Record<string, unknown> = {};
  const chunks: Buffer[] = [];
  stream.on('response', (values) => Object.assign(received, values));
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  stream.on('error', () => {});
  stream.end(bytesOf(body));
  return new Promise((resolve) =>
    stream.once('close', () =>
      resolve(answerOf(Number(received[':status'] ?? 0), received, chunks)),
    ),
  );
}

function askHttp1(peer: Peer, { path, method = 'POST', headers, body }: HttpRequest) {
  const bytes = bytesOf(body);
  return new Promise<HttpAnswer>((resolve) => {
    const request = requestHttps({
      ...tlsOf(peer),
      host: '127.0.0.1',
      port: peer.port,
      path,
      method,
      agent: false,
      headers: {
        'content-type': 'application/json',
        'content-length': bytes.length,
        ...headers,
      },
    });
    request.on('error', () => resolve(answerOf(0, {}, [])));
    request.on('response', (response) => {
      const chunks: Buffer[] = [];
      response.on('error', () => {});
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('close', () =>
        resolve(answerOf(response.statusCode ?? 0, response.headers, chunks)),
      );
    });
    request.end(bytes);
  });
}

/** Sends these bytes by HTTP/1.1's TLS, and returns all that comes until the server closes. */
export async function askRaw(
  peer: Peer,
  text: string | Uint8Array,
  { alpn = ['http/1.1'], until }: { alpn?: string[]; until?: RegExp } = {},
): Promise<string> {
  using socket = await openRaw(peer, alpn);
  let received = '';
  socket.on('data', (chunk: Buffer) => {
    received += chunk.toString('latin1');
    if (until?.test(received)) socket.destroy();
  });
  socket.write(text);
  await new Promise((resolve) => socket.once('close', resolve));
  return received;
}

/** Opens TLS and no more; closed by `using`. */
export async function openRaw(
  peer: Peer,
  alpn: string[] = ['http/1.1'],
): Promise<TLSSocket & Disposable> {
  const socket = connectTls({
    ...tlsOf(peer),
    host: '127.0.0.1',
    port: peer.port,
    ...(alpn.length > 0 && { ALPNProtocols: alpn }),
  });
  socket.on('error', () => {});
  await new Promise<void>((resolve, reject) => {
    socket.once('secureConnect', resolve);
    socket.once('close', () => reject(new Error('closed during the handshake')));
  });
  return Object.assign(socket, { [Symbol.dispose]: () => socket.destroy() });
}

/** Returns a request of HTTP/1.1 as text. */
export function requestText(path: string, body: string, lines: readonly string[] = []): string {
  const head = [
    `POST ${path} HTTP/1.1`,
    'Host: localhost',
    'Content-Type: application/json',
    `Content-Length: ${Buffer.byteLength(body)}`,
  ];
  const named = new Set(lines.map((line) => line.split(':')[0]));
  const kept = head.filter((line) => !named.has(line.split(':')[0]));
  return `${[...kept, ...lines].join('\r\n')}\r\n\r\n${body}`;
}

type Json = Readonly<Record<string, unknown>>;

/** Returns the parts of a Connect error that a program looks at. */
export function failureIn(json: Json) {
  const { code, message } = json;
  return { code, message, ...detailsOf(statusBytes(json, 0)) };
}

/** Returns a Connect error as google.rpc.Status, as gRPC's trailers have it. */
export function statusBytes({ message = '', details = [] }: Json, code: number): Buffer {
  const all = (details as { readonly type: string; readonly value: string }[]).map(
    ({ type, value }) => ({
      type_url: `type.googleapis.com/${type}`,
      value: Buffer.from(value, 'base64'),
    }),
  );
  return serialize('google.rpc.Status', { code, message, details: all });
}

function bytesOf(body: HttpRequest['body'] = ''): Uint8Array {
  if (body instanceof Uint8Array) return body;
  return Buffer.from(typeof body === 'string' ? body : JSON.stringify(body));
}

function answerOf(
  status: number,
  headers: Readonly<Record<string, unknown>>,
  chunks: readonly Buffer[],
): HttpAnswer {
  const body = Buffer.concat(chunks);
  const isJson = headers['content-type'] === 'application/json';
  return { status, headers, body, json: isJson ? JSON.parse(body.toString()) : {} };
}

function tlsOf({ ca, cert, key, localAddress }: Peer) {
  return { ca, cert, key, servername: 'localhost', localAddress };
}
