import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { status } from '@grpc/grpc-js';
import { exportAuditLog, readAuditEntry, verifyAuditExport } from '../../client/src/index.ts';
import { verdict } from '../audit/both.ts';
import { fakeLog } from '../audit/fake-log.ts';
import { entryLine, entryLines, newLogKey } from '../audit/log.ts';
import { type Handler, refusal, startFakeService } from './fake-service.ts';

const key = newLogKey();
const publicKeys = [key.publicPem];
const folders: string[] = [];

after(() => {
  for (const folder of folders) rmSync(folder, { recursive: true });
});

/** A folder that isn't there yet. */
function newFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'keyward-export-'));
  folders.push(folder);
  return join(folder, 'export');
}

/** Exports what a fake with these handlers has, to a new folder. */
async function exported(handlers: Record<string, Handler>, firstLeafIndex?: number) {
  await using service = await startFakeService(handlers);
  using keyward = service.connect();
  const folder = newFolder();
  const given = firstLeafIndex === undefined ? {} : { firstLeafIndex };
  const seen: [number, number][] = [];
  const onProgress = (done: number, total: number) => seen.push([done, total]);
  const facts = await exportAuditLog(keyward, folder, { ...given, onProgress });
  return { folder, facts, seen, asked: service.calls };
}

describe('an exported log', () => {
  it('verifies, whatever its size and wherever it begins', async () => {
    for (const size of [0, 1, 256, 257, 1000]) {
      const lines = entryLines(size);
      for (const first of new Set([undefined, 256, size])) {
        if (first !== undefined && first > size) continue;
        const { folder, facts, seen } = await exported(fakeLog(lines, key), first);
        const { entries, firstLeafIndex, rootHash } = await verifyAuditExport(folder, {
          publicKeys,
        });
        assert.deepEqual([entries, firstLeafIndex], [size - (first ?? 0), first ?? 0]);
        assert.deepEqual([facts.entries, facts.firstLeafIndex], [entries, firstLeafIndex]);
        assert.deepEqual(rootHash, facts.checkpoint.rootHash);
        assert.deepEqual(seen.at(-1), entries === 0 ? undefined : [entries, entries]);
        assert.ok('verified' in (await verdict(folder, { publicKeys })));
      }
    }
  });

  it('begins with the first entry that is kept, and has entries byte for byte', async () => {
    const lines = entryLines(600).with(300, entryLine(300, { caller: 'a\nb\u2028\u0000é' }));
    const { folder } = await exported(fakeLog(lines, key, 256));
    assert.equal(
      readFileSync(join(folder, 'entries/256.jsonl'), 'utf8'),
      lines
        .slice(256)
        .map((l) => `${l}\n`)
        .join(''),
    );
    const { environment, publicKey, ...said } = JSON.parse(
      readFileSync(join(folder, 'export.json'), 'utf8'),
    );
    assert.deepEqual(said, {
      format: 1,
      origin: `keyward/${environment}`,
      firstLeafIndex: 256,
      treeSize: 600,
    });
    assert.equal(publicKey, key.publicPem);
  });

  it('of more than one file has each where it belongs', async () => {
    const lines = entryLines(65_700);
    const { folder } = await exported(fakeLog(lines, key));
    assert.deepEqual(readdirSync(join(folder, 'entries')).sort(), ['0.jsonl', '65536.jsonl']);
    assert.equal((await verifyAuditExport(folder, { publicKeys })).entries, 65_700);
  });

  it('is whole though the stream breaks: it goes on after the last entry that has come', async () => {
    const lines = entryLines(1000);
    const log = fakeLog(lines, key);
    const asked: unknown[] = [];
    const { folder } = await exported({
      ...log,
      ReadEntries: async function* (request, call) {
        asked.push(request['firstLeafIndex']);
        const answers = log['ReadEntries']?.(request, call) as Iterable<unknown>;
        let sent = 0;
        for (const answer of answers) {
          if (sent++ === 3)
            throw refusal({
              code: status.UNAVAILABLE,
              reason: 'SERVER_STOPPING',
              retryDelay: { seconds: 0, nanos: 1 },
            });
          yield answer;
        }
      },
    });
    assert.deepEqual(asked, [0, 300, 600, 900]);
    assert.equal((await verifyAuditExport(folder, { publicKeys })).entries, 1000);
  });

  it('is none when the service leaves something out, gives too much, or ends early', async () => {
    const lines = entryLines(300);
    const log = fakeLog(lines, key);
    const entry = (leafIndex: number, leaf = lines[leafIndex] ?? '{}') => ({
      leafIndex,
      leaf: Buffer.from(leaf),
    });
    const all = lines.map((_, index) => entry(index));
    const cases: [entries: object[], message: RegExp][] = [
      [all.toSpliced(7, 1), /has left out entry 7$/],
      [all.toSpliced(7, 0, entry(7)), /has left out entry 8$/],
      [all.slice(0, 299), /has given entries up to 299 only, of 300$/],
      [[...all, entry(300)], /has given more than 300 entries$/],
      [all.with(9, entry(9, 'a\nb')), /entry 9 is more than one line$/],
    ];
    for (const [entries, message] of cases) {
      await using service = await startFakeService({ ...log, ReadEntries: () => [{ entries }] });
      using keyward = service.connect();
      const folder = newFolder();
      await assert.rejects(exportAuditLog(keyward, folder), message);
      await assert.rejects(verifyAuditExport(folder, { publicKeys }), { problem: 'EXPORT' });
    }
  });

  it('is neither written over another, nor begun in the middle of a tile', async () => {
    await using service = await startFakeService(fakeLog(entryLines(300), key));
    using keyward = service.connect();
    const folder = newFolder();
    await exportAuditLog(keyward, folder);
    await assert.rejects(exportAuditLog(keyward, folder), /it is not empty; name another folder/);
    for (const firstLeafIndex of [1, 299, 512, -256, 0.5])
      await assert.rejects(exportAuditLog(keyward, newFolder(), { firstLeafIndex }), RangeError);
  });
});

describe('the audit service', () => {
  it('is asked as the contract has it, and answers in friendly types', async () => {
    const lines = entryLines(250);
    const seen: Record<string, unknown> = {};
    const log = fakeLog(lines, key);
    const proofs: Record<string, Handler> = {
      GetInclusionProof: () => ({
        leafIndex: 3,
        treeSize: 9,
        leafHash: Buffer.alloc(32, 1),
        hashes: [Buffer.alloc(32, 2)],
      }),
      GetConsistencyProof: () => ({ fromSize: 3, toSize: 9, hashes: [Buffer.alloc(32, 3)] }),
    };
    const handlers = Object.entries({ ...log, ...proofs }).map(
      ([name, handler]): [string, Handler] => [
        name,
        (request, call) => {
          seen[name] = request;
          return handler(request, call);
        },
      ],
    );
    await using service = await startFakeService(Object.fromEntries(handlers));
    using keyward = service.connect();

    const parent = 'tenants/acme';
    const filter = 'outcome = OK';
    const [startTime, endTime] = [new Date(1_700_000_000_250), new Date(1_700_000_001_000)];
    const walked = await Array.fromAsync(
      keyward.auditEntries({ parent, filter, startTime, endTime }, { pageSize: 100 }),
    );
    assert.deepEqual(
      walked.map(({ leafIndex }) => leafIndex),
      Array.from(lines, (_, i) => 249 - i),
    );
    assert.equal(readAuditEntry(walked[0] ?? { leaf: Buffer.of() }).requestId, 'r249');
    assert.deepEqual(seen['ListEntries'], {
      parent,
      pageSize: 100,
      pageToken: '200',
      filter,
      startTime: { seconds: 1_700_000_000, nanos: 250_000_000 },
      endTime: { seconds: 1_700_000_001, nanos: 0 },
    });

    const read = await Array.fromAsync(
      keyward.readAuditEntries({ parent, firstLeafIndex: 248, filter }),
    );
    assert.deepEqual(
      read.flat().map(({ leaf }) => leaf.toString()),
      lines.slice(248),
    );
    assert.deepEqual(seen['ReadEntries'], { parent, firstLeafIndex: 248, treeSize: 0, filter });

    const checkpoint = await keyward.getAuditCheckpoint();
    assert.deepEqual(
      [checkpoint.treeSize, checkpoint.signTime],
      [250, new Date(1_800_000_000_000)],
    );
    assert.equal((await keyward.addAuditCosignatures({ note: 'a note' })).note, 'a note');
    assert.deepEqual(seen['AddCosignatures'], { note: 'a note' });

    const inclusion = await keyward.getAuditInclusionProof({ leafIndex: 3 });
    assert.deepEqual(inclusion, {
      leafIndex: 3,
      treeSize: 9,
      leafHash: Buffer.alloc(32, 1),
      hashes: [Buffer.alloc(32, 2)],
    });
    assert.deepEqual(seen['GetInclusionProof'], { leafIndex: 3, treeSize: 0 });
    const consistency = await keyward.getAuditConsistencyProof({ fromSize: 3, toSize: 9 });
    assert.deepEqual(consistency, { fromSize: 3, toSize: 9, hashes: [Buffer.alloc(32, 3)] });
    assert.deepEqual(seen['GetConsistencyProof'], { fromSize: 3, toSize: 9 });

    const tiles = (await Array.fromAsync(keyward.readAuditTiles({ treeSize: 250 }))).flat();
    assert.deepEqual(
      tiles.map(({ level, index, width }) => [level, index, width]),
      [[0, 0, 250]],
    );
    assert.deepEqual(seen['ReadTiles'], { treeSize: 250 });
  });

  it('is not asked for what makes no sense', async () => {
    await using service = await startFakeService({});
    using keyward = service.connect();
    await assert.rejects(keyward.getAuditInclusionProof({ leafIndex: 1.5 }), TypeError);
    await assert.rejects(
      keyward.readAuditEntries({ parent: 'tenants/-', firstLeafIndex: Number.NaN }).next(),
      TypeError,
    );
    assert.equal(service.calls.size, 0);
  });

  it('logs entries with a version, and what has none is not read as one', () => {
    assert.deepEqual(readAuditEntry({ leaf: Buffer.from('{"v":2,"more":1}') }), { v: 2, more: 1 });
    for (const leaf of ['', '{', 'null', '1', '[]', '{}', '{"v":"1"}'])
      assert.throws(() => readAuditEntry({ leaf: Buffer.from(leaf) }), TypeError, leaf);
  });
});
