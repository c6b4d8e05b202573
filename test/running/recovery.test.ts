/**
 * The drill of docs/recovery.md, line by line: what a backup brings back in a new place, and what a
 * database that is older than its token lacks. What is lost with what is in
 * `recovery-losses.test.ts`.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { KeywardClient } from 'keyward-client';
import { tamperWith } from '../faults/tampering.ts';
import { runSql } from '../store/database.ts';
import {
  type Environment,
  eventually,
  newEnvironment,
  reasonOf,
  runCommand,
  startService,
} from '../support/kit.ts';
import { assertOpen, endOf, idsOf, QUICK, resealStates, sql } from '../support/reconciling.ts';
import {
  assertDecrypts,
  backUp,
  decrypt,
  encrypt,
  folderOf,
  newKey,
  PARENT,
  putBack,
  refusalOf,
  rootOf,
  serving,
  sharedBackup,
} from './backups.ts';

/** What an operator does on a restored database before anything serves from it, as its owner. */
const PAUSE = "UPDATE maintenance SET paused = true, changed_at = now(), caller = 'recovery'";

/** Has a version's time to be destroyed come, once it is scheduled, and waits until it is. */
async function destroy(
  environment: Environment,
  keyward: KeywardClient,
  name: string,
): Promise<void> {
  const { impact } = await keyward.scheduleKeyVersionDestruction({ name, validateOnly: true });
  await keyward.scheduleKeyVersionDestruction({ name, etag: impact.etag });
  await bringOnDestruction(environment, name);
  await eventually(async () =>
    assert.equal((await keyward.getKeyVersion({ name })).state, 'DESTROYED'),
  );
}

async function bringOnDestruction(environment: Environment, version: string): Promise<void> {
  const { keyId } = await idsOf(environment, version);
  await sql(
    environment,
    "UPDATE key_versions SET destroy_at = now() - interval '1 s' WHERE key_id = $1 AND version = $2",
    [keyId, version.split('/').at(-1)],
  );
  await resealStates(environment, 'k.key_id = $1', [keyId]);
}

/** Waits until so many ticks of {@link QUICK} have passed, by the database's clock. */
async function ticks(environment: Environment, seconds: number): Promise<void> {
  const clock = async () => {
    const [row] = await sql<{ now: Date }>(environment, 'SELECT clock_timestamp() AS now');
    return Number(row?.now);
  };
  const end = (await clock()) + seconds * 1000;
  await eventually(async () => assert.ok((await clock()) > end));
}

const shared = sharedBackup();

describe('a dump and a copy of the token, in a new place', () => {
  test('everything opens, what was under way goes on, and the service has settings of its own', async () => {
    await using there = await newEnvironment(shared.backup);
    const status = await runCommand(there, ['token', 'status']);
    assert.equal(status.code, 0, status.output);
    assert.match(status.output, new RegExp(`root ${await rootOf(there)}, current, 2 key versions`));
    await using service = await startService(there, { ...QUICK, KEYWARD_HSM_AGENTS: '2' });
    // Of the new place's own authority: nothing of the old place's certificates is in either copy.
    const keyward = service.client();
    for (const ciphertext of shared.made.ciphertexts) await assertDecrypts(keyward, ciphertext);
    const opened = await keyward.decrypt({
      parent: PARENT,
      ciphertext: shared.made.wrappedDataKey,
    });
    assert.deepEqual(opened.plaintext, shared.made.dataKey);
    await assertOpen(keyward, shared.made.stored);
    assert.deepEqual(
      [
        (await keyward.getMaintenance()).paused,
        (await keyward.getRewrapJob({ name: shared.made.job })).done,
      ],
      [true, 0],
    );
    await keyward.resumeMaintenance();
    const job = await endOf(keyward, shared.made.job);
    assert.deepEqual([job.state, job.done], ['SUCCEEDED', shared.made.stored.size]);
    await assertOpen(keyward, shared.made.stored);
    await assertDecrypts(keyward, await encrypt(keyward, await newKey(keyward)));
  });

  test('what became due since waits while maintenance is paused before serving, and is done once afterwards', async () => {
    await using there = await newEnvironment(shared.backup);
    await sql(there, 'UPDATE maintenance SET paused = false');
    await sql(
      there,
      "UPDATE keys SET rotation_period_seconds = 86400, next_rotation_at = now() - interval '3 days'",
    );
    const doomed = `${shared.made.name}/versions/1`;
    await sql(there, 'DELETE FROM data_keys');
    await sql(
      there,
      `UPDATE key_versions SET state = 'DESTROY_SCHEDULED', destroy_at = now() - interval '1 day' WHERE version = 1`,
    );
    await resealStates(there);
    assert.deepEqual(await runSql(there.urls.owner, `${PAUSE} RETURNING paused`), [
      { paused: true },
    ]);
    await using service = await startService(there, QUICK);
    const keyward = service.client();
    await ticks(there, 2);
    assert.equal(
      (await keyward.getKey({ name: shared.made.name })).primary.name,
      `${shared.made.name}/versions/2`,
    );
    assert.equal((await keyward.getKeyVersion({ name: doomed })).state, 'DESTROY_SCHEDULED');
    // Looked at, and called back: it needn't be lost.
    await keyward.restoreKeyVersion({ name: doomed });
    await keyward.enableKeyVersion({ name: doomed });
    await keyward.resumeMaintenance();
    await eventually(async () =>
      assert.equal(
        (await keyward.getKey({ name: shared.made.name })).primary.name,
        `${shared.made.name}/versions/3`,
      ),
    );
    await ticks(there, 2);
    assert.equal(
      (await keyward.getKey({ name: shared.made.name })).primary.name,
      `${shared.made.name}/versions/3`,
    );
    for (const ciphertext of shared.made.ciphertexts) await assertDecrypts(keyward, ciphertext);
  });
});

describe('a database older than the token', () => {
  test('opens what was there then; what came later is lost, and what was destroyed since is back', async () => {
    await using here = await newEnvironment();
    const old = await serving(here, async (keyward) => {
      await keyward.createTenant({ tenantId: 'acme' });
      const [name, doomed] = [await newKey(keyward), await newKey(keyward)];
      const [ciphertext, returning] = [
        await encrypt(keyward, name),
        await encrypt(keyward, doomed),
      ];
      await keyward.rotateKey({ name: doomed });
      return { name, ciphertext, version: `${doomed}/versions/1`, returning };
    });
    await using older = await backUp(here);
    const lost = await serving(here, async (keyward) => {
      await keyward.rotateKey({ name: old.name });
      await destroy(here, keyward, old.version);
      assert.equal(await reasonOf(decrypt(keyward, old.returning)), 'KEY_VERSION_NOT_ENABLED');
      return { ciphertext: await encrypt(keyward, old.name), key: await newKey(keyward) };
    });

    await using there = await newEnvironment({ database: older.database, token: folderOf(here) });
    await serving(there, async (keyward) => {
      await assertDecrypts(keyward, old.ciphertext);
      assert.equal(await reasonOf(keyward.getKey({ name: lost.key })), 'RESOURCE_NOT_FOUND');
      assert.equal(await reasonOf(decrypt(keyward, lost.ciphertext)), 'DECRYPTION_FAILED');
      // The next version has the lost one's number, and nothing else of it.
      await keyward.rotateKey({ name: old.name });
      assert.equal(
        (await keyward.getKey({ name: old.name })).primary.name,
        `${old.name}/versions/2`,
      );
      await assertDecrypts(keyward, await encrypt(keyward, old.name));
      assert.equal(await reasonOf(decrypt(keyward, lost.ciphertext)), 'DECRYPTION_FAILED');

      await assertDecrypts(keyward, old.returning);
      const { impact } = await keyward.scheduleKeyVersionDestruction({
        name: old.version,
        windowDays: 7,
        validateOnly: true,
      });
      await keyward.scheduleKeyVersionDestruction({
        name: old.version,
        windowDays: 7,
        etag: impact.etag,
      });
      await eventually(async () =>
        assert.equal(await reasonOf(decrypt(keyward, old.returning)), 'KEY_VERSION_NOT_ENABLED'),
      );
      await bringOnDestruction(there, old.version);
      await eventually(async () =>
        assert.equal((await keyward.getKeyVersion({ name: old.version })).state, 'DESTROYED'),
      );
    });
  });

  test('that does not record a root key of the token is refused by its label, until the token of its time is back', async () => {
    await using newer = await newEnvironment(shared.backup);
    await tamperWith(newer.token, { role: 'root', replace: false, otherId: true });
    assert.match(
      await refusalOf(newer, ['serve']),
      /the token has 2 objects labelled keyward root /,
    );
    const status = await refusalOf(newer, ['token', 'status']);
    assert.match(status, /NOT RECORDED {2}09090909-\S+, labelled "keyward root /);
    assert.match(status, /not recorded in this database/);
    await putBack(newer, shared.backup);
    await shared.assertHealed(newer);
  });

  test('from before the root key was rotated: its newer root key is recorded as never used, and everything opens', async () => {
    await using here = await newEnvironment(shared.backup);
    const fresh = await serving(here, async (keyward) => {
      await keyward.resumeMaintenance();
      const rotated = await keyward.rotateRootKey({ parent: 'tenants/system' });
      assert.equal((await endOf(keyward, rotated.rewrapJob)).state, 'SUCCEEDED');
      return rotated.name.split('/').at(-1) ?? '';
    });
    await using there = await newEnvironment({
      database: shared.backup.database,
      token: folderOf(here),
    });
    assert.match(
      await refusalOf(there, ['serve']),
      new RegExp(`the database does not know ${fresh}`),
    );
    const recorded = await runCommand(there, ['token', 'record', fresh]);
    assert.equal(recorded.code, 0, recorded.output);
    await shared.assertHealed(there);
    const status = await runCommand(there, ['token', 'status']);
    assert.equal(status.code, 0, status.output);
    assert.match(
      status.output,
      new RegExp(`TO DO: it was made and never used: run \\S+ token destroy-key ${fresh}`),
    );
    const destroyed = await runCommand(there, ['token', 'destroy-key', fresh]);
    assert.match(destroyed.output, /1 of 1 were in this token/);
    await shared.assertHealed(there);
  });
});
