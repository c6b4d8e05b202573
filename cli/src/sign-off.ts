/**
 * Has a person sign with a passkey: opens the service's sign-off page in their browser, and takes
 * its answer on a port of this machine.
 *
 * - The port takes one answer, at a path that only the page is told, and is closed then.
 * - What is to be signed, and that path, are in the URL's fragment, which no server sees, and are
 *   not shown to other users of the machine.
 * - Nothing of the answer is believed here: the service verifies it.
 */
import { randomBytes } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { openSecretlyInBrowser } from './browser.ts';
import { UsageError } from './failures.ts';
import { printableLines } from './output/printable.ts';

/** The address that the page may answer to; its policy has the same. */
const HOST = '127.0.0.1';
/** An attestation with its certificates has some 5 KiB. */
const MOST_BYTES = 65_536;

/** What the page is to have signed; it adds where the answer goes. */
export type Order = Readonly<Record<string, unknown>>;

/** How to show the page. */
export interface SignOffOptions {
  /** Whether the browser is opened, or the URL only printed. */
  readonly browser: boolean;
  /** Prints lines for the person. */
  readonly tell: (text: string) => void;
  /** How long the person may take, in milliseconds. */
  readonly withinMs: number;
}

/** The answer's fields, bytes in base64url. */
export type Answer = ReadonlyMap<string, string>;

/**
 * Returns what the page answers. Throws where the person cancels, or takes too long; and UsageError
 * for a page that no browser would let use passkeys.
 */
export async function signOff(
  page: string,
  order: Order,
  { browser, tell, withinMs }: SignOffOptions,
): Promise<Answer> {
  requirePage(page);
  const path = `/${randomBytes(24).toString('base64url')}`;
  await using desk = await openDesk({ path, origin: new URL(page).origin });
  const returnTo = `http://${HOST}:${desk.port}${path}`;
  const fragment = Buffer.from(JSON.stringify({ v: 1, ...order, returnTo })).toString('base64url');
  const url = `${page}#${fragment}`;
  tell(
    browser
      ? `Sign off in your browser. If it does not open, open this there, on this machine:\n${url}`
      : `Open this in a browser on this machine:\n${url}`,
  );
  using _file = browser ? openSecretlyInBrowser(url) : undefined;
  const answer = await within(desk.answer, withinMs);
  if (answer.has('error')) throw new Error('cannot go on: you cancelled in the browser');
  return answer;
}

/** Returns the bytes of a field of the answer. */
export function bytesIn(answer: Answer): (field: string) => Buffer {
  return (field) => Buffer.from(answer.get(field) ?? '', 'base64url');
}

/** Prints lines for the person where results are not written. */
export function tellOnError(text: string): void {
  process.stderr.write(`${printableLines(text.trimEnd())}\n`);
}

function requirePage(page: string): void {
  if (page === '')
    throw new Error(
      'cannot go on: the service has no sign-off page; an operator sets KEYWARD_HTTP_LISTEN or ' +
        'KEYWARD_SIGN_OFF_URL',
    );
  const url = URL.canParse(page) ? new URL(page) : undefined;
  const isLocal = url?.protocol === 'http:' && url.hostname === 'localhost';
  if (url === undefined || (url.protocol !== 'https:' && !isLocal) || url.hash !== '')
    throw new UsageError(
      `cannot open ${JSON.stringify(page)}: the sign-off page must be at an https:// URL; ` +
        'an operator sets KEYWARD_SIGN_OFF_URL',
    );
}

function within(answer: Promise<Answer>, ms: number): Promise<Answer> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    const error = new Error('cannot go on: nothing was signed in time');
    timer = setTimeout(() => reject(error), ms);
  });
  return Promise.race([answer, late]).finally(() => clearTimeout(timer));
}

/** Where one answer is taken. */
interface Desk extends AsyncDisposable {
  readonly port: number;
  readonly answer: Promise<Answer>;
}

async function openDesk(only: { readonly path: string; readonly origin: string }): Promise<Desk> {
  const server = createServer({ requestTimeout: 10_000, headersTimeout: 10_000 });
  const answer = oneAnswer(server, only);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, HOST, resolve);
  });
  return {
    port: portOf(server),
    answer,
    [Symbol.asyncDispose]: async () => {
      server.close();
      server.closeAllConnections();
    },
  };
}

/** Returns the first whole answer, once its page is on its way. */
function oneAnswer(
  server: Server,
  only: { readonly path: string; readonly origin: string },
): Promise<Answer> {
  return new Promise((resolve) => {
    let isTaken = false;
    server.on('request', async (request, response) => {
      request.on('error', () => {});
      response.on('error', () => {});
      const status = statusFor(request, only, portOf(server));
      const fields = status === 200 ? await readForm(request) : undefined;
      if (fields === undefined || isTaken) {
        say(response, status === 200 ? 400 : status, 'The keyward command does not wait for this.');
        return;
      }
      isTaken = true;
      response.on('close', () => resolve(fields));
      say(response, 200, 'The keyward command has your answer. You can close this page.');
    });
  });
}

function portOf(server: Server): number {
  const address = server.address();
  return typeof address === 'object' ? (address?.port ?? 0) : 0;
}

/** Returns 200 for what only the page can send. */
function statusFor(
  { method, url, headers }: IncomingMessage,
  { path, origin }: { readonly path: string; readonly origin: string },
  port: number,
): number {
  if (headers.host !== `${HOST}:${port}` || url !== path) return 404;
  if (method !== 'POST') return 405;
  // The page tells no one where it is from, so browsers mostly say null.
  return [undefined, 'null', origin].includes(headers.origin) ? 200 : 403;
}

/** Returns the fields of a form; undefined where it is too large, or cut off. */
async function readForm(request: IncomingMessage): Promise<Answer | undefined> {
  const chunks: Buffer[] = [];
  let length = 0;
  try {
    for await (const chunk of request) {
      length += chunk.length;
      if (length > MOST_BYTES) return undefined;
      chunks.push(chunk);
    }
  } catch {
    return undefined;
  }
  return new Map(new URLSearchParams(Buffer.concat(chunks).toString('utf8')));
}

function say(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, {
    'content-type': 'text/html; charset=utf-8',
    'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
    'cache-control': 'no-store',
    'referrer-policy': 'no-referrer',
    'x-content-type-options': 'nosniff',
    connection: 'close',
  });
  response.end(
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" ' +
      `content="light dark"><title>Keyward</title><h1>Keyward</h1><p>${text}</p>\n`,
  );
}
