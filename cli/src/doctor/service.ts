/**
 * Checks who answers on a verified connection, whether it can serve calls, and its clock.
 *
 * - The questions are GetCaller, which tells Keyward from others, and gRPC's health.
 * - Of the answers it reads the headers and the health: what a failure means is for the client.
 */
import { connect, type IncomingHttpHeaders } from 'node:http2';
import type { TLSSocket } from 'node:tls';
import { type Found, Trouble } from './examination.ts';
import { described, type Identity, LEEWAY_MS } from './files.ts';

const CALLER_PATH = '/keyward.v1.AccessService/GetCaller';
const HEALTH_PATH = '/grpc.health.v1.Health/Check';
/** An empty message. */
const NOTHING = Buffer.alloc(5);
/** `SERVING`, as a message of HealthCheckResponse. */
const SERVING = Buffer.from([0, 0, 0, 0, 2, 8, 1]);
const WRONG_PORT = 'check the port: the service’s is that of KEYWARD_LISTEN';

/** How a question is asked. */
export interface Questions {
  readonly identity: Identity | undefined;
  readonly token: string | undefined;
  readonly timeoutMs: number;
}

/** What was answered. */
export interface Answers {
  /** How far this clock is ahead of the server's, in milliseconds; it tells whole seconds. */
  readonly aheadMs: number | undefined;
  /** Whether it can serve calls; undefined where it does not tell this caller. */
  readonly isServing: boolean | undefined;
}

interface Answer {
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
  /** When it came. */
  readonly at: number;
}

/** Asks the server who it is, and closes the connection. */
export async function checkService(
  socket: TLSSocket,
  { identity, token, timeoutMs }: Questions,
): Promise<Found<Answers>> {
  const session = connect('https://keyward', { createConnection: () => socket });
  const closed = new Promise<undefined>((resolve) => {
    session.once('close', () => resolve(undefined));
    session.on('error', () => {});
  });
  const timer = setTimeout(() => session.destroy(), timeoutMs);
  const ask = (path: string) => {
    const stream = session.request({
      ':method': 'POST',
      ':path': path,
      'content-type': 'application/grpc',
      te: 'trailers',
      ...(token !== undefined && { authorization: `Bearer ${token}` }),
    });
    stream.end(NOTHING);
    const answered = new Promise<Answer | undefined>((resolve) => {
      const chunks: Buffer[] = [];
      stream.on('error', () => resolve(undefined));
      stream.once('response', (headers) => {
        const at = Date.now();
        stream.on('data', (chunk: Buffer) => chunks.length < 16 && chunks.push(chunk));
        stream.once('end', () => resolve({ headers, body: Buffer.concat(chunks), at }));
      });
    });
    return Promise.race([answered, closed]);
  };
  try {
    const caller = await ask(CALLER_PATH);
    if (caller === undefined) throw refused(identity, token);
    requireKeyward(caller);
    const health = await ask(HEALTH_PATH);
    const { date } = caller.headers;
    const value = {
      aheadMs: date === undefined ? undefined : caller.at - Date.parse(date),
      // What fails, fails by its headers.
      isServing:
        health?.headers['grpc-status'] === undefined ? health?.body.equals(SERVING) : undefined,
    };
    return { found: 'Keyward answers', value };
  } finally {
    clearTimeout(timer);
    session.destroy();
  }
}

/**
 * The service ends a connection whose certificate it does not take, and says nothing of it: that is
 * all that TLS 1.3 leaves a server.
 */
function refused(identity: Identity | undefined, token: string | undefined): Trouble {
  if (identity !== undefined)
    return new Trouble(
      `the server ended the connection when it saw your certificate (${described(
        identity.certificate,
      )}), issued by ${(identity.certificate.issuer ?? '').replaceAll('\n', ', ')}`,
      'get a certificate for TLS clients from a CA that the service trusts ' +
        '(KEYWARD_TLS_CLIENT_CA_FILE); its log has the cause: "a client certificate was refused"',
    );
  return new Trouble(
    'the server ended the connection, to which you brought no certificate',
    token === undefined
      ? 'give --cert-file and --key-file, or a token'
      : 'give a certificate: the service takes no tokens (KEYWARD_ISSUERS_FILE)',
  );
}

function requireKeyward({ headers }: Answer): void {
  const type = headers['content-type'] ?? '';
  if (type.startsWith('application/grpc')) {
    // A failure has its status in these headers; 12 is that of a method that is not there.
    if (headers['grpc-status'] !== '12') return;
    throw new Trouble('a gRPC server answers that is not Keyward', WRONG_PORT);
  }
  if (String(headers['accept-post'] ?? '').includes('application/proto'))
    throw new Trouble('Keyward’s HTTP listener answers, and the command speaks gRPC', WRONG_PORT);
  throw new Trouble('a web server answers that is not Keyward', WRONG_PORT);
}

/** Compares the clocks. */
export function checkClock({ aheadMs }: Answers): Found<true> {
  if (aheadMs === undefined) return { found: 'the server did not tell its time', value: true };
  const seconds = Math.round(Math.abs(aheadMs) / 1000);
  if (Math.abs(aheadMs) > LEEWAY_MS)
    throw new Trouble(
      `your clock is ${seconds} s ${aheadMs > 0 ? 'ahead of' : 'behind'} the server’s`,
      'set your clock, or have it set by NTP: tokens and certificates are judged by time',
    );
  return { found: `within ${Math.max(seconds, 1)} s of the server’s`, value: true };
}

/** Says whether the server can serve calls. */
export function checkHealth({ isServing }: Answers): Found<true> {
  if (isServing) return { found: 'SERVING', value: true };
  throw new Trouble(
    'the server reports that it cannot serve calls',
    'ask those who run it: "keyward status" shows why',
  );
}
