/**
 * A TCP proxy in front of Postgres that breaks connections at COMMIT, answers statements with
 * errors of its own, answers late, or stops listening to anybody.
 *
 * Knows of the protocol only what a COMMIT looks like (a simple query, `Q`, length, `COMMIT`, NUL),
 * and how an error does.
 */
import { connect, createServer, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

const COMMIT = 'COMMIT\0';

/**
 * What happens to the next COMMIT. `before`: it doesn't reach the server. `after`: the server does
 * it and its answer is lost. `late`: the connection breaks, and the server gets the COMMIT only 300
 * ms later.
 */
export type Cut = 'before' | 'after' | 'late';

export interface FaultyProxy extends AsyncDisposable {
  /** That URL with the proxy's address. */
  through(url: string): string;
  /** Breaks the next COMMIT, once. */
  cutNext(cut: Cut): void;
  /**
   * Answers the next `times` statements in which `text` stands with that SQLSTATE; they don't reach
   * the server.
   */
  answerNext(text: string, sqlState: string, times?: number): void;
  /**
   * Answers the next statement in which `text` stands with these bytes, protocol or not; it doesn't
   * reach the server.
   */
  answerNextWith(text: string, reply: Buffer): void;
  /** Ends the next connection in the same piece in which it says that it is ready. */
  endNextOnceReady(): void;
  /** From now on every answer comes so much later. */
  delayAnswers(milliseconds: number): void;
  /** Breaks every connection that there is. */
  cutAll(): void;
  /**
   * From now on: `pass` bytes on, `refuse` connections (also those that hang), or `hang`: accept
   * and never answer.
   */
  accept(how: 'pass' | 'refuse' | 'hang'): void;
}

/** Starts a proxy to the server that the URL names. */
export async function startProxy(target: string): Promise<FaultyProxy> {
  const { hostname, port } = new URL(target);
  let cut: Cut | undefined;
  let how: 'pass' | 'refuse' | 'hang' = 'pass';
  let lateBy = 0;
  let endsOnceReady = false;
  const answers: { readonly text: string; readonly reply: Buffer }[] = [];
  const sockets = new Set<Socket>();
  const hung: Socket[] = [];
  const server = createServer((client) => {
    sockets.add(client);
    client.on('error', () => {});
    if (how === 'refuse') client.destroy();
    if (how === 'hang') hung.push(client);
    if (how !== 'pass') return;
    const upstream = connect(Number(port), hostname);
    sockets.add(upstream);
    upstream.on('error', () => client.destroy());
    upstream.on('close', () => client.destroy());
    const late: Buffer[] = [];
    upstream.on('data', (chunk) => {
      if (endsOnceReady && chunk.includes(READY)) {
        endsOnceReady = false;
        client.end(Buffer.concat([chunk, errorMessage('57P01', 'FATAL')]));
      } else if (lateBy === 0 && late.length === 0) client.write(chunk);
      else {
        // In their order, also when later ones are no longer late.
        late.push(chunk);
        setTimeout(() => client.write(late.shift() ?? ''), lateBy);
      }
    });
    client.on('close', () => {
      if (cutting === undefined) upstream.destroy();
    });
    let cutting: Cut | undefined;
    client.on('data', (chunk) => {
      if (answers[0] !== undefined && chunk.includes(answers[0].text)) {
        client.write(answers.shift()?.reply ?? '');
        return;
      }
      if (cut === undefined || !chunk.includes(COMMIT)) {
        upstream.write(chunk);
        return;
      }
      cutting = cut;
      cut = undefined;
      void breakAtCommit(cutting, chunk, client, upstream);
    });
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
    cutNext(next) {
      cut = next;
    },
    answerNext(text, sqlState, times = 1) {
      for (let count = 0; count < times; count++)
        answers.push({ text, reply: errorResponse(sqlState) });
    },
    answerNextWith(text, reply) {
      answers.push({ text, reply });
    },
    endNextOnceReady() {
      endsOnceReady = true;
    },
    delayAnswers(milliseconds) {
      lateBy = milliseconds;
    },
    cutAll() {
      for (const socket of sockets) socket.destroy();
      sockets.clear();
    },
    accept(next) {
      how = next;
      if (how === 'refuse') for (const socket of hung) socket.destroy();
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

async function breakAtCommit(
  cut: Cut,
  chunk: Buffer,
  client: Socket,
  upstream: Socket,
): Promise<void> {
  if (cut === 'before') upstream.destroy();
  client.destroy();
  if (cut === 'before') return;
  if (cut === 'late') await delay(300);
  upstream.write(chunk);
  await delay(300);
  upstream.destroy();
}

/** ReadyForQuery, idle. */
const READY = Buffer.from([0x5a, 0, 0, 0, 5, 0x49]);

/** ErrorResponse, then ReadyForQuery in a failed transaction (PostgreSQL manual, 53.7). */
function errorResponse(sqlState: string): Buffer {
  return Buffer.concat([errorMessage(sqlState, 'ERROR'), Buffer.from([0x5a, 0, 0, 0, 5, 0x45])]);
}

function errorMessage(sqlState: string, severity: 'ERROR' | 'FATAL'): Buffer {
  const fields = Buffer.from(`S${severity}\0V${severity}\0C${sqlState}\0Mby the proxy\0\0`);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(4 + fields.length);
  return Buffer.concat([Buffer.from('E'), length, fields]);
}
