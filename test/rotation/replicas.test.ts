/**
 * Replicas that get in each other's way, in callers' ways and in time's: three ticks at once (case
 * 85), a replica frozen past its lease (case 86), a row that doesn't verify (case 90), clocks that
 * are a day off (case 91).
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CALLS_AND_COMMITS } from './failpoints.ts';
import {
  enumerateSafely,
  newStage,
  run,
  runMeanwhile,
  settle,
  troublesOf,
  Victim,
} from './harness.ts';
import { violations } from './invariants.ts';
import { hear, loadModules, tick } from './replica.ts';
import {
  runByClock,
  runOvertaken,
  runUnheard,
  runWithChangedState,
  runWithCorrupted,
  runWithReplaced,
  runWithRootDestroyed,
  runWithRootReplaced,
} from './runs.ts';
import {
  everything,
  newRoot,
  oneDue,
  oneDueUnderOldRoot,
  oneJob,
  oneJobForAll,
  oneMoving,
  oneRange,
  rootsToMake,
  shredding,
  threeMoving,
} from './scenes.ts';
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
    await Promise.all(replicas.map((replica) => tick(replica)));
    assert.deepEqual(replicas.flatMap(troublesOf), []);
    assert.deepEqual(await violations(world, 'at the end'), []);
  }
});

test('case 85: of three replicas that tick at once one makes each root key, and it is current once all hold it', async () => {
  await using stage = await newStage(rootsToMake);
  const { world, victim } = stage;
  for (let round = 0; round < ROUNDS; round++) {
    await world.reset();
    await world.endReplicas();
    const replicas = [
      world.newReplica(),
      world.newReplica(undefined, world.otherAgents),
      victim.live(),
    ];
    await settle(world, replicas);
    assert.deepEqual(replicas.flatMap(troublesOf), []);
    assert.deepEqual(await violations(world, 'at the end'), []);
    const made = await world.sql(
      `SELECT 1 FROM token_objects WHERE state = 'CURRENT' AND role = 'root' AND caller <> ''`,
    );
    assert.equal(made.length, 2);
  }
});

for (const [what, begin] of [
  ['data keys', oneRange],
  ['key versions', threeMoving],
] as const) {
  test(`case 86: a replica that was frozen past its lease of ${what} writes nothing over who has it now`, async (t) => {
    await using stage = await newStage(begin);
    await using second = await Victim.open(stage.world, stage.modules);
    for (const secondAt of [1, 2]) {
      const points = await enumerateSafely((at) => runOvertaken(stage, second, { at, secondAt }));
      t.diagnostic(
        `${points} points, overtaken by one that is frozen when ${secondAt} batches are re-wrapped`,
      );
    }
  });
}

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
      await world.sealState('k');
      await tick(world.newReplica());
    }),
  );
  t.diagnostic(`${points} points`);
});

test('a key that is disabled while seals are brought under a new seal key is disabled, and sealed as that', async (t) => {
  await using stage = await newStage(newRoot);
  const points = await enumerateSafely((at) => runWithChangedState(stage, at));
  t.diagnostic(`${points} points`);
  const [key] = await stage.world.sql("SELECT state FROM keys WHERE name = 'old'");
  assert.deepEqual(key, { state: 'DISABLED' });
});

test('case 90: a key version that does not verify is named and stays where it is, the others come under the new root', async () => {
  await using stage = await newStage(newRoot);
  assert.deepEqual((await run(stage)).violations, []);
  const { world } = stage;
  const jobs = await world.sql(
    `SELECT j.state, j.total::int, j.done::int, f.resource, f.reason
     FROM rewrap_jobs j LEFT JOIN rewrap_failures f USING (job_id)
     WHERE j.kind = 'key-versions' AND j.state <> 'SUPERSEDED' AND j.scope = 'tenants/-'`,
  );
  const [resource] = world.corrupted.keys();
  assert.deepEqual(jobs, [
    { state: 'PARTIAL', total: 8, done: 7, resource, reason: 'STORED_ROW_CORRUPT' },
  ]);
});

test('a root key is not current while a replica that runs has not heard of it', async () => {
  await using stage = await newStage(rootsToMake);
  assert.deepEqual((await runUnheard(stage)).violations, []);
});

test('a replica that has ended is not waited for, whatever it hears of while it ends and afterwards', async () => {
  await using world = await newWorld(oneDue);
  await world.reset();
  const { replica } = world;
  await Promise.all([hear(replica), replica.tokenObjects.stop()]);
  await hear(replica);
  assert.deepEqual(await world.sql('SELECT replica_id FROM replicas'), []);
});

test('a key version whose row is changed while it is re-wrapped is not written over', async (t) => {
  await using stage = await newStage(oneMoving);
  const points = await enumerateSafely((at) => runWithCorrupted(stage, at));
  t.diagnostic(`${points} points`);
});

for (const [what, begin, done] of [
  ['a key version that is re-wrapped', oneMoving, 'transfer'],
  ['a key that is rotated', oneDueUnderOldRoot, 'createKeyVersion'],
] as const) {
  test(`${what} while its root key is replaced and destroyed does not come under that`, async () => {
    await using stage = await newStage(begin);
    const { reached, violations: found } = await runWithRootDestroyed(stage, done);
    assert.deepEqual([reached?.what, found], [done, []]);
  });
}

test('a root key that is to be current and key versions that are written wait for each other without failing', async () => {
  await using stage = await newStage(threeMoving);
  assert.deepEqual((await runWithRootReplaced(stage)).violations, []);
});

for (const [how, days] of [
  ['ahead', 1],
  ['behind', -1],
] as const) {
  test(`case 91: a replica whose clock is a day ${how} does what is due by the database's`, async () => {
    for (const begin of [everything, shredding]) {
      await using stage = await newStage(begin);
      assert.deepEqual((await runByClock(stage, days * DAY_MS)).violations, []);
    }
  });
}
