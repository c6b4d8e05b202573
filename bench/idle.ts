/**
 * What a service costs to which nobody calls: its ticks, polls and leases.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { WholeTarget } from './environment.ts';
import { cpuMicroseconds, cpuMicrosecondsWithChildren } from './processes.ts';

const MINUTE_MS = 60_000;

/** CPU time that each takes in a minute, in milliseconds. */
export interface IdleResults {
  readonly server: number;
  readonly agent: number;
  readonly database: number;
}

/** Measures for that long, after as long a pause, in which what was begun by calls ends. */
export async function measureIdle(
  { serverPid, agentPid, databasePid }: WholeTarget,
  milliseconds: number,
): Promise<IdleResults> {
  const used = () => ({
    server: cpuMicroseconds(serverPid),
    agent: cpuMicroseconds(agentPid),
    database: cpuMicrosecondsWithChildren(databasePid),
  });
  await delay(milliseconds);
  const before = used();
  await delay(milliseconds);
  const after = used();
  const inMinute = (who: keyof IdleResults) =>
    ((after[who] - before[who]) / 1_000) * (MINUTE_MS / milliseconds);
  return { server: inMinute('server'), agent: inMinute('agent'), database: inMinute('database') };
}
