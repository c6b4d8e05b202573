/**
 * Replicas that get in each other's way, in callers' ways and in time's: three ticks at once (case
 * 85), a replica frozen past its lease (case 86), a row that doesn't verify (case 90), clocks that
 * are a day off (case 91).
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { drawHere, SEED } from '../support/random.ts';
import { newStage, run, settle, someOf, troublesOf, Victim } from './harness.ts';
import { violations } from './invariants.ts';
import { testsMeanwhile } from './meanwhile.ts';
import { hear, loadModules, tick } from './replica.ts';
import { runByClock, runUnheard, runWithRootDestroyed, runWithRootReplaced } from './runs.ts';
import {
  everything,
  newRoot,
  oneDue,
  oneDueUnderOldRoot,
  oneMoving,
  rootsToMake,
  shredding,
  threeMoving,
} from './scenes.ts';
import { newWorld } from './world.ts';

const ROUNDS = 2;
/** Of the tests of what happens meanwhile, and of the points of a pass. */
const SOME_TESTS = 3;
const SOME = 1;
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

for (const [name, check] of drawHere(testsMeanwhile(someOf(SOME)), SOME_TESTS))
  test(`${name} (seed ${SEED})`, check);

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
