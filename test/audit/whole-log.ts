/**
 * A log in the database, looked at as a whole: leaves without a gap, every tile and every
 * checkpoint's root recomputed from all leaves by the client's routine.
 *
 * Knows the tables; nothing of how they came to be.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { auditLeafHash } from 'keyward-client';
import { runSql } from '../store/database.ts';

const TILE_WIDTH = 256;

/** RFC 6962, 2.1, over leaf hashes. */
export function treeHash(leaves: readonly Buffer[]): Buffer {
  const [only] = leaves;
  if (only === undefined) return createHash('sha256').digest();
  if (leaves.length === 1) return only;
  let k = 1;
  while (k * 2 < leaves.length) k *= 2;
  return createHash('sha256')
    .update(Buffer.of(1))
    .update(treeHash(leaves.slice(0, k)))
    .update(treeHash(leaves.slice(k)))
    .digest();
}

/**
 * The lines of all leaves, in order, once everything about them was found right. `url` is the
 * superuser's.
 */
export async function wholeLog(url: string): Promise<string[]> {
  const rows = await runSql<{ leaf_index: string; leaf: string }>(
    url,
    'SELECT leaf_index, leaf FROM audit_log ORDER BY leaf_index',
  );
  assert.deepEqual(
    rows.map((row) => Number(row.leaf_index)),
    rows.map((_, index) => index),
    'no gap',
  );
  const [state] = await runSql<{ tree_size: string }>(url, 'SELECT tree_size FROM audit_state');
  assert.equal(Number(state?.tree_size), rows.length, 'the size that is recorded');
  const hashes = rows.map(({ leaf }) => auditLeafHash(Buffer.from(leaf)));
  const checkpoints = await runSql<{ tree_size: string; root_hash: Buffer }>(
    url,
    'SELECT tree_size, root_hash FROM audit_checkpoints ORDER BY tree_size',
  );
  for (const { tree_size: size, root_hash: root } of checkpoints)
    assert.deepEqual(root, treeHash(hashes.slice(0, Number(size))), `the checkpoint of ${size}`);
  await assertTiles(url, hashes);
  return rows.map(({ leaf }) => leaf);
}

async function assertTiles(url: string, leafHashes: readonly Buffer[]): Promise<void> {
  const tiles = await runSql<{ level: number; tile_index: string; hashes: Buffer }>(
    url,
    'SELECT level, tile_index, hashes FROM audit_tiles ORDER BY level, tile_index',
  );
  const expected: [number, number, Buffer][] = [];
  let hashes = [...leafHashes];
  for (let level = 0; hashes.length > 0; level++) {
    const above: Buffer[] = [];
    for (let start = 0; start < hashes.length; start += TILE_WIDTH) {
      const some = hashes.slice(start, start + TILE_WIDTH);
      expected.push([level, start / TILE_WIDTH, Buffer.concat(some)]);
      if (some.length === TILE_WIDTH) above.push(treeHash(some));
    }
    hashes = above;
  }
  const names = tiles.map(({ level, tile_index: index }) => `${level}/${index}`);
  assert.deepEqual(
    names,
    expected.map(([level, index]) => `${level}/${index}`),
  );
  for (const [index, { hashes: kept }] of tiles.entries())
    assert.ok(kept.equals(expected[index]?.[2] ?? Buffer.alloc(0)), `tile ${names[index]}`);
}
