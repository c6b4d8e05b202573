import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { status } from '@grpc/grpc-js';
import { type BatchResult, KeywardError } from '../../client/src/index.ts';
import { crc32c } from '../../src/operations/crc32c.ts';
import { checked, type Refusal, refusal, startFakeService, wireStatus } from './fake-service.ts';

const KEY = 'tenants/acme/keys/orders';
const parent = 'tenants/acme';
const keyVersion = `${KEY}/versions/1`;

type Items = { readonly requests: readonly Record<string, Buffer>[] };

/** The error of a result that must be one. */
function errorIn(result: BatchResult<unknown> | undefined): KeywardError {
  assert.ok(result && 'error' in result && !('response' in result));
  assert.ok(result.error instanceof KeywardError);
  return result.error;
}

/** The answer of a result that must be one. */
function responseIn<Response>(result: BatchResult<Response> | undefined): Response {
  assert.ok(result && 'response' in result && !('error' in result));
  return result.response;
}

describe('a batch', () => {
  it('carries every field of every item, and gives each its own result, in order', async () => {
    const seen: Record<string, unknown> = {};
    const handler = (method: string, answer: (item: Record<string, Buffer>) => object) => [
      method,
      (request: unknown) => {
        seen[method] = request;
        return {
          results: (request as Items).requests.map((item) => ({
            response: checked({ keyVersion, ...answer(item) }),
          })),
        };
      },
    ];
    await using service = await startFakeService(
      Object.fromEntries([
        handler('BatchEncrypt', ({ plaintext }) => ({ ciphertext: plaintext })),
        handler('BatchDecrypt', ({ ciphertext }) => ({ plaintext: ciphertext })),
        handler('BatchGenerateDataKey', () => ({
          plaintext: Buffer.alloc(2),
          wrappedDataKey: Buffer.alloc(3),
        })),
        handler('BatchReEncrypt', ({ ciphertext }) => ({ ciphertext })),
      ]),
    );
    using keyward = service.connect();
    const contents = [Buffer.from('a'), Buffer.from('b'), Buffer.alloc(0)];
    const encryptionContext = { a: 'b' };

    const shared = { all: 'of them' };
    const encrypted = await keyward.batchEncrypt({
      parent,
      encryptionContext: shared,
      requests: contents.map((plaintext) => ({ name: KEY, plaintext, encryptionContext })),
    });
    assert.deepEqual(
      encrypted.map((result) => responseIn(result).ciphertext),
      contents,
    );
    const decrypted = await keyward.batchDecrypt({
      parent,
      encryptionContext: new Map([['a', 'map']]),
      requests: contents.map((ciphertext) => ({ parent, ciphertext, key: KEY })),
    });
    assert.deepEqual(
      decrypted.map((result) => responseIn(result).plaintext),
      contents,
    );
    const dataKeys = await keyward.batchGenerateDataKey({
      parent,
      requests: [{ name: KEY, length: 16 }],
    });
    assert.equal(responseIn(dataKeys[0]).wrappedDataKey.length, 3);
    const reEncrypted = await keyward.batchReEncrypt({
      parent,
      sourceEncryptionContext: shared,
      destinationEncryptionContext: encryptionContext,
      requests: contents.map((ciphertext) => ({ name: KEY, ciphertext, sourceKey: KEY })),
    });
    assert.deepEqual(
      reEncrypted.map((result) => responseIn(result).ciphertext),
      contents,
    );

    const sum = (bytes: Buffer, name: string) => ({ [name]: crc32c(bytes), [`_${name}`]: name });
    assert.deepEqual(seen, {
      BatchEncrypt: {
        parent,
        encryptionContext: shared,
        requests: contents.map((plaintext) => ({
          name: KEY,
          plaintext,
          encryptionContext,
          ...sum(plaintext, 'plaintextCrc32c'),
        })),
      },
      BatchDecrypt: {
        parent,
        encryptionContext: { a: 'map' },
        requests: contents.map((ciphertext) => ({
          parent,
          ciphertext,
          encryptionContext: {},
          key: KEY,
          ...sum(ciphertext, 'ciphertextCrc32c'),
        })),
      },
      BatchGenerateDataKey: {
        parent,
        encryptionContext: {},
        requests: [{ name: KEY, length: 16, encryptionContext: {} }],
      },
      BatchReEncrypt: {
        parent,
        sourceEncryptionContext: shared,
        destinationEncryptionContext: encryptionContext,
        requests: contents.map((ciphertext) => ({
          name: KEY,
          ciphertext,
          sourceEncryptionContext: {},
          destinationEncryptionContext: {},
          sourceKey: KEY,
          ...sum(ciphertext, 'ciphertextCrc32c'),
        })),
      },
    });
  });

  it('has for an item that fails the error that the same call alone has', async () => {
    const facts: Refusal = {
      code: status.INVALID_ARGUMENT,
      message: 'plaintext: is too long',
      reason: 'INVALID_FIELD',
      metadata: { limit: '65536' },
      fieldViolations: [{ field: 'requests[1].plaintext', description: 'is too long' }],
      retryDelay: { seconds: 1, nanos: 500_000_000 },
      requestId: 'request-1',
    };
    await using service = await startFakeService({
      Encrypt: () => {
        throw refusal(facts);
      },
      BatchEncrypt: () => ({
        results: [
          { error: wireStatus(facts) },
          { response: checked({ ciphertext: Buffer.from('c') }) },
        ],
      }),
    });
    using keyward = service.connect();
    const request = { name: KEY, plaintext: Buffer.from('p') };
    const alone = await keyward.encrypt(request).then(
      () => assert.fail(),
      (thrown: unknown) => thrown,
    );
    const results = await keyward.batchEncrypt({ parent, requests: [request, request] });
    const inBatch = errorIn(results[0]);
    assert.ok(alone instanceof KeywardError);
    assert.deepEqual({ ...inBatch }, { ...alone });
    assert.equal(inBatch.message, alone.message);
    assert.equal(inBatch.reason, 'INVALID_FIELD');
    assert.equal(responseIn(results[1]).ciphertext.toString(), 'c');
  });

  it('tells apart what is wrong with one item from what is wrong with the answer', async () => {
    const good = checked({ plaintext: Buffer.from('p') });
    const garbled = {
      code: 99,
      message: 'odd',
      details: [{ type_url: 'x', value: Buffer.from('ff', 'hex') }],
    };
    const unreadable = {
      code: status.NOT_FOUND,
      message: 'odd',
      details: [{ type_url: 'x/google.rpc.ErrorInfo', value: Buffer.from('ffff', 'hex') }],
    };
    const results: unknown[] = [
      { response: good },
      { response: { ...good, plaintextCrc32c: 1 } },
      {},
      { error: garbled },
      { error: unreadable },
      { response: good },
    ];
    await using service = await startFakeService({ BatchDecrypt: () => ({ results }) });
    using keyward = service.connect();
    const requests = Array.from({ length: 6 }, () => ({ parent, ciphertext: Buffer.from('c') }));
    const found = await keyward.batchDecrypt({ parent, requests });
    assert.deepEqual(
      found.map((result) =>
        'error' in result ? [result.error.code, result.error.reason] : 'response',
      ),
      [
        'response',
        ['DATA_LOSS', 'CHECKSUM_MISMATCH'],
        ['INTERNAL', undefined],
        ['UNKNOWN', undefined],
        ['NOT_FOUND', undefined],
        'response',
      ],
    );
    await assert.rejects(keyward.batchDecrypt({ parent, requests: requests.slice(1) }), {
      code: 'INTERNAL',
      message: /6 results for 5 requests/,
    });
  });

  it('rejects as a whole when the call fails, and is tried again as a whole', async () => {
    const facts = {
      code: status.RESOURCE_EXHAUSTED,
      reason: 'SERVER_BUSY',
      retryDelay: { seconds: 0, nanos: 5_000_000 },
    };
    await using service = await startFakeService({
      BatchGenerateDataKey: () => {
        throw refusal(facts);
      },
    });
    using keyward = service.connect({ retries: 1 });
    await assert.rejects(keyward.batchGenerateDataKey({ parent, requests: [{ name: KEY }] }), {
      reason: 'SERVER_BUSY',
    });
    assert.equal(service.calls.get('BatchGenerateDataKey'), 2);
  });

  it('may be larger than grpc-js takes unless it is told', async () => {
    const plaintext = Buffer.alloc(65_536, 1);
    await using service = await startFakeService({
      BatchDecrypt: () => ({ results: Array(100).fill({ response: checked({ plaintext }) }) }),
    });
    using keyward = service.connect();
    const requests = Array.from({ length: 100 }, () => ({ parent, ciphertext: Buffer.from('c') }));
    const found = await keyward.batchDecrypt({ parent, requests });
    assert.ok(
      found.every((result) => 'response' in result && result.response.plaintext.equals(plaintext)),
    );
  });
});
