/**
 * Case 84, and what happens while a replica is frozen, at every agent call and COMMIT: killed after
 * any of them; and, where one differs from all before, in the other ways too. Takes some five
 * minutes. Every statement besides is `rotation-points.test.ts`'s; every `npm test` has some of
 * them, as it draws.
 *
 * Killed before one of them, a replica leaves what it leaves when it is killed after the one
 * before: between two there is only what its end undoes. So `before` is run at the first one alone.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { CALLS_AND_COMMITS, unlockedIn } from '../rotation/failpoints.ts';
import {
  differentPoints,
  enumerateSafely,
  everyPoint,
  newStage,
  run,
  runSafely,
  type Stage,
} from '../rotation/harness.ts';
import { testsMeanwhile } from '../rotation/meanwhile.ts';
import { SCENES } from '../rotation/scenes.ts';

describe('case 84', { concurrency: 2 }, () => {
  for (const [what, begin] of Object.entries(SCENES))
    describe(`of ${what}`, { concurrency: 1 }, () => {
      let stage: Stage;
      before(async () => {
        stage = await newStage(begin);
      });
      after(() => stage?.[Symbol.asyncDispose]());

      it('a tick that nothing happens to does all there is to do', async () => {
        assert.deepEqual(await run(stage), { reached: undefined, violations: [] });
      });

      it('a replica killed before its first agent call or COMMIT leaves all to others', async () => {
        const first = { at: 1, mode: 'before', counts: CALLS_AND_COMMITS } as const;
        const { reached, violations } = await run(stage, first);
        assert.ok(reached);
        assert.deepEqual(violations, []);
      });

      it('a replica killed after any agent call or COMMIT breaks nothing, and others finish', async (t) => {
        const points = await enumerateSafely((at) =>
          run(stage, { at, mode: 'after', counts: CALLS_AND_COMMITS }),
        );
        t.diagnostic(`${points} points`);
      });

      for (const [how, mode, counts] of [
        ['that loses the answer of', 'lost', CALLS_AND_COMMITS],
        ['frozen until others have done all, after', 'frozen', unlockedIn(what)],
      ] as const)
        it(`a replica ${how} an agent call or COMMIT breaks nothing, and others finish`, async (t) => {
          const points = await differentPoints(stage, counts);
          await runSafely(points, (at) => run(stage, { at, mode, counts }));
          t.diagnostic(`${points.length} points`);
        });
    });
});

for (const [name, check] of testsMeanwhile(everyPoint)) it(name, check);
