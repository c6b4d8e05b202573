/**
 * Health for those that have no certificate: grpc.health.v1 in plaintext on an address of its own,
 * and the question that `keyward-server health` asks there.
 *
 * Kubernetes' probes speak no TLS, and a container's own check should need no identity that could
 * call the service.
 *
 * - Nothing but SERVING or NOT_SERVING can be learned here. The empty service says whether calls
 *   can be served; {@link LIVENESS} is SERVING while the process answers at all, since restarting
 *   it brings back neither database nor HSM.
 * - A question is one short message, an answer a few bytes; a watcher that does not take them is
 *   told nothing more.
 * - What peers may do with connections is `transport/strangers.ts`'s. grpc-js serves none of this:
 *   it holds what nobody reads.
 *
 * The port with TLS has health as well (`server.ts`). Knows no key.
 */
import { constants, type ServerHttp2Stream } from 'node:http2';
import { Client, credentials, Metadata, type ServiceDefinition } from '@grpc/grpc-js';
import { service } from 'grpc-health-check';
import type { Logger } from 'pino';
import { Strangers } from '../transport/strangers.ts';
import { HealthStreams, type Request } from './health-streams.ts';
import { CONTENT_TYPE } from './request-headers.ts';

/** The service name that a liveness probe asks for. */
export const LIVENESS = 'liveness';

const CHECK_TIMEOUT_MS = 3_000;
/** Of a question: names are short. */
const MAX_MESSAGE_BYTES = 1_024;
const PREFIX_BYTES = 5;
const HEADERS = { ':status': 200, 'content-type': 'application/grpc' };
/** gRPC's statuses that are answered here. */
const STATUS = {
  invalidArgument: 3,
  notFound: 5,
  resourceExhausted: 8,
  unimplemented: 12,
} as const;

type Status = 'SERVING' | 'NOT_SERVING';
type Method = ServiceDefinition[string];

/** What is asked, and of which service; List asks of all. */
interface Question {
  readonly method: Method;
  readonly name: string;
}

interface Refusal {
  readonly code: number;
  readonly message: string;
}

/** Answers health in plaintext, and nothing else, on an address of its own. */
export class HealthListener {
  readonly #strangers: Strangers;
  readonly #statuses = new Map<string, Status>([
    ['', 'NOT_SERVING'],
    [LIVENESS, 'SERVING'],
  ]);
  /** Those that watch whether calls can be served. */
  readonly #watchers = new Set<(status: Status) => void>();

  constructor(log: Logger) {
    const streams = new HealthStreams((request) => this.#serve(request));
    this.#strangers = new Strangers({
      ...{ name: 'health', log },
      serve: (socket, stranger) => streams.accept(socket, stranger),
    });
  }

  /** Begins to listen on host:port; returns the port. */
  listen(address: string): Promise<number> {
    return this.#strangers.listen(address);
  }

  /** Says whether calls can be served. */
  setReady(ready: boolean): void {
    const status = ready ? 'SERVING' : 'NOT_SERVING';
    if (status === this.#statuses.get('')) return;
    this.#statuses.set('', status);
    for (const tell of this.#watchers) tell(status);
  }

  /** Ends at once. */
  stop(): void {
    this.#strangers.stop();
  }

  #serve(request: Request): void {
    const { stream, headers, attempt } = request;
    if (headers[':method'] !== 'POST' || !CONTENT_TYPE.test(headers['content-type'] ?? '')) {
      stream.respond({ ':status': 415 }, { endStream: true });
      stream.close(constants.NGHTTP2_NO_ERROR);
      return;
    }
    const chunks: Buffer[] = [];
    let bytes = 0;
    stream.on('data', (chunk: Buffer) =>
      attempt(() => {
        bytes += chunk.length;
        if (bytes <= PREFIX_BYTES + MAX_MESSAGE_BYTES) chunks.push(chunk);
        else
          refuse(stream, { code: STATUS.resourceExhausted, message: 'the message is too large' });
      }),
    );
    stream.on('end', () => attempt(() => this.#answer(request, Buffer.concat(chunks))));
  }

  #answer(request: Request, body: Buffer): void {
    const { stream, headers } = request;
    if (stream.headersSent || stream.destroyed) return;
    const question = questionIn(String(headers[':path']), body);
    if ('code' in question) refuse(stream, question);
    else if (question.method.responseStream) this.#watch(request, question);
    else this.#tell(request, question);
  }

  #tell(request: Request, { method, name }: Question): void {
    const { stream } = request;
    const isList = method === service['List'];
    const status = this.#statuses.get(name);
    if (status === undefined && !isList) {
      refuse(stream, { code: STATUS.notFound, message: 'there is no such service' });
      return;
    }
    const all = [...this.#statuses].map(([each, is]) => [each, { status: is }]);
    begin(request);
    stream.end(frame(method, isList ? { statuses: Object.fromEntries(all) } : { status }));
  }

  #watch(request: Request, { method, name }: Question): void {
    const { stream, attempt, stay } = request;
    const tell = (status: string) =>
      attempt(() => {
        if (stream.destroyed || stream.closed) return;
        // It has not taken what it was told before.
        if (stream.writableLength > 0) stream.close(constants.NGHTTP2_CANCEL);
        else stream.write(frame(method, { status }));
      });
    begin(request);
    tell(this.#statuses.get(name) ?? 'SERVICE_UNKNOWN');
    stay();
    if (name !== '') return;
    this.#watchers.add(tell);
    stream.once('close', () => this.#watchers.delete(tell));
  }
}

/** Answers in the headers alone. */
function refuse(stream: ServerHttp2Stream, { code, message }: Refusal): void {
  if (stream.headersSent || stream.destroyed) return;
  stream.respond(
    { ...HEADERS, 'grpc-status': String(code), 'grpc-message': message },
    { endStream: true },
  );
  stream.close(constants.NGHTTP2_NO_ERROR);
}

/** Begins an answer that ends with OK. */
function begin({ stream, attempt }: Request): void {
  stream.respond(HEADERS, { waitForTrailers: true });
  stream.once('wantTrailers', () => attempt(() => stream.sendTrailers({ 'grpc-status': '0' })));
}

function questionIn(path: string, body: Buffer): Question | Refusal {
  const unimplemented = (message: string) => ({ code: STATUS.unimplemented, message });
  const method = Object.values(service).find((each) => each.path === path);
  if (method === undefined) return unimplemented('only grpc.health.v1 is served here');
  if (body.length < PREFIX_BYTES || body.readUInt32BE(1) !== body.length - PREFIX_BYTES)
    return unimplemented('one message is expected');
  if (body[0] !== 0) return unimplemented('compression is not supported');
  try {
    const request = method.requestDeserialize(body.subarray(PREFIX_BYTES)) as {
      readonly service?: string;
    };
    return { method, name: request.service ?? '' };
  } catch {
    return { code: STATUS.invalidArgument, message: 'the message is malformed' };
  }
}

function frame(method: Method, answer: object): Buffer {
  const message = method.responseSerialize(answer);
  const prefix = Buffer.alloc(PREFIX_BYTES);
  prefix.writeUInt32BE(message.length, 1);
  return Buffer.concat([prefix, message]);
}

/** What the listener on `address` answers: SERVING, NOT_SERVING, or why there was no answer. */
export async function askHealth(address: string): Promise<string> {
  const check = service['Check'];
  if (check === undefined) throw new Error('grpc-health-check has no Check');
  const client = new Client(reachable(address), credentials.createInsecure(), {
    'grpc.enable_http_proxy': 0,
  });
  const { promise, resolve } = Promise.withResolvers<string>();
  client.makeUnaryRequest(
    check.path,
    check.requestSerialize,
    check.responseDeserialize,
    { service: '' },
    new Metadata(),
    { deadline: Date.now() + CHECK_TIMEOUT_MS },
    (error, response) => resolve(error?.message ?? (response as { status: string }).status),
  );
  try {
    return await promise;
  } finally {
    client.close();
  }
}

/** Where a listener on all addresses is reached from the same machine. */
function reachable(address: string): string {
  return address.replace(/^0\.0\.0\.0:/, '127.0.0.1:').replace(/^\[[0:]+\]:/, '[::1]:');
}
