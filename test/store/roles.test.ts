/**
 * The three roles: what the service sees and may do, what only the reconciler does, and logins that
 * are neither.
 */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { createRoles, type Postgres, startPostgres } from '../../dev/postgres.ts';
import {
  idToBytes,
  type JobId,
  type KeyId,
  newId,
  newOrderedId,
  type TenantId,
} from '../../src/ids.ts';
import { migrate } from '../../src/store/core/migrate.ts';
import type { Tx } from '../../src/store/core/transaction.ts';
import { Store } from '../../src/store/store.ts';
import {
  callOf,
  migratedDatabase,
  newRole,
  newTenant,
  RELEASE,
  runSql,
  sampleVersion,
  type TestDatabase,
} from './database.ts';

/** The tables of tenants' rows that the service serves from. */
const TABLES = [
  'keys',
  'key_versions',
  'data_keys',
  'rewrap_jobs',
  'rewrap_ranges',
  'rewrap_failures',
  'rotations',
  'key_version_usage',
  'role_bindings',
  'roles',
  'access_policies',
  'approval_rules',
  'pending_operations',
  'operation_decisions',
];
const refused = { code: '42501' };

let database: TestDatabase;
let store: Store;
let alpha: TenantId;
let beta: TenantId;

before(async () => {
  database = await migratedDatabase();
  // One connection, so that every transaction gets what the one before may have left on it.
  store = await database.open({ poolSize: 1 });
  alpha = await newTenant(database, 'alpha');
  beta = await newTenant(database, 'beta');
  for (const tenantId of [alpha, beta]) await fill(tenantId);
});

after(async () => {
  await store?.close();
  await database?.[Symbol.asyncDispose]();
});

/** One row of the tenant in each of {@link TABLES}. */
async function fill(tenantId: TenantId): Promise<void> {
  const keyId = newId<KeyId>();
  const jobId = newOrderedId<JobId>(Date.now());
  const version = sampleVersion(tenantId, keyId);
  const ciphertext = Buffer.concat([
    Buffer.from('01010300', 'hex'),
    idToBytes(keyId),
    Buffer.from('00000001', 'hex'),
    Buffer.alloc(124),
  ]);
  await database.sql(
    `WITH k AS (
       INSERT INTO keys (tenant_id, key_id, name, primary_version) VALUES ($1, $2, 'k', 1)),
     v AS (
       INSERT INTO key_versions
         (tenant_id, key_id, version, state, algorithm, root_key_id, wrap, wrapped, check_value, seal_key_id, seal)
       VALUES ($1, $2, 1, 'ENABLED', 1, $4, 1, $5, $6, $7, $8)),
     d AS (
       INSERT INTO data_keys (tenant_id, key_id, name, data_key_id, context_digest, ciphertext)
       VALUES ($1, $2, 'dk', gen_random_uuid(), $8, $9)),
     j AS (
       INSERT INTO rewrap_jobs (tenant_id, job_id, scope, scope_tenant_id, scope_key_id, cause, caller)
       VALUES ($1, $3, 'tenants/t/keys/k', $1, $2, 'request', 'c')),
     g AS (
       INSERT INTO rewrap_ranges (tenant_id, job_id, range, key_tenant_id, key_id, after_name, until_name, total)
       VALUES ($1, $3, 1, $1, $2, '', 'dk', 1)),
     f AS (
       INSERT INTO rewrap_failures (tenant_id, job_id, resource, reason) VALUES ($1, $3, 'dk', 'DECRYPTION_FAILED')),
     r AS (
       INSERT INTO rotations (tenant_id, key_id, to_version, from_version, cause, caller, duration_ms, job_id)
       VALUES ($1, $2, 1, 1, 'request', 'c', 1, $3)),
     b AS (
       INSERT INTO role_bindings (tenant_id, binding_id, member_kind, member, role, key_pattern, all_tenants, conditions,
         overrides_separation, description, created_at, creator)
       VALUES ($1, 'b', 'principal', 'p', 'roles/decrypter', '', false, '[]', false, '', now(), 'c')),
     o AS (
       INSERT INTO roles (tenant_id, role_id, permissions, description, created_at, creator)
       VALUES ($1, 'o', '{keys.get}', '', now(), 'c')),
     a AS (
       INSERT INTO access_policies (tenant_id, revision, seal_key_id, seal) VALUES ($1, 1, $7, $8)),
     e AS (
       INSERT INTO approval_rules (tenant_id, revision, content, seal_key_id, seal) VALUES ($1, 1, '{}', $7, $8)),
     w AS (
       INSERT INTO pending_operations (tenant_id, operation_id, revision, state, method, requester, request_digest,
         request, created_at, expires_at, content, seal_key_id, seal)
       VALUES ($1, $3, 1, 'PENDING', 'm', 'r', $8, '', now(), now(), '', $7, $8)),
     n AS (
       INSERT INTO operation_decisions (tenant_id, operation_id, approver, content, seal_key_id, seal, credential_id,
         client_data_json, authenticator_data, signature, public_key)
       VALUES ($1, $3, 'a', '', $7, $8, '', '', '', '', ''))
     INSERT INTO key_version_usage (tenant_id, key_id, version, encrypt_operations, decrypt_operations)
     VALUES ($1, $2, 1, 1, 1)`,
    [
      tenantId,
      keyId,
      jobId,
      version.rootKeyId,
      version.wrapped,
      version.checkValue,
      version.sealKeyId,
      version.seal,
      ciphertext,
    ],
  );
}

/** As the service does what a caller has asked for; nothing of it stays. */
function asService<T>(work: (tx: Tx) => Promise<T>): Promise<T> {
  return store.mutate(callOf(), { tenantId: alpha, resource: 'r' }, work);
}

function asReconciler<T>(work: (tx: Tx) => Promise<T>): Promise<T> {
  return store.reconcile(callOf(), work);
}

describe('the service', () => {
  it('case 34: sees no row of another tenant in any table, and none at all outside of a tenant', async () => {
    for (const table of TABLES) {
      const select = `SELECT tenant_id FROM ${table}`;
      assert.deepEqual(await store.query(callOf(), select), [], table);
      const own = await store.read(callOf(), alpha, (tx) => tx.query(select));
      assert.deepEqual(own, [{ tenant_id: alpha }], table);
    }
  });

  it('case 34: has the reconciler’s sight only while it reconciles, and nothing of it afterwards', async () => {
    for (const table of TABLES) {
      if (table === 'rotations') continue;
      const select = `SELECT tenant_id FROM ${table} ORDER BY tenant_id`;
      const all = await asReconciler((tx) => tx.query(select));
      assert.deepEqual(
        all.map((row) => row['tenant_id']),
        [alpha, beta].sort(),
        table,
      );
      assert.deepEqual(await store.query(callOf(), select), [], table);
      await assert.rejects(
        asReconciler(async (tx) => {
          await tx.query(select);
          throw new Error('given up');
        }),
        /given up/,
      );
      assert.deepEqual(await store.query(callOf(), select), [], table);
    }
    const [role] = await store.query(callOf(), 'SELECT current_user = session_user AS same');
    assert.deepEqual(role, { same: true });
  });

  it('can write no row into another tenant', async () => {
    const job = newOrderedId<JobId>(Date.now());
    for (const statement of [
      `INSERT INTO rewrap_jobs (tenant_id, job_id, scope, cause, caller) VALUES ('${beta}', '${job}', 's', 'request', 'c')`,
      `INSERT INTO data_keys (tenant_id, key_id, name, data_key_id, context_digest, ciphertext)
         SELECT '${beta}', key_id, 'stolen', gen_random_uuid(), context_digest, ciphertext FROM data_keys`,
      `INSERT INTO role_bindings SELECT '${beta}', 'mine', member_kind, member, role, key_pattern, all_tenants, expires_at,
         conditions, overrides_separation, description, created_at, creator FROM role_bindings`,
      `INSERT INTO roles SELECT '${beta}', 'mine', permissions, description, created_at, creator FROM roles`,
      `INSERT INTO access_policies SELECT '${beta}', revision, seal_key_id, seal FROM access_policies`,
    ]) {
      await assert.rejects(
        asService((tx) => tx.query(statement)),
        refused,
        statement,
      );
    }
    for (const statement of [
      `DELETE FROM data_keys WHERE tenant_id = '${beta}' RETURNING 1`,
      `DELETE FROM rewrap_ranges WHERE tenant_id = '${beta}' RETURNING 1`,
      `UPDATE rewrap_jobs SET state = state WHERE tenant_id = '${beta}' RETURNING 1`,
      `DELETE FROM role_bindings WHERE tenant_id = '${beta}' RETURNING 1`,
      `DELETE FROM roles WHERE tenant_id = '${beta}' RETURNING 1`,
      `UPDATE access_policies SET seal = seal WHERE tenant_id = '${beta}' RETURNING 1`,
    ])
      assert.deepEqual(await asService((tx) => tx.query(statement)), [], statement);
  });

  it('changes no data key, erases no version, and rewrites no history', async () => {
    for (const statement of [
      "UPDATE data_keys SET ciphertext = ''",
      "UPDATE data_keys SET context_digest = ''",
      "UPDATE data_keys SET name = 'other'",
      'UPDATE data_keys SET rewrapped_at = now()',
      "UPDATE key_versions SET wrapped = ''",
      "UPDATE key_versions SET seal = ''",
      'UPDATE key_versions SET destroyed_at = now()',
      'UPDATE keys SET destroyed_at = now()',
      'DELETE FROM rotations',
      "UPDATE rotations SET caller = 'nobody'",
      'DELETE FROM rewrap_jobs',
      "UPDATE rewrap_jobs SET caller = 'nobody'",
      'UPDATE rewrap_ranges SET fence = 0',
      'DELETE FROM rewrap_failures',
      'UPDATE key_version_usage SET encrypt_operations = 0',
      'INSERT INTO key_version_usage SELECT * FROM key_version_usage',
      'DELETE FROM usage_reports',
      'DELETE FROM replicas',
      'DELETE FROM maintenance',
      'DELETE FROM token_objects',
      'UPDATE token_objects SET destroyed_at = now()',
      "UPDATE tokens SET state = 'FORMER'",
      'SELECT 1 FROM moved_key_versions',
      'UPDATE key_versions SET root_key_id = gen_random_uuid()',
      'UPDATE tenants SET shredded_at = now()',
      'UPDATE tenants SET dedicated_root_key = true',
      'TRUNCATE data_keys',
    ]) {
      await assert.rejects(
        asService((tx) => tx.query(statement)),
        refused,
        statement,
      );
    }
  });
});

describe('the reconciler', () => {
  it('does what it is for and nothing else', async () => {
    for (const statement of [
      'SELECT 1 FROM request_ids',
      'SELECT 1 FROM rotations',
      "UPDATE keys SET name = 'other'",
      'UPDATE keys SET primary_version = 2',
      'UPDATE keys SET destroy_at = now()',
      'UPDATE keys SET maintenance_paused = false',
      'DELETE FROM keys',
      'INSERT INTO keys SELECT * FROM keys',
      "UPDATE key_versions SET check_value = ''",
      'DELETE FROM key_versions',
      'INSERT INTO key_versions SELECT * FROM key_versions',
      "UPDATE data_keys SET context_digest = ''",
      "UPDATE data_keys SET name = 'other'",
      'INSERT INTO data_keys (tenant_id) SELECT tenant_id FROM data_keys',
      "UPDATE rewrap_jobs SET state = 'SUCCEEDED'",
      'UPDATE maintenance SET paused = false',
      'UPDATE tenants SET shred_at = now()',
      'UPDATE token_objects SET is_current = false',
      'UPDATE token_objects SET destroyed_at = now()',
      "UPDATE tokens SET state = 'FORMER'",
      'SELECT wrapped FROM moved_key_versions',
      'UPDATE moved_key_versions SET version = 2',
      "UPDATE audit_inbox SET leaves = 'x'",
      "UPDATE audit_log SET leaf = 'x'",
      'DELETE FROM audit_log',
      'TRUNCATE audit_log',
      'DROP TABLE audit_log_0',
      'UPDATE audit_state SET first_leaf_index = 1',
      'UPDATE audit_state SET generation = 2',
      'DELETE FROM audit_tiles',
      "UPDATE audit_checkpoints SET note = ''",
      'DELETE FROM changes',
    ]) {
      await assert.rejects(
        asReconciler((tx) => tx.query(statement)),
        refused,
        statement,
      );
    }
  });

  it('nobody logs in as it', async () => {
    const [role] = await database.sql(
      "SELECT rolcanlogin, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = 'keyward_reconciler'",
    );
    assert.deepEqual(role, { rolcanlogin: false, rolsuper: false, rolbypassrls: false });
  });
});

describe('a login', () => {
  it('case 35: that has the reconciler’s rights all the time is refused', async () => {
    await using inheriting = await newRole('IN ROLE keyward_service, keyward_reconciler');
    await assert.rejects(
      database.open({ url: database.url(inheriting.name) }),
      /always has the rights/,
    );
  });

  it('that may become the reconciler by asking is welcome', async () => {
    await using asking = await newRole('IN ROLE keyward_service');
    const opened = await database.open({ url: database.url(asking.name) });
    try {
      assert.equal(
        (await opened.reconcile(callOf(), (tx) => tx.query('SELECT 1 FROM data_keys'))).length,
        2,
      );
      assert.deepEqual(await opened.query(callOf(), 'SELECT 1 FROM data_keys'), []);
    } finally {
      await opened.close();
    }
  });
});

describe('a server', () => {
  let directory: string;
  let postgres: Postgres;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'keyward-roles-'));
    postgres = await startPostgres({ directory, say: () => {} });
  });

  after(async () => {
    await postgres?.remove();
    await rm(directory, { recursive: true, force: true });
  });

  const run = (text: string) => runSql(postgres.superuserUrl('keyward'), text);
  const open = async () =>
    (
      await Store.open({
        url: postgres.serviceUrl('keyward'),
        poolSize: 1,
        waitMs: 300,
        release: RELEASE,
        onError: () => {},
      })
    ).close();
  const migrating = () => migrate({ url: postgres.ownerUrl('keyward'), log: () => {} });
  const commandsIn = (error: unknown) =>
    /run: (.*)/.exec(String((error as Error).message))?.[1] ?? '';
  const failure = (attempt: () => Promise<unknown>) =>
    attempt().then(
      () => assert.fail('it did not fail'),
      (error: unknown) => error as Error,
    );

  it('without the reconciler’s role, or with one that the service can not become or always is, says what to run', async () => {
    await createRoles(postgres, 'keyward');
    await run('DROP ROLE keyward_reconciler');
    const missing = await failure(migrating);
    assert.match(missing.message, /keyward_reconciler does not exist/);
    await run(commandsIn(missing));
    await migrating();
    await open();

    await run('REVOKE keyward_reconciler FROM keyward_service');
    const apart = await failure(open);
    assert.match(apart.message, /may not become keyward_reconciler/);
    await run(commandsIn(apart));
    await open();

    await run('REVOKE keyward_reconciler FROM keyward_service');
    await run('ALTER ROLE keyward_service INHERIT');
    await run('GRANT keyward_reconciler TO keyward_service');
    const always = await failure(open);
    assert.match(always.message, /always has the rights/);
    await run(commandsIn(always));
    await open();
  });

  it('that lets the service be a member of the reconciler but not become it, is found out at the start', async () => {
    await run('REVOKE keyward_reconciler FROM keyward_service');
    await run('GRANT keyward_reconciler TO keyward_service WITH SET FALSE');
    const apart = await failure(open);
    assert.match(apart.message, /may not become keyward_reconciler/);
    await run(commandsIn(apart));
    await open();
  });
});
