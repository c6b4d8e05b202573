import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type EncryptionContext, KeywardClient } from '../../client/src/index.ts';
import { startFakeService, wireKey } from './fake-service.ts';

const KEY = 'tenants/acme/keys/orders';
const TIME = { seconds: 1_700_000_000, nanos: 123_456_789 };
const TENANT = { name: 'tenants/acme', uid: '018f0000-0000-4000-8000-000000000000', createTime: TIME };
const VERSION = wireKey(KEY).primary;

describe('calls', () => {
  it('carry every field of every request, and every answer comes back in friendly types', async () => {
    const seen: Record<string, unknown> = {};
    const answers: Record<string, unknown> = {
      CreateTenant: TENANT,
      GetTenant: TENANT,
      ListTenants: { tenants: [TENANT], nextPageToken: 'next' },
      CreateKey: wireKey(KEY),
      GetKey: wireKey(KEY),
      ListKeys: { keys: [wireKey(KEY)], nextPageToken: '' },
      ListKeyVersions: { keyVersions: [VERSION], nextPageToken: '' },
      RotateKey: wireKey(KEY, 2),
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

    const createTime = new Date(1_700_000_000_123);
    const tenant = { ...TENANT, createTime };
    const version = {
      name: `${KEY}/versions/1`,
      state: 'ENABLED',
      algorithm: 'HMAC_SHA512_AES_256_GCM',
      createTime,
    };
    const key = { name: KEY, uid: wireKey(KEY).uid, primary: version, createTime };

    assert.deepEqual(await keyward.createTenant({ tenantId: 'acme' }), tenant);
    assert.deepEqual(await keyward.getTenant({ name: 'tenants/acme' }), tenant);
    assert.deepEqual(await keyward.listTenants({ pageSize: 1, pageToken: 'here' }), {
      tenants: [tenant],
      nextPageToken: 'next',
    });
    assert.deepEqual(await keyward.createKey({ parent: 'tenants/acme', keyId: 'orders' }), key);
    assert.deepEqual(await keyward.getKey({ name: KEY }), key);
    assert.deepEqual(await keyward.listKeys({ parent: 'tenants/acme' }), { keys: [key], nextPageToken: '' });
    assert.deepEqual(await keyward.listKeyVersions({ parent: KEY, pageSize: 7 }), {
      keyVersions: [version],
      nextPageToken: '',
    });
    assert.equal((await keyward.rotateKey({ name: KEY })).primary.name, `${KEY}/versions/2`);

    assert.deepEqual(seen, {
      CreateTenant: { tenantId: 'acme' },
      GetTenant: { name: 'tenants/acme' },
      ListTenants: { pageSize: 1, pageToken: 'here' },
      CreateKey: { parent: 'tenants/acme', keyId: 'orders' },
      GetKey: { name: KEY },
      ListKeys: { parent: 'tenants/acme', pageSize: 0, pageToken: '' },
      ListKeyVersions: { parent: KEY, pageSize: 7, pageToken: '' },
      RotateKey: { name: KEY },
    });
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
    const views = [all, Buffer.from(all), all.subarray(100, 103), new Uint8Array(0), new Uint8Array(65_536)];
    for (const view of views) {
      const encrypted = await keyward.encrypt({ name: KEY, plaintext: view });
      assert.ok(Buffer.isBuffer(encrypted.ciphertext));
      assert.deepEqual(encrypted.ciphertext, Buffer.from(view));
      const decrypted = await keyward.decrypt({ parent: 'tenants/acme', ciphertext: view });
      assert.deepEqual(decrypted, { plaintext: Buffer.from(view), keyVersion: VERSION.name });
    }
    const dataKey = await keyward.generateDataKey({ name: KEY, length: 16 });
    assert.deepEqual(dataKey, {
      plaintext: Buffer.alloc(16, 1),
      wrappedDataKey: Buffer.alloc(9, 2),
      keyVersion: VERSION.name,
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
      [{ name: KEY, plaintext, encryptionContext: new Map([[1, 'a']]) }, /key of encryptionContext/],
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
    assert.equal(service.calls.size, 0);
  });

  it('map a state or algorithm that is newer than the client to UNSPECIFIED', async () => {
    const newer = { ...VERSION, state: 99, algorithm: 98 };
    await using service = await startFakeService({
      ListKeyVersions: () => ({ keyVersions: [newer] }),
    });
    using keyward = service.connect();
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
        () => keyward.decrypt({ parent: 'tenants/acme', ciphertext: new Uint8Array(1), encryptionContext }),
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
    const found = await Array.fromAsync(keyward.keys('tenants/acme', { pageSize: 2 }), ({ name }) => name);
    assert.deepEqual(found, names);
    const page = { parent: 'tenants/acme', pageSize: 2 };
    assert.deepEqual(requests, [
      { ...page, pageToken: '' },
      { ...page, pageToken: '2' },
      { ...page, pageToken: '4' },
    ]);
  });

  it('goes on over an empty page, and fetches nothing that nobody asks for', async () => {
    await using service = await startFakeService({
      ListTenants: ({ pageToken }) =>
        pageToken === '' ? { nextPageToken: 'more' } : { tenants: [TENANT], nextPageToken: 'and more' },
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
