/**
 * The seal of a tenant's policy, as the code computes it and as docs/ciphertext.md's worked example
 * shows it.
 */
import assert from 'node:assert/strict';
import { createHash, createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { it } from 'node:test';
import { policyContent } from '../../src/hsm/policy-record.ts';
import { RECORD, recordSealInput } from '../../src/hsm/record-seal.ts';
import type { EnvironmentId, TenantId } from '../../src/ids.ts';

const ENVIRONMENT = '6c23977c-d5b6-4ec5-8193-52a6015fe1d7' as EnvironmentId;
const TENANT = '6eabe15a-6bf6-40d1-b6d8-bf485b3e2f05' as TenantId;
const document = readFileSync(join(import.meta.dirname, '../../docs/ciphertext.md'), 'utf8');

/** The block behind that heading's words, as `name = text`, its lines joined. */
function shown(after: string): ReadonlyMap<string, string> {
  const [, block = ''] = (document.split(after)[1] ?? '').split('```');
  const values = new Map<string, string>();
  let name = '';
  for (const line of block.split('\n')) {
    const [, next, text = line.trim()] = /^([a-z ]+?) += (.*)$/.exec(line) ?? [];
    name = next ?? name;
    values.set(name, (values.get(name) ?? '') + text);
  }
  return values;
}

const CREATED = {
  createdAt: new Date('2026-01-01T00:00:00Z'),
  creator: 'spiffe://example.org/admin',
};

it('the worked example of a policy’s seal is what the code computes', () => {
  const example = shown('A policy of that tenant');
  const binding = {
    bindingId: 'orders',
    member: { kind: 'principal', name: 'spiffe://example.org/orders' },
    role: 'roles/encrypter',
    keyPattern: 'orders-*',
    allTenants: false,
    expiresAt: null,
    conditions: [{ contextKey: 'region', requirement: { kind: 'equals', value: 'eu' } }],
    overridesSeparation: false,
    description: '',
    ...CREATED,
  } as const;
  const role = {
    roleId: 'rewrapper',
    permissions: ['rewrapJobs.create', 'rewrapJobs.get'],
    description: '',
    ...CREATED,
  };
  const content = policyContent(TENANT, 2n, { bindings: [binding], roles: [role] });
  assert.equal(content.toString('hex'), example.get('content'));
  // As the page says, from its lines alone.
  const lines = (example.get('lines') ?? '').replace('][', ']\n[');
  const digest = createHash('sha256').update(`${lines}\n`).digest('hex');
  assert.equal(content.toString('hex', 24), digest);
  const sealKey = Buffer.from(
    /^seal key {4}= ([0-9a-f]+)\n +([0-9a-f]+)$/m.exec(document)?.slice(1).join('') ?? '',
    'hex',
  );
  const input = recordSealInput(ENVIRONMENT, RECORD.policy, content);
  const seal = createHmac('sha512', sealKey).update(input).digest().subarray(0, 32);
  assert.equal(seal.toString('hex'), example.get('seal'));
});
