/**
 * Destruction over the wire: looked at, scheduled, called back, done when its time has come; and
 * what then is gone, on every replica.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { describe, test } from 'node:test';
import type { DestructionImpact, KeywardClient } from 'keyward-client';
import { startFaultyService } from '../faults/service.ts';
import {
  type Environment,
  eventually,
  failureOf,
  reasonOf,
  sharedService,
  startService,
} from '../support/kit.ts';
import {
  endOf,
  idsOf,
  jobOf,
  leaveBehind,
  lookedForDue,
  newId,
  QUICK,
  resealStates,
  sql,
  storeDataKeys,
} from '../support/reconciling.ts';

const PARENT = 'tenants/acme';
const DAY_MS = 86_400_000;
let keyward: KeywardClient;
const shared = sharedService(async (client) => {
  keyward = client;
  for (const tenantId of ['acme', 'globex']) await keyward.createTenant({ tenantId });
}, QUICK);

const newKey = async () => (await keyward.createKey({ parent: PARENT, keyId: newId('k') })).name;
const payload = Buffer.from('p');

/** A key with an older version that nothing is under, and a ciphertext of each. */
async function rotatedKey() {
  const name = await newKey();
  const { ciphertext: old } = await keyward.encrypt({ name, plaintext: payload });
  await keyward.rotateKey({ name });
  const { ciphertext: fresh } = await keyward.encrypt({ name, plaintext: payload });
  await endOf(keyward, await jobOf(keyward, name));
  return { name, version: `${name}/versions/1`, old, fresh };
}

async function scheduleKey(name: string, windowDays = 7) {
  const { impact } = await keyward.scheduleKeyDestruction({ name, validateOnly: true });
  return keyward.scheduleKeyDestruction({ name, etag: impact.etag, windowDays });
}

async function scheduleVersion(name: string, windowDays = 7) {
  const { impact } = await keyward.scheduleKeyVersionDestruction({ name, validateOnly: true });
  return keyward.scheduleKeyVersionDestruction({ name, etag: impact.etag, windowDays });
}

/** An answer without what is counted on meanwhile. */
function lasting<T extends { readonly impact: DestructionImpact }>(answer: T) {
  return { ...answer, impact: { ...answer.impact, usage: undefined } };
}

/** Has the time come for whatever of the key is scheduled. */
async function makeDestructionDue(environment: Environment, name: string): Promise<void> {
  const { keyId } = await idsOf(environment, name);
  for (const table of ['keys', 'key_versions']) {
    await sql(
      environment,
      `UPDATE ${table} SET destroy_at = now() - interval '1 s' WHERE key_id = $1 AND state = 'DESTROY_SCHEDULED'`,
      [keyId],
    );
  }
  await resealStates(environment, 'k.key_id = $1', [keyId]);
}

async function versionRows(name: string) {
  const { keyId } = await idsOf(shared.environment, name);
  return sql<{ version: number; state: string; bytes: number }>(
    shared.environment,
    `SELECT version, state, octet_length(wrapped) AS bytes FROM key_versions WHERE key_id = $1 ORDER BY version`,
    [keyId],
  );
}

async function assertDaysAhead(time: Date | undefined, days: number): Promise<void> {
  const [row] = await sql<{ now: Date }>(shared.environment, 'SELECT clock_timestamp() AS now');
  const ahead = Number(time) - Number(row?.now);
  assert.ok(
    ahead <= days * DAY_MS && ahead > days * DAY_MS - 60_000,
    `${ahead / DAY_MS} days ahead`,
  );
}

describe('a look', () => {
  test('at a key’s destruction says what would be lost, and changes nothing', async () => {
    const { name } = await rotatedKey();
    await storeDataKeys(keyward, name, 3);
    await eventually(async () => {
      const { impact } = await keyward.scheduleKeyDestruction({ name, validateOnly: true });
      assert.deepEqual([impact.usage.encryptOperations, impact.usage.decryptOperations], [5, 0]);
      assert.ok(impact.usage.lastEncryptTime instanceof Date);
    });
    const before = await keyward.getKey({ name });
    const { key, impact } = await keyward.scheduleKeyDestruction({ name, validateOnly: true });
    assert.deepEqual(key, before);
    assert.deepEqual([impact.keyVersions, impact.storedDataKeys, impact.etag], [2, 3, before.etag]);
    await assertDaysAhead(impact.destroyTime, 30);
    assert.match(impact.notice, /backups/);
    assert.deepEqual(await keyward.getKey({ name }), before);
    await keyward.encrypt({ name, plaintext: payload });
    const entries = await sql(
      shared.environment,
      "SELECT 1 FROM audit_entries WHERE resource = $1 AND entry_id IS NOT NULL AND method LIKE '%Destruction'",
      [name],
    );
    assert.deepEqual(entries, []);
  });

  test('at a version’s says the same of the one', async () => {
    const { name, version, old } = await rotatedKey();
    await keyward.decrypt({ parent: PARENT, ciphertext: old });
    await eventually(async () => {
      const { impact } = await keyward.scheduleKeyVersionDestruction({
        name: version,
        validateOnly: true,
      });
      assert.deepEqual([impact.usage.encryptOperations, impact.usage.decryptOperations], [1, 1]);
    });
    const before = await keyward.getKeyVersion({ name: version });
    const { keyVersion, impact } = await keyward.scheduleKeyVersionDestruction({
      name: version,
      validateOnly: true,
      windowDays: 120,
    });
    assert.deepEqual(keyVersion, { ...before, usage: undefined });
    assert.deepEqual([impact.keyVersions, impact.storedDataKeys, impact.etag], [1, 0, before.etag]);
    await assertDaysAhead(impact.destroyTime, 120);
    assert.deepEqual((await keyward.getKeyVersion({ name: version })).state, 'ENABLED');
    await keyward.decrypt({ parent: PARENT, ciphertext: old });
    assert.equal((await keyward.getKey({ name })).state, 'ENABLED');
  });
});

describe('scheduling', () => {
  test('wants the etag of what was seen', async () => {
    const { name, version } = await rotatedKey();
    const seen = await keyward.getKey({ name });
    const seenVersion = await keyward.getKeyVersion({ name: version });
    const missing = [
      keyward.scheduleKeyDestruction({ name }),
      keyward.scheduleKeyVersionDestruction({ name: version }),
    ];
    for (const error of await Promise.all(missing.map(failureOf)))
      assert.deepEqual([error.reason, error.fieldViolations[0]?.field], ['INVALID_FIELD', 'etag']);
    await keyward.updateKey({ key: { name, description: 'still of use' } });
    await keyward.disableKeyVersion({ name: version });
    const outdated = [
      keyward.scheduleKeyDestruction({ name, etag: seen.etag }),
      keyward.scheduleKeyVersionDestruction({ name: version, etag: seenVersion.etag }),
    ];
    for (const error of await Promise.all(outdated.map(failureOf)))
      assert.deepEqual([error.code, error.reason], ['ABORTED', 'ETAG_MISMATCH']);
    assert.equal((await keyward.getKey({ name })).state, 'ENABLED');
  });

  test('is for 7 to 120 days from now, 30 unless it is said', async () => {
    for (const windowDays of [7, 120, 0, 30]) {
      const { name, version } = await rotatedKey();
      const { keyVersion, impact } = await scheduleVersion(version, windowDays);
      await assertDaysAhead(keyVersion.destroyTime, windowDays || 30);
      assert.deepEqual(impact.destroyTime, keyVersion.destroyTime);
      const { key } = await scheduleKey(name, windowDays);
      await assertDaysAhead(key.destroyTime, windowDays || 30);
    }
    const { name, version } = await rotatedKey();
    for (const windowDays of [6, 121, -1, 1, 2 ** 31 - 1]) {
      const { etag } = await keyward.getKey({ name });
      for (const call of [
        () => keyward.scheduleKeyDestruction({ name, etag, windowDays }),
        () => keyward.scheduleKeyDestruction({ name, validateOnly: true, windowDays }),
        () => keyward.scheduleKeyVersionDestruction({ name: version, etag: '1', windowDays }),
      ])
        assert.equal((await failureOf(call())).fieldViolations[0]?.field, 'window_days');
    }
  });

  test('case 92: the primary is refused, and so is a version that data keys are under, with their number', async () => {
    const name = await newKey();
    const { job } = await leaveBehind(keyward, name, 4);
    for (const validateOnly of [true, false]) {
      const primary = { name: `${name}/versions/2`, etag: '1', validateOnly };
      const error = await failureOf(keyward.scheduleKeyVersionDestruction(primary));
      assert.deepEqual(
        [error.code, error.reason],
        ['FAILED_PRECONDITION', 'KEY_VERSION_IS_PRIMARY'],
      );
      const inUse = { name: `${name}/versions/1`, etag: '1', validateOnly };
      const refused = await failureOf(keyward.scheduleKeyVersionDestruction(inUse));
      assert.deepEqual(
        [refused.code, refused.reason],
        ['FAILED_PRECONDITION', 'KEY_VERSION_IN_USE'],
      );
      assert.equal(refused.metadata.get('stored_data_keys'), '4');
    }
    await keyward.updateKey({ key: { name, maintenancePaused: false } });
    await endOf(keyward, job);
    await scheduleVersion(`${name}/versions/1`);
  });

  test('what is scheduled can not be used, changed or scheduled again; its versions are as they were', async () => {
    const { name, version, fresh } = await rotatedKey();
    const { dataKey } = await keyward.createDataKey({ parent: name });
    const other = await newKey();
    const { ciphertext: foreign } = await keyward.encrypt({ name: other, plaintext: payload });
    const { key } = await scheduleKey(name);
    assert.equal(key.state, 'DESTROY_SCHEDULED');
    const uses = [
      keyward.encrypt({ name, plaintext: payload }),
      keyward.decrypt({ parent: PARENT, ciphertext: fresh }),
      keyward.reEncrypt({ name: other, ciphertext: fresh }),
      keyward.reEncrypt({ name, ciphertext: foreign }),
      keyward.generateDataKey({ name }),
      keyward.generateDataKeyWithoutPlaintext({ name }),
      keyward.createDataKey({ parent: name }),
      keyward.getDataKey({ name: dataKey.name }),
    ];
    for (const error of await Promise.all(uses.map(failureOf))) {
      assert.deepEqual([error.code, error.reason], ['FAILED_PRECONDITION', 'KEY_NOT_ENABLED']);
      assert.equal(error.metadata.get('state'), 'DESTROY_SCHEDULED');
      assert.equal(error.metadata.get('key'), name.split('/keys/')[1]);
    }
    const changes = [
      keyward.enableKey({ name }),
      keyward.disableKey({ name }),
      keyward.rotateKey({ name }),
      keyward.updateKey({ key: { name, description: 'x' } }),
      keyward.disableKeyVersion({ name: version }),
      keyward.scheduleKeyDestruction({ name, validateOnly: true }),
      keyward.scheduleKeyDestruction({ name, etag: key.etag }),
      keyward.scheduleKeyVersionDestruction({ name: version, validateOnly: true }),
    ];
    for (const error of await Promise.all(changes.map(failureOf))) {
      assert.deepEqual(
        [error.code, error.reason],
        ['FAILED_PRECONDITION', 'DESTRUCTION_UNDER_WAY'],
      );
      assert.equal(error.metadata.get('state'), 'DESTROY_SCHEDULED');
    }
    assert.equal((await keyward.getKeyVersion({ name: version })).state, 'ENABLED');
    const { keys } = await keyward.listKeys({
      parent: PARENT,
      filter: 'state = DESTROY_SCHEDULED',
      pageSize: 1000,
    });
    assert.ok(keys.some((each) => each.name === name));
  });

  test('a scheduled version closes what is under it and nothing else', async () => {
    const { name, version, old, fresh } = await rotatedKey();
    const { keyVersion } = await scheduleVersion(version);
    assert.equal(keyVersion.state, 'DESTROY_SCHEDULED');
    const error = await failureOf(keyward.decrypt({ parent: PARENT, ciphertext: old }));
    assert.deepEqual(
      [error.code, error.reason],
      ['FAILED_PRECONDITION', 'KEY_VERSION_NOT_ENABLED'],
    );
    assert.deepEqual(
      [error.metadata.get('state'), error.metadata.get('version')],
      ['DESTROY_SCHEDULED', '1'],
    );
    await keyward.decrypt({ parent: PARENT, ciphertext: fresh });
    await keyward.encrypt({ name, plaintext: payload });
    await keyward.rotateKey({ name });
    for (const call of [
      () => keyward.enableKeyVersion({ name: version }),
      () => keyward.disableKeyVersion({ name: version }),
      () => keyward.scheduleKeyVersionDestruction({ name: version, validateOnly: true }),
    ])
      assert.equal(await reasonOf(call()), 'DESTRUCTION_UNDER_WAY');
    const { keyVersions } = await keyward.listKeyVersions({
      parent: name,
      filter: 'state = DESTROY_SCHEDULED',
    });
    assert.deepEqual(
      keyVersions.map((each) => each.name),
      [version],
    );
  });

  test('ends the key’s re-wrap jobs, and others pass it by', async () => {
    const name = await newKey();
    const { job } = await leaveBehind(keyward, name, 3);
    await scheduleKey(name);
    assert.equal((await keyward.getRewrapJob({ name: job })).state, 'SUPERSEDED');
    const all = await endOf(keyward, (await keyward.createRewrapJob({ scope: PARENT })).name);
    assert.deepEqual([all.state, all.failed], ['SUCCEEDED', 0]);
  });

  test('case 89: the same request twice has one effect and one answer', async () => {
    const { name, version } = await rotatedKey();
    const { etag } = await keyward.getKeyVersion({ name: version });
    const request = { name: version, etag, requestId: randomUUID() };
    const first = await keyward.scheduleKeyVersionDestruction(request);
    assert.deepEqual(lasting(await keyward.scheduleKeyVersionDestruction(request)), lasting(first));
    const ofKey = { name, etag: (await keyward.getKey({ name })).etag, requestId: randomUUID() };
    const once = async () => lasting(await keyward.scheduleKeyDestruction(ofKey));
    const [one, two] = await Promise.all([once(), once()]);
    assert.deepEqual(one, two);
    assert.equal(
      await reasonOf(keyward.scheduleKeyDestruction({ ...ofKey, windowDays: 8 })),
      'REQUEST_ID_REUSED',
    );
    assert.deepEqual(await once(), one);
  });

  test('what is not there, or another tenant’s, is RESOURCE_NOT_FOUND', async () => {
    const { name, version } = await rotatedKey();
    const foreign = [name, version].map((each) => each.replace('acme', 'globex'));
    const calls = [
      keyward.scheduleKeyDestruction({ name: foreign[0] ?? '', validateOnly: true }),
      keyward.scheduleKeyDestruction({ name: foreign[0] ?? '', etag: '1' }),
      keyward.restoreKey({ name: foreign[0] ?? '' }),
      keyward.scheduleKeyVersionDestruction({ name: foreign[1] ?? '', validateOnly: true }),
      keyward.scheduleKeyVersionDestruction({ name: `${name}/versions/9`, etag: '1' }),
      keyward.restoreKeyVersion({ name: `${name}/versions/9` }),
    ];
    for (const reason of await Promise.all(calls.map(reasonOf)))
      assert.equal(reason, 'RESOURCE_NOT_FOUND');
  });
});

describe('calling back', () => {
  test('case 92: what is restored within its time is disabled, and as before once enabled', async () => {
    const { name, version, old, fresh } = await rotatedKey();
    const { dataKey } = await keyward.createDataKey({ parent: name });
    const { keyVersion } = await scheduleVersion(version);
    const { key } = await scheduleKey(name);
    assert.equal(
      await reasonOf(keyward.restoreKeyVersion({ name: version })),
      'DESTRUCTION_UNDER_WAY',
    );
    assert.equal(
      await reasonOf(keyward.restoreKey({ name, etag: `${key.etag}0` })),
      'ETAG_MISMATCH',
    );
    const request = { name, etag: key.etag, requestId: randomUUID() };
    const restored = await keyward.restoreKey(request);
    assert.deepEqual([restored.state, restored.destroyTime], ['DISABLED', undefined]);
    assert.deepEqual(await keyward.restoreKey(request), restored);
    assert.equal(await reasonOf(keyward.encrypt({ name, plaintext: payload })), 'KEY_NOT_ENABLED');
    await keyward.enableKey({ name });
    await keyward.decrypt({ parent: PARENT, ciphertext: fresh });
    await keyward.getDataKey({ name: dataKey.name });
    const back = await keyward.restoreKeyVersion({ name: version, etag: keyVersion.etag });
    assert.deepEqual([back.state, back.destroyTime], ['DISABLED', undefined]);
    assert.equal(
      await reasonOf(keyward.decrypt({ parent: PARENT, ciphertext: old })),
      'KEY_VERSION_NOT_ENABLED',
    );
    await keyward.enableKeyVersion({ name: version });
    await keyward.decrypt({ parent: PARENT, ciphertext: old });
  });

  test('is refused for what is not scheduled, with its state', async () => {
    const { name, version } = await rotatedKey();
    const calls = [keyward.restoreKey({ name }), keyward.restoreKeyVersion({ name: version })];
    for (const error of await Promise.all(calls.map(failureOf))) {
      assert.deepEqual(
        [error.code, error.reason],
        ['FAILED_PRECONDITION', 'DESTRUCTION_NOT_SCHEDULED'],
      );
      assert.equal(error.metadata.get('state'), 'ENABLED');
    }
  });
});

describe('after the scheduled time', () => {
  test('a key’s material is erased, on every replica within 2 seconds, and nothing brings it back', async () => {
    await using other = await startService(shared.environment, QUICK);
    const there = other.client();
    const { name, version, old, fresh, uid, plaintexts, destroyed } = await eventually(async () => {
      const rotated = await rotatedKey();
      const key = { name: rotated.name };
      const { uid } = await keyward.getKey(key);
      const plaintexts = await storeDataKeys(keyward, rotated.name, 5);
      await there.decrypt({ parent: PARENT, ciphertext: rotated.old });
      await scheduleKey(rotated.name);
      await makeDestructionDue(shared.environment, rotated.name);
      const destroyed = await eventually(async () => {
        const now = await keyward.getKey(key);
        assert.equal(now.state, 'DESTROYED');
        return now;
      });
      const since = performance.now();
      await eventually(async () => {
        const error = await failureOf(there.decrypt({ parent: PARENT, ciphertext: rotated.old }));
        assert.equal(error.metadata.get('state'), 'DESTROYED');
      });
      assert.ok(performance.now() - since < 2_000);
      return { ...rotated, uid, plaintexts, destroyed };
    });
    const isAfter = Number(destroyed.destroyEventTime) >= Number(destroyed.destroyTime);
    assert.ok(isAfter, 'not before its time');
    for (const ciphertext of [old, fresh]) {
      const error = await failureOf(keyward.decrypt({ parent: PARENT, ciphertext }));
      assert.deepEqual([error.code, error.reason], ['FAILED_PRECONDITION', 'KEY_NOT_ENABLED']);
      assert.equal(error.metadata.get('state'), 'DESTROYED');
    }
    assert.deepEqual(await versionRows(name), [
      { version: 1, state: 'DESTROYED', bytes: 0 },
      { version: 2, state: 'DESTROYED', bytes: 0 },
    ]);
    const { keyId } = await idsOf(shared.environment, name);
    assert.deepEqual(
      await sql(shared.environment, 'SELECT 1 FROM data_keys WHERE key_id = $1', [keyId]),
      [],
    );
    assert.deepEqual((await keyward.listDataKeys({ parent: name })).dataKeys, []);
    const [dataKey = ''] = plaintexts.keys();
    assert.equal(await reasonOf(keyward.getDataKey({ name: dataKey })), 'RESOURCE_NOT_FOUND');
    const refused: readonly (readonly [string, Promise<unknown>])[] = [
      ['DESTRUCTION_NOT_SCHEDULED', keyward.restoreKey({ name })],
      ['DESTRUCTION_UNDER_WAY', keyward.restoreKeyVersion({ name: version })],
      ['DESTRUCTION_UNDER_WAY', keyward.enableKey({ name })],
      ['DESTRUCTION_UNDER_WAY', keyward.enableKeyVersion({ name: version })],
      ['DESTRUCTION_UNDER_WAY', keyward.rotateKey({ name })],
      ['DESTRUCTION_UNDER_WAY', keyward.updateKey({ key: { name, rotationPeriodSeconds: 10 } })],
      ['DESTRUCTION_UNDER_WAY', keyward.scheduleKeyDestruction({ name, validateOnly: true })],
      ['KEY_NOT_ENABLED', keyward.createDataKey({ parent: name })],
      [
        'RESOURCE_EXISTS',
        keyward.createKey({ parent: PARENT, keyId: name.split('/').at(-1) ?? '' }),
      ],
    ];
    const reasons = await Promise.all(refused.map(([, call]) => reasonOf(call)));
    assert.deepEqual(
      reasons,
      refused.map(([reason]) => reason),
    );
    assert.equal((await keyward.getKey({ name })).uid, uid);
    assert.equal((await keyward.listRotations({ parent: name })).rotations.length, 1);
    assert.equal((await keyward.listKeyVersions({ parent: name })).keyVersions.length, 2);
    const entries = await sql(
      shared.environment,
      'SELECT method, caller FROM audit_entries WHERE resource = $1 AND entry_id IS NOT NULL ORDER BY at DESC LIMIT 1',
      [name],
    );
    assert.deepEqual(entries, [{ method: 'keyward.v1.Maintenance/DestroyKey', caller: 'keyward' }]);
  });

  test('a version is erased alone, and the others go on', async () => {
    const { name, version, old, fresh } = await rotatedKey();
    await scheduleVersion(version);
    await makeDestructionDue(shared.environment, name);
    await eventually(async () =>
      assert.equal((await keyward.getKeyVersion({ name: version })).state, 'DESTROYED'),
    );
    const [first, second] = await versionRows(name);
    assert.deepEqual(first, { version: 1, state: 'DESTROYED', bytes: 0 });
    assert.deepEqual([second?.state, Number(second?.bytes) > 0], ['ENABLED', true]);
    const error = await failureOf(keyward.decrypt({ parent: PARENT, ciphertext: old }));
    assert.deepEqual(
      [error.code, error.reason],
      ['FAILED_PRECONDITION', 'KEY_VERSION_NOT_ENABLED'],
    );
    assert.deepEqual(
      [error.metadata.get('state'), error.metadata.get('version')],
      ['DESTROYED', '1'],
    );
    await keyward.decrypt({ parent: PARENT, ciphertext: fresh });
    assert.equal((await keyward.rotateKey({ name })).primary.name, `${name}/versions/3`);
    for (const call of [
      () => keyward.enableKeyVersion({ name: version }),
      () => keyward.scheduleKeyVersionDestruction({ name: version, validateOnly: true }),
    ])
      assert.equal(await reasonOf(call()), 'DESTRUCTION_UNDER_WAY');
    assert.equal(
      await reasonOf(keyward.restoreKeyVersion({ name: version })),
      'DESTRUCTION_NOT_SCHEDULED',
    );
    const { impact } = await keyward.scheduleKeyDestruction({ name, validateOnly: true });
    assert.equal(impact.keyVersions, 2);
  });

  test('nothing is destroyed before, nor while the key is paused', async () => {
    const [early, paused] = [await rotatedKey(), await rotatedKey()];
    await scheduleVersion(early.version);
    await scheduleKey(early.name);
    await keyward.updateKey({ key: { name: paused.name, maintenancePaused: true } });
    await scheduleVersion(paused.version);
    await scheduleKey(paused.name);
    await makeDestructionDue(shared.environment, paused.name);
    await lookedForDue(shared.environment, keyward, PARENT);
    for (const { name } of [early, paused])
      assert.equal((await keyward.getKey({ name })).state, 'DESTROY_SCHEDULED');
    await keyward.restoreKey({ name: paused.name });
    const { state } = await keyward.updateKey({
      key: { name: paused.name, maintenancePaused: false },
    });
    assert.equal(state, 'DISABLED');
    await eventually(async () =>
      assert.equal((await keyward.getKeyVersion({ name: paused.version })).state, 'DESTROYED'),
    );
    assert.equal((await keyward.getKey({ name: paused.name })).state, 'DISABLED');
  });

  test('the database refuses what is neither: destroyed and not erased, or erased and not destroyed', async () => {
    const { name } = await rotatedKey();
    const { keyId } = await idsOf(shared.environment, name);
    for (const change of ["wrapped = ''", "state = 'DESTROYED', destroyed_at = now()"]) {
      await assert.rejects(
        sql(shared.environment, `UPDATE key_versions SET ${change} WHERE key_id = $1`, [keyId]),
        { code: '23514' },
      );
    }
  });

  test('agents let go of what they had unwrapped', async () => {
    await using faulty = await startFaultyService({ agents: 1, variables: QUICK });
    const { keyward: client, faults, environment } = faulty;
    const { name } = await client.createKey({ parent: PARENT, keyId: 'doomed' });
    await client.encrypt({ name, plaintext: payload });
    const { impact } = await client.scheduleKeyDestruction({ name, validateOnly: true });
    await client.scheduleKeyDestruction({ name, etag: impact.etag });
    faults.set('C_DestroyObject');
    await makeDestructionDue(environment, name);
    await eventually(() => assert.equal(faults.met(), 1));
    await faulty.encrypt();
  });
});
