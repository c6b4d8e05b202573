/**
 * Another tenant's things: by every method, by names, ciphertexts, page tokens and tokens, they
 * can't be told from what isn't there; and each attempt is recorded.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { isOfSystem, isPermission, PERMISSIONS } from '../../src/access/permissions.ts';
import { eventually } from '../support/kit.ts';
import { sql } from '../support/reconciling.ts';
import { type Names, wellFormed } from '../support/well-formed.ts';
import { AccessRig, type Caller, RPCS } from './access-rig.ts';

const EVERYTHING = Object.keys(PERMISSIONS).filter(
  (name) => isPermission(name) && !isOfSystem(name),
);
/** What names no tenant, or is anybody's to ask. */
const NO_TENANT = [
  'AdminService/CreateTenant',
  'AdminService/ListTenants',
  'AdminService/GetMaintenance',
  'AdminService/PauseMaintenance',
  'AdminService/ResumeMaintenance',
  'AuditService/GetCheckpoint',
  'AuditService/AddCosignatures',
  'AuditService/GetInclusionProof',
  'AuditService/GetConsistencyProof',
  'AuditService/ReadTiles',
  'AdminService/GetServiceStatus',
  'AdminService/GetTokenStatus',
  'AlertService/ListAlerts',
  'AlertService/TestAlert',
  'AlertService/SilenceAlert',
  'AlertService/ListAlertSilences',
  'AlertService/DeleteAlertSilence',
  'HsmService/RotateSealKey',
  'PasskeyService/ListPasskeys',
  'PasskeyService/DeletePasskey',
];
/** Whoever has proven who they are may call these. */
const FOR_ANYONE = [
  'AccessService/TestPermissions',
  'AccessService/GetCaller',
  'PasskeyService/BeginPasskeyRegistration',
  'PasskeyService/GetPasskey',
];
const OF_A_TENANT = RPCS.filter(
  ({ name }) => !NO_TENANT.includes(name) && !FOR_ANYONE.includes(name),
);
const ALICE = 'jwt:corp/alice';
const STRANGER = 'spiffe://keyward.test/acme-everything';

let rig: AccessRig;
let nobody: Caller;
/** Of acme, where it may do everything. */
let stranger: Caller;
/** Everything that tenant `gamma` has. */
let theirs: Names;

async function mayEverything(tenant: string, principal: string): Promise<void> {
  const role = { permissions: EVERYTHING };
  await rig.ask(rig.tester, 'AccessService/CreateRole', {
    parent: `tenants/${tenant}`,
    roleId: 'everything',
    role,
  });
  const changes = { overrideSeparationOfDuties: true };
  await rig.bind(tenant, principal, `tenants/${tenant}/roles/everything`, changes);
}

const last = (name: unknown) => String(name).split('/').at(-1) ?? '';

before(async () => {
  rig = await AccessRig.start({ KEYWARD_USAGE_REPORT_MS: '100' });
  nobody = rig.certified('spiffe://keyward.test/nobody');
  stranger = rig.certified(STRANGER);
  await mayEverything('acme', STRANGER);
  await rig.bind('acme', 'spiffe://keyward.test/viewer', 'keyViewer');
  await rig.done('AdminService/CreateTenant', { tenantId: 'gamma', dedicatedRootKey: true });
  const parent = 'tenants/gamma';
  await rig.done('KeyService/CreateKey', { parent, keyId: 'theirs' });
  const key = `${parent}/keys/theirs`;
  await rig.done('DataKeyService/CreateDataKey', { parent: key, dataKeyId: 'dk' });
  const job = await rig.done('RotationService/CreateRewrapJob', { scope: key });
  await eventually(async () => {
    const { state } = await rig.done('RotationService/GetRewrapJob', { name: job['name'] });
    assert.equal(state, 'REWRAP_JOB_STATE_SUCCEEDED');
  });
  const { tokenKeys } = await rig.done('HsmService/ListTokenKeys', { parent });
  const [tokenKey] = tokenKeys as { name: string }[];
  await mayEverything('gamma', ALICE);
  await mayEverything('acme', ALICE);
  const roleBinding = last(await rig.bind('gamma', 'spiffe://keyward.test/member', 'keyViewer'));
  theirs = {
    tenant: 'gamma',
    key: 'theirs',
    dataKey: 'dk',
    job: last(job['name']),
    tokenKey: last(tokenKey?.name),
    roleBinding,
    role: 'everything',
  };
});

after(() => rig?.[Symbol.asyncDispose]());

/** Waits until every use of gamma's key before now has been reported: that changes rows too. */
async function reported(): Promise<void> {
  const [row] = await sql<{ now: Date }>(rig.environment, 'SELECT clock_timestamp() AS now');
  const name = 'tenants/gamma/keys/theirs/versions/1';
  await eventually(async () => {
    const { usage } = await rig.done('KeyService/GetKeyVersion', { name });
    const { completeTime } = usage as { completeTime: { seconds: number | string } };
    assert.ok(Number(completeTime.seconds) * 1_000 > Number(row?.now));
  });
}

/** Every row of the tenant but for what is recorded of calls. */
async function rowsOf(tenant: string): Promise<unknown> {
  const tables = await sql<{ table: string }>(
    rig.environment,
    `SELECT c.relname AS table FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
     WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname <> 'replicas' AND c.relname NOT LIKE 'audit\\_%'
     ORDER BY 1`,
  );
  const rows: Record<string, unknown> = {};
  for (const { table } of tables) {
    const [all] = await sql(
      rig.environment,
      `SELECT coalesce(jsonb_agg(to_jsonb(t) ORDER BY to_jsonb(t)::text), '[]') AS rows FROM ${table} t
       WHERE tenant_id = (SELECT tenant_id FROM tenants WHERE name = $1)`,
      [tenant],
    );
    rows[table] = all?.['rows'];
  }
  return rows;
}

/**
 * Has the caller ask every method for `theirs`, for what gamma hasn't got, and for a tenant that
 * there isn't.
 */
async function assertHidden(caller: Caller, callerName: string): Promise<void> {
  await rig.ask(nobody, 'KeyService/GetKey', { name: 'tenants/nowhere/keys/k' });
  await reported();
  const before = await rowsOf('gamma');
  const from = (await rig.audited()).length;
  const wrong: string[] = [];
  for (const rpc of OF_A_TENANT) {
    const seen: string[] = [];
    for (const names of [theirs, { tenant: 'gamma', key: 'none' }, { tenant: 'nowhere' }]) {
      const outcome = await rig.ask(caller, rpc.name, await wellFormed(rig, nobody, rpc, names));
      if (outcome.reason !== 'RESOURCE_NOT_FOUND') wrong.push(`${rpc.name}: ${outcome.reason}`);
      seen.push(outcome.seen);
    }
    if (new Set(seen).size > 1) wrong.push(`${rpc.name}: ${seen.join(' / ')}`);
  }
  assert.deepEqual(wrong, []);
  assert.deepEqual(await rowsOf('gamma'), before);
  const recorded = (await rig.audited(from)).filter((row) => row.caller === callerName);
  // In the log of system, whether there is such a tenant or not; of many at once some share one.
  const places = recorded.map(({ tenant, outcome }) => `${tenant} ${outcome}`);
  assert.deepEqual(new Set(places), new Set(['system RESOURCE_NOT_FOUND']));
  const calls = recorded.reduce((sum, { count }) => sum + count, 0);
  assert.equal(calls, 3 * OF_A_TENANT.length);
}

describe('whoever may do everything in one tenant', () => {
  test('case 28: sees nothing of another in any method, changes nothing, and leaves an entry each time', async () => {
    await assertHidden(stranger, STRANGER);
  });

  test('case 28: has no use of another’s names within requests of his own tenant’s', async () => {
    const name = 'tenants/acme/keys/k';
    const { ciphertext } = await rig.done('EncryptionService/Encrypt', {
      name: 'tenants/gamma/keys/theirs',
    });
    const own = await rig.done('EncryptionService/Encrypt', { name });
    const pairs: [string, object, object][] = [
      ['EncryptionService/Decrypt', { ciphertext }, { ciphertext: Buffer.alloc(132) }],
      [
        'EncryptionService/Decrypt',
        { ciphertext, key: 'tenants/gamma/keys/theirs' },
        { ciphertext, key: 'tenants/gamma/keys/none' },
      ],
      [
        'EncryptionService/Decrypt',
        { ciphertext: own['ciphertext'], key: 'tenants/gamma/keys/theirs' },
        { ciphertext: own['ciphertext'], key: 'tenants/nowhere/keys/none' },
      ],
      [
        'EncryptionService/ReEncrypt',
        { name, ciphertext },
        { name, ciphertext: Buffer.alloc(132) },
      ],
      [
        'EncryptionService/ReEncrypt',
        { name, ciphertext, sourceKey: 'tenants/gamma/keys/theirs' },
        { name, ciphertext, sourceKey: 'tenants/nowhere/keys/none' },
      ],
      [
        'EncryptionService/BatchEncrypt',
        { requests: [{ name: 'tenants/gamma/keys/theirs' }] },
        { requests: [{ name: 'tenants/gamma/keys/none' }] },
      ],
      [
        'EncryptionService/BatchDecrypt',
        { requests: [{ parent: 'tenants/acme', ciphertext }] },
        { requests: [{ parent: 'tenants/acme', ciphertext: Buffer.alloc(132) }] },
      ],
      [
        'AccessService/CreateRoleBinding',
        { roleBinding: { principal: 'a', role: 'tenants/gamma/roles/everything' } },
        { roleBinding: { principal: 'a', role: 'tenants/gamma/roles/none' } },
      ],
    ];
    for (const [method, theirThing, nothing] of pairs) {
      const [known, unknown] = await Promise.all(
        [theirThing, nothing].map((request) =>
          rig.ask(stranger, method, { parent: 'tenants/acme', ...request }),
        ),
      );
      assert.ok(known && unknown);
      const { results } = known.answer as {
        results?: { error: object; response: object | null }[];
      };
      if (results === undefined) assert.notEqual(known.reason, 'OK', method);
      else assert.ok(results.every(({ error, response }) => error !== null && response == null));
      const errors = ({ answer, seen }: typeof known) =>
        JSON.stringify(answer['results'] ?? seen, (key, value) =>
          key === 'value' ? undefined : value,
        );
      assert.equal(errors(known), errors(unknown), method);
    }
  });

  test('case 28: is told so of a large batch before it is looked into, and on record as for a small one', async () => {
    const from = (await rig.audited()).length;
    // More items than a batch may have: whoever may do this is told so.
    const requests = Array.from({ length: 1_001 }, () => ({
      ciphertext: Buffer.alloc(200),
      encryptionContext: { a: 'b'.repeat(200) },
    }));
    const batches = RPCS.filter(({ name }) => name.startsWith('EncryptionService/Batch'));
    for (const { name } of batches) {
      const own = await rig.ask(stranger, name, { parent: 'tenants/acme', requests });
      assert.deepEqual(
        [own.reason, own.message],
        ['INVALID_FIELD', 'requests: must have at most 1000 items'],
      );
      const nameless = await rig.ask(stranger, name, { parent: 'tenants', requests });
      assert.deepEqual(
        [nameless.reason, nameless.message],
        ['INVALID_FIELD', 'parent: must be tenants/{tenant}'],
      );
      for (const tenant of ['gamma', 'nowhere']) {
        const parent = `tenants/${tenant}`;
        const large = await rig.ask(stranger, name, { parent, requests });
        const small = await rig.ask(stranger, name, { parent, requests: [{}] });
        assert.deepEqual([large.reason, large.seen], ['RESOURCE_NOT_FOUND', small.seen]);
      }
      const lacking = await rig.ask(rig.certified('spiffe://keyward.test/viewer'), name, {
        parent: 'tenants/acme',
        requests,
      });
      assert.equal(lacking.reason, 'PERMISSION_MISSING');
    }
    const refused = (await rig.audited(from)).filter(
      ({ outcome }) => outcome === 'RESOURCE_NOT_FOUND',
    );
    assert.equal(refused.length, 4 * batches.length);
    refused.forEach(({ requestId: _, ...entry }, index) => {
      const { requestId: __, ...other } = refused[index - (index % 2)] as (typeof refused)[number];
      assert.deepEqual(entry, other);
    });
  });

  test('case 28: can’t ask which permissions he has on another’s things, or who has', async () => {
    const ask = (resource: string) =>
      rig.done(
        'AccessService/TestPermissions',
        { resource, permissions: EVERYTHING.slice(0, 100) },
        stranger,
      );
    assert.deepEqual(await ask('tenants/gamma/keys/theirs'), { permissions: [] });
    assert.deepEqual(await ask('tenants/nowhere'), { permissions: [] });
    assert.deepEqual(await ask('tenants/system'), { permissions: [] });
    const { permissions } = await ask('tenants/acme');
    assert.deepEqual(
      permissions,
      EVERYTHING.filter((name) => !name.startsWith('no')),
    );
  });

  test('is told the same of a key that there is and one that there isn’t, where he may look at neither', async () => {
    const viewer = rig.certified('spiffe://keyward.test/encrypter');
    await rig.bind('acme', 'spiffe://keyward.test/encrypter', 'encrypter', {
      keyPattern: 'other-*',
    });
    const [known, unknown] = await Promise.all(
      ['k', 'z'].map((key) =>
        rig.ask(viewer, 'KeyService/GetKey', { name: `tenants/acme/keys/${key}` }),
      ),
    );
    assert.equal(known?.reason, 'PERMISSION_MISSING');
    assert.equal(
      known?.seen,
      unknown?.seen.replaceAll('keys/z', 'keys/k').replaceAll('keys%2Fz', 'keys%2Fk'),
    );
  });
});

describe('a token that is good for one tenant', () => {
  test('case 29: is no good in another, where its caller may do everything', async () => {
    await rig.done(
      'KeyService/GetKey',
      { name: 'tenants/gamma/keys/theirs' },
      rig.tokened('alice', ['gamma']),
    );
    await assertHidden(rig.tokened('alice', ['acme']), ALICE);
  });

  test('case 29: nor for the service itself, unless it is good for tenants/system', async () => {
    await rig.bind('system', ALICE, 'rootAdmin', { allTenants: true });
    for (const rpc of RPCS.filter(({ name }) => NO_TENANT.includes(name))) {
      const request = await wellFormed(rig, nobody, rpc, { tenant: 'acme' });
      const { reason } = await rig.ask(rig.tokened('alice', ['acme']), rpc.name, request);
      assert.equal(reason, 'PERMISSION_MISSING', rpc.name);
    }
    await rig.done('AdminService/ListTenants', {}, rig.tokened('alice', ['system']));
    const { reason } = await rig.ask(rig.tokened('alice', ['system']), 'KeyService/GetKey', {
      name: 'tenants/acme/keys/k',
    });
    assert.equal(reason, 'RESOURCE_NOT_FOUND');
    const none = await rig.ask(rig.tokened('alice', []), 'AdminService/ListTenants');
    assert.equal(none.reason, 'PERMISSION_MISSING');
  });
});

describe('a page token', () => {
  test('case 33: of one tenant’s list is none of another’s, whoever brings it', async () => {
    await rig.done('KeyService/CreateKey', { parent: 'tenants/acme', keyId: 'second' });
    const lists: [string, string][] = [
      ['KeyService/ListKeys', 'tenants/acme'],
      ['AccessService/ListRoleBindings', 'tenants/acme'],
    ];
    for (const [method, parent] of lists) {
      const first = await rig.done(method, { parent, pageSize: 1 }, stranger);
      const pageToken = first['nextPageToken'];
      assert.notEqual(pageToken, '');
      await rig.done(method, { parent, pageToken }, stranger);
      const there = { parent: 'tenants/gamma', pageToken };
      const member = await rig.ask(rig.tokened('alice', ['gamma']), method, there);
      assert.equal(member.reason, 'INVALID_FIELD');
      assert.equal((await rig.ask(stranger, method, there)).reason, 'RESOURCE_NOT_FOUND');
      const filtered = { parent, pageToken, filter: 'state = "ENABLED"' };
      if (method.startsWith('Key'))
        assert.equal((await rig.ask(stranger, method, filtered)).reason, 'INVALID_FIELD');
    }
  });
});
