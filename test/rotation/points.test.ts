/**
 * Case 84: a replica cut off at every agent call and every COMMIT of a tick, in every way. Every
 * statement besides is `test/long/rotation-points.test.ts`'s.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { CALLS_AND_COMMITS, CALLS_AND_COMMITS_UNLOCKED, type Mode } from './failpoints.ts';
import { enumerateSafely, newStage, run } from './harness.ts';
import { SCENES } from './scenes.ts';

const HOW: Readonly<Record<Mode, string>> = {
  before: 'killed before',
  after: 'killed after',
  lost: 'that loses the answer of',
  frozen: 'frozen until others have done all, after',
};

/**
 * Here no state changes, but seals are brought under a new seal key, which holds no lock across an
 * agent's call.
 */
const RESEALING = 'new root and seal keys';

describe('case 84', { concurrency: 2 }, () => {
  for (const [what, begin] of Object.entries(SCENES)) {
    it(`of ${what}, a tick that nothing happens to does all there is to do`, async () => {
      await using stage = await newStage(begin);
      assert.deepEqual(await run(stage), { reached: undefined, violations: [] });
    });
    for (const mode of Object.keys(HOW) as Mode[]) {
      it(`of ${what}, a replica ${HOW[mode]} any agent call or COMMIT breaks nothing, and others finish`, async (t) => {
        await using stage = await newStage(begin);
        const counts =
          mode === 'frozen' && what !== RESEALING ? CALLS_AND_COMMITS_UNLOCKED : CALLS_AND_COMMITS;
        const points = await enumerateSafely((at) => run(stage, { at, mode, counts }));
        t.diagnostic(`${points} points`);
      });
    }
  }
});
