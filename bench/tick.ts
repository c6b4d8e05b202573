/**
 * A tick that finds nothing due, measured: what it costs to have many keys with schedules.
 *
 * Asks as the service's ticks do, on a connection of its own, while maintenance goes on and nobody
 * calls.
 */
import type pg from 'pg';
import { monotonicNow } from '../src/call.ts';
import { findDue } from '../src/store/lifecycle/maintenance.ts';
import { Store } from '../src/store/store.ts';
import type { Environment } from './environment.ts';

const TICKS = 1_000;
const LIMIT = 100;
const LOOK_MS = 10_000;
const RELEASE = '0.2.0';

export interface TickResults {
  /** Keys of which none is due. */
  readonly keys: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

/** How long it takes to find that nothing is due. */
export async function measureTick(
  environment: Environment,
  owner: pg.Client,
): Promise<TickResults> {
  const { rows } = await owner.query<{ keys: number; paused: boolean }>(
    `SELECT (SELECT count(*)::integer FROM keys WHERE next_rotation_at IS NOT NULL) AS keys,
       (SELECT paused FROM maintenance) AS paused`,
  );
  if (rows[0]?.paused !== false) throw new Error('nothing is due while maintenance is paused');
  const store = await Store.open({
    url: environment.variables['DATABASE_URL'] ?? '',
    poolSize: 1,
    waitMs: 300,
    release: RELEASE,
    onError: () => {},
  });
  try {
    const times: number[] = [];
    for (let tick = 0; tick < TICKS; tick++) {
      const began = monotonicNow();
      const { hasJobs, hasStaleSeals, ...due } = await findDue(
        store,
        { deadline: began + LOOK_MS },
        LIMIT,
        // Whether it is paused costs one small statement besides, and no agent's answer.
        () => Promise.resolve(false),
      );
      times.push(monotonicNow() - began);
      if (hasJobs || hasStaleSeals || Object.values(due).some((each) => each.length > 0))
        throw new Error('something was due');
    }
    times.sort((a, b) => a - b);
    const at = (share: number) => times[Math.floor(times.length * share)] ?? Number.NaN;
    return { keys: rows[0].keys, p50Ms: at(0.5), p99Ms: at(0.99) };
  } finally {
    await store.close();
  }
}
