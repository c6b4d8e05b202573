/**
 * Salts and IVs: random bytes are given out once, and gone from the pool afterwards; and where they
 * come again all the same, as in a virtual machine that is started twice from one snapshot, no two
 * messages have one salt.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { describe, it } from 'node:test';
import { promisify } from 'node:util';
import { NO_SUBJECT, PURPOSE } from '../../../src/hsm/ciphertext.ts';
import { drawRandom } from '../../../src/hsm/salts.ts';
import { type KeyId, newId } from '../../../src/ids.ts';
import { repeated, repeatedAmong } from './repeated.ts';

const CIPHERTEXT = new URL('../../../src/hsm/ciphertext.ts', import.meta.url).href;

describe('random bytes', () => {
  it('case 57: in a hundred thousand messages no salt comes twice, and no IV', () => {
    assert.deepEqual(repeatedAmong(100_000), { salts: 0, ivs: 0 });
  });

  it('of every size up to a whole pool are filled to their last byte, and differ', () => {
    // A byte that is zero 40 times in a row was not filled.
    for (const length of [1, 12, 16, 31, 32, 44, 64, 4095, 4096]) {
      const seen = Buffer.alloc(length);
      for (let round = 0; round < 40; round++) {
        const target = Buffer.alloc(length);
        drawRandom(target);
        for (const [index, byte] of target.entries()) seen[index] = (seen[index] ?? 0) | byte;
      }
      assert.ok(!seen.includes(0), `${length} bytes`);
    }
  });

  it('do not repeat across the pool’s end', () => {
    const drawn = new BigUint64Array(4_000);
    for (let index = 0; index < drawn.length; index++) {
      // Eight of 40 bytes, so that draws end at ever other distances from the pool's end.
      const target = Buffer.alloc(8 + (index % 5) * 8);
      drawRandom(target);
      drawn[index] = target.readBigUInt64BE(target.length - 8);
    }
    assert.equal(repeated(drawn), 0);
  });
});

describe('a process that is started twice from one snapshot', () => {
  const keyId = newId<KeyId>();
  const message = {
    header: { purpose: PURPOSE.payload, keyId, version: 1 },
    tenant: Buffer.alloc(16, 1),
    subject: NO_SUBJECT,
    contextDigest: Buffer.alloc(32, 2),
    plaintext: Buffer.from('x'),
  };
  type Message = typeof message;

  /** The next message of the process, or what is before it in its epoch, each in its own run. */
  async function nextOf(
    messages: readonly Message[],
    how: 'alone' | 'after another' | 'later in an epoch' = 'alone',
  ): Promise<Buffer[]> {
    const source = `
      import crypto from 'node:crypto';
      import { syncBuiltinESMExports } from 'node:module';
      const repeat = (target) => { for (let i = 0; i < target.length; i++) target[i] = i; return target; };
      crypto.randomFillSync = repeat;
      crypto.randomBytes = (length) => repeat(Buffer.alloc(length));
      syncBuiltinESMExports();
      const { beginEpoch, seal, sealAll, sealWithin } = await import(${JSON.stringify(CIPHERTEXT)});
      const { header, tenant, subject, contextDigest, plaintext } = JSON.parse(process.argv[1],
        (_, value) => value?.type === 'Buffer' ? Buffer.from(value.data) : value);
      const hmac = () => Buffer.alloc(64);
      const own = { purpose: header.purpose, subject, contextDigest, plaintext };
      const other = { ...own, purpose: 1, plaintext: Buffer.from('another of the epoch') };
      const ciphertext = {
        alone: () => seal(header, { tenant, subject, contextDigest }, plaintext, hmac),
        'after another': () => sealAll(header, tenant, [other, own], hmac)[0],
        'later in an epoch': () => {
          const first = { tenant, subject: Buffer.alloc(16), contextDigest: Buffer.alloc(32) };
          const epoch = beginEpoch({ ...header, purpose: 1 }, first, other.plaintext, hmac);
          return sealWithin(epoch, header, { tenant, subject, contextDigest }, plaintext);
        },
      }[${JSON.stringify(how)}]();
      process.stdout.write(ciphertext.toString('hex'));`;
    return Promise.all(
      messages.map(async (each) => {
        const args = ['--input-type=module', '-e', source, JSON.stringify(each)];
        const { stdout } = await promisify(execFile)(process.execPath, args, {
          maxBuffer: 1_000_000,
        });
        return Buffer.from(stdout, 'hex');
      }),
    );
  }

  const long = Buffer.alloc(20_000, 7);
  const longer = Buffer.from(long);
  longer[10_000] = 8;
  const saltOf = (ciphertext: Buffer) => ciphertext.subarray(24, 56).toString('hex');

  const { header } = message;
  const different: Message[] = [
    message,
    { ...message, plaintext: Buffer.from('y') },
    { ...message, plaintext: Buffer.alloc(0) },
    { ...message, plaintext: long },
    { ...message, plaintext: longer },
    { ...message, plaintext: long.subarray(1) },
    { ...message, tenant: Buffer.alloc(16, 3) },
    { ...message, subject: Buffer.alloc(16, 3) },
    { ...message, contextDigest: Buffer.alloc(32, 3) },
    { ...message, header: { ...header, keyId: newId<KeyId>() } },
    { ...message, header: { ...header, version: 2 } },
    {
      ...message,
      header: { ...header, purpose: PURPOSE.dataKey as Message['header']['purpose'] },
    },
  ];

  it('makes no two messages of one salt that differ in anything, and may repeat one message', async () => {
    const ciphertexts = await nextOf([...different, message]);
    assert.equal(new Set(ciphertexts.map(saltOf)).size, different.length);
    assert.deepEqual(ciphertexts.at(-1), ciphertexts[0]);
    assert.ok(
      ciphertexts.every((each) =>
        each.subarray(56, 68).equals(ciphertexts[0]?.subarray(56, 68) ?? each),
      ),
    );
  });

  it('makes no two epochs of one salt that differ in anything, and may repeat one epoch', async () => {
    // What differs is not in the ciphertext that is looked at, but in the next one of its epoch.
    const ciphertexts = await nextOf([...different, message], 'after another');
    assert.equal(new Set(ciphertexts.map(saltOf)).size, different.length);
    assert.deepEqual(ciphertexts.at(-1), ciphertexts[0]);
  });

  it('makes no two messages of one IV in an epoch that it goes on with twice, and may repeat one', async () => {
    // The epoch was begun before the snapshot: its salt is the same, whatever comes then.
    const ciphertexts = await nextOf([...different, message], 'later in an epoch');
    const ofOneSalt = Map.groupBy(ciphertexts.slice(0, -1), saltOf);
    assert.ok([...ofOneSalt.values()].some(({ length }) => length >= 7));
    for (const some of ofOneSalt.values())
      assert.equal(new Set(some.map((each) => each.toString('hex', 56, 68))).size, some.length);
    assert.deepEqual(ciphertexts.at(-1), ciphertexts[0]);
  });
});
