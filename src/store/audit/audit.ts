/**
 * Audit entries on their way into the log: rows of the inbox, durable from then on. A row has the
 * entries of one tenant that were written at once.
 *
 * Only ever added to; what takes them out again is the sequencer (`audit-log.ts`). What is worth an
 * entry is decided elsewhere.
 */
import type { TenantId } from '../../ids.ts';
import type { Appends, Deadline, Tx } from '../core/transaction.ts';
import { type AuditEntry, auditLine } from './audit-entry.ts';

/**
 * Whether the state change with this entry ($2) was committed: the entry waits, or is a leaf
 * already.
 */
export const WAS_ENTERED = `(EXISTS (SELECT FROM audit_inbox WHERE entry_id = $2)
  OR EXISTS (SELECT FROM audit_log WHERE entry_id = $2))`;

/** Writes a state change's entry, in its transaction, whose id it returns. */
export async function insertAuditEntry(
  tx: Pick<Tx, 'query'>,
  tenantId: TenantId,
  entry: AuditEntry,
): Promise<string> {
  const [row] = await tx.query<{ xid: string }>(
    `INSERT INTO audit_inbox (tenant_id, entry_id, leaves) VALUES ($1, $2, $3)
     RETURNING pg_current_xact_id()::text AS xid`,
    [tenantId, entry.entryId, auditLine(entry)],
  );
  if (row === undefined) throw new Error('an insert returned no row');
  return row.xid;
}

/**
 * An entry's line, and the name of the tenant who may read it; `system` may, where there is no
 * tenant of that name.
 */
export interface TenantLine {
  readonly tenant: string;
  readonly line: string;
}

/**
 * Writes entries of calls that changed nothing, all or none, in the order that they have within
 * their tenant. When it throws, it isn't known whether they were written. Throws
 * DATABASE_UNAVAILABLE, DEADLINE_EXCEEDED.
 */
export function appendEntries(
  store: Appends,
  call: Deadline,
  entries: readonly TenantLine[],
): Promise<void> {
  const groups = Map.groupBy(entries, ({ tenant }) => tenant);
  // No entry has a newline; and text is escaped for an array at a cost, which one text hasn't.
  const texts = [...groups.values()].map((lines) => lines.map(({ line }) => line).join('\n'));
  return store.append(call, 'SELECT append_audit_entries($1, $2, $3)', [
    [...groups.keys()],
    [...groups.values()].map(({ length }) => length),
    texts.join('\n\n'),
  ]);
}
