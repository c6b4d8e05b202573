/**
 * Reading the audit log: leaves, in either order, of one tenant or of all.
 *
 * A page looks at a bounded number of leaves, since most filters have no index, and returns a
 * bounded number of bytes: it may have fewer entries than it could and yet not be the last. Decides
 * nothing about who may read.
 */
import type { TenantId } from '../../ids.ts';
import { type Condition, type FilterColumns, whereClause } from '../core/conditions.ts';
import type { Tx } from '../core/transaction.ts';

/** Leaves that one page looks at, where it doesn't take them all. */
const SCANNED = 10_000;
/**
 * So many bytes of leaves, each with what an answer has around it, are on one page, or one leaf:
 * clients take 4 MiB by default.
 */
const MAX_PAGE_BYTES = 4_000_000;
const AROUND_LEAF_BYTES = 24;
/** Clocks of replicas may differ by so much, so that a later leaf is of an earlier time. */
const CLOCKS_MS = 600_000;

export interface LeafRecord {
  readonly leafIndex: number;
  readonly leaf: string;
}

const FIELDS: FilterColumns = Object.fromEntries(
  Object.entries({
    request_id: 'requestId',
    trace_id: 'traceId',
    caller: 'caller',
    method: 'method',
    resource: 'resource',
    decision: 'decision',
    outcome: 'outcome',
  }).map(([field, member]) => [field, () => `(readable_entry(leaf) ->> '${member}')`]),
);

/** What a list of entries may be filtered by. */
export const ENTRY_FIELDS: readonly string[] = Object.keys(FIELDS);

export interface LeafQuery {
  /** Whose entries; undefined for all tenants'. */
  readonly tenantId: TenantId | undefined;
  readonly conditions: readonly Condition[];
  readonly limit: number;
  readonly startTime?: Date | null;
  readonly endTime?: Date | null;
}

/** Leaves that match, and where to go on: undefined where there is nothing more. */
export interface LeafPage {
  readonly leaves: readonly LeafRecord[];
  readonly next: number | undefined;
}

/** Those before the leaf `before`, the newest first. */
export function listLeavesBefore(tx: Tx, before: number, query: LeafQuery): Promise<LeafPage> {
  return scan(tx, query, { bound: before, comparison: '<', order: 'DESC', limit: query.limit });
}

/** Those from the leaf `from` on and before `end`, the oldest first. */
export function listLeavesFrom(
  tx: Tx,
  from: number,
  end: number,
  query: LeafQuery,
): Promise<LeafPage> {
  return scan(tx, query, { bound: from, comparison: '>=', order: 'ASC', limit: query.limit, end });
}

interface Direction {
  readonly bound: number;
  readonly comparison: '<' | '>=';
  readonly order: 'ASC' | 'DESC';
  readonly limit: number;
  readonly end?: number;
}

interface Row {
  leaf_index: number | null;
  leaf: string | null;
  scanned: number;
  matched: number;
  last: number | null;
  newest: string | null;
}

async function scan(
  tx: Tx,
  { tenantId, conditions, startTime = null, endTime = null }: LeafQuery,
  { bound, comparison, order, limit, end }: Direction,
): Promise<LeafPage> {
  const isFiltered = conditions.length > 0 || startTime !== null || endTime !== null;
  const scanLimit = isFiltered ? SCANNED : limit;
  const values: unknown[] = [bound, scanLimit, limit];
  const parameter = (value: unknown) => `$${values.push(value)}`;
  const ofTenant = tenantId === undefined ? '' : `AND tenant_id = ${parameter(tenantId)}`;
  const beforeEnd = end === undefined ? '' : `AND leaf_index < ${parameter(end)}`;
  const matching =
    whereClause(conditions, FIELDS, values) +
    (startTime === null
      ? ''
      : ` AND readable_entry(leaf) ->> 'time' >= ${parameter(startTime.toISOString())}`) +
    (endTime === null
      ? ''
      : ` AND readable_entry(leaf) ->> 'time' < ${parameter(endTime.toISOString())}`);
  const rows = await tx.query<Row>(
    `WITH scanned AS (
       SELECT leaf_index, leaf FROM audit_log WHERE leaf_index ${comparison} $1 ${beforeEnd} ${ofTenant}
       ORDER BY leaf_index ${order} LIMIT $2),
     matching AS (SELECT * FROM scanned WHERE true ${matching} ORDER BY leaf_index ${order} LIMIT $3),
     whole AS (
       SELECT count(*)::integer AS scanned, ${order === 'ASC' ? 'max' : 'min'}(leaf_index)::float8 AS last
         ${startTime === null ? ', NULL AS newest' : ", max(readable_entry(leaf) ->> 'time') AS newest"} FROM scanned),
     measured AS (
       SELECT leaf_index, leaf, count(*) OVER earlier AS place,
         sum(octet_length(leaf) + ${AROUND_LEAF_BYTES}) OVER earlier AS bytes
       FROM matching WINDOW earlier AS (ORDER BY leaf_index ${order}))
     SELECT m.leaf_index::float8, m.leaf, w.*, (SELECT count(*)::integer FROM matching) AS matched
     FROM whole w LEFT JOIN measured m ON m.bytes <= ${MAX_PAGE_BYTES} OR m.place = 1 ORDER BY m.leaf_index ${order}`,
    values,
  );
  const [first] = rows;
  if (first === undefined) throw new Error('a scan of the audit log returned no row');
  const leaves = rows.flatMap(({ leaf_index: leafIndex, leaf }) =>
    leafIndex === null || leaf === null ? [] : { leafIndex, leaf },
  );
  const isPast = startTime !== null && isLongBefore(first.newest, startTime);
  const step = order === 'ASC' ? 1 : 0;
  if (leaves.length === limit || leaves.length < first.matched)
    return { leaves, next: (leaves.at(-1) as LeafRecord).leafIndex + step };
  const more = first.scanned === scanLimit && first.last !== null && !isPast;
  return { leaves, next: more ? (first.last as number) + step : undefined };
}

/** Whether all of what was looked at is so old that nothing before it can be wanted. */
function isLongBefore(newest: string | null, startTime: Date): boolean {
  return newest !== null && Date.parse(newest) < startTime.getTime() - CLOCKS_MS;
}

/** Tiles of a level from `first` on, each with as many hashes as it has by now. */
export async function listTiles(
  tx: Tx,
  level: number,
  first: number,
  limit: number,
): Promise<{ readonly index: number; readonly hashes: Buffer }[]> {
  return tx.query(
    `SELECT tile_index::float8 AS index, hashes FROM audit_tiles
     WHERE level = $1 AND tile_index >= $2 ORDER BY tile_index LIMIT $3`,
    [level, first, limit],
  );
}
