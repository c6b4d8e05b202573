/**
 * Runs in which something else happens than a crash: what the tests of replicas and those of
 * planted mistakes share.
 */
import { mock } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { OperationName } from '../../src/hsm/protocol.ts';
import { RECORD } from '../../src/hsm/record-seal.ts';
import { destroyTokenKey } from '../../src/keyring/hsm-token/token-destruction.ts';
import { withOwnerConnection } from '../../src/store/core/owner.ts';
import { callOf } from '../store/database.ts';
import { CALLS_AND_COMMITS, type Step } from './failpoints.ts';
import {
  changes,
  live,
  type Outcome,
  resume,
  run,
  runMeanwhile,
  type Stage,
  troublesOf,
  type Victim,
} from './harness.ts';
import { violations } from './invariants.ts';
import { hear, tick } from './replica.ts';
import { replaceRoot } from './scenes.ts';
import { nameOf, type World } from './world.ts';

const POLL_MS = 20;

const REWRAPPING = ({ what }: Step): boolean => what === 'rewrap' || what === 'transfer';

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
 * A replica is frozen at that point, and its lease runs out; a second one takes the work over and
 * is frozen when an agent has re-wrapped its `secondAt`th batch, with a lease; then the first goes
 * on. Wants a scene of one range, so that there is nothing else to do for it.
 */
export async function runOvertaken(
  { world, victim: first, modules }: Stage,
  second: Victim,
  { at, secondAt }: { readonly at: number; readonly secondAt: number },
): Promise<Outcome> {
  await world.reset();
  const { over: stale } = await live(first, { at, mode: 'frozen', counts: CALLS_AND_COMMITS });
  await world.passTime();
  const { over: holding } = await live(second, {
    at: secondAt,
    mode: 'frozen',
    counts: REWRAPPING,
  });
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

/**
 * The replica is frozen at that point while the row of a key version is changed, so that it doesn't
 * verify any more.
 */
export function runWithCorrupted(stage: Stage, at: number): Promise<Outcome> {
  return runMeanwhile(stage, { at, counts: CALLS_AND_COMMITS }, (world) => world.corrupt('k', 1));
}

/** What agents do about seals of states. */
export const SEALS_OF_STATES = ({ what, records }: Step): boolean =>
  ['verifyRecords', 'sealRecords', 'resealRecords'].includes(what) &&
  records !== RECORD.tokenKeySet;

/**
 * The replica is frozen when an agent has done something about seals for it, while a caller
 * disables a key.
 */
export function runWithChangedState(stage: Stage, at: number): Promise<Outcome> {
  return runMeanwhile(stage, { at, counts: SEALS_OF_STATES }, async ({ replica }) => {
    await replica.keyring.keys.setState(callOf(), nameOf('old'), '', 'DISABLED');
  });
}

/**
 * Another replica runs that hears of nothing while this one does all that it can; then that one has
 * ended.
 */
export async function runUnheard({ world, victim, modules }: Stage): Promise<Outcome> {
  await world.reset();
  // As far ahead as counts: it runs for 20 s from here.
  await world.sql(`UPDATE replicas SET seen_at = clock_timestamp() + interval '10 seconds'`);
  const { over, troubles } = await live(victim);
  await over;
  const found = [...(await violations(world, 'always')), ...troubles()];
  found.push(...(await resume(world, modules)));
  return { reached: victim.points.reached, violations: found };
}

/**
 * The replica is frozen when an agent has done that for it. Meanwhile the current root key is
 * replaced, and destroyed, since nothing is under it yet. Wants such a scene. What the replica's
 * agents can't do before it has heard of the new one is somebody's later.
 */
export async function runWithRootDestroyed(
  { world, victim, modules }: Stage,
  done: OperationName,
): Promise<Outcome> {
  await world.reset();
  const { over } = await live(victim, {
    at: 1,
    mode: 'frozen',
    counts: ({ what }) => what === done,
  });
  await world.passTime();
  await replaceAndDestroyRoot(world);
  victim.points.thaw();
  await over;
  const found = await violations(world, 'always');
  await world.passTime();
  found.push(...(await resume(world, modules)));
  return { reached: victim.points.reached, violations: found };
}

/**
 * The operator's command ends when the world's replica, which hears of it, has let go. The token
 * keeps it, for the next run.
 */
async function replaceAndDestroyRoot(world: World): Promise<void> {
  const [former] = await world.sql<{ object_id: string }>(
    `SELECT object_id FROM token_objects WHERE role = 'root' AND is_current`,
  );
  await replaceRoot(world);
  let destroying = true;
  const destroyed = withOwnerConnection(world.kit.urls.owner, undefined, (owner) =>
    destroyTokenKey(
      {
        owner,
        caller: 'operator',
        destroy: async ({ length }) => length,
        verify: async () => true,
        withSealer: (work) => work(world.replica.tokenKeySeals.sealer(callOf())),
      },
      former?.object_id ?? '',
    ),
  ).finally(() => {
    destroying = false;
  });
  while (destroying) {
    await hear(world.replica);
    await delay(POLL_MS);
  }
  await destroyed;
}

/**
 * One statement of the replica is frozen with its locks, in the middle of writing; a root key that
 * is to be current waits for those, and must not hold meanwhile what the replica needs to go on:
 * Postgres would undo one of them.
 */
export async function runWithRootReplaced({ world, victim, modules }: Stage): Promise<Outcome> {
  await world.reset();
  const counts = ({ what }: Step) => what.includes('FOR SHARE OF token_objects');
  const replica = victim.live({ at: 1, mode: 'frozen', counts });
  const over = tick(replica);
  await victim.points.frozen;
  const replaced = replaceRoot(world, [replica]);
  const found = await heldWhileWaiting(world);
  victim.points.thaw();
  await Promise.all([over, replaced]);
  found.push(...troublesOf(replica), ...(await violations(world, 'always')));
  found.push(...(await resume(world, modules)));
  return { reached: victim.points.reached, violations: found };
}

/**
 * Which tables of jobs somebody who waits for a lock has changed already; waits until somebody
 * does.
 */
async function heldWhileWaiting(world: World): Promise<string[]> {
  const waiting = `SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'`;
  while ((await world.sql(waiting)).length === 0) await delay(POLL_MS);
  const held = await world.sql<{ relation: string }>(
    `SELECT DISTINCT relation::regclass::text AS relation FROM pg_locks
     WHERE granted AND mode = 'RowExclusiveLock' AND pid IN (${waiting})
       AND relation IN ('rewrap_jobs'::regclass, 'rewrap_ranges'::regclass)`,
  );
  return held.map(({ relation }) => `what waits for a token key holds rows of ${relation}`);
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
