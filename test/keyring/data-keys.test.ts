/**
 * Stored data keys over the wire: made, opened, listed, deleted; what binds each to its row; and
 * none that was acknowledged lost to rotations that run meanwhile.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { describe, test } from 'node:test';
import type { CreateDataKeyRequest, KeywardClient } from 'keyward-client';
import { crc32c } from '../../src/operations/crc32c.ts';
import {
  eventually,
  failureOf,
  newEnvironment,
  reasonOf,
  sharedService,
  startService,
} from '../support/kit.ts';
import {
  assertOpen,
  endOf,
  expireLeases,
  idsOf,
  jobOf,
  newId,
  QUICK,
  sql,
  storeDataKeys,
  versionsInUse,
} from '../support/reconciling.ts';

const PARENT = 'tenants/acme';
const CONTEXT = { conversation: 'c-42', user: 'ada' };
let keyward: KeywardClient;
const shared = sharedService(async (client) => {
  keyward = client;
  for (const tenantId of ['acme', 'globex']) await keyward.createTenant({ tenantId });
  await keyward.createKey({ parent: 'tenants/globex', keyId: 'k' });
}, QUICK);

const newKey = async () => (await keyward.createKey({ parent: PARENT, keyId: newId('k') })).name;
const ciphertextOf = async (name: string): Promise<Buffer> => {
  const { keyId } = await idsOf(shared.environment, name);
  const [row] = await sql<{ ciphertext: Buffer }>(
    shared.environment,
    'SELECT ciphertext FROM data_keys WHERE key_id = $1 AND name = $2',
    [keyId, name.split('/').at(-1)],
  );
  assert.ok(row);
  return row.ciphertext;
};

describe('making and opening', () => {
  test('a data key opens to the plaintext that was returned when it was made, with its checksum', async () => {
    const parent = await newKey();
    const made = await keyward.createDataKey({
      parent,
      dataKeyId: 'orders',
      encryptionContext: CONTEXT,
      returnPlaintext: true,
    });
    assert.equal(made.dataKey.name, `${parent}/dataKeys/orders`);
    assert.match(
      made.dataKey.uid,
      /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
    );
    assert.equal(made.dataKey.keyVersion, `${parent}/versions/1`);
    assert.equal(made.dataKey.length, 32);
    assert.equal(made.dataKey.rewrapTime, undefined);
    assert.notEqual(made.dataKey.etag, '');
    assert.equal(made.plaintext.length, 32);
    assert.equal(made.plaintextCrc32c, crc32c(made.plaintext));
    const opened = await keyward.getDataKey({
      name: made.dataKey.name,
      encryptionContext: CONTEXT,
    });
    assert.deepEqual(opened, made);
  });

  test('without an id it gets one, each its own, that can be named', async () => {
    const parent = await newKey();
    const made = await Promise.all([1, 2, 3].map(() => keyward.createDataKey({ parent })));
    const names = made.map(({ dataKey }) => dataKey.name);
    assert.equal(new Set(names).size, 3);
    for (const name of names) {
      assert.match(name, new RegExp(`^${parent}/dataKeys/[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`));
      assert.equal((await keyward.getDataKey({ name })).dataKey.name, name);
    }
  });

  test('a plaintext that was not asked for does not leave the service, not as a checksum either', async () => {
    const parent = await newKey();
    const made = await keyward.createDataKey({ parent });
    assert.deepEqual([made.plaintext, made.plaintextCrc32c], [undefined, undefined]);
    const { plaintext } = await keyward.getDataKey({ name: made.dataKey.name });
    assert.notDeepEqual(plaintext, Buffer.alloc(32));
  });

  test('data keys are of 16, 32 and 64 bytes, 32 by default, and of no other length', async () => {
    const parent = await newKey();
    for (const length of [16, 32, 64, 0]) {
      const made = await keyward.createDataKey({ parent, length, returnPlaintext: true });
      assert.deepEqual([made.dataKey.length, made.plaintext.length], [length || 32, length || 32]);
    }
    for (const length of [-1, 1, 24, 33, 65, 2 ** 31 - 1]) {
      const error = await failureOf(keyward.createDataKey({ parent, length }));
      assert.deepEqual(
        [error.reason, error.fieldViolations[0]?.field],
        ['INVALID_FIELD', 'length'],
      );
    }
  });

  test('it opens with its own context only, in whatever order', async () => {
    const parent = await newKey();
    const { dataKey } = await keyward.createDataKey({ parent, encryptionContext: CONTEXT });
    const { name } = dataKey;
    await keyward.getDataKey({ name, encryptionContext: { user: 'ada', conversation: 'c-42' } });
    const others: Record<string, string>[] = [
      {},
      { conversation: 'c-42' },
      { ...CONTEXT, user: 'eve' },
      { ...CONTEXT, more: '' },
      { Conversation: 'c-42', user: 'ada' },
    ];
    for (const encryptionContext of others) {
      const error = await failureOf(keyward.getDataKey({ name, encryptionContext }));
      assert.deepEqual([error.code, error.reason], ['INVALID_ARGUMENT', 'DECRYPTION_FAILED']);
    }
  });

  test('a name is taken within its key, and the data key that has it stays as it is', async () => {
    const [parent, other] = [await newKey(), await newKey()];
    const first = await keyward.createDataKey({ parent, dataKeyId: 'dk', returnPlaintext: true });
    const error = await failureOf(
      keyward.createDataKey({ parent, dataKeyId: 'dk', returnPlaintext: true }),
    );
    assert.deepEqual([error.code, error.reason], ['ALREADY_EXISTS', 'RESOURCE_EXISTS']);
    assert.deepEqual(await keyward.getDataKey({ name: first.dataKey.name }), first);
    await keyward.createDataKey({ parent: other, dataKeyId: 'dk' });
  });

  test('of many who make one name at once, one does', async () => {
    const parent = await newKey();
    const outcomes = await Promise.allSettled(
      Array.from({ length: 8 }, () => keyward.createDataKey({ parent, dataKeyId: 'dk' })),
    );
    assert.equal(outcomes.filter(({ status }) => status === 'fulfilled').length, 1);
    for (const outcome of outcomes)
      if (outcome.status === 'rejected') assert.equal(outcome.reason.reason, 'RESOURCE_EXISTS');
  });

  test('making one leaves an audit entry with its name and its caller, and no plaintext in the log', async () => {
    const parent = await newKey();
    const from = shared.service.log.length;
    const made = await keyward.createDataKey({
      parent,
      dataKeyId: 'audited',
      encryptionContext: { c: 'ctx-value' },
      returnPlaintext: true,
    });
    await keyward.getDataKey({ name: made.dataKey.name, encryptionContext: { c: 'ctx-value' } });
    const entries = await sql(
      shared.environment,
      'SELECT method, caller FROM audit_entries WHERE resource = $1 AND entry_id IS NOT NULL',
      [made.dataKey.name],
    );
    assert.deepEqual(entries, [
      { method: 'keyward.v1.DataKeyService/CreateDataKey', caller: 'spiffe://keyward.test/tester' },
    ]);
    await shared.service.logged(
      ({ method }) => method === 'keyward.v1.DataKeyService/GetDataKey',
      from,
    );
    const written = JSON.stringify(shared.service.log.slice(from));
    assert.doesNotMatch(written, /ctx-value/);
    for (const form of ['hex', 'base64'] as const)
      assert.ok(!written.includes(made.plaintext.toString(form)));
  });
});

describe('request ids', () => {
  test('case 89: the same request twice has one effect and one answer, with its plaintext, also at once', async () => {
    const parent = await newKey();
    for (const dataKeyId of ['once', '']) {
      const request = {
        parent,
        dataKeyId,
        encryptionContext: CONTEXT,
        returnPlaintext: true,
        requestId: randomUUID(),
      } as const;
      const answers = await Promise.all([1, 2, 3].map(() => keyward.createDataKey(request)));
      for (const answer of answers) assert.deepEqual(answer, answers[0]);
      assert.deepEqual(await keyward.createDataKey(request), answers[0]);
    }
    assert.equal((await keyward.listDataKeys({ parent })).dataKeys.length, 2);
  });

  test('case 89: after a rotation the answer is as it was, and has the same plaintext', async () => {
    const parent = await newKey();
    const request = { parent, returnPlaintext: true, requestId: randomUUID() } as const;
    const made = await keyward.createDataKey(request);
    await keyward.rotateKey({ name: parent });
    await endOf(keyward, await jobOf(keyward, parent));
    const again = await keyward.createDataKey(request);
    assert.deepEqual(again.plaintext, made.plaintext);
    assert.deepEqual(
      [again.dataKey.uid, again.dataKey.keyVersion],
      [made.dataKey.uid, `${parent}/versions/1`],
    );
  });

  test('case 89: of another body, REQUEST_ID_REUSED, whatever differs', async () => {
    const parent = await newKey();
    const request: CreateDataKeyRequest = {
      parent,
      dataKeyId: 'a',
      encryptionContext: CONTEXT,
      requestId: randomUUID(),
    };
    await keyward.createDataKey(request);
    const changes: Partial<CreateDataKeyRequest>[] = [
      { dataKeyId: 'b' },
      { parent: await newKey() },
      { encryptionContext: { ...CONTEXT, user: 'eve' } },
      { length: 64 },
      { returnPlaintext: true },
    ];
    for (const change of changes) {
      const error = await failureOf(keyward.createDataKey({ ...request, ...change }));
      assert.deepEqual([error.code, error.reason], ['INVALID_ARGUMENT', 'REQUEST_ID_REUSED']);
    }
    assert.equal((await keyward.listDataKeys({ parent })).dataKeys.length, 1);
  });

  test('a deletion sent again deletes nothing that was made meanwhile', async () => {
    const parent = await newKey();
    const { dataKey } = await keyward.createDataKey({ parent, dataKeyId: 'dk' });
    const request = { name: dataKey.name, requestId: randomUUID() };
    await keyward.deleteDataKey(request);
    const { dataKey: another } = await keyward.createDataKey({ parent, dataKeyId: 'dk' });
    await keyward.deleteDataKey(request);
    assert.equal((await keyward.getDataKey({ name: dataKey.name })).dataKey.uid, another.uid);
  });

  test('a creation sent again after its data key is gone does not pass another off as it', async () => {
    const parent = await newKey();
    const request = {
      parent,
      dataKeyId: 'dk',
      returnPlaintext: true,
      requestId: randomUUID(),
    } as const;
    const { dataKey } = await keyward.createDataKey(request);
    await keyward.deleteDataKey({ name: dataKey.name });
    assert.equal(await reasonOf(keyward.createDataKey(request)), 'RESOURCE_NOT_FOUND');
    await keyward.createDataKey({ parent, dataKeyId: 'dk' });
    assert.equal(await reasonOf(keyward.createDataKey(request)), 'RESOURCE_NOT_FOUND');
  });
});

describe('lists', () => {
  test('are in the order of names, page by page, without plaintext, and of the one key only', async () => {
    const [parent, other] = [await newKey(), await newKey()];
    for (const dataKeyId of ['c', 'a-1', 'a', 'b', 'a0'])
      await keyward.createDataKey({ parent, dataKeyId });
    await keyward.createDataKey({ parent: other, dataKeyId: 'foreign' });
    const names: string[] = [];
    for await (const dataKey of keyward.dataKeys(parent, { pageSize: 2 })) {
      assert.ok(!('plaintext' in dataKey));
      names.push(dataKey.name.slice(`${parent}/dataKeys/`.length));
    }
    assert.deepEqual(names, ['a', 'a-1', 'a0', 'b', 'c']);
    const { dataKeys, nextPageToken } = await keyward.listDataKeys({ parent, pageSize: 5 });
    assert.deepEqual([dataKeys.length, nextPageToken], [5, '']);
  });

  test('can be asked for those under a version, and a token is good for its own list only', async () => {
    const parent = await newKey();
    // Nothing is re-wrapped meanwhile.
    await keyward.updateKey({ key: { name: parent, maintenancePaused: true } });
    for (const dataKeyId of ['a', 'b']) await keyward.createDataKey({ parent, dataKeyId });
    await keyward.rotateKey({ name: parent });
    for (const dataKeyId of ['c', 'd']) await keyward.createDataKey({ parent, dataKeyId });
    const names = async (filter: string) => {
      const found: string[] = [];
      for await (const { name } of keyward.dataKeys(parent, { filter, pageSize: 1 }))
        found.push(name.slice(-1));
      return found.join('');
    };
    assert.equal(await names('version = 1'), 'ab');
    assert.equal(await names('version = "2"'), 'cd');
    assert.equal(await names('version != 2'), 'ab');
    assert.equal(await names('version = 3'), '');
    assert.equal(await names('version = x'), '');
    const { nextPageToken } = await keyward.listDataKeys({
      parent,
      filter: 'version = 1',
      pageSize: 1,
    });
    const misuses = [
      { parent, pageToken: nextPageToken },
      { parent: await newKey(), filter: 'version = 1', pageToken: nextPageToken },
      { parent, filter: 'version = 1', pageToken: 'AAAA' },
    ];
    for (const misuse of misuses) {
      const error = await failureOf(keyward.listDataKeys(misuse));
      assert.deepEqual(
        [error.reason, error.fieldViolations[0]?.field],
        ['INVALID_FIELD', 'page_token'],
      );
    }
  });
});

describe('deleting', () => {
  test('a deleted data key is gone, and one that is made anew under its name is another', async () => {
    const parent = await newKey();
    const first = await keyward.createDataKey({ parent, dataKeyId: 'dk', returnPlaintext: true });
    const { name, etag } = first.dataKey;
    await keyward.deleteDataKey({ name });
    assert.equal(await reasonOf(keyward.getDataKey({ name })), 'RESOURCE_NOT_FOUND');
    assert.equal(await reasonOf(keyward.deleteDataKey({ name })), 'RESOURCE_NOT_FOUND');
    const second = await keyward.createDataKey({ parent, dataKeyId: 'dk', returnPlaintext: true });
    assert.notEqual(second.dataKey.uid, first.dataKey.uid);
    assert.notDeepEqual(second.plaintext, first.plaintext);
    const error = await failureOf(keyward.deleteDataKey({ name, etag }));
    assert.deepEqual([error.code, error.reason], ['ABORTED', 'ETAG_MISMATCH']);
    await keyward.deleteDataKey({ name, etag: second.dataKey.etag });
    assert.deepEqual((await keyward.listDataKeys({ parent })).dataKeys, []);
  });

  test('re-wrapping changes neither etag nor uid, so that what was seen can still be deleted', async () => {
    const parent = await newKey();
    const { dataKey } = await keyward.createDataKey({ parent });
    await keyward.rotateKey({ name: parent });
    await endOf(keyward, await jobOf(keyward, parent));
    const { dataKey: now } = await keyward.getDataKey({ name: dataKey.name });
    assert.deepEqual(
      [now.uid, now.etag, now.createTime],
      [dataKey.uid, dataKey.etag, dataKey.createTime],
    );
    assert.equal(now.keyVersion, `${parent}/versions/2`);
    assert.ok(now.rewrapTime !== undefined && now.rewrapTime > dataKey.createTime);
    await keyward.deleteDataKey({ name: dataKey.name, etag: dataKey.etag });
  });
});

describe('what a row is bound to', () => {
  test('case 36: ciphertexts swapped between two rows open neither', async () => {
    const parent = await newKey();
    const names = await Promise.all(
      ['a', 'b'].map(
        async (dataKeyId) => (await keyward.createDataKey({ parent, dataKeyId })).dataKey.name,
      ),
    );
    const { keyId } = await idsOf(shared.environment, parent);
    const swap = () =>
      sql(
        shared.environment,
        `UPDATE data_keys d SET ciphertext = o.ciphertext FROM data_keys o
         WHERE d.key_id = $1 AND o.key_id = $1 AND d.name <> o.name`,
        [keyId],
      );
    await swap();
    for (const name of names)
      assert.equal(await reasonOf(keyward.getDataKey({ name })), 'DECRYPTION_FAILED');
    await swap();
    for (const name of names) await keyward.getDataKey({ name });
  });

  test('a whole row that stands under another name is still the data key that it was', async () => {
    const parent = await newKey();
    const made = await keyward.createDataKey({ parent, dataKeyId: 'a', returnPlaintext: true });
    const { keyId } = await idsOf(shared.environment, parent);
    // Its name is no part of what it is bound to: whoever can write rows can rename them, and
    // nothing more.
    await sql(shared.environment, `UPDATE data_keys SET name = 'b' WHERE key_id = $1`, [keyId]);
    assert.deepEqual(
      (await keyward.getDataKey({ name: `${parent}/dataKeys/b` })).plaintext,
      made.plaintext,
    );
  });

  test('a stored context of another data key is of no use to its thief', async () => {
    const parent = await newKey();
    const { dataKey } = await keyward.createDataKey({
      parent,
      dataKeyId: 'a',
      encryptionContext: CONTEXT,
    });
    await keyward.createDataKey({ parent, dataKeyId: 'b' });
    const { keyId } = await idsOf(shared.environment, parent);
    await sql(
      shared.environment,
      `UPDATE data_keys d SET context_digest = o.context_digest FROM data_keys o
       WHERE d.key_id = $1 AND o.key_id = $1 AND d.name = 'a' AND o.name = 'b'`,
      [keyId],
    );
    assert.equal(await reasonOf(keyward.getDataKey({ name: dataKey.name })), 'DECRYPTION_FAILED');
    await keyward.getDataKey({ name: dataKey.name, encryptionContext: CONTEXT });
  });

  test('the database refuses a ciphertext of another key, of another purpose, and a version of its own', async () => {
    const [parent, other] = [await newKey(), await newKey()];
    const { dataKey } = await keyward.createDataKey({ parent });
    const { wrappedDataKey } = await keyward.generateDataKey({ name: parent });
    const foreign = await ciphertextOf(
      (await keyward.createDataKey({ parent: other })).dataKey.name,
    );
    const { keyId } = await idsOf(shared.environment, parent);
    for (const ciphertext of [foreign, wrappedDataKey, Buffer.alloc(148)]) {
      await assert.rejects(
        sql(shared.environment, 'UPDATE data_keys SET ciphertext = $2 WHERE key_id = $1', [
          keyId,
          ciphertext,
        ]),
        { code: '23514' },
      );
    }
    await assert.rejects(
      sql(shared.environment, 'UPDATE data_keys SET version = 2 WHERE key_id = $1', [keyId]),
      { code: '428C9' },
    );
    await keyward.getDataKey({ name: dataKey.name });
  });

  test('its ciphertext is no caller’s to open: Decrypt and ReEncrypt refuse it', async () => {
    const parent = await newKey();
    const { dataKey } = await keyward.createDataKey({ parent, encryptionContext: CONTEXT });
    const ciphertext = await ciphertextOf(dataKey.name);
    assert.equal(ciphertext[2], 3, 'the purpose');
    const attempts = [
      () => keyward.decrypt({ parent: PARENT, ciphertext, encryptionContext: CONTEXT }),
      () => keyward.decrypt({ parent: PARENT, ciphertext }),
      () => keyward.reEncrypt({ name: parent, ciphertext, sourceEncryptionContext: CONTEXT }),
    ];
    for (const attempt of attempts) assert.equal(await reasonOf(attempt()), 'DECRYPTION_FAILED');
    // Nor does it help to say that it is something else.
    for (const purpose of [1, 2]) {
      const forged = Buffer.from(ciphertext);
      forged.writeUInt8(purpose, 2);
      assert.equal(
        await reasonOf(
          keyward.decrypt({ parent: PARENT, ciphertext: forged, encryptionContext: CONTEXT }),
        ),
        'DECRYPTION_FAILED',
      );
    }
  });

  test('a payload that is put in a data key’s place does not open as one', async () => {
    const parent = await newKey();
    const { dataKey } = await keyward.createDataKey({ parent });
    const { keyId } = await idsOf(shared.environment, parent);
    const { ciphertext } = await keyward.encrypt({ name: parent, plaintext: Buffer.alloc(32) });
    const forged = Buffer.from(ciphertext);
    forged.writeUInt8(3, 2);
    await sql(shared.environment, 'UPDATE data_keys SET ciphertext = $2 WHERE key_id = $1', [
      keyId,
      forged,
    ]);
    assert.equal(await reasonOf(keyward.getDataKey({ name: dataKey.name })), 'DECRYPTION_FAILED');
  });

  test('a ciphertext that names a version that is not there is a corrupt row, and nobody’s mistake', async () => {
    const parent = await newKey();
    const { dataKey } = await keyward.createDataKey({ parent });
    const { keyId } = await idsOf(shared.environment, parent);
    await sql(
      shared.environment,
      'UPDATE data_keys SET ciphertext = set_byte(ciphertext, 23, 9) WHERE key_id = $1',
      [keyId],
    );
    const from = shared.service.log.length;
    const error = await failureOf(keyward.getDataKey({ name: dataKey.name }));
    assert.deepEqual([error.code, error.reason], ['DATA_LOSS', 'STORED_ROW_CORRUPT']);
    assert.match(error.message, /operators have been alerted/);
    const { resource } = await shared.service.logged(
      ({ alert }) => alert === 'stored-row-corrupt',
      from,
    );
    assert.equal(resource, `${parent}/versions/9`);
  });
});

describe('tenants and states', () => {
  test('case 28: by another tenant’s name nothing is there, just as if it were not', async () => {
    const parent = await newKey();
    const { dataKey } = await keyward.createDataKey({ parent, dataKeyId: 'dk' });
    const foreign = dataKey.name.replace('acme', 'globex');
    const nobody = 'tenants/globex/keys/nobody/dataKeys/dk';
    const calls: ((name: string) => Promise<unknown>)[] = [
      (name) => keyward.getDataKey({ name }),
      (name) => keyward.deleteDataKey({ name }),
      (name) => keyward.listDataKeys({ parent: name.split('/').slice(0, 4).join('/') }),
      (name) => keyward.createDataKey({ parent: name.split('/').slice(0, 4).join('/') }),
    ];
    for (const call of calls) {
      const [seen, absent] = await Promise.all(
        [foreign, nobody].map((name) => failureOf(call(name))),
      );
      assert.deepEqual([seen?.code, seen?.reason], ['NOT_FOUND', 'RESOURCE_NOT_FOUND']);
      assert.deepEqual([seen?.message, seen?.code], [absent?.message, absent?.code]);
    }
    await keyward.getDataKey({ name: dataKey.name });
  });

  test('case 59: of a disabled tenant, key or version nothing is made and nothing opened, and the state is told', async () => {
    await keyward.createTenant({ tenantId: 'off' });
    const { name: parent } = await keyward.createKey({ parent: 'tenants/off', keyId: 'k' });
    const { dataKey } = await keyward.createDataKey({ parent });
    const version = `${parent}/versions/1`;
    const switches = [
      [
        () => keyward.disableTenant({ name: 'tenants/off' }),
        () => keyward.enableTenant({ name: 'tenants/off' }),
      ],
      [() => keyward.disableKey({ name: parent }), () => keyward.enableKey({ name: parent })],
      [
        () => keyward.disableKeyVersion({ name: version }),
        () => keyward.enableKeyVersion({ name: version }),
      ],
    ] as const;
    const reasons = ['TENANT_DISABLED', 'KEY_NOT_ENABLED', 'KEY_VERSION_NOT_ENABLED'];
    for (const [index, [off, on]] of switches.entries()) {
      await off();
      for (const call of [
        () => keyward.createDataKey({ parent }),
        () => keyward.createDataKey({ parent, returnPlaintext: true }),
        () => keyward.getDataKey({ name: dataKey.name }),
      ]) {
        const error = await failureOf(call());
        assert.deepEqual([error.code, error.reason], ['FAILED_PRECONDITION', reasons[index]]);
        if (index > 0) assert.equal(error.metadata.get('state'), 'DISABLED');
      }
      await on();
      await keyward.getDataKey({ name: dataKey.name });
    }
    assert.equal((await keyward.listDataKeys({ parent })).dataKeys.length, 1);
  });

  test('an older version that is disabled closes what is still under it, and nothing else', async () => {
    const parent = await newKey();
    await keyward.updateKey({ key: { name: parent, maintenancePaused: true } });
    const old = await keyward.createDataKey({ parent });
    await keyward.rotateKey({ name: parent });
    const fresh = await keyward.createDataKey({ parent });
    await keyward.disableKeyVersion({ name: `${parent}/versions/1` });
    assert.equal(
      await reasonOf(keyward.getDataKey({ name: old.dataKey.name })),
      'KEY_VERSION_NOT_ENABLED',
    );
    await keyward.getDataKey({ name: fresh.dataKey.name });
  });
});

describe('bad input', () => {
  test('is refused with its field, before anything is made', async () => {
    const parent = await newKey();
    const name = `${parent}/dataKeys/dk`;
    const attempts: [string, Promise<unknown>][] = [
      ...['', 'tenants/acme', `${parent}/`, `${parent}/dataKeys/dk`, 'tenants/acme/keys/A'].map(
        (bad): [string, Promise<unknown>] => ['parent', keyward.createDataKey({ parent: bad })],
      ),
      ...['A', '1a', 'a-', 'a_b', 'a/b', 'a\n', 'ä', 'a'.repeat(64)].map(
        (dataKeyId): [string, Promise<unknown>] => [
          'data_key_id',
          keyward.createDataKey({ parent, dataKeyId }),
        ],
      ),
      ['encryption_context', keyward.createDataKey({ parent, encryptionContext: { '': 'x' } })],
      [
        'encryption_context',
        keyward.createDataKey({ parent, encryptionContext: { 'keyward:x': 'x' } }),
      ],
      [
        'encryption_context',
        keyward.createDataKey({ parent, encryptionContext: { key: 'v'.repeat(8190) } }),
      ],
      ['request_id', keyward.createDataKey({ parent, requestId: 'not-a-uuid' })],
      [
        'request_id',
        keyward.createDataKey({ parent, requestId: '00000000-0000-1000-8000-000000000000' }),
      ],
      ...[
        '',
        parent,
        `${parent}/dataKeys/`,
        `${parent}/versions/1`,
        `${name}/`,
        `${parent}/dataKeys/DK`,
      ].flatMap((bad): [string, Promise<unknown>][] => [
        ['name', keyward.getDataKey({ name: bad })],
        ['name', keyward.deleteDataKey({ name: bad })],
      ]),
      ['encryption_context', keyward.getDataKey({ name, encryptionContext: { value: '\u0000' } })],
      ['etag', keyward.deleteDataKey({ name, etag: 'x'.repeat(65) })],
      ['parent', keyward.listDataKeys({ parent: 'tenants/acme' })],
      ['page_size', keyward.listDataKeys({ parent, pageSize: 1001 })],
      ['page_size', keyward.listDataKeys({ parent, pageSize: -1 })],
      ['page_token', keyward.listDataKeys({ parent, pageToken: 'x' })],
      ['filter', keyward.listDataKeys({ parent, filter: 'state = ENABLED' })],
      ['filter', keyward.listDataKeys({ parent, filter: "version = 1' OR 1=1" })],
      ['filter', keyward.listDataKeys({ parent, filter: 'labels.a = b' })],
    ];
    const errors = await Promise.all(attempts.map(([, call]) => failureOf(call)));
    for (const [index, error] of errors.entries()) {
      const expected = attempts[index]?.[0];
      const seen = [error.code, error.reason, error.fieldViolations[0]?.field];
      assert.deepEqual(seen, ['INVALID_ARGUMENT', 'INVALID_FIELD', expected], `attempt ${index}`);
    }
    assert.deepEqual((await keyward.listDataKeys({ parent })).dataKeys, []);
  });

  test('what is not there is RESOURCE_NOT_FOUND', async () => {
    const parent = await newKey();
    const calls = [
      keyward.getDataKey({ name: `${parent}/dataKeys/nothing` }),
      keyward.deleteDataKey({ name: `${parent}/dataKeys/nothing` }),
      keyward.createDataKey({ parent: `${parent}-not` }),
      keyward.listDataKeys({ parent: `${parent}-not` }),
      keyward.createDataKey({ parent: 'tenants/nobody/keys/k' }),
    ];
    for (const reason of await Promise.all(calls.map(reasonOf)))
      assert.equal(reason, 'RESOURCE_NOT_FOUND');
  });
});

describe('under load', () => {
  test('what is made while the key is rotated all opens, and no straggler stays under an old version', async () => {
    const parent = await newKey();
    const plaintexts = new Map<string, Buffer>();
    // At a moment there may be no connection for one of so many: they say so, and are tried again.
    const persistent = shared.service.client({ retries: 10 });
    let ended = false;
    const make = async () => {
      while (!ended) {
        const made = await persistent.createDataKey({ parent, returnPlaintext: true });
        plaintexts.set(made.dataKey.name, made.plaintext);
      }
    };
    const making = Promise.all(Array.from({ length: 32 }, make));
    making.catch(() => {});
    try {
      for (let rotation = 2; rotation <= 6; rotation++) {
        const before = plaintexts.size;
        const { primary } = await persistent.rotateKey({ name: parent }, { timeoutMs: 10_000 });
        assert.equal(primary.name, `${parent}/versions/${rotation}`);
        await eventually(() => assert.ok(plaintexts.size > before + 20));
      }
    } finally {
      ended = true;
      await making;
    }
    const { state } = await endOf(keyward, await jobOf(keyward, parent));
    assert.equal(state, 'SUCCEEDED');
    assert.deepEqual(await versionsInUse(keyward, parent), [6]);
    await assertOpen(keyward, plaintexts);
    assert.equal(await countOf(parent), plaintexts.size);
  });

  test('case 80: a server killed while data keys are made loses none that was acknowledged', async () => {
    await using environment = await newEnvironment();
    const plaintexts = new Map<string, Buffer>();
    let parent = '';
    for (let round = 0; round < 2; round++) {
      await using service = await startService(environment, QUICK);
      const client = service.client();
      if (round === 0) {
        await client.createTenant({ tenantId: 'acme' });
        parent = (await client.createKey({ parent: PARENT, keyId: 'k' })).name;
      }
      const before = plaintexts.size;
      const make = async () => {
        for (;;) {
          const made = await client.createDataKey({ parent, returnPlaintext: true });
          plaintexts.set(made.dataKey.name, made.plaintext);
        }
      };
      const making = Promise.allSettled([
        ...Array.from({ length: 8 }, make),
        client.rotateKey({ name: parent }),
      ]);
      await eventually(() => assert.ok(plaintexts.size > before + 20));
      await service.kill();
      await making;
      await expireLeases(environment);
    }
    await using service = await startService(environment, QUICK);
    const client = service.client();
    await assertOpen(client, plaintexts);
    await eventually(async () =>
      assert.deepEqual(
        (await client.listRewrapJobs({ parent: PARENT, filter: 'state = RUNNING' })).rewrapJobs,
        [],
      ),
    );
    assert.equal((await versionsInUse(client, parent)).length, 1);
    await assertOpen(client, plaintexts);
  });

  async function countOf(parent: string): Promise<number> {
    let count = 0;
    for await (const _ of keyward.dataKeys(parent, { pageSize: 1000 })) count += 1;
    return count;
  }
});

test('many data keys made at once are each another', async () => {
  const parent = await newKey();
  const plaintexts = await storeDataKeys(keyward, parent, 100);
  assert.equal(new Set([...plaintexts.values()].map((bytes) => bytes.toString('hex'))).size, 100);
  await assertOpen(keyward, plaintexts);
});
