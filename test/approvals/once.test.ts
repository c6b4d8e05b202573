/**
 * The last approval and what follows it, cut off: a replica that dies at any point of it leaves an
 * operation that another one does, once, or that still waits to be approved.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { Cut, Mode } from '../rotation/failpoints.ts';
import { drawSome, randomBy, SEED } from '../support/random.ts';
import { approvedOnce, happenedOnce } from './dying.ts';
import { People } from './people.ts';

let people: People;
before(async () => {
  people = await People.start();
});
after(() => people?.[Symbol.asyncDispose]());

/** Where the replica dies: at the first statement in which this stands, before or after it. */
const POINTS: readonly (readonly [where: string, mode: Mode, statement: RegExp])[] = [
  ['before the decision is written', 'before', /INSERT INTO operation_decisions/],
  ['before the approval is committed', 'after', /UPDATE pending_operations SET revision/],
  ['before it is taken up', 'before', /SET attempt_after/],
  ['after it was taken up', 'after', /FROM pending_operations WHERE tenant_id = \$1 AND op/],
  ['before it has its effect', 'before', /UPDATE keys/],
  ['before its effect is committed', 'after', /UPDATE request_ids SET effect/],
];

/** One of them, unless by `test/long/approval-points.test.ts`. */
const everyPoint = process.env['KEYWARD_TEST_EVERY_POINT'] === '1';
const drawn = everyPoint ? POINTS : drawSome(POINTS, 1, randomBy(SEED));

/** What else is only seen once the doing has begun: the second time that this is written. */
const ENDING = /UPDATE pending_operations SET revision/;
const MODES = ['before', 'after'] as const;

describe('a replica that dies while an operation is approved and done', () => {
  for (const [where, mode, statement] of drawn)
    it(`${where} leaves it to others, once or not at all`, () =>
      dies({ at: 1, mode, counts: ({ what }) => statement.test(what) }));

  for (const mode of everyPoint ? MODES : drawSome(MODES, 1, randomBy(SEED)))
    it(`${mode} it has noted that it is done leaves it to others, once`, () =>
      dies({ at: 2, mode, counts: ({ what }) => ENDING.test(what) }));

  it('and two that do it at once do it once', async () => {
    await using second = await people.rig.addReplica();
    const tenant = await people.tenant();
    const [anna, bert] = [await people.requester(tenant), await people.approver(tenant)];
    for (let round = 0; round < 2; round += 1) {
      const key = await people.key(tenant);
      const name = await people.ask(anna, key);
      await people.decided(bert, name, 'approve', { service: second });
      // The other one takes it up as well, as if the first had fallen silent.
      await people.hold(name, false);
      await people.until(name, 'DONE');
      await happenedOnce(people, name, key);
    }
    people.rig.services.pop();
  });
});

async function dies(cut: Cut): Promise<void> {
  assert.equal(await approvedOnce(people, cut), true);
}
