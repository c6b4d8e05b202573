/**
 * Which token and which token keys are current is sealed: whoever writes to the database makes no
 * other root key, seal key or token current, moves none to another tenant or token and hides none,
 * on replicas that run and on those that start then. What is under keys that are there goes on.
 *
 * Of what may be changed `npm test` draws some, `test/long/sealed-token-keys.test.ts` has all.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { KeywardClient } from 'keyward-client';
import { eventually, reasonOf, runCommand, sharedService, startService } from '../support/kit.ts';
import { drawHere, SEED } from '../support/random.ts';
import { newId, QUICK, sql } from '../support/reconciling.ts';

const payload = Buffer.from('p');
const CORRUPT = 'TOKEN_KEYS_CORRUPT';
let keyward: KeywardClient;
/** A root key that was replaced, and one of a tenant's own. */
let retired: string;
let own: string;
let kept: { readonly parent: string; readonly name: string; readonly ciphertext: Buffer };
const shared = sharedService(async (client) => {
  const { environment } = shared;
  keyward = client;
  await client.createTenant({ tenantId: 'acme' });
  await client.createTenant({ tenantId: 'sealed', dedicatedRootKey: true });
  const { name } = await client.createKey({ parent: 'tenants/acme', keyId: 'kept' });
  const { ciphertext } = await client.encrypt({ name, plaintext: payload });
  kept = { parent: 'tenants/acme', name, ciphertext };
  await client.rotateRootKey({ parent: 'tenants/system' });
  const ids = await sql<{ id: string; state: string }>(
    environment,
    `SELECT object_id AS id, o.state FROM token_objects o JOIN tenants t USING (tenant_id)
     WHERE role = 'root' AND (o.state = 'RETIRED' OR t.name = 'sealed')`,
  );
  retired = ids.find(({ state }) => state === 'RETIRED')?.id ?? '';
  own = ids.find(({ state }) => state === 'CURRENT')?.id ?? '';
  // The job that brings the versions under the new root key has ended.
  await eventually(async () =>
    assert.deepEqual(
      await sql(environment, `SELECT 1 FROM key_versions WHERE root_key_id = $1`, [retired]),
      [],
    ),
  );
  // Each by itself: with both tables locked it could wait for the service, which waits for it.
  for (const statement of UNCHECKED) await sql(environment, statement);
}, QUICK);

const newKey = (client = keyward, parent = 'tenants/acme') =>
  client.createKey({ parent, keyId: newId('k') });

const TABLES = ['tokens', 'token_objects', 'token_key_seals'];

/** Takes away what would have the database itself refuse a change. */
const UNCHECKED = [
  `ALTER TABLE token_objects DROP CONSTRAINT IF EXISTS token_objects_current_check,
     DROP CONSTRAINT IF EXISTS token_objects_check1`,
  'ALTER TABLE tokens DROP CONSTRAINT IF EXISTS tokens_check1',
];

/** Runs statements as whoever owns the database, past its foreign keys. */
const tamper = (statements: string) =>
  sql(shared.environment, `SET session_replication_role = replica; ${statements}`);

/** Every replica is told to look. */
const ANNOUNCE = `INSERT INTO changes (tenant_id, kind, subject_id)
  SELECT tenant_id, 'token', tenant_id FROM tenants WHERE name = 'system'`;

/** The rows, put back when `work` is done. */
async function restoring(work: () => Promise<void>): Promise<void> {
  const copy = `copy_${newId('c').slice(2)}`;
  const all = (statement: (table: string) => string) => TABLES.map(statement).join(';');
  await tamper(all((table) => `CREATE TABLE ${copy}_${table} AS SELECT * FROM ${table}`));
  try {
    await work();
  } finally {
    await tamper(
      `${all((table) => `DELETE FROM ${table}`)};
       ${all((table) => `INSERT INTO ${table} SELECT * FROM ${copy}_${table}`)}; ${ANNOUNCE}`,
    );
    await eventually(() => newKey());
  }
}

const SHARED_ROOT = `role = 'root' AND is_current
  AND tenant_id = (SELECT tenant_id FROM tenants WHERE name = 'system')`;
const makeCurrent = (id: string) =>
  `UPDATE token_objects SET is_current = false, state = 'RETIRED' WHERE ${SHARED_ROOT};
   UPDATE token_objects SET is_current = true, state = 'CURRENT' WHERE object_id = '${id}'`;
const NOBODY = '00000000-0000-4000-8000-000000000000';

/** What a writer of the database may change. */
const CHANGES: Readonly<Record<string, () => string>> = {
  'another root key made current': () => makeCurrent(retired),
  'a tenant’s root key made that of all': () =>
    `${makeCurrent(own)}; UPDATE token_objects
     SET tenant_id = (SELECT tenant_id FROM tenants WHERE name = 'system') WHERE object_id = '${own}'`,
  'a root key put under another tenant': () =>
    `UPDATE token_objects SET tenant_id = (SELECT tenant_id FROM tenants WHERE name = 'acme')
     WHERE object_id = '${retired}'`,
  'two tenants’ root keys swapped': () =>
    `UPDATE token_objects o SET tenant_id = (SELECT tenant_id FROM tenants
       WHERE name = CASE o.object_id WHEN '${own}' THEN 'acme' ELSE 'sealed' END)
     WHERE object_id IN ('${own}', '${retired}')`,
  'a root key made a seal key': () =>
    `UPDATE token_objects SET role = 'seal' WHERE object_id = '${retired}'`,
  'a root key said to be destroyed': () =>
    `UPDATE token_objects SET state = 'DESTROYED', destroyed_at = now() WHERE object_id = '${retired}'`,
  'a root key said to wait for its use': () =>
    `UPDATE token_objects SET state = 'CREATED' WHERE object_id = '${retired}'`,
  'no root key said to be current': () =>
    `UPDATE token_objects SET is_current = false WHERE ${SHARED_ROOT}`,
  'a root key hidden': () => `DELETE FROM token_objects WHERE object_id = '${retired}'`,
  'a root key added': () =>
    `INSERT INTO token_objects (tenant_id, object_id, role, is_current, state)
     SELECT tenant_id, '${NOBODY}', 'root', false, 'RETIRED' FROM tenants WHERE name = 'system'`,
  'a root key put in another token': () =>
    `INSERT INTO tokens (tenant_id, token_id, state, profile, retired_at)
     SELECT tenant_id, '${NOBODY}', 'FORMER', '{}', now() FROM tenants WHERE name = 'system';
     UPDATE token_objects SET token_id = '${NOBODY}' WHERE object_id = '${retired}'`,
  'another token made current': () =>
    `UPDATE tokens SET state = 'FORMER', retired_at = now() WHERE state = 'CURRENT';
     INSERT INTO tokens (tenant_id, token_id, state, label, serial_number, profile)
     SELECT tenant_id, '${NOBODY}', 'CURRENT', label, serial_number, profile FROM tokens`,
  'a token’s name': () => `UPDATE tokens SET label = 'another'`,
  'a token’s serial number': () => `UPDATE tokens SET serial_number = '0'`,
  'a token’s profile': () => `UPDATE tokens SET profile = profile || '{"wrap": 2}'`,
  'the revision': () => 'UPDATE token_key_seals SET revision = revision + 1',
  'the seal': () => 'UPDATE token_key_seals SET seal = sha256(seal)',
  'what sealed it': () => `UPDATE token_key_seals SET seal_key_id = '${NOBODY}'`,
  'that it is sealed': () => 'UPDATE token_key_seals SET seal = NULL, seal_key_id = NULL',
  'the row of the seal': () => 'DELETE FROM token_key_seals',
};

/** Where a replica that starts then gets so far as to serve. */
const STARTS = [
  'another root key made current',
  'a tenant’s root key made that of all',
  'the seal',
];

const alerted = (from: number) =>
  shared.service.logged((line) => line['alert'] === 'token-key-corrupt', from);

const versions = () =>
  sql(shared.environment, 'SELECT key_id, version, root_key_id, seal_key_id FROM key_versions');

/** Of the other changes. */
const SOME = 3;
const others = Object.keys(CHANGES).filter((what) => !STARTS.includes(what));
const tried = [...drawHere(STARTS, 1), ...drawHere(others, SOME)];

describe(`token keys that a writer of the database has changed (seed ${SEED})`, () => {
  for (const [what, change] of Object.entries(CHANGES).filter(([each]) => tried.includes(each))) {
    test(`${what}: nothing is made by it, whoever asks, and what is there goes on`, async () => {
      await restoring(async () => {
        const from = shared.service.log.length;
        await tamper(`${change()}; ${ANNOUNCE}`);
        await eventually(async () => assert.equal(await reasonOf(newKey()), CORRUPT));
        const before = await versions();
        const { name } = kept;
        for (const call of [
          () => newKey(),
          () => newKey(keyward, 'tenants/sealed'),
          () => keyward.rotateKey({ name }),
          () => keyward.disableKey({ name }),
          () => keyward.rotateRootKey({ parent: 'tenants/system' }),
          () => keyward.rotateSealKey(),
          () => keyward.listTokenKeys({ parent: 'tenants/system' }),
        ])
          assert.equal(await reasonOf(call()), CORRUPT, String(call));
        await alerted(from);
        const opened = await keyward.decrypt(kept);
        assert.deepEqual(opened.plaintext, payload);
        await keyward.encrypt({ name, plaintext: payload });
        if (STARTS.includes(what)) {
          await using another = await startService(shared.environment, QUICK);
          const client = another.client();
          await eventually(async () => assert.equal(await reasonOf(newKey(client)), CORRUPT));
          assert.deepEqual((await client.decrypt(kept)).plaintext, payload);
        }
        assert.deepEqual(await versions(), before);
        if (!STARTS.includes(what)) return;
        const destroyed = await runCommand(shared.environment, ['token', 'destroy-key', retired]);
        assert.notEqual(destroyed.code, 0, destroyed.output);
      });
    });
  }

  test('without anybody’s being told, it is refused where it is used, and found out all the same', async () => {
    await restoring(async () => {
      await tamper(makeCurrent(retired));
      assert.equal(await reasonOf(newKey()), CORRUPT);
    });
    await restoring(async () => {
      const from = shared.service.log.length;
      await tamper(`UPDATE tokens SET label = 'another'`);
      await alerted(from);
    });
  });

  test('nothing is re-wrapped or sealed again by what a writer says is current', async () => {
    await restoring(async () => {
      const { environment, service } = shared;
      const before = await versions();
      const from = service.log.length;
      // All versions, and all seals, are under keys that were replaced, as it says.
      await tamper(
        `${makeCurrent(retired)};
         INSERT INTO rewrap_jobs (tenant_id, job_id, scope, cause, caller, kind)
         SELECT tenant_id, gen_random_uuid(), 'tenants/-', 'request', 'somebody', 'key-versions'
         FROM tenants WHERE name = 'system'`,
      );
      await alerted(from);
      await service.logged(({ msg }) => /re-wrapping failed/.test(String(msg)), from);
      assert.deepEqual(await versions(), before);
      await sql(
        environment,
        `UPDATE rewrap_jobs SET state = 'CANCELLED', ended_at = now(), done = 0, failed = 0
         WHERE caller = 'somebody'`,
      );
    });
  });

  test('put back as they were with their seal, they are refused by a replica that remembers', async () => {
    const { environment, service } = shared;
    const all = (statement: (table: string) => string) => TABLES.map(statement).join(';');
    await tamper(all((table) => `CREATE TABLE old_${table} AS SELECT * FROM ${table}`));
    await keyward.rotateRootKey({ parent: 'tenants/system' });
    const [newest] = await sql<{ revision: string }>(
      environment,
      'SELECT revision FROM token_key_seals',
    );
    await restoring(async () => {
      await tamper(
        `${all((table) => `DELETE FROM ${table}`)};
         ${all((table) => `INSERT INTO ${table} SELECT * FROM old_${table}`)}; ${ANNOUNCE}`,
      );
      await eventually(async () => assert.equal(await reasonOf(newKey()), CORRUPT));
      await service.logged(
        (line) =>
          line['alert'] === 'token-key-corrupt' &&
          String(line['detail']).includes(`it was ${newest?.revision} before`),
      );
    });
  });
});

describe('sealing token keys that have no seal', () => {
  test('an operator seals them, having been told which; a seal that does not match stays', async () => {
    const seal = (...args: string[]) =>
      runCommand(shared.environment, ['token', 'seal-states', ...args]);
    await tamper(`UPDATE token_key_seals SET seal = NULL, seal_key_id = NULL; ${ANNOUNCE}`);
    await eventually(async () => assert.equal(await reasonOf(newKey()), CORRUPT));
    const looked = await seal('--dry-run');
    assert.match(looked.output, /the \d+ token keys of 1 tokens are not sealed:/);
    assert.match(looked.output, new RegExp(`root ${own} of sealed, in token \\S+: CURRENT`));
    assert.match(looked.output, /nothing was changed/);
    assert.equal(await reasonOf(newKey()), CORRUPT);
    const done = await seal();
    assert.equal(done.code, 0, done.output);
    assert.match(done.output, /sealed the token keys\n/);
    await eventually(() => newKey());
    assert.match((await seal()).output, /the token keys are already sealed/);
    await restoring(async () => {
      await tamper('UPDATE token_key_seals SET seal = sha256(seal)');
      const refused = await seal();
      assert.equal(refused.code, 1);
      assert.match(refused.output, /what the database records of them failed verification/);
    });
  });
});
