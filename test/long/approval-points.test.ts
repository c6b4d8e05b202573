/**
 * A replica that dies before every single statement that it sends while an operation is approved
 * and done: others do it once, or it still waits to be approved. With all points of
 * `test/approvals/once.test.ts`, of which `npm test` draws some.
 */
import { it } from 'node:test';
import { approvedOnce } from '../approvals/dying.ts';
import { People } from '../approvals/people.ts';
import { EVERY_STEP } from '../rotation/failpoints.ts';

process.env['KEYWARD_TEST_EVERY_POINT'] = '1';
await import('../approvals/once.test.ts');

it('an approved operation is done once or not at all, wherever its replica dies', async (t) => {
  await using people = await People.start();
  let at = 1;
  while (await approvedOnce(people, { at, mode: 'before', counts: EVERY_STEP })) at += 1;
  t.diagnostic(`${at - 1} points`);
});
