/**
 * Runs in which something else happens than a crash: what the tests of replicas and those of planted mistakes share.
 */
import { mock } from 'node:test';
import { CALLS_AND_COMMITS, type Step } from './failpoints.ts';
import {
  changes,
  live,
  type Outcome,
  resume,
  run,
  runMeanwhile,
  type Stage,
  type Victim,
} from './harness.ts';
import { violations } from './invariants.ts';
import type { World } from './world.ts';

const AGENT_CALLS = ({ kind }: Step): boolean => kind === 'agent call';

/** A caller deletes a data key and makes another of its name. */
export async function replaceDataKey(world: World): Promise<void> {
  await world.deleteDataKey('k', 'a');
  await world.createDataKeys('k', 'a');
}

/** The replica is frozen at that point, with its lease good, while a caller replaces a data key. */
export function runWithReplaced(stage: Stage, at: number): Promise<Outcome> {
  return runMeanwhile(stage, { at, counts: CALLS_AND_COMMITS }, replaceDataKey);
}

/**
 * A replica is frozen at that point, and its lease runs out; a second one takes the work over and is frozen at its
 * `secondAt`th agent call, with a lease; then the first goes on. Wants the scene `oneRange`, in which there is nothing
 * else to do for it.
 */
export async function runOvertaken(
  { world, victim: first, modules }: Stage,
  second: Victim,
  { at, secondAt }: { readonly at: number; readonly secondAt: number },
): Promise<Outcome> {
  await world.reset();
  const { over: stale } = await live(first, { at, mode: 'frozen', counts: CALLS_AND_COMMITS });
  await world.expireLeases();
  const { over: holding } = await live(second, { at: secondAt, mode: 'frozen', counts: AGENT_CALLS });
  const before = await world.dump();
  first.points.thaw();
  await stale;
  const found = changes('a stale lease holder', before, await world.dump());
  found.push(...(await violations(world, 'always')));
  second.points.thaw();
  await holding;
  found.push(...(await resume(world, modules)));
  return { reached: first.points.reached, violations: found };
}

/** Nothing happens but that the replicas' clocks are that much off, in milliseconds. */
export async function runByClock(stage: Stage, offMs: number): Promise<Outcome> {
  mock.timers.enable({ apis: ['Date'], now: Date.now() + offMs });
  try {
    return await run(stage);
  } finally {
    mock.timers.reset();
  }
}
