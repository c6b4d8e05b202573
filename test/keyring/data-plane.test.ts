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

  test('fail item by item for each reason as the call alone does', async () => {
    const [name, disabled] = [await newKey(), await newKey()];
    const plaintext = Buffer.from('p');
    const encryptionContext = { a: '1' };
    const sealed = async (key: string) =>
      (await keyward.encrypt({ name: key, plaintext, encryptionContext })).ciphertext;
    const [good, ofDisabled, foreign] = [
      await sealed(name),
      await sealed(disabled),
      await sealed('tenants/globex/keys/k'),
    ];
    const [inBatch] = await keyward.batchEncrypt({
      parent: PARENT,
      requests: [{ name, plaintext, encryptionContext }],
    });
    const ofEpoch = inBatch && 'response' in inBatch ? inBatch.response.ciphertext : good;
    assert.deepEqual([good[1], ofEpoch[1]], [1, 2], 'the suites');
    await keyward.disableKey({ name: disabled });
    const changed = (bytes: Buffer, at: number) => {
      const copy = Buffer.from(bytes);
      copy.writeUInt8(copy.readUInt8(at) ^ 1, at);
      return copy;
    };
    const base = { parent: PARENT, encryptionContext };
    const requests = [
      { ...base, ciphertext: good },
      { ...base, ciphertext: ofEpoch },
      { ...base, ciphertext: changed(good, 110) },
      ...[1, 2, 5, 20, 30, 60, 70, 100].map((at) => ({
        ...base,
        ciphertext: changed(ofEpoch, at),
      })),
      { ...base, ciphertext: ofEpoch, encryptionContext: {} },
      { ...base, ciphertext: ofDisabled },
      { ...base, ciphertext: changed(ofDisabled, 23) },
      { ...base, ciphertext: foreign },
      { ...base, ciphertext: Buffer.alloc(0) },
      { ...base, ciphertext: good, key: disabled },
      { ...base, ciphertext: good, key: name },
      { ...base, ciphertext: good, key: 'tenants/globex/keys/k' },
      { ...base, ciphertext: good, ciphertextCrc32c: 1 },
      { ...base, ciphertext: good, encryptionContext: { '': 'x' } },
    ];
    const alone = await Promise.all(
      requests.map((request) =>
        keyward.decrypt(request).then(
          () => 'OK',
          ({ reason }) => reason,
        ),
      ),
    );
    const results = await keyward.batchDecrypt({ parent: PARENT, requests });
    const together = results.map((result) => ('error' in result ? result.error.reason : 'OK'));
    assert.deepEqual(together, alone);
    assert.deepEqual(
      new Set(together),
      new Set(['OK', 'DECRYPTION_FAILED', 'KEY_NOT_ENABLED', 'INVALID_FIELD', 'CHECKSUM_MISMATCH']),
    );
  });

  test('are sealed as an epoch for each key version, and each ciphertext opens alone', async () => {
    const names = [await newKey(), await newKey()];
    const requests = Array.from({ length: 300 }, (_, index) => ({
      name: names[index % 2] ?? '',
      plaintext: Buffer.from(`item ${index}`),
    }));
    const results = await keyward.batchEncrypt({ parent: PARENT, requests });
    const ciphertexts = results.map((result) =>
      'response' in result ? result.response.ciphertext : assert.fail(result.error),
    );
    const salts = new Map(ciphertexts.map((each) => [each.toString('hex', 4, 56), each]));
    assert.equal(salts.size, 2, 'one salt for each key');
    const ivs = new Set(ciphertexts.map((each) => each.toString('hex', 4, 68)));
    assert.equal(ivs.size, 300, 'no IV twice in an epoch');
    for (const index of [0, 1, 299]) {
      const { plaintext } = await keyward.decrypt({
        parent: PARENT,
        ciphertext: ciphertexts[index] as Buffer,
      });
      assert.equal(plaintext.toString(), `item ${index}`);
    }
  });
});

describe('the context of a batch', () => {
  const shared = { conversation: '42', model: 'a' };

  test('is part of every item’s, which may add to it and repeat it', async () => {
    const name = await newKey();
    const plaintext = Buffer.from('p');
    const own = [{}, { turn: '1' }, { model: 'a', turn: '2' }];
    const sealed = await keyward.batchEncrypt({
      parent: PARENT,
      encryptionContext: shared,
      requests: own.map((encryptionContext) => ({ name, plaintext, encryptionContext })),
    });
    const ciphertexts = sealed.map((result) =>
      'response' in result ? result.response.ciphertext : assert.fail(result.error),
    );
    for (const [index, ciphertext] of ciphertexts.entries()) {
      const encryptionContext = { ...shared, ...own[index] };
      await keyward.decrypt({ parent: PARENT, ciphertext, encryptionContext });
      const without = keyward.decrypt({ parent: PARENT, ciphertext, ...{ encryptionContext: {} } });
      assert.equal(await reasonOf(without), 'DECRYPTION_FAILED');
    }
    const opened = await keyward.batchDecrypt({
      parent: PARENT,
      encryptionContext: shared,
      requests: ciphertexts.map((ciphertext, index) => ({
        parent: PARENT,
        ciphertext,
        ...(own[index] && { encryptionContext: own[index] }),
      })),
    });
    assert.ok(opened.every((result) => 'response' in result));
    const moved = await keyward.batchReEncrypt({
      parent: PARENT,
      sourceEncryptionContext: shared,
      destinationEncryptionContext: { archive: '1' },
      requests: ciphertexts.map((ciphertext, index) => ({
        name,
        ciphertext,
        sourceEncryptionContext: own[index] ?? {},
        destinationEncryptionContext: { index: String(index) },
      })),
    });
    for (const [index, result] of moved.entries()) {
      assert.ok('response' in result);
      await keyward.decrypt({
        parent: PARENT,
        ciphertext: result.response.ciphertext,
        encryptionContext: { index: String(index), archive: '1' },
      });
    }
    const [dataKey] = await keyward.batchGenerateDataKey({
      parent: PARENT,
      encryptionContext: shared,
      requests: [{ name }],
    });
    assert.ok(dataKey && 'response' in dataKey);
    const { plaintext: again } = await keyward.decrypt({
      parent: PARENT,
      ciphertext: dataKey.response.wrappedDataKey,
      encryptionContext: shared,
    });
    assert.deepEqual(again, dataKey.response.plaintext);
  });

  test('is not contradicted by an item, nor made too large by one; such an item fails alone', async () => {
    const name = await newKey();
    const plaintext = Buffer.from('p');
    const entries = (count: number, prefix: string) =>
      Object.fromEntries(Array.from({ length: count }, (_, index) => [`${prefix}${index}`, 'x']));
    const own = [
      { model: 'b' },
      entries(62, 'i'),
      entries(63, 'i'),
      { long: 'v'.repeat(8_180) },
      {},
    ];
    const results = await keyward.batchEncrypt({
      parent: PARENT,
      encryptionContext: shared,
      requests: own.map((encryptionContext) => ({ name, plaintext, encryptionContext })),
    });
    const errors = results.map((result) => ('error' in result ? result.error : undefined));
    assert.deepEqual(
      errors.map((error) => error?.fieldViolations[0]?.field),
      [0, 1, 2, 3, 4].map((index) =>
        [0, 2, 3].includes(index) ? `requests[${index}].encryption_context` : undefined,
      ),
    );
    assert.match(errors[0]?.message ?? '', /"model" another value than the batch/);
    assert.match(
      errors[2]?.message ?? '',
      /at most 64 entries, and has 65, with what the batch has/,
    );
    const moved = await keyward.batchReEncrypt({
      parent: PARENT,
      sourceEncryptionContext: shared,
      destinationEncryptionContext: shared,
      requests: [
        { name, ciphertext: Buffer.alloc(200), sourceEncryptionContext: { model: 'b' } },
        { name, ciphertext: Buffer.alloc(200), destinationEncryptionContext: { model: 'b' } },
      ],
    });
    assert.deepEqual(
      moved.map((result) => 'error' in result && result.error.fieldViolations[0]?.field),
      ['requests[0].source_encryption_context', 'requests[1].destination_encryption_context'],
    );
  });

  test('that is not valid itself fails the batch', async () => {
    const name = await newKey();
    const error = await failureOf(
      keyward.batchEncrypt({
        parent: PARENT,
        encryptionContext: { 'keyward:x': 'y' },
        requests: [{ name, plaintext: Buffer.from('p') }],
      }),
    );
    assert.deepEqual(
      [error.reason, error.fieldViolations[0]?.field],
      ['INVALID_FIELD', 'encryption_context'],
    );
  });
});
