/**
 * Shredding tenants over the wire: looked at, scheduled, called back, done; and that what a dump
 * from before still has opens nowhere once the tenant's root keys are destroyed.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { describe, test } from 'node:test';
import type { KeywardClient } from 'keyward-client';
import {
  eventually,
  failureOf,
  reasonOf,
  runCommand,
  sharedService,
  startService,
} from '../support/kit.ts';
import { endOf, newId, QUICK, resealTenants, sql, storeDataKeys } from '../support/reconciling.ts';

const DAY_MS = 86_400_000;
const payload = Buffer.from('secret of theirs');
let keyward: KeywardClient;
const shared = sharedService(async (client) => {
  keyward = client;
  await keyward.createTenant({ tenantId: 'bystander' });
}, QUICK);

/** A tenant with a key of two versions, a ciphertext and five stored data keys. */
async function newTenant(dedicatedRootKey: boolean) {
  const tenantId = newId('t');
  const parent = `tenants/${tenantId}`;
  await keyward.createTenant({ tenantId, dedicatedRootKey });
  // A root key of its own is awaited for as long as the call has time.
  const { name } = await eventually(() => keyward.createKey({ parent, keyId: 'k' }));
  await keyward.rotateKey({ name });
  const { ciphertext } = await keyward.encrypt({ name, plaintext: payload });
  await storeDataKeys(keyward, name, 5);
  return { tenantId, parent, name, ciphertext };
}

async function schedule(name: string, windowDays = 7) {
  const { impact } = await keyward.shredTenant({ name, validateOnly: true });
  return keyward.shredTenant({ name, etag: impact.etag, windowDays });
}

/** Has the time come, and waits until it is done. */
async function shred(tenantId: string): Promise<void> {
  await sql(
    shared.environment,
    `UPDATE tenants SET shred_at = now() - interval '1 s' WHERE name = $1`,
    [tenantId],
  );
  await resealTenants(shared.environment, 't.name = $1', [tenantId]);
  await eventually(async () =>
    assert.equal(
      await reasonOf(keyward.getTenant({ name: `tenants/${tenantId}` })),
      'RESOURCE_NOT_FOUND',
    ),
  );
}

describe('shredding a tenant', () => {
  test('is looked at first: what would be lost, when, and what it does not reach', async () => {
    for (const dedicated of [true, false]) {
      const { parent, ...own } = await newTenant(dedicated);
      const { tenant, impact } = await keyward.shredTenant({ name: parent, validateOnly: true });
      assert.deepEqual(
        [tenant.state, impact.keys, impact.keyVersions, impact.storedDataKeys, impact.etag],
        ['ENABLED', 1, 2, 5, tenant.etag],
      );
      const days = (Number(impact.shredTime) - Date.now()) / DAY_MS;
      assert.ok(days > 29.9 && days < 30.1, `${days}`);
      assert.equal(impact.rootKeys.length, dedicated ? 1 : 0);
      assert.equal(impact.checklist.length > 0, dedicated);
      assert.match(impact.notice, dedicated ? /token shred/ : /shares its root key/);
      await keyward.encrypt({ name: own.name, plaintext: payload });
    }
  });

  test('wants the etag that was looked at, and can be called back: it is disabled then', async () => {
    const { parent, name, ciphertext } = await newTenant(true);
    assert.equal(
      (await failureOf(keyward.shredTenant({ name: parent, etag: '' }))).fieldViolations[0]?.field,
      'etag',
    );
    assert.equal(
      await reasonOf(keyward.shredTenant({ name: parent, etag: '99' })),
      'ETAG_MISMATCH',
    );
    assert.equal(
      await reasonOf(keyward.restoreTenant({ name: parent })),
      'DESTRUCTION_NOT_SCHEDULED',
    );
    const { tenant } = await schedule(parent);
    assert.equal(tenant.state, 'SHRED_SCHEDULED');
    for (const call of [
      () => keyward.encrypt({ name, plaintext: payload }),
      () => keyward.decrypt({ parent, ciphertext }),
      () => keyward.createKey({ parent, keyId: 'another' }),
      () => keyward.getDataKey({ name: `${name}/dataKeys/dk-0001` }),
    ])
      assert.equal(await reasonOf(call()), 'TENANT_DISABLED');
    assert.equal(await reasonOf(keyward.enableTenant({ name: parent })), 'DESTRUCTION_UNDER_WAY');
    assert.equal(await reasonOf(schedule(parent)), 'DESTRUCTION_UNDER_WAY');
    assert.equal((await keyward.restoreTenant({ name: parent })).state, 'DISABLED');
    await keyward.enableTenant({ name: parent });
    assert.deepEqual((await keyward.decrypt({ parent, ciphertext })).plaintext, payload);
    assert.equal(
      await reasonOf(keyward.shredTenant({ name: 'tenants/system', validateOnly: true })),
      'INVALID_FIELD',
    );
  });

  test('is once for one request id', async () => {
    const { parent } = await newTenant(false);
    const { impact } = await keyward.shredTenant({ name: parent, validateOnly: true });
    const request = { name: parent, etag: impact.etag, requestId: randomUUID() };
    const first = await keyward.shredTenant(request);
    const again = await keyward.shredTenant(request);
    assert.deepEqual(again.tenant, first.tenant);
  });

  test('erases everything of it and nothing else, and from then on it answers as if it had never been', async () => {
    const { tenantId, parent, name, ciphertext } = await newTenant(false);
    const { name: other } = await keyward.createKey({
      parent: 'tenants/bystander',
      keyId: newId('k'),
    });
    const kept = await keyward.encrypt({ name: other, plaintext: payload });
    await schedule(parent);
    assert.equal((await keyward.getTenant({ name: parent })).state, 'SHRED_SCHEDULED');
    await shred(tenantId);
    const absent = 'tenants/never-was';
    for (const call of [
      (of: string) => keyward.getTenant({ name: of }),
      (of: string) => keyward.listKeys({ parent: of }),
      (of: string) => keyward.encrypt({ name: `${of}/keys/k`, plaintext: payload }),
      (of: string) => keyward.restoreTenant({ name: of }),
      (of: string) => keyward.listTokenKeys({ parent: of }),
    ]) {
      const [gone, never] = await Promise.all([failureOf(call(parent)), failureOf(call(absent))]);
      assert.deepEqual(
        [gone.code, gone.reason, gone.message],
        [never.code, never.reason, never.message],
      );
    }
    assert.equal(await reasonOf(keyward.decrypt({ parent, ciphertext })), 'RESOURCE_NOT_FOUND');
    const listed = (await keyward.listTenants({ pageSize: 1000 })).tenants.map((each) => each.name);
    assert.ok(!listed.includes(parent) && listed.includes('tenants/bystander'));
    assert.equal(await reasonOf(keyward.createTenant({ tenantId })), 'RESOURCE_EXISTS');
    const [left] = await sql<{ wrapped: number; data_keys: number }>(
      shared.environment,
      `SELECT coalesce(sum(octet_length(wrapped)), 0)::integer AS wrapped, (
         SELECT count(*)::integer FROM data_keys WHERE tenant_id = t.tenant_id) AS data_keys
       FROM key_versions v JOIN tenants t USING (tenant_id) WHERE t.name = $1 GROUP BY t.tenant_id`,
      [tenantId],
    );
    assert.deepEqual(left, { wrapped: 0, data_keys: 0 });
    const opened = await keyward.decrypt({
      parent: 'tenants/bystander',
      ciphertext: kept.ciphertext,
    });
    assert.deepEqual(opened.plaintext, payload);
    assert.match(
      (await runCommand(shared.environment, ['token', 'shred', tenantId])).output,
      /had no root key of its own/,
    );
    assert.equal(name.startsWith(parent), true);
  });

  test('with a root key of its own: its rows from a dump taken before open nowhere once the roots are destroyed', async () => {
    const { tenantId, parent, ciphertext } = await newTenant(true);
    await endOf(keyward, (await keyward.rotateRootKey({ parent })).rewrapJob);
    const { environment } = shared;
    const dump = await sql(
      environment,
      `SELECT v.* FROM key_versions v JOIN tenants t USING (tenant_id) WHERE t.name = $1`,
      [tenantId],
    );
    const [key] = await sql(
      environment,
      `SELECT k.* FROM keys k JOIN tenants t USING (tenant_id) WHERE t.name = $1`,
      [tenantId],
    );
    assert.ok(key);
    assert.match(
      (await runCommand(environment, ['token', 'shred', tenantId])).output,
      /is ENABLED/,
    );
    await schedule(parent);
    assert.match(
      (await runCommand(environment, ['token', 'shred', tenantId])).output,
      /is scheduled to be shredded/,
    );
    const before = shared.service.agentPids;
    await shred(tenantId);
    // What they had unwrapped goes with them.
    await eventually(() =>
      assert.ok(before.every((pid) => !shared.service.agentPids.includes(pid))),
    );
    const waiting = (await keyward.getTokenStatus()).objects.filter(
      ({ tenant }) => tenant === parent,
    );
    assert.equal(waiting.length, 2);
    for (const { toDo } of waiting) assert.match(toDo, new RegExp(`token shred ${tenantId}$`));
    const told = await runCommand(environment, ['token', 'status']);
    assert.match(
      told.output,
      /Root keys of shredded tenants may also be in:\n {2}- the token itself/,
    );
    const { code, output } = await runCommand(environment, ['token', 'shred', tenantId]);
    assert.equal(code, 0, output);
    assert.match(output, /2 of 2 were in this token/);
    assert.deepEqual(
      (await keyward.getTokenStatus()).objects.filter(({ tenant }) => tenant === parent),
      [],
    );
    // The rows come back, as from a dump, and the tenant and its key with them.
    await sql(
      environment,
      `UPDATE tenants SET state = 'ENABLED', shredded_at = NULL, shred_at = NULL WHERE name = $1`,
      [tenantId],
    );
    await resealTenants(environment, 't.name = $1', [tenantId]);
    await sql(
      environment,
      `UPDATE keys SET state = 'ENABLED', destroyed_at = NULL, revision = $2, state_seal_key_id = $3, state_seal = $4
       WHERE key_id = $1`,
      [key['key_id'], key['revision'], key['state_seal_key_id'], key['state_seal']],
    );
    for (const row of dump)
      await sql(
        environment,
        `UPDATE key_versions SET state = $1, wrapped = $2, destroyed_at = NULL WHERE key_id = $3 AND version = $4`,
        [row['state'], row['wrapped'], row['key_id'], row['version']],
      );
    await using revived = await startService(environment, QUICK);
    const error = await failureOf(revived.client().decrypt({ parent, ciphertext }));
    assert.deepEqual([error.code, error.reason], ['UNAVAILABLE', 'HSM_UNAVAILABLE']);
    await sql(
      environment,
      `UPDATE tenants SET state = 'SHREDDED', shredded_at = now(), shred_at = now() WHERE name = $1`,
      [tenantId],
    );
  });
});
