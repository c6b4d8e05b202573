/**
 * How versions are used, over the wire: what counts, for which version, and that a server that is
 * told to stop says the rest.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { KeyVersionUsage, KeywardClient } from 'keyward-client';
import { eventually, reasonOf, sharedService, startService } from '../support/kit.ts';
import {
  endOf,
  jobOf,
  newId,
  QUICK,
  sql,
  storeDataKeys,
  versionsInUse,
} from '../support/reconciling.ts';

const PARENT = 'tenants/acme';
const payload = Buffer.from('p');
let keyward: KeywardClient;
const shared = sharedService(async (client) => {
  keyward = client;
  await keyward.createTenant({ tenantId: 'acme' });
}, QUICK);

const newKey = async () => (await keyward.createKey({ parent: PARENT, keyId: newId('k') })).name;

async function usageOf(name: string, version = 1): Promise<KeyVersionUsage> {
  const { usage } = await keyward.getKeyVersion({ name: `${name}/versions/${version}` });
  assert.ok(usage);
  return usage;
}

/** Waits until everything of before now is reported. */
async function reported(): Promise<void> {
  const [row] = await sql<{ now: Date }>(shared.environment, 'SELECT clock_timestamp() AS now');
  const name = await newKey();
  await eventually(async () =>
    assert.ok(Number((await usageOf(name)).completeTime) > Number(row?.now)),
  );
}

async function counted(name: string, version = 1): Promise<readonly [number, number]> {
  const { encryptOperations, decryptOperations } = await usageOf(name, version);
  return [encryptOperations, decryptOperations];
}

test('what could not be recorded was not handed out, and is not counted', async () => {
  const name = await newKey();
  const encrypt = () => keyward.encrypt({ name, plaintext: payload });
  const { ciphertext } = await encrypt();
  const revoke = 'REVOKE INSERT ON audit_inbox FROM keyward_service, keyward_reconciler';
  await sql(shared.environment, revoke);
  try {
    for (let time = 0; time < 5; time += 1)
      assert.equal(await reasonOf(encrypt()), 'AUDIT_UNAVAILABLE');
    const request = { name, plaintext: payload };
    const batch = keyward.batchEncrypt({ parent: PARENT, requests: [request, request] });
    assert.equal(await reasonOf(batch), 'AUDIT_UNAVAILABLE');
    const opening = keyward.decrypt({ parent: PARENT, ciphertext });
    assert.equal(await reasonOf(opening), 'AUDIT_UNAVAILABLE');
  } finally {
    await sql(shared.environment, revoke.replace('REVOKE', 'GRANT').replace('FROM', 'TO'));
  }
  await reported();
  assert.deepEqual(await counted(name), [1, 0]);
});

test('a version that was never used says so', async () => {
  const name = await newKey();
  await reported();
  const { completeTime, ...usage } = await usageOf(name);
  assert.deepEqual(usage, {
    encryptOperations: 0,
    lastEncryptTime: undefined,
    decryptOperations: 0,
    lastDecryptTime: undefined,
  });
  assert.ok(completeTime instanceof Date);
});

test('each kind of use counts once, for the version that did it, with when it was last', async () => {
  const name = await newKey();
  const { ciphertext } = await keyward.encrypt({ name, plaintext: payload });
  const [before] = await sql<{ now: Date }>(shared.environment, 'SELECT clock_timestamp() AS now');
  await keyward.generateDataKey({ name });
  await keyward.generateDataKeyWithoutPlaintext({ name });
  const { dataKey } = await keyward.createDataKey({ parent: name });
  await keyward.createDataKey({ parent: name, returnPlaintext: true });
  await keyward.decrypt({ parent: PARENT, ciphertext });
  await keyward.getDataKey({ name: dataKey.name });
  await reported();
  assert.deepEqual(await counted(name), [5, 2]);
  const { lastEncryptTime, lastDecryptTime } = await usageOf(name);
  for (const time of [lastEncryptTime, lastDecryptTime]) {
    const after = Number(time) - Number(before?.now);
    assert.ok(after >= -5 && after < 10_000, `${after} ms later`);
  }
  await keyward.updateKey({ key: { name, maintenancePaused: true } });
  await keyward.rotateKey({ name });
  await keyward.reEncrypt({ name, ciphertext });
  await reported();
  assert.deepEqual(
    [await counted(name), await counted(name, 2)],
    [
      [5, 3],
      [1, 0],
    ],
  );
  const { keyVersions } = await keyward.listKeyVersions({ parent: name });
  assert.deepEqual(
    keyVersions.map(({ usage }) => [usage?.encryptOperations, usage?.decryptOperations]),
    [
      [1, 0],
      [5, 3],
    ],
  );
});

test('of a batch each item counts that succeeded, and no other', async () => {
  const name = await newKey();
  const off = await newKey();
  await keyward.disableKey({ name: off });
  await keyward.batchEncrypt({
    parent: PARENT,
    requests: [name, name, off, name].map((each) => ({ name: each, plaintext: payload })),
  });
  const own = await keyward.encrypt({ name, plaintext: payload });
  await keyward.batchDecrypt({
    parent: PARENT,
    requests: [own.ciphertext, own.ciphertext, Buffer.alloc(120)].map((ciphertext) => ({
      parent: PARENT,
      ciphertext,
    })),
  });
  await keyward.batchGenerateDataKey({ parent: PARENT, requests: [{ name }, { name }] });
  await keyward.batchReEncrypt({
    parent: PARENT,
    requests: [{ name, ciphertext: own.ciphertext }],
  });
  await reported();
  assert.deepEqual(await counted(name), [3 + 1 + 2 + 1, 2 + 1]);
  assert.deepEqual(await counted(off), [0, 0]);
});

test('what failed does not count', async () => {
  const name = await newKey();
  const { ciphertext } = await keyward.encrypt({
    name,
    plaintext: payload,
    encryptionContext: { a: 'b' },
  });
  const { dataKey } = await keyward.createDataKey({
    parent: name,
    dataKeyId: 'dk',
    encryptionContext: { a: 'b' },
  });
  assert.equal(
    await reasonOf(keyward.decrypt({ parent: PARENT, ciphertext })),
    'DECRYPTION_FAILED',
  );
  assert.equal(await reasonOf(keyward.getDataKey({ name: dataKey.name })), 'DECRYPTION_FAILED');
  assert.equal(
    await reasonOf(keyward.createDataKey({ parent: name, dataKeyId: 'dk' })),
    'RESOURCE_EXISTS',
  );
  assert.equal(
    await reasonOf(keyward.encrypt({ name, plaintext: Buffer.alloc(65_537) })),
    'INVALID_FIELD',
  );
  await reported();
  assert.deepEqual(await counted(name), [2, 0]);
});

test('what the service does by itself is no use: re-wrapping counts nothing', async () => {
  const name = await newKey();
  await storeDataKeys(keyward, name, 12);
  await keyward.rotateKey({ name });
  await endOf(keyward, await jobOf(keyward, name));
  assert.deepEqual(await versionsInUse(keyward, name), [2]);
  await reported();
  assert.deepEqual(
    [await counted(name), await counted(name, 2)],
    [
      [12, 0],
      [0, 0],
    ],
  );
});

test('what replicas count is added up, and one that is told to stop reports the rest', async () => {
  const name = await newKey();
  const service = await startService(shared.environment, {
    ...QUICK,
    KEYWARD_USAGE_REPORT_MS: '60000',
  });
  // Its first report is made at its start; what it counts after that would be due in a minute.
  const replicas = () => sql(shared.environment, 'SELECT 1 FROM usage_reports');
  await eventually(async () => assert.equal((await replicas()).length, 2));
  const client = service.client();
  for (let use = 0; use < 7; use++) await client.encrypt({ name, plaintext: payload });
  await keyward.encrypt({ name, plaintext: payload });
  await eventually(async () => assert.deepEqual(await counted(name), [1, 0]));
  const { completeTime } = await usageOf(name);
  const [row] = await sql<{ oldest: Date }>(
    shared.environment,
    'SELECT min(complete_at) AS oldest FROM usage_reports',
  );
  assert.deepEqual(
    completeTime,
    row?.oldest,
    'no further than the replica that is furthest behind',
  );
  assert.equal(await service.stop(), 0);
  assert.deepEqual(await counted(name), [8, 0]);
  assert.equal((await replicas()).length, 1);
  await eventually(async () =>
    assert.ok(Number((await usageOf(name)).completeTime) > Number(completeTime)),
  );
});

test('a replica that was killed holds up nobody for ever, and what it had reported stays', async () => {
  const name = await newKey();
  const known = await sql<{ id: string }>(
    shared.environment,
    'SELECT replica_id AS id FROM usage_reports',
  );
  const service = await startService(shared.environment, QUICK);
  await service.client().encrypt({ name, plaintext: payload });
  await eventually(async () => assert.deepEqual(await counted(name), [1, 0]));
  await service.kill();
  const killed = await sql(
    shared.environment,
    `UPDATE usage_reports SET complete_at = complete_at - interval '11 minutes'
     WHERE replica_id <> ALL ($1) RETURNING 1`,
    [known.map(({ id }) => id)],
  );
  assert.equal(killed.length, 1);
  await reported();
  assert.deepEqual(await counted(name), [1, 0]);
});
