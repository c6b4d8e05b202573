/**
 * Messages as JSON and back: every value comes through, and no error quotes a request.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { KeywardError } from '../../../src/errors.ts';
import { serialize } from '../../../src/faces/contract/proto.ts';
import { JsonCodec } from '../../../src/faces/http/codec.ts';

const codec = new JsonCodec();
const encrypt = codec.method('keyward.v1.EncryptionService/Encrypt');
const updateKey = codec.method('keyward.v1.KeyService/UpdateKey');
const bytesOf = (request: object) => serialize('keyward.v1.EncryptRequest', request);

function failureOf(text: string | Buffer, method = encrypt): KeywardError {
  try {
    method.fromText(Buffer.from(text));
  } catch (error) {
    assert.ok(error instanceof KeywardError, String(error));
    return error;
  }
  return assert.fail(`taken: ${text}`);
}

describe('a request', () => {
  test('becomes the bytes that gRPC brings', () => {
    fc.assert(
      fc.property(
        fc.record({
          name: fc.string({ minLength: 1 }),
          plaintext: fc.uint8Array({ minLength: 1 }).map((bytes) => Buffer.from(bytes)),
          encryptionContext: fc.dictionary(fc.string(), fc.string(), { maxKeys: 1 }),
        }),
        (request) => {
          const text = JSON.stringify({
            ...request,
            name: request.name.toWellFormed(),
            plaintext: request.plaintext.toString('base64'),
          });
          assert.deepEqual(encrypt.fromText(Buffer.from(text)), bytesOf(request));
        },
      ),
    );
  });

  test('may have base64 of either alphabet, padded or not', () => {
    const plaintext = Buffer.from([0xfb, 0xff, 0xfe, 1]);
    for (const text of ['+//+AQ==', '+//+AQ', '-__-AQ==', '-__-AQ'])
      assert.deepEqual(
        encrypt.fromText(Buffer.from(JSON.stringify({ plaintext: text }))),
        bytesOf({ plaintext }),
        text,
      );
  });

  test('keeps names that mean something to JavaScript', () => {
    const text = '{"encryptionContext":{"__proto__":"a"}}';
    assert.ok(encrypt.fromText(Buffer.from(text)).includes('__proto__'));
  });

  test('that is not read is refused with the field and nothing else of it', () => {
    const secret = 'c2VjcmV0';
    for (const [text, field] of [
      [`{"plaintext":["${secret}"]}`, 'plaintext'],
      [`{"plaintext":"${secret}!"}`, 'plaintext'],
      [`{"encryptionContext":{"${secret}":1}}`, 'encryption_context'],
      [`{"${secret}":1}`, undefined],
      [`{"name":"${secret}`, undefined],
      [`{"name":"\\ud800${secret}"}`, 'name'],
      [`["${secret}"]`, undefined],
    ] as const) {
      const { reason, message, fields } = failureOf(text);
      assert.equal(reason, 'MALFORMED_REQUEST');
      assert.deepEqual(
        fields.map((each) => each.field),
        field === undefined ? [] : [field],
        text,
      );
      assert.doesNotMatch(JSON.stringify([message, fields]), new RegExp(secret));
    }
  });

  test('with a member that there is not is refused with the names of those that there are', () => {
    const { message } = failureOf('{"plaintxt":"aGVsbG8="}');
    assert.match(message, /none of its fields \(name, plaintext, encryptionContext/);
    assert.doesNotMatch(message, /plaintxt/);
  });

  test('is refused, not failed, where the library throws something of its own', () => {
    const { reason } = failureOf('{"key":{"rotationPeriod":"1.12345678901s"}}', updateKey);
    assert.equal(reason, 'MALFORMED_REQUEST');
    assert.equal(failureOf('['.repeat(100_000)).reason, 'MALFORMED_REQUEST');
  });
});
