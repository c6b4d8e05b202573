/**
 * The look at large requests before they are decoded: against protobufjs, which decodes them
 * afterwards, on valid messages, on damaged ones and on those that were made to be expensive.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { MethodDefinition } from '@grpc/grpc-js';
import fc from 'fast-check';
import { KeywardError } from '../../src/errors.ts';
import { requestName, serviceDefinition } from '../../src/faces/contract/proto.ts';
import { RequestScanner } from '../../src/faces/contract/request-scan.ts';
import { RPCS } from '../../src/faces/contract/rpcs.ts';
import { field } from '../faults/http2.ts';

interface Batch {
  readonly parent: string;
  readonly requests: readonly object[];
}

const SERVICE = 'keyward.v1.EncryptionService';
const LIMIT = 4_194_304;

/**
 * Every method that takes large requests, with its contexts' numbers and the limits of what has any
 * number of fields.
 */
const BATCHES = Object.entries(RPCS[SERVICE] ?? {})
  .filter(([, rpc]) => rpc.large !== undefined)
  .map(([name]) => {
    const method = serviceDefinition(SERVICE)[name] as MethodDefinition<object, object>;
    return {
      name,
      scanner: new RequestScanner(requestName(SERVICE, name), 'parent'),
      encode: (batch: object) => method.requestSerialize(batch),
      decode: (bytes: Buffer) => method.requestDeserialize(bytes) as Batch,
      contexts: { BatchGenerateDataKey: [2], BatchReEncrypt: [3, 4] }[name] ?? [3],
    };
  });

/** What the scan makes of a request: whose it is, or the reason why it isn't decoded. */
function scanned(scanner: RequestScanner, bytes: Buffer): { parent: string } | { reason: string } {
  try {
    return { parent: scanner.addresseeOf(bytes) };
  } catch (error) {
    if (error instanceof KeywardError) return { reason: error.reason };
    throw error;
  }
}

const bytes = fc.uint8Array({ maxLength: 40 }).map((array) => Buffer.from(array));
const text = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.constantFrom('tenants/acme', '__proto__', ''),
);
const context = fc.dictionary(text, text, { maxKeys: 6 });
const checksum = fc.option(fc.nat(0xffffffff), { nil: undefined });
/** With the fields of every method's items: each takes those that it has. */
const item = fc.record({
  name: text,
  parent: text,
  key: text,
  sourceKey: text,
  plaintext: bytes,
  ciphertext: bytes,
  encryptionContext: context,
  sourceEncryptionContext: context,
  destinationEncryptionContext: context,
  length: fc.integer(),
  plaintextCrc32c: checksum,
  ciphertextCrc32c: checksum,
});
const batch = fc.record({
  parent: text,
  requests: fc.array(item, { maxLength: 5 }),
  encryptionContext: context,
  sourceEncryptionContext: context,
  destinationEncryptionContext: context,
});

describe('a valid request', () => {
  for (const { name, scanner, encode, decode } of BATCHES) {
    test(`of ${name} is decoded, and is whose it says`, () => {
      fc.assert(
        fc.property(fc.array(batch, { minLength: 1, maxLength: 3 }), (parts) => {
          // Messages one after another are one message, whose last parent is the one.
          const message = Buffer.concat(parts.map(encode));
          assert.deepEqual(scanned(scanner, message), { parent: decode(message).parent });
        }),
      );
    });
  }

  test('may have as much in it as a batch can: 1,000 items with all that their contexts may hold', () => {
    for (const { name, scanner, encode } of BATCHES) {
      const entries = Object.fromEntries(
        Array.from({ length: 64 }, (_, index) => [`k${index}`, 'v']),
      );
      const full = {
        name: 'tenants/acme/keys/k',
        parent: 'tenants/acme',
        key: 'tenants/acme/keys/k',
        sourceKey: 'tenants/acme/keys/k',
        plaintext: Buffer.alloc(100),
        ciphertext: Buffer.alloc(200),
        encryptionContext: entries,
        sourceEncryptionContext: entries,
        destinationEncryptionContext: entries,
        length: 32,
        plaintextCrc32c: 1,
        ciphertextCrc32c: 1,
      };
      const message = encode({
        ...full,
        requests: Array.from({ length: 1_000 }, () => full),
      });
      assert.ok(message.length <= LIMIT, `${name}: ${message.length}`);
      assert.deepEqual(scanned(scanner, message), { parent: 'tenants/acme' });
    }
  });

  test('may have fields that are not known yet, of every kind but groups', () => {
    const unknown = Buffer.from('78ffffffffffff0379000000000000000a7d0000000a7a0179', 'hex');
    for (const { scanner, encode } of BATCHES) {
      const message = Buffer.concat([
        unknown,
        encode({ parent: 'tenants/acme' }),
        field(2, unknown),
      ]);
      assert.deepEqual(scanned(scanner, message), { parent: 'tenants/acme' });
    }
  });
});

describe('a damaged request', () => {
  /** A place in a message, and what is there instead of so many bytes. */
  const damage = fc.record({
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    removed: fc.nat(3),
    inserted: fc.oneof(
      fc.uint8Array({ maxLength: 12 }),
      // What tags and lengths are made of, long numbers, and known fields of another wire type.
      fc.array(
        fc.constantFrom(0x0a, 0x12, 0x1a, 0x10, 0x08, 0x1b, 0x22, 0x00, 0x80, 0xff, 0x7f, 0x01),
        {
          maxLength: 12,
        },
      ),
    ),
  });

  for (const { name, scanner, encode, decode } of BATCHES) {
    test(`of ${name} is refused, or read as decoding reads it`, () => {
      fc.assert(
        fc.property(batch, fc.array(damage, { minLength: 1, maxLength: 3 }), (request, damages) => {
          let message = encode(request);
          for (const { at, removed, inserted } of damages) {
            const place = Math.floor(at * message.length);
            const rest = message.subarray(place + removed);
            message = Buffer.concat([message.subarray(0, place), Uint8Array.from(inserted), rest]);
          }
          const result = scanned(scanner, message);
          if ('parent' in result) assert.equal(result.parent, decode(message).parent);
        }),
        { numRuns: 2_000 },
      );
    });
  }
});

describe('a request that decoding would take long over', () => {
  const filled = (hex: string, length: number) => Buffer.alloc(length, Buffer.from(hex, 'hex'));
  const tag = (number: number, wireType: number) =>
    ((number << 3) | wireType).toString(16).padStart(2, '0');
  /** In fields of at most 2 MiB, which are as long as they can be made here. */
  const halves = (number: number, content: Buffer) => [
    field(number, content),
    field(number, content),
  ];

  for (const { name, scanner, contexts } of BATCHES) {
    const attacks: Readonly<Record<string, Buffer>> = {
      'two million items': filled(`${tag(2, 2)}00`, LIMIT),
      'two million fields that are not known': filled('7801', LIMIT),
      'groups within groups': filled('7b', LIMIT),
      'groups one after another': filled('7b7c', LIMIT),
      'items of a million fields': Buffer.concat(halves(2, filled('7801', 2_000_000))),
      'a thousand items of groups': Buffer.concat(
        Array(1_000).fill(field(2, filled('7b7c', 2_000))),
      ),
      'more items than are counted alone, of as many fields as one may have': Buffer.concat(
        Array(4_000).fill(field(2, filled('7801', 2 * 256))),
      ),
    };
    for (const number of contexts) {
      const inItem = (content: Buffer) => Buffer.concat(halves(2, content));
      const entry = (content: Buffer) => inItem(field(number, content));
      Object.assign(attacks, {
        [`contexts ${number} of a million entries`]: inItem(
          filled(`${tag(number, 2)}00`, 2_000_000),
        ),
        [`an entry of context ${number} with a million keys`]: entry(filled('0a00', 2_000_000)),
        [`an entry of context ${number} with a million values`]: entry(filled('1200', 2_000_000)),
        [`an entry of context ${number} with a million fields not known`]: entry(
          filled('7801', 2_000_000),
        ),
        [`an entry of context ${number} with groups within groups`]: entry(filled('7b', 2_000_000)),
        [`small entries of context ${number}, some 260,000`]: Buffer.concat(
          Array(1_040).fill(field(2, Buffer.concat(Array(250).fill(field(number, field(1, '')))))),
        ),
      });
    }
    for (const [attack, message] of Object.entries(attacks)) {
      test(`${name}: ${attack}`, () => {
        assert.ok(message.length <= LIMIT && message.length > 500_000, String(message.length));
        assert.deepEqual(scanned(scanner, message), { reason: 'MESSAGE_TOO_LARGE' });
      });
    }
  }

  test('says which limit it is over, in fields', () => {
    for (const { scanner } of BATCHES) {
      const limits = [filled('1200', 10_000), field(2, filled('7801', 10_000))].map((message) => {
        try {
          return scanner.addresseeOf(message);
        } catch (error) {
          return (error as KeywardError).metadata;
        }
      });
      assert.deepEqual(limits, [
        { limit: '4096', unit: 'fields' },
        { limit: '256', unit: 'fields' },
      ]);
    }
  });
});

describe('bytes that protobufjs reads in a way of its own', () => {
  const item = (hex: string) => field(2, Buffer.from(hex, 'hex'));
  const readings: Readonly<Record<string, Buffer>> = {
    'a known field with another wire type': Buffer.from('10020a00', 'hex'),
    'a known field as a group': item('0b0c'),
    'a number of 32 bits that is six bytes long': item('18ff808080800018ff8080808000'),
    'a tag that is six bytes long': Buffer.from('92808080800000', 'hex'),
    'a tag of more than 32 bits': Buffer.from('928080801000', 'hex'),
    'a length that is six bytes long': Buffer.from('128080808080000000000000', 'hex'),
    'a length of more than 32 bits': Buffer.from('128080808010', 'hex'),
    'a length beyond the request': Buffer.from('0a0541', 'hex'),
    'a length beyond the item': Buffer.concat([item('0a0541'), item('0a00')]),
    'a number that goes on beyond the item': Buffer.concat([item('78ff'), item('0a00')]),
    'a number that is eleven bytes long': Buffer.from('78ffffffffffffffffffff01', 'hex'),
    'eight bytes of which there are seven': Buffer.from('7900000000000000', 'hex'),
    'the field 0': Buffer.from('0000', 'hex'),
    'an end of a group that did not begin': Buffer.from('7c', 'hex'),
    'a wire type that there is not': Buffer.from('7e', 'hex'),
  };
  // Its items have a number as field 3.
  const { scanner } = BATCHES.find(
    ({ name }) => name === 'BatchGenerateDataKey',
  ) as (typeof BATCHES)[number];
  for (const [reading, message] of Object.entries(readings)) {
    test(`are refused: ${reading}`, () => {
      const { reason } = scanned(scanner, message) as { reason: string };
      assert.equal(
        reason,
        reading.includes('as a group') ? 'MESSAGE_TOO_LARGE' : 'MALFORMED_REQUEST',
      );
    });
  }
});
