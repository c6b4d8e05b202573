/**
 * Rotation over the wire: by schedule, by use and by request, what keeps a key from it, and its
 * history.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { MessageTypeDefinition } from '@grpc/proto-loader';
import type { KeywardClient } from 'keyward-client';
import { packageDefinition } from '../../src/faces/contract/proto.ts';
import { encodePageToken } from '../../src/keyring/pages.ts';
import { call, grpcFrame, openSession } from '../faults/http2.ts';
import { eventually, failureOf, reasonOf, sharedService, startService } from '../support/kit.ts';
import {
  assertOpen,
  endOf,
  lookedForDue,
  makeDue,
  newId,
  QUICK,
  sql,
  storeDataKeys,
  versionsInUse,
} from '../support/reconciling.ts';
import { TESTER } from '../support/tester.ts';

const PARENT = 'tenants/acme';
const HOUR = 3600;
const DAY = 86_400;
const TEN_YEARS = 10 * 366 * DAY;
let keyward: KeywardClient;
const shared = sharedService(async (client) => {
  keyward = client;
  for (const tenantId of ['acme', 'globex']) await keyward.createTenant({ tenantId });
}, QUICK);

const newKey = async (
  settings: { rotationPeriodSeconds?: number; rotationUsageLimit?: number } = {},
) => (await keyward.createKey({ parent: PARENT, keyId: newId('k'), ...settings })).name;
const versionOf = async (name: string) =>
  Number((await keyward.getKey({ name })).primary.name.split('/').at(-1));
const historyOf = async (parent: string) => (await keyward.listRotations({ parent })).rotations;

/** Asserts that `time` is so many seconds from now, by the database's clock. */
async function assertAhead(time: Date | undefined, seconds: number): Promise<void> {
  const [row] = await sql<{ now: Date }>(shared.environment, 'SELECT clock_timestamp() AS now');
  const ahead = (Number(time) - Number(row?.now)) / 1000;
  assert.ok(ahead <= seconds && ahead > seconds - 30, `${ahead} s ahead, not ${seconds}`);
}

describe('a schedule', () => {
  test('is absent unless it is given, and then begins one period from now, or when it is said to', async () => {
    const bare = await keyward.getKey({ name: await newKey() });
    assert.deepEqual(
      [
        bare.rotationPeriodSeconds,
        bare.nextRotationTime,
        bare.rotationUsageLimit,
        bare.maintenancePaused,
      ],
      [undefined, undefined, 0, false],
    );
    const scheduled = await keyward.getKey({
      name: await newKey({ rotationPeriodSeconds: 90 * DAY }),
    });
    assert.equal(scheduled.rotationPeriodSeconds, 90 * DAY);
    await assertAhead(scheduled.nextRotationTime, 90 * DAY);
    const nextRotationTime = new Date('2100-02-03T04:05:06.789Z');
    const later = await keyward.createKey({
      parent: PARENT,
      keyId: newId('k'),
      rotationPeriodSeconds: DAY,
      nextRotationTime,
    });
    assert.deepEqual(later.nextRotationTime, nextRotationTime);
  });

  test('can be changed: a new period counts from now, a new time stays, null ends it', async () => {
    const name = await newKey({ rotationPeriodSeconds: 90 * DAY });
    const shorter = await keyward.updateKey({ key: { name, rotationPeriodSeconds: DAY } });
    assert.equal(shorter.rotationPeriodSeconds, DAY);
    await assertAhead(shorter.nextRotationTime, DAY);
    const nextRotationTime = new Date('2100-01-01T00:00:00Z');
    const moved = await keyward.updateKey({ key: { name, nextRotationTime } });
    assert.deepEqual(
      [moved.rotationPeriodSeconds, moved.nextRotationTime],
      [DAY, nextRotationTime],
    );
    const both = await keyward.updateKey({
      key: { name, rotationPeriodSeconds: 2 * DAY, nextRotationTime },
    });
    assert.deepEqual(
      [both.rotationPeriodSeconds, both.nextRotationTime],
      [2 * DAY, nextRotationTime],
    );
    const described = await keyward.updateKey({ key: { name, description: 'd' } });
    assert.deepEqual(described.nextRotationTime, nextRotationTime);
    const ended = await keyward.updateKey({ key: { name, rotationPeriodSeconds: null } });
    assert.deepEqual([ended.rotationPeriodSeconds, ended.nextRotationTime], [undefined, undefined]);
    assert.deepEqual(await keyward.getKey({ name }), ended);
  });

  test('that can not be is refused with its field, and nothing is changed', async () => {
    const [bare, scheduled] = [await newKey(), await newKey({ rotationPeriodSeconds: DAY })];
    const before = await Promise.all([bare, scheduled].map((name) => keyward.getKey({ name })));
    const time = new Date('2100-01-01T00:00:00Z');
    const create = (settings: object) => () =>
      keyward.createKey({ parent: PARENT, keyId: newId('k'), ...settings });
    const update = (name: string, settings: object) => () =>
      keyward.updateKey({ key: { name, ...settings } });
    const attempts: readonly (readonly [string, () => Promise<unknown>])[] = [
      ...[9, TEN_YEARS + 1].flatMap((rotationPeriodSeconds) => [
        ['rotation_period', create({ rotationPeriodSeconds })] as const,
        ['rotation_period', update(scheduled, { rotationPeriodSeconds })] as const,
      ]),
      ['next_rotation_time', create({ nextRotationTime: time })],
      ['next_rotation_time', update(bare, { nextRotationTime: time })],
      ['next_rotation_time', update(scheduled, { nextRotationTime: null })],
      [
        'next_rotation_time',
        update(scheduled, { rotationPeriodSeconds: null, nextRotationTime: time }),
      ],
    ];
    for (const [field, attempt] of attempts) {
      const error = await failureOf(attempt());
      assert.deepEqual([error.reason, error.fieldViolations[0]?.field], ['INVALID_FIELD', field]);
    }
    const after = await Promise.all([bare, scheduled].map((name) => keyward.getKey({ name })));
    assert.deepEqual(after, before);
  });

  test('of under a day is for development servers only', async () => {
    await using production = await startService(shared.environment, {
      ...QUICK,
      KEYWARD_MODE: 'production',
    });
    const client = production.client();
    const create = (rotationPeriodSeconds: number) =>
      client.createKey({ parent: PARENT, keyId: newId('k'), rotationPeriodSeconds });
    const error = await failureOf(create(DAY - 1));
    assert.equal(error.fieldViolations[0]?.field, 'rotation_period');
    for (const seconds of [DAY, TEN_YEARS])
      assert.equal((await create(seconds)).rotationPeriodSeconds, seconds);
    assert.equal(await versionOf(await newKey({ rotationPeriodSeconds: 10 })), 1);
  });

  test('of values that no client of ours would send is refused with its field', async () => {
    const { ca, cert, key } = shared.service.connectOptions();
    const peer = {
      port: shared.service.port,
      ca: String(ca),
      cert: String(cert),
      key: String(key),
    };
    using session = openSession(peer);
    const { serialize } = packageDefinition[
      'keyward.v1.CreateKeyRequest'
    ] as unknown as MessageTypeDefinition<object, object>;
    const attempts: readonly (readonly [string, object])[] = [
      ['rotation_period', { rotationPeriod: { seconds: DAY, nanos: 1 } }],
      ['rotation_period', { rotationPeriod: { seconds: -DAY } }],
      ['rotation_period', { rotationPeriod: { seconds: 315_576_000_000 } }],
      ['rotation_period', { rotationPeriod: {} }],
      [
        'next_rotation_time',
        { rotationPeriod: { seconds: DAY }, nextRotationTime: { seconds: 1e15 } },
      ],
      [
        'next_rotation_time',
        { rotationPeriod: { seconds: DAY }, nextRotationTime: { seconds: -1e12 } },
      ],
      ['rotation_usage_limit', { rotationUsageLimit: -1 }],
      ['rotation_usage_limit', { rotationUsageLimit: '9223372036854775807' }],
    ];
    for (const [field, settings] of attempts) {
      const body = [grpcFrame(serialize({ parent: PARENT, keyId: newId('k'), ...settings }))];
      const { reason, fields } = await call(session, {
        path: '/keyward.v1.KeyService/CreateKey',
        body,
      });
      assert.deepEqual([reason, fields], ['INVALID_FIELD', [field]], JSON.stringify(settings));
    }
  });

  test('may begin in the past, which is now, and as late as there are dates', async () => {
    const first = new Date('0001-01-01T00:00:00Z');
    const last = new Date('9999-12-31T23:59:59Z');
    const create = (nextRotationTime: Date) =>
      keyward.createKey({
        parent: PARENT,
        keyId: newId('k'),
        rotationPeriodSeconds: DAY,
        nextRotationTime,
      });
    assert.deepEqual((await create(last)).nextRotationTime, last);
    const { name } = await create(first);
    await eventually(async () => assert.equal(await versionOf(name), 2));
    await assertAhead((await keyward.getKey({ name })).nextRotationTime, DAY);
  });

  test('is changed by whoever knows the etag', async () => {
    const name = await newKey({ rotationPeriodSeconds: DAY });
    const { etag } = await keyward.getKey({ name });
    await keyward.updateKey({ key: { name, etag, rotationPeriodSeconds: 2 * DAY } });
    assert.equal(
      await reasonOf(keyward.updateKey({ key: { name, etag, rotationPeriodSeconds: 3 * DAY } })),
      'ETAG_MISMATCH',
    );
  });
});

describe('what is due', { concurrency: true }, () => {
  test('case 85: is rotated once, whoever of three replicas looks first, and each time that it is due', async () => {
    await using stack = new AsyncDisposableStack();
    for (let more = 0; more < 2; more++) stack.use(await startService(shared.environment, QUICK));
    const names = await Promise.all(
      Array.from({ length: 8 }, () => newKey({ rotationPeriodSeconds: HOUR })),
    );
    for (const version of [2, 3]) {
      await makeDue(shared.environment, ...names);
      await eventually(async () => {
        for (const name of names) assert.equal(await versionOf(name), version);
      });
    }
    await lookedForDue(shared.environment, keyward, PARENT);
    for (const name of names) {
      assert.equal(await versionOf(name), 3);
      const history = await historyOf(name);
      assert.deepEqual(
        history.map(({ cause, caller, toVersion }) => [cause, caller, toVersion]),
        [
          ['SCHEDULE', 'keyward', `${name}/versions/3`],
          ['SCHEDULE', 'keyward', `${name}/versions/2`],
        ],
      );
      const { nextRotationTime } = await keyward.getKey({ name });
      await assertAhead(nextRotationTime, HOUR);
    }
  });

  test('is rotated by the period alone, without anybody’s doing', async () => {
    const name = await newKey({ rotationPeriodSeconds: 10 });
    await makeDue(shared.environment, name);
    await eventually(async () => assert.equal(await versionOf(name), 2));
    const [rotation] = await historyOf(name);
    await assertAhead((await keyward.getKey({ name })).nextRotationTime, 10);
    assert.equal(rotation?.cause, 'SCHEDULE');
  });

  test('that is disabled, paused, or of a disabled tenant waits until it is not', async () => {
    await keyward.createTenant({ tenantId: 'off' });
    const { name: ofTenant } = await keyward.createKey({
      parent: 'tenants/off',
      keyId: 'k',
      rotationPeriodSeconds: HOUR,
    });
    const [disabled, paused] = [
      await newKey({ rotationPeriodSeconds: HOUR }),
      await newKey({ rotationPeriodSeconds: HOUR }),
    ];
    await keyward.disableKey({ name: disabled });
    await keyward.updateKey({ key: { name: paused, maintenancePaused: true } });
    await keyward.disableTenant({ name: 'tenants/off' });
    const names = [disabled, paused, ofTenant];
    await makeDue(shared.environment, ...names);
    await lookedForDue(shared.environment, keyward, PARENT);
    for (const name of names) assert.equal(await versionOf(name), 1);
    await keyward.enableKey({ name: disabled });
    await keyward.updateKey({ key: { name: paused, maintenancePaused: false } });
    await keyward.enableTenant({ name: 'tenants/off' });
    await eventually(async () => {
      for (const name of names) assert.equal(await versionOf(name), 2);
    });
  });

  test('and can not be rotated now keeps nothing else from it', async () => {
    // A version of the next number that the key doesn't know of: what a restored backup of one
    // table could leave.
    const [broken, sound] = [
      await newKey({ rotationPeriodSeconds: HOUR }),
      await newKey({ rotationPeriodSeconds: HOUR }),
    ];
    await sql(
      shared.environment,
      `ALTER TABLE rotations ADD CONSTRAINT no_more CHECK (key_id <> '${(await keyward.getKey({ name: broken })).uid}')`,
    );
    try {
      await makeDue(shared.environment, broken, sound);
      await eventually(async () => assert.equal(await versionOf(sound), 2));
      await shared.service.logged(
        ({ msg, resource }) => /a rotation failed/.test(String(msg)) && resource === broken,
      );
      assert.equal(await versionOf(broken), 1);
    } finally {
      await sql(shared.environment, 'ALTER TABLE rotations DROP CONSTRAINT no_more');
    }
    await eventually(async () => assert.equal(await versionOf(broken), 2));
  });
});

describe('a usage limit', { concurrency: true }, () => {
  test('has the primary replaced once it was used so often, for that cause', async () => {
    const name = await newKey({ rotationUsageLimit: 5 });
    assert.equal((await keyward.getKey({ name })).rotationUsageLimit, 5);
    for (let use = 0; use < 4; use++) await keyward.encrypt({ name, plaintext: Buffer.from('p') });
    await lookedForDue(shared.environment, keyward, PARENT);
    assert.equal(await versionOf(name), 1);
    await keyward.createDataKey({ parent: name });
    await eventually(async () => assert.equal(await versionOf(name), 2));
    await lookedForDue(shared.environment, keyward, PARENT);
    const history = await historyOf(name);
    assert.deepEqual(
      history.map(({ cause, caller, fromVersion, toVersion }) => [
        cause,
        caller,
        fromVersion,
        toVersion,
      ]),
      [['USAGE', 'keyward', `${name}/versions/1`, `${name}/versions/2`]],
    );
  });

  test('counts each item of a batch, and no decryption', async () => {
    const name = await newKey({ rotationUsageLimit: 3 });
    const { ciphertext } = await keyward.encrypt({ name, plaintext: Buffer.from('p') });
    for (let use = 0; use < 5; use++) await keyward.decrypt({ parent: PARENT, ciphertext });
    await lookedForDue(shared.environment, keyward, PARENT);
    assert.equal(await versionOf(name), 1);
    const requests = [1, 2].map(() => ({ name, plaintext: Buffer.from('p') }));
    await keyward.batchEncrypt({ parent: PARENT, requests });
    await eventually(async () => assert.equal(await versionOf(name), 2));
  });

  test('that is lowered below what was used takes hold at the next use, and 0 ends it', async () => {
    const name = await newKey();
    for (let use = 0; use < 3; use++) await keyward.encrypt({ name, plaintext: Buffer.from('p') });
    await eventually(async () => {
      const { usage } = await keyward.getKeyVersion({ name: `${name}/versions/1` });
      assert.equal(usage?.encryptOperations, 3);
    });
    await keyward.updateKey({ key: { name, rotationUsageLimit: 2 } });
    await keyward.encrypt({ name, plaintext: Buffer.from('p') });
    await eventually(async () => assert.equal(await versionOf(name), 2));
    await keyward.updateKey({ key: { name, rotationUsageLimit: 0 } });
    for (let use = 0; use < 5; use++) await keyward.encrypt({ name, plaintext: Buffer.from('p') });
    await lookedForDue(shared.environment, keyward, PARENT);
    assert.equal(await versionOf(name), 2);
  });
});

describe('a rotation by request', () => {
  test('moves the next one by schedule a period ahead, and is in the history with who asked for it', async () => {
    const name = await newKey({ rotationPeriodSeconds: HOUR });
    await keyward.updateKey({ key: { name, nextRotationTime: new Date(Date.now() + 60_000) } });
    const { nextRotationTime } = await keyward.rotateKey({ name });
    await assertAhead(nextRotationTime, HOUR);
    const [rotation, ...others] = await historyOf(name);
    assert.ok(rotation);
    assert.deepEqual(others, []);
    assert.deepEqual(
      [rotation.fromVersion, rotation.toVersion, rotation.cause, rotation.caller],
      [`${name}/versions/1`, `${name}/versions/2`, 'REQUEST', TESTER],
    );
    assert.ok(Number(rotation.durationSeconds) > 0 && Number(rotation.durationSeconds) < 30);
    assert.match(rotation.rewrapJob, /^tenants\/acme\/rewrapJobs\/[0-9a-f-]{36}$/);
    await assertAhead(rotation.rotateTime, 0);
    const { rewrapJob } = rotation;
    assert.equal((await endOf(keyward, rewrapJob)).state, 'SUCCEEDED');
  });

  test('leaves no data key behind, and the history says how many it brought along', async () => {
    const name = await newKey();
    const plaintexts = await storeDataKeys(keyward, name, 40);
    await keyward.rotateKey({ name });
    await eventually(async () => {
      const [rotation] = await historyOf(name);
      assert.deepEqual(
        [rotation?.rewrapState, rotation?.rewrapped, rotation?.left, rotation?.failed],
        ['SUCCEEDED', 40, 0, 0],
      );
    });
    assert.deepEqual(await versionsInUse(keyward, name), [2]);
    await assertOpen(keyward, plaintexts);
  });

  test('is done while maintenance is paused, but not of a disabled tenant', async () => {
    const name = await newKey();
    await keyward.updateKey({ key: { name, maintenancePaused: true } });
    await keyward.rotateKey({ name });
    await keyward.createTenant({ tenantId: 'closed' });
    const { name: closed } = await keyward.createKey({ parent: 'tenants/closed', keyId: 'k' });
    await keyward.disableTenant({ name: 'tenants/closed' });
    assert.equal(await reasonOf(keyward.rotateKey({ name: closed })), 'TENANT_DISABLED');
  });

  test('and each by schedule has its audit entry, under the name of who did it', async () => {
    const name = await newKey({ rotationPeriodSeconds: HOUR });
    await keyward.rotateKey({ name });
    await makeDue(shared.environment, name);
    await eventually(async () => assert.equal(await versionOf(name), 3));
    const entries = await sql(
      shared.environment,
      `SELECT method, caller, outcome FROM audit_entries WHERE resource = $1 AND entry_id IS NOT NULL
         AND method LIKE '%/RotateKey' ORDER BY at`,
      [name],
    );
    assert.deepEqual(entries, [
      { method: 'keyward.v1.KeyService/RotateKey', caller: TESTER, outcome: 'OK' },
      { method: 'keyward.v1.Maintenance/RotateKey', caller: 'keyward', outcome: 'OK' },
    ]);
  });
});

describe('a history', () => {
  test('is read page by page, newest first, by its own tokens', async () => {
    const name = await newKey();
    for (let rotation = 0; rotation < 5; rotation++) await keyward.rotateKey({ name });
    const made: number[] = [];
    for await (const { toVersion } of keyward.rotations(name, { pageSize: 2 }))
      made.push(Number(toVersion.split('/').at(-1)));
    assert.deepEqual(made, [6, 5, 4, 3, 2]);
    const { nextPageToken } = await keyward.listRotations({ parent: name, pageSize: 2 });
    const misuses = [
      { parent: await newKey(), pageToken: nextPageToken },
      { parent: name, pageToken: 'AAAA' },
      ...['x', '0', '4294967296', '-1'].map((position) => ({
        parent: name,
        pageToken: encodePageToken(`rotations ${name} []`, position),
      })),
    ];
    for (const misuse of misuses) {
      const error = await failureOf(keyward.listRotations(misuse));
      assert.equal(error.fieldViolations[0]?.field, 'page_token');
    }
    for (const pageSize of [-1, 1001]) {
      const error = await failureOf(keyward.listRotations({ parent: name, pageSize }));
      assert.equal(error.fieldViolations[0]?.field, 'page_size');
    }
  });

  test('is empty before the first, and not to be had of another tenant’s key', async () => {
    const name = await newKey();
    assert.deepEqual(await keyward.listRotations({ parent: name }), {
      rotations: [],
      nextPageToken: '',
    });
    assert.equal(
      await reasonOf(keyward.listRotations({ parent: name.replace('acme', 'globex') })),
      'RESOURCE_NOT_FOUND',
    );
    const error = await failureOf(keyward.listRotations({ parent: PARENT }));
    assert.equal(error.fieldViolations[0]?.field, 'parent');
  });
});

describe('at once', () => {
  test('case 87: data keys issued while the key is rotated, disabled and destroyed fail only for the reasons that are documented', async () => {
    const name = await newKey();
    const reasons = new Set<string>();
    const issued: { readonly plaintext: Buffer; readonly wrappedDataKey: Buffer }[] = [];
    let ended = false;
    const issue = async () => {
      while (!ended) {
        const outcome = await keyward.generateDataKey({ name }).then(
          (each) => {
            issued.push(each);
            return 'OK';
          },
          ({ reason, metadata }) => `${reason} ${metadata.get('state')}`,
        );
        reasons.add(outcome);
      }
    };
    const issuing = Promise.all(Array.from({ length: 3 }, issue));
    issuing.catch(() => {});
    try {
      for (let round = 0; round < 2; round++) {
        await keyward.rotateKey({ name });
        await keyward.disableKey({ name });
        await keyward.enableKey({ name });
      }
      await eventually(() => assert.ok(reasons.has('OK')));
      const { impact } = await keyward.scheduleKeyDestruction({ name, validateOnly: true });
      await keyward.scheduleKeyDestruction({ name, etag: impact.etag });
      await eventually(() => assert.ok(reasons.has('KEY_NOT_ENABLED DESTROY_SCHEDULED')));
    } finally {
      ended = true;
      await issuing;
    }
    const documented = ['OK', 'KEY_NOT_ENABLED DISABLED', 'KEY_NOT_ENABLED DESTROY_SCHEDULED'];
    assert.deepEqual(
      [...reasons].filter((reason) => !documented.includes(reason)),
      [],
    );
    await keyward.restoreKey({ name });
    await keyward.enableKey({ name });
    for (const { plaintext, wrappedDataKey } of issued.slice(-50)) {
      const opened = await keyward.decrypt({ parent: PARENT, ciphertext: wrappedDataKey });
      assert.deepEqual(opened.plaintext, plaintext);
    }
  });
});
