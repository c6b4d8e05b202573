/**
 * Case 84: a replica cut off at every agent call and every COMMIT of a tick, in every way. Every
 * statement besides is `test/long/rotation-points.test.ts`'s.
 *
 * Killed before one of them, a replica leaves what it leaves when it is killed after the one
 * before: between two there is only what its end undoes. So `before` is run at the first one alone.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { CALLS_AND_COMMITS, CALLS_AND_COMMITS_UNLOCKED, type Mode } from './failpoints.ts';
import { enumerateSafely, newStage, run } from './harness.ts';
import { SCENES } from './scenes.ts';

const HOW: Readonly<Record<Exclude<Mode, 'before'>, string>> = {
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
    it(`of ${what}, a replica killed before its first agent call or COMMIT leaves all to others`, async () => {
      await using stage = await newStage(begin);
      const { reached, violations } = await run(stage, {
        at: 1,
        mode: 'before',
        counts: CALLS_AND_COMMITS,
      });
      assert.ok(reached);
      assert.deepEqual(violations, []);
    });
    for (const mode of Object.keys(HOW) as (keyof typeof HOW)[]) {
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
