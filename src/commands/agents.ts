/**
 * Runs the host of agents, for servers of another user.
 *
 * - It has the settings that open the token, and no other: no database, no TLS.
 * - It outlives servers, and ends by a signal as `serve` does.
 */
import { AGENT_HOST_SETTINGS, read, TOKEN_SETTINGS } from '../config.ts';
import { AgentHost } from '../hsm/agent-host.ts';
import { AlertSignals } from '../signals/alerts.ts';
import { createLog } from '../signals/log.ts';
import { agentEnvironment, tokenSettings } from './agents-opening.ts';
import { Ending } from './ending.ts';
import { RELEASE } from './release.ts';
import { REPLICA } from './replica.ts';

const NAMES = Object.keys(AGENT_HOST_SETTINGS) as (keyof typeof AGENT_HOST_SETTINGS)[];
/** The longest that ending may take: an agent that changes the token is waited for. */
const ENDING_MS = 60_000;

/** Starts the host. Returns once it listens; then the process runs until a signal. */
export async function hostAgents(): Promise<void> {
  const settings = read([...NAMES, ...TOKEN_SETTINGS, 'KEYWARD_LOG_LEVEL'], process.env);
  const log = createLog(settings.KEYWARD_LOG_LEVEL, RELEASE, (lines) =>
    alerts.raise('log-lines-lost', REPLICA, { lines }),
  );
  const alerts = new AlertSignals(log);
  const ending = new Ending(log, alerts);
  const path = settings.KEYWARD_AGENT_HOST_LISTEN;
  const host = new AgentHost({
    path,
    token: tokenSettings(settings),
    passed: agentEnvironment(settings),
    maxAgents: settings.KEYWARD_AGENT_HOST_AGENTS,
    log,
  });
  ending.prepare({ inOrder: () => host.close(), limitMs: ENDING_MS });
  await host.listen();
  log.info({ path }, 'listening for servers that want agents');
}
