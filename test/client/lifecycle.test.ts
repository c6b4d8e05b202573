import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { status } from '@grpc/grpc-js';
import { KeywardError } from '../../client/src/index.ts';
import { crc32c } from '../../src/operations/crc32c.ts';
import {
  refusal,
  startFakeService,
  wireDataKey,
  wireJob,
  wireKey,
  wireTokenKey,
} from './fake-service.ts';

const KEY = 'tenants/acme/keys/orders';
const VERSION = `${KEY}/versions/1`;
const DATA_KEY = `${KEY}/dataKeys/d`;
const JOB = 'tenants/acme/rewrapJobs/j';
const TOKEN_KEY = 'tenants/system/tokenKeys/018f0000-0000-4000-8000-00000000000a';
const REQUEST_ID = 'f0000000-0000-4000-8000-000000000000';
const BYTES = Buffer.from('123456789');

const at = (seconds: number) => ({ seconds, nanos: 250_000_000 });
const date = (seconds: number) => new Date(seconds * 1000 + 250);

const WIRE_USAGE = {
  encryptOperations: 2 ** 40,
  lastEncryptTime: at(1),
  decryptOperations: 7,
  lastDecryptTime: null,
  completeTime: at(2),
};
const USAGE = {
  encryptOperations: 2 ** 40,
  lastEncryptTime: date(1),
  decryptOperations: 7,
  lastDecryptTime: undefined,
  completeTime: date(2),
};
const WIRE_IMPACT = {
  keyVersions: 3,
  storedDataKeys: 5,
  usage: WIRE_USAGE,
  destroyTime: at(9),
  etag: 'now',
  notice: 'Backups keep it.',
};
const IMPACT = { ...WIRE_IMPACT, usage: USAGE, destroyTime: date(9) };

/** A fake that gives these answers, and what its methods were asked. */
async function answering(answers: Readonly<Record<string, unknown>>) {
  const seen: Record<string, Record<string, unknown>> = {};
  const service = await startFakeService(
    Object.fromEntries(
      Object.entries(answers).map(([name, answer]) => [
        name,
        (request: Record<string, unknown>) => {
          seen[name] = request;
          return answer;
        },
      ]),
    ),
  );
  return Object.assign(service, { seen });
}

describe('schedules', () => {
  it('go to the service and come back, when a key is created and when it is updated', async () => {
    const scheduled = {
      ...wireKey(KEY),
      rotationPeriod: { seconds: 7_776_000, nanos: 0 },
      nextRotationTime: at(1_800_000_000),
      rotationUsageLimit: 2 ** 33,
      maintenancePaused: true,
    };
    await using service = await answering({ CreateKey: scheduled, UpdateKey: scheduled });
    using keyward = service.connect();
    const schedule = {
      rotationPeriodSeconds: 7_776_000,
      nextRotationTime: date(1_800_000_000),
      rotationUsageLimit: 2 ** 33,
    };
    const created = await keyward.createKey({
      parent: 'tenants/acme',
      keyId: 'orders',
      ...schedule,
    });
    const updated = await keyward.updateKey({
      key: { name: KEY, ...schedule, maintenancePaused: true },
    });
    for (const key of [created, updated]) {
      const { rotationPeriodSeconds, nextRotationTime, rotationUsageLimit, maintenancePaused } =
        key;
      assert.deepEqual({ rotationPeriodSeconds, nextRotationTime, rotationUsageLimit }, schedule);
      assert.equal(maintenancePaused, true);
    }
    const { seen } = service;
    const { key, updateMask } = seen['UpdateKey'] as {
      key: Record<string, unknown>;
      updateMask: unknown;
    };
    assert.deepEqual(updateMask, {
      paths: [
        'rotation_period',
        'next_rotation_time',
        'rotation_usage_limit',
        'maintenance_paused',
      ],
    });
    for (const request of [seen['CreateKey'] ?? {}, key]) {
      assert.deepEqual(request['rotationPeriod'], { seconds: 7_776_000, nanos: 0 });
      assert.deepEqual(request['nextRotationTime'], at(1_800_000_000));
      assert.equal(request['rotationUsageLimit'], 2 ** 33);
    }
    assert.equal(key['maintenancePaused'], true);
  });

  it('are cleared by null, which leaves what is not named alone', async () => {
    await using service = await answering({ UpdateKey: wireKey(KEY) });
    using keyward = service.connect();
    const key = await keyward.updateKey({ key: { name: KEY, rotationPeriodSeconds: null } });
    assert.equal(key.rotationPeriodSeconds, undefined);
    const { key: sent, updateMask } = service.seen['UpdateKey'] as Record<
      string,
      Record<string, unknown>
    >;
    assert.deepEqual(
      [sent?.['rotationPeriod'], updateMask],
      [null, { paths: ['rotation_period'] }],
    );
  });
});

describe('destruction', () => {
  it('says what would be lost, and carries the etag that was answered', async () => {
    const key = { ...wireKey(KEY), state: 'KEY_STATE_DESTROY_SCHEDULED', destroyTime: at(9) };
    const keyVersion = {
      ...wireKey(KEY).primary,
      state: 'KEY_VERSION_STATE_DESTROYED',
      destroyEventTime: at(9),
      usage: WIRE_USAGE,
    };
    await using service = await answering({
      ScheduleKeyDestruction: { key, impact: WIRE_IMPACT },
      ScheduleKeyVersionDestruction: { keyVersion, impact: WIRE_IMPACT },
      RestoreKey: { ...key, state: 'KEY_STATE_DISABLED', destroyTime: null },
      RestoreKeyVersion: keyVersion,
    });
    using keyward = service.connect();
    const previewed = await keyward.scheduleKeyDestruction({ name: KEY, validateOnly: true });
    assert.deepEqual(previewed.impact, IMPACT);
    const { requestId, ...preview } = service.seen['ScheduleKeyDestruction'] ?? {};
    assert.equal(typeof requestId, 'string');
    assert.deepEqual(preview, { name: KEY, etag: '', windowDays: 0, validateOnly: true });
    const request = { etag: 'now', windowDays: 7, requestId: REQUEST_ID };
    const { key: scheduled } = await keyward.scheduleKeyDestruction({ name: KEY, ...request });
    assert.deepEqual([scheduled.state, scheduled.destroyTime], ['DESTROY_SCHEDULED', date(9)]);
    const { keyVersion: destroyed, impact } = await keyward.scheduleKeyVersionDestruction({
      name: VERSION,
      ...request,
    });
    assert.deepEqual(impact, IMPACT);
    assert.deepEqual(
      [destroyed.state, destroyed.destroyEventTime, destroyed.usage],
      ['DESTROYED', date(9), USAGE],
    );
    const change = { etag: 'seen', requestId: REQUEST_ID };
    const restored = await keyward.restoreKey({ name: KEY, ...change });
    assert.deepEqual([restored.state, restored.destroyTime], ['DISABLED', undefined]);
    await keyward.restoreKeyVersion({ name: VERSION, ...change });
    assert.deepEqual(service.seen, {
      ScheduleKeyDestruction: { name: KEY, ...request, validateOnly: false },
      ScheduleKeyVersionDestruction: { name: VERSION, ...request, validateOnly: false },
      RestoreKey: { name: KEY, ...change },
      RestoreKeyVersion: { name: VERSION, ...change },
    });
  });

  it('is refused as an answer that does not say what would be lost', async () => {
    await using service = await answering({ ScheduleKeyDestruction: { key: wireKey(KEY) } });
    using keyward = service.connect();
    await assert.rejects(keyward.scheduleKeyDestruction({ name: KEY, validateOnly: true }), {
      code: 'INTERNAL',
      message: /lacks ScheduleKeyDestructionResponse\.impact/,
    });
  });
});

describe('shredding', () => {
  const TENANT = {
    name: 'tenants/acme',
    uid: '018f0000-0000-4000-8000-000000000000',
    createTime: at(1),
    state: 'TENANT_STATE_SHRED_SCHEDULED',
    etag: 't2',
    dedicatedRootKey: true,
    shredTime: at(9),
  };
  const WIRE_LOSS = {
    keys: 2,
    keyVersions: 3,
    storedDataKeys: 2 ** 40,
    lastUseTime: at(2),
    shredTime: at(9),
    etag: 't1',
    rootKeys: ['tenants/acme/tokenKeys/018f0000-0000-4000-8000-00000000000c'],
    notice: 'The audit log keeps names.',
    checklist: ['Backups of the token.', 'Other replicas of the token.'],
  };

  it('says what would be lost, carries the etag that was answered, and is undone', async () => {
    const restored = { ...TENANT, state: 'TENANT_STATE_DISABLED', shredTime: null };
    await using service = await answering({
      ShredTenant: { tenant: TENANT, impact: WIRE_LOSS },
      RestoreTenant: restored,
    });
    using keyward = service.connect();
    const name = TENANT.name;
    const { impact } = await keyward.shredTenant({ name, validateOnly: true });
    assert.deepEqual(impact, { ...WIRE_LOSS, lastUseTime: date(2), shredTime: date(9) });
    const { requestId, ...preview } = service.seen['ShredTenant'] ?? {};
    assert.equal(typeof requestId, 'string');
    assert.deepEqual(preview, { name, etag: '', windowDays: 0, validateOnly: true });
    const request = { name, etag: 't1', windowDays: 7, requestId: REQUEST_ID };
    const { tenant } = await keyward.shredTenant(request);
    const quotas = { callsPerSecond: 0, keys: 0, storedDataKeys: 0 };
    const times = { createTime: date(1), shredTime: date(9) };
    const expected = { ...TENANT, ...times, quotas, state: 'SHRED_SCHEDULED' };
    assert.deepEqual(tenant, expected);
    const change = { name, etag: 't2', requestId: REQUEST_ID };
    const back = await keyward.restoreTenant(change);
    assert.deepEqual(back, { ...expected, state: 'DISABLED', shredTime: undefined });
    assert.deepEqual(service.seen, {
      ShredTenant: { ...request, validateOnly: false },
      RestoreTenant: change,
    });
  });

  it('of a tenant that was never used and shares its root key leaves nothing to see to', async () => {
    const impact = { shredTime: at(9), notice: 'Backups keep it.' };
    await using service = await answering({ ShredTenant: { tenant: TENANT, impact } });
    using keyward = service.connect();
    const loss = (await keyward.shredTenant({ name: TENANT.name, validateOnly: true })).impact;
    assert.deepEqual([loss.lastUseTime, loss.rootKeys, loss.checklist], [undefined, [], []]);
  });

  it('is refused as an answer that does not say what would be lost, or of whom', async () => {
    await using service = await answering({ ShredTenant: { tenant: TENANT } });
    using keyward = service.connect();
    const request = { name: TENANT.name, validateOnly: true };
    await assert.rejects(keyward.shredTenant(request), { message: /lacks \w+\.impact/ });
    await using other = await answering({ ShredTenant: { impact: WIRE_LOSS } });
    using anew = other.connect();
    await assert.rejects(anew.shredTenant(request), { message: /lacks \w+\.tenant/ });
  });
});

describe('root and seal keys', () => {
  const expected = {
    ...wireTokenKey(TOKEN_KEY),
    role: 'ROOT',
    state: 'CURRENT',
    createTime: new Date(1_700_000_000_000),
    activateTime: new Date(1_700_000_002_000),
    retireTime: undefined,
    destroyTime: undefined,
  };

  it('are rotated, looked at and listed, every field there and back', async () => {
    const seal = {
      role: 'TOKEN_OBJECT_ROLE_SEAL',
      state: 'TOKEN_KEY_STATE_CREATED',
      activateTime: null,
    };
    const old = { state: 'TOKEN_KEY_STATE_DESTROYED', retireTime: at(3), destroyTime: at(4) };
    await using service = await answering({
      RotateRootKey: wireTokenKey(TOKEN_KEY),
      RotateSealKey: wireTokenKey(TOKEN_KEY, { ...seal, rewrapJob: '' }),
      GetTokenKey: wireTokenKey(TOKEN_KEY, old),
      ListTokenKeys: { tokenKeys: [wireTokenKey(TOKEN_KEY), wireTokenKey('b')] },
    });
    using keyward = service.connect();
    const requestId = REQUEST_ID;
    assert.deepEqual(await keyward.rotateRootKey({ parent: 'tenants/acme', requestId }), expected);
    assert.deepEqual(await keyward.rotateSealKey({ requestId }), {
      ...expected,
      role: 'SEAL',
      state: 'CREATED',
      activateTime: undefined,
      rewrapJob: '',
    });
    const destroyed = { state: 'DESTROYED', retireTime: date(3), destroyTime: date(4) };
    assert.deepEqual(await keyward.getTokenKey({ name: TOKEN_KEY }), { ...expected, ...destroyed });
    const { tokenKeys } = await keyward.listTokenKeys({ parent: 'tenants/system' });
    assert.deepEqual(tokenKeys, [expected, { ...expected, name: 'b' }]);
    assert.deepEqual(service.seen, {
      RotateRootKey: { parent: 'tenants/acme', requestId },
      RotateSealKey: { requestId },
      GetTokenKey: { name: TOKEN_KEY },
      ListTokenKeys: { parent: 'tenants/system' },
    });
  });

  it('are rotated under a request id of the client, once, however often the call is made', async () => {
    const ids: unknown[] = [];
    const retryDelay = { seconds: 0, nanos: 1_000_000 };
    const lost = ({ requestId }: Record<string, unknown>) => {
      ids.push(requestId);
      if (ids.length % 2 === 1) {
        throw refusal({ code: status.UNAVAILABLE, reason: 'SERVER_STOPPING', retryDelay });
      }
      return wireTokenKey(TOKEN_KEY);
    };
    await using service = await startFakeService({ RotateRootKey: lost, RotateSealKey: lost });
    using keyward = service.connect();
    await keyward.rotateRootKey({ parent: 'tenants/system' });
    await keyward.rotateSealKey();
    const [root, rootAgain, seal, sealAgain] = ids;
    assert.deepEqual([rootAgain, sealAgain], [root, seal]);
    assert.notEqual(root, seal);
    assert.match(String(root), /^[0-9a-f-]{36}$/);
  });

  it('in a state or a role that is newer than the client are UNSPECIFIED', async () => {
    await using service = await answering({
      GetTokenKey: wireTokenKey(TOKEN_KEY, { state: 99, role: 98 }),
    });
    using keyward = service.connect();
    const { state, role } = await keyward.getTokenKey({ name: TOKEN_KEY });
    assert.deepEqual([state, role], ['UNSPECIFIED', 'UNSPECIFIED']);
  });
});

describe('maintenance', () => {
  it('is looked at, paused and resumed', async () => {
    const paused = { paused: true, changeTime: at(3), caller: 'spiffe://acme/admin' };
    await using service = await answering({
      GetMaintenance: {},
      PauseMaintenance: paused,
      ResumeMaintenance: paused,
    });
    using keyward = service.connect();
    assert.deepEqual(await keyward.getMaintenance(), {
      paused: false,
      changeTime: undefined,
      caller: '',
    });
    const requestId = REQUEST_ID;
    assert.deepEqual(await keyward.pauseMaintenance({ requestId }), {
      ...paused,
      changeTime: date(3),
    });
    await keyward.resumeMaintenance({ requestId });
    assert.deepEqual(service.seen, {
      GetMaintenance: {},
      PauseMaintenance: { requestId },
      ResumeMaintenance: { requestId },
    });
  });
});

describe('stored data keys', () => {
  const dataKey = {
    ...wireDataKey(DATA_KEY),
    createTime: new Date(1_700_000_000_000),
    rewrapTime: new Date(1_700_000_060_000),
  };

  it('are created, opened, listed and deleted, every field there and back', async () => {
    const wire = wireDataKey(DATA_KEY);
    await using service = await answering({
      CreateDataKey: { dataKey: { ...wire, rewrapTime: null }, plaintext: BYTES },
      GetDataKey: { dataKey: wire, plaintext: BYTES },
      ListDataKeys: { dataKeys: [wire], nextPageToken: 'next' },
      DeleteDataKey: {},
    });
    using keyward = service.connect();
    const create = { parent: KEY, dataKeyId: 'd', encryptionContext: { a: 'b' }, length: 64 };
    const plain = { plaintext: BYTES, plaintextCrc32c: crc32c(BYTES) };
    assert.deepEqual(
      await keyward.createDataKey({ ...create, returnPlaintext: true, requestId: REQUEST_ID }),
      { dataKey: { ...dataKey, rewrapTime: undefined }, ...plain },
    );
    const get = { name: DATA_KEY, encryptionContext: { a: 'b' } };
    assert.deepEqual(await keyward.getDataKey(get), { dataKey, ...plain });
    const list = { parent: KEY, pageSize: 1, pageToken: 'here', filter: 'version = 1' };
    assert.deepEqual(await keyward.listDataKeys(list), {
      dataKeys: [dataKey],
      nextPageToken: 'next',
    });
    const change = { name: DATA_KEY, etag: 'd1', requestId: REQUEST_ID };
    assert.equal(await keyward.deleteDataKey(change), undefined);
    assert.deepEqual(service.seen, {
      CreateDataKey: { ...create, returnPlaintext: true, requestId: REQUEST_ID },
      GetDataKey: get,
      ListDataKeys: list,
      DeleteDataKey: change,
    });
  });

  it('give out no plaintext that was not asked for, and no empty one that was', async () => {
    const wire = wireDataKey(DATA_KEY);
    await using service = await answering({
      CreateDataKey: { dataKey: wire },
      GetDataKey: { dataKey: wire },
    });
    using keyward = service.connect();
    assert.deepEqual(await keyward.createDataKey({ parent: KEY }), {
      dataKey,
      plaintext: undefined,
      plaintextCrc32c: undefined,
    });
    assert.equal(service.seen['CreateDataKey']?.['returnPlaintext'], false);
    const calls = [
      () => keyward.createDataKey({ parent: KEY, returnPlaintext: true }),
      () => keyward.getDataKey({ name: DATA_KEY }),
    ];
    for (const call of calls) await assert.rejects(call(), { message: /lacks the plaintext/ });
  });
});

describe('rotations and jobs', () => {
  const job = {
    ...wireJob(JOB),
    state: 'RUNNING',
    cause: 'REQUEST',
    kind: 'DATA_KEYS',
    createTime: new Date(1_700_000_000_000),
    endTime: undefined,
    timeLeftSeconds: 8,
  };
  const { timeLeft: _, ...expected } = job;

  it('carry every field', async () => {
    const failures = [{ resource: DATA_KEY, reason: 'DECRYPTION_FAILED', time: at(4) }];
    const ended = { state: 'REWRAP_JOB_STATE_PARTIAL', endTime: at(5), timeLeft: null, failures };
    const rotation = {
      fromVersion: VERSION,
      toVersion: `${KEY}/versions/2`,
      rotateTime: at(1),
      cause: 'ROTATION_CAUSE_USAGE',
      caller: 'keyward',
      duration: { seconds: 0, nanos: 42_000_000 },
      rewrapJob: JOB,
      rewrapState: 'REWRAP_JOB_STATE_SUPERSEDED',
      rewrapped: 1,
      left: 2,
      failed: 3,
    };
    await using service = await answering({
      ListRotations: { rotations: [rotation], nextPageToken: '' },
      CreateRewrapJob: wireJob(JOB),
      GetRewrapJob: wireJob(JOB, ended),
      ListRewrapJobs: { rewrapJobs: [wireJob(JOB)], nextPageToken: '' },
      CancelRewrapJob: wireJob(JOB),
    });
    using keyward = service.connect();
    const { rotations } = await keyward.listRotations({ parent: KEY, pageSize: 7 });
    const { duration, ...rest } = rotation;
    assert.deepEqual(rotations, [
      {
        ...rest,
        rotateTime: date(1),
        cause: 'USAGE',
        durationSeconds: 0.042,
        rewrapState: 'SUPERSEDED',
      },
    ]);
    assert.deepEqual(
      await keyward.createRewrapJob({ scope: KEY, requestId: REQUEST_ID }),
      expected,
    );
    assert.deepEqual(await keyward.getRewrapJob({ name: JOB }), {
      ...expected,
      state: 'PARTIAL',
      endTime: date(5),
      timeLeftSeconds: undefined,
      failures: [{ resource: DATA_KEY, reason: 'DECRYPTION_FAILED', time: date(4) }],
    });
    const list = { parent: 'tenants/acme', pageSize: 1, pageToken: 'x', filter: 'state = RUNNING' };
    assert.deepEqual((await keyward.listRewrapJobs(list)).rewrapJobs, [expected]);
    await keyward.cancelRewrapJob({ name: JOB, requestId: REQUEST_ID });
    assert.deepEqual(service.seen, {
      ListRotations: { parent: KEY, pageSize: 7, pageToken: '' },
      CreateRewrapJob: { scope: KEY, kind: 'REWRAP_JOB_KIND_UNSPECIFIED', requestId: REQUEST_ID },
      GetRewrapJob: { name: JOB },
      ListRewrapJobs: list,
      CancelRewrapJob: { name: JOB, requestId: REQUEST_ID },
    });
  });

  it('are of stored data keys or of key versions', async () => {
    const kind = 'REWRAP_JOB_KIND_KEY_VERSIONS';
    const failures = [{ resource: VERSION, reason: 'STORED_ROW_CORRUPT', time: at(4) }];
    await using service = await answering({ CreateRewrapJob: wireJob(JOB, { kind, failures }) });
    using keyward = service.connect();
    await keyward.createRewrapJob({ scope: 'tenants/-', kind: 'DATA_KEYS' });
    assert.equal(service.seen['CreateRewrapJob']?.['kind'], 'REWRAP_JOB_KIND_DATA_KEYS');
    const created = await keyward.createRewrapJob({ scope: 'tenants/-', kind: 'KEY_VERSIONS' });
    assert.equal(service.seen['CreateRewrapJob']?.['kind'], kind);
    assert.deepEqual(
      [created.kind, created.failures],
      ['KEY_VERSIONS', [{ ...failures[0], time: date(4) }]],
    );
  });

  it('are walked page by page, as stored data keys are', async () => {
    const pages = (items: string, first: unknown, second: unknown) => ({
      [`List${items[0]?.toUpperCase()}${items.slice(1)}`]: ({
        pageToken,
      }: Record<string, unknown>) =>
        pageToken === ''
          ? { [items]: [first], nextPageToken: 'more' }
          : { [items]: [second], nextPageToken: '' },
    });
    const rotation = (version: number) => ({
      toVersion: `${KEY}/versions/${version}`,
      rotateTime: at(1),
    });
    await using service = await startFakeService({
      ...pages('dataKeys', wireDataKey('a'), wireDataKey('b')),
      ...pages('rotations', rotation(3), rotation(2)),
      ...pages('rewrapJobs', wireJob('a'), wireJob('b')),
    });
    using keyward = service.connect();
    const names = async (items: AsyncIterable<{ readonly name: string }>) =>
      (await Array.fromAsync(items)).map(({ name }) => name);
    assert.deepEqual(await names(keyward.dataKeys(KEY, { filter: 'version = 1' })), ['a', 'b']);
    assert.deepEqual(await names(keyward.rewrapJobs('tenants/acme')), ['a', 'b']);
    const rotations = await Array.fromAsync(keyward.rotations(KEY), ({ toVersion }) => toVersion);
    assert.deepEqual(rotations, [`${KEY}/versions/3`, `${KEY}/versions/2`]);
  });

  it('in a state, of a kind or for a cause that is newer than the client are UNSPECIFIED', async () => {
    await using service = await answering({
      GetRewrapJob: wireJob(JOB, { state: 99, cause: 98, kind: 95 }),
      ListRotations: { rotations: [{ rotateTime: at(1), cause: 97, rewrapState: 96 }] },
    });
    using keyward = service.connect();
    const { state, cause, kind } = await keyward.getRewrapJob({ name: JOB });
    const { rotations } = await keyward.listRotations({ parent: KEY });
    assert.deepEqual(
      [state, cause, kind, rotations[0]?.cause, rotations[0]?.rewrapState],
      Array(5).fill('UNSPECIFIED'),
    );
  });
});

describe('what would be changed on its way', () => {
  it('is refused with a TypeError, and nothing is sent', async () => {
    await using service = await startFakeService({});
    using keyward = service.connect();
    const key = (fields: object) => keyward.updateKey({ key: { name: KEY, ...fields } });
    const create = (fields: object) =>
      keyward.createKey({ parent: 'tenants/acme', keyId: 'k', ...fields } as never);
    const cases: [() => Promise<unknown>, RegExp][] = [
      [
        () => key({ rotationPeriodSeconds: 1.5 }),
        /key\.rotationPeriodSeconds must be a whole number/,
      ],
      [
        () => key({ nextRotationTime: new Date(Number.NaN) }),
        /key\.nextRotationTime must be a valid Date/,
      ],
      [() => key({ rotationUsageLimit: 2 ** 53 }), /key\.rotationUsageLimit/],
      [() => key({ maintenancePaused: 'no' }), /key\.maintenancePaused must be true or false/],
      [
        () => create({ nextRotationTime: '2030-01-01T00:00:00Z' }),
        /^TypeError: nextRotationTime must be/,
      ],
      [() => create({ rotationPeriodSeconds: '90d' }), /^TypeError: rotationPeriodSeconds/],
      [
        () => keyward.createDataKey({ parent: KEY, returnPlaintext: 1 } as never),
        /returnPlaintext/,
      ],
      [() => keyward.createDataKey({ parent: KEY, dataKeyId: 1 } as never), /dataKeyId/],
      [() => keyward.getDataKey({ name: 7 } as never), /name must be a string/],
      [() => keyward.scheduleKeyDestruction({ name: KEY, windowDays: 7.5 }), /windowDays/],
      [
        () => keyward.scheduleKeyDestruction({ name: KEY, validateOnly: 0 } as never),
        /validateOnly/,
      ],
      [() => keyward.createRewrapJob({} as never), /scope must be a string/],
      [
        () => keyward.createRewrapJob({ scope: KEY, kind: 'toString' } as never),
        /kind must be DATA_KEYS or KEY_VERSIONS/,
      ],
      [() => keyward.createRewrapJob({ scope: KEY, kind: 2 } as never), /kind must be/],
      [
        () => keyward.createTenant({ tenantId: 'a', dedicatedRootKey: 1 } as never),
        /dedicatedRootKey/,
      ],
      [() => keyward.shredTenant({ name: 'tenants/a', windowDays: 7.5 }), /windowDays/],
      [() => keyward.rotateRootKey({} as never), /parent must be a string/],
      [() => keyward.listTokenKeys({} as never), /parent must be a string/],
      [() => keyward.watchRewrapJob({} as never).next(), /name must be a string/],
    ];
    for (const [call, message] of cases) {
      const error = await call().then(
        () => assert.fail(),
        (thrown: unknown) => thrown,
      );
      assert.ok(error instanceof TypeError && !(error instanceof KeywardError));
      assert.match(String(error), message);
    }
    assert.equal(service.calls.size, 0);
  });
});
