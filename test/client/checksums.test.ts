import assert from 'node:assert/strict';
import { randomBytes, randomInt } from 'node:crypto';
import { describe, it } from 'node:test';
import { crc32c } from '../../client/src/generated/crc32c.ts';
import { KeywardError } from '../../client/src/index.ts';
import { crc32c as serverCrc32c } from '../../src/operations/crc32c.ts';
import { type Handler, startFakeService, wireDataKey } from './fake-service.ts';

const KEY = 'tenants/acme/keys/orders';
const PARENT = 'tenants/acme';
const DATA_KEY = `${KEY}/dataKeys/d`;
const keyVersion = `${KEY}/versions/1`;
const BYTES = Buffer.from('123456789');
const CHECK = 0xe3069283;

describe('CRC32C', () => {
  it('is as published (RFC 3720, B.4)', () => {
    assert.equal(crc32c(BYTES), CHECK);
    assert.equal(crc32c(Buffer.alloc(32)), 0x8a9136aa);
    assert.equal(crc32c(Buffer.alloc(32, 0xff)), 0x62a8ab43);
    assert.equal(crc32c(new Uint8Array(0)), 0);
  });

  it('is the same at the client and at the service, whatever view of memory the bytes are', () => {
    const memory = randomBytes(70_000);
    for (let length = 0; length < 70; length++) {
      const view = memory.subarray(length, 2 * length);
      assert.equal(crc32c(view), serverCrc32c(view));
    }
    for (let i = 0; i < 50; i++) {
      const from = randomInt(memory.length);
      const view = new Uint8Array(
        memory.buffer,
        memory.byteOffset + from,
        randomInt(memory.length - from),
      );
      assert.equal(crc32c(view), serverCrc32c(Buffer.from(view)));
    }
  });
});

/** Answers each method of the data plane as a sound service does, with what a test spoils. */
function answering(spoilt: object = {}): Record<string, Handler> {
  return {
    Encrypt: () => ({ ciphertext: BYTES, keyVersion, ...spoilt }),
    Decrypt: () => ({ plaintext: BYTES, keyVersion, ...spoilt }),
    GenerateDataKey: () => ({ plaintext: BYTES, wrappedDataKey: BYTES, keyVersion, ...spoilt }),
    GenerateDataKeyWithoutPlaintext: () => ({ wrappedDataKey: BYTES, keyVersion, ...spoilt }),
    ReEncrypt: () => ({ ciphertext: BYTES, keyVersion, sourceKeyVersion: keyVersion, ...spoilt }),
    GenerateRandomBytes: () => ({ data: BYTES, ...spoilt }),
    CreateDataKey: () => ({ dataKey: wireDataKey(DATA_KEY), plaintext: BYTES, ...spoilt }),
    GetDataKey: () => ({ dataKey: wireDataKey(DATA_KEY), plaintext: BYTES, ...spoilt }),
  };
}

type Connected = ReturnType<Awaited<ReturnType<typeof startFakeService>>['connect']>;
const CALLS: Readonly<Record<string, (keyward: Connected) => Promise<unknown>>> = {
  Encrypt: (keyward) => keyward.encrypt({ name: KEY, plaintext: BYTES }),
  Decrypt: (keyward) => keyward.decrypt({ parent: PARENT, ciphertext: BYTES }),
  GenerateDataKey: (keyward) => keyward.generateDataKey({ name: KEY }),
  GenerateDataKeyWithoutPlaintext: (keyward) =>
    keyward.generateDataKeyWithoutPlaintext({ name: KEY }),
  ReEncrypt: (keyward) => keyward.reEncrypt({ name: KEY, ciphertext: BYTES }),
  GenerateRandomBytes: (keyward) => keyward.generateRandomBytes({ parent: PARENT, length: 9 }),
  CreateDataKey: (keyward) => keyward.createDataKey({ parent: KEY, returnPlaintext: true }),
  GetDataKey: (keyward) => keyward.getDataKey({ name: DATA_KEY }),
};

/** What a service says wrongly, and who must notice. */
const SPOILT: readonly [field: string, spoilt: object, methods: readonly string[]][] = [
  ['ciphertext', { ciphertextCrc32c: CHECK + 1 }, ['Encrypt', 'ReEncrypt']],
  ['no checksum at all', { ciphertextCrc32c: 0 }, ['Encrypt', 'ReEncrypt']],
  [
    'plaintext',
    { plaintextCrc32c: CHECK - 1 },
    ['Decrypt', 'GenerateDataKey', 'CreateDataKey', 'GetDataKey'],
  ],
  [
    'wrapped data key',
    { wrappedDataKeyCrc32c: 7 },
    ['GenerateDataKey', 'GenerateDataKeyWithoutPlaintext'],
  ],
  ['data', { dataCrc32c: 7 }, ['GenerateRandomBytes']],
  ["the request's plaintext", { verifiedPlaintextCrc32c: false }, ['Encrypt']],
  ["the request's ciphertext", { verifiedCiphertextCrc32c: false }, ['Decrypt', 'ReEncrypt']],
];

describe('checksums', () => {
  it('are sent of what is sent, or the one that the caller has', async () => {
    const seen: unknown[] = [];
    const handler: Handler = ({ plaintextCrc32c, ciphertextCrc32c }) => {
      seen.push(plaintextCrc32c ?? ciphertextCrc32c);
      return { ciphertext: BYTES, plaintext: BYTES };
    };
    await using service = await startFakeService({
      Encrypt: handler,
      Decrypt: handler,
      ReEncrypt: handler,
    });
    using keyward = service.connect();
    await keyward.encrypt({ name: KEY, plaintext: BYTES });
    await keyward.encrypt({ name: KEY, plaintext: new Uint8Array(0) });
    await keyward.encrypt({ name: KEY, plaintext: BYTES, plaintextCrc32c: 0 });
    await keyward.decrypt({ parent: PARENT, ciphertext: BYTES });
    await keyward.decrypt({ parent: PARENT, ciphertext: BYTES, ciphertextCrc32c: 17 });
    await keyward.reEncrypt({ name: KEY, ciphertext: BYTES });
    await keyward.reEncrypt({ name: KEY, ciphertext: BYTES, ciphertextCrc32c: 2 ** 32 - 1 });
    assert.deepEqual(seen, [CHECK, 0, 0, CHECK, 17, CHECK, 2 ** 32 - 1]);
  });

  for (const [what, spoilt, methods] of SPOILT) {
    it(`that do not hold for ${what} are CHECKSUM_MISMATCH, and the bytes are not given out`, async () => {
      await using service = await startFakeService(answering(spoilt));
      using keyward = service.connect({ retries: 1 });
      for (const method of methods) {
        const error = await CALLS[method]?.(keyward).then(
          () => assert.fail(),
          (thrown: unknown) => thrown,
        );
        assert.ok(error instanceof KeywardError);
        assert.deepEqual([error.code, error.reason], ['DATA_LOSS', 'CHECKSUM_MISMATCH'], method);
        assert.equal(service.calls.get(method), 2, 'tried again');
      }
    });
  }

  it('that hold the second time are no error', async () => {
    let sum = 0;
    await using service = await startFakeService({
      Encrypt: () => {
        sum = sum === 0 ? 1 : CHECK;
        return { ciphertext: BYTES, keyVersion, ciphertextCrc32c: sum };
      },
    });
    using keyward = service.connect();
    assert.deepEqual((await keyward.encrypt({ name: KEY, plaintext: BYTES })).ciphertext, BYTES);
    assert.equal(service.calls.get('Encrypt'), 2);
  });

  it('are neither made nor looked at when switched off, but one of the caller’s is sent', async () => {
    const seen: unknown[] = [];
    const wrong = {
      ciphertextCrc32c: 1,
      plaintextCrc32c: 1,
      wrappedDataKeyCrc32c: 1,
      dataCrc32c: 1,
    };
    const handlers = answering({
      ...wrong,
      verifiedPlaintextCrc32c: false,
      verifiedCiphertextCrc32c: false,
    });
    const encrypt = handlers['Encrypt'] as Handler;
    handlers['Encrypt'] = (request, call) => {
      seen.push(request['plaintextCrc32c']);
      return encrypt(request, call);
    };
    await using service = await startFakeService(handlers);
    using keyward = service.connect({ checksums: false });
    for (const call of Object.values(CALLS)) await call(keyward);
    await keyward.encrypt({ name: KEY, plaintext: BYTES, plaintextCrc32c: 5 });
    assert.deepEqual(seen, [undefined, 5]);
  });
});
