/**
 * The service as several server processes under a supervisor, as tests see it: which processes
 * there are, by its log, and connections that tell how they ended.
 */
import { readFileSync } from 'node:fs';
import { type ClientHttp2Session, connect } from 'node:http2';
import { eventually, type LogLine, type Service } from '../support/kit.ts';

/** How many server processes serve. */
export const SERVERS = 2;

/** The settings that the service has more than one process by. */
export const SEVERAL = {
  KEYWARD_SERVERS: String(SERVERS),
  KEYWARD_METRICS_LISTEN: '127.0.0.1:0',
  KEYWARD_SERVER_TIMEOUT_MS: '5000',
} as const;

/** The line of a process that serves. */
const isServing = ({ msg }: LogLine) => msg === 'serving';

/** Waits until all processes have begun to serve. */
export function serving(service: Service): Promise<void> {
  return eventually(
    () => {
      const { length } = service.log.filter(isServing);
      if (length < SERVERS) throw new Error(`${length} of ${SERVERS} serve`);
    },
    () => service.log.map((line) => JSON.stringify(line)).join('\n'),
  );
}

/** The server processes that there are now. */
export function serverPids(service: Service): number[] {
  return childrenOf(service.pid);
}

/** The process ids of a process' children. */
export function childrenOf(pid: number): number[] {
  const text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim();
  return text === '' ? [] : text.split(' ').map(Number);
}

/** Whether a process runs: one that has ended and was not waited for does not. */
export function isRunning(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

/** A connection of HTTP/2, and how it ended. */
export interface Peer {
  readonly session: ClientHttp2Session;
  readonly fingerprint: Promise<string>;
  /** Resolves when it is closed, with its error if it had one. */
  readonly closed: Promise<Error | undefined>;
}

/** Opens a connection to the service, with a client's certificate. */
export function openPeer(service: Service): Peer {
  const { address, ca, cert, key } = service.connectOptions();
  const session = connect(`https://${address}`, { ca, cert, key });
  let failure: Error | undefined;
  session.on('error', (error) => {
    failure = error;
  });
  const closed = new Promise<Error | undefined>((resolve) => {
    session.once('close', () => resolve(failure));
  });
  const fingerprint = new Promise<string>((resolve) => {
    session.once('connect', (_session, socket) => {
      resolve(
        (socket as import('node:tls').TLSSocket).getPeerX509Certificate()?.fingerprint256 ?? '',
      );
    });
  });
  return { session, fingerprint, closed };
}
