/**
 * The inbox as the sequencer reads it: rows, oldest first, and what it remembers of who wrote them.
 *
 * What is read is only what the rows say; whether that is true is found out elsewhere. Rows are
 * taken as they are visible: one whose transaction commits later becomes a later leaf, and one that
 * was durable before another was begun, an earlier one.
 */
import type { AnyId, TenantId } from '../../ids.ts';
import type { Tx } from '../core/transaction.ts';
import type { InboxRow } from './streams.ts';

/** In one step so many bytes of entries are read, or one row's. */
const STEP_BYTES = 33_554_432;
/** No process writes a row that is longer. */
const ROW_BYTES = 67_108_864;

/** A row as it says itself that it is; what a row lacks is null. */
export interface WaitingRow extends InboxRow {
  /** Which row it is, in the order of the inbox. */
  readonly groupNumber: string;
  readonly replicaId: AnyId | null;
  readonly stream: number | null;
  readonly number: number | null;
  readonly maskKeyId: AnyId | null;
  readonly mac: Buffer | null;
  /** Whether its entries are too long to be read: `leaves` is empty then. */
  readonly isTooLong: boolean;
}

/** Reads the oldest rows: of about `limit` entries, since rows stay whole. */
export async function listOldestRows(tx: Tx, limit: number): Promise<WaitingRow[]> {
  const rows = await tx.query<WaitingRow & { readonly entryId: string | null }>(
    `WITH oldest AS (
       SELECT group_number, entry_count, octet_length(leaves) AS bytes FROM audit_inbox
       ORDER BY group_number LIMIT $1),
     measured AS (
       SELECT group_number, bytes,
         sum(entry_count) OVER earlier - entry_count AS entries_before,
         sum(bytes) OVER earlier - bytes AS bytes_before
       FROM oldest WINDOW earlier AS (ORDER BY group_number))
     SELECT group_number::text AS "groupNumber", tenant_id AS "tenantId", entry_id AS "entryId",
       entry_count AS "entryCount", bytes > ${ROW_BYTES} AS "isTooLong",
       CASE WHEN bytes > ${ROW_BYTES} THEN '' ELSE leaves END AS leaves,
       replica_id AS "replicaId", stream::float8 AS stream, row_number::float8 AS number,
       mask_key_id AS "maskKeyId", mac
     FROM measured JOIN audit_inbox USING (group_number)
     WHERE entries_before < $1 AND (bytes_before < ${STEP_BYTES} OR bytes_before = 0)
     ORDER BY group_number`,
    [limit],
  );
  return rows.map((row) => ({ ...row, entryId: row.entryId ?? undefined }));
}

/** The oldest row that waits, if any does. */
export async function findOldestRow(tx: Tx): Promise<string | undefined> {
  const [row] = await tx.query<{ oldest: string | null }>(
    'SELECT min(group_number)::text AS oldest FROM audit_inbox',
  );
  return row?.oldest ?? undefined;
}

/** Makes leaves of the rows' entries, from an index on. Returns their hashes, side by side. */
export async function moveRows(
  tx: Tx,
  firstIndex: number,
  groupNumbers: readonly string[],
): Promise<Buffer> {
  const [moved] = await tx.query<{ hashes: Buffer | null }>(
    `WITH taken AS (
       DELETE FROM audit_inbox WHERE group_number = ANY ($2::bigint[])
       RETURNING tenant_id, group_number, entry_id, leaves),
     moved AS (
       INSERT INTO audit_log (tenant_id, leaf_index, entry_id, leaf)
       SELECT tenant_id, $1::bigint + row_number() OVER (ORDER BY group_number, place) - 1, entry_id, leaf
       FROM taken, string_to_table(leaves, E'\\n') WITH ORDINALITY AS line (leaf, place)
       RETURNING leaf_index, sha256('\\x00'::bytea || convert_to(leaf, 'UTF8')) AS hash)
     SELECT string_agg(hash, ''::bytea ORDER BY leaf_index) AS hashes FROM moved`,
    [firstIndex, groupNumbers],
  );
  return moved?.hashes ?? Buffer.alloc(0);
}

/** Takes rows out of the inbox that become no leaves. */
export async function removeRows(tx: Tx, groupNumbers: readonly string[]): Promise<void> {
  await tx.query('DELETE FROM audit_inbox WHERE group_number = ANY ($1::bigint[])', [groupNumbers]);
}

/** Makes leaves of lines that were no rows. Returns their hashes, side by side. */
export async function insertLeaves(
  tx: Tx,
  tenantId: TenantId,
  firstIndex: number,
  lines: readonly string[],
): Promise<Buffer> {
  const [row] = await tx.query<{ hashes: Buffer | null }>(
    `WITH added AS (
       INSERT INTO audit_log (tenant_id, leaf_index, leaf)
       SELECT $1, $2::bigint + place - 1, leaf
       FROM unnest($3::text[]) WITH ORDINALITY AS line (leaf, place)
       RETURNING leaf_index, sha256('\\x00'::bytea || convert_to(leaf, 'UTF8')) AS hash)
     SELECT string_agg(hash, ''::bytea ORDER BY leaf_index) AS hashes FROM added`,
    [tenantId, firstIndex, lines],
  );
  return row?.hashes ?? Buffer.alloc(0);
}

/** Makes the partitions of so many leaves from an index on, unless they are there. */
export async function makePartitions(tx: Tx, firstIndex: number, count: number): Promise<void> {
  await tx.query('SELECT make_audit_partition($1), make_audit_partition($2)', [
    firstIndex,
    firstIndex + count,
  ]);
}

/** What is remembered of who writes, and its proof. */
export interface WritersRecord {
  readonly content: string;
  readonly maskKeyId: AnyId;
  readonly mac: Buffer;
}

/** Reads what is remembered of who writes; undefined before the first time. */
export async function findWriters(tx: Tx): Promise<WritersRecord | undefined> {
  const [row] = await tx.query<WritersRecord>(
    'SELECT content, mask_key_id AS "maskKeyId", mac FROM audit_writers',
  );
  return row;
}

/** Where a replica's rows are. */
export interface Arrivals {
  /** Those that wait, each as `stream:number`. */
  readonly waiting: ReadonlySet<string>;
  readonly writers: WritersRecord | undefined;
  /** The tree that goes with what is remembered of writers. */
  readonly treeSize: number;
}

/** Reads which rows of a replica wait, and what is remembered of writers, at one moment. */
export async function findArrivals(tx: Tx, replicaId: AnyId): Promise<Arrivals> {
  const [row] = await tx.query<{
    waiting: string[];
    treeSize: number;
    content: string | null;
    maskKeyId: AnyId;
    mac: Buffer;
  }>(
    `SELECT tree_size::float8 AS "treeSize", content, mask_key_id AS "maskKeyId", mac,
       ARRAY(SELECT stream || ':' || row_number FROM audit_inbox WHERE replica_id = $1) AS waiting
     FROM audit_state LEFT JOIN audit_writers ON true`,
    [replicaId],
  );
  if (row === undefined) throw new Error('the database has lost the state of its audit log');
  const { waiting, treeSize, content, maskKeyId, mac } = row;
  const writers = content === null ? undefined : { content, maskKeyId, mac };
  return { waiting: new Set(waiting), writers, treeSize };
}

/** Keeps what is remembered of who writes, in place of what was. */
export async function saveWriters(
  tx: Tx,
  { content, maskKeyId, mac }: WritersRecord,
): Promise<void> {
  await tx.query(
    `INSERT INTO audit_writers (content, mask_key_id, mac) VALUES ($1, $2, $3)
     ON CONFLICT (singleton) DO UPDATE SET content = $1, mask_key_id = $2, mac = $3`,
    [content, maskKeyId, mac],
  );
}
