/**
 * What the seal of a key's state is computed over: everything that says what may be done with the
 * key, so that no two states have one seal; and the example of docs/ciphertext.md, by a second
 * implementation written from that page.
 */
import assert from 'node:assert/strict';
import { createHash, createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  encodeKeyState,
  type KeySchedule,
  type KeyState,
  type VersionState,
} from '../../../src/hsm/key-state.ts';
import { RECORD, recordSealInput } from '../../../src/hsm/record-seal.ts';
import type { EnvironmentId, KeyId, TenantId } from '../../../src/ids.ts';
import { uuid, versionNumber } from './sealing.ts';

const STATES = ['ENABLED', 'DISABLED', 'DESTROY_SCHEDULED', 'DESTROYED'];
const time = fc.option(fc.bigInt({ min: -(1n << 63n), max: (1n << 63n) - 1n }));
const state = fc.constantFrom(...STATES);
const versions: fc.Arbitrary<readonly VersionState[]> = fc.array(
  fc.record({ version: versionNumber, state, destroyAt: time }),
  { maxLength: 5 },
);
const count = fc.option(fc.bigInt({ min: 1n, max: (1n << 63n) - 1n }));
const schedule: fc.Arbitrary<KeySchedule> = fc.record({
  rotationPeriod: count,
  nextRotationAt: time,
  rotationUsageLimit: count,
  maintenancePaused: fc.boolean(),
});
const epochBound = fc.integer({ min: 1, max: 2 ** 32 - 1 });
const keyState: fc.Arbitrary<KeyState> = fc.record({
  tenantId: uuid<TenantId>(),
  keyId: uuid<KeyId>(),
  name: fc.string({ minLength: 1, maxLength: 63 }),
  revision: fc.bigInt({ min: 0n, max: (1n << 63n) - 1n }),
  state,
  destroyAt: time,
  primaryVersion: versionNumber,
  versions,
  schedule,
  derivationEpoch: fc.option(fc.record({ maxMessages: epochBound, maxAgeSeconds: epochBound })),
});

const text = (value: unknown) =>
  JSON.stringify(value, (_, each: unknown) => (typeof each === 'bigint' ? `${each}n` : each));

describe('how a key stands, as bytes', () => {
  it('differs with each thing that differs, and has the same length whatever the number of versions', () => {
    fc.assert(
      fc.property(keyState, keyState, (one, other) => {
        const bytes = encodeKeyState(one);
        for (const part of Object.keys(one) as (keyof KeyState)[]) {
          const changed = { ...one, [part]: other[part] };
          assert.equal(encodeKeyState(changed).equals(bytes), text(changed) === text(one), part);
        }
        assert.equal(encodeKeyState({ ...one, versions: [] }).length, bytes.length);
      }),
    );
  });

  it('differs with each part of its schedule that differs', () => {
    fc.assert(
      fc.property(keyState, schedule, (one, other) => {
        const bytes = encodeKeyState(one);
        for (const part of Object.keys(other) as (keyof KeySchedule)[]) {
          const changed = { ...one.schedule, [part]: other[part] };
          assert.equal(
            encodeKeyState({ ...one, schedule: changed }).equals(bytes),
            text(changed) === text(one.schedule),
            part,
          );
        }
      }),
    );
  });

  it('differs with each version that is hidden, added, doubled, or in another place', () => {
    fc.assert(
      fc.property(keyState, versions, fc.nat(), (one, others, at) => {
        const bytes = encodeKeyState(one);
        const place = at % (one.versions.length + 1);
        for (const changed of [
          one.versions.toSpliced(place, 1),
          one.versions.toSpliced(place, 0, ...others),
          [...one.versions, ...one.versions],
          one.versions.toReversed(),
        ])
          assert.equal(
            encodeKeyState({ ...one, versions: changed }).equals(bytes),
            text(changed) === text(one.versions),
          );
      }),
    );
  });

  it('is refused for what can be no state, which a row says that somebody has written', () => {
    const sound = EXAMPLE.state;
    for (const wrong of [
      { state: 'enabled' },
      { state: '' },
      { revision: -1n },
      { primaryVersion: -1 },
      { primaryVersion: 2 ** 32 },
      { destroyAt: 1n << 64n },
      { name: 'k'.repeat(65_536) },
      { versions: [{ version: 1, state: 'constructor', destroyAt: null }] },
      { versions: [{ version: -1, state: 'ENABLED', destroyAt: null }] },
      { schedule: { ...sound.schedule, rotationPeriod: 0n } },
      { schedule: { ...sound.schedule, rotationUsageLimit: -1n } },
      { schedule: { ...sound.schedule, nextRotationAt: 1n << 64n } },
      { derivationEpoch: { maxMessages: 0, maxAgeSeconds: 60 } },
      { derivationEpoch: { maxMessages: 1_000, maxAgeSeconds: -1 } },
      { derivationEpoch: { maxMessages: 2 ** 32, maxAgeSeconds: 60 } },
    ])
      assert.throws(() => encodeKeyState({ ...sound, ...wrong }), RangeError, text(wrong));
  });
});

/** The example of docs/ciphertext.md. */
const EXAMPLE = {
  environment: '6c23977c-d5b6-4ec5-8193-52a6015fe1d7' as EnvironmentId,
  sealKey:
    '9d6bd05098fcd723867517f4ba949e8955acc227eb784759099368b6b6a8cf02e305ab515ef9692073cd73e84000bce5d2c8b3d6499272b8204964dd387152a7',
  state: {
    tenantId: '6eabe15a-6bf6-40d1-b6d8-bf485b3e2f05' as TenantId,
    keyId: '3bbcb5e8-6f31-4d00-a771-acdd58a64a76' as KeyId,
    name: 'orders',
    revision: 5n,
    state: 'ENABLED',
    destroyAt: null,
    primaryVersion: 3,
    versions: [
      { version: 1, state: 'DESTROYED', destroyAt: 1_767_225_600_000_000n },
      { version: 2, state: 'DISABLED', destroyAt: null },
      { version: 3, state: 'ENABLED', destroyAt: null },
    ],
    schedule: {
      rotationPeriod: 7_776_000n,
      nextRotationAt: 1_775_001_600_000_000n,
      rotationUsageLimit: null,
      maintenancePaused: false,
    },
    derivationEpoch: null,
  },
  content:
    '6eabe15a6bf640d1b6d8bf485b3e2f053bbcb5e86f314d00a771acdd58a64a7600066f7264657273000000000000000501000000000000000000000000033f2e21720ca04c8697cd65d66fbbcc8aad65eaf65208a4b48b29960bfcbcc77d000000000076a7000100064e5ac3d80000000000000000000000',
  seal: 'eb0c7b01661d720039e2147e1a33628cbbac9f31c4a771078f1c5e9c7e4ac3a5',
} as const;

describe('the example of docs/ciphertext.md', () => {
  const seal = (content: Buffer) =>
    createHmac('sha512', Buffer.from(EXAMPLE.sealKey, 'hex'))
      .update(recordSealInput(EXAMPLE.environment, RECORD.keyState, content))
      .digest()
      .subarray(0, 32)
      .toString('hex');

  it('is what the service computes', () => {
    const content = encodeKeyState(EXAMPLE.state);
    assert.deepEqual([content.toString('hex'), seal(content)], [EXAMPLE.content, EXAMPLE.seal]);
    const derivationEpoch = { maxMessages: 1_000, maxAgeSeconds: 300 };
    const withEpochs = encodeKeyState({ ...EXAMPLE.state, derivationEpoch });
    assert.equal(withEpochs.toString('hex'), `${EXAMPLE.content}000003e80000012c`);
  });

  it('is what an implementation written from the page computes', () => {
    const hex = (...parts: string[]) => Buffer.from(parts.join('').replaceAll('-', ''), 'hex');
    const listed = hex(
      '00000003',
      ...['00000001', '04', '01', '0006474846204000'],
      ...['00000002', '02', '00', '0000000000000000'],
      ...['00000003', '01', '00', '0000000000000000'],
    );
    const content = Buffer.concat([
      hex(EXAMPLE.state.tenantId, EXAMPLE.state.keyId, '0006'),
      Buffer.from('orders'),
      hex('0000000000000005', '01', '00', '0000000000000000', '00000003'),
      createHash('sha256').update(listed).digest(),
      hex('000000000076a700', '01', '00064e5ac3d80000', '0000000000000000', '00'),
    ]);
    assert.deepEqual([content.toString('hex'), seal(content)], [EXAMPLE.content, EXAMPLE.seal]);
  });

  it('is on the page', () => {
    const page = readFileSync(
      new URL('../../../docs/ciphertext.md', import.meta.url),
      'utf8',
    ).replaceAll(/\s/g, '');
    for (const bytes of [EXAMPLE.content, EXAMPLE.seal]) assert.ok(page.includes(bytes), bytes);
  });
});
