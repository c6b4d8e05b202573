/**
 * What only the owner's role does to the audit log, by an operator's command: have it go on as
 * another generation, and drop old leaves.
 *
 * Invariants: hashes are never dropped, so that the proofs of the rest hold; each leaves an audit
 * entry, in its transaction or as the generation's first leaf. Whether it is time for either isn't
 * known here.
 */
import { randomUUID } from 'node:crypto';
import type { TenantId } from '../../ids.ts';
import type { OwnerConnection } from '../core/owner.ts';
import type { Changed } from '../core/transaction.ts';
import { insertAuditEntry } from './audit.ts';

/** Who does it, for the audit log. */
export interface AuditOperator {
  readonly caller: string;
  readonly systemTenantId: TenantId;
}

/**
 * Begins a generation with this as its first leaf, which whoever lengthens the log adds; who does
 * now is overtaken.
 */
export function beginGeneration(
  owner: OwnerConnection,
  generation: number,
  leaf: string,
): Promise<void> {
  return owner.transaction(async () => {
    await owner.query('INSERT INTO audit_generations (generation, leaf) VALUES ($1, $2)', [
      generation,
      leaf,
    ]);
    await owner.query(
      `UPDATE audit_state SET generation = $1, fence = fence + 1, leased_until = '-infinity'`,
      [generation],
    );
  });
}

/** Leaves that are dropped together. */
export interface LogPartition {
  readonly table: string;
  readonly firstLeafIndex: number;
  /** The first leaf after it. */
  readonly end: number;
}

/** The partitions that are full, the oldest first. */
export async function listFullPartitions(owner: OwnerConnection): Promise<LogPartition[]> {
  return owner.query<LogPartition & Record<string, unknown>>(
    `SELECT * FROM (
       SELECT c.relname AS table, bounds[1]::float8 AS "firstLeafIndex", bounds[2]::float8 AS end
       FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid,
         regexp_match(pg_get_expr(c.relpartbound, c.oid), '\\(''?(\\d+)''?\\) TO \\(''?(\\d+)''?\\)') AS bounds
       WHERE inhparent = 'audit_log'::regclass) AS partitions
     WHERE "end" <= (SELECT tree_size FROM audit_state) ORDER BY 2`,
  );
}

/** The time of a partition's newest entry, as it says itself. */
export async function newestTimeIn(
  owner: OwnerConnection,
  { firstLeafIndex, end }: LogPartition,
): Promise<Date> {
  // Replicas' clocks differ by seconds, and a thousand leaves are as many calls.
  const [row] = await owner.query<{ newest: string }>(
    `SELECT max(readable_entry(leaf) ->> 'time') AS newest FROM audit_log
     WHERE leaf_index >= greatest($1, $2::bigint - 1000) AND leaf_index < $2`,
    [firstLeafIndex, end],
  );
  return new Date(row?.newest ?? Number.NaN);
}

/**
 * Drops the partitions, which are the log's oldest. Throws what Postgres throws, after 5 s of
 * waiting for readers.
 */
export function dropPartitions(
  owner: OwnerConnection,
  operator: AuditOperator,
  partitions: readonly LogPartition[],
): Promise<void> {
  return owner.transaction(async () => {
    await owner.query("SET LOCAL lock_timeout = '5s'");
    for (const { table } of partitions)
      await owner.query(`DROP TABLE "${table.replaceAll('"', '""')}"`);
    const [first, last] = [partitions[0]?.firstLeafIndex, partitions.at(-1)?.end];
    await owner.query('UPDATE audit_state SET first_leaf_index = $1', [last]);
    const changed = {
      kind: 'auditLog',
      before: { firstLeafIndex: first },
      after: { firstLeafIndex: last },
    } as const;
    await record(owner, operator, 'audit drop', `leaves ${first} up to ${last}`, changed);
  });
}

async function record(
  owner: OwnerConnection,
  { caller, systemTenantId }: AuditOperator,
  command: string,
  detail: string,
  changed?: Changed,
): Promise<void> {
  await insertAuditEntry(owner, systemTenantId, {
    entryId: randomUUID(),
    call: { id: randomUUID(), caller, method: `keyward-server ${command}` },
    resource: 'auditLog',
    outcome: 'OK',
    detail,
    changed,
  });
}
