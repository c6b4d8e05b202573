/**
 * Takes a provider's answer on a loopback port (RFC 8252, 7.3).
 *
 * - Only the answer with the expected state is taken. Others, which any program on the machine can
 *   send, are refused and change nothing.
 * - It listens on a loopback address only, and as long as one sign-in lasts.
 */
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { UsageError } from './failures.ts';

/** A port that waits for the answer. */
export interface Loopback extends Disposable {
  /** With the port, as the provider gets it. */
  readonly redirectUri: string;
  /** Resolves with the URL of the answer that has this state. Rejects when `signal` aborts. */
  answer(state: string, signal: AbortSignal): Promise<URL>;
}

/** Listens at that URI, on any port where it names none. Throws UsageError where it cannot. */
export async function openLoopback(uri: string): Promise<Loopback> {
  const url = URL.canParse(uri) ? new URL(uri) : undefined;
  if (url?.protocol !== 'http:' || !/^(localhost|127\.0\.0\.1|\[::1\])$/.test(url.hostname))
    throw new UsageError(
      `cannot use ${uri}: redirectUri is http:// on localhost, 127.0.0.1 or [::1]`,
    );
  const server = createServer({ requestTimeout: 10_000, headersTimeout: 10_000 });
  server.listen(Number(url.port), url.hostname.replace(/^\[(.*)\]$/, '$1'));
  try {
    await once(server, 'listening');
  } catch (error) {
    throw new UsageError(`cannot listen at ${uri}: ${(error as Error).message}`, { cause: error });
  }
  url.port = String((server.address() as AddressInfo).port);
  return {
    redirectUri: url.href,
    answer: (state, signal) => answerAt(server, url, state, signal),
    [Symbol.dispose]() {
      server.close();
      server.closeIdleConnections();
    },
  };
}

function answerAt(server: Server, at: URL, state: string, signal: AbortSignal): Promise<URL> {
  return new Promise((resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
    server.on('request', (request, response) => {
      for (const stream of [request, response]) stream.on('error', () => {});
      const { url = '' } = request;
      const asked = URL.canParse(url, at.href) ? new URL(url, at) : undefined;
      const isAnswer =
        asked !== undefined &&
        asked.origin === at.origin &&
        asked.pathname === at.pathname &&
        asked.searchParams.get('state') === state;
      response.setHeader('content-type', 'text/plain; charset=utf-8');
      response.setHeader('connection', 'close');
      response.statusCode = isAnswer ? 200 : 400;
      response.end(isAnswer ? ANSWERED : NOT_EXPECTED);
      if (isAnswer) resolve(asked);
    });
  });
}

const ANSWERED = 'The keyward command has the answer and continues. You can close this page.\n';
const NOT_EXPECTED = 'This is not an answer that the keyward command waits for.\n';
