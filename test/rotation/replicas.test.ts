/**
 * Replicas that get in each other's way, in callers' ways and in time's: three ticks at once (case 85), a replica frozen
 * past its lease (case 86), clocks that are a day off (case 91).
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CALLS_AND_COMMITS } from './failpoints.ts';
import { enumerateSafely, newStage, runMeanwhile, troublesOf, Victim } from './harness.ts';
import { violations } from './invariants.ts';
import { loadModules, tick } from './replica.ts';
import { runByClock, runOvertaken, runWithReplaced } from './runs.ts';
import { everything, oneDue, oneJob, oneJobForAll, oneRange } from './scenes.ts';
import { newWorld } from './world.ts';

const ROUNDS = 5;
const DAY_MS = 86_400_000;

test('case 85: three replicas that have each made a new version rotate the key once', async () => {
  await using world = await newWorld(oneDue);
  const modules = await loadModules();
  await using one = await Victim.open(world, modules);
  await using two = await Victim.open(world, modules);
  await using three = await Victim.open(world, modules);
  const cut = {
    at: 1,
    mode: 'frozen',
    counts: ({ what }: { what: string }) => what === 'createKeyVersion',
  } as const;
  const ticks = [one, two, three].map((victim) => tick(victim.live(cut)));
  for (const { points } of [one, two, three]) await points.frozen;
  for (const { points } of [one, two, three]) points.thaw();
  await Promise.all(ticks);
  assert.deepEqual(await violations(world, 'at the end'), []);
});

test('case 85: three replicas that tick at once do everything once', async () => {
  await using world = await newWorld(everything);
  for (let round = 0; round < ROUNDS; round++) {
    await world.reset();
    const replicas = [world.newReplica(), world.newReplica(), world.newReplica()];
    await Promise.all(replicas.map(tick));
    assert.deepEqual(replicas.flatMap(troublesOf), []);
    assert.deepEqual(await violations(world, 'at the end'), []);
  }
});

test('case 86: a replica that was frozen past its lease writes nothing over who has it now', async (t) => {
  await using stage = await newStage(oneRange);
  await using second = await Victim.open(stage.world, stage.modules);
  for (const secondAt of [1, 2]) {
    const points = await enumerateSafely((at) => runOvertaken(stage, second, { at, secondAt }));
    t.diagnostic(`${points} points, overtaken by one that is frozen at its agent call ${secondAt}`);
  }
});

test('case 86: a data key that is replaced while its batch is with an agent stays what it is', async (t) => {
  await using stage = await newStage(oneJob);
  const points = await enumerateSafely((at) => runWithReplaced(stage, at));
  t.diagnostic(`${points} points`);
});

test('a key that is rotated while its last rotation is finished ends under its newest version', async (t) => {
  await using stage = await newStage(oneJob);
  const counts = CALLS_AND_COMMITS;
  const points = await enumerateSafely((at) =>
    runMeanwhile(stage, { at, counts }, (world) => world.rotate('k')),
  );
  t.diagnostic(`${points} points`);
});

test('a key that is scheduled for destruction while it is re-wrapped stays readable and is left alone', async (t) => {
  await using stage = await newStage(oneJobForAll);
  const counts = CALLS_AND_COMMITS;
  const points = await enumerateSafely((at) =>
    runMeanwhile(stage, { at, counts }, (world) => world.scheduleKey('k')),
  );
  t.diagnostic(`${points} points`);
});

test('a key that is destroyed while it is re-wrapped goes with all its data keys', async (t) => {
  await using stage = await newStage(oneJobForAll);
  const counts = CALLS_AND_COMMITS;
  const points = await enumerateSafely((at) =>
    runMeanwhile(stage, { at, counts }, async (world) => {
      await world.scheduleKey('k');
      await world.sql("UPDATE keys SET destroy_at = now() WHERE name = 'k'");
      await tick(world.newReplica());
    }),
  );
  t.diagnostic(`${points} points`);
});

for (const [how, days] of [
  ['ahead', 1],
  ['behind', -1],
] as const) {
  test(`case 91: a replica whose clock is a day ${how} does what is due by the database's`, async () => {
    await using stage = await newStage(everything);
    assert.deepEqual((await runByClock(stage, days * DAY_MS)).violations, []);
  });
}
