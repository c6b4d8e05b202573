/**
 * The last approval and what follows it, cut off: a replica that dies at any point of it leaves an
 * operation that another one does, once, or that still waits to be approved.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { Failpoints, type Mode, type Step } from '../rotation/failpoints.ts';
import { type StatementProxy, startStatementProxy } from '../rotation/statement-proxy.ts';
import { eventually, type Service } from '../support/kit.ts';
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

/** What else is only seen once the doing has begun: the second time that this is written. */
const ENDING = /UPDATE pending_operations SET revision/;

describe('a replica that dies while an operation is approved and done', () => {
  for (const [where, mode, statement] of POINTS)
    it(`${where} leaves it to others, once or not at all`, () =>
      dies({ at: 1, mode, counts: ({ what }) => statement.test(what) }));

  for (const mode of ['before', 'after'] as const)
    it(`${mode} it has noted that it is done leaves it to others, once`, () =>
      dies({ at: 2, mode, counts: ({ what }) => ENDING.test(what) }));

  it('and two that do it at once do it once', async () => {
    await using second = await people.rig.addReplica();
    const tenant = await people.tenant();
    const [anna, bert] = [await people.requester(tenant), await people.approver(tenant)];
    for (let round = 0; round < 5; round += 1) {
      const key = await people.key(tenant);
      const name = await people.ask(anna, key);
      await people.decided(bert, name, 'approve', { service: second });
      // The other one takes it up as well, as if the first had fallen silent.
      await people.hold(name, false);
      await people.until(name, 'DONE');
      await happenedOnce(name, key);
    }
    people.rig.services.pop();
  });
});

/** Approves at a replica that dies at that point, and has another one go on. */
async function dies(cut: {
  readonly at: number;
  readonly mode: Mode;
  readonly counts: (step: Step) => boolean;
}): Promise<void> {
  const tenant = await people.tenant();
  const [anna, bert] = [await people.requester(tenant), await people.approver(tenant)];
  const key = await people.key(tenant);
  const name = await people.ask(anna, key);
  const signs = await people.get(name);
  const points = new Failpoints();
  await using proxy = await startStatementProxy(people.rig.environment.urls.service, points);
  const mortal = await mortalReplica(proxy);
  const died = Promise.withResolvers<void>();
  points.onDeath(() => {
    died.resolve();
    void mortal.kill();
  });
  // The one that goes on leaves it alone until then.
  await people.rig.service.kill();
  points.arm(cut);
  void people.decide(bert, name, 'approve', { service: mortal, signs }).catch(() => {});
  await died.promise;
  await mortal.ended;
  people.rig.services.length = 0;
  await people.rig.addReplica();
  await people.hold(name, false);
  if ((await people.get(name)).state === 'PENDING_OPERATION_STATE_PENDING') {
    assert.equal(await people.stateOf(key), 'KEY_STATE_ENABLED');
    await people.decided(bert, name);
  }
  await people.until(name, 'DONE');
  await happenedOnce(name, key);
}

async function mortalReplica(proxy: StatementProxy): Promise<Service> {
  const { urls } = people.rig.environment;
  return people.rig.addReplica({ DATABASE_URL: proxy.through(urls.service) });
}

/** That the key was scheduled once, as entries and its revision have it. */
async function happenedOnce(name: string, key: string): Promise<void> {
  // Another replica hears of it a moment later.
  await eventually(async () => {
    const { state, etag } = await people.rig.done('KeyService/GetKey', { name: key });
    assert.deepEqual({ state, etag }, { state: 'KEY_STATE_DESTROY_SCHEDULED', etag: '2' });
  });
  const done = (await people.entries(name)).filter(
    ({ method, outcome, change }) =>
      method.endsWith('ScheduleKeyDestruction') && outcome === 'OK' && change !== null,
  );
  assert.equal(done.length, 1);
}
