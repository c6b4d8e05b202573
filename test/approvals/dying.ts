/**
 * A replica that dies while it approves an operation and does it, and what has to hold then.
 */
import assert from 'node:assert/strict';
import { setTimeout } from 'node:timers/promises';
import { type Cut, Failpoints } from '../rotation/failpoints.ts';
import { type StatementProxy, startStatementProxy } from '../rotation/statement-proxy.ts';
import { eventually, type Service } from '../support/kit.ts';
import type { People } from './people.ts';

/**
 * Approves at a replica that dies at that point, has another one go on, and asserts that what was
 * approved is done once. Returns false where it was done before that point was reached.
 */
export async function approvedOnce(people: People, cut: Cut): Promise<boolean> {
  const tenant = await people.tenant();
  const [anna, bert] = [await people.requester(tenant), await people.approver(tenant)];
  const key = await people.key(tenant);
  const name = await people.ask(anna, key);
  const signs = await people.get(name);
  const points = new Failpoints();
  await using proxy = await startStatementProxy(people.rig.environment.urls.service, points);
  const mortal = await mortalReplica(people, proxy);
  const died = Promise.withResolvers<void>();
  points.onDeath(() => {
    died.resolve();
    void mortal.kill();
  });
  // The one that goes on leaves it alone until then.
  await people.rig.service.kill();
  points.arm(cut);
  void people.decide(bert, name, 'approve', { service: mortal, signs }).catch(() => {});
  const isReached = await Promise.race([
    died.promise.then(() => true),
    isDone(people, name, points),
  ]);
  if (!isReached) await mortal.kill();
  await mortal.ended;
  people.rig.services.length = 0;
  await people.rig.addReplica();
  await people.hold(name, false);
  if ((await people.get(name)).state === 'PENDING_OPERATION_STATE_PENDING') {
    assert.equal(await people.stateOf(key), 'KEY_STATE_ENABLED');
    await people.decided(bert, name);
  }
  await people.until(name, 'DONE');
  await happenedOnce(people, name, key);
  return isReached;
}

async function mortalReplica(people: People, proxy: StatementProxy): Promise<Service> {
  const { urls } = people.rig.environment;
  return people.rig.addReplica({ DATABASE_URL: proxy.through(urls.service) });
}

/** That the key was scheduled once, as entries and its revision have it. */
export async function happenedOnce(people: People, name: string, key: string): Promise<void> {
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

/** Resolves once the operation is done; looks no more where the replica has died. */
async function isDone(people: People, name: string, points: Failpoints): Promise<false> {
  while (!points.dead && (await people.storedState(name)) !== 'DONE') await setTimeout(50);
  return false;
}
