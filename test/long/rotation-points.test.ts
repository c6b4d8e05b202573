/**
 * Case 84 at length: a replica cut off at every statement and every agent call of a tick, and
 * frozen at every agent call and every COMMIT. Takes some twenty minutes; what differs is
 * `test/rotation/points.test.ts`'s.
 *
 * No replica is frozen at a statement: one that is holds its locks until Postgres ends its
 * transaction.
 */
import { describe, it } from 'node:test';
import { EVERY_STEP, unlockedIn } from '../rotation/failpoints.ts';
import { enumerateSafely, newStage, run } from '../rotation/harness.ts';
import { SCENES } from '../rotation/scenes.ts';

const MODES = ['before', 'after', 'lost', 'frozen'] as const;

describe('case 84', { concurrency: 2 }, () => {
  for (const [what, begin] of Object.entries(SCENES)) {
    for (const mode of MODES) {
      it(`of ${what}, a replica cut off at any point breaks nothing, and others finish: ${mode}`, async (t) => {
        await using stage = await newStage(begin);
        const counts = mode === 'frozen' ? unlockedIn(what) : EVERY_STEP;
        const points = await enumerateSafely((at) => run(stage, { at, mode, counts }));
        t.diagnostic(`${points} points`);
      });
    }
  }
});
