/**
 * What the HSM does for the audit log, asked as the server asks it: what it signs and what it
 * refuses to, and the keys of masks.
 */
import assert from 'node:assert/strict';
import { createPublicKey, verify } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import fc from 'fast-check';
import { monotonicNow } from '../../src/call.ts';
import { type AgentStarter, childAgents } from '../../src/hsm/agent-starter.ts';
import type { HsmAgents } from '../../src/hsm/agents.ts';
import {
  asn1Signature,
  checkpointNote,
  parseCheckpointText,
  parseNote,
} from '../../src/hsm/checkpoint.ts';
import { noteInLeaf } from '../../src/hsm/resumption.ts';
import { signResumption } from '../../src/hsm/token-commands.ts';
import type { TokenProfile } from '../../src/hsm/token-profile.ts';
import { type EnvironmentId, newId, type TenantId } from '../../src/ids.ts';
import { tokenObjectsOf } from '../../src/keyring/hsm-token/token-objects.ts';
import { type EnvironmentRecord, readEnvironment } from '../../src/store/environment.ts';
import { Store } from '../../src/store/store.ts';
import { RELEASE } from '../store/database.ts';
import { COMPILED } from '../support/compiled.ts';
import { openAgents } from '../support/grants.ts';
import { type Environment, newEnvironment } from '../support/kit.ts';
import { newLogKey, signed } from './log.ts';
import { type Asked, askToSign, beginAt, madeUpTree } from './made-up-tree.ts';

const ROOT = Buffer.alloc(32, 7).toString('base64');
const TREE = madeUpTree();
const OTHER_TREE = madeUpTree('another ');

let environment: Environment;
let environmentId: EnvironmentId;
let record: EnvironmentRecord;
let starter: AgentStarter;
let agents: HsmAgents;
let another: HsmAgents;

before(async () => {
  environment = await newEnvironment();
  const store = await Store.open({
    url: environment.urls.service,
    poolSize: 1,
    waitMs: 300,
    release: RELEASE,
    onError() {},
  });
  record = await readEnvironment(store);
  const { modulePath: module, label, pinFile } = environment.token;
  starter = childAgents(
    { module, token: label, pinFile, waivers: [] },
    { SOFTHSM2_CONF: environment.token.confFile, ...COMPILED },
  );
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
const signing = (treeSize: number, asked?: Asked, from: HsmAgents = agents) =>
  askToSign(from, treeSize, deadline(), asked);
/** The note of a generation, as an operator's command has the token sign it. */
const noteOf = (heads: Parameters<Parameters<typeof beginAt>[1]>[0]) =>
  signResumption(
    {
      environmentId,
      profile: record.tokenProfile as TokenProfile,
      objects: tokenObjectsOf(record.tokenObjects),
      ...heads,
    },
    starter,
  );
/** By how many leaves the checkpoint has that stands against signing this one. */
const refusal = async (treeSize: number, asked?: Asked, from?: HsmAgents) => {
  const reply = await signing(treeSize, asked, from);
  return 'conflictsWith' in reply ? reply.conflictsWith : reply;
};

describe('an agent', () => {
  test('signs checkpoints that it composes itself, under the token’s P-256 key', async () => {
    for (let size = 1; size <= 20; size++) {
      const made = await signing(size);
      assert.ok('note' in made);
      const { text = '', signatures = [] } = parseNote(made.note) ?? {};
      assert.equal(text, `keyward/${environmentId}\n${size}\n${TREE.root(size)}\n`);
      const key = createPublicKey({
        key: Buffer.from(made.spki, 'base64'),
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
    assert.equal(await refusal(99), 100);
    assert.equal(await refusal(100, { tree: OTHER_TREE }), 100);
    assert.ok('note' in (await signing(100)), 'the same again');
    assert.ok('note' in (await signing(101)));
  });

  test('refuses a longer one that does not begin with what it has signed', async () => {
    const last = await signing(110);
    assert.ok('note' in last);
    const reply = await signing(111, { tree: OTHER_TREE });
    assert.deepEqual(reply, { conflictsWith: 110, conflictingNote: last.note });
    const claim = { generation: 1, treeSize: 111, rootHash: TREE.root(111), known: [] };
    const proven = (fromSize: number, hashes: string[]) =>
      agents.call('signCheckpoint', { ...claim, proofs: [{ fromSize, hashes }] }, deadline());
    assert.deepEqual(await proven(109, TREE.proof(109, 111)), { needsProofFrom: 110 });
    const proof = TREE.proof(110, 111);
    for (const wrong of [proof.slice(1), [...proof, ROOT], proof.with(0, ROOT), []])
      assert.ok('conflictsWith' in (await proven(110, wrong)));
    assert.ok('note' in (await proven(110, proof)));
  });

  test('that has signed nothing yet begins with what is known of the log', async () => {
    const fresh = openAgents(environment.variables, record);
    await fresh.start();
    try {
      const last = await signing(120);
      assert.ok('note' in last);
      const known = [last.note];
      assert.equal(await refusal(119, { known }, fresh), 120);
      assert.equal(await refusal(125, { known, tree: OTHER_TREE }, fresh), 120);
      // It remembers, also when it is not told again.
      assert.equal(await refusal(125, { tree: OTHER_TREE }, fresh), 120);
      for (const forged of [last.note.replace('\n120\n', '\n1\n'), 'no note at all'])
        assert.ok('conflictsWith' in (await signing(126, { known: [forged] }, fresh)), forged);
      assert.ok('note' in (await signing(126, { known }, fresh)));
    } finally {
      await fresh.stop();
    }
  });

  test('signs a later generation only with the note of it that its key has signed, which is a leaf', async () => {
    const begun = await beginAt(4, noteOf);
    const generation = 2;
    assert.deepEqual(await signing(5, { generation }), { resumption: 'needed' });
    const other = newLogKey();
    const forged = await beginAt(4, async (heads) => {
      const { note } = await noteOf(heads);
      const text = note.slice(0, note.indexOf('\n\n') + 1);
      return { note: signed(text, other, text.split('\n')[1]) };
    });
    const third = await beginAt(4, noteOf, 3);
    for (const [what, asked] of Object.entries({
      'signed by another key': { begun: forged },
      'of another generation': { begun: third },
      'that is not in the tree': { begun: { ...begun, tree: madeUpTree() } },
      'that is at another place': {
        begun: { ...begun, tree: madeUpTree('', { ...begun, at: 3 }) },
      },
      'after another tree': { begun: { ...begun, tree: madeUpTree('x', begun) } },
    }))
      assert.deepEqual(await signing(5, { generation, ...asked }), { resumption: 'refused' }, what);
    const signedNow = await signing(5, { generation, begun });
    assert.ok('note' in signedNow, JSON.stringify(signedNow));
    assert.ok(signedNow.note.startsWith(`keyward/${environmentId}/2\n5\n`));
    // Once it was shown that, it remembers.
    assert.ok('note' in (await signing(6, { generation, tree: begun.tree })));
    assert.equal(await refusal(1_000), 6, 'none of an earlier one then');
    const head = { generation: 1, treeSize: 4, rootHash: TREE.root(4) };
    for (const { leaf, isOwn } of [
      { ...begun, isOwn: true },
      { ...forged, isOwn: false },
    ]) {
      const before = noteInLeaf(leaf) ?? null;
      const reply = await noteOf({ generation: 3, left: head, from: head, before });
      assert.equal(reply.hasSignedBefore, isOwn);
    }
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
