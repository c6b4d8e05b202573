/**
 * Case 36, for who may do what: whatever somebody with write access to the database does to
 * bindings, roles and seals is noticed before it is obeyed, in that tenant and no other, and is
 * over when the rows are as they were.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { LogLine } from '../support/kit.ts';
import { eventually } from '../support/kit.ts';
import { sql } from '../support/reconciling.ts';
import { AccessRig, bindingOf } from './access-rig.ts';

const READER = 'spiffe://keyward.test/reader';
const ATTACKER = 'spiffe://keyward.test/attacker';
const TABLES = ['role_bindings', 'roles', 'access_policies'] as const;
type Table = (typeof TABLES)[number];

/** What somebody makes of a column, as SQL: each would give more, or hide something. */
const CHANGES: Readonly<Record<Table, Readonly<Record<string, string>>>> = {
  role_bindings: {
    tenant_id: "(SELECT tenant_id FROM tenants WHERE name = 'beta')",
    binding_id: "'another'",
    member_kind: "'group'",
    member: `'${ATTACKER}'`,
    role: "'roles/keyAdmin'",
    key_pattern: "''",
    all_tenants: 'true',
    expires_at: "'2100-01-01'",
    conditions: "'[]'",
    overrides_separation: 'true',
    description: "'harmless'",
    created_at: "created_at - interval '1 day'",
    creator: "'nobody'",
  },
  roles: {
    tenant_id: "(SELECT tenant_id FROM tenants WHERE name = 'gamma')",
    role_id: "'another'",
    permissions: "permissions || '{data.decrypt}'",
    description: "'harmless'",
    created_at: "created_at - interval '1 day'",
    creator: "'nobody'",
  },
  access_policies: {
    tenant_id: "(SELECT tenant_id FROM tenants WHERE name = 'delta')",
    revision: 'revision + 1',
    seal_key_id: 'gen_random_uuid()',
    seal: 'set_byte(seal, 31, get_byte(seal, 31) # 1)',
  },
};
/** What goes elsewhere makes that tenant's policy wrong, too. */
const HIT_BESIDES: Readonly<Record<Table, string>> = {
  role_bindings: 'beta',
  roles: 'gamma',
  access_policies: 'delta',
};

let rig: AccessRig;

before(async () => {
  rig = await AccessRig.start();
  for (const tenantId of ['gamma', 'delta'])
    await rig.done('AdminService/CreateTenant', { tenantId });
});

after(() => rig?.[Symbol.asyncDispose]());

/** A tenant with a key, a role of its own, and a binding in which every column says something. */
async function newTenant(tenantId: string): Promise<string> {
  const parent = `tenants/${tenantId}`;
  await rig.done('AdminService/CreateTenant', { tenantId });
  await rig.done('KeyService/CreateKey', { parent, keyId: 'k' });
  const role = { permissions: ['keys.list'], description: 'd' };
  await rig.done('AccessService/CreateRole', { parent, roleId: 'own', role });
  await rig.bind(tenantId, `spiffe://keyward.test/${tenantId}/user`, 'decrypter', {
    keyPattern: 'z-*',
    expireTime: { seconds: 4_000_000_000 },
    conditions: [{ contextKey: 'x', equals: '1' }],
    description: 'd',
  });
  await rig.bind(tenantId, READER, 'keyViewer');
  await obeyed(tenantId);
  return tenantId;
}

/** Somebody writes to the database, and has every replica read it. */
async function write(
  tenants: readonly string[],
  text: string,
  values: unknown[] = [],
): Promise<void> {
  await sql(rig.environment, text, values);
  await sql(
    rig.environment,
    `INSERT INTO changes (tenant_id, kind, subject_id) SELECT tenant_id, 'access', tenant_id FROM tenants WHERE name = ANY ($1)`,
    [tenants],
  );
}

type Rows = Readonly<Record<Table, unknown>>;

async function rowsOf(tenant: string): Promise<Rows> {
  const rows: Record<string, unknown> = {};
  for (const table of TABLES) {
    const [all] = await sql(
      rig.environment,
      `SELECT coalesce(jsonb_agg(to_jsonb(t)), '[]') AS rows FROM ${table} t JOIN tenants USING (tenant_id) WHERE name = $1`,
      [tenant],
    );
    rows[table] = all?.['rows'];
  }
  return rows as Rows;
}

/** Makes a tenant's rows these and no others. */
async function putBack(tenant: string, rows: Rows): Promise<void> {
  for (const table of TABLES) {
    await sql(
      rig.environment,
      `DELETE FROM ${table} WHERE tenant_id = (SELECT tenant_id FROM tenants WHERE name = $1)`,
      [tenant],
    );
    const columns = Object.keys(CHANGES[table]).join(', ');
    await write(
      [tenant],
      `INSERT INTO ${table} (${columns}) SELECT ${columns} FROM jsonb_populate_recordset(NULL::${table}, $1::jsonb)`,
      [JSON.stringify(rows[table])],
    );
  }
}

const read = (tenant: string) =>
  rig.ask(rig.certified(READER), 'KeyService/GetKey', { name: `tenants/${tenant}/keys/k` });
const obeyed = (tenant: string) =>
  eventually(async () => assert.equal((await read(tenant)).reason, 'OK', tenant));

/** Nothing that depends on the tenant's policy is done any more, and operators hear of it. */
async function assertRefused(tenant: string, from: number): Promise<void> {
  await eventually(async () => {
    const { reason, status } = await read(tenant);
    assert.deepEqual([reason, status], ['POLICY_CORRUPT', 15], tenant);
  });
  const requests: [string, object][] = [
    ['AccessService/CreateRoleBinding', { roleBinding: bindingOf(ATTACKER, 'keyViewer') }],
    ['AccessService/ListRoleBindings', {}],
    ['AccessService/CreateRole', { roleId: 'more', role: { permissions: ['keys.get'] } }],
    ['KeyService/ListKeys', {}],
  ];
  for (const [name, request] of requests) {
    const parent = `tenants/${tenant}`;
    assert.equal(
      (await rig.ask(rig.tester, name, { parent, ...request })).reason,
      'POLICY_CORRUPT',
      name,
    );
  }
  const attacker = rig.certified(ATTACKER);
  const { reason } = await rig.ask(attacker, 'KeyService/ListKeys', {
    parent: `tenants/${tenant}`,
  });
  assert.equal(reason, 'POLICY_CORRUPT');
  const isAlert = (line: LogLine) =>
    line['alert'] === 'policy-corrupt' && line['tenant'] === tenant;
  await rig.service.logged(isAlert, from);
}

test('case 36: a change to any column of a binding, a role or a seal', async () => {
  const columns = await sql<{ table: Table; column: string }>(
    rig.environment,
    `SELECT table_name AS table, column_name AS column FROM information_schema.columns
     WHERE table_schema = 'public' AND table_name = ANY ($1)`,
    [TABLES],
  );
  const known = TABLES.flatMap((table) =>
    Object.keys(CHANGES[table]).map((column) => `${table}.${column}`),
  );
  assert.deepEqual(columns.map(({ table, column }) => `${table}.${column}`).sort(), known.sort());
  const honest = await newTenant('honest');
  const tampered = await Promise.all(
    columns.map(async ({ table, column }, index) => {
      const tenant = await newTenant(`t${index}`);
      return { table, column, tenant, before: await rowsOf(tenant) };
    }),
  );
  const from = rig.service.log.length;
  for (const { table, column, tenant } of tampered) {
    const one = table === 'role_bindings' ? `AND member LIKE '%/user'` : '';
    const tenants = column === 'tenant_id' ? [tenant, HIT_BESIDES[table]] : [tenant];
    await write(
      tenants,
      `UPDATE ${table} SET ${column} = ${CHANGES[table][column]}
       WHERE tenant_id = (SELECT tenant_id FROM tenants WHERE name = $1) ${one}`,
      [tenant],
    );
  }
  for (const { tenant } of tampered) await assertRefused(tenant, from);
  for (const tenant of Object.values(HIT_BESIDES)) {
    const request = { name: `tenants/${tenant}/keys/k` };
    await eventually(async () =>
      assert.equal(
        (await rig.ask(rig.tester, 'KeyService/GetKey', request)).reason,
        'POLICY_CORRUPT',
        tenant,
      ),
    );
  }
  await obeyed(honest);
  for (const { table, column, tenant, before } of tampered) {
    if (column === 'tenant_id')
      await write(
        [HIT_BESIDES[table]],
        `DELETE FROM ${table} WHERE tenant_id = (SELECT tenant_id FROM tenants WHERE name = $1)`,
        [HIT_BESIDES[table]],
      );
    await putBack(tenant, before);
  }
  for (const { tenant } of tampered) await obeyed(tenant);
  await eventually(() => rig.done('KeyService/GetKey', { name: 'tenants/beta/keys/k' }));
});

test('case 36: a row that is added, taken away or moved, and everything taken away or copied from another tenant', async () => {
  const other = await newTenant('other');
  const theirs = await rowsOf(other);
  const added = `INSERT INTO role_bindings SELECT tenant_id, 'mine', 'principal', '${ATTACKER}', 'roles/keyAdmin', '', false,
      NULL, '[]', false, '', now(), 'x' FROM tenants WHERE name = $1`;
  const gone = (table: Table, where = '') =>
    `DELETE FROM ${table} WHERE tenant_id = (SELECT tenant_id FROM tenants WHERE name = $1) ${where}`;
  const attacks: ((tenant: string) => Promise<void>)[] = [
    (tenant) => write([tenant], added, [tenant]),
    (tenant) => write([tenant], gone('role_bindings', `AND member LIKE '%/user'`), [tenant]),
    (tenant) => write([tenant], gone('roles'), [tenant]),
    (tenant) => write([tenant], gone('access_policies'), [tenant]),
    async (tenant) => {
      for (const table of TABLES) await write([tenant], gone(table), [tenant]);
    },
    async (tenant) => {
      const [row] = await sql<{ id: string }>(
        rig.environment,
        'SELECT tenant_id AS id FROM tenants WHERE name = $1',
        [tenant],
      );
      const [from] = theirs.access_policies as { tenant_id: string }[];
      const moved = JSON.stringify(theirs).replaceAll(from?.tenant_id ?? '?', row?.id ?? '?');
      await putBack(tenant, JSON.parse(moved) as Rows);
    },
  ];
  const tenants = await Promise.all(attacks.map((_, index) => newTenant(`a${index}`)));
  const before = await Promise.all(tenants.map(rowsOf));
  const from = rig.service.log.length;
  for (const [index, attack] of attacks.entries()) await attack(tenants[index] ?? '');
  for (const tenant of tenants) await assertRefused(tenant, from);
  await obeyed(other);
  for (const [index, tenant] of tenants.entries()) await putBack(tenant, before[index] as Rows);
  for (const tenant of tenants) await obeyed(tenant);
});

test('case 36: a whole older policy, seal and all, while a replica remembers a newer one', async () => {
  const tenant = await newTenant('older');
  const name = await rig.bind(tenant, ATTACKER, 'keyViewer');
  const attack = () =>
    rig.ask(rig.certified(ATTACKER), 'KeyService/GetKey', { name: `tenants/${tenant}/keys/k` });
  await eventually(async () => assert.equal((await attack()).reason, 'OK'));
  const older = await rowsOf(tenant);
  await rig.done('AccessService/DeleteRoleBinding', { name });
  await eventually(async () => assert.equal((await attack()).reason, 'RESOURCE_NOT_FOUND'));
  const newer = await rowsOf(tenant);
  const from = rig.service.log.length;
  await putBack(tenant, older);
  await assertRefused(tenant, from);
  await rig.service.logged(
    ({ problem }) => problem === 'its revision is older than one read before',
    from,
  );
  assert.equal((await attack()).reason, 'POLICY_CORRUPT');
  await putBack(tenant, newer);
  await obeyed(tenant);
  assert.equal((await attack()).reason, 'RESOURCE_NOT_FOUND');
});

test('case 36: of tenants/system keeps from what it might allow, and from nothing that a tenant’s own allows', async () => {
  const tenant = await newTenant('apart');
  const before = await rowsOf('system');
  await write(['system'], `UPDATE role_bindings SET description = 'x' WHERE all_tenants`);
  const list = () => rig.ask(rig.tester, 'AdminService/ListTenants');
  await eventually(async () => assert.equal((await list()).reason, 'POLICY_CORRUPT'));
  assert.equal((await read(tenant)).reason, 'OK');
  const name = { name: `tenants/${tenant}/keys/k` };
  assert.equal((await rig.ask(rig.tester, 'KeyService/GetKey', name)).reason, 'POLICY_CORRUPT');
  assert.equal(
    (await rig.ask(rig.certified(READER), 'KeyService/DisableKey', name)).reason,
    'POLICY_CORRUPT',
  );
  // Nor does it tell anybody which tenants there are.
  const ask = (parent: string) =>
    rig.ask(rig.certified(ATTACKER), 'KeyService/ListKeys', { parent });
  assert.equal((await ask('tenants/nowhere')).seen, (await ask(`tenants/${tenant}`)).seen);
  await putBack('system', before);
  await eventually(async () => assert.equal((await list()).reason, 'OK'));
});
