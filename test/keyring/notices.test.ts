/**
 * What people can ask to hear of: rotations and jobs that are done, destructions and role bindings
 * whose time comes.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { KeywardClient } from 'keyward-client';
import { type LogLine, sharedService, startService } from '../support/kit.ts';
import { endOf, jobOf, newId, QUICK, sql } from '../support/reconciling.ts';

const DAY_MS = 86_400_000;
let keyward: KeywardClient;
const shared = sharedService(async (client) => {
  keyward = client;
  await keyward.createTenant({ tenantId: 'acme' });
}, QUICK);

const newKey = async () =>
  (await keyward.createKey({ parent: 'tenants/acme', keyId: newId('k') })).name;

test('a rotation and the job that ends after it are told of', async () => {
  const key = await newKey();
  await keyward.rotateKey({ name: key });
  const job = await jobOf(keyward, key);
  await endOf(keyward, job);
  const { service } = shared;
  const rotated = await service.logged(
    (line) => line['alert'] === 'rotation-done' && line['key'] === key,
  );
  assert.deepEqual([rotated['version'], rotated['severity']], [2, 'info']);
  await service.logged((line) => line['alert'] === 'job-finished' && line['subject'] === job);
});

test('what is destroyed or expires soon is told of, seven days and one day before, and nothing else', async () => {
  const [later, soon, tomorrow] = [await newKey(), await newKey(), await newKey()];
  for (const [name, windowDays] of [
    [later, 30],
    [soon, 7],
    [tomorrow, 7],
  ] as const) {
    const { etag } = await keyward.getKey({ name });
    await keyward.scheduleKeyDestruction({ name, etag, windowDays });
  }
  await sql(
    shared.environment,
    `UPDATE keys SET destroy_at = now() + interval '20 hours' WHERE name = $1`,
    [tomorrow.split('/').at(-1)],
  );
  const binding = async (days: number) => {
    const roleBinding = {
      ...{ principal: 'spiffe://keyward.test/guest', role: 'roles/keyViewer' },
      expireTime: new Date(Date.now() + days * DAY_MS),
    };
    return (await keyward.createRoleBinding({ parent: 'tenants/acme', roleBinding })).name;
  };
  const [expiring] = [await binding(5), await binding(50)];
  await using service = await startService(shared.environment, QUICK);
  const told = (line: LogLine) =>
    line['alert'] === 'destruction-coming' || line['alert'] === 'binding-expiring';
  await service.logged((line) => told(line) && line['resource'] === expiring);
  assert.deepEqual(
    service.log
      .filter(told)
      .map(({ resource, within }) => `${resource} ${within}`)
      .toSorted(),
    [`${soon} 7 days`, `${tomorrow} 1 day`, `${expiring} 7 days`].toSorted(),
  );
});
