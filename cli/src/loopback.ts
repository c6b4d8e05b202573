/**
 * Takes a provider's answer on a loopback port (RFC 8252, 7.3), and opens the browser.
 *
 * - Only the answer with the expected state is taken. Others, which any program on the machine can
 *   send, are refused and change nothing.
 * - It listens on a loopback address only, and as long as one sign-in lasts.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { UsageError } from './failures.ts';

/** A port that waits for the answer. */
export interface Loopback {
  /** With the port, as the provider gets it. */
  readonly redirectUri: string;
  /** Resolves with the URL of the answer that has this state. Rejects when `signal` aborts. */
  answer(state: string, signal: AbortSignal): Promise<URL>;
  close(): void;
}

/** Listens at that URI, on any port where it names none. Throws UsageError where it cannot. */
export async function openLoopback(uri: string): Promise<Loopback> {
  const url = URL.canParse(uri) ? new URL(uri) : undefined;
  if (url?.protocol !== 'http:' || !/^(localhost|127\.0\.0\.1|\[::1\])$/.test(url.hostname))
    throw new UsageError(
      `cannot use ${uri}: redirectUri is http:// on localhost, 127.0.0.1 or [::1]`,
    );
  const server = createServer();
  server.listen(Number(url.port), url.hostname.replace(/^\[(.*)\]$/, '$1'));
  try {
    await once(server, 'listening');
  } catch (error) {
    throw new UsageError(`cannot listen at ${uri}: ${(error as Error).message}`, { cause: error });
  }
  url.port = String((server.address() as AddressInfo).port);
  return {
    redirectUri: url.href,
    async answer(state, signal) {
      for (;;) {
        const [request, response] = (await once(server, 'request', { signal })) as [
          IncomingMessage,
          ServerResponse,
        ];
        const asked = new URL(request.url ?? '/', url);
        const isAnswer =
          asked.pathname === url.pathname && asked.searchParams.get('state') === state;
        response.setHeader('content-type', 'text/plain; charset=utf-8');
        response.setHeader('connection', 'close');
        response.statusCode = isAnswer ? 200 : 400;
        response.end(isAnswer ? ANSWERED : NOT_EXPECTED);
        if (isAnswer) return asked;
      }
    },
    close() {
      server.close();
      server.closeIdleConnections();
    },
  };
}

const ANSWERED = 'The keyward command has the answer and continues. You can close this page.\n';
const NOT_EXPECTED = 'This is not an answer that the keyward command waits for.\n';

/** Opens the URL in the person's browser, if the system has a way to. The URL is shown anyway. */
export function openBrowser(url: string): void {
  const [program, ...args] = browserCommand();
  if (program === undefined) return;
  const child = spawn(program, [...args, url], { detached: true, stdio: 'ignore' });
  child.on('error', () => {});
  child.unref();
}

function browserCommand(): readonly string[] {
  if (process.platform === 'darwin') return ['open'];
  if (process.platform === 'win32') return ['rundll32', 'url.dll,FileProtocolHandler'];
  const hasScreen = Boolean(process.env['DISPLAY'] || process.env['WAYLAND_DISPLAY']);
  return hasScreen ? ['xdg-open'] : [];
}
