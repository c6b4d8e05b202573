/**
 * What someone does to the log's rows who can write all of them: leaves, tiles, sizes and
 * checkpoints, so that the database is a sound log again, and another one.
 */

import type { Environment } from '../support/kit.ts';
import { sql } from '../support/reconciling.ts';
import { leafHashOf, tilesOf } from './log.ts';

/** Leaves of the log as it is now. */
export async function leavesOf(environment: Environment): Promise<string[]> {
  const rows = await sql<{ leaf: string }>(
    environment,
    'SELECT leaf FROM audit_log ORDER BY leaf_index',
  );
  return rows.map(({ leaf }) => leaf);
}

/**
 * Changes the log, in one transaction that no sequencer is amid, and has everything fit again: the
 * tiles, the size, and no checkpoint that says otherwise. Whoever extends it reads it anew.
 */
export async function rewriteLog(environment: Environment, change: string): Promise<void> {
  const before = await leavesOf(environment);
  for (;;) {
    await sql(environment, `BEGIN; SELECT * FROM audit_state FOR UPDATE; ${change}; COMMIT`);
    const leaves = await leavesOf(environment);
    const tiles = tilesOf(leaves.map(leafHashOf)).map(
      ({ level, index, hashes }) =>
        `(${level}, ${index}, '\\x${Buffer.concat(hashes).toString('hex')}')`,
    );
    await sql(
      environment,
      `BEGIN; SELECT * FROM audit_state FOR UPDATE;
       DELETE FROM audit_tiles; INSERT INTO audit_tiles VALUES ${tiles.join(', ')};
       DELETE FROM audit_checkpoints;
       UPDATE audit_state SET tree_size = ${leaves.length}, fence = fence + 1, leased_until = '-infinity';
       COMMIT`,
    );
    if ((await leavesOf(environment)).length <= before.length) return;
  }
}
