/**
 * What the HSM does for the audit log, asked as the server asks it: what it signs and what it
 * refuses to, and the keys of masks.
 */
import assert from 'node:assert/strict';
import { createPublicKey, verify } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import fc from 'fast-check';
import { monotonicNow } from '../../src/call.ts';
import type { HsmAgents } from '../../src/hsm/agents.ts';
import {
  asn1Signature,
  checkpointNote,
  parseCheckpointText,
  parseNote,
} from '../../src/hsm/checkpoint.ts';
import { type EnvironmentId, newId, type TenantId } from '../../src/ids.ts';
import { readEnvironment } from '../../src/store/environment.ts';
import { Store } from '../../src/store/store.ts';
import { RELEASE } from '../store/database.ts';
import { openAgents } from '../support/grants.ts';
import { type Environment, newEnvironment } from '../support/kit.ts';

const ROOT = Buffer.alloc(32, 7).toString('base64');
const OTHER_ROOT = Buffer.alloc(32, 8).toString('base64');

let environment: Environment;
let environmentId: EnvironmentId;
let agents: HsmAgents;
let another: HsmAgents;

before(async () => {
  environment = await newEnvironment();
  const store = await Store.open({
    url: environment.urls.service,
    poolSize: 1,
    release: RELEASE,
    onError() {},
  });
  const record = await readEnvironment(store);
  environmentId = record.environmentId;
  [agents, another] = [
    openAgents(environment.variables, record),
    openAgents(environment.variables, record),
  ];
  await Promise.all([agents.start(), another.start()]);
  await store.close();
});

after(async () => {
  await Promise.all([agents.stop(), another.stop()]);
  await environment[Symbol.asyncDispose]();
});

const deadline = () => monotonicNow() + 120_000;
const signing = (treeSize: number, rootHash = ROOT, generation = 1) =>
  agents.call('signCheckpoint', { generation, treeSize, rootHash }, deadline());

describe('an agent', () => {
  test('signs checkpoints that it composes itself, under the token’s P-256 key', async () => {
    for (let size = 1; size <= 20; size++) {
      const signed = await signing(size);
      assert.ok('note' in signed);
      const { text = '', signatures = [] } = parseNote(signed.note) ?? {};
      assert.equal(text, `keyward/${environmentId}\n${size}\n${ROOT}\n`);
      const key = createPublicKey({
        key: Buffer.from(signed.spki, 'base64'),
        format: 'der',
        type: 'spki',
      });
      const [, , encoded = ''] = (signatures[0] ?? '').split(' ');
      assert.ok(
        verify('sha256', Buffer.from(text), key, Buffer.from(encoded, 'base64').subarray(4)),
      );
    }
  });

  test('case 95: refuses one that is shorter than it has signed, or as long and another', async () => {
    assert.ok('note' in (await signing(100)));
    assert.deepEqual(await signing(99), { conflictsWith: 100 });
    assert.deepEqual(await signing(100, OTHER_ROOT), { conflictsWith: 100 });
    assert.ok('note' in (await signing(100)), 'the same again');
    assert.ok('note' in (await signing(101, OTHER_ROOT)));
  });

  test('signs a shorter one of a later generation, and none of an earlier one then', async () => {
    const signed = await signing(5, ROOT, 2);
    assert.ok('note' in signed && signed.note.startsWith(`keyward/${environmentId}/2\n5\n`));
    assert.deepEqual(await signing(1_000), { conflictsWith: 5 });
  });

  test('derives one key for each tenant and month, the same in every agent', async () => {
    const [a, b] = [newId<TenantId>(), newId<TenantId>()];
    const keyOf = async (from: HsmAgents, tenantId: TenantId, period: number) =>
      (await from.call('deriveMaskKey', { tenantId, period }, deadline())).key.toString('hex');
    const keys = await Promise.all([
      keyOf(agents, a, 202_601),
      keyOf(agents, a, 202_602),
      keyOf(agents, b, 202_601),
    ]);
    assert.equal(new Set(keys).size, 3);
    assert.equal(keys[0]?.length, 64);
    assert.equal(await keyOf(another, a, 202_601), keys[0]);
  });
});

describe('a checkpoint’s text', () => {
  test('is read back as it was written, and nothing that differs is', () => {
    const claims = fc.record({
      generation: fc.integer({ min: 1, max: 9 }),
      treeSize: fc.maxSafeNat(),
      rootHash: fc.uint8Array({ minLength: 32, maxLength: 32 }).map((bytes) => Buffer.from(bytes)),
    });
    fc.assert(
      fc.property(claims, (claim) => {
        const note = checkpointNote(
          { environmentId: newId(), ...claim },
          Buffer.alloc(91),
          Buffer.alloc(70),
        );
        const read = parseCheckpointText(parseNote(note)?.text ?? '');
        assert.deepEqual([read?.treeSize, read?.rootHash], [claim.treeSize, claim.rootHash]);
        assert.equal(parseNote(note.slice(0, -1)), undefined);
      }),
    );
    for (const text of [
      '',
      'a\n01\nAAAA\n',
      `a\n-1\n${ROOT}\n`,
      `a\n1\n${ROOT.slice(0, -2)}\n`,
      `\n1\n${ROOT}\n`,
    ])
      assert.equal(parseCheckpointText(text), undefined, text);
  });

  test('a signature is ASN.1 however its halves begin', () => {
    const raw = (r: string, s: string) =>
      Buffer.from(r.padStart(64, '0') + s.padStart(64, '0'), 'hex');
    assert.equal(asn1Signature(raw('01', '80')).toString('hex'), '3007020101'.concat('02020080'));
    assert.equal(asn1Signature(raw('0', '7f')).toString('hex'), '3006020100'.concat('02017f'));
  });
});
