/**
 * The seal of a tenant's approval rules, as the code computes it and as docs/ciphertext.md's worked
 * example shows it.
 */
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { it } from 'node:test';
import { formatRules, rulesSealContent } from '../../src/hsm/approval-rules.ts';
import { RECORD, recordSealInput } from '../../src/hsm/record-seal.ts';
import { type EnvironmentId, idToBytes, type TenantId } from '../../src/ids.ts';

const ENVIRONMENT = '6c23977c-d5b6-4ec5-8193-52a6015fe1d7' as EnvironmentId;
const TENANT = '6eabe15a-6bf6-40d1-b6d8-bf485b3e2f05' as TenantId;
const document = readFileSync(join(import.meta.dirname, '../../docs/ciphertext.md'), 'utf8');

/** What the example has under that name, its lines joined. */
function shown(name: string, after: string): string {
  const [, block = ''] = (document.split(after)[1] ?? '').split('```');
  const found = new RegExp(`^${name} += (.*(?:\n {2,}.*)*)`, 'm').exec(block)?.[1] ?? '';
  return found.replace(/\n +/g, '');
}

it('the worked example of the seal of approval rules is what the code computes', () => {
  const after = 'Approval rules of that tenant';
  const content = formatRules({
    stepUp: [
      {
        permissions: [],
        acrValues: ['phr'],
        amrValues: ['mfa'],
        maxAgeSeconds: 900,
        exempt: ['spiffe://example.org/batch'],
      },
    ],
    approvals: [
      {
        ruleId: 'destruction',
        permissions: ['keys.destroy'],
        approvals: 1,
        approvers: [{ kind: 'group', name: 'corp/officers' }],
        breakGlass: false,
        exempt: [],
      },
    ],
    updatedAt: new Date('2026-01-01T00:00:00Z'),
  });
  assert.equal(content, shown('content', after));
  const sealed = rulesSealContent(TENANT, 2n, content);
  // As the page says.
  const revision = Buffer.from('0000000000000002', 'hex');
  const parts = [idToBytes(TENANT), revision, Buffer.from(content)];
  assert.deepEqual(sealed, Buffer.concat(parts));
  const label = Buffer.from('keyward/v1/seal/approval-rules\0', 'latin1');
  const input = Buffer.concat([label, idToBytes(ENVIRONMENT), ...parts]);
  assert.deepEqual(Buffer.from(recordSealInput(ENVIRONMENT, RECORD.approvalRules, sealed)), input);
  const sealKey = /^seal key {4}= ([0-9a-f]+)\n +([0-9a-f]+)$/m.exec(document);
  const key = Buffer.from(sealKey?.slice(1).join('') ?? '', 'hex');
  const seal = createHmac('sha512', key).update(input).digest().subarray(0, 32);
  assert.equal(seal.toString('hex'), shown('seal', after));
});
