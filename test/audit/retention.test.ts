/**
 * Dropping old entries: by the owner's command alone, what is old and exported, and the proofs of
 * the rest hold.
 *
 * Partitions of 2^20 leaves would take a test long to fill, so this database makes smaller ones.
 */
import assert from 'node:assert/strict';
import { generateKeyPairSync, sign } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { auditLeafHash, verifyAuditConsistency, verifyAuditInclusion } from 'keyward-client';
import { AuditLog } from '../../src/audit/log.ts';
import { dropExported } from '../../src/audit/operation.ts';
import { Sequencer } from '../../src/audit/sequencer.ts';
import { KeywardError } from '../../src/errors.ts';
import { checkpointNote, checkpointText } from '../../src/hsm/checkpoint.ts';
import type { RequestOf } from '../../src/hsm/protocol.ts';
import { appendEntries } from '../../src/store/audit/audit.ts';
import { type OwnerConnection, withOwnerConnection } from '../../src/store/core/owner.ts';
import { readEnvironmentAsOwner } from '../../src/store/environment.ts';
import type { Store } from '../../src/store/store.ts';
import {
  callOf,
  migratedDatabase,
  OWNER,
  SERVICE,
  systemTenant,
  type TestDatabase,
} from '../store/database.ts';
import { NO_ALERTS } from '../support/alerts.ts';
import { eventually } from '../support/kit.ts';
import { asReplica, deriveWriterKey } from './writer-keys.ts';

/** In one partition. */
const LEAVES = 1_024;
const TOTAL = 4 * LEAVES + 300;
const DAY_MS = 86_400_000;

let database: TestDatabase;
let store: Store;
let log: AuditLog;
let folder: string;

before(async () => {
  database = await migratedDatabase();
  await makeSmallPartitions();
  store = await database.open();
  const system = await systemTenant(database);
  log = new AuditLog({ store, tenantIdOf: async () => system, witnesses: [] });
  // Those of the first three partitions are old.
  const lines = Array.from({ length: TOTAL }, (_, n) => {
    const time = new Date(Date.now() - (n < 3 * LEAVES ? 400 * DAY_MS : 0)).toISOString();
    return { tenantId: system, line: JSON.stringify({ n, time }) };
  });
  await appendEntries(asReplica(store), callOf(), lines);
  await sequence();
  folder = await exportTo('whole');
});

after(async () => {
  await store.close();
  await database[Symbol.asyncDispose]();
});

/** The migration's own function, with another number in it. */
async function makeSmallPartitions(): Promise<void> {
  await database.sql('DROP TABLE audit_log_0');
  const [row] = await database.sql<{ text: string }>(
    "SELECT pg_get_functiondef('make_audit_partition'::regproc) AS text",
  );
  await database.sql((row?.text ?? '').replaceAll(/(>>|<<) 20/g, '$1 10'));
  // The sequencer makes those of the first and the last leaf that it takes at once: enough for
  // larger ones.
  await database.sql(
    `SELECT make_audit_partition(first) FROM generate_series(0, ${TOTAL}, ${LEAVES}) AS first`,
  );
}

async function sequence(): Promise<void> {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const spki = publicKey.export({ format: 'der', type: 'spki' });
  const environmentId = await withOwner(
    async (owner) => (await readEnvironmentAsOwner(owner)).environmentId,
  );
  const call = async (
    name: string,
    request: RequestOf<'signCheckpoint'> & RequestOf<'deriveWriterKey'>,
  ) => {
    if (name === 'deriveWriterKey') return deriveWriterKey(request);
    const { generation, treeSize, rootHash } = request;
    const claim = {
      environmentId,
      generation,
      treeSize,
      rootHash: Buffer.from(rootHash, 'base64'),
    };
    const note = checkpointNote(
      claim,
      spki,
      sign('sha256', Buffer.from(checkpointText(claim)), privateKey),
    );
    return { note, spki: spki.toString('base64') };
  };
  const sequencer = new Sequencer({
    store,
    agents: { call } as unknown as ConstructorParameters<typeof Sequencer>[0]['agents'],
    environmentId,
    systemTenantId: await systemTenant(database),
    checkpointPeriodMs: 1_000,
    kept: [],
    log: { info() {}, warn() {} },
    alerts: NO_ALERTS,
  });
  sequencer.start();
  await eventually(async () => assert.equal((await log.checkpoint(callOf())).treeSize, TOTAL));
  await sequencer.stop();
}

/** What of an export says what it is of. */
async function exportTo(name: string, firstLeafIndex = 0, note?: string): Promise<string> {
  const directory = join(String(process.env['KEYWARD_TEST_DIRECTORY']), `${database.name}-${name}`);
  mkdirSync(directory);
  writeFileSync(join(directory, 'export.json'), JSON.stringify({ format: 1, firstLeafIndex }));
  writeFileSync(join(directory, 'checkpoint'), note ?? (await log.checkpoint(callOf())).note);
  return directory;
}

function withOwner<T>(work: (owner: OwnerConnection) => Promise<T>): Promise<T> {
  return withOwnerConnection(database.url(OWNER), undefined, work);
}

const drop = (from: string, olderThanDays: number) =>
  withOwner(async (owner) => {
    const { environmentId, systemTenantId } = await readEnvironmentAsOwner(owner);
    const operation = { owner, environmentId, systemTenantId, caller: 'operator test' };
    return dropExported(operation, { folder: from, olderThanDays });
  });

async function read(first: number): Promise<number[]> {
  const found: number[] = [];
  for await (const leaves of log.read(callOf(), '-', { first, treeSize: TOTAL }, []))
    found.push(...leaves.map(({ leafIndex }) => leafIndex));
  return found;
}

test('what is younger, or not in the export, or in another log’s, is kept', async () => {
  assert.equal(await drop(folder, 500), undefined);
  await assert.rejects(drop(await exportTo('late', LEAVES), 300), /begins with leaf 1024/);
  const { note } = await log.checkpoint(callOf());
  await assert.rejects(
    drop(await exportTo('foreign', 0, note.replace(/^keyward/, 'other')), 300),
    /of another log/,
  );
  const forged = note.replace(/\n4396\n/, '\n4000\n');
  assert.notEqual(forged, note);
  await assert.rejects(drop(await exportTo('forged', 0, forged), 300), /of another log/);
  assert.equal((await read(0)).length, TOTAL);
});

test('what is old and exported goes, in whole partitions, once', async () => {
  assert.deepEqual(await drop(folder, 300), { firstLeafIndex: 0, end: 3 * LEAVES });
  assert.equal(await drop(folder, 300), undefined);
  const rows = await database.sql<{ n: number }>('SELECT count(*)::int AS n FROM audit_log');
  assert.equal(rows[0]?.n, TOTAL - 3 * LEAVES);
  const entries = await database.sql<{ method: string; detail: string }>(
    "SELECT method, detail FROM audit_entries WHERE caller = 'operator test'",
  );
  assert.deepEqual(entries, [
    { method: 'keyward-server audit drop', detail: 'leaves 0 up to 3072' },
  ]);
});

test('the proofs of the rest hold, and the log says where it begins', async () => {
  const { treeSize, rootHash, firstLeafIndex } = await log.checkpoint(callOf());
  assert.equal(firstLeafIndex, 3 * LEAVES);
  assert.equal((await read(firstLeafIndex)).length, TOTAL - firstLeafIndex);
  const rows = await database.sql<{ leaf: string }>(
    'SELECT leaf FROM audit_log WHERE leaf_index = $1',
    [firstLeafIndex],
  );
  const { hashes, leafHash } = await log.inclusionProof(callOf(), {
    leafIndex: firstLeafIndex,
    treeSize,
  });
  assert.deepEqual(leafHash, auditLeafHash(Buffer.from(rows[0]?.leaf ?? '')));
  assert.ok(
    verifyAuditInclusion({ leafHash, leafIndex: firstLeafIndex, treeSize, rootHash, hashes }),
  );
  // An entry that is gone is proven by who has its export.
  const gone = await log.inclusionProof(callOf(), { leafIndex: 5, treeSize });
  assert.ok(verifyAuditInclusion({ ...gone, rootHash }));
  const { hashes: path } = await log.consistencyProof(callOf(), {
    fromSize: treeSize,
    toSize: treeSize,
  });
  const roots = { fromRootHash: rootHash, toRootHash: rootHash };
  assert.ok(
    verifyAuditConsistency({ fromSize: treeSize, toSize: treeSize, ...roots, hashes: path }),
  );
});

test('reading from before says that it is gone', async () => {
  await assert.rejects(read(0), (error) => {
    assert.ok(error instanceof KeywardError);
    assert.deepEqual(
      [error.reason, error.metadata['first_leaf_index']],
      ['AUDIT_ENTRIES_DROPPED', '3072'],
    );
    return true;
  });
});

test('the service’s role can drop nothing', async () => {
  const open = await database.open({ url: database.url(SERVICE) });
  await assert.rejects(open.query(callOf(), 'DROP TABLE audit_log_3'), { code: '42501' });
  await assert.rejects(
    open.reconcile(callOf(), (tx) => tx.query('DROP TABLE audit_log_3')),
    { code: '42501' },
  );
  await open.close();
});
