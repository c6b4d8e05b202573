/**
 * How an encrypted file gets to its disk: beside what is written next, and no failure unheard.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, it } from 'node:test';
import { writingToDisk } from '../../cli/src/encrypted-files/blocks.ts';

const folder = mkdtempSync(join(tmpdir(), 'keyward-disk-'));
after(() => rmSync(folder, { recursive: true }));

/** Three times what is written between two syncs. */
const BLOCKS = 192;

/** Writes {@link BLOCKS} mebibytes to a file whose syncs are these. */
async function write(name: string, datasync: (file: FileHandle) => Promise<void>): Promise<void> {
  await using file = await open(join(folder, name), 'w');
  const own = Object.create(file, {
    writev: { value: file.writev.bind(file) },
    datasync: { value: () => datasync(file) },
  });
  const disk = writingToDisk(own);
  const ended = Promise.withResolvers<void>();
  disk.once('close', ended.resolve).once('error', ended.reject);
  for (let i = 0; i < BLOCKS && !disk.destroyed; i++)
    await new Promise<void>((resolve) => disk.write(Buffer.alloc(1_048_576), () => resolve()));
  disk.end();
  await ended.promise;
}

it('a file is brought to disk while more of it is written', async () => {
  let [syncs, underWay] = [0, 0];
  await write('all', async (file) => {
    assert.equal(++underWay, 1, 'one sync at a time');
    syncs += 1;
    await file.datasync();
    underWay -= 1;
  });
  assert.ok(syncs >= 1);
  assert.equal(underWay, 0, 'none is under way when the stream is closed');
});

it('what could not be brought to disk meanwhile fails the file, once and for all', async () => {
  let syncs = 0;
  // As the system does: the failure is reported once, and the next sync succeeds.
  const failing = write('part', async () => {
    if (++syncs === 1) throw Object.assign(new Error('i/o error'), { code: 'EIO' });
  });
  await assert.rejects(failing, { code: 'EIO' });
});
