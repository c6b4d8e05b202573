/**
 * A TCP proxy in front of Postgres that sees a replica's statements and cuts it off at one of them.
 *
 * Knows of the protocol (PostgreSQL manual, chapter 53) how messages are told apart, that a
 * statement is a simple query or the messages up to a Sync, and that it ends with ReadyForQuery.
 * What `test/store/proxy.ts` does is for the store alone: it looks for COMMIT and knows no
 * statement.
 */
import { connect, createServer, type Socket } from 'node:net';
import type { Failpoints } from './failpoints.ts';

/** Messages that belong to no statement: the startup's, passwords, and Terminate. */
const OUTSIDE = ['', 'p', 'X'];
const ENDS_STATEMENT = ['Q', 'S'];
const READY_FOR_QUERY = 'Z';

export interface StatementProxy extends AsyncDisposable {
  /** That URL with the proxy's address. */
  through(url: string): string;
}

/**
 * Starts a proxy to the server that the URL names, for the one replica that these points are of.
 */
export async function startStatementProxy(
  target: string,
  points: Failpoints,
): Promise<StatementProxy> {
  const { hostname, port } = new URL(target);
  const sockets = new Set<Socket>();
  const breakAll = () => {
    for (const socket of sockets) socket.destroy();
    sockets.clear();
  };
  points.onDeath(breakAll);
  const server = createServer((client) => {
    if (points.dead) {
      client.destroy();
      return;
    }
    const upstream = connect(Number(port), hostname);
    for (const socket of [client, upstream]) sockets.add(socket.setNoDelay(true));
    new Relay(client, upstream, points);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  const own = address !== null && typeof address === 'object' ? address.port : 0;
  return {
    through(url) {
      const changed = new URL(url);
      changed.hostname = '127.0.0.1';
      changed.port = String(own);
      return changed.href;
    },
    async [Symbol.asyncDispose]() {
      breakAll();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

interface Message {
  /** One letter; empty for the first message of a connection, which has none. */
  readonly type: string;
  readonly bytes: Buffer;
}

/** One connection, both ways. */
class Relay {
  readonly #client: Socket;
  readonly #upstream: Socket;
  readonly #points: Failpoints;
  readonly #readStatements = messageReader(true);
  readonly #readAnswers = messageReader(false);
  /** The messages of a statement that isn't whole yet. */
  #statement: Message[] = [];
  /** While an answer is held back: what there is of it, and that it is whole. */
  #answer: Buffer[] = [];
  #held: PromiseWithResolvers<void> | undefined;
  /** Whether the session has its settings, which its first statement gives it. */
  #isSettled = false;

  constructor(client: Socket, upstream: Socket, points: Failpoints) {
    this.#client = client;
    this.#upstream = upstream;
    this.#points = points;
    for (const socket of [client, upstream]) {
      socket.on('error', () => this.#end()).on('close', () => this.#end());
    }
    client.on('data', (chunk: Buffer) => {
      for (const message of this.#readStatements(chunk)) this.#onMessage(message);
    });
    upstream.on('data', (chunk: Buffer) => this.#onAnswer(chunk));
  }

  #onMessage(message: Message): void {
    if (OUTSIDE.includes(message.type)) {
      this.#upstream.write(message.bytes);
      return;
    }
    this.#statement.push(message);
    if (!ENDS_STATEMENT.includes(message.type)) return;
    if (this.#isSettled) void this.#send(this.#statement);
    else for (const { bytes } of this.#statement) this.#upstream.write(bytes);
    this.#isSettled = true;
    this.#statement = [];
  }

  #onAnswer(chunk: Buffer): void {
    const messages = this.#readAnswers(chunk);
    if (this.#held === undefined) {
      this.#client.write(chunk);
      return;
    }
    this.#answer.push(chunk);
    if (messages.some(({ type }) => type === READY_FOR_QUERY)) this.#held.resolve();
  }

  async #send(statement: readonly Message[]): Promise<void> {
    const mode = this.#points.begin({ kind: 'statement', what: textOf(statement) });
    if (mode === 'before') this.#points.die();
    if (this.#points.dead) return;
    if (mode !== undefined) this.#held = Promise.withResolvers();
    this.#upstream.write(Buffer.concat(statement.map(({ bytes }) => bytes)));
    await this.#held?.promise;
    if (mode === 'after') this.#points.die();
    if (mode === 'lost') this.#end();
    if (mode !== 'frozen') return;
    await this.#points.freeze();
    this.#client.write(Buffer.concat(this.#answer));
    this.#answer = [];
    this.#held = undefined;
  }

  #end(): void {
    this.#client.destroy();
    this.#upstream.destroy();
    this.#held?.resolve();
  }
}

/** Cuts a stream into messages: a letter, the length of the rest, the rest. */
function messageReader(beginsWithoutType: boolean): (chunk: Buffer) => Message[] {
  let pending = Buffer.alloc(0);
  let typeBytes = beginsWithoutType ? 0 : 1;
  return (chunk) => {
    const messages: Message[] = [];
    pending = pending.length === 0 ? Buffer.from(chunk) : Buffer.concat([pending, chunk]);
    while (pending.length >= typeBytes + 4) {
      const length = typeBytes + pending.readUInt32BE(typeBytes);
      if (pending.length < length) break;
      const type = pending.toString('latin1', 0, typeBytes);
      messages.push({ type, bytes: pending.subarray(0, length) });
      pending = pending.subarray(length);
      typeBytes = 1;
    }
    return messages;
  };
}

/** The SQL of a simple query, or of the Parse message, which has a statement's name in front. */
function textOf(statement: readonly Message[]): string {
  const message = statement.find(({ type }) => type === 'Q' || type === 'P');
  if (message === undefined) return '';
  const strings = message.bytes.subarray(5).toString('utf8').split('\0');
  return strings[message.type === 'Q' ? 0 : 1] ?? '';
}
