/**
 * Canonical requests: one text for what a request asks for, from which the request is made again.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { create, type DescField, type DescMessage, toBinary } from '@bufbuild/protobuf';
import { reflect } from '@bufbuild/protobuf/reflect';
import fc from 'fast-check';
import {
  canonicalRequest,
  MAX_CANONICAL_BYTES,
  requestFromCanonical,
} from '../../src/faces/contract/canonical.ts';
import { serialize } from '../../src/faces/contract/proto.ts';
import { contractRegistry } from '../../src/faces/contract/registry.ts';
import { METHOD_NAMES } from '../../src/faces/contract/rpcs.ts';

const DESTROY = 'keyward.v1.KeyService/ScheduleKeyDestruction';
const REQUEST_ID = '6f1c9a54-9c2f-4a0b-8f0e-2d7f6f0f7a11';
const destruction = (request: object) =>
  serialize('keyward.v1.ScheduleKeyDestructionRequest', request);

const methods = [...METHOD_NAMES].map((name) => {
  const [service = '', own] = name.split('/');
  const found = contractRegistry()
    .getService(service)
    ?.methods.find((each) => each.name === own);
  assert.ok(found);
  return { name, input: found.input };
});

const text = fc.string({ unit: 'grapheme' }).map((each) => each.toWellFormed());
const seconds = fc.integer({ min: 0, max: 253_402_300_799 }).map(BigInt);

/** Any value of a field; undefined for none. */
function valuesOf(field: DescField, depth: number): fc.Arbitrary<unknown> {
  if (field.fieldKind === 'list')
    return fc.array(single(field.listKind === 'message' ? field.message : field, depth), {
      maxLength: 3,
    });
  if (field.fieldKind === 'map') return fc.dictionary(text, text, { maxKeys: 3 });
  return fc.option(single(field.fieldKind === 'message' ? field.message : field, depth), {
    nil: undefined,
  });
}

function single(of: DescMessage | DescField, depth: number): fc.Arbitrary<unknown> {
  if (of.kind === 'message') return messageOf(of, depth - 1);
  if (of.enum !== undefined) return fc.constantFrom(...of.enum.values.map(({ number }) => number));
  switch (of.scalar) {
    case 8:
      return fc.boolean();
    case 9:
      return text;
    case 12:
      return fc.uint8Array({ maxLength: 50 });
    case 1:
    case 2:
      return fc.float({ noNaN: true, noDefaultInfinity: true });
    case 3:
    case 4:
    case 6:
    case 16:
    case 18:
      return fc.integer({ min: 0 }).map(BigInt);
    default:
      return fc.integer({ min: 0 });
  }
}

/** Any message of a type, with what the contract lets through of well-known ones. */
function messageOf(type: DescMessage, depth: number): fc.Arbitrary<object> {
  const fields = type.fields.filter(({ fieldKind }) => depth > 0 || fieldKind === 'scalar');
  const values: fc.Arbitrary<readonly unknown[]> =
    type.typeName === 'google.protobuf.FieldMask'
      ? fc.tuple(fc.array(fc.constantFrom('labels', 'quotas.keys', 'rotation_period')))
      : fc.tuple(
          ...fields.map((field) =>
            field.name === 'nanos'
              ? fc.constant(0)
              : field.name === 'seconds'
                ? seconds
                : valuesOf(field, depth),
          ),
        );
  return values.map((all) => {
    const message = create(type);
    const mirror = reflect(type, message);
    fields.forEach((field, index) => {
      const value = all[index];
      if (value === undefined || (field.oneof && mirror.oneofCase(field.oneof))) return;
      if (field.fieldKind === 'list')
        for (const each of value as object[]) add(mirror, field, each);
      else if (field.fieldKind === 'map')
        for (const [key, each] of Object.entries<string>(value as Record<string, string>))
          mirror.get(field).set(key, each);
      else
        mirror.set(field, field.fieldKind === 'message' ? mirrored(field.message, value) : value);
    });
    return message;
  });
}

const mirrored = (type: DescMessage, value: unknown) => reflect(type, value as never);
function add(
  mirror: ReturnType<typeof reflect>,
  field: DescField & { fieldKind: 'list' },
  each: unknown,
): void {
  mirror.get(field).add(field.listKind === 'message' ? mirrored(field.message, each) : each);
}

describe('a canonical request', () => {
  for (const { name, input } of methods)
    it(`of ${name} makes the request again, whose canonical form it is`, () => {
      fc.assert(
        fc.property(messageOf(input, 4), (message) => {
          const canonical = canonicalRequest(name, toBinary(input, message as never));
          const again = requestFromCanonical(name, canonical, REQUEST_ID);
          assert.equal(canonicalRequest(name, again).toString(), canonical.toString());
        }),
        { numRuns: 20 },
      );
    });

  it('says what is asked for, in one order, and not how it is sent', () => {
    const request = { name: 'tenants/a/keys/k', windowDays: 7, etag: '3' };
    const expected = '{"etag":"3","name":"tenants/a/keys/k","windowDays":7}';
    const sent = { ...request, requestId: REQUEST_ID, validateOnly: true };
    for (const each of [request, sent])
      assert.equal(canonicalRequest(DESTROY, destruction(each)).toString(), expected);
  });

  it('differs where anything that is asked for differs', () => {
    fc.assert(
      fc.property(fc.tuple(text, text), fc.tuple(text, text), ([a, b], [c, d]) => {
        const one = canonicalRequest(DESTROY, destruction({ name: a, etag: b }));
        const other = canonicalRequest(DESTROY, destruction({ name: c, etag: d }));
        assert.equal(one.equals(other), a === c && b === d);
      }),
    );
  });

  it('has none of what the contract does not know', () => {
    const unknown = Buffer.concat([destruction({ name: 'n' }), Buffer.from([0xfa, 0x3f, 1, 65])]);
    assert.equal(canonicalRequest(DESTROY, unknown).toString(), '{"name":"n"}');
  });

  it('is made again with the request id that is given', () => {
    const canonical = canonicalRequest(DESTROY, destruction({ name: 'n' }));
    const again = requestFromCanonical(DESTROY, canonical, REQUEST_ID);
    assert.deepEqual(again, destruction({ name: 'n', requestId: REQUEST_ID }));
  });

  it('is refused in any other form of the same', () => {
    for (const other of ['{ "name":"n"}', '{"name":"n","etag":""}', '{"windowDays":1,"name":"n"}'])
      assert.throws(() => requestFromCanonical(DESTROY, Buffer.from(other), REQUEST_ID));
  });

  it('is not made of more than approvers can be shown', () => {
    const bytes = destruction({ name: 'n'.repeat(MAX_CANONICAL_BYTES) });
    assert.throws(() => canonicalRequest(DESTROY, bytes), { reason: 'MESSAGE_TOO_LARGE' });
  });
});
