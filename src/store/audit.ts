/**
 * The audit entries, as rows: who did what to which resource, and how it ended.
 *
 * Only ever added to; the service's role may do nothing else to them. What is worth an entry is decided elsewhere.
 */
import type { Call } from '../call.ts';
import type { TenantId } from '../ids.ts';
import type { Tx } from './store.ts';

export interface AuditEntry {
  readonly tenantId: TenantId;
  /** A random UUID. */
  readonly entryId: string;
  readonly call: Call;
  readonly resource: string;
  /** `OK`, or the reason for failure. */
  readonly outcome: string;
  /** What else there is to say; empty for nothing. */
  readonly detail: string;
}

/** Writes the entry, and returns the transaction's id. */
export async function insertAuditEntry(tx: Tx, entry: AuditEntry): Promise<string> {
  const [row] = await tx.query<{ xid: string }>(
    `INSERT INTO audit_entries (tenant_id, entry_id, request_id, caller, method, resource, outcome, detail)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
     RETURNING pg_current_xact_id()::text AS xid`,
    [
      entry.tenantId,
      entry.entryId,
      entry.call.id,
      entry.call.caller,
      entry.call.method,
      entry.resource,
      entry.outcome,
      entry.detail,
    ],
  );
  if (row === undefined) throw new Error('an insert returned no row');
  return row.xid;
}
