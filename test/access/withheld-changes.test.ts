/**
 * The age of what replicas remember: a writer of the database who keeps changes from being
 * announced delays what was revoked or disabled by no more than that, on every replica and for open
 * streams, and is found out; and one who takes rows away, too.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { eventually, type LogLine, type Service } from '../support/kit.ts';
import { newId, sql } from '../support/reconciling.ts';
import { AccessRig, type Caller } from './access-rig.ts';

/** Short, so that this need not wait: services have 30 seconds. */
const AGE = { KEYWARD_CACHE_MAX_AGE_MS: '1000' };
const WATCH = 'RotationService/WatchRewrapJob';

let rig: AccessRig;
/** Where nothing is changed, so that it hears of changes by the feed alone. */
let other: Service;

before(async () => {
  rig = await AccessRig.start(AGE);
  other = await rig.addReplica(AGE);
  await rig.done('AdminService/PauseMaintenance', {});
});

after(() => rig?.[Symbol.asyncDispose]());

interface Scene {
  readonly tenant: string;
  readonly tenantId: string;
  readonly keyId: string;
  readonly key: string;
  readonly job: string;
  readonly caller: Caller;
  readonly binding: string;
}

/** A tenant with a key, a job, and a caller whom every replica knows. */
async function newScene(): Promise<Scene> {
  const tenantId = newId('t');
  const tenant = `tenants/${tenantId}`;
  const { uid } = await rig.done('AdminService/CreateTenant', { tenantId });
  const made = await rig.done('KeyService/CreateKey', { parent: tenant, keyId: 'k' });
  const key = `${tenant}/keys/k`;
  const job = String((await rig.done('RotationService/CreateRewrapJob', { scope: key }))['name']);
  const name = `spiffe://keyward.test/${newId('caller')}`;
  const caller = rig.certified(name);
  await rig.bind(tenantId, name, 'encrypter');
  const binding = await rig.bind(tenantId, name, 'keyViewer');
  const scene = {
    tenant,
    tenantId: String(uid),
    keyId: String(made['uid']),
    key,
    job,
    caller,
    binding,
  };
  // By then a replica that answers has heard of all this, and forgets none of it again.
  await delay(2_000);
  for (const service of rig.services) {
    await eventually(async () => assert.equal(await read(scene, service), 'OK'));
    await eventually(async () => assert.equal(await encrypt(scene, service), 'OK'));
  }
  return scene;
}

const read = async ({ caller, key }: Scene, service = other) =>
  (await rig.ask(caller, 'KeyService/GetKey', { name: key }, service)).reason;
const encrypt = async ({ caller, key }: Scene, service = other) =>
  (
    await rig.ask(
      caller,
      'EncryptionService/Encrypt',
      { name: key, plaintext: Buffer.from('p') },
      service,
    )
  ).reason;

/** Has the database discard every announcement, while `work` is done. */
async function withheld(work: () => Promise<void>): Promise<void> {
  await sql(
    rig.environment,
    `CREATE FUNCTION withhold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
     CREATE TRIGGER withhold BEFORE INSERT ON changes FOR EACH ROW EXECUTE FUNCTION withhold()`,
  );
  try {
    await work();
  } finally {
    await sql(rig.environment, 'DROP TRIGGER withhold ON changes; DROP FUNCTION withhold');
  }
}

const isMissing = (subject: string) => (line: LogLine) =>
  line['alert'] === 'changes-missing' && line['subjectId'] === subject;

describe('what is announced', () => {
  test('is taken for nothing else, however much changes', async () => {
    const scene = await newScene();
    for (let round = 0; round < 10; round++) {
      for (const action of ['DisableKey', 'EnableKey'])
        await rig.done(`KeyService/${action}`, { name: scene.key });
      for (const action of ['DisableTenant', 'EnableTenant'])
        await rig.done(`AdminService/${action}`, { name: scene.tenant });
      await rig.done('AccessService/DeleteRoleBinding', {
        name: await rig.bind(scene.tenant.slice('tenants/'.length), 'x', 'keyViewer'),
      });
      await encrypt(scene);
      await delay(200);
    }
    await eventually(async () => assert.equal(await encrypt(scene), 'OK'));
    // Longer than it takes until an alert.
    await delay(6_000);
    for (const { log } of rig.services)
      assert.deepEqual(
        log.filter(({ alert }) => alert === 'changes-missing' || alert === 'row-missing'),
        [],
      );
  });
});

describe('while a writer of the database discards all announcements', () => {
  test('a binding that is deleted ends on every replica, also for an open stream, and is named', async () => {
    const scene = await newScene();
    const from = other.log.length;
    await withheld(async () => {
      const watched = rig.ask(scene.caller, WATCH, { name: scene.job }, other);
      assert.equal(await Promise.race([watched, read(scene).then(() => 'open')]), 'open');
      await rig.done('AccessService/DeleteRoleBinding', { name: scene.binding });
      await eventually(async () => assert.equal(await read(scene), 'PERMISSION_MISSING'));
      assert.equal((await watched).reason, 'PERMISSION_MISSING');
      await other.logged(isMissing(scene.tenantId), from);
    });
  });

  test('a key that is disabled, and a tenant, stop on every replica, and are named', async () => {
    const [one, two] = [await newScene(), await newScene()];
    const from = other.log.length;
    await withheld(async () => {
      await rig.done('KeyService/DisableKey', { name: one.key });
      await rig.done('AdminService/DisableTenant', { name: two.tenant });
      await eventually(async () => assert.equal(await encrypt(one), 'KEY_NOT_ENABLED'));
      await eventually(async () => assert.equal(await encrypt(two), 'TENANT_DISABLED'));
      await other.logged(isMissing(one.keyId), from);
      await other.logged(isMissing(two.tenantId), from);
    });
  });

  test('rows that are changed under the revision that they had are named, though nobody asks', async () => {
    const scene = await newScene();
    const tenant = scene.tenant.slice('tenants/'.length);
    const from = other.log.length;
    await withheld(() =>
      sql(
        rig.environment,
        `UPDATE tenants SET quota_keys = 1000 WHERE tenant_id = '${scene.tenantId}';
         UPDATE role_bindings SET role = 'roles/keyAdmin' WHERE tenant_id = '${scene.tenantId}';
         UPDATE key_versions SET state = 'DISABLED' WHERE key_id = '${scene.keyId}'`,
      ).then(() => undefined),
    );
    const alerts: readonly ((line: LogLine) => boolean)[] = [
      ({ alert, detail }) => alert === 'tenant-corrupt' && String(detail).includes(scene.tenantId),
      ({ alert, tenant: named }) => alert === 'policy-corrupt' && named === tenant,
      ({ alert, detail }) => alert === 'key-state-corrupt' && String(detail).includes(scene.keyId),
    ];
    for (const matches of alerts) await other.logged(matches, from);
  });

  test('a key’s row that is taken away is named, and so is one that is put back as it was', async () => {
    const [gone, older] = [await newScene(), await newScene()];
    const from = other.log.length;
    const columns = 'state, revision, state_seal_key_id, state_seal';
    await sql(
      rig.environment,
      `CREATE TABLE before_it AS SELECT * FROM keys WHERE key_id = '${older.keyId}'`,
    );
    await rig.done('KeyService/DisableKey', { name: older.key });
    for (const service of rig.services)
      await eventually(async () => assert.equal(await encrypt(older, service), 'KEY_NOT_ENABLED'));
    await withheld(async () => {
      await sql(
        rig.environment,
        `SET session_replication_role = replica; DELETE FROM keys WHERE key_id = '${gone.keyId}';
         UPDATE keys k SET (${columns}) = (SELECT ${columns} FROM before_it)
         WHERE key_id = '${older.keyId}'`,
      );
      await eventually(async () => assert.equal(await encrypt(gone), 'RESOURCE_NOT_FOUND'));
      await other.logged(
        ({ alert, subjectId }) => alert === 'row-missing' && subjectId === gone.keyId,
        from,
      );
      await eventually(async () => assert.equal(await encrypt(older), 'KEY_STATE_CORRUPT'));
      await other.logged(
        ({ alert, detail }) =>
          alert === 'key-state-corrupt' && String(detail).includes(older.keyId),
        from,
      );
    });
  });
});
