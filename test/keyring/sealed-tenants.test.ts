/**
 * Case 36 over the wire: tenants are sealed. Whoever writes to the database gives no tenant another
 * name, state, root key, time or quota without being found out, on replicas that run and on such as
 * start afterwards, and everything else goes on.
 *
 * Of what may be changed `npm test` draws some, `test/long/sealed-tenants.test.ts` has all.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { KeywardClient } from 'keyward-client';
import {
  eventually,
  failureOf,
  reasonOf,
  runCommand,
  type Service,
  sharedService,
  startService,
  startServiceWithoutWaiting,
} from '../support/kit.ts';
import { drawHere, SEED } from '../support/random.ts';
import { newId, QUICK, sql } from '../support/reconciling.ts';

const payload = Buffer.from('p');
const CORRUPT = 'TENANT_CORRUPT';
let keyward: KeywardClient;
const shared = sharedService(async (client) => {
  keyward = client;
  // The database itself would refuse some changes. Once: it holds up the service.
  await sql(
    shared.environment,
    `ALTER TABLE tenants DROP CONSTRAINT tenants_shred_at_check,
       DROP CONSTRAINT tenants_shredded_at_check`,
  );
}, QUICK);

interface Tenant {
  readonly tenantId: string;
  readonly parent: string;
  readonly name: string;
  readonly uid: string;
  readonly ciphertext: Buffer;
}

/** A tenant with a key and a ciphertext. */
async function newTenant(dedicatedRootKey = false): Promise<Tenant> {
  const tenantId = newId('t');
  const parent = `tenants/${tenantId}`;
  const { uid } = await keyward.createTenant({ tenantId, dedicatedRootKey });
  // A root key of its own is awaited for as long as the call has time.
  const { name } = await eventually(() => keyward.createKey({ parent, keyId: 'k' }));
  const { ciphertext } = await keyward.encrypt({ name, plaintext: payload });
  return { tenantId, parent, name, uid, ciphertext };
}

const WHERE = ({ uid }: Tenant) => `WHERE tenant_id = '${uid}'`;

/** Runs statements as whoever owns the database, and has every replica read tenants anew. */
async function tamper(statements: string, ...tenants: readonly Tenant[]): Promise<void> {
  const heard = tenants.map(({ uid }) => `('${uid}', 'tenant', '${uid}')`).join(', ');
  await sql(
    shared.environment,
    `SET session_replication_role = replica;
     ${statements};
     INSERT INTO changes (tenant_id, kind, subject_id) VALUES ${heard}`,
  );
}

const rowOf = (tenant: Tenant) =>
  sql(shared.environment, `SELECT t::text FROM tenants t ${WHERE(tenant)}`);

/** Waits until the replica has heard of it. */
const refused = (call: () => Promise<unknown>) =>
  eventually(async () => assert.equal(await reasonOf(call()), CORRUPT));

const alerted = (service: Service, tenant: Tenant, from = 0) =>
  service.logged(
    ({ alert, detail }) =>
      alert === 'tenant-corrupt' &&
      [tenant.uid, tenant.tenantId].some((text) => String(detail).includes(text)),
    from,
  );

/** All that a tenant's calls and its administrators can ask for. */
const callsOf = ({ parent, name, ciphertext }: Tenant, client: KeywardClient) => [
  () => client.encrypt({ name, plaintext: payload }),
  () => client.decrypt({ parent, ciphertext }),
  () => client.generateDataKey({ name }),
  () => client.createKey({ parent, keyId: 'another' }),
  () => client.getKey({ name }),
  () => client.listKeys({ parent }),
  () => client.rotateKey({ name }),
  () => client.disableKey({ name }),
  () => client.roleBindings(parent)[Symbol.asyncIterator]().next(),
  () => client.getTenant({ name: parent }),
  () => client.disableTenant({ name: parent }),
  () => client.enableTenant({ name: parent }),
  () => client.updateTenant({ tenant: { name: parent, quotas: { keys: 5 } } }),
  () => client.shredTenant({ name: parent, validateOnly: true }),
  () => client.restoreTenant({ name: parent }),
];

/** What a writer of the database may make of each column. */
const CHANGES: Readonly<Record<string, string>> = {
  tenant_id: 'gen_random_uuid()',
  name: "'another'",
  created_at: "created_at - interval '1 us'",
  state: "'DISABLED'",
  revision: 'revision + 1',
  dedicated_root_key: 'NOT dedicated_root_key',
  shred_at: "now() + interval '1 day'",
  shredded_at: 'now()',
  quota_calls_per_second: '1000000',
  quota_keys: '1000000',
  quota_stored_data_keys: '1000000',
  approval_rules_revision: '1',
  seal_key_id: 'gen_random_uuid()',
  seal: 'set_byte(seal, 31, get_byte(seal, 31) # 1)',
};
/** What else may be made of one. */
const BESIDES: readonly (readonly [column: string, value: string])[] = [
  ['state', "'SHREDDED'"],
  ['state', "'SHRED_SCHEDULED'"],
  ['shred_at', "'-infinity'"],
  ['seal', 'NULL, seal_key_id = NULL'],
];

/** Of the changes. */
const SOME = 4;

describe(`case 36: what is stored of a tenant (seed ${SEED})`, () => {
  test('every column of it is one that this tries', async () => {
    const columns = await sql<{ column: string }>(
      shared.environment,
      `SELECT column_name AS column FROM information_schema.columns
       WHERE table_schema = 'public' AND table_name = 'tenants'`,
    );
    assert.deepEqual(columns.map(({ column }) => column).sort(), Object.keys(CHANGES).sort());
  });

  for (const [column, value] of drawHere([...Object.entries(CHANGES), ...BESIDES], SOME)) {
    test(`${column}, made ${value}, is refused and not obeyed, whoever asks, and nothing else is`, async () => {
      const [tenant, control] = [await newTenant(), await newTenant()];
      const { service } = shared;
      const from = service.log.length;
      const [before] = await sql(
        shared.environment,
        `SELECT to_jsonb(t) AS row FROM tenants t ${WHERE(tenant)}`,
      );
      await tamper(`UPDATE tenants SET ${column} = ${value} ${WHERE(tenant)}`, tenant);
      const changed = await rowOf(tenant);
      await refused(() => keyward.getKey({ name: tenant.name }));
      for (const call of callsOf(tenant, keyward))
        assert.equal(await reasonOf(call()), CORRUPT, String(call));
      assert.deepEqual(await rowOf(tenant), changed);
      await alerted(service, tenant, from);
      await keyward.encrypt({ name: control.name, plaintext: payload });
      if (column !== 'tenant_id' && column !== 'name') {
        const { code, metadata } = await failureOf(keyward.listTenants({ pageSize: 1000 }));
        assert.deepEqual([code, metadata.get('tenant')], ['DATA_LOSS', tenant.tenantId]);
      }
      const columns = Object.keys(CHANGES).join(', ');
      await tamper(
        `DELETE FROM tenants WHERE tenant_id = '${tenant.uid}' OR name IN ('another', '${tenant.tenantId}');
         INSERT INTO tenants (${columns}) SELECT ${columns}
         FROM jsonb_populate_record(NULL::tenants, '${JSON.stringify(before?.['row'])}')`,
        tenant,
      );
      await eventually(async () =>
        assert.deepEqual(
          (await keyward.decrypt({ parent: tenant.parent, ciphertext: tenant.ciphertext }))
            .plaintext,
          payload,
        ),
      );
    });
  }

  test('names that are swapped lead to no other tenant, on replicas that run and on others', async () => {
    const [victim, attacker] = [await newTenant(), await newTenant()];
    const { service, environment } = shared;
    const from = service.log.length;
    const swap = `UPDATE tenants SET name = 'tmp' ${WHERE(victim)};
      UPDATE tenants SET name = '${victim.tenantId}' ${WHERE(attacker)};
      UPDATE tenants SET name = '${attacker.tenantId}' ${WHERE(victim)}`;
    await tamper(swap, victim, attacker);
    for (const each of [victim, attacker])
      await refused(() => keyward.encrypt({ name: each.name, plaintext: payload }));
    for (const each of [victim, attacker]) await alerted(service, each, from);
    await using another = await startService(environment, QUICK);
    const client = another.client();
    for (const each of [victim, attacker])
      for (const call of callsOf(each, client))
        assert.equal(await reasonOf(call()), CORRUPT, String(call));
    for (const each of [victim, attacker]) await alerted(another, each);
    // Nor is anything of it in the log of the one that was asked for by the other's name.
    await keyward.getTenant({ name: 'tenants/system' });
    const misplaced = await sql(
      environment,
      `SELECT entry FROM audit_entries WHERE outcome = '${CORRUPT}' AND
         ((tenant_id = '${attacker.uid}' AND resource LIKE '${victim.parent}%')
          OR (tenant_id = '${victim.uid}' AND resource LIKE '${attacker.parent}%'))`,
    );
    assert.deepEqual(misplaced, []);
    await tamper(
      `UPDATE tenants SET name = 'tmp' ${WHERE(victim)};
       UPDATE tenants SET name = '${attacker.tenantId}' ${WHERE(attacker)};
       UPDATE tenants SET name = '${victim.tenantId}' ${WHERE(victim)}`,
      victim,
      attacker,
    );
    for (const { parent, ciphertext } of [victim, attacker])
      await eventually(() => keyward.decrypt({ parent, ciphertext }));
  });

  test('a tenant that is given the name system is never used as that, and a replica that starts then ends', async () => {
    const tenant = await newTenant();
    const { service, environment } = shared;
    const [system] = await sql<{ uid: string }>(
      environment,
      "SELECT tenant_id AS uid FROM tenants WHERE name = 'system'",
    );
    assert.ok(system);
    const from = service.log.length;
    await sql(environment, 'ALTER TABLE tenants DROP CONSTRAINT IF EXISTS tenants_system_check');
    await tamper(
      `UPDATE tenants SET name = 'was-system' WHERE tenant_id = '${system.uid}';
       UPDATE tenants SET name = 'system' ${WHERE(tenant)}`,
      tenant,
    );
    await refused(() => keyward.listTenants({}));
    await alerted(service, tenant, from);
    await using another = startServiceWithoutWaiting(environment, QUICK);
    assert.equal(await another.ended, 1);
    await alerted(another, tenant);
    assert.ok(!another.log.some(({ msg }) => msg === 'serving'));
    await tamper(
      `UPDATE tenants SET name = '${tenant.tenantId}' ${WHERE(tenant)};
       UPDATE tenants SET name = 'system' WHERE tenant_id = '${system.uid}'`,
      tenant,
    );
    await eventually(() => keyward.listTenants({}));
  });

  test('a change finds out what was changed since the tenant was loaded here, and blesses nothing', async () => {
    const tenant = await newTenant();
    const name = tenant.parent;
    await keyward.disableTenant({ name });
    const { environment } = shared;
    // Nobody is told of it.
    await sql(environment, `UPDATE tenants SET state = 'ENABLED' ${WHERE(tenant)}`);
    for (const call of [
      () => keyward.enableTenant({ name }),
      () => keyward.updateTenant({ tenant: { name, quotas: { keys: 5 } } }),
    ])
      assert.equal(await reasonOf(call()), CORRUPT);
    await sql(environment, `UPDATE tenants SET state = 'DISABLED' ${WHERE(tenant)}`);
    assert.equal((await eventually(() => keyward.enableTenant({ name }))).state, 'ENABLED');
  });

  test('nothing that a trigger makes of a change is sealed', async () => {
    const tenant = await newTenant();
    const { environment } = shared;
    await sql(
      environment,
      `CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN NEW.quota_keys := 1000000; NEW.dedicated_root_key := true; RETURN NEW; END $$;
       CREATE TRIGGER meddle BEFORE UPDATE ON tenants FOR EACH ROW EXECUTE FUNCTION meddle()`,
    );
    await keyward.updateTenant({ tenant: { name: tenant.parent, quotas: { keys: 5 } } });
    await sql(environment, 'DROP TRIGGER meddle ON tenants; DROP FUNCTION meddle');
    await refused(() => keyward.getTenant({ name: tenant.parent }));
    await sql(
      environment,
      `UPDATE tenants SET quota_keys = 5, dedicated_root_key = false ${WHERE(tenant)}`,
    );
    await eventually(() => keyward.getTenant({ name: tenant.parent }));
  });

  test('a row put back as it was with its seal, or taken away, is refused by a replica that remembers', async () => {
    const tenant = await newTenant();
    const [before] = await sql<{ row: object }>(
      shared.environment,
      `SELECT to_jsonb(t) AS row FROM tenants t ${WHERE(tenant)}`,
    );
    await keyward.disableTenant({ name: tenant.parent });
    assert.equal((await keyward.getTenant({ name: tenant.parent })).state, 'DISABLED');
    const [after] = await sql<{ row: object }>(
      shared.environment,
      `SELECT to_jsonb(t) AS row FROM tenants t ${WHERE(tenant)}`,
    );
    const put = (row: object | undefined) =>
      tamper(
        `DELETE FROM tenants ${WHERE(tenant)}; INSERT INTO tenants
         SELECT * FROM jsonb_populate_record(NULL::tenants, '${JSON.stringify(row)}')`,
        tenant,
      );
    await put(before?.row);
    await refused(() => keyward.encrypt({ name: tenant.name, plaintext: payload }));
    await tamper(`DELETE FROM tenants ${WHERE(tenant)}`, tenant);
    await refused(() => keyward.encrypt({ name: tenant.name, plaintext: payload }));
    await refused(() => keyward.getTenant({ name: tenant.parent }));
    await put(after?.row);
    await eventually(async () =>
      assert.equal((await keyward.getTenant({ name: tenant.parent })).state, 'DISABLED'),
    );
  });

  test('nothing is shredded because a writer of the database says so, and no root key destroyed', async () => {
    const [tenant, victim] = [await newTenant(true), await newTenant(true)];
    const { environment, service } = shared;
    const from = service.log.length;
    await tamper(
      `UPDATE tenants SET state = 'SHRED_SCHEDULED', shred_at = now() - interval '1 s' ${WHERE(victim)}`,
      victim,
    );
    await service.logged(
      ({ msg, resource }) =>
        msg === 'what is due of a tenant failed and will be tried again' &&
        resource === victim.parent,
      from,
    );
    const kept = await sql(
      environment,
      `SELECT 1 FROM key_versions ${WHERE(victim)} AND octet_length(wrapped) > 0`,
    );
    assert.equal(kept.length, 1);
    await tamper(
      `UPDATE tenants SET state = 'SHREDDED', shred_at = now(), shredded_at = now() ${WHERE(victim)}`,
      victim,
    );
    for (const name of [victim.tenantId]) {
      const { code, output } = await runCommand(environment, ['token', 'shred', name]);
      assert.equal(code, 1, output);
      assert.match(output, /failed verification/);
    }
    await tamper(
      `UPDATE tenants SET state = 'ENABLED', shred_at = NULL, shredded_at = NULL ${WHERE(victim)}`,
      victim,
    );
    for (const { parent, ciphertext } of [tenant, victim])
      await eventually(() => keyward.decrypt({ parent, ciphertext }));
  });

  test('whatever the service itself does to a tenant verifies afterwards, under a higher revision', async () => {
    const { parent: name } = await newTenant(true);
    let last = 1;
    const verifies = async (state: string) => {
      await using another = await startService(shared.environment, QUICK);
      const tenant = await another.client().getTenant({ name });
      assert.equal(tenant.state, state);
      assert.ok(Number(tenant.etag) > last, tenant.etag);
      last = Number(tenant.etag);
    };
    await keyward.updateTenant({ tenant: { name, quotas: { keys: 7, callsPerSecond: 1000 } } });
    await verifies('ENABLED');
    await keyward.disableTenant({ name });
    await verifies('DISABLED');
    await keyward.enableTenant({ name });
    const { impact } = await keyward.shredTenant({ name, validateOnly: true });
    await keyward.shredTenant({ name, etag: impact.etag, windowDays: 7 });
    await verifies('SHRED_SCHEDULED');
    await keyward.restoreTenant({ name });
    await verifies('DISABLED');
  });

  test('a new seal key has tenants sealed again, and the old one can be destroyed', async () => {
    const tenant = await newTenant();
    const sealKeyOf = async () => {
      const [row] = await sql<{ id: string }>(
        shared.environment,
        `SELECT seal_key_id AS id FROM tenants ${WHERE(tenant)}`,
      );
      return row?.id;
    };
    const before = await sealKeyOf();
    await keyward.rotateSealKey({});
    await eventually(async () => {
      assert.notEqual(await sealKeyOf(), before);
      const left = await sql(
        shared.environment,
        `SELECT 1 FROM tenants WHERE seal_key_id = '${before}'`,
      );
      assert.equal(left.length, 0);
    });
    assert.equal((await keyward.getTenant({ name: tenant.parent })).uid, tenant.uid);
    await keyward.encrypt({ name: tenant.name, plaintext: payload });
  });
});

describe('tenants that nobody has sealed', () => {
  test('are refused until an operator seals them, who is told before what that vouches for', async () => {
    const tenant = await newTenant();
    const { environment } = shared;
    await tamper(`UPDATE tenants SET seal = NULL, seal_key_id = NULL ${WHERE(tenant)}`, tenant);
    await refused(() => keyward.encrypt({ name: tenant.name, plaintext: payload }));
    const looked = await runCommand(environment, ['token', 'seal-states', '--dry-run']);
    assert.equal(looked.code, 0, looked.output);
    assert.match(looked.output, /^1 tenants are not sealed:$/m);
    assert.ok(looked.output.includes(`  ${tenant.parent} ${tenant.uid} ENABLED\n`), looked.output);
    assert.match(looked.output, /nothing was changed/);
    assert.equal(await reasonOf(keyward.getTenant({ name: tenant.parent })), CORRUPT);
    const sealed = await runCommand(environment, ['token', 'seal-states']);
    assert.equal(sealed.code, 0, sealed.output);
    assert.match(sealed.output, /^sealed 1 tenants$/m);
    await eventually(() => keyward.encrypt({ name: tenant.name, plaintext: payload }));
    const entries = await sql(
      environment,
      `SELECT resource, outcome FROM audit_entries
       WHERE method = 'keyward-server token seal-states' AND tenant_id = $1`,
      [tenant.uid],
    );
    assert.deepEqual(entries, [{ resource: tenant.parent, outcome: 'OK' }]);
  });
});
