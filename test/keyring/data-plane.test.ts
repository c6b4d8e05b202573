/**
 * The rest of the data plane over the wire: re-encryption, data keys without plaintext, random
 * bytes, checksums, batches.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { describe, test } from 'node:test';
import type { KeywardClient } from 'keyward-client';
import { crc32c } from '../../src/operations/crc32c.ts';
import { failureOf, reasonOf, sharedService } from '../support/kit.ts';

const PARENT = 'tenants/acme';
let keyward: KeywardClient;
sharedService(async (client) => {
  keyward = client;
  for (const tenantId of ['acme', 'globex']) {
    await keyward.createTenant({ tenantId });
    await keyward.createKey({ parent: `tenants/${tenantId}`, keyId: 'k' });
  }
});

const newKey = async () =>
  (await keyward.createKey({ parent: PARENT, keyId: `k-${randomBytes(6).toString('hex')}` })).name;

describe('ReEncrypt', () => {
  const from = { conversation: '1' };
  const to = { conversation: '2' };

  test('brings a ciphertext under the new primary and to another context', async () => {
    const name = await newKey();
    const { ciphertext } = await keyward.encrypt({
      name,
      plaintext: Buffer.from('p'),
      encryptionContext: from,
    });
    await keyward.rotateKey({ name });
    const done = await keyward.reEncrypt({
      name,
      ciphertext,
      sourceEncryptionContext: from,
      destinationEncryptionContext: to,
    });
    assert.deepEqual(
      [done.sourceKeyVersion, done.keyVersion],
      [`${name}/versions/1`, `${name}/versions/2`],
    );
    const opened = await keyward.decrypt({
      parent: PARENT,
      ciphertext: done.ciphertext,
      encryptionContext: to,
    });
    assert.equal(opened.plaintext.toString(), 'p');
    assert.equal(
      await reasonOf(
        keyward.decrypt({ parent: PARENT, ciphertext: done.ciphertext, encryptionContext: from }),
      ),
      'DECRYPTION_FAILED',
    );
  });

  test('brings a wrapped data key under another key, and it stays the same data key', async () => {
    const [source, name] = [await newKey(), await newKey()];
    const { plaintext, wrappedDataKey } = await keyward.generateDataKey({ name: source });
    const { ciphertext } = await keyward.reEncrypt({
      name,
      ciphertext: wrappedDataKey,
      sourceKey: source,
    });
    assert.equal(ciphertext[2], wrappedDataKey[2], 'the purpose');
    assert.deepEqual(
      (await keyward.decrypt({ parent: PARENT, ciphertext, key: name })).plaintext,
      plaintext,
    );
  });

  test('of another tenant, another expected key or a wrong source context fails as decrypting does', async () => {
    const name = await newKey();
    const { ciphertext } = await keyward.encrypt({
      name,
      plaintext: Buffer.from('p'),
      encryptionContext: from,
    });
    const attempts = [
      { name: 'tenants/globex/keys/k', ciphertext, sourceEncryptionContext: from },
      { name, ciphertext, sourceEncryptionContext: to },
      { name, ciphertext, sourceEncryptionContext: from, sourceKey: await newKey() },
    ];
    for (const attempt of attempts)
      assert.equal(await reasonOf(keyward.reEncrypt(attempt)), 'DECRYPTION_FAILED');
    const error = await failureOf(
      keyward.reEncrypt({
        name,
        ciphertext,
        sourceEncryptionContext: from,
        sourceKey: 'tenants/globex/keys/k',
      }),
    );
    assert.equal(error.fieldViolations[0]?.field, 'source_key');
  });
});

describe('data keys and random bytes', () => {
  test('a data key issued without plaintext opens to as many bytes as were asked for', async () => {
    const name = await newKey();
    const issued = await keyward.generateDataKeyWithoutPlaintext({ name, length: 64 });
    assert.ok(!('plaintext' in issued));
    const { plaintext } = await keyward.decrypt({
      parent: PARENT,
      ciphertext: issued.wrappedDataKey,
    });
    assert.equal(plaintext.length, 64);
  });

  test('1 to 1,024 random bytes are given, no two alike, and no others', async () => {
    const { data } = await keyward.generateRandomBytes({ parent: PARENT, length: 1024 });
    assert.equal(data.length, 1024);
    assert.notDeepEqual(
      (await keyward.generateRandomBytes({ parent: PARENT, length: 1024 })).data,
      data,
    );
    for (const length of [0, 1025, -1]) {
      assert.equal(
        await reasonOf(keyward.generateRandomBytes({ parent: PARENT, length })),
        'INVALID_FIELD',
      );
    }
  });
});

describe('checksums', () => {
  test('of the answer are those of its bytes', async () => {
    const name = await newKey();
    const plaintext = randomBytes(10_000);
    const sealed = await keyward.encrypt({ name, plaintext });
    assert.equal(sealed.ciphertextCrc32c, crc32c(sealed.ciphertext));
    const opened = await keyward.decrypt({ parent: PARENT, ciphertext: sealed.ciphertext });
    assert.equal(opened.plaintextCrc32c, crc32c(plaintext));
  });

  test('that do not match what arrived are refused with the field, and nothing is done', async () => {
    const name = await newKey();
    const plaintext = Buffer.from('p');
    const good = await keyward.encrypt({ name, plaintext, plaintextCrc32c: crc32c(plaintext) });
    assert.equal(good.verifiedPlaintextCrc32c, true);
    const attempts = [
      keyward.encrypt({ name, plaintext, plaintextCrc32c: crc32c(plaintext) ^ 1 }),
      keyward.decrypt({ parent: PARENT, ciphertext: good.ciphertext, ciphertextCrc32c: 0 }),
      keyward.reEncrypt({ name, ciphertext: good.ciphertext, ciphertextCrc32c: 0 }),
    ];
    for (const error of await Promise.all(attempts.map(failureOf))) {
      assert.deepEqual([error.code, error.reason], ['INVALID_ARGUMENT', 'CHECKSUM_MISMATCH']);
      assert.match(error.fieldViolations[0]?.field ?? '', /_crc32c$/);
    }
  });

  test('are CRC32C as published', () => {
    assert.equal(crc32c(Buffer.from('123456789')), 0xe3069283);
    assert.equal(crc32c(Buffer.alloc(32)), 0x8a9136aa);
    assert.equal(crc32c(Buffer.alloc(32, 0xff)), 0x62a8ab43);
    assert.equal(crc32c(Buffer.alloc(0)), 0);
  });
});

describe('batches', () => {
  test('give each item its own result, in order', async () => {
    const name = await newKey();
    const requests = Array.from({ length: 300 }, (_, index) => ({
      name,
      plaintext: Buffer.from(`item ${index}`),
    }));
    const encrypted = await keyward.batchEncrypt({ parent: PARENT, requests });
    const ciphertexts = encrypted.map((result) =>
      'response' in result ? result.response.ciphertext : Buffer.alloc(0),
    );
    const opened = await keyward.batchDecrypt({
      parent: PARENT,
      requests: ciphertexts.map((ciphertext) => ({ parent: PARENT, ciphertext })),
    });
    assert.deepEqual(
      opened.map((result) => ('response' in result ? result.response.plaintext.toString() : '')),
      requests.map(({ plaintext }) => plaintext.toString()),
    );
    const reEncrypted = await keyward.batchReEncrypt({
      parent: PARENT,
      requests: ciphertexts.slice(0, 3).map((ciphertext) => ({ name, ciphertext })),
    });
    assert.ok(reEncrypted.every((result) => 'response' in result));
    const dataKeys = await keyward.batchGenerateDataKey({
      parent: PARENT,
      requests: [{ name }, { name, length: 16 }],
    });
    assert.deepEqual(
      dataKeys.map((result) => 'response' in result && result.response.plaintext.length),
      [32, 16],
    );
  });

  test('an item that fails says what the call alone would have said, and the others are done', async () => {
    const name = await newKey();
    const { ciphertext } = await keyward.encrypt({ name, plaintext: Buffer.from('p') });
    const results = await keyward.batchDecrypt({
      parent: PARENT,
      requests: [
        { parent: PARENT, ciphertext },
        { parent: PARENT, ciphertext: Buffer.from('nothing') },
        { parent: 'tenants/globex', ciphertext },
        { parent: 'nonsense', ciphertext },
        { parent: PARENT, ciphertext },
      ],
    });
    const outcomes = results.map((result) => ('response' in result ? 'OK' : result.error.reason));
    assert.deepEqual(outcomes, ['OK', 'DECRYPTION_FAILED', 'INVALID_FIELD', 'INVALID_FIELD', 'OK']);
    const nonsense = results[3];
    assert.ok(nonsense && 'error' in nonsense);
    assert.equal(nonsense.error.fieldViolations[0]?.field, 'requests[3].parent');
    assert.equal(nonsense.error.code, 'INVALID_ARGUMENT');
  });

  test('of more than a megabyte are taken like others', async () => {
    const name = await newKey();
    const requests = Array.from({ length: 1000 }, (_, index) => ({
      name,
      plaintext: Buffer.alloc(1024, index),
      encryptionContext: { index: String(index), purpose: 'large' },
    }));
    const encrypted = await keyward.batchEncrypt({ parent: PARENT, requests });
    const again = await keyward.batchReEncrypt({
      parent: PARENT,
      requests: encrypted.map((result, index) => ({
        name,
        ciphertext: 'response' in result ? result.response.ciphertext : Buffer.alloc(0),
        sourceEncryptionContext: requests[index]?.encryptionContext ?? {},
      })),
    });
    assert.ok(again.every((result) => 'response' in result));
  });

  test('have 1 to 1,000 items', async () => {
    const name = await newKey();
    const requests = Array.from({ length: 1001 }, () => ({ name, plaintext: Buffer.from('p') }));
    for (const items of [[], requests]) {
      const error = await failureOf(keyward.batchEncrypt({ parent: PARENT, requests: items }));
      assert.equal(error.fieldViolations[0]?.field, 'requests');
    }
    assert.equal(
      (await keyward.batchEncrypt({ parent: PARENT, requests: requests.slice(1) })).length,
      1000,
    );
  });
});
