/**
 * What entries say of changes and of the use of keys, over the wire: facts of the operation, so
 * that a reader of the log knows who could do what, and what was done.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { describe, test } from 'node:test';
import {
  type AuditChange,
  type AuditEntryContent,
  connect,
  type KeywardClient,
  readAuditEntry,
} from 'keyward-client';
import { eventually, failureOf, reasonOf, sharedService } from '../support/kit.ts';
import { sql } from '../support/reconciling.ts';

const TENANT = 'tenants/acme';
const KEY = `${TENANT}/keys/mail`;
const OTHER = `${TENANT}/keys/other`;
const PLAINTEXT = Buffer.from('x');
let keyward: KeywardClient;
const shared = sharedService(async (client) => {
  keyward = client;
  await client.createTenant({ tenantId: 'acme' });
  await client.createKey({ parent: TENANT, keyId: 'mail' });
  await client.createKey({ parent: TENANT, keyId: 'other' });
});

/** The entries of a method about a resource, the newest first, as soon as there is one. */
function entriesOf(method: string, resource?: string): Promise<AuditEntryContent[]> {
  return eventually(async () => {
    const about = resource === undefined ? '' : ` AND resource = "${resource}"`;
    const filter = `method = "keyward.v1.${method}"${about}`;
    const found: AuditEntryContent[] = [];
    for await (const entry of keyward.auditEntries({ parent: 'tenants/-', filter }))
      found.push(readAuditEntry(entry));
    assert.ok(found.length > 0, `an entry of ${method}`);
    return found;
  });
}

async function lastOf(method: string, resource?: string): Promise<AuditEntryContent> {
  return (await entriesOf(method, resource))[0] as AuditEntryContent;
}

async function changeOf(method: string, resource?: string): Promise<AuditChange> {
  return (await lastOf(method, resource)).change ?? assert.fail(`${method} says no change`);
}

async function idOf(table: 'tenants' | 'keys', name: string): Promise<string> {
  const column = table === 'tenants' ? 'tenant_id' : 'key_id';
  const [row] = await sql<{ id: string }>(
    shared.environment,
    `SELECT ${column} AS id FROM ${table} WHERE name = $1`,
    [name],
  );
  return row?.id ?? assert.fail(name);
}

describe('beside names', () => {
  test('entries have the UUIDs of the tenant and of the key: of uses, changes and reads', async () => {
    await keyward.encrypt({ name: KEY, plaintext: PLAINTEXT });
    await keyward.getKey({ name: KEY });
    await keyward.listKeyVersions({ parent: KEY });
    await keyward.updateKey({ key: { name: KEY, labels: { a: 'b' } } });
    const ids = [await idOf('tenants', 'acme'), await idOf('keys', 'mail')];
    for (const method of [
      'EncryptionService/Encrypt',
      'KeyService/GetKey',
      'KeyService/ListKeyVersions',
      'KeyService/UpdateKey',
    ]) {
      const { tenantId, keyId } = await lastOf(method);
      assert.deepEqual([tenantId, keyId], ids, method);
    }
    const { tenantId, keyId } = await lastOf('KeyService/CreateKey', KEY);
    assert.deepEqual([tenantId, keyId], ids);
  });

  test('a tenant that is made has its own UUID in its entry, and what is no tenant’s, that of system', async () => {
    await keyward.createTenant({ tenantId: 'newborn' });
    const made = await lastOf('AdminService/CreateTenant', 'tenants/newborn');
    assert.equal(made.tenantId, await idOf('tenants', 'newborn'));
    await keyward.getMaintenance({});
    const { tenantId } = await lastOf('AdminService/GetMaintenance');
    assert.equal(tenantId, await idOf('tenants', 'system'));
  });
});

describe('a change of access', () => {
  const name = `${TENANT}/roleBindings/bob`;
  const expireTime = new Date(Date.now() + 86_400_000);

  test('has all of the binding that was made, and of the one that was deleted', async () => {
    await keyward.createRoleBinding({
      parent: TENANT,
      roleBindingId: 'bob',
      roleBinding: {
        principal: 'spiffe://keyward.test/bob',
        role: 'roles/decrypter',
        keyPattern: 'mail*',
        expireTime,
        conditions: [{ contextKey: 'patient', oneOf: ['1', '2'] }],
        description: 'for the night shift',
      },
    });
    const made = await changeOf('AccessService/CreateRoleBinding', name);
    const { createTime, ...rest } = made.after ?? {};
    assert.ok(Number.isFinite(Date.parse(String(createTime))));
    assert.deepEqual(rest, {
      member: { kind: 'principal', name: 'spiffe://keyward.test/bob' },
      role: 'roles/decrypter',
      keyPattern: 'mail*',
      allTenants: false,
      expireTime: expireTime.toISOString(),
      conditions: [{ contextKey: 'patient', requirement: { kind: 'oneOf', values: ['1', '2'] } }],
      overridesSeparation: false,
      description: 'for the night shift',
      creator: 'spiffe://keyward.test/tester',
    });
    assert.deepEqual([made.kind, made.before], ['roleBinding', undefined]);
    await keyward.deleteRoleBinding({ name });
    const deleted = await changeOf('AccessService/DeleteRoleBinding', name);
    assert.deepEqual([deleted.before, deleted.after], [made.after, undefined]);
    assert.equal(Number(deleted.policyRevision), Number(made.policyRevision) + 1);
  });

  test('has the permissions of a tenant’s own role', async () => {
    const role = `${TENANT}/roles/reader`;
    const permissions = ['keys.get', 'keys.list'];
    await keyward.createRole({ parent: TENANT, roleId: 'reader', role: { permissions } });
    const made = await changeOf('AccessService/CreateRole', role);
    assert.deepEqual([made.kind, made.after?.['permissions']], ['role', permissions]);
    await keyward.deleteRole({ name: role });
    const deleted = await changeOf('AccessService/DeleteRole', role);
    assert.deepEqual([deleted.before, deleted.after], [made.after, undefined]);
  });
});

describe('a change of a tenant', () => {
  test('has its state and quotas before and after', async () => {
    const name = 'tenants/changing';
    await keyward.createTenant({ tenantId: 'changing' });
    const made = await changeOf('AdminService/CreateTenant', name);
    assert.deepEqual(
      [made.kind, made.before, made.after?.['state']],
      ['tenant', undefined, 'ENABLED'],
    );
    await keyward.updateTenant({
      tenant: { name, quotas: { keys: 7 } },
    });
    const updated = await changeOf('AdminService/UpdateTenant', name);
    assert.deepEqual(updated.before, made.after);
    assert.deepEqual(updated.after?.['quotas'], {
      callsPerSecond: null,
      keys: 7,
      storedDataKeys: null,
    });
    await keyward.disableTenant({ name });
    const disabled = await changeOf('AdminService/DisableTenant', name);
    assert.deepEqual(
      [disabled.before?.['state'], disabled.after?.['state']],
      ['ENABLED', 'DISABLED'],
    );
    await keyward.enableTenant({ name });
    const { etag = '' } =
      (await keyward.shredTenant({ name, validateOnly: true })).impact ?? assert.fail();
    assert.deepEqual((await lastOf('AdminService/ShredTenant', name)).detail, {
      validateOnly: true,
    });
    await keyward.shredTenant({ name, etag });
    const shredded = await eventually(async () => {
      const change = await changeOf('AdminService/ShredTenant', name);
      assert.equal(change.after?.['state'], 'SHRED_SCHEDULED');
      return change;
    });
    assert.ok(Number.isFinite(Date.parse(String(shredded.after?.['shredTime']))));
    await keyward.restoreTenant({ name });
    const restored = await changeOf('AdminService/RestoreTenant', name);
    assert.equal(restored.after?.['state'], 'DISABLED');
  });
});

describe('a change of a key', () => {
  const name = `${TENANT}/keys/changing`;

  test('has its state, its primary, its schedule and its revision, and the versions that changed', async () => {
    await keyward.createKey({ parent: TENANT, keyId: 'changing' });
    const made = await changeOf('KeyService/CreateKey', name);
    assert.equal(made.kind, 'key');
    assert.deepEqual([made.after?.['primaryVersion'], made.after?.['revision']], [1, '1']);
    assert.deepEqual(made.versions, [
      { version: 1, after: { state: 'ENABLED', destroyTime: null } },
    ]);

    await keyward.updateKey({
      key: { name, rotationPeriodSeconds: 90 * 86_400 },
    });
    const updated = await changeOf('KeyService/UpdateKey', name);
    assert.deepEqual(updated.before, made.after);
    assert.equal(updated.after?.['rotationPeriodSeconds'], 90 * 86_400);
    assert.deepEqual([updated.after?.['revision'], updated.versions], ['2', undefined]);

    await keyward.rotateKey({ name });
    const rotated = await changeOf('KeyService/RotateKey', name);
    assert.deepEqual([rotated.cause, rotated.after?.['primaryVersion']], ['request', 2]);
    assert.deepEqual(rotated.versions, [
      { version: 2, after: { state: 'ENABLED', destroyTime: null } },
    ]);

    await keyward.disableKeyVersion({ name: `${name}/versions/1` });
    const disabled = await changeOf('KeyService/DisableKeyVersion', `${name}/versions/1`);
    assert.deepEqual(disabled.versions, [
      {
        version: 1,
        before: { state: 'ENABLED', destroyTime: null },
        after: { state: 'DISABLED', destroyTime: null },
      },
    ]);

    await keyward.disableKey({ name });
    const key = await changeOf('KeyService/DisableKey', name);
    assert.deepEqual([key.before?.['state'], key.after?.['state']], ['ENABLED', 'DISABLED']);
  });

  test('that is sent again says that it is one that was made before', async () => {
    const again = { parent: TENANT, keyId: 'again', requestId: randomUUID() };
    await keyward.createKey(again);
    await keyward.createKey(again);
    const entries = await eventually(async () => {
      const found = await entriesOf('KeyService/CreateKey', `${TENANT}/keys/again`);
      assert.equal(found.length, 2);
      return found;
    });
    assert.deepEqual(
      entries.map(({ change, detail }) => [change === undefined, detail]),
      [
        [true, { repeated: true }],
        [false, undefined],
      ],
    );
  });
});

test('pausing maintenance has the switch before and after', async () => {
  await keyward.pauseMaintenance({});
  const paused = await changeOf('AdminService/PauseMaintenance');
  assert.deepEqual(paused, {
    kind: 'maintenance',
    before: { paused: false },
    after: { paused: true },
  });
  await keyward.resumeMaintenance({});
  const resumed = await changeOf('AdminService/ResumeMaintenance');
  assert.deepEqual([resumed.before, resumed.after], [paused.after, paused.before]);
});

test('a new seal key has each of its steps, those of the service too', async () => {
  const { name = '' } = await keyward.rotateSealKey({});
  const steps = [
    await changeOf('HsmService/RotateSealKey', name),
    await changeOf('Maintenance/CreateTokenKey', name),
    await changeOf('Maintenance/ActivateTokenKey', name),
  ];
  assert.deepEqual(
    steps.map(({ kind, before, after }) => [
      kind,
      before?.['state'],
      after?.['state'],
      after?.['role'],
    ]),
    [
      ['tokenKey', undefined, 'CREATING', 'seal'],
      ['tokenKey', 'CREATING', 'CREATED', 'seal'],
      ['tokenKey', 'CREATED', 'CURRENT', 'seal'],
    ],
  );
});

describe('a stored data key', () => {
  test('says with plaintext from without, when it is made and when it is opened', async () => {
    const encryptionContext = { database: 'db' };
    const shows = async (dataKeyId: string, returnPlaintext: boolean) => {
      await keyward.createDataKey({ parent: KEY, dataKeyId, encryptionContext, returnPlaintext });
      const entry = await lastOf('DataKeyService/CreateDataKey', `${KEY}/dataKeys/${dataKeyId}`);
      assert.equal(entry.keyVersion, `${KEY}/versions/1`);
      assert.match(String(entry.context?.['database']), /^[0-9a-f]{32}$/);
      assert.deepEqual([entry.change?.kind, entry.change?.after?.['length']], ['dataKey', 32]);
      return (entry.detail as { plaintextReturned?: boolean }).plaintextReturned;
    };
    assert.equal(await shows('with', true), true);
    assert.equal(await shows('without', false), false);
    await keyward.getDataKey({ name: `${KEY}/dataKeys/with`, encryptionContext });
    const opened = await lastOf('DataKeyService/GetDataKey');
    assert.deepEqual(opened.detail, { plaintextReturned: true });
    assert.equal(opened.keyVersion, `${KEY}/versions/1`);
    assert.match(String(opened.context?.['database']), /^[0-9a-f]{32}$/);
    await keyward.deleteDataKey({ name: `${KEY}/dataKeys/with` });
    const deleted = await changeOf('DataKeyService/DeleteDataKey');
    assert.deepEqual([deleted.kind, deleted.before?.['version']], ['dataKey', 1]);
  });
});

describe('the bindings in an entry', () => {
  const carol = 'spiffe://keyward.test/carol';
  const binding = (id: string) => `${TENANT}/roleBindings/${id}`;
  const bind = (roleBindingId: string, role: string, keyPattern: string) =>
    keyward.createRoleBinding({
      parent: TENANT,
      roleBindingId,
      roleBinding: { principal: carol, role, keyPattern },
    });

  test('are those of source and target, in a batch too; none where a call was denied', async () => {
    await bind('carol-encrypts', 'roles/encrypter', 'mail');
    await bind('carol-decrypts', 'roles/decrypter', 'mail');
    const { service, environment } = shared;
    const issued = environment.ca.issue({ subject: 'carol', usage: 'client', uris: [carol] });
    using client = connect({ ...service.connectOptions(issued), retries: 0 });
    const request = { name: KEY, plaintext: PLAINTEXT, encryptionContext: { a: '1' } };
    const { ciphertext } = await client.encrypt(request);
    const move = {
      name: KEY,
      ciphertext,
      sourceEncryptionContext: { a: '1' },
      destinationEncryptionContext: { a: '2' },
    };
    await client.reEncrypt(move);
    const moved = await lastOf('EncryptionService/ReEncrypt');
    assert.equal(moved.binding, binding('carol-encrypts'));
    const detail = moved.detail as { bindings: object; sourceKeyVersion: string };
    assert.deepEqual(detail.bindings, { 'data.reEncryptFrom': binding('carol-decrypts') });
    assert.equal(detail.sourceKeyVersion, `${KEY}/versions/1`);

    await client.batchReEncrypt({ parent: TENANT, requests: [move, move] });
    const batch = await lastOf('EncryptionService/BatchReEncrypt');
    assert.equal(batch.binding, binding('carol-encrypts'));
    const [item] = (batch.items ?? []) as Record<string, unknown>[];
    assert.equal(item?.['sourceKeyVersion'], `${KEY}/versions/1`);
    assert.deepEqual(Object.keys(item?.['sourceContext'] ?? {}), ['a']);

    const foreign = await keyward.encrypt({ name: OTHER, plaintext: PLAINTEXT });
    const decrypting = client.decrypt({ parent: TENANT, ciphertext: foreign.ciphertext });
    assert.equal(await reasonOf(decrypting), 'DECRYPTION_FAILED');
    const denied = await lastOf('EncryptionService/Decrypt" AND decision = "denied');
    assert.equal(denied.binding, undefined);
    const refusal = await failureOf(client.encrypt({ name: OTHER, plaintext: PLAINTEXT }));
    assert.equal(refusal.reason, 'PERMISSION_MISSING');
    const refused = await lastOf('EncryptionService/Encrypt" AND decision = "denied', OTHER);
    assert.equal(refused.binding, undefined);
    assert.equal(refused.tenantId, await idOf('tenants', 'acme'));
  });
});
