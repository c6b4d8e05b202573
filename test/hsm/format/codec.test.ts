/**
 * Records in the frames between server and agent: what is written is read again, to the last byte,
 * or it throws.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  bytes,
  decode,
  encode,
  type Field,
  id,
  json,
  struct,
  u8,
  u16,
  u32,
} from '../../../src/hsm/codec.ts';
import type { AnyId } from '../../../src/ids.ts';
import { bytesUpTo, uuid } from './sealing.ts';

const record = struct({
  small: u8,
  name: id<AnyId>(),
  inner: struct({ middle: u16, payload: bytes }),
  large: u32,
  last: bytes,
});

const plain = { noNullPrototype: true } as const;
const value = fc.record(
  {
    small: fc.integer({ min: 0, max: 0xff }),
    name: uuid(),
    inner: fc.record(
      { middle: fc.integer({ min: 0, max: 0xffff }), payload: bytesUpTo(40) },
      plain,
    ),
    large: fc.integer({ min: 0, max: 0xffffffff }),
    last: bytesUpTo(40),
  },
  plain,
);

describe('a record', () => {
  it('decodes to what was encoded, whatever stands before it', () => {
    fc.assert(
      fc.property(value, fc.nat(20), (written, reserved) => {
        const encoded = encode(record, written, reserved);
        assert.equal(encoded.length, reserved + record.size(written));
        assert.ok(encoded.subarray(0, reserved).every((byte) => byte === 0));
        assert.deepEqual(decode(record, encoded, reserved), written);
      }),
    );
  });

  it('that decodes encodes back to the same bytes', () => {
    const framed = fc
      .tuple(bytesUpTo(23, 23), bytesUpTo(9), bytesUpTo(9))
      .map(([head, payload, last]) =>
        joined(head.subarray(0, 19), payload, head.subarray(19), last),
      );
    fc.assert(
      fc.property(framed, (source) => {
        assert.deepEqual(encode(record, decode(record, source)), source);
      }),
    );
  });

  it('throws RangeError when it is cut at any length', () => {
    fc.assert(
      fc.property(value, (written) => {
        const encoded = encode(record, written);
        for (let length = 0; length < encoded.length; length++) {
          assert.throws(
            () => decode(record, encoded.subarray(0, length)),
            RangeError,
            `cut to ${length}`,
          );
        }
      }),
    );
  });

  it('throws RangeError when bytes follow it', () => {
    fc.assert(
      fc.property(value, bytesUpTo(5, 1), (written, more) => {
        assert.throws(
          () => decode(record, Buffer.concat([encode(record, written), more])),
          RangeError,
        );
      }),
    );
  });

  it('throws RangeError or decodes, and does nothing else, for any bytes', () => {
    fc.assert(
      fc.property(bytesUpTo(100), (noise) => {
        try {
          assert.deepEqual(encode(record, decode(record, noise)), noise);
        } catch (error) {
          if (!(error instanceof RangeError)) throw error;
        }
      }),
      { numRuns: 1_000 },
    );
  });

  it('does not read bytes of the memory behind its buffer', () => {
    const memory = encode(record, {
      small: 1,
      name: '00112233-4455-6677-8899-aabbccddeeff' as AnyId,
      inner: { middle: 2, payload: Buffer.from('payload') },
      large: 3,
      last: Buffer.from('last'),
    });
    // Within a larger buffer the missing bytes are there, but aren't the record's.
    refusesCut(id(), memory.subarray(1, 16));
    refusesCut(u32, memory.subarray(0, 3));
    refusesCut(bytes, memory.subarray(19, 29));
  });

  it('throws RangeError for a length beyond its end, up to 4 GiB', () => {
    for (const length of [5, 6, 0x7fffffff, 0x80000000, 0xffffffff]) {
      const source = Buffer.alloc(8);
      source.writeUInt32BE(length);
      assert.throws(() => decode(bytes, source), RangeError);
    }
  });
});

describe('a number', () => {
  it('is big-endian', () => {
    assert.equal(encode(u8, 0x01).toString('hex'), '01');
    assert.equal(encode(u16, 0x0102).toString('hex'), '0102');
    assert.equal(encode(u32, 0x01020304).toString('hex'), '01020304');
  });

  it('throws RangeError when it does not fit', () => {
    for (const [field, size] of [
      [u8, 1],
      [u16, 2],
      [u32, 4],
    ] as const) {
      assert.equal(decode(field, encode(field, 256 ** size - 1)), 256 ** size - 1);
      for (const number of [-1, 256 ** size, Number.POSITIVE_INFINITY]) {
        assert.throws(() => encode(field, number), RangeError);
      }
    }
  });
});

describe('bytes', () => {
  it('follow their length of four bytes, and share memory with the frame', () => {
    const frame = encode(bytes, Buffer.from('abc'));
    assert.equal(frame.toString('hex'), '00000003616263');
    const read = decode(bytes, frame);
    frame.fill(0);
    assert.deepEqual(read, Buffer.alloc(3));
  });
});

describe('a UUID', () => {
  it('takes 16 bytes in the order of its text', () => {
    const text = '00112233-4455-6677-8899-aabbccddeeff' as AnyId;
    assert.equal(encode(id(), text).toString('hex'), '00112233445566778899aabbccddeeff');
    assert.equal(decode(id(), encode(id(), text)), text);
  });
});

describe('JSON', () => {
  it('decodes to what was encoded, with any text in it', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.string({ unit: 'binary' }), (anything, text) => {
        const written = JSON.parse(JSON.stringify({ anything, text })) as unknown;
        assert.deepEqual(decode(json(), encode(json(), written)), written);
      }),
    );
  });
});

/** Asserts that neither the field alone nor a whole decoding reads past the end. */
function refusesCut<T>(field: Field<T>, cut: Buffer): void {
  assert.throws(() => field.read(cut, { offset: 0 }), RangeError);
  assert.throws(() => decode(field, cut), RangeError);
}

/** A {@link record}'s bytes from those of its parts. */
function joined(head: Buffer, payload: Buffer, large: Buffer, last: Buffer): Buffer {
  return Buffer.concat([head, encode(bytes, payload), large, encode(bytes, last)]);
}
