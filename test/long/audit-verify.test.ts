/**
 * A million entries, verified: that every one of them counts, and that it takes neither memory nor
 * a minute. What it took is printed.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, it } from 'node:test';
import { verifyAuditExport } from '../../client/src/index.ts';
import { verdict } from '../audit/both.ts';
import { entryLines, newLogKey, writeExport } from '../audit/log.ts';

const ENTRIES = 1_000_000;
const MEGABYTE = 1_048_576;

const key = newLogKey();
const publicKeys = [key.publicPem];
let folder: string;

before(() => {
  folder = mkdtempSync(join(tmpdir(), 'keyward-million-'));
  writeExport(folder, { lines: entryLines(ENTRIES), key });
});

after(() => rmSync(folder, { recursive: true }));

it('a million entries verify, in memory that their number does not matter to', async (t) => {
  let peak = 0;
  const begin = performance.now();
  const { entries } = await verifyAuditExport(folder, {
    publicKeys,
    onProgress: () => {
      peak = Math.max(peak, process.memoryUsage().arrayBuffers);
    },
  });
  const seconds = (performance.now() - begin) / 1000;
  assert.equal(entries, ENTRIES);
  const bytes = (statSync(join(folder, 'entries/0.jsonl')).size / 65_536) * ENTRIES;
  // What isn't collected yet is in it; the entries themselves would be four times as much.
  assert.ok(peak < bytes / 4, `${peak} bytes in buffers at a time, of ${bytes}`);
  t.diagnostic(
    `${Math.round(ENTRIES / seconds)} entries a second: ${seconds.toFixed(1)} s for a million`,
  );
  t.diagnostic(
    `${Math.round(bytes / ENTRIES)} bytes an entry; ${Math.round(peak / MEGABYTE)} MiB in buffers`,
  );
});

it('of a million, the first that is wrong is named', async () => {
  const file = join(folder, 'entries/983040.jsonl');
  const good = readFileSync(file, 'utf8');
  writeFileSync(file, good.replace('"requestId":"r987654"', '"requestId":"r987655"'));
  assert.deepEqual(await verdict(folder, { publicKeys }), { problem: 'ENTRY', leafIndex: 987_654 });
});
