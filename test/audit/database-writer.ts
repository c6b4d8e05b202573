/**
 * What someone does to the log's rows who can write all of them: leaves, tiles, sizes and
 * checkpoints, so that the database is a sound log again, and another one.
 */
import pg from 'pg';
import type { Environment } from '../support/kit.ts';
import { leafHashOf, tilesOf } from './log.ts';

/**
 * Changes the log, in one transaction that no sequencer is amid, and has everything fit again: the
 * tiles, the size, and no checkpoint that says otherwise. Whoever extends it reads it anew.
 */
export async function rewriteLog(environment: Environment, change: string): Promise<void> {
  const client = new pg.Client(environment.urls.superuser);
  await client.connect();
  try {
    await client.query(`BEGIN; SELECT FROM audit_state FOR UPDATE; ${change}`);
    const { rows } = await client.query<{ leaf: string }>(
      'SELECT leaf FROM audit_log ORDER BY leaf_index',
    );
    const tiles = tilesOf(rows.map(({ leaf }) => leafHashOf(leaf))).map(
      ({ level, index, hashes }) =>
        `(${level}, ${index}, '\\x${Buffer.concat(hashes).toString('hex')}')`,
    );
    await client.query(
      `DELETE FROM audit_tiles; INSERT INTO audit_tiles VALUES ${tiles.join(', ')};
       DELETE FROM audit_checkpoints;
       UPDATE audit_state SET tree_size = ${rows.length}, fence = fence + 1, leased_until = '-infinity';
       COMMIT`,
    );
  } finally {
    await client.end();
  }
}
