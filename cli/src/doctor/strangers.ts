/**
 * Finds out what answers at a port where the service should be and does not speak TLS.
 *
 * - One question of PostgreSQL's, which others answer in their own way, then one of HTTP's.
 * - What a stranger answers is read up to a few bytes, and not shown.
 */
import { connect } from 'node:net';

/** PostgreSQL's SSLRequest. */
const SSL_REQUEST = Buffer.from('0000000804d2162f', 'hex');
const HTTP_REQUEST = Buffer.from('GET / HTTP/1.1\r\nHost: keyward\r\nConnection: close\r\n\r\n');

const KINDS: readonly (readonly [RegExp, string])[] = [
  [/^HTTP\/1/, 'an HTTP server without TLS'],
  [/^SSH-/, 'an SSH server'],
  [/^220[ -]/, 'a mail or FTP server'],
  [/^[SN]$/, 'PostgreSQL'],
];
const MAX_BYTES = 1024;

/** Returns who is there, as a noun; undefined where nothing recognisable answers. */
export async function strangerAt(place: {
  readonly host: string;
  readonly port: number;
  readonly timeoutMs: number;
}): Promise<string | undefined> {
  for (const question of [SSL_REQUEST, HTTP_REQUEST]) {
    const answer = await ask(place, question);
    const kind = KINDS.find(([expression]) => expression.test(answer));
    if (kind !== undefined) return kind[1];
  }
  return undefined;
}

/** The first bytes of the answer, or none. */
function ask(
  {
    host,
    port,
    timeoutMs,
  }: { readonly host: string; readonly port: number; readonly timeoutMs: number },
  question: Buffer,
): Promise<string> {
  return new Promise((resolve) => {
    let answer = '';
    const socket = connect({ host, port });
    const end = () => {
      socket.destroy();
      resolve(answer);
    };
    socket.setTimeout(Math.min(timeoutMs, 2_000), end);
    socket.on('connect', () => socket.write(question));
    socket.on('data', (chunk) => {
      answer = (answer + chunk.toString('latin1')).slice(0, MAX_BYTES);
      end();
    });
    socket.on('error', end);
    socket.on('end', end);
    socket.on('close', end);
  });
}
