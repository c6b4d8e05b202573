/**
 * Challenges of registrations, made and recognised with the HSM's key.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import {
  REGISTRATION_MS,
  RegistrationChallenges,
} from '../../src/approvals/registration-challenges.ts';
import { type Call, monotonicNow } from '../../src/call.ts';
import type { HsmAgents } from '../../src/hsm/agents.ts';
import { readEnvironment } from '../../src/store/environment.ts';
import { Store } from '../../src/store/store.ts';
import { RELEASE } from '../store/database.ts';
import { openAgents } from '../support/grants.ts';
import { type Environment, newEnvironment } from '../support/kit.ts';

let environment: Environment;
/** Of two replicas. */
let agents: HsmAgents[];

before(async () => {
  environment = await newEnvironment();
  const store = await Store.open({
    url: environment.urls.service,
    poolSize: 1,
    waitMs: 300,
    release: RELEASE,
    onError() {},
  });
  const record = await readEnvironment(store);
  await store.close();
  agents = [1, 2].map(() => openAgents(environment.variables, record));
  await Promise.all(agents.map((each) => each.start()));
});

after(async () => {
  await Promise.all((agents ?? []).map((each) => each.stop()));
  await environment?.[Symbol.asyncDispose]();
});

const callBy = (caller: string): Call => ({
  id: 'a call',
  method: 'a method',
  caller,
  deadline: monotonicNow() + 120_000,
});

test('one is good on every replica, for the caller who asked, and for five minutes', async () => {
  const [one, other] = agents.map((each) => new RegistrationChallenges(each));
  assert.ok(one && other);
  const anna = callBy('anna');
  const { challenge, expiresAt } = await one.make(anna);
  const end = expiresAt.getTime();
  // Clocks may be a minute apart.
  for (const at of [end - REGISTRATION_MS - 60_000, end - REGISTRATION_MS, end, end + 60_000])
    assert.equal(await other.isGood(anna, challenge, at), true);
  for (const at of [end + 60_001, end + REGISTRATION_MS])
    assert.equal(await other.isGood(anna, challenge, at), false);
  assert.equal(await other.isGood(callBy('bert'), challenge, end), false);
});

test('one is not good that was changed, cut or lengthened', async () => {
  const [one] = agents.map((each) => new RegistrationChallenges(each));
  assert.ok(one);
  const anna = callBy('anna');
  const { challenge, expiresAt } = await one.make(anna);
  const at = expiresAt.getTime() - 1_000;
  for (let index = 0; index < challenge.length; index++) {
    const changed = Buffer.from(challenge);
    changed.writeUInt8(changed.readUInt8(index) ^ 1, index);
    assert.equal(await one.isGood(anna, changed, at), false, `byte ${index}`);
  }
  for (const wrong of [
    Buffer.alloc(0),
    challenge.subarray(0, 7),
    challenge.subarray(0, -1),
    Buffer.concat([challenge, Buffer.of(0)]),
  ])
    assert.equal(await one.isGood(anna, wrong, at), false);
});
