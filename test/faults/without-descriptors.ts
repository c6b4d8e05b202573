/**
 * A process whose HSM agent dies while it has no file descriptor to spare: a program of its own, so
 * that the test's process keeps its own. Prints `came back` once an agent is there again. Takes the
 * agents' token, settings and environment.
 */
import { closeSync, openSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { childAgents } from '../../src/hsm/agent-starter.ts';
import { HsmAgents } from '../../src/hsm/agents.ts';
import { NO_ALERTS } from '../support/alerts.ts';

const { token, settings, environment } = JSON.parse(process.argv[2] ?? '{}');
const quiet = { info() {}, warn() {}, error() {} };
const agents = new HsmAgents({
  starter: childAgents(token, environment),
  settings,
  count: 1,
  callTimeoutMs: 5_000,
  maxCalls: 10,
  maxBytes: 1 << 20,
  log: quiet,
  alerts: NO_ALERTS,
});
await agents.start();
const taken: number[] = [];
try {
  for (;;) taken.push(openSync('/dev/null', 'r'));
} catch {
  // No more to be had.
}
for (const pid of agents.pids) process.kill(pid, 'SIGKILL');
while (agents.ready) await sleep(10);
await sleep(1_000);
for (const descriptor of taken) closeSync(descriptor);
while (!agents.ready) await sleep(10);
process.stdout.write('came back\n');
await agents.stop();
