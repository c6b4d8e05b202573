/**
 * Envelopes: values, fields and streams that the client encrypts under data keys of the service.
 *
 * Against the real service; the format against a second implementation (`envelope-reader.ts`)
 * and golden envelopes, for which a data key has to be known.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Duplex, Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { DataKeys, type EnvelopeService } from '../../client/src/envelope/data-keys.ts';
import { Envelope } from '../../client/src/envelope/envelope.ts';
import type { EnvelopeError, KeywardClient, KeywardError } from '../../client/src/index.ts';
import { reasonOf, sharedService } from '../support/kit.ts';
import { makeEnvelope, makeStream, readEnvelope } from './envelope-reader.ts';

const KEY = 'tenants/acme/keys/orders';
const CONTEXT = { customer: 'c-7' };

let keyward: KeywardClient;
sharedService(async (client) => {
  keyward = client;
  await client.createTenant({ tenantId: 'acme' });
  await client.createKey({ parent: 'tenants/acme', keyId: 'orders' });
});

/** The client, which counts how often it is asked. */
function counting(calls = { issued: 0, opened: 0 }) {
  const service: EnvelopeService = {
    generateDataKey: (request) => {
      calls.issued += 1;
      return keyward.generateDataKey(request);
    },
    decrypt: (request) => {
      calls.opened += 1;
      return keyward.decrypt(request);
    },
    batchDecrypt: (request) => keyward.batchDecrypt(request),
    batchReEncrypt: (request) => keyward.batchReEncrypt(request),
  };
  return { calls, service };
}

const doesNotOpen = (reason: EnvelopeError['reason']) => (error: unknown) =>
  error instanceof Error &&
  error.name === 'EnvelopeError' &&
  'reason' in error &&
  error.reason === reason;

describe('a value in an envelope', () => {
  for (const [what, value] of [
    ['bytes', randomBytes(1_000)],
    ['no bytes', Buffer.alloc(0)],
    ['a text', 'Grüße, 世界'],
    ['an object', { card: '4111', cents: [1, 2.5, null], nested: { yes: true } }],
    ['a number', 42],
    ['null', null],
  ] as const)
    test(`comes back as it was: ${what}`, async () => {
      const box = keyward.envelope({ key: KEY });
      const envelope = await box.encrypt(value, { context: CONTEXT });
      assert.deepEqual(await box.decrypt(envelope, { context: CONTEXT }), value);
    });

  test('opens under its context alone, in whatever order that is given', async () => {
    const box = keyward.envelope({ key: KEY });
    const envelope = await box.encrypt('v', { context: { a: '1', b: '2' } });
    assert.equal(
      await box.decrypt(envelope, {
        context: new Map([
          ['b', '2'],
          ['a', '1'],
        ]),
      }),
      'v',
    );
    for (const context of [{}, { a: '1' }, { a: '2', b: '1' }])
      assert.equal(await reasonOf(box.decrypt(envelope, { context })), 'DECRYPTION_FAILED');
  });

  test('opens with its associated data alone', async () => {
    const box = keyward.envelope({ key: KEY });
    const envelope = await box.encrypt('v', { associatedData: 'row 7' });
    assert.equal(await box.decrypt(envelope, { associatedData: Buffer.from('row 7') }), 'v');
    for (const associatedData of ['row 8', '', undefined])
      await assert.rejects(
        box.decrypt(envelope, { ...(associatedData === undefined ? {} : { associatedData }) }),
        doesNotOpen('NOT_AUTHENTIC'),
      );
  });

  test('does not open with any byte changed, or cut anywhere', async () => {
    const box = new Envelope(fixed(), { key: KEY });
    const envelope = await box.encrypt('a secret', { context: CONTEXT });
    for (let at = 0; at < envelope.length; at += 1) {
      const changed = Buffer.from(envelope);
      changed[at] = (changed[at] ?? 0) ^ 1;
      // The wrapped data key is the service's to judge.
      if (at >= 7 && at < 7 + WRAPPED.length) continue;
      await assert.rejects(box.decrypt(changed, { context: CONTEXT }), { name: 'EnvelopeError' });
      await assert.rejects(box.decrypt(envelope.subarray(0, at), { context: CONTEXT }), {
        name: 'EnvelopeError',
      });
    }
  });

  test('does not open under another data key, though the service gives one', async () => {
    const envelope = await new Envelope(fixed(), { key: KEY }).encrypt('v');
    const other = new Envelope(fixed(randomBytes(32)), { key: KEY });
    await assert.rejects(other.decrypt(envelope), doesNotOpen('NOT_AUTHENTIC'));
  });

  test('of what JSON cannot hold is refused', async () => {
    await assert.rejects(keyward.envelope({ key: KEY }).encrypt(undefined), TypeError);
    assert.throws(() => keyward.envelope({ key: 'tenants/acme' }), TypeError);
  });

  test('of a service that refuses fails as the service says', async () => {
    const box = keyward.envelope({ key: `${KEY}-that-is-not-there` });
    assert.equal(await reasonOf(box.encrypt('v')), 'RESOURCE_NOT_FOUND');
  });
});

describe('fields of a record', () => {
  const fields = ['card', 'notes'] as const;

  test('are encrypted and come back; others stay, and what is absent stays absent', async () => {
    const box = keyward.envelope({ key: KEY, cache: { maxAgeMs: 60_000 } });
    const record = { id: 7, name: 'Ann', card: '4111', notes: null as null | string };
    const stored = await box.encryptFields(record, { fields, id: record.id, context: CONTEXT });
    assert.deepEqual([stored.id, stored.name, stored.notes], [7, 'Ann', null]);
    assert.ok(Buffer.isBuffer(stored.card));
    const back = await box.decryptFields(stored, { fields: ['card'], id: 7, context: CONTEXT });
    assert.equal(back.card, '4111');
  });

  test('do not open in another record, or as another field', async () => {
    const box = keyward.envelope({ key: KEY, cache: { maxAgeMs: 60_000 } });
    const stored = await box.encryptFields({ card: '1', notes: '2' }, { fields, id: 7 });
    const swapped = { card: stored.notes, notes: stored.card };
    for (const [record, id] of [
      [stored, 8],
      [swapped, 7],
    ] as const)
      await assert.rejects(box.decryptFields(record, { fields, id }), doesNotOpen('NOT_AUTHENTIC'));
  });
});

describe('data keys', () => {
  test('are asked for again for each value, unless they may be remembered', async () => {
    const { calls, service } = counting();
    const box = new Envelope(service, { key: KEY });
    for (let each = 0; each < 3; each += 1) await box.decrypt(await box.encrypt('v'));
    assert.deepEqual(calls, { issued: 3, opened: 3 });
  });

  test('are asked for once, however many wait, and by context', async () => {
    const { calls, service } = counting();
    const box = new Envelope(service, { key: KEY, cache: { maxAgeMs: 60_000 } });
    const contexts = [{ a: '1' }, { a: '2' }];
    const all = await Promise.all(
      Array.from({ length: 100 }, (_, each) =>
        box.encrypt(each, { context: contexts[each % 2] ?? {} }),
      ),
    );
    assert.equal(calls.issued, 2);
    const values = await Promise.all(
      all.map((bytes, each) => box.decrypt(bytes, { context: contexts[each % 2] ?? {} })),
    );
    assert.deepEqual(
      values,
      Array.from({ length: 100 }, (_, each) => each),
    );
    assert.equal(calls.opened, 2);
  });

  test('that are remembered open nothing whose wrapped data key or context was changed', async () => {
    const { calls, service } = counting();
    const box = new Envelope(service, { key: KEY, cache: { maxAgeMs: 60_000 } });
    const context = { a: '1', b: '2' };
    const envelope = await box.encrypt('v', { context });
    assert.equal(await box.decrypt(envelope, { context }), 'v');
    const begin = 7;
    for (const at of [begin, begin + 100, begin + envelope.readUInt16BE(begin - 2) - 1]) {
      const changed = Buffer.from(envelope);
      changed[at] = (changed[at] ?? 0) ^ 1;
      assert.equal(await reasonOf(box.decrypt(changed, { context })), 'DECRYPTION_FAILED');
    }
    for (const other of [
      {},
      { a: '1' },
      { a: '1', b: '3' },
      { ...context, c: '' },
      { a: '1', c: '2' },
    ])
      assert.equal(await reasonOf(box.decrypt(envelope, { context: other })), 'DECRYPTION_FAILED');
    const opened = calls.opened;
    const reordered = new Map(Object.entries({ b: '2', a: '1' }));
    assert.equal(await box.decrypt(envelope, { context: reordered }), 'v');
    assert.equal(calls.opened, opened);
  });

  test('encrypt no more values, bytes, or for longer, than they may', async () => {
    const used = async (cache: object, sizes: readonly number[]) => {
      const { calls, service } = counting();
      const box = new Envelope(service, { key: KEY, cache: { maxAgeMs: 60_000, ...cache } });
      for (const size of sizes) await box.encrypt(Buffer.alloc(size));
      return calls.issued;
    };
    assert.equal(await used({ maxMessages: 2 }, [1, 1, 1, 1, 1]), 3);
    assert.equal(await used({ maxBytes: 100 }, [60, 40, 1]), 2);
    assert.equal(await used({ maxAgeMs: 0.000001 }, [1, 1]), 2);
    assert.throws(
      () => new Envelope(counting().service, { key: KEY, cache: { maxAgeMs: 0 } }),
      RangeError,
    );
  });

  test('that could not be had are asked for again', async () => {
    let isAway = true;
    const { service } = counting();
    const flaky: EnvelopeService = {
      ...service,
      generateDataKey: (request) =>
        isAway ? Promise.reject(new Error('away')) : service.generateDataKey(request),
    };
    const box = new Envelope(flaky, { key: KEY, cache: { maxAgeMs: 60_000 } });
    await assert.rejects(box.encrypt('v'), /away/);
    isAway = false;
    assert.equal(await box.decrypt(await box.encrypt('v')), 'v');
  });

  test('are told to open or not, of many at once, by key and context, in order', async () => {
    const box = keyward.envelope({ key: KEY });
    const context = { a: '1' };
    const own = await box.encrypt('v', { context });
    const other = await box.encrypt('v', { context: { a: '2' } });
    const all = Array.from({ length: 150 }, (_, each) =>
      each % 3 === 0 ? Buffer.from('none') : each % 3 === 1 ? own : other,
    );
    const told: string[] = [];
    for await (const each of box.opening(all, { context }))
      told.push('opens' in each ? 'opens' : ((each.error as KeywardError).reason ?? ''));
    const thrice = ['MALFORMED', 'opens', 'DECRYPTION_FAILED'];
    assert.deepEqual(told, Array.from({ length: 50 }, () => thrice).flat());
  });

  test('come under the new version without the content, in order, beside what does not open', async () => {
    const box = keyward.envelope({ key: KEY });
    const values = Array.from({ length: 205 }, (_, each) => `value ${each}`);
    const envelopes = await Promise.all(
      values.map((value) => box.encrypt(value, { context: CONTEXT })),
    );
    const { primary } = await keyward.rotateKey({ name: KEY });
    const other = await box.encrypt('of another context');
    const rewrapped: Buffer[] = [];
    let errors = 0;
    for await (const result of box.rewrap([...envelopes, other], { context: CONTEXT }))
      if ('error' in result) errors += 1;
      else rewrapped.push(result.envelope);
    assert.equal(errors, 1);
    assert.equal(rewrapped.length, values.length);
    const opened = await Promise.all(
      rewrapped.map((bytes) => box.decrypt(bytes, { context: CONTEXT })),
    );
    assert.deepEqual(opened, values);
    const wrapped =
      rewrapped[0]?.subarray(7, 7 + (rewrapped[0]?.readUInt16BE(5) ?? 0)) ?? Buffer.alloc(0);
    const { keyVersion } = await keyward.decrypt({
      parent: 'tenants/acme',
      ciphertext: wrapped,
      encryptionContext: CONTEXT,
    });
    assert.equal(keyVersion, primary.name);
  });
});

describe('a stream in an envelope', () => {
  const encrypted = (box: Envelope, plaintext: Buffer, pieces = 10_000) =>
    buffer(
      Readable.from(inPieces(plaintext, pieces)).pipe(box.encryptStream({ context: CONTEXT })),
    );
  const decrypted = (box: Envelope, bytes: Buffer, pieces = 10_000) =>
    through(box.decryptStream({ context: CONTEXT }), inPieces(bytes, pieces));

  test('comes back as it was, of every length about a chunk’s', async () => {
    const box = keyward.envelope({ key: KEY, cache: { maxAgeMs: 60_000 } });
    for (const length of [0, 1, 65_535, 65_536, 65_537, 131_072, 200_000]) {
      const plaintext = randomBytes(length);
      const bytes = await encrypted(box, plaintext);
      assert.ok((await decrypted(box, bytes, 7_777)).equals(plaintext), `${length} bytes`);
      const one = await through(box.decryptStream({ context: CONTEXT }), [bytes]);
      assert.ok(one.equals(plaintext));
    }
  });

  test('is refused where a chunk is cut off, moved, repeated, left out or appended', async () => {
    const box = new Envelope(fixed(), { key: KEY });
    const plaintext = randomBytes(65_536 * 3 + 5);
    const bytes = await encrypted(box, plaintext);
    const begin = 7 + WRAPPED.length + 64;
    const chunk = (number: number) =>
      bytes.subarray(begin + number * 65_552, begin + (number + 1) * 65_552);
    const head = bytes.subarray(0, begin);
    const [a, b, c, d] = [0, 1, 2, 3].map(chunk) as [Buffer, Buffer, Buffer, Buffer];
    assert.ok((await decrypted(box, Buffer.concat([head, a, b, c, d]))).equals(plaintext));
    for (const chunks of [
      [a, b, c],
      [a, b, d],
      [b, a, c, d],
      [a, a, b, c, d],
      [a, b, c, d, d],
      [d],
      [a, b, c, d.subarray(1)],
      [],
    ])
      await assert.rejects(decrypted(box, Buffer.concat([head, ...chunks])), {
        name: 'EnvelopeError',
      });
    for (const cut of [0, 3, 6, 20, begin - 1, begin])
      await assert.rejects(decrypted(box, bytes.subarray(0, cut)), { name: 'EnvelopeError' });
  });

  test('gives out nothing of a chunk that was changed', async () => {
    const box = new Envelope(fixed(), { key: KEY });
    const bytes = await encrypted(box, randomBytes(65_536 * 2));
    const begin = 7 + WRAPPED.length + 64;
    bytes[begin + 65_552 + 9] = (bytes[begin + 65_552 + 9] ?? 0) ^ 1;
    const given: Buffer[] = [];
    const stream = box.decryptStream({ context: CONTEXT });
    stream.on('data', (chunk: Buffer) => given.push(chunk));
    const failed = new Promise((resolve) => stream.once('error', resolve));
    stream.end(bytes);
    assert.ok(doesNotOpen('NOT_AUTHENTIC')(await failed));
    assert.equal(Buffer.concat(given).length, 65_536);
  });

  test('keeps nothing of what was written to it, whose memory can be used again', async () => {
    const box = new Envelope(fixed(), { key: KEY });
    const plaintext = randomBytes(3 * 65_536 + 5);
    const used = async (stream: Duplex, bytes: Buffer, piece: number) => {
      const given = buffer(stream);
      const memory = Buffer.alloc(piece);
      for (let at = 0; at < bytes.length; at += piece) {
        const length = bytes.copy(memory, 0, at);
        await new Promise((resolve) => stream.write(memory.subarray(0, length), resolve));
        memory.fill(0);
      }
      stream.end();
      return given;
    };
    for (const piece of [1_000, 65_536, 65_552, 100_000]) {
      const sealed = await used(box.encryptStream(), plaintext, piece);
      assert.deepEqual(await used(box.decryptStream(), sealed, piece), plaintext);
    }
  });

  test('is not taken for a value, nor a value for a stream', async () => {
    const box = new Envelope(fixed(), { key: KEY });
    const stream = await encrypted(box, Buffer.from('s'));
    await assert.rejects(box.decrypt(stream, { context: CONTEXT }), doesNotOpen('WRONG_CONTENT'));
    const value = await box.encrypt('v'.repeat(100), { context: CONTEXT });
    await assert.rejects(decrypted(box, value), doesNotOpen('WRONG_CONTENT'));
  });
});

describe('the format', () => {
  test('is what a second implementation makes and opens, of any value', async () => {
    const dataKey = randomBytes(32);
    const box = new Envelope(fixed(dataKey), { key: KEY });
    const texts = fc.dictionary(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }), {
      maxKeys: 5,
    });
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ maxLength: 300 }),
        texts,
        fc.uint8Array({ maxLength: 40 }),
        async (value, context, associatedData) => {
          const given = {
            ...{ dataKey, wrapped: WRAPPED, context, content: 0 },
            associatedData: Buffer.from(associatedData),
          };
          const ours = await box.encrypt(value, { context, associatedData });
          assert.ok(readEnvelope(ours, given).equals(value));
          const iv = randomBytes(12);
          const theirs = makeEnvelope({ ...given, iv, plaintext: Buffer.from(value) });
          assert.deepEqual(
            await box.decrypt(theirs, { context, associatedData }),
            Buffer.from(value),
          );
        },
      ),
    );
  });

  test('of streams is what a second implementation makes', async () => {
    const dataKey = randomBytes(32);
    const box = new Envelope(fixed(dataKey), { key: KEY });
    for (const length of [0, 1, 65_536, 65_537, 140_000]) {
      const given = { dataKey, wrapped: WRAPPED, context: CONTEXT, salt: randomBytes(32) };
      const plaintext = randomBytes(length);
      const theirs = makeStream({ ...given, plaintext });
      assert.ok(
        (await through(box.decryptStream({ context: CONTEXT }), [theirs])).equals(plaintext),
      );
    }
  });

  test('golden envelopes of every earlier release open', async () => {
    const file = join(import.meta.dirname, '..', 'golden', 'envelopes.json');
    const golden = JSON.parse(readFileSync(file, 'utf8')) as readonly Golden[];
    assert.ok(golden.length >= 5);
    for (const { dataKey, context, associatedData, envelope, value, isStream } of golden) {
      const box = new Envelope(fixed(Buffer.from(dataKey, 'hex')), { key: KEY });
      const bytes = Buffer.from(envelope, 'hex');
      const opened = isStream
        ? (await through(box.decryptStream({ context }), [bytes])).toString()
        : await box.decrypt(bytes, {
            context,
            ...(associatedData === undefined ? {} : { associatedData }),
          });
      assert.deepEqual(opened, value);
    }
  });
});

interface Golden {
  readonly dataKey: string;
  readonly context: Readonly<Record<string, string>>;
  readonly associatedData?: string;
  readonly envelope: string;
  readonly value: unknown;
  readonly isStream?: boolean;
}

const WRAPPED = Buffer.alloc(148, 7);

/** A service with one data key, as the format's own tests have to know it. */
function fixed(dataKey = Buffer.alloc(32, 1)): EnvelopeService {
  const common = { keyVersion: `${KEY}/versions/1`, plaintextCrc32c: 0 };
  return {
    generateDataKey: async () => ({
      ...{ ...common, plaintext: Buffer.from(dataKey), wrappedDataKey: WRAPPED },
      wrappedDataKeyCrc32c: 0,
    }),
    decrypt: async () => ({
      ...{ ...common, plaintext: Buffer.from(dataKey) },
      verifiedCiphertextCrc32c: true,
    }),
    batchDecrypt: async () => assert.fail('nothing is asked for'),
    batchReEncrypt: async () => assert.fail('nothing is re-wrapped'),
  };
}

function* inPieces(bytes: Buffer, size: number): Iterable<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

function through(stream: NodeJS.ReadWriteStream, pieces: Iterable<Buffer>): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    stream.once('error', reject);
    Readable.from(pieces).pipe(stream);
    buffer(stream as unknown as Readable).then(resolve, reject);
  });
}

test('a data key that is remembered has memory of its own, and keeps nobody else’s', async () => {
  const message = Buffer.alloc(65_536);
  const service = {
    generateDataKey: async () => ({
      plaintext: Buffer.alloc(32, 1),
      wrappedDataKey: message.subarray(100, 248),
    }),
    decrypt: async () => ({ plaintext: Buffer.alloc(32, 1) }),
  } as unknown as EnvelopeService;
  const dataKeys = new DataKeys(service, 'tenants/a/keys/b', { maxAgeMs: 60_000 });
  for (const dataKey of [
    await dataKeys.forEncryption({ a: 'b' }, 1),
    await dataKeys.forDecryption({ a: 'b' }, message.subarray(0, 148)),
  ])
    for (const bytes of [dataKey.wrapped, dataKey.keys.commitment, ...Object.values(dataKey.bound)])
      assert.equal(bytes.buffer.byteLength, bytes.length);
});
