/**
 * The drill of docs/recovery.md, its other half: a token that has lost a key, a lost token, a lost
 * database. What refuses, by which words, that nothing is made or changed by that, and what heals
 * it.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { createDatabase, dropDatabase } from '../../dev/postgres.ts';
import { createSoftHsmToken, tokenVariables } from '../../softhsm/token.ts';
import { tamperWith } from '../faults/tampering.ts';
import { newEnvironment, runCommand } from '../support/kit.ts';
import { endOf, sql } from '../support/reconciling.ts';
import {
  backUp,
  clusterOf,
  inDatabase,
  putBack,
  refusalOf,
  rootOf,
  serving,
  sharedBackup,
} from './backups.ts';

const shared = sharedBackup();

describe('a token that has lost a key', () => {
  test('is refused by the name of what it lacks, nothing is made or changed, and its copy heals it', async () => {
    await using environment = await newEnvironment(shared.backup);
    const root = await rootOf(environment);
    await tamperWith(environment.token, { role: 'root', replace: true, only: 'destroy' });
    for (const args of [['serve'], ['token', 'init']])
      assert.match(
        await refusalOf(environment, args),
        new RegExp(`the token has no root key ${root}`),
        args.join(' '),
      );
    const status = await refusalOf(environment, ['token', 'status']);
    assert.match(status, new RegExp(`root ${root}, current, 2 key versions, MISSING`));
    assert.equal(status.match(/ {2}enforced: /g)?.length, 3);

    await putBack(environment, shared.backup);
    await shared.assertHealed(environment);
  });
});

describe('a token from before its root key was rotated', () => {
  test('is refused by the name of the newest root key, nothing else is harmed, and its newer copy heals it', async () => {
    await using environment = await newEnvironment(shared.backup);
    const fresh = await serving(environment, async (keyward) => {
      await keyward.resumeMaintenance();
      const { name, rewrapJob } = await keyward.rotateRootKey({ parent: 'tenants/system' });
      assert.equal((await endOf(keyward, rewrapJob)).state, 'SUCCEEDED');
      return name.split('/').at(-1);
    });
    await using newer = await backUp(environment);
    await putBack(environment, shared.backup);
    assert.match(
      await refusalOf(environment, ['serve']),
      new RegExp(`the token has no root key ${fresh}`),
    );
    const status = await refusalOf(environment, ['token', 'status']);
    assert.match(status, new RegExp(`root ${fresh}, current, 2 key versions, MISSING`));
    assert.match(status, /root \S+, not current, 0 key versions\n/);
    await putBack(environment, newer);
    await shared.assertHealed(environment);
  });
});

describe('a lost token', () => {
  test('takes with it all that was wrapped: another token is refused, and gets no key; names and histories are left', async () => {
    await using environment = await newEnvironment(shared.backup);
    const directory = join(environment.directory, 'new-token');
    const fresh = await createSoftHsmToken({ directory, label: 'fresh' });
    for (const args of [['token', 'init'], ['serve']]) {
      const output = await refusalOf(environment, args, tokenVariables(fresh));
      assert.match(output, /the token has no \S+ key [0-9a-f-]{36}/, args.join(' '));
    }
    const { code, output } = await runCommand(
      environment,
      ['token', 'status', '--json'],
      tokenVariables(fresh),
    );
    assert.equal(code, 1);
    const { objects, unrecordedObjects } = JSON.parse(output.slice(0, output.indexOf('\n}\n') + 2));
    assert.deepEqual(
      objects.map(({ condition }: { condition: string }) => condition),
      Array.from({ length: 4 }, () => 'TOKEN_OBJECT_CONDITION_MISSING'),
    );
    assert.deepEqual(unrecordedObjects, []);
    const [history] = await sql(
      environment,
      `SELECT t.name AS tenant, k.name AS key, count(*)::integer AS rotations FROM rotations r
       JOIN keys k USING (tenant_id, key_id) JOIN tenants t USING (tenant_id) GROUP BY 1, 2`,
    );
    assert.deepEqual(history, {
      tenant: 'acme',
      key: shared.made.name.split('/').at(-1),
      rotations: 1,
    });
  });
});

describe('a lost database', () => {
  test('leaves a token that opens nothing: a new database is another environment, refused, and nothing is made', async () => {
    const database = `new_${randomUUID().replaceAll('-', '')}`;
    await createDatabase(clusterOf(shared.source), database);
    await using _removed = {
      [Symbol.asyncDispose]: () => dropDatabase(clusterOf(shared.source), database),
    };
    const there = inDatabase(shared.source, database);
    const migrated = await runCommand(there, ['migrate']);
    assert.equal(migrated.code, 0, migrated.output);
    assert.match(await refusalOf(there, ['serve']), /the database records none/);
    const output = await refusalOf(there, ['token', 'init']);
    assert.match(
      output,
      /the token holds "keyward \S+ [0-9a-f-]{36}", of another environment than [0-9a-f-]{36}/,
    );
    assert.deepEqual(await sql(there, 'SELECT token_profile FROM environment'), [
      { token_profile: null },
    ]);
    assert.deepEqual(await sql(there, 'SELECT * FROM token_objects'), []);
  });

  test('of which a dump from before token init is left: init finds the keys again and makes none', async () => {
    await using environment = await newEnvironment(shared.backup);
    const before = await sql(environment, 'SELECT object_id, role FROM token_objects ORDER BY 1');
    await sql(environment, 'DELETE FROM token_objects');
    await sql(environment, 'UPDATE environment SET token_profile = NULL');
    await sql(environment, 'UPDATE tokens SET profile = NULL, label = NULL, serial_number = NULL');
    await sql(environment, 'UPDATE token_key_seals SET seal = NULL, seal_key_id = NULL');
    const { code, output } = await runCommand(environment, ['token', 'init']);
    assert.equal(code, 0, output);
    assert.deepEqual(
      await sql(environment, 'SELECT object_id, role FROM token_objects ORDER BY 1'),
      before,
    );
    await shared.assertHealed(environment);
  });
});
