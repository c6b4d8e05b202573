/**
 * Runs the service: as one process, or as several under a supervisor (`KEYWARD_SERVERS`).
 *
 * The supervisor loads nothing of what serves.
 */
import cluster from 'node:cluster';
import { type Configuration, ConfigurationError, read, readConfiguration } from '../config.ts';
import { membershipOf } from '../servers/membership.ts';
import { Supervisor } from '../servers/supervisor.ts';
import { AlertSignals } from '../signals/alerts.ts';
import { createLog } from '../signals/log.ts';
import { Ending, LETTING_GO_MS } from './ending.ts';
import { RELEASE } from './release.ts';
import { REPLICA } from './replica.ts';

const NAMES = [
  'KEYWARD_SERVERS',
  'KEYWARD_SERVER_TIMEOUT_MS',
  'KEYWARD_DRAIN_MS',
  'KEYWARD_LOG_LEVEL',
] as const;
/** By so much later than a server process ends itself it is killed. */
const PATIENCE_MS = 5_000;

/** Starts the service. Throws what `serve` throws. */
export async function serveByAll(): Promise<void> {
  const settings = cluster.isWorker ? undefined : supervision();
  if (settings !== undefined && settings.KEYWARD_SERVERS > 1) {
    supervise(settings);
    return;
  }
  const membership = membershipOf(process.env);
  const { serve } = await import('./serve.ts');
  await serve(membership);
}

/** Throws ConfigurationError with every mistake that there is, not only those in its settings. */
function supervision(): Configuration<(typeof NAMES)[number]> {
  try {
    return read(NAMES, process.env);
  } catch (error) {
    if (error instanceof ConfigurationError) readConfiguration(process.env);
    throw error;
  }
}

function supervise(settings: Configuration<(typeof NAMES)[number]>): void {
  const onLost = (lines: number) => alerts.raise('log-lines-lost', REPLICA, { lines });
  const log = createLog(settings.KEYWARD_LOG_LEVEL, RELEASE, onLost, 'supervisor');
  const alerts = new AlertSignals(log);
  const ending = new Ending(log, alerts);
  const endingMs = settings.KEYWARD_DRAIN_MS + LETTING_GO_MS + PATIENCE_MS;
  const supervisor = new Supervisor({
    ...{ log, alerts, endingMs, name: REPLICA },
    count: settings.KEYWARD_SERVERS,
    timeoutMs: settings.KEYWARD_SERVER_TIMEOUT_MS,
    onHopeless: (code) => ending.begin('no server process could be started', code),
  });
  process.on('SIGHUP', () => supervisor.reload());
  process.on('SIGUSR2', () => {
    log.info('replacing all server processes, one by one: SIGUSR2');
    void supervisor.replaceAll();
  });
  ending.prepare({ inOrder: (why) => supervisor.stop(why), limitMs: endingMs + PATIENCE_MS });
  supervisor.start();
}
