import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type EncryptionContext, KeywardClient } from '../../client/src/index.ts';
import { crc32c } from '../../src/operations/crc32c.ts';
import { SERVICES, startFakeService, wireKey } from './fake-service.ts';

const KEY = 'tenants/acme/keys/orders';
const TIME = { seconds: 1_700_000_000, nanos: 123_456_789 };
const TENANT = {
  name: 'tenants/acme',
  uid: '018f0000-0000-4000-8000-000000000000',
  createTime: TIME,
  state: 'TENANT_STATE_DISABLED',
  etag: 't1',
  dedicatedRootKey: true,
  quotas: { callsPerSecond: 50, keys: 0, storedDataKeys: 7 },
};
const UUID4 = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const VERSION = wireKey(KEY).primary;

describe('calls', () => {
  it('are there for every RPC of the contract', () => {
    const calls = SERVICES.flatMap(([service, rpcs]) =>
      Object.keys(rpcs).map((rpc) => {
        // These names would say too little in a client of all services.
        const name =
          service === 'keyward.v1.AuditService' ? rpc.replace(/^[A-Z][a-z]+/, '$&Audit') : rpc;
        return `${name[0]?.toLowerCase()}${name.slice(1)}`;
      }),
    );
    assert.ok(calls.length > 50);
    assert.deepEqual(
      calls.filter((name) => !(name in KeywardClient.prototype)),
      [],
    );
  });

  it('carry every field of every request, and every answer comes back in friendly types', async () => {
    const seen: Record<string, unknown> = {};
    const answers: Record<string, unknown> = {
      CreateTenant: TENANT,
      GetTenant: TENANT,
      ListTenants: { tenants: [TENANT], nextPageToken: 'next' },
      UpdateTenant: { ...TENANT, quotas: null },
      DisableTenant: TENANT,
      EnableTenant: TENANT,
      CreateKey: wireKey(KEY),
      GetKey: wireKey(KEY),
      ListKeys: { keys: [wireKey(KEY)], nextPageToken: '' },
      ListKeyVersions: { keyVersions: [VERSION], nextPageToken: '' },
      RotateKey: wireKey(KEY, 2),
      UpdateKey: wireKey(KEY),
      DisableKey: wireKey(KEY),
      EnableKey: wireKey(KEY),
      GetKeyVersion: VERSION,
      DisableKeyVersion: { ...VERSION, state: 'KEY_VERSION_STATE_DISABLED' },
      EnableKeyVersion: VERSION,
    };
    const handlers = Object.fromEntries(
      Object.entries(answers).map(([name, answer]) => [
        name,
        (request: Record<string, unknown>) => {
          seen[name] = request;
          return answer;
        },
      ]),
    );
    await using service = await startFakeService(handlers);
    using keyward = service.connect();

    const createTime = new Date(1_700_000_000_123);
    const tenant = { ...TENANT, createTime, state: 'DISABLED', shredTime: undefined };
    const version = {
      name: `${KEY}/versions/1`,
      state: 'ENABLED',
      algorithm: 'HMAC_SHA512_AES_256_GCM',
      createTime,
      etag: 'v1',
      destroyTime: undefined,
      destroyEventTime: undefined,
      usage: undefined,
    };
    const key = {
      name: KEY,
      uid: wireKey(KEY).uid,
      primary: version,
      createTime,
      state: 'ENABLED',
      description: 'for orders',
      labels: { team: 'payments' },
      etag: 'k1',
      rotationPeriodSeconds: undefined,
      nextRotationTime: undefined,
      rotationUsageLimit: 0,
      maintenancePaused: false,
      destroyTime: undefined,
      destroyEventTime: undefined,
      epochMaxMessages: 0,
      epochMaxAgeSeconds: undefined,
    };
    const requestId = 'f0000000-0000-4000-8000-000000000000';
    const change = { etag: 'seen', requestId };
    const name = `${KEY}/versions/1`;

    assert.deepEqual(
      await keyward.createTenant({ tenantId: 'acme', dedicatedRootKey: true, requestId }),
      tenant,
    );
    assert.deepEqual(await keyward.getTenant({ name: 'tenants/acme' }), tenant);
    assert.deepEqual(
      await keyward.listTenants({ pageSize: 1, pageToken: 'here', filter: 'state = ENABLED' }),
      { tenants: [tenant], nextPageToken: 'next' },
    );
    const limited = { name: 'tenants/acme', etag: 'seen', quotas: { keys: 7, storedDataKeys: 0 } };
    assert.deepEqual(await keyward.updateTenant({ tenant: limited, requestId }), {
      ...tenant,
      quotas: { callsPerSecond: 0, keys: 0, storedDataKeys: 0 },
    });
    assert.deepEqual(await keyward.disableTenant({ name: 'tenants/acme', ...change }), tenant);
    assert.deepEqual(await keyward.enableTenant({ name: 'tenants/acme', ...change }), tenant);
    const created = await keyward.createKey({
      parent: 'tenants/acme',
      keyId: 'orders',
      description: 'for orders',
      labels: new Map([['team', 'payments']]),
      requestId,
    });
    assert.deepEqual(created, key);
    assert.deepEqual(await keyward.getKey({ name: KEY }), key);
    assert.deepEqual(await keyward.listKeys({ parent: 'tenants/acme', filter: 'labels.a = b' }), {
      keys: [key],
      nextPageToken: '',
    });
    assert.deepEqual(await keyward.listKeyVersions({ parent: KEY, pageSize: 7 }), {
      keyVersions: [version],
      nextPageToken: '',
    });
    assert.equal(
      (await keyward.rotateKey({ name: KEY, ...change })).primary.name,
      `${KEY}/versions/2`,
    );
    const updated = await keyward.updateKey({
      key: { name: KEY, labels: { a: 'b' }, etag: 'seen' },
      requestId,
    });
    assert.deepEqual(updated, key);
    assert.deepEqual(await keyward.disableKey({ name: KEY, ...change }), key);
    assert.deepEqual(await keyward.enableKey({ name: KEY, ...change }), key);
    assert.deepEqual(await keyward.getKeyVersion({ name }), version);
    assert.deepEqual(await keyward.disableKeyVersion({ name, ...change }), {
      ...version,
      state: 'DISABLED',
    });
    assert.deepEqual(await keyward.enableKeyVersion({ name, ...change }), version);

    const { key: updatedTo, ...update } = seen['UpdateKey'] as { key: Record<string, unknown> };
    assert.deepEqual(update, { updateMask: { paths: ['labels'] }, requestId });
    assert.deepEqual(
      [updatedTo['name'], updatedTo['labels'], updatedTo['etag'], updatedTo['description']],
      [KEY, { a: 'b' }, 'seen', ''],
    );
    delete seen['UpdateKey'];
    const { tenant: limitedTo, ...limits } = seen['UpdateTenant'] as {
      tenant: Record<string, unknown>;
    };
    const updateMask = { paths: ['quotas.keys', 'quotas.stored_data_keys'] };
    assert.deepEqual(limits, { updateMask, requestId });
    assert.deepEqual(
      [limitedTo['name'], limitedTo['etag'], limitedTo['quotas']],
      ['tenants/acme', 'seen', { callsPerSecond: 0, keys: 7, storedDataKeys: 0 }],
    );
    delete seen['UpdateTenant'];
    assert.deepEqual(seen, {
      CreateTenant: { tenantId: 'acme', dedicatedRootKey: true, requestId },
      GetTenant: { name: 'tenants/acme' },
      ListTenants: { pageSize: 1, pageToken: 'here', filter: 'state = ENABLED' },
      DisableTenant: { name: 'tenants/acme', ...change },
      EnableTenant: { name: 'tenants/acme', ...change },
      CreateKey: {
        parent: 'tenants/acme',
        keyId: 'orders',
        description: 'for orders',
        labels: { team: 'payments' },
        rotationPeriod: null,
        nextRotationTime: null,
        rotationUsageLimit: 0,
        epochMaxMessages: 0,
        epochMaxAge: null,
        requestId,
      },
      GetKey: { name: KEY },
      ListKeys: { parent: 'tenants/acme', pageSize: 0, pageToken: '', filter: 'labels.a = b' },
      ListKeyVersions: { parent: KEY, pageSize: 7, pageToken: '', filter: '' },
      RotateKey: { name: KEY, ...change },
      DisableKey: { name: KEY, ...change },
      EnableKey: { name: KEY, ...change },
      GetKeyVersion: { name },
      DisableKeyVersion: { name, ...change },
      EnableKeyVersion: { name, ...change },
    });
  });

  it('of the data plane carry every field too', async () => {
    const seen: Record<string, unknown> = {};
    const data = Buffer.from([1, 2, 3]);
    const keyVersion = VERSION.name;
    const answers: Record<string, unknown> = {
      GenerateDataKeyWithoutPlaintext: { wrappedDataKey: data, keyVersion },
      ReEncrypt: { ciphertext: data, keyVersion, sourceKeyVersion: `${KEY}/versions/0` },
      GenerateRandomBytes: { data },
    };
    const handlers = Object.fromEntries(
      Object.entries(answers).map(([name, answer]) => [
        name,
        (request: unknown) => {
          seen[name] = request;
          return answer;
        },
      ]),
    );
    await using service = await startFakeService(handlers);
    using keyward = service.connect();
    const dataKey = { name: KEY, encryptionContext: { a: 'b' }, length: 64 };
    const reEncrypt = {
      name: KEY,
      ciphertext: Buffer.from('c'),
      sourceEncryptionContext: { a: 'b' },
      destinationEncryptionContext: { c: 'd' },
      sourceKey: `${KEY}-before`,
    };
    const random = { parent: 'tenants/acme', length: 3 };
    assert.deepEqual(await keyward.generateDataKeyWithoutPlaintext(dataKey), {
      wrappedDataKey: data,
      keyVersion,
      wrappedDataKeyCrc32c: crc32c(data),
    });
    assert.deepEqual(await keyward.reEncrypt(reEncrypt), {
      ciphertext: data,
      keyVersion,
      sourceKeyVersion: `${KEY}/versions/0`,
      ciphertextCrc32c: crc32c(data),
      verifiedCiphertextCrc32c: true,
    });
    assert.deepEqual(await keyward.generateRandomBytes(random), { data, dataCrc32c: crc32c(data) });
    assert.deepEqual(seen, {
      GenerateDataKeyWithoutPlaintext: dataKey,
      ReEncrypt: {
        ...reEncrypt,
        ciphertextCrc32c: crc32c(Buffer.from('c')),
        _ciphertextCrc32c: 'ciphertextCrc32c',
      },
      GenerateRandomBytes: random,
    });
  });

  it('that change something have a request id of their own each, unless they bring one', async () => {
    const ids: string[] = [];
    const handler = (request: Record<string, unknown>) => {
      ids.push(String(request['requestId']));
      return wireKey(KEY);
    };
    await using service = await startFakeService({ RotateKey: handler, DisableKey: handler });
    using keyward = service.connect();
    await keyward.rotateKey({ name: KEY });
    await keyward.rotateKey({ name: KEY });
    await keyward.disableKey({ name: KEY, requestId: '' });
    for (const id of ids) assert.match(id, UUID4);
    assert.equal(new Set(ids).size, 3);
    await keyward.rotateKey({ name: KEY, requestId: 'whatever it is' });
    assert.equal(ids[3], 'whatever it is');
  });

  it('update what is given, or what the mask names, even if that is nothing', async () => {
    const masks: unknown[] = [];
    await using service = await startFakeService({
      UpdateKey: ({ updateMask }) => {
        masks.push((updateMask as { paths: unknown }).paths);
        return wireKey(KEY);
      },
    });
    using keyward = service.connect();
    await keyward.updateKey({ key: { name: KEY, description: '', labels: {} } });
    await keyward.updateKey({
      key: { name: KEY, description: 'x' },
      updateMask: ['labels', 'state'],
    });
    await keyward.updateKey({ key: { name: KEY, description: 'x' }, updateMask: [] });
    await keyward.updateKey({
      key: { name: KEY, rotationPeriodSeconds: null, nextRotationTime: null },
    });
    await keyward.updateKey({
      key: { name: KEY, rotationUsageLimit: 0, maintenancePaused: false },
    });
    assert.deepEqual(masks, [
      ['description', 'labels'],
      ['labels', 'state'],
      [],
      ['rotation_period', 'next_rotation_time'],
      ['rotation_usage_limit', 'maintenance_paused'],
    ]);
  });

  it('carry bytes unchanged, whatever view of memory they are', async () => {
    await using service = await startFakeService({
      Encrypt: ({ plaintext }) => ({ ciphertext: plaintext, keyVersion: VERSION.name }),
      Decrypt: ({ ciphertext }) => ({ plaintext: ciphertext, keyVersion: VERSION.name }),
      GenerateDataKey: ({ length }) => ({
        plaintext: Buffer.alloc(length as number, 1),
        wrappedDataKey: Buffer.alloc(9, 2),
        keyVersion: VERSION.name,
      }),
    });
    using keyward = service.connect();
    const all = Uint8Array.from({ length: 256 }, (_, i) => i);
    const views = [
      all,
      Buffer.from(all),
      all.subarray(100, 103),
      new Uint8Array(0),
      new Uint8Array(65_536),
    ];
    for (const view of views) {
      const encrypted = await keyward.encrypt({ name: KEY, plaintext: view });
      assert.ok(Buffer.isBuffer(encrypted.ciphertext));
      assert.deepEqual(encrypted.ciphertext, Buffer.from(view));
      const decrypted = await keyward.decrypt({ parent: 'tenants/acme', ciphertext: view });
      assert.deepEqual(decrypted, {
        plaintext: Buffer.from(view),
        keyVersion: VERSION.name,
        plaintextCrc32c: crc32c(view),
        verifiedCiphertextCrc32c: true,
      });
    }
    const dataKey = await keyward.generateDataKey({ name: KEY, length: 16 });
    assert.deepEqual(dataKey, {
      plaintext: Buffer.alloc(16, 1),
      wrappedDataKey: Buffer.alloc(9, 2),
      keyVersion: VERSION.name,
      plaintextCrc32c: crc32c(Buffer.alloc(16, 1)),
      wrappedDataKeyCrc32c: crc32c(Buffer.alloc(9, 2)),
    });
  });

  it('refuse what would be changed on its way, and send nothing', async () => {
    await using service = await startFakeService({ Encrypt: () => ({}) });
    using keyward = service.connect();
    const plaintext = new Uint8Array(1);
    const wrong: [unknown, RegExp][] = [
      [{ name: KEY, plaintext: 'aGVsbG8=' }, /plaintext must be a Uint8Array/],
      [{ name: 7, plaintext }, /name must be a string/],
      [{ name: KEY, plaintext, encryptionContext: { a: undefined } }, /value of encryptionContext/],
      [
        { name: KEY, plaintext, encryptionContext: new Map([[1, 'a']]) },
        /key of encryptionContext/,
      ],
      [{ name: KEY, plaintext, encryptionContext: ['a'] }, /encryptionContext must be/],
    ];
    for (const [request, message] of wrong) {
      await assert.rejects(keyward.encrypt(request as Parameters<KeywardClient['encrypt']>[0]), {
        name: 'TypeError',
        message,
      });
    }
    await assert.rejects(keyward.generateDataKey({ name: KEY, length: 2 ** 32 + 16 }), TypeError);
    await assert.rejects(keyward.listTenants({ pageSize: 1.5 }), TypeError);
    for (const plaintextCrc32c of [-1, 2 ** 32, 0.5]) {
      await assert.rejects(keyward.encrypt({ name: KEY, plaintext, plaintextCrc32c }), TypeError);
    }
    const batch = { parent: 'tenants/acme', requests: [{ name: KEY, plaintext }, { name: KEY }] };
    await assert.rejects(
      keyward.batchEncrypt(batch as Parameters<KeywardClient['batchEncrypt']>[0]),
      {
        name: 'TypeError',
        message: 'requests[1].plaintext must be a Uint8Array',
      },
    );
    assert.equal(service.calls.size, 0);
  });

  it('map a state or algorithm that is newer than the client to UNSPECIFIED', async () => {
    const newer = { ...VERSION, state: 99, algorithm: 98 };
    await using service = await startFakeService({
      ListKeyVersions: () => ({ keyVersions: [newer] }),
      GetKey: () => ({ ...wireKey(KEY), state: 97 }),
      GetTenant: () => ({ ...TENANT, state: 96 }),
    });
    using keyward = service.connect();
    assert.equal((await keyward.getKey({ name: KEY })).state, 'UNSPECIFIED');
    assert.equal((await keyward.getTenant({ name: TENANT.name })).state, 'UNSPECIFIED');
    const { keyVersions } = await keyward.listKeyVersions({ parent: KEY });
    assert.equal(keyVersions[0]?.state, 'UNSPECIFIED');
    assert.equal(keyVersions[0]?.algorithm, 'UNSPECIFIED');
  });
});

describe('an encryption context', () => {
  const hostile = ['__proto__', 'constructor', 'toString', 'hasOwnProperty', '', '💥', 'a=b'];

  const forms: [string, EncryptionContext][] = [
    ['a Map', new Map(hostile.map((key) => [key, `value of ${key}`]))],
    ['an object', Object.fromEntries(hostile.map((key) => [key, `value of ${key}`]))],
    [
      'an object without prototype',
      hostile.reduce<Record<string, string>>((all, key) => {
        all[key] = `value of ${key}`;
        return all;
      }, Object.create(null)),
    ],
  ];
  for (const [form, encryptionContext] of forms) {
    it(`as ${form} arrives with every key, __proto__ too`, async () => {
      let seen: object = {};
      const handler = (request: Record<string, unknown>) => {
        seen = request['encryptionContext'] as object;
        return {};
      };
      await using service = await startFakeService({
        Encrypt: handler,
        Decrypt: handler,
        GenerateDataKey: handler,
      });
      using keyward = service.connect();
      const calls = [
        () => keyward.encrypt({ name: KEY, plaintext: new Uint8Array(0), encryptionContext }),
        () =>
          keyward.decrypt({
            parent: 'tenants/acme',
            ciphertext: new Uint8Array(1),
            encryptionContext,
          }),
        () => keyward.generateDataKey({ name: KEY, encryptionContext }),
      ];
      for (const call of calls) {
        seen = {};
        await call();
        assert.deepEqual(
          new Map(Object.entries(seen)),
          new Map(hostile.map((key) => [key, `value of ${key}`])),
        );
      }
      assert.equal(({} as Record<string, unknown>)['value of __proto__'], undefined);
    });
  }
});

describe('walking a list', () => {
  it('fetches page by page, each from where the last one ended', async () => {
    const names = Array.from({ length: 5 }, (_, i) => `tenants/acme/keys/k${i}`);
    const requests: unknown[] = [];
    await using service = await startFakeService({
      ListKeys: (request) => {
        requests.push(request);
        const from = Number(request['pageToken']);
        const to = from + (request['pageSize'] as number);
        return {
          keys: names.slice(from, to).map((name) => wireKey(name)),
          nextPageToken: to < names.length ? String(to) : '',
        };
      },
    });
    using keyward = service.connect();
    const found = await Array.fromAsync(
      keyward.keys('tenants/acme', { pageSize: 2, filter: 'state = ENABLED' }),
      ({ name }) => name,
    );
    assert.deepEqual(found, names);
    const page = { parent: 'tenants/acme', pageSize: 2, filter: 'state = ENABLED' };
    assert.deepEqual(requests, [
      { ...page, pageToken: '' },
      { ...page, pageToken: '2' },
      { ...page, pageToken: '4' },
    ]);
  });

  it('goes on over an empty page, and fetches nothing that nobody asks for', async () => {
    await using service = await startFakeService({
      ListTenants: ({ pageToken }) =>
        pageToken === ''
          ? { nextPageToken: 'more' }
          : { tenants: [TENANT], nextPageToken: 'and more' },
      ListKeyVersions: () => ({ keyVersions: [VERSION] }),
    });
    using keyward = service.connect();
    for await (const { name } of keyward.tenants()) {
      assert.equal(name, TENANT.name);
      break;
    }
    assert.equal(service.calls.get('ListTenants'), 2);
    assert.equal((await Array.fromAsync(keyward.keyVersions(KEY))).length, 1);
  });
});

describe('connecting', () => {
  it('refuses options that make no sense', () => {
    const pem = { ca: 'x', cert: 'x', key: 'x' };
    const wrong: [object, RegExp][] = [
      [{ ...pem, address: 'localhost' }, /address must be host:port, not "localhost"/],
      [{ ...pem, address: 'https://localhost:1' }, /address must be host:port/],
      [{ ...pem, address: '::1:50' }, /address must be host:port/],
      [{ address: 'localhost:1', cert: 'x', key: 'x' }, /ca or caFile must be given/],
      [{ ...pem, address: 'localhost:1', retries: -1 }, /retries/],
      [{ ...pem, address: 'localhost:1', checksums: 'no' }, /checksums/],
      [{ ...pem, address: 'localhost:1', throttle: 'no' }, /throttle/],
    ];
    for (const [options, message] of wrong) {
      assert.throws(
        () => new KeywardClient(options as ConstructorParameters<typeof KeywardClient>[0]),
        message,
      );
    }
  });

  it('wants the name that it asked for in the service’s certificate, an address or serverName', async () => {
    const handlers = { GetTenant: () => TENANT };
    await using named = await startFakeService(handlers, { ips: [], dns: ['keyward.internal'] });
    using right = named.connect({ serverName: 'keyward.internal' });
    await right.getTenant({ name: 'tenants/acme' });
    for (const options of [{}, { serverName: 'other.internal' }]) {
      using wrong = named.connect({ ...options, retries: 0 });
      await assert.rejects(wrong.getTenant({ name: 'tenants/acme' }), {
        code: 'UNAVAILABLE',
        message: /altnames/,
      });
    }
    assert.equal(named.calls.get('GetTenant'), 1);
  });

  it('trusts nobody but the given authority', async () => {
    await using service = await startFakeService({ GetTenant: () => TENANT });
    await using stranger = await startFakeService({});
    using keyward = service.connect({ ca: stranger.caPem, retries: 0 });
    await assert.rejects(keyward.getTenant({ name: 'tenants/acme' }), {
      code: 'UNAVAILABLE',
      reason: undefined,
    });
    assert.equal(service.calls.size, 0);
  });
});
