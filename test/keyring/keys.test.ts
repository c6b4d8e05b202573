/**
 * Keys and tenants over the wire: states, descriptions, labels, etags, filters, masks, and request
 * ids.
 */
import assert from 'node:assert/strict';
import { randomBytes, randomUUID } from 'node:crypto';
import { describe, test } from 'node:test';
import type { KeywardClient } from 'keyward-client';
import { encodePageToken } from '../../src/keyring/pages.ts';
import { eventually, failureOf, reasonOf, sharedService, startService } from '../support/kit.ts';

const PARENT = 'tenants/acme';
let keyward: KeywardClient;
const shared = sharedService(async (client) => {
  keyward = client;
  await keyward.createTenant({ tenantId: 'acme' });
});

const newId = (prefix: string) => `${prefix}-${randomBytes(6).toString('hex')}`;
const newKey = async () => (await keyward.createKey({ parent: PARENT, keyId: newId('k') })).name;

describe('states', () => {
  test('a disabled key neither encrypts nor decrypts, and is as before once enabled', async () => {
    const name = await newKey();
    const { ciphertext } = await keyward.encrypt({ name, plaintext: Buffer.from('p') });
    const disabled = await keyward.disableKey({ name });
    assert.equal(disabled.state, 'DISABLED');
    assert.equal(
      await reasonOf(keyward.encrypt({ name, plaintext: Buffer.from('p') })),
      'KEY_NOT_ENABLED',
    );
    assert.equal(
      await reasonOf(keyward.decrypt({ parent: PARENT, ciphertext })),
      'KEY_NOT_ENABLED',
    );
    assert.equal(await reasonOf(keyward.generateDataKey({ name })), 'KEY_NOT_ENABLED');
    assert.equal((await keyward.enableKey({ name })).state, 'ENABLED');
    assert.equal((await keyward.decrypt({ parent: PARENT, ciphertext })).plaintext.toString(), 'p');
  });

  test('case 59: a disabled version does not open what it encrypted, and says its state; the others do', async () => {
    const name = await newKey();
    const first = await keyward.encrypt({ name, plaintext: Buffer.from('1') });
    await keyward.rotateKey({ name });
    const second = await keyward.encrypt({ name, plaintext: Buffer.from('2') });
    const disabled = await keyward.disableKeyVersion({ name: `${name}/versions/1` });
    assert.equal(disabled.state, 'DISABLED');
    const error = await failureOf(
      keyward.decrypt({ parent: PARENT, ciphertext: first.ciphertext }),
    );
    assert.equal(error.code, 'FAILED_PRECONDITION');
    assert.equal(error.reason, 'KEY_VERSION_NOT_ENABLED');
    assert.deepEqual(
      [error.metadata.get('state'), error.metadata.get('version')],
      ['DISABLED', '1'],
    );
    await keyward.decrypt({ parent: PARENT, ciphertext: second.ciphertext });
    await keyward.enableKeyVersion({ name: `${name}/versions/1` });
    await keyward.decrypt({ parent: PARENT, ciphertext: first.ciphertext });
  });

  test('with a disabled primary nothing is encrypted until it is enabled or another is made', async () => {
    const name = await newKey();
    await keyward.disableKeyVersion({ name: `${name}/versions/1` });
    assert.equal(
      await reasonOf(keyward.encrypt({ name, plaintext: Buffer.from('p') })),
      'KEY_VERSION_NOT_ENABLED',
    );
    await keyward.rotateKey({ name });
    assert.equal(
      (await keyward.encrypt({ name, plaintext: Buffer.from('p') })).keyVersion,
      `${name}/versions/2`,
    );
  });

  test('a disabled tenant stops all use of its keys and no other tenant’s', async () => {
    await keyward.createTenant({ tenantId: 'off' });
    const { name } = await keyward.createKey({ parent: 'tenants/off', keyId: 'k' });
    const { ciphertext } = await keyward.encrypt({ name, plaintext: Buffer.from('p') });
    assert.equal((await keyward.disableTenant({ name: 'tenants/off' })).state, 'DISABLED');
    const calls = [
      () => keyward.encrypt({ name, plaintext: Buffer.from('p') }),
      () => keyward.decrypt({ parent: 'tenants/off', ciphertext }),
      () => keyward.generateDataKey({ name }),
      () => keyward.reEncrypt({ name, ciphertext }),
      () => keyward.generateRandomBytes({ parent: 'tenants/off', length: 8 }),
      () => keyward.createKey({ parent: 'tenants/off', keyId: 'another' }),
      () => keyward.rotateKey({ name }),
    ];
    for (const call of calls) assert.equal(await reasonOf(call()), 'TENANT_DISABLED');
    assert.equal((await keyward.getKey({ name })).name, name);
    await keyward.encrypt({ name: await newKey(), plaintext: Buffer.from('p') });
    await keyward.enableTenant({ name: 'tenants/off' });
    assert.equal(
      (await keyward.decrypt({ parent: 'tenants/off', ciphertext })).plaintext.toString(),
      'p',
    );
  });

  test('disabling on one replica holds on another within 2 seconds', async () => {
    await using other = await startService(shared.environment);
    const there = other.client();
    const name = await newKey();
    await there.encrypt({ name, plaintext: Buffer.from('p') });
    await keyward.disableKey({ name });
    await eventually(async () =>
      assert.equal(
        await reasonOf(there.encrypt({ name, plaintext: Buffer.from('p') })),
        'KEY_NOT_ENABLED',
      ),
    );
    await keyward.createTenant({ tenantId: 'far' });
    const { name: far } = await keyward.createKey({ parent: 'tenants/far', keyId: 'k' });
    await there.encrypt({ name: far, plaintext: Buffer.from('p') });
    await keyward.disableTenant({ name: 'tenants/far' });
    await eventually(async () =>
      assert.equal(
        await reasonOf(there.encrypt({ name: far, plaintext: Buffer.from('p') })),
        'TENANT_DISABLED',
      ),
    );
  });

  test('setting the state that is there changes nothing, not even the etag', async () => {
    const name = await newKey();
    const first = await keyward.disableKey({ name });
    assert.deepEqual(await keyward.disableKey({ name }), first);
  });

  test('a version that is not there is RESOURCE_NOT_FOUND, also by an absurd number', async () => {
    const name = await newKey();
    assert.equal((await keyward.getKeyVersion({ name: `${name}/versions/1` })).state, 'ENABLED');
    for (const version of ['2', '2147483647']) {
      assert.equal(
        await reasonOf(keyward.getKeyVersion({ name: `${name}/versions/${version}` })),
        'RESOURCE_NOT_FOUND',
      );
      assert.equal(
        await reasonOf(keyward.disableKeyVersion({ name: `${name}/versions/${version}` })),
        'RESOURCE_NOT_FOUND',
      );
    }
    for (const version of ['0', '01', '-1', '4294967296', 'latest', '1/']) {
      assert.equal(
        await reasonOf(keyward.getKeyVersion({ name: `${name}/versions/${version}` })),
        'INVALID_FIELD',
      );
    }
  });
});

describe('descriptions and labels', () => {
  test('are set at creation, changed by mask, and nothing else is', async () => {
    const created = await keyward.createKey({
      parent: PARENT,
      keyId: newId('described'),
      description: 'for orders',
      labels: { team: 'payments', env: 'prod' },
    });
    assert.deepEqual(
      [created.description, created.labels],
      ['for orders', { team: 'payments', env: 'prod' }],
    );
    const updated = await keyward.updateKey({
      key: { name: created.name, description: 'for all orders', labels: { ignored: 'x' } },
      updateMask: ['description'],
    });
    assert.deepEqual([updated.description, updated.labels], ['for all orders', created.labels]);
    const relabelled = await keyward.updateKey({
      key: { name: created.name, labels: {} },
      updateMask: ['labels'],
    });
    assert.deepEqual([relabelled.description, relabelled.labels], ['for all orders', {}]);
  });

  test('an unknown mask path is refused, and so is an empty mask', async () => {
    const name = await newKey();
    for (const updateMask of [['state'], ['description', 'name'], []]) {
      const error = await failureOf(
        keyward.updateKey({ key: { name, description: 'x' }, updateMask }),
      );
      assert.equal(error.fieldViolations[0]?.field, 'update_mask');
    }
    assert.equal((await keyward.getKey({ name })).description, '');
  });

  test('case 45: controls, bidi overrides in names, and too much are refused with their field', async () => {
    const attempts = [
      { description: 'nul\u0000' },
      { description: 'x'.repeat(1025) },
      { labels: { Team: 'x' } },
      { labels: { team: 'x'.repeat(64) } },
      { labels: { team: 'line\nbreak' } },
      { labels: Object.fromEntries(Array.from({ length: 65 }, (_, index) => [`l${index}`, ''])) },
    ];
    for (const attempt of attempts) {
      const error = await failureOf(
        keyward.createKey({ parent: PARENT, keyId: newId('bad'), ...attempt }),
      );
      assert.equal(error.reason, 'INVALID_FIELD');
      assert.equal(error.fieldViolations[0]?.field, Object.keys(attempt)[0]);
    }
  });
});

describe('etags', () => {
  test('a change with the etag of before another change is refused, and nothing is changed', async () => {
    const name = await newKey();
    const seen = await keyward.getKey({ name });
    const changed = await keyward.updateKey({
      key: { name, description: 'first' },
      updateMask: ['description'],
    });
    assert.notEqual(changed.etag, seen.etag);
    const attempts = [
      keyward.updateKey({
        key: { name, description: 'second', etag: seen.etag },
        updateMask: ['description'],
      }),
      keyward.disableKey({ name, etag: seen.etag }),
      keyward.rotateKey({ name, etag: seen.etag }),
    ];
    for (const error of await Promise.all(attempts.map(failureOf))) {
      assert.deepEqual([error.code, error.reason], ['ABORTED', 'ETAG_MISMATCH']);
    }
    assert.deepEqual(await keyward.getKey({ name }), changed);
    await keyward.rotateKey({ name, etag: changed.etag });
  });

  test('versions and tenants have etags of their own', async () => {
    const name = `${await newKey()}/versions/1`;
    const version = await keyward.getKeyVersion({ name });
    await keyward.disableKeyVersion({ name, etag: version.etag });
    assert.equal(
      await reasonOf(keyward.enableKeyVersion({ name, etag: version.etag })),
      'ETAG_MISMATCH',
    );
    const tenant = await keyward.createTenant({ tenantId: newId('t') });
    await keyward.disableTenant({ name: tenant.name, etag: tenant.etag });
    assert.equal(
      await reasonOf(keyward.enableTenant({ name: tenant.name, etag: tenant.etag })),
      'ETAG_MISMATCH',
    );
  });
});

describe('lists', () => {
  test('are filtered by state and labels, and pages go on with the same filter only', async () => {
    await keyward.createTenant({ tenantId: 'filtered' });
    for (const [keyId, team] of [
      ['a', 'red'],
      ['b', 'blue'],
      ['c', 'red'],
      ['d', 'red'],
    ] as const) {
      await keyward.createKey({ parent: 'tenants/filtered', keyId, labels: { team } });
    }
    await keyward.disableKey({ name: 'tenants/filtered/keys/d' });
    const names = async (filter: string) => {
      const found: string[] = [];
      let pageToken = '';
      do {
        const page = await keyward.listKeys({
          parent: 'tenants/filtered',
          filter,
          pageSize: 1,
          pageToken,
        });
        found.push(...page.keys.map(({ name }) => name.slice(-1)));
        pageToken = page.nextPageToken;
      } while (pageToken !== '');
      return found.join('');
    };
    assert.equal(await names(''), 'abcd');
    assert.equal(await names('labels.team = red'), 'acd');
    assert.equal(await names('labels.team = "red" AND state = ENABLED'), 'ac');
    assert.equal(await names('labels.team != red'), 'b');
    assert.equal(await names('labels.none = red'), '');
    assert.equal(await names('state != ENABLED'), 'd');
    const { nextPageToken } = await keyward.listKeys({
      parent: 'tenants/filtered',
      filter: 'state = ENABLED',
      pageSize: 1,
    });
    assert.equal(
      await reasonOf(keyward.listKeys({ parent: 'tenants/filtered', pageToken: nextPageToken })),
      'INVALID_FIELD',
    );
    const versions = await keyward.listKeyVersions({
      parent: 'tenants/filtered/keys/a',
      filter: 'state = DISABLED',
    });
    assert.deepEqual(versions.keyVersions, []);
  });

  test('a filter that is none is refused with its field, and reaches no SQL', async () => {
    for (const filter of [
      "state = ENABLED' OR 1=1",
      'name = x',
      'state',
      'state = ENABLED OR state = DISABLED',
      '= x',
      'state = "x',
      'labels = x',
      'labels.a.b = c',
    ]) {
      const error = await failureOf(keyward.listKeys({ parent: PARENT, filter }));
      assert.equal(error.reason, 'INVALID_FIELD', filter);
      assert.equal(error.fieldViolations[0]?.field, 'filter');
    }
    const { fieldViolations } = await failureOf(
      keyward.listKeys({ parent: PARENT, filter: 'state = disabled' }),
    );
    assert.equal(
      fieldViolations[0]?.description,
      'must have one of ENABLED, DISABLED, DESTROY_SCHEDULED, DESTROYED for state',
    );
    assert.deepEqual(
      (await keyward.listKeys({ parent: PARENT, filter: `labels.x = "'; DROP TABLE keys; --"` }))
        .keys,
      [],
    );
  });

  test('a token with a position that the list can not have is refused, not an internal error', async () => {
    const name = await newKey();
    const tokens = [
      keyward.listTenants({ pageToken: encodePageToken('tenants []', '\0') }),
      keyward.listKeys({ parent: PARENT, pageToken: encodePageToken('keys acme []', 'a\0') }),
      ...['x', '1.5', '1e30', '0', '4294967296'].map((position) =>
        keyward.listKeyVersions({
          parent: name,
          pageToken: encodePageToken(`versions ${name} []`, position),
        }),
      ),
    ];
    for (const { fieldViolations } of await Promise.all(tokens.map(failureOf))) {
      assert.equal(fieldViolations[0]?.field, 'page_token');
    }
    const good = encodePageToken(`versions ${name} []`, '2');
    assert.equal(
      (await keyward.listKeyVersions({ parent: name, pageToken: good })).keyVersions.length,
      1,
    );
  });

  test('page sizes beyond the bounds are refused', async () => {
    for (const pageSize of [-1, 1001]) {
      const error = await failureOf(keyward.listKeys({ parent: PARENT, pageSize }));
      assert.equal(error.fieldViolations[0]?.field, 'page_size');
    }
  });
});

describe('request ids', () => {
  test('case 89: the same request twice has one effect and one answer, also at once', async () => {
    const requestId = randomUUID();
    const request = { parent: PARENT, keyId: newId('once'), requestId };
    const answers = await Promise.all([
      keyward.createKey(request),
      keyward.createKey(request),
      keyward.createKey(request),
    ]);
    for (const answer of answers) assert.deepEqual(answer, answers[0]);
    assert.deepEqual(await keyward.createKey(request), answers[0]);
    const name = answers[0]?.name ?? '';
    const rotation = { name, requestId: randomUUID() };
    const rotated = await Promise.all([keyward.rotateKey(rotation), keyward.rotateKey(rotation)]);
    assert.deepEqual(rotated[0], rotated[1]);
    assert.equal(rotated[0]?.primary?.name, `${name}/versions/2`);
    await keyward.rotateKey({ name });
    assert.equal((await keyward.rotateKey(rotation)).primary?.name, `${name}/versions/2`);
    assert.equal((await keyward.getKey({ name })).primary?.name, `${name}/versions/3`);
  });

  test('case 89: of another body, REQUEST_ID_REUSED; of another method or tenant, another request', async () => {
    const requestId = randomUUID();
    const first = await keyward.createKey({ parent: PARENT, keyId: newId('a'), requestId });
    assert.equal(
      await reasonOf(keyward.createKey({ parent: PARENT, keyId: newId('b'), requestId })),
      'REQUEST_ID_REUSED',
    );
    await keyward.rotateKey({ name: first.name, requestId });
    const tenant = await keyward.createTenant({ tenantId: newId('t'), requestId });
    assert.deepEqual(
      await keyward.createTenant({ tenantId: tenant.name.split('/')[1] ?? '', requestId }),
      tenant,
    );
    await keyward.createKey({ parent: tenant.name, keyId: 'k', requestId });
  });

  test('case 89: a replay is no second mutation: it answers as then, and states are as they became since', async () => {
    const name = await newKey();
    const requestId = randomUUID();
    await keyward.disableKey({ name, requestId });
    await keyward.enableKey({ name });
    assert.equal((await keyward.disableKey({ name, requestId })).state, 'DISABLED');
    assert.equal((await keyward.getKey({ name })).state, 'ENABLED');
  });

  test('what failed had no effect and may be sent again with its id', async () => {
    const name = await newKey();
    const { etag } = await keyward.getKey({ name });
    const requestId = randomUUID();
    assert.equal(
      await reasonOf(keyward.disableKey({ name, etag: 'stale', requestId })),
      'ETAG_MISMATCH',
    );
    await keyward.disableKey({ name, etag, requestId });
  });

  test('an id that is no UUID of version 4 is refused', async () => {
    for (const requestId of ['1', '00000000-0000-1000-8000-000000000000']) {
      const error = await failureOf(
        keyward.createKey({ parent: PARENT, keyId: newId('x'), requestId }),
      );
      assert.equal(error.fieldViolations[0]?.field, 'request_id');
    }
  });
});
