/**
 * Case 84: a replica cut off at agent calls and COMMITs of a tick: killed after it, frozen after
 * it, or with its answer lost. The run's seed draws the scenes, and the points from those that
 * differ.
 *
 * Every one of them, killed and in the other ways too, is `test/long/rotation-calls.test.ts`'s;
 * every statement besides, `test/long/rotation-points.test.ts`'s.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { draw, drawSome, randomBy, SEED } from '../support/random.ts';
import { CALLS_AND_COMMITS, type Mode, type Step, unlockedIn } from './failpoints.ts';
import { differentPoints, newStage, run, type Stage } from './harness.ts';
import { SCENES } from './scenes.ts';

/** Of the scenes, and of the points of a pass that differ. */
const SOME_SCENES = 2;
const SOME = 6;

describe(`case 84 (seed ${SEED})`, { concurrency: 2 }, () => {
  for (const [what, begin] of drawSome(Object.entries(SCENES), SOME_SCENES, randomBy(SEED)))
    describe(`of ${what}`, { concurrency: 1 }, () => {
      let stage: Stage;
      before(async () => {
        stage = await newStage(begin);
      });
      after(() => stage?.[Symbol.asyncDispose]());

      it('a replica killed before its first agent call or COMMIT leaves all to others', async () => {
        const first = { at: 1, mode: 'before', counts: CALLS_AND_COMMITS } as const;
        const { reached, violations } = await run(stage, first);
        assert.ok(reached);
        assert.deepEqual(violations, []);
      });

      // The first of these runs is one to which nothing happens, that does all there is to do.
      it('a replica cut off at an agent call or COMMIT breaks nothing, and others finish', async (t) => {
        const random = randomBy(SEED);
        const modeAt = (step: Step): Mode =>
          draw(unlockedIn(what)(step) ? ['after', 'lost', 'frozen'] : ['after', 'lost'], random);
        const different = await differentPoints(stage, CALLS_AND_COMMITS);
        const points = drawSome(different, SOME, random);
        const steps = stage.victim.points.counted.map(({ step }) => step);
        for (const at of points) {
          const step = steps[at - 1];
          assert.ok(step);
          const cut = { at, mode: modeAt(step), counts: CALLS_AND_COMMITS };
          const { violations } = await run(stage, cut);
          assert.deepEqual(violations, [], `point ${at}, ${cut.mode}`);
        }
        t.diagnostic(`${points.length} points of ${different.length}`);
      });
    });
});
