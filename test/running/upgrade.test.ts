/**
 * Upgrading a database that was made before how keys stand was sealed: its keys are refused until
 * an operator has sealed what there is, and are what they were from then on.
 *
 * The database is made by the migrations from before, with the rows that the service makes now put
 * into it.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { MIGRATIONS_DIRECTORY } from '../../src/store/core/schema.ts';
import { runSql } from '../store/database.ts';
import {
  type Environment,
  eventually,
  newEnvironment,
  reasonOf,
  runCommand,
  setMode,
  startService,
  startServiceWithoutWaiting,
} from '../support/kit.ts';
import { QUICK, sql } from '../support/reconciling.ts';

test('a replica ends when the schema has become one that needs a newer release', async () => {
  await using environment = await newEnvironment();
  await using service = await startService(environment, QUICK);
  await sql(
    environment,
    "INSERT INTO schema_releases (migration, oldest_release) VALUES ('9999_future', '9.0.0')",
  );
  assert.equal(await service.ended, 1);
  const last = await service.logged(({ level }) => level === 'fatal');
  assert.match(String(last['msg']), /migration 9999_future, which needs release 9\.0\.0 or later/);
});

const SEALING = '0007_sealed_states';
const payload = Buffer.from('from before');

/** Every row of every table, by the table's name. */
async function rowsOf(environment: Environment): Promise<Map<string, string>> {
  const tables = await sql<{ name: string }>(
    environment,
    `SELECT table_name AS name FROM information_schema.tables
     WHERE table_schema = 'public' AND table_type = 'BASE TABLE' AND table_name NOT LIKE 'schema\\_%'`,
  );
  const rows = new Map<string, string>();
  for (const { name } of tables) {
    const [row] = await sql<{ rows: string }>(
      environment,
      `SELECT coalesce(json_agg(t), '[]')::text AS rows FROM ${name} t`,
    );
    rows.set(name, row?.rows ?? '[]');
  }
  return rows;
}

/**
 * Makes the schema anew, by the migrations before that one, with these rows in what of it there is
 * then.
 */
async function goBack(environment: Environment, rows: ReadonlyMap<string, string>): Promise<void> {
  const { owner } = environment.urls;
  const role = new URL(owner).username;
  await sql(
    environment,
    `DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION "${role}"`,
  );
  const names = readdirSync(MIGRATIONS_DIRECTORY)
    .map((file) => file.replace(/\.sql$/, ''))
    .filter((name) => name < SEALING)
    .sort();
  await runSql(
    owner,
    'CREATE TABLE schema_migrations (id serial PRIMARY KEY, name varchar(255) NOT NULL, run_on timestamp NOT NULL)',
  );
  for (const name of names) {
    await runSql(
      owner,
      `BEGIN; ${readFileSync(join(MIGRATIONS_DIRECTORY, `${name}.sql`), 'utf8')}; COMMIT`,
    );
    await runSql(owner, 'INSERT INTO schema_migrations (name, run_on) VALUES ($1, now())', [name]);
  }
  const tables = await sql<{ name: string; columns: string }>(
    environment,
    `SELECT c.table_name AS name, string_agg(quote_ident(c.column_name), ', ') AS columns
     FROM information_schema.columns c JOIN information_schema.tables t USING (table_schema, table_name)
     WHERE table_schema = 'public' AND table_type = 'BASE TABLE' AND c.is_generated = 'NEVER'
       AND table_name NOT LIKE 'schema\\_%' GROUP BY 1`,
  );
  for (const { name, columns } of tables) {
    const json = rows.get(name)?.replaceAll("'", "''") ?? '[]';
    await sql(
      environment,
      `BEGIN; SET LOCAL session_replication_role = replica; DELETE FROM ${name};
       INSERT INTO ${name} (${columns}) OVERRIDING SYSTEM VALUE
         SELECT ${columns} FROM json_populate_recordset(NULL::${name}, '${json}'); COMMIT`,
    );
  }
}

test('a database with keys from before is refused by the new code until it is migrated, and until its tenants and keys are sealed', async () => {
  await using environment = await newEnvironment();
  const parent = 'tenants/acme';
  const before = await startService(environment, QUICK);
  const keyward = before.client();
  await keyward.createTenant({ tenantId: 'acme' });
  const { name } = await keyward.createKey({ parent, keyId: 'k' });
  const { ciphertext } = await keyward.encrypt({ name, plaintext: payload });
  await keyward.rotateKey({ name });
  await keyward.disableKeyVersion({ name: `${name}/versions/1` });
  const disabled = (await keyward.createKey({ parent, keyId: 'off' })).name;
  await keyward.disableKey({ name: disabled });
  await before.stop();
  await eventually(async () => {
    const [{ n }] = (await sql<{ n: number }>(
      environment,
      'SELECT count(*)::integer AS n FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()',
    )) as [{ n: number }];
    assert.equal(n, 0);
  });
  await goBack(environment, await rowsOf(environment));

  const early = startServiceWithoutWaiting(environment, QUICK);
  assert.equal(await early.ended, 1);
  assert.match(JSON.stringify(early.log), /not applied: 0007_sealed_states/);
  const { code, output } = await runCommand(environment, ['migrate']);
  assert.equal(code, 0, output);
  assert.match(output, /applied .*0007_sealed_states/);

  await setMode(environment, 'development');
  const unsealed = startServiceWithoutWaiting(environment, QUICK);
  assert.equal(await unsealed.ended, 1);
  assert.match(JSON.stringify(unsealed.log), /keyward-server token seal-states/);
  const sealed = await runCommand(environment, ['token', 'seal-states']);
  assert.equal(sealed.code, 0, sealed.output);
  assert.match(
    sealed.output,
    /sealed the token keys\nthe maintenance switch is not sealed: not paused; sealed it\n2 tenants are not sealed:\n( {2}tenants\/(acme|system) [0-9a-f-]{36} ENABLED\n){2}0 tenants are already sealed.*\nsealed 2 tenants\n2 keys of 1 tenants are not sealed: 1 DISABLED, 1 ENABLED\nthey have 3 versions: 1 DISABLED, 2 ENABLED\n0 keys are already sealed.*\nsealed 2 keys\n$/,
  );
  await using service = await startService(environment, QUICK);
  const client = service.client();
  assert.equal(await reasonOf(client.decrypt({ parent, ciphertext })), 'KEY_VERSION_NOT_ENABLED');
  await client.enableKeyVersion({ name: `${name}/versions/1` });
  assert.deepEqual((await client.decrypt({ parent, ciphertext })).plaintext, payload);
  await eventually(async () =>
    assert.equal((await client.getKey({ name: disabled })).state, 'DISABLED'),
  );
  assert.equal((await client.enableKey({ name: disabled })).state, 'ENABLED');
});
