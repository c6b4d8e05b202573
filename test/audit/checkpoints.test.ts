/**
 * What the HSM has signed, over the wire: notes, proofs, cosignatures; and a database that is older
 * than what was signed.
 */
import assert from 'node:assert/strict';
import { generateKeyPairSync, hash, sign, verify } from 'node:crypto';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import {
  type AuditCheckpoint,
  auditLeafHash,
  exportAuditLog,
  type KeywardClient,
  readAuditEntry,
  verifyAuditConsistency,
  verifyAuditExport,
  verifyAuditInclusion,
} from 'keyward-client';
import { backUp, inDatabase } from '../running/backups.ts';
import { runSql } from '../store/database.ts';
import {
  eventually,
  type LogLine,
  newEnvironment,
  reasonOf,
  runCommand,
  sharedService,
  startService,
} from '../support/kit.ts';
import { verdict } from './both.ts';

/** What a service reports once it signs the log again, or another does. */
const AGAIN = 'the audit log is signed again';

/** A checkpoint of more than so many leaves. */
const checkpointOver = (client: KeywardClient, size = 0): Promise<AuditCheckpoint> =>
  eventually(async () => {
    const checkpoint = await client.getAuditCheckpoint();
    assert.ok(checkpoint.treeSize > size, `${checkpoint.treeSize}`);
    return checkpoint;
  });

const encrypt = (client: KeywardClient, count: number) =>
  Promise.all(
    Array.from({ length: count }, () =>
      client.encrypt({ name: 'tenants/acme/keys/mail', plaintext: Buffer.from('x') }),
    ),
  );

async function prepare(client: KeywardClient): Promise<void> {
  await client.createTenant({ tenantId: 'acme' });
  await client.createKey({ parent: 'tenants/acme', keyId: 'mail' });
  await encrypt(client, 20);
}

function textOf(note: string): string {
  return note.slice(0, note.indexOf('\n\n') + 1);
}

describe('a checkpoint', () => {
  const witness = generateKeyPairSync('ed25519');
  const shared = sharedService(prepare, {
    get KEYWARD_AUDIT_WITNESSES_FILE() {
      return witnessesFile();
    },
  });
  const key = Buffer.concat([
    Buffer.of(4),
    witness.publicKey.export({ format: 'der', type: 'spki' }).subarray(-32),
  ]);
  const keyId = hash(
    'sha256',
    Buffer.concat([Buffer.from('witness.test\n'), key]),
    'buffer',
  ).subarray(0, 4);

  function witnessesFile(): string {
    const file = join(String(process.env['KEYWARD_TEST_DIRECTORY']), 'witnesses');
    writeFileSync(
      file,
      `# of this test\nwitness.test+${keyId.toString('hex')}+${key.toString('base64')}\n`,
    );
    return file;
  }

  function cosigned(note: string, name = 'witness.test', change = 0): string {
    const time = Buffer.alloc(8);
    time.writeBigUInt64BE(1_700_000_000n);
    const signature = sign(
      null,
      Buffer.from(`cosignature/v1\ntime 1700000000\n${textOf(note)}`),
      witness.privateKey,
    );
    signature[0] = (signature[0] ?? 0) ^ change;
    return `${note}— ${name} ${Buffer.concat([keyId, time, signature]).toString('base64')}\n`;
  }

  test('names the environment, and verifies under the token’s key', async () => {
    const { note, treeSize, rootHash, publicKey, environmentId } = await checkpointOver(
      shared.keyward,
    );
    const [text, origin] = [textOf(note), `keyward/${environmentId}`];
    assert.equal(text, `${origin}\n${treeSize}\n${rootHash.toString('base64')}\n`);
    const [, name, encoded = ''] = note.slice(text.length + 1).split(/[ \n]/);
    assert.equal(name, origin);
    const signature = Buffer.from(encoded, 'base64').subarray(4);
    assert.ok(verify('sha256', Buffer.from(text), publicKey, signature));
    assert.ok(
      !verify('sha256', Buffer.from(text.replace(origin, 'keyward/other')), publicKey, signature),
    );
  });

  test('comes with the proof of each entry under it, and of each smaller one', async () => {
    const { keyward } = shared;
    const before = await checkpointOver(keyward);
    await encrypt(keyward, 10);
    const { treeSize, rootHash } = await checkpointOver(keyward, before.treeSize);
    const entries = [];
    for await (const some of keyward.readAuditEntries({
      parent: 'tenants/-',
      firstLeafIndex: 0,
      treeSize,
    }))
      entries.push(...some);
    assert.equal(entries.length, treeSize);
    for (const { leafIndex, leaf } of entries) {
      const { hashes, leafHash } = await keyward.getAuditInclusionProof({ leafIndex, treeSize });
      assert.deepEqual(leafHash, auditLeafHash(leaf));
      assert.ok(verifyAuditInclusion({ leafHash, leafIndex, treeSize, rootHash, hashes }));
    }
    const sizes = { fromSize: before.treeSize, toSize: treeSize };
    const { hashes } = await keyward.getAuditConsistencyProof(sizes);
    const roots = { fromRootHash: before.rootHash, toRootHash: rootHash };
    assert.ok(verifyAuditConsistency({ ...sizes, ...roots, hashes }));
  });

  test('of what isn’t signed yet proves nothing', async () => {
    const { keyward } = shared;
    const { treeSize } = await checkpointOver(keyward);
    for (const call of [
      () => keyward.getAuditInclusionProof({ leafIndex: 0, treeSize: treeSize + 1_000_000 }),
      () => keyward.getAuditInclusionProof({ leafIndex: treeSize, treeSize }),
      () => keyward.getAuditConsistencyProof({ fromSize: 0, toSize: treeSize }),
      () => keyward.getAuditConsistencyProof({ fromSize: treeSize, toSize: treeSize - 1 }),
    ])
      assert.equal(await reasonOf(call()), 'INVALID_FIELD');
  });

  test('keeps the cosignatures of configured witnesses, and no others', async () => {
    const { keyward } = shared;
    const { note } = await checkpointOver(keyward);
    for (const wrong of [note, cosigned(note, 'other.test'), cosigned(note, 'witness.test', 1)]) {
      assert.equal(
        await reasonOf(keyward.addAuditCosignatures({ note: wrong })),
        'COSIGNATURE_REFUSED',
      );
    }
    assert.equal(
      await reasonOf(keyward.addAuditCosignatures({ note: 'nonsense' })),
      'INVALID_FIELD',
    );
    const forged = cosigned(note.replace(/\n\d+\n/, '\n1\n'));
    assert.equal(
      await reasonOf(keyward.addAuditCosignatures({ note: forged })),
      'COSIGNATURE_REFUSED',
    );
    const kept = await keyward.addAuditCosignatures({ note: cosigned(note) });
    assert.equal(kept.note, cosigned(note));
    assert.equal((await keyward.addAuditCosignatures({ note: cosigned(note) })).note, kept.note);
  });
});

test('the public key is printed as the token has it, whatever the database has', async () => {
  await using environment = await newEnvironment();
  const printed = () => runCommand(environment, ['audit', 'public-key']);
  const { publicKey } = await (async () => {
    await using service = await startService(environment);
    await prepare(service.client());
    return await checkpointOver(service.client());
  })();
  const other = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  await runSql(environment.urls.superuser, 'UPDATE audit_checkpoints SET public_key = $1', [
    other.publicKey.export({ format: 'pem', type: 'spki' }),
  ]);
  const { code, output } = await printed();
  assert.deepEqual([code, output], [0, publicKey]);
});

test('case 94: on an older database nothing is signed, which is said, until an operator has the log go on', async () => {
  await using environment = await newEnvironment();
  const kept = pathToFileURL(join(environment.directory, 'checkpoint')).href;
  const variables = { KEYWARD_AUDIT_KEPT_CHECKPOINT: kept };
  const operator = { MIGRATION_DATABASE_URL: environment.urls.owner, ...variables };
  const first = await serving(environment, async (client) => {
    await prepare(client);
    return checkpointOver(client, 22);
  });
  await using backup = await backUp(environment);
  await serving(environment, async (client) => {
    await encrypt(client, 30);
    await checkpointOver(client, first.treeSize + 30);
  });
  const restored = inDatabase(environment, backup.database);
  const refused = await runCommand(environment, ['audit', 'resume'], operator);
  assert.notEqual(refused.code, 0);
  assert.match(refused.output, /nothing to do/);
  {
    await using service = await startService(restored, variables);
    await using other = await startService(restored, variables);
    const client = service.client();
    const isAlert = ({ alert }: LogLine) => alert === 'audit-log-contradicted';
    const { contradiction, level } = await service.logged(isAlert);
    assert.equal(level, 'error');
    await other.logged(isAlert);
    assert.match(
      String(contradiction),
      /^the log has \d+ leaves, but a checkpoint of \d+ was signed$/,
    );
    // Callers are served all the same, and what they do is kept for when the log goes on.
    await encrypt(client, 3);
    assert.ok((await client.getAuditCheckpoint()).treeSize <= first.treeSize + 2);
    const onRestored = { ...operator, MIGRATION_DATABASE_URL: restored.urls.owner };
    const resumed = await runCommand(restored, ['audit', 'resume'], onRestored);
    assert.equal(resumed.code, 0, resumed.output);
    const { note, environmentId } = await checkpointOver(client, first.treeSize + 2);
    assert.ok(note.startsWith(`keyward/${environmentId}/2\n`), note);
    const entries = await client.listAuditEntries({
      parent: 'tenants/-',
      filter: 'method = "keyward-server audit resume"',
    });
    const [entry] = entries.entries.map(readAuditEntry);
    const { detail } = entry ?? {};
    assert.ok(typeof detail === 'object' && detail !== null && 'contradiction' in detail);
    assert.equal(detail.contradiction, contradiction);
    await assertVerified(client);
    const goesOn = ({ alert }: LogLine) => alert === 'audit-generation-changed';
    const told = await eventually(() => {
      const lines = [...service.log, ...other.log].filter(goesOn);
      assert.ok(lines.length > 0);
      return lines;
    });
    assert.deepEqual(
      told.map(({ generation, from }) => [generation, from]),
      [[2, first.treeSize]],
    );
    // Whichever of them signs, neither log ends with the standstill.
    for (const { log } of [service, other])
      await eventually(() => {
        const said = log.filter((line) => isAlert(line) || line['msg'] === AGAIN);
        assert.deepEqual(
          said.map(({ msg }) => msg === AGAIN),
          [false, true],
        );
      });
  }
  await serving(restored, (client) => checkpointOver(client, first.treeSize + 3));

  async function serving<T>(
    where: typeof environment,
    work: (client: KeywardClient) => Promise<T>,
  ): Promise<T> {
    await using service = await startService(where, variables);
    return await work(service.client());
  }
});

/** An export has the note that has begun the generation, and is nothing without it. */
async function assertVerified(client: KeywardClient): Promise<void> {
  const folder = mkdtempSync(join(String(process.env['KEYWARD_TEST_DIRECTORY']), 'resumed-'));
  const { checkpoint } = await exportAuditLog(client, folder);
  const options = { publicKeys: [checkpoint.publicKey] };
  const { resumptions } = await verifyAuditExport(folder, options);
  assert.deepEqual(
    resumptions.map(({ origin }) => origin),
    [`keyward/${checkpoint.environmentId}/2`],
  );
  assert.ok('verified' in (await verdict(folder, options)));
  const file = join(folder, 'resumptions.jsonl');
  const good = readFileSync(file, 'utf8');
  for (const bad of ['', good + good, good.replace('audit resume', 'audit Resume')]) {
    writeFileSync(file, bad);
    assert.deepEqual(await verdict(folder, options), { problem: 'RESUMPTION' });
  }
}
