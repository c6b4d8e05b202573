/**
 * The load generator: a process of its own with a plain grpc-js client, or Node's own HTTP/2 where
 * requests are JSON, one connection for each server.
 *
 * Messages go and come as bytes and latencies into an array made beforehand, so that it costs the
 * machine as little as a client can. One failed call fails its slice. Every call has a deadline, so
 * every slice ends. Knows no method.
 */
import { readFileSync } from 'node:fs';
import { type ClientHttp2Session, connect } from 'node:http2';
import { Client, credentials, Metadata } from '@grpc/grpc-js';
import type { LoadIdentity, Slice, SliceReply, SliceResult } from './load-protocol.ts';

const DEADLINE_MS = 20_000;
const latencies = new Float64Array(1 << 20);
const clients = new Map<string, Client>();
const sessions = new Map<string, ClientHttp2Session>();
let identity: LoadIdentity | undefined;

process.on('message', (message: { identity: LoadIdentity } | { slice: Slice }) => {
  if ('identity' in message) {
    identity = message.identity;
    return;
  }
  run(message.slice).then(
    (result) => reply({ result }),
    (error: Error) => reply({ failure: `${message.slice.path}: ${error.message}` }),
  );
});
process.once('disconnect', () => process.exit(0));
process.on('SIGINT', () => {});

function reply(answer: SliceReply): void {
  process.send?.(answer);
}

function readIdentity(): Record<'ca' | 'key' | 'cert', Buffer> {
  if (identity === undefined) throw new Error('a slice before the identity');
  const { caFile, keyFile, certFile } = identity;
  return { ca: readFileSync(caFile), key: readFileSync(keyFile), cert: readFileSync(certFile) };
}

function clientOf(address: string, index: number): Client {
  const name = `${address} ${index}`;
  const known = clients.get(name);
  if (known !== undefined) return known;
  const { ca, key, cert } = readIdentity();
  const ssl = credentials.createSsl(ca, key, cert);
  // Clients of one address would otherwise share a connection.
  const client = new Client(address, ssl, { 'grpc.use_local_subchannel_pool': 1 });
  clients.set(name, client);
  return client;
}

function sessionOf(address: string): ClientHttp2Session {
  const known = sessions.get(address);
  if (known !== undefined) return known;
  const session = connect(`https://${address}`, { ...readIdentity(), servername: 'localhost' });
  sessions.set(address, session);
  return session;
}

const asIs = (bytes: Buffer) => bytes;

type Answered = (error: Error | undefined, answer: Buffer | undefined) => void;

/** Returns what makes a call. */
function callerFor(slice: Slice): (request: Buffer, answered: Answered) => void {
  const { address, path, token, isJson = false, connections = 1 } = slice;
  if (isJson) return jsonCallerFor(sessionOf(address), slice);
  const all = Array.from({ length: connections }, (_, index) => clientOf(address, index));
  let calls = 0;
  const metadata = new Metadata();
  if (token !== undefined) metadata.set('authorization', `Bearer ${token}`);
  return (request, answered) => {
    const options = { deadline: Date.now() + DEADLINE_MS };
    const client = all[calls % connections] as Client;
    calls += 1;
    client.makeUnaryRequest(path, asIs, asIs, request, metadata, options, (error, answer) =>
      answered(error ?? undefined, answer),
    );
  };
}

function jsonCallerFor(session: ClientHttp2Session, { path, token }: Slice) {
  const headers = {
    ':method': 'POST',
    ':path': path,
    'content-type': 'application/json',
    'connect-timeout-ms': String(DEADLINE_MS),
    ...(token !== undefined && { authorization: `Bearer ${token}` }),
  };
  return (request: Buffer, answered: Answered) => {
    const stream = session.request(headers);
    const chunks: Buffer[] = [];
    let status: unknown;
    stream.on('response', (response) => {
      status = response[':status'];
    });
    stream.on('data', (chunk: Buffer) => chunks.push(chunk));
    stream.once('error', (error) => answered(error, undefined));
    stream.once('end', () => {
      const answer = Buffer.concat(chunks);
      if (status === 200) answered(undefined, answer);
      else answered(new Error(`HTTP ${status}: ${answer}`), undefined);
    });
    stream.end(request);
  };
}

async function run(slice: Slice): Promise<SliceResult> {
  const call = callerFor(slice);
  const { requests, inFlight, once } = slice;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const window = new Window(slice);
  let [sent, completed] = [0, 0];
  let lastAnswer: Buffer | undefined;

  const send = () => {
    const request = requests[sent % requests.length] as Buffer;
    const sentAt = performance.now();
    sent += 1;
    call(request, (error, answer) => {
      completed += 1;
      lastAnswer = answer;
      if (error !== undefined) {
        reject(error);
        return;
      }
      window.answered(sentAt, performance.now());
      if (!window.isOver && !(once && sent === requests.length)) send();
      else if (completed === sent) resolve();
    });
  };
  for (let index = 0; index < (once ? Math.min(inFlight, requests.length) : inFlight); index++)
    send();
  await promise;

  if (lastAnswer === undefined) throw new Error('no answer');
  return { ...window.figures(), completed, lastAnswer };
}

/**
 * Which answers count: those of the measured time, which begins with an answer, when the ramp is
 * over and every call that was sent at first has had its answer, and ends with one; so calls that
 * come back in waves are counted in whole waves.
 */
class Window {
  readonly #slice: Slice;
  readonly #openAt: number;
  #answers = 0;
  #counted = 0;
  #from: number | undefined;
  #lastAt = 0;
  isOver = false;

  constructor(slice: Slice) {
    this.#slice = slice;
    this.#openAt = performance.now() + slice.rampMs;
    if (slice.once) this.#from = this.#openAt;
  }

  answered(sentAt: number, now: number): void {
    const { inFlight, once, measureMs } = this.#slice;
    this.#answers += 1;
    if (this.#from === undefined) {
      if (this.#answers >= inFlight && now >= this.#openAt) this.#from = now;
    } else if (!this.isOver && this.#counted < latencies.length) {
      latencies[this.#counted] = now - sentAt;
      this.#counted += 1;
      this.#lastAt = now;
      this.isOver = now >= this.#from + measureMs && (once || this.#counted >= inFlight);
    }
  }

  figures(): Omit<SliceResult, 'completed' | 'lastAnswer'> {
    const counted = this.#counted;
    if (this.#from === undefined || counted === 0)
      throw new Error('no answer came in the measured time');
    const sorted = latencies.subarray(0, counted).sort();
    const quantile = (q: number) =>
      sorted[Math.min(counted - 1, Math.floor(q * counted))] ?? Number.NaN;
    const seconds = (this.#lastAt - this.#from) / 1000;
    return { counted, seconds, p50Ms: quantile(0.5), p99Ms: quantile(0.99) };
  }
}
