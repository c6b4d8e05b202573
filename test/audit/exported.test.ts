/**
 * From a running service to whoever doesn't believe it: `keyward audit export`, and both verifiers
 * on what it has written.
 */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import {
  auditLeafHash,
  type KeywardClient,
  readAuditEntry,
  verifyAuditConsistency,
  verifyAuditInclusion,
} from 'keyward-client';
import { runHere } from '../cli/here.ts';
import { type Outcome as Run, run, writeUsersProfiles } from '../cli/run.ts';
import { eventually, reasonOf, sharedService } from '../support/kit.ts';
import { sql } from '../support/reconciling.ts';
import { verdict } from './both.ts';

const KEY = 'tenants/acme/keys/mail';
/** Names that would break lines, where lines were made of them. */
const ODD = 'é\u2028\u2029 "quoted" {"v":1} \\n';

let keyward: KeywardClient;
const shared = sharedService(async (client) => {
  keyward = client;
  await client.createTenant({ tenantId: 'acme' });
  await client.createKey({ parent: 'tenants/acme', keyId: 'mail', labels: { a: 'b' } });
});

let folder: string;

/** Runs the command, which must succeed. */
async function cli(args: string): Promise<Run> {
  const outcome = await runHere(args.split(' '), { cwd: folder });
  const said = args === 'audit public-key' ? /was not compared with the HSM token/ : /^$/;
  assert.equal(outcome.code, 0, args);
  assert.match(outcome.stderr, said, args);
  return outcome;
}

/**
 * So many encryptions, and waits until they are all under a signed checkpoint, whose size it gives.
 */
async function encrypt(times: number): Promise<number> {
  const { treeSize } = await keyward.getAuditCheckpoint();
  const plaintext = Buffer.from('p');
  for (let done = 0; done < times; done += 50) {
    const calls = Array.from({ length: Math.min(50, times - done) }, () =>
      keyward.encrypt({ name: KEY, plaintext, encryptionContext: { [ODD]: ODD } }),
    );
    await Promise.all(calls);
  }
  return eventually(async () => {
    const now = await keyward.getAuditCheckpoint();
    assert.ok(now.treeSize >= treeSize + times, `${now.treeSize} entries are signed`);
    return now.treeSize;
  });
}

/** The lines of an export's entries, in their order. */
function linesIn(name: string): string[] {
  return readFileSync(join(folder, name, 'entries/0.jsonl'), 'utf8')
    .split('\n')
    .slice(0, -1);
}

describe('an export of the service', () => {
  before(async () => {
    folder = join(shared.environment.directory, 'cli');
    mkdirSync(folder, { recursive: true });
    writeUsersProfiles(folder, { caller: shared.service.connectOptions() });
    await eventually(() => keyward.getAuditCheckpoint());
    writeFileSync(join(folder, 'log.pem'), (await cli('audit public-key')).stdout);
  });

  it('verifies, and has every call, also those that were refused', async () => {
    assert.equal(
      await reasonOf(keyward.encrypt({ name: `${KEY}x`, plaintext: Buffer.of() })),
      'RESOURCE_NOT_FOUND',
    );
    const size = await encrypt(600);
    await cli('audit export first');
    const publicKeys = [readFileSync(join(folder, 'log.pem'), 'utf8')];
    const outcome = await verdict(join(folder, 'first'), { publicKeys });
    assert.ok('verified' in outcome && outcome.verified >= size, JSON.stringify(outcome));
    await cli('audit verify first --public-key log.pem');
    const entries = linesIn('first').map((line) => readAuditEntry({ leaf: Buffer.from(line) }));
    const encrypted = entries.filter(
      ({ method }) => method === 'keyward.v1.EncryptionService/Encrypt',
    );
    assert.equal(encrypted.filter(({ outcome: reason }) => reason === 'OK').length, 600);
    assert.equal(
      encrypted.filter(({ outcome: reason }) => reason === 'RESOURCE_NOT_FOUND').length,
      1,
    );
    assert.deepEqual(Object.keys(encrypted.at(-1)?.context ?? {}), [ODD]);
    assert.equal(entries.filter(({ method }) => method.endsWith('/CreateKey')).length, 1);
  });

  it('is continued by every later one, and what was damaged meanwhile is named', async () => {
    await encrypt(300);
    await cli('audit export second --from 512');
    await cli('audit verify second --public-key log.pem --known first/checkpoint');
    const entries = join(folder, 'second/entries/512.jsonl');
    const good = readFileSync(entries, 'utf8').split('\n');
    writeFileSync(entries, good.toSpliced(20, 1).join('\n'));
    const publicKeys = [readFileSync(join(folder, 'log.pem'), 'utf8')];
    assert.deepEqual(await verdict(join(folder, 'second'), { publicKeys }), {
      problem: 'ENTRY',
      leafIndex: 532,
    });
    rmSync(join(folder, 'second'), { recursive: true });
  });

  it('was signed with the sizes and roots that its proofs are about', async () => {
    const { treeSize: fromSize, rootHash: fromRootHash } = await keyward.getAuditCheckpoint();
    await encrypt(10);
    const { treeSize: toSize, rootHash: toRootHash } = await keyward.getAuditCheckpoint();
    const { hashes } = await keyward.getAuditConsistencyProof({ fromSize, toSize });
    const claim = { fromSize, fromRootHash, toSize, toRootHash, hashes };
    assert.ok(verifyAuditConsistency(claim));
    assert.ok(!verifyAuditConsistency({ ...claim, fromRootHash: toRootHash }));
    const lines = linesIn('first');
    for (const leafIndex of [0, 1, 255, 256, 599]) {
      const proof = await keyward.getAuditInclusionProof({ leafIndex, treeSize: toSize });
      const leafHash = auditLeafHash(Buffer.from(lines[leafIndex] ?? ''));
      assert.deepEqual(proof.leafHash, leafHash);
      assert.ok(
        verifyAuditInclusion({ ...proof, leafHash, rootHash: toRootHash }),
        String(leafIndex),
      );
    }
  });

  it('can be listed and followed with the same words', async () => {
    const list = await cli('audit list acme --filter outcome=RESOURCE_NOT_FOUND');
    assert.match(list.stdout, /^ENTRY[^\n]+\n\d+ +\S+ +acme .*RESOURCE_NOT_FOUND\n$/);
    const args = ['audit', 'tail', '-', '--from', '0', '--output', 'json'];
    const until = (stdout: string) => stdout.split('\n').length > 600;
    const tail = await run(args, { cwd: folder, until });
    const seen = tail.stdout.split('\n').slice(0, 600);
    assert.deepEqual(seen, linesIn('first').slice(0, 600));
  });

  it('shows an entry that someone has made unreadable as such, with all others', async () => {
    const change = "UPDATE audit_log SET leaf = 'no JSON' WHERE leaf_index = 300";
    await sql(shared.environment, change);
    const list = await cli('audit list acme --limit 2000');
    assert.match(list.stdout, /\n300 .*not readable: no JSON/);
    assert.match(list.stdout, /\n299 .*CreateKey|\n299 .*Encrypt/);
    await cli('audit list acme --filter outcome=RESOURCE_NOT_FOUND');
    await cli('audit list acme --since 2020-01-01T00:00:00Z');
    const until = (stdout: string) => stdout.split('\n').length > 310;
    const tail = await run(['audit', 'tail', 'acme', '--from', '0'], { cwd: folder, until });
    assert.match(tail.stdout, /\n300 .*not readable: no JSON\n/);
    await cli('audit export third');
    const publicKeys = [readFileSync(join(folder, 'log.pem'), 'utf8')];
    assert.deepEqual(await verdict(join(folder, 'third'), { publicKeys }), {
      problem: 'ENTRY',
      leafIndex: 300,
    });
  });
});
