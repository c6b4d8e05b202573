/**
 * Every method over the wire, on the real token and the real database: what it does, and what it
 * says when it can't.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { describe, test } from 'node:test';
import type { KeywardClient } from 'keyward-client';
import { failureOf, reasonOf, sharedService } from '../support/kit.ts';

let keyward: KeywardClient;
const shared = sharedService(async (client) => {
  keyward = client;
  await keyward.createTenant({ tenantId: 'acme' });
  await keyward.createTenant({ tenantId: 'globex' });
});

/** A new key of acme's. */
async function newKey(): Promise<string> {
  const keyId = `k-${randomBytes(6).toString('hex')}`;
  return (await keyward.createKey({ parent: 'tenants/acme', keyId })).name;
}

describe('AdminService', () => {
  test('a tenant that was created is found by its name, with a UUID and a time', async () => {
    const created = await keyward.createTenant({ tenantId: 'initech' });
    assert.match(created.uid, /^[0-9a-f-]{36}$/);
    assert.ok(created.createTime instanceof Date);
    assert.deepEqual(await keyward.getTenant({ name: 'tenants/initech' }), created);
  });

  test('a second tenant of the same name is refused', async () => {
    assert.equal(await reasonOf(keyward.createTenant({ tenantId: 'acme' })), 'RESOURCE_EXISTS');
  });

  test('the reserved tenant is there and can not be made again', async () => {
    assert.equal((await keyward.getTenant({ name: 'tenants/system' })).name, 'tenants/system');
    const error = await failureOf(keyward.createTenant({ tenantId: 'system' }));
    assert.deepEqual(error.fieldViolations, [
      { field: 'tenant_id', description: 'must not be a reserved name' },
    ]);
  });

  test('tenants are listed by name, page by page, each once', async () => {
    const names: string[] = [];
    for await (const { name } of keyward.tenants({ pageSize: 2 })) names.push(name);
    assert.deepEqual(names, [...new Set(names)].sort());
    assert.ok(names.includes('tenants/acme') && names.includes('tenants/system'));
  });

  test('a page token of another list is refused', async () => {
    const { nextPageToken } = await keyward.listTenants({ pageSize: 1 });
    assert.notEqual(nextPageToken, '');
    const error = await failureOf(
      keyward.listKeys({ parent: 'tenants/acme', pageToken: nextPageToken }),
    );
    assert.equal(error.fieldViolations[0]?.field, 'page_token');
  });
});

describe('KeyService', () => {
  test('a new key has version 1 as its primary', async () => {
    const key = await keyward.createKey({ parent: 'tenants/acme', keyId: 'orders' });
    assert.equal(key.name, 'tenants/acme/keys/orders');
    assert.equal(key.primary?.name, 'tenants/acme/keys/orders/versions/1');
    assert.equal(key.primary?.state, 'ENABLED');
    assert.deepEqual(await keyward.getKey({ name: key.name }), key);
  });

  test('a second key of the same name is refused, in another tenant it is another key', async () => {
    await keyward.createKey({ parent: 'tenants/acme', keyId: 'twice' });
    assert.equal(
      await reasonOf(keyward.createKey({ parent: 'tenants/acme', keyId: 'twice' })),
      'RESOURCE_EXISTS',
    );
    const other = await keyward.createKey({ parent: 'tenants/globex', keyId: 'twice' });
    assert.notEqual(other.uid, (await keyward.getKey({ name: 'tenants/acme/keys/twice' })).uid);
  });

  test('what is not there is RESOURCE_NOT_FOUND', async () => {
    assert.equal(
      await reasonOf(keyward.getTenant({ name: 'tenants/nobody' })),
      'RESOURCE_NOT_FOUND',
    );
    assert.equal(
      await reasonOf(keyward.getKey({ name: 'tenants/acme/keys/nothing' })),
      'RESOURCE_NOT_FOUND',
    );
    assert.equal(
      await reasonOf(keyward.createKey({ parent: 'tenants/nobody', keyId: 'k' })),
      'RESOURCE_NOT_FOUND',
    );
    assert.equal(
      await reasonOf(
        keyward.encrypt({ name: 'tenants/acme/keys/nothing', plaintext: Buffer.from('x') }),
      ),
      'RESOURCE_NOT_FOUND',
    );
  });

  test('rotating makes a new primary and keeps old ciphertexts readable', async () => {
    const name = await newKey();
    const old = await keyward.encrypt({ name, plaintext: Buffer.from('old') });
    const rotated = await keyward.rotateKey({ name });
    assert.equal(rotated.primary?.name, `${name}/versions/2`);
    const fresh = await keyward.encrypt({ name, plaintext: Buffer.from('new') });
    assert.equal(old.keyVersion, `${name}/versions/1`);
    assert.equal(fresh.keyVersion, `${name}/versions/2`);
    const opened = await keyward.decrypt({ parent: 'tenants/acme', ciphertext: old.ciphertext });
    assert.deepEqual(
      [opened.plaintext.toString(), opened.keyVersion],
      ['old', `${name}/versions/1`],
    );
    const versions = await keyward.listKeyVersions({ parent: name });
    assert.deepEqual(
      versions.keyVersions.map((version) => version.name),
      [`${name}/versions/2`, `${name}/versions/1`],
    );
  });

  test('rotations at once each make a version of their own, without a gap', async () => {
    const name = await newKey();
    const outcomes = await Promise.allSettled(
      Array.from({ length: 4 }, () => keyward.rotateKey({ name })),
    );
    const made = outcomes.flatMap((outcome) =>
      outcome.status === 'fulfilled' ? outcome.value.primary?.name : [],
    );
    assert.equal(new Set(made).size, made.length);
    const numbers: number[] = [];
    for await (const version of keyward.keyVersions(name))
      numbers.push(Number(version.name.split('/').at(-1)));
    assert.deepEqual(
      numbers,
      Array.from({ length: made.length + 1 }, (_, index) => made.length + 1 - index),
    );
  });

  test('keys are listed by name, and only those of the tenant', async () => {
    await keyward.createTenant({ tenantId: 'listed' });
    for (const keyId of ['c', 'a', 'b'])
      await keyward.createKey({ parent: 'tenants/listed', keyId });
    const names: string[] = [];
    for await (const { name } of keyward.keys('tenants/listed', { pageSize: 2 })) names.push(name);
    assert.deepEqual(
      names,
      ['a', 'b', 'c'].map((key) => `tenants/listed/keys/${key}`),
    );
  });

  test('every mutation has its audit entry, with its caller', async () => {
    const name = await newKey();
    await keyward.rotateKey({ name });
    const entries = await sql(
      'SELECT method, caller, outcome FROM audit_entries WHERE resource = $1 ORDER BY at',
      [name],
    );
    assert.deepEqual(entries, [
      {
        method: 'keyward.v1.KeyService/CreateKey',
        caller: 'spiffe://keyward.test/tester',
        outcome: 'OK',
      },
      {
        method: 'keyward.v1.KeyService/RotateKey',
        caller: 'spiffe://keyward.test/tester',
        outcome: 'OK',
      },
    ]);
  });
});

describe('EncryptionService', () => {
  const context = { conversation: 'c-42', user: 'ada' };

  test('what was encrypted opens with the same context, in whatever order', async () => {
    const name = await newKey();
    const plaintext = randomBytes(1000);
    const { ciphertext, keyVersion } = await keyward.encrypt({
      name,
      plaintext,
      encryptionContext: context,
    });
    assert.equal(ciphertext.length, plaintext.length + 116);
    assert.equal(keyVersion, `${name}/versions/1`);
    const opened = await keyward.decrypt({
      parent: 'tenants/acme',
      ciphertext,
      encryptionContext: { user: 'ada', conversation: 'c-42' },
      key: name,
    });
    assert.deepEqual(opened.plaintext, plaintext);
    assert.equal(opened.keyVersion, keyVersion);
  });

  test('case 46: plaintexts of 0, 1 and 65,536 bytes are encrypted, one of 65,537 is refused', async () => {
    const name = await newKey();
    for (const length of [0, 1, 65_536]) {
      const plaintext = randomBytes(length);
      const { ciphertext } = await keyward.encrypt({ name, plaintext });
      assert.deepEqual(
        (await keyward.decrypt({ parent: 'tenants/acme', ciphertext })).plaintext,
        plaintext,
      );
    }
    const error = await failureOf(keyward.encrypt({ name, plaintext: Buffer.alloc(65_537) }));
    assert.equal(error.reason, 'INVALID_FIELD');
    assert.equal(error.fieldViolations[0]?.field, 'plaintext');
  });

  test('case 46: a context may have the key __proto__, and it counts', async () => {
    const name = await newKey();
    const encryptionContext = new Map([['__proto__', 'x']]);
    const { ciphertext } = await keyward.encrypt({
      name,
      plaintext: Buffer.from('p'),
      encryptionContext,
    });
    const opened = await keyward.decrypt({ parent: 'tenants/acme', ciphertext, encryptionContext });
    assert.equal(opened.plaintext.toString(), 'p');
    assert.equal(
      await reasonOf(keyward.decrypt({ parent: 'tenants/acme', ciphertext })),
      'DECRYPTION_FAILED',
    );
  });

  test('case 46: contexts beyond their limits are refused with the field', async () => {
    const name = await newKey();
    const contexts: Record<string, string>[] = [
      Object.fromEntries(Array.from({ length: 65 }, (_, index) => [`k${index}`, ''])),
      { key: 'v'.repeat(8190) },
      { '': 'empty key' },
      { 'keyward:reserved': '' },
      { 'with\u0000nul': '' },
      { value: 'line\nbreak' },
      { value: '\ufffd' },
    ];
    for (const encryptionContext of contexts) {
      const error = await failureOf(
        keyward.encrypt({ name, plaintext: Buffer.from('p'), encryptionContext }),
      );
      assert.equal(error.reason, 'INVALID_FIELD');
      assert.equal(error.fieldViolations[0]?.field, 'encryption_context');
    }
  });

  test('data keys of 16, 32 and 64 bytes are issued, 32 by default, no other', async () => {
    const name = await newKey();
    for (const length of [16, 32, 64, 0]) {
      const issued = await keyward.generateDataKey({ name, length, encryptionContext: context });
      assert.equal(issued.plaintext.length, length || 32);
      const opened = await keyward.decrypt({
        parent: 'tenants/acme',
        ciphertext: issued.wrappedDataKey,
        encryptionContext: context,
      });
      assert.deepEqual(opened.plaintext, issued.plaintext);
    }
    assert.equal(await reasonOf(keyward.generateDataKey({ name, length: 24 })), 'INVALID_FIELD');
  });

  test('whatever does not open fails alike: context, tenant, expected key, unknown key, changed byte, no ciphertext', async () => {
    const name = await newKey();
    const other = await newKey();
    const { ciphertext } = await keyward.encrypt({
      name,
      plaintext: Buffer.from('p'),
      encryptionContext: context,
    });
    const changed = (offset: number) => {
      const copy = Buffer.from(ciphertext);
      copy.writeUInt8(copy.readUInt8(offset) ^ 1, offset);
      return copy;
    };
    const parent = 'tenants/acme';
    const attempts = [
      { parent, ciphertext, encryptionContext: { ...context, user: 'eve' } },
      { parent, ciphertext },
      { parent: 'tenants/globex', ciphertext, encryptionContext: context },
      { parent, ciphertext, encryptionContext: context, key: other },
      { parent, ciphertext: Buffer.from('nothing of ours'), encryptionContext: context },
      { parent, ciphertext: Buffer.alloc(0), encryptionContext: context },
      ...[0, 1, 2, 3, 4, 23, 24, 56, 68, 100, 116].map((offset) => ({
        parent,
        ciphertext: changed(offset),
        encryptionContext: context,
      })),
    ];
    const failures = await Promise.all(
      attempts.map((attempt) => failureOf(keyward.decrypt(attempt))),
    );
    const shapes = failures.map(({ code, reason, message, fieldViolations }) => ({
      code,
      reason,
      message,
      fieldViolations,
    }));
    assert.equal(new Set(shapes.map((shape) => JSON.stringify(shape))).size, 1);
    assert.equal(shapes[0]?.reason, 'DECRYPTION_FAILED');
    assert.equal(shapes[0]?.code, 'INVALID_ARGUMENT');
  });

  test('an expected key of another tenant than the parent is a mistake in the request', async () => {
    const error = await failureOf(
      keyward.decrypt({
        parent: 'tenants/acme',
        ciphertext: Buffer.alloc(116),
        key: 'tenants/globex/keys/twice',
      }),
    );
    assert.equal(error.fieldViolations[0]?.field, 'key');
  });
});

describe('every call', () => {
  test('bad names are refused with their field before anything is looked up', async () => {
    const bad = [
      '',
      'acme',
      'tenants/',
      'tenants/Acme',
      'tenants/acme/',
      'tenants/a\u202eb',
      `tenants/${'a'.repeat(64)}`,
    ];
    for (const name of bad) {
      const error = await failureOf(keyward.getTenant({ name }));
      assert.equal(error.code, 'INVALID_ARGUMENT');
      assert.equal(error.fieldViolations[0]?.field, 'name');
    }
  });

  test('leaves one line in the log, with its request id and outcome and no payload', async () => {
    const name = await newKey();
    const from = shared.service.log.length;
    await keyward.encrypt({
      name,
      plaintext: Buffer.from('a-secret-plaintext'),
      encryptionContext: { c: 'ctx-value' },
    });
    const error = await failureOf(keyward.getKey({ name: `${name}-not` }));
    const line = await shared.service.logged(
      ({ requestId }) => requestId === error.requestId,
      from,
    );
    assert.equal(line['outcome'], 'RESOURCE_NOT_FOUND');
    const encrypted = await shared.service.logged(
      ({ method, resource }) =>
        method === 'keyward.v1.EncryptionService/Encrypt' && resource === name,
      from,
    );
    assert.equal(encrypted['outcome'], 'OK');
    const written = JSON.stringify(shared.service.log.slice(from));
    assert.doesNotMatch(written, /a-secret-plaintext|ctx-value/);
    assert.ok(!written.includes(Buffer.from('a-secret-plaintext').toString('base64')));
  });
});

async function sql(text: string, values: unknown[]): Promise<unknown[]> {
  const { default: pg } = await import('pg');
  const client = new pg.Client({ connectionString: shared.environment.urls.superuser });
  await client.connect();
  try {
    return (await client.query(text, values)).rows;
  } finally {
    await client.end();
  }
}
