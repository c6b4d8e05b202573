/**
 * The audit log's leaves, tiles and checkpoints as rows, for the one replica that lengthens it at a
 * time.
 *
 * Invariants: whoever writes holds the lease's fence, which is checked under a lock of the same
 * transaction, so a holder that was overtaken writes nothing; entries become leaves
 * (`audit-inbox.ts`), and tiles and size are brought up to them, all in one transaction. What the
 * hashes are isn't known here.
 */
import { isOver } from '../core/leases.ts';
import type { Deadline, Tx } from '../core/transaction.ts';
import type { Store } from '../store.ts';

/** A holder that is silent for so long is overtaken. */
const LEASE = "interval '3 seconds'";
/** Checkpoints that nobody has cosigned are kept for so long, besides the last one. */
const CHECKPOINT_AGE = "interval '1 hour'";

/** How the log stands. */
export interface AuditState {
  readonly treeSize: number;
  readonly firstLeafIndex: number;
  readonly generation: number;
}

const STATE = `tree_size::float8 AS "treeSize", first_leaf_index::float8 AS "firstLeafIndex", generation`;

/** Takes the lease if it is free or nobody holds it any more. Returns the fence, or undefined. */
export function acquireLease(store: Store, call: Deadline): Promise<string | undefined> {
  return store.sequence(call, async (tx) => {
    const [row] = await tx.query<{ fence: string }>(
      `UPDATE audit_state SET fence = fence + 1, leased_until = now() + ${LEASE}
       WHERE ${isOver('leased_until', LEASE)} RETURNING fence::text`,
    );
    return row?.fence;
  });
}

/** Lets others take over at once. */
export function releaseLease(store: Store, call: Deadline, fence: string): Promise<void> {
  return store.sequence(call, async (tx) => {
    await tx.query(`UPDATE audit_state SET leased_until = '-infinity' WHERE fence = $1`, [fence]);
  });
}

/**
 * Does `work` under the lease, in one transaction, and renews it. Undefined, and nothing done, when
 * the lease is another's by now. Throws as {@link Store.reconcile}.
 */
export function withLease<T>(
  store: Store,
  call: Deadline,
  fence: string,
  work: (tx: Tx, state: AuditState) => Promise<T>,
): Promise<T | undefined> {
  return store.sequence(call, async (tx) => {
    const [state] = await tx.query<AuditState & { fence: string }>(
      `UPDATE audit_state SET leased_until = now() + ${LEASE} WHERE fence = $1 RETURNING ${STATE}`,
      [fence],
    );
    return state === undefined ? undefined : work(tx, state);
  });
}

/** A tile's hashes, side by side. */
export interface TileRecord {
  readonly level: number;
  readonly index: number;
  readonly hashes: Buffer;
}

/** Says how long the log is now, and writes the tiles that are others by that. */
export async function writeTree(
  tx: Tx,
  treeSize: number,
  tiles: readonly TileRecord[],
): Promise<void> {
  await tx.query(
    `INSERT INTO audit_tiles (level, tile_index, hashes)
     SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bytea[])
     ON CONFLICT (level, tile_index) DO UPDATE SET hashes = excluded.hashes`,
    [
      tiles.map(({ level }) => level),
      tiles.map(({ index }) => index),
      tiles.map(({ hashes }) => hashes),
    ],
  );
  await tx.query('UPDATE audit_state SET tree_size = $1', [treeSize]);
}

/** A tile as it is by now, or undefined. */
export async function findTile(
  tx: Pick<Tx, 'query'>,
  level: number,
  index: number,
): Promise<Buffer | undefined> {
  const [row] = await tx.query<{ hashes: Buffer }>(
    'SELECT hashes FROM audit_tiles WHERE level = $1 AND tile_index = $2',
    [level, index],
  );
  return row?.hashes;
}

/** A signed checkpoint. */
export interface CheckpointRecord {
  readonly treeSize: number;
  readonly generation: number;
  readonly rootHash: Buffer;
  /** The signed note, without cosignatures. */
  readonly note: string;
  /** In PEM. */
  readonly publicKey: string;
  readonly cosignatures: readonly string[];
  readonly signedAt: Date;
}

const CHECKPOINT = `tree_size::float8 AS "treeSize", generation, root_hash AS "rootHash", note, public_key AS "publicKey",
  cosignatures, signed_at AS "signedAt"`;

/** Keeps a checkpoint, once, and forgets those that are over their time. */
export async function insertCheckpoint(
  tx: Tx,
  {
    treeSize,
    generation,
    rootHash,
    note,
    publicKey,
    signedAt,
  }: Omit<CheckpointRecord, 'cosignatures'>,
): Promise<void> {
  await tx.query(
    `INSERT INTO audit_checkpoints (tree_size, generation, root_hash, note, public_key, signed_at)
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`,
    [treeSize, generation, rootHash, note, publicKey, signedAt],
  );
  await tx.query(
    `DELETE FROM audit_checkpoints WHERE tree_size < $1 AND cosignatures = '{}' AND signed_at < $2::timestamptz - ${CHECKPOINT_AGE}`,
    [treeSize, signedAt],
  );
}

/** The last checkpoint, the longest of the latest generation; or undefined. */
export async function findLastCheckpoint(tx: Tx): Promise<CheckpointRecord | undefined> {
  const [row] = await tx.query<CheckpointRecord>(
    `SELECT ${CHECKPOINT} FROM audit_checkpoints ORDER BY generation DESC, tree_size DESC LIMIT 1`,
  );
  return row;
}

/** The last checkpoint of the log as it is that has a cosignature, or undefined. */
export async function findLastCosigned(tx: Tx): Promise<CheckpointRecord | undefined> {
  const [row] = await tx.query<CheckpointRecord>(
    `SELECT ${CHECKPOINT} FROM audit_checkpoints
     WHERE cosignatures <> '{}' AND generation = (SELECT generation FROM audit_state)
     ORDER BY tree_size DESC, generation DESC LIMIT 1`,
  );
  return row;
}

/**
 * Adds cosignature lines to the checkpoint of that text and size; the checkpoint then, or undefined
 * if there is none.
 */
export async function addCosignatures(
  tx: Tx,
  { text, treeSize }: { readonly text: string; readonly treeSize: number },
  lines: readonly string[],
): Promise<CheckpointRecord | undefined> {
  const [row] = await tx.query<CheckpointRecord>(
    `UPDATE audit_checkpoints SET cosignatures = ARRAY(
       SELECT DISTINCT line FROM unnest(cosignatures || $3::text[]) AS line ORDER BY line)
     WHERE tree_size = $1 AND starts_with(note, $2) RETURNING ${CHECKPOINT}`,
    [treeSize, `${text}\n`, lines],
  );
  return row;
}

/** The first leaf of each generation after the first, as it was recorded. */
export async function listGenerations(tx: Pick<Tx, 'query'>): Promise<Map<number, string>> {
  const rows = await tx.query<{ generation: number; leaf: string }>(
    'SELECT generation, leaf FROM audit_generations',
  );
  return new Map(rows.map(({ generation, leaf }) => [generation, leaf]));
}

/** How the log stands. */
export async function findAuditState(tx: Pick<Tx, 'query'>): Promise<AuditState> {
  const [state] = await tx.query<AuditState>(`SELECT ${STATE} FROM audit_state`);
  if (state === undefined) throw new Error('the database has lost the state of its audit log');
  return state;
}
