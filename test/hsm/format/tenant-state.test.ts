/**
 * A tenant as bytes: nothing of it can be changed without changing them, and they are what
 * docs/ciphertext.md says.
 */
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { RECORD, recordSealInput } from '../../../src/hsm/record-seal.ts';
import { encodeTenantState, type TenantState } from '../../../src/hsm/tenant-state.ts';
import type { EnvironmentId, TenantId } from '../../../src/ids.ts';

const amount = fc.option(fc.bigInt({ min: 0n, max: 3n }));
const tenant: fc.Arbitrary<TenantState> = fc.record({
  tenantId: fc.constantFrom(
    '6eabe15a-6bf6-40d1-b6d8-bf485b3e2f05' as TenantId,
    '3bbcb5e8-6f31-4d00-a771-acdd58a64a76' as TenantId,
  ),
  name: fc.string({ maxLength: 3, unit: fc.constantFrom('a', 'b', '\0', 'ü') }),
  revision: fc.bigInt({ min: 0n, max: 3n }),
  state: fc.constantFrom('ENABLED', 'DISABLED', 'SHRED_SCHEDULED', 'SHREDDED'),
  dedicatedRootKey: fc.boolean(),
  createdAt: fc.bigInt({ min: -2n, max: 2n }),
  shredAt: amount,
  shreddedAt: amount,
  quotas: fc.record({ callsPerSecond: amount, keys: amount, storedDataKeys: amount }),
  approvalRulesRevision: amount,
});
const text = (value: unknown) =>
  JSON.stringify(value, (_, each: unknown) => (typeof each === 'bigint' ? `${each}n` : each));

describe('a tenant as bytes', () => {
  it('is the same for the same tenant, and for no other', () => {
    fc.assert(
      fc.property(tenant, tenant, (one, other) => {
        const isSame = encodeTenantState(one).equals(encodeTenantState(other));
        assert.equal(isSame, text(one) === text(other));
      }),
      { numRuns: 2_000 },
    );
  });

  it('is another when any one thing is', () => {
    const names = Object.keys(EXAMPLE.tenant) as (keyof TenantState)[];
    fc.assert(
      fc.property(tenant, tenant, fc.constantFrom(...names), (one, other, name) => {
        const changed = { ...one, [name]: other[name] };
        assert.equal(
          encodeTenantState(changed).equals(encodeTenantState(one)),
          text(changed) === text(one),
        );
      }),
      { numRuns: 2_000 },
    );
  });

  it('is refused for what can be no tenant, which a row says that somebody has written', () => {
    const sound: TenantState = EXAMPLE.tenant;
    for (const wrong of [
      { state: 'enabled' },
      { state: 'constructor' },
      { revision: -1n },
      { createdAt: 1n << 64n },
      { shredAt: 1n << 64n },
      { name: 'k'.repeat(65_536) },
      { quotas: { ...sound.quotas, keys: 1n << 63n } },
    ])
      assert.throws(() => encodeTenantState({ ...sound, ...wrong }), RangeError, text(wrong));
  });
});

const EXAMPLE = {
  environment: '6c23977c-d5b6-4ec5-8193-52a6015fe1d7' as EnvironmentId,
  tenant: {
    tenantId: '6eabe15a-6bf6-40d1-b6d8-bf485b3e2f05' as TenantId,
    name: 'acme',
    revision: 3n,
    state: 'SHRED_SCHEDULED',
    dedicatedRootKey: true,
    createdAt: 1_767_225_600_000_000n,
    shredAt: 1_767_830_400_000_000n,
    shreddedAt: null,
    quotas: { callsPerSecond: 1_000n, keys: null, storedDataKeys: 5_000n },
    approvalRulesRevision: null,
  },
} as const;

describe('the example of docs/ciphertext.md', () => {
  it('is what the service computes, and what an implementation written from the page does', () => {
    const page = readFileSync(new URL('../../../docs/ciphertext.md', import.meta.url), 'utf8');
    const text = page.replaceAll(/\s+/g, '');
    const [, sealKeyHex = ''] = /sealkey=([0-9a-f]{128})/.exec(text) ?? [];
    const sealKey = Buffer.from(sealKeyHex, 'hex');
    assert.equal(sealKey.length, 64);
    const content = encodeTenantState(EXAMPLE.tenant);
    const hex = (...parts: string[]) => Buffer.from(parts.join('').replaceAll('-', ''), 'hex');
    const fromThePage = Buffer.concat([
      hex(EXAMPLE.tenant.tenantId, '0004'),
      Buffer.from('acme'),
      hex('0000000000000003', '03', '01'),
      hex('01', '0006474846204000', '01', '000647d51703e000', '00', '0000000000000000'),
      hex('01', '00000000000003e8', '00', '0000000000000000', '01', '0000000000001388'),
    ]);
    assert.deepEqual(fromThePage, content);
    const sealOf = (input: Buffer) =>
      createHmac('sha512', sealKey).update(input).digest().subarray(0, 32).toString('hex');
    const seal = sealOf(recordSealInput(EXAMPLE.environment, RECORD.tenant, content));
    const label = Buffer.from('keyward/v1/seal/tenant\0');
    const environment = hex(EXAMPLE.environment);
    assert.equal(sealOf(Buffer.concat([label, environment, fromThePage])), seal);
    assert.ok(text.includes(`content=${content.toString('hex')}seal=${seal}`));
  });
});
