/**
 * The crash harness: a replica works through a tick and is cut off at one point; then others
 * resume, two at once.
 *
 * Owns the course of such a run and the counting of points. What is cut and how is
 * `failpoints.ts`', what has to hold is `invariants.ts`'. One run is one point and one mode, from
 * the world's beginning.
 */
import assert from 'node:assert/strict';
import type { HsmAgents } from '../../src/hsm/agents.ts';
import type { Store } from '../../src/store/store.ts';
import { drawSome, randomBy, SEED } from '../support/random.ts';
import { type Cut, cutHands, Failpoints, mortalStore, type Step } from './failpoints.ts';
import { violations } from './invariants.ts';
import {
  hear,
  loadModules,
  type Modules,
  newReplica,
  openStore,
  type Replica,
  tick,
} from './replica.ts';
import { type StatementProxy, startStatementProxy } from './statement-proxy.ts';
import { newWorld, type World } from './world.ts';

const LATE = /its deadline has passed/;
/** More points than any pass has: an enumeration that gets there doesn't end. */
const TOO_MANY = 10_000;

/** What a run has found. */
export interface Outcome {
  /** Where the replica was cut off; undefined when it got to its end. */
  readonly reached: Step | undefined;
  readonly violations: readonly string[];
}

interface VictimParts {
  readonly world: World;
  readonly modules: Modules;
  readonly points: Failpoints;
  readonly proxy: StatementProxy;
  readonly store: Store;
  readonly agents: HsmAgents;
}

/** A replica that can be cut off, life after life. */
export class Victim implements AsyncDisposable {
  readonly points: Failpoints;
  readonly #parts: VictimParts;

  private constructor(parts: VictimParts) {
    this.points = parts.points;
    this.#parts = parts;
  }

  static async open(world: World, modules: Modules): Promise<Victim> {
    const points = new Failpoints();
    const { service } = world.kit.urls;
    const proxy = await startStatementProxy(service, points);
    const store = await openStore(modules, proxy.through(service));
    return new Victim({ world, modules, points, proxy, store, agents: await world.newAgents() });
  }

  /** Its next life, to be cut off there. The one before must have ended. */
  live(cut?: Cut): Replica {
    const { world, modules, points, store, agents } = this.#parts;
    const { makeTokenKey, environment } = world;
    const unavailable = () => new modules.errors.KeywardError('HSM_UNAVAILABLE');
    points.arm(cut);
    return newReplica({
      modules,
      store: mortalStore(store, points),
      ...cutHands({ agents, makeTokenKey }, points, unavailable),
      environment,
    });
  }

  /** Whatever it still was at ends. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.points.thaw();
    this.points.die();
    await this.#parts.store.close();
    await this.#parts.proxy[Symbol.asyncDispose]();
  }
}

/** A world, and a victim in it, for run after run. */
export interface Stage extends AsyncDisposable {
  readonly world: World;
  readonly victim: Victim;
  /** What the victim and those that resume are made of. */
  readonly modules: Modules;
}

/** Makes a world and a victim in it. */
export async function newStage(
  begin: (world: World) => Promise<void>,
  modules?: Modules,
): Promise<Stage> {
  const world = await newWorld(begin);
  const made = modules ?? (await loadModules());
  const victim = await Victim.open(world, made);
  return {
    world,
    victim,
    modules: made,
    [Symbol.asyncDispose]: async () => {
      await victim[Symbol.asyncDispose]();
      await world[Symbol.asyncDispose]();
    },
  };
}

/**
 * One run: cut off, looked at, resumed by others, looked at. A frozen replica goes on when the
 * others have done all.
 */
export async function run({ world, victim, modules }: Stage, cut?: Cut): Promise<Outcome> {
  await world.reset();
  const { over, isFrozen, troubles } = await live(victim, cut, [world.replica]);
  const found = await violations(world, 'always');
  await world.passTime();
  found.push(...(await resume(world, modules)));
  if (isFrozen) {
    const before = await world.dump();
    victim.points.thaw();
    await over;
    found.push(
      ...changes('a replica that was thawed when all was done', before, await world.dump()),
    );
  }
  if (isFrozen || victim.points.reached === undefined) found.push(...troubles());
  return { reached: victim.points.reached, violations: found };
}

/**
 * One run in which the replica is frozen at that step, something happens meanwhile, and then it
 * goes on.
 */
export async function runMeanwhile(
  { world, victim, modules }: Stage,
  cut: Omit<Cut, 'mode'>,
  meanwhile: (world: World) => Promise<void>,
): Promise<Outcome> {
  await world.reset();
  const { over, troubles } = await live(victim, { ...cut, mode: 'frozen' }, [world.replica]);
  await meanwhile(world);
  const found = await violations(world, 'always');
  victim.points.thaw();
  await over;
  found.push(...troubles(), ...(await violations(world, 'always')));
  found.push(...(await resume(world, modules)));
  return { reached: victim.points.reached, violations: found };
}

/** A victim's life, from a tick on. */
export interface Life {
  /** Resolves when it is over. */
  readonly over: Promise<void>;
  readonly isFrozen: boolean;
  /** What went wrong in it, so far. */
  readonly troubles: () => readonly string[];
}

/**
 * The victim's next life, up to its end or to where it is frozen, while the others run and hear of
 * what it does.
 */
export async function live(
  victim: Victim,
  cut?: Cut,
  others: readonly Replica[] = [],
): Promise<Life> {
  const replica = victim.live(cut);
  const thrown: string[] = [];
  const over = tick(replica, others).catch((error: unknown) => {
    thrown.push(`${error}`);
  });
  const isFrozen = await Promise.race([
    over.then(() => false),
    victim.points.frozen.then(() => true),
  ]);
  // While it is frozen, deadlines of what it was doing may pass, and it may say so.
  const troubles = () =>
    [...troublesOf(replica), ...thrown]
      .filter((trouble) => !isFrozen || !LATE.test(trouble))
      .map((trouble) => `a replica to which nothing was done: ${trouble}`);
  return { over, isFrozen, troubles };
}

/**
 * Those that ran have ended. Two others do what there is to do; then one more ticks, which must
 * change nothing.
 */
export async function resume(world: World, modules: Modules): Promise<string[]> {
  await world.endReplicas();
  const resumers = [world.newReplica(modules), world.newReplica(modules, world.otherAgents)];
  await settle(world, resumers);
  const found = resumers.flatMap((replica) =>
    troublesOf(replica).map((warning) => `a resumer warned: ${warning}`),
  );
  found.push(...(await violations(world, 'at the end')));
  const before = await world.dump();
  await tick(world.newReplica(modules, world.otherAgents));
  return [...found, ...changes('one more tick', before, await world.dump())];
}

/**
 * Replicas start, and tick at once; and again while there was something that each must hear of, as
 * the change feed has it.
 */
export async function settle(world: World, replicas: readonly Replica[]): Promise<void> {
  await Promise.all(replicas.map(hear));
  let heard: string;
  do {
    heard = await world.announcements();
    await Promise.all(replicas.map((replica) => tick(replica)));
  } while ((await world.announcements()) !== heard);
}

/** What differs between two dumps, for which `who` is to blame. */
export function changes(
  who: string,
  before: readonly string[],
  after: readonly string[],
): string[] {
  const [old, young] = [new Set(before), new Set(after)];
  const gone = before.filter((row) => !young.has(row));
  const come = after.filter((row) => !old.has(row));
  return [
    ...gone.map((row) => `${who} removed or changed: ${row}`),
    ...come.map((row) => `${who} wrote: ${row}`),
  ];
}

/**
 * Runs with point 1, 2, 3 … until one never gets there; returns how many there are, or the first
 * that broke something.
 */
export async function enumerate(
  runAt: (at: number) => Promise<Outcome>,
): Promise<{ readonly points: number; readonly broken?: Outcome }> {
  for (let at = 1; at < TOO_MANY; at++) {
    const outcome = await runAt(at);
    if (outcome.violations.length > 0) return { points: at, broken: outcome };
    if (outcome.reached === undefined) return { points: at - 1 };
  }
  throw new Error(`more than ${TOO_MANY} points`);
}

/** As {@link enumerate}; fails where something is broken. Returns how many points there are. */
export async function enumerateSafely(runAt: (at: number) => Promise<Outcome>): Promise<number> {
  const { points, broken } = await enumerate(runAt);
  assert.equal(broken, undefined, `point ${points}: ${JSON.stringify(broken, undefined, 2)}`);
  assert.ok(points > 0);
  return points;
}

/**
 * Returns those points at which an agent or Postgres does for the first time what it does there,
 * right after the same: at others the same happens to other rows. Runs once, to its end.
 */
export async function differentPoints(stage: Stage, counts: Cut['counts']): Promise<number[]> {
  const cut = { at: Number.POSITIVE_INFINITY, mode: 'before', counts } as const;
  assert.deepEqual(await run(stage, cut), { reached: undefined, violations: [] });
  const seen = new Set<string>();
  return stage.victim.points.counted.flatMap(({ step, before }, index) => {
    const what = JSON.stringify([before?.what, before?.records, step.what, step.records]);
    if (seen.has(what)) return [];
    seen.add(what);
    return [index + 1];
  });
}

/** Runs with each of these points; fails where something is broken. */
export async function runSafely(
  points: readonly number[],
  runAt: (at: number) => Promise<Outcome>,
): Promise<void> {
  assert.ok(points.length > 0);
  for (const at of points) {
    const { violations: found } = await runAt(at);
    assert.deepEqual(found, [], `point ${at}, by KEYWARD_TEST_SEED=${SEED}`);
  }
}

/** Runs with points of a pass; fails where something is broken. Returns how many they were. */
export type Sweep = (
  stage: Stage,
  counts: Cut['counts'],
  runAt: (at: number) => Promise<Outcome>,
) => Promise<number>;

/** All points. */
export const everyPoint: Sweep = (_stage, _counts, runAt) => enumerateSafely(runAt);

/** So many of those that differ, drawn by this run's seed. */
export const someOf =
  (count: number): Sweep =>
  async (stage, counts, runAt) => {
    const points = drawSome(await differentPoints(stage, counts), count, randomBy(SEED));
    await runSafely(points, runAt);
    return points.length;
  };

const HELD_WARNING = /\/keys\/held\/versions\/1 a destruction failed .* wrapped under it/;

/**
 * What a replica has warned of, but for the version of the scene `everything` that must not be
 * destroyed: operators hear of that.
 */
export function troublesOf({ warnings }: Replica): string[] {
  return warnings.filter((warning) => !HELD_WARNING.test(warning));
}
