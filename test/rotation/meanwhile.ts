/**
 * What happens while a replica is frozen at a point of its work: another takes its work over (case
 * 86), a caller changes what it works on.
 *
 * Which points those are, the tests are given: `replicas.test.ts` draws some of some tests, and
 * `test/long/rotation-calls.test.ts` has all.
 */
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { CALLS_AND_COMMITS } from './failpoints.ts';
import { newStage, runMeanwhile, type Sweep, Victim } from './harness.ts';
import { tick } from './replica.ts';
import {
  runOvertaken,
  runWithChangedState,
  runWithCorrupted,
  runWithReplaced,
  SEALS_OF_STATES,
} from './runs.ts';
import { newRoot, oneJob, oneJobForAll, oneMoving, oneRange, threeMoving } from './scenes.ts';

type Meanwhile = readonly [name: string, check: (t: TestContext) => Promise<void>];

/** Returns the tests, each with the points that the sweep has of it. */
export function testsMeanwhile(sweep: Sweep): readonly Meanwhile[] {
  const tests: Meanwhile[] = [];
  const test = (...each: Meanwhile) => tests.push(each);
  for (const [what, begin] of [
    ['data keys', oneRange],
    ['key versions', threeMoving],
  ] as const) {
    test(`case 86: a replica that was frozen past its lease of ${what} writes nothing over who has it now`, async (t) => {
      await using stage = await newStage(begin);
      await using second = await Victim.open(stage.world, stage.modules);
      for (const secondAt of [1, 2]) {
        const points = await sweep(stage, CALLS_AND_COMMITS, (at) =>
          runOvertaken(stage, second, { at, secondAt }),
        );
        t.diagnostic(
          `${points} points, overtaken by one that is frozen when ${secondAt} batches are re-wrapped`,
        );
      }
    });
  }

  test('case 86: a data key that is replaced while its batch is with an agent stays what it is', async (t) => {
    await using stage = await newStage(oneJob);
    const points = await sweep(stage, CALLS_AND_COMMITS, (at) => runWithReplaced(stage, at));
    t.diagnostic(`${points} points`);
  });

  test('a key that is rotated while its last rotation is finished ends under its newest version', async (t) => {
    await using stage = await newStage(oneJob);
    const counts = CALLS_AND_COMMITS;
    const points = await sweep(stage, CALLS_AND_COMMITS, (at) =>
      runMeanwhile(stage, { at, counts }, (world) => world.rotate('k')),
    );
    t.diagnostic(`${points} points`);
  });

  test('a key that is scheduled for destruction while it is re-wrapped stays readable and is left alone', async (t) => {
    await using stage = await newStage(oneJobForAll);
    const counts = CALLS_AND_COMMITS;
    const points = await sweep(stage, CALLS_AND_COMMITS, (at) =>
      runMeanwhile(stage, { at, counts }, (world) => world.scheduleKey('k')),
    );
    t.diagnostic(`${points} points`);
  });

  test('a key that is destroyed while it is re-wrapped goes with all its data keys', async (t) => {
    await using stage = await newStage(oneJobForAll);
    const counts = CALLS_AND_COMMITS;
    const points = await sweep(stage, CALLS_AND_COMMITS, (at) =>
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
    const points = await sweep(stage, SEALS_OF_STATES, (at) => runWithChangedState(stage, at));
    t.diagnostic(`${points} points`);
    const [key] = await stage.world.sql("SELECT state FROM keys WHERE name = 'old'");
    assert.deepEqual(key, { state: 'DISABLED' });
  });

  test('a key version whose row is changed while it is re-wrapped is not written over', async (t) => {
    await using stage = await newStage(oneMoving);
    const points = await sweep(stage, CALLS_AND_COMMITS, (at) => runWithCorrupted(stage, at));
    t.diagnostic(`${points} points`);
  });
  return tests;
}
