/**
 * What row seals and check values are computed over: everything that a row says, each thing in its
 * own place, so that no two rows have one seal.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { decode, encode } from '../../../src/hsm/codec.ts';
import {
  CHECK_VALUE_BYTES,
  checkInput,
  SEAL_BYTES,
  type SealedKeyVersion,
  sealedKeyVersion,
  sealInput,
} from '../../../src/hsm/key-version.ts';
import type { EnvironmentId, KeyId, RootKeyId, SealKeyId, TenantId } from '../../../src/ids.ts';
import { bytes, bytesUpTo, uuid, versionNumber } from './sealing.ts';

const version: fc.Arbitrary<SealedKeyVersion> = fc.record(
  {
    tenantId: uuid<TenantId>(),
    keyId: uuid<KeyId>(),
    version: versionNumber,
    algorithm: fc.integer({ min: 0, max: 0xffff }),
    rootKeyId: uuid<RootKeyId>(),
    wrap: fc.integer({ min: 0, max: 0xff }),
    wrapped: bytesUpTo(100),
    checkValue: bytes(CHECK_VALUE_BYTES),
    sealKeyId: uuid<SealKeyId>(),
    seal: bytes(SEAL_BYTES),
  },
  { noNullPrototype: true },
);
const environment = uuid<EnvironmentId>();

const UNDER_THE_SEAL = [
  'tenantId',
  'keyId',
  'version',
  'algorithm',
  'rootKeyId',
  'wrap',
  'wrapped',
  'checkValue',
] as const satisfies readonly (keyof SealedKeyVersion)[];
const IDENTITY = ['tenantId', 'keyId', 'version', 'algorithm'] as const;

describe('a row seal', () => {
  it('changes with each thing that the row says, and with the environment', () => {
    fc.assert(
      fc.property(environment, environment, version, version, (here, elsewhere, row, other) => {
        const input = sealInput(here, row);
        for (const part of UNDER_THE_SEAL) {
          const changed = { ...row, [part]: other[part] };
          const same = encode(sealedKeyVersion, changed).equals(encode(sealedKeyVersion, row));
          assert.equal(sealInput(here, changed).equals(input), same, part);
        }
        assert.equal(sealInput(elsewhere, row).equals(input), elsewhere === here);
      }),
    );
  });

  it('is never over the same bytes for two rows', () => {
    // Small alphabets, so that bytes can move from one field to the next.
    const narrow = version.chain((row) =>
      fc
        .tuple(fc.integer({ min: 0, max: 3 }), fc.integer({ min: 0, max: 3 }))
        .map(([wrap, length]) => ({ ...row, wrap, wrapped: Buffer.alloc(length, wrap) })),
    );
    fc.assert(
      fc.property(environment, narrow, narrow, (here, first, second) => {
        const [one, two] = [
          first,
          { ...second, ...pick(first, IDENTITY), rootKeyId: first.rootKeyId },
        ];
        const alike = one.wrap === two.wrap && one.wrapped.equals(two.wrapped);
        const sameCheck = one.checkValue.equals(two.checkValue);
        assert.equal(sealInput(here, one).equals(sealInput(here, two)), alike && sameCheck);
      }),
    );
  });

  it('is over 189 bytes for material as it is wrapped today', () => {
    fc.assert(
      fc.property(environment, version, bytes(72), (here, row, wrapped) => {
        assert.equal(sealInput(here, { ...row, wrapped }).length, 189);
      }),
    );
  });

  it('is never computed over the bytes of a check value', () => {
    fc.assert(
      fc.property(environment, version, version, (here, row, other) => {
        const [seal, check] = [sealInput(here, row), checkInput(here, other)];
        assert.notDeepEqual(seal.subarray(0, check.length), check);
      }),
    );
  });
});

describe('a check value', () => {
  it('changes with the identity and the environment, and with nothing else of the row', () => {
    fc.assert(
      fc.property(environment, environment, version, version, (here, elsewhere, row, other) => {
        const input = checkInput(here, row);
        for (const part of IDENTITY) {
          const changed = { ...row, [part]: other[part] };
          assert.equal(checkInput(here, changed).equals(input), changed[part] === row[part], part);
        }
        assert.deepEqual(checkInput(here, { ...other, ...pick(row, IDENTITY) }), input);
        assert.equal(checkInput(elsewhere, row).equals(input), elsewhere === here);
        assert.equal(input.length, 71);
      }),
    );
  });
});

describe('a sealed key version', () => {
  it('travels to an agent and back as it is', () => {
    fc.assert(
      fc.property(version, (row) => {
        assert.deepEqual(decode(sealedKeyVersion, encode(sealedKeyVersion, row)), row);
      }),
    );
  });
});

function pick<T, K extends keyof T>(from: T, names: readonly K[]): Pick<T, K> {
  return Object.fromEntries(names.map((name) => [name, from[name]])) as Pick<T, K>;
}
