/**
 * The look at large JSON: finds what parsing finds, and refuses what costs too much, whatever the
 * bytes are.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { KeywardError } from '../../../src/errors.ts';
import { addresseeOf } from '../../../src/faces/http/json-scan.ts';

const scan = (text: string) => addresseeOf(Buffer.from(text), 'parent');
const refuses = (text: string, reason: string) =>
  assert.throws(
    () => scan(text),
    (error) => error instanceof KeywardError && error.reason === reason,
    text.slice(0, 80),
  );

/** Text with each character as an escape. */
const escaped = (text: string) =>
  [...text].map((each) => `\\u${each.charCodeAt(0).toString(16).padStart(4, '0')}`).join('');

describe('the addressee', () => {
  test('is the request’s own member, wherever it stands and however it is written', () => {
    assert.equal(scan('{"parent":"tenants/acme"}'), 'tenants/acme');
    assert.equal(scan('{"requests":[{"parent":"x"}],"parent" : "tenants/acme"}'), 'tenants/acme');
    assert.equal(scan(`{"${escaped('parent')}":"${escaped('tenants/acme')}"}`), 'tenants/acme');
    assert.equal(scan('{"a":"parent","parent":"x\\"}{[\\\\","b":1}'), 'x"}{[\\');
    assert.equal(scan('{"a":"parent","b":"x"}'), '');
    assert.equal(scan('{"parent":null,"b":"x"}'), '');
    assert.equal(scan('{"requests":[{"parent":"x"}]}'), '');
  });

  test('given twice is refused', () => {
    refuses('{"parent":"a","parent":"b"}', 'MALFORMED_REQUEST');
    refuses(`{"parent":"a","${escaped('parent')}":"b"}`, 'MALFORMED_REQUEST');
  });

  test('of any JSON is what parsing finds', () => {
    fc.assert(
      fc.property(
        fc.dictionary(
          fc.oneof(fc.constant('parent'), fc.string({ maxLength: 8 })),
          fc.oneof(fc.string(), fc.jsonValue({ maxDepth: 3 })),
          { maxKeys: 20 },
        ),
        (request) => {
          const { parent } = request;
          const expected = typeof parent === 'string' ? parent : '';
          assert.equal(scan(JSON.stringify(request)), expected.toWellFormed());
        },
      ),
    );
  });
});

describe('what is refused', () => {
  test('is more than an honest request has', () => {
    refuses(`{"a":${'['.repeat(9)}`, 'MESSAGE_TOO_LARGE');
    refuses(`{"a":[${'{},'.repeat(4_096)}{}]}`, 'MESSAGE_TOO_LARGE');
    refuses(`{"a":[${'0,'.repeat(400_001)}0]}`, 'MESSAGE_TOO_LARGE');
    refuses(`{${'"a":1,'.repeat(257)}"b":1}`, 'MESSAGE_TOO_LARGE');
  });

  test('is not the largest honest batch', () => {
    const entries = Object.fromEntries(
      Array.from({ length: 64 }, (_, at) => [`name-${at}`, `value-${at}`]),
    );
    const item = { sourceEncryptionContext: entries, destinationEncryptionContext: entries };
    const requests = Array.from({ length: 1_000 }, () => item);
    assert.equal(scan(JSON.stringify({ requests, parent: 'tenants/acme' })), 'tenants/acme');
  });

  test('is a string without an end, or an escape that is none', () => {
    refuses('{"parent":"a', 'MALFORMED_REQUEST');
    refuses('{"parent":"a\\"', 'MALFORMED_REQUEST');
    refuses('{"\\x":"a"}', 'MALFORMED_REQUEST');
  });
});

test('no bytes make it fail in another way', () => {
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom(...'"\\{}[],:a\u0000é') }), (text) => {
      try {
        scan(text);
      } catch (error) {
        assert.ok(error instanceof KeywardError, String(error));
      }
    }),
  );
});
