/**
 * Audit entries on their way into the log: rows of the inbox, durable from then on. A row has the
 * entries of one tenant that were written at once, and proves whose it is (`streams.ts`).
 *
 * Only ever added to; what takes them out again is the sequencer (`audit-inbox.ts`). What is worth
 * an entry is decided elsewhere.
 */
import { KeywardError } from '../../errors.ts';
import type { TenantId } from '../../ids.ts';
import type { Appends, Deadline, Tx } from '../core/transaction.ts';
import { type AuditEntry, auditLine } from './audit-entry.ts';
import type { InboxRow, Stream } from './streams.ts';

/**
 * Whether the state change with this entry ($2) was committed: the entry waits, or is a leaf
 * already.
 */
export const WAS_ENTERED = `(EXISTS (SELECT FROM audit_inbox WHERE entry_id = $2)
  OR EXISTS (SELECT FROM audit_log WHERE entry_id = $2))`;

/** A transaction, and the stream that its entries are rows of. */
export interface EntryTx extends Pick<Tx, 'query'> {
  readonly stream?: Pick<Stream, 'prove'> | undefined;
}

/**
 * Writes a state change's entry, in its transaction, whose id it returns. Throws AUDIT_UNAVAILABLE
 * when the database does not take it.
 */
export async function insertAuditEntry(
  tx: EntryTx,
  tenantId: TenantId,
  entry: AuditEntry,
): Promise<string> {
  const leaves = auditLine({ ...entry, ids: { tenantId, ...entry.ids } });
  const { entryId } = entry;
  const proof = tx.stream?.prove({ tenantId, entryId, entryCount: 1, leaves });
  const [row] = await tx.query<{ xid: string }>(
    `INSERT INTO audit_inbox
       (tenant_id, entry_id, leaves, replica_id, stream, row_number, mask_key_id, mac)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING pg_current_xact_id()::text AS xid`,
    [
      tenantId,
      entryId,
      leaves,
      proof?.replicaId,
      proof?.stream,
      proof?.number,
      proof?.maskKeyId,
      proof?.mac,
    ],
  );
  // A trigger has dropped it: the change is undone with this.
  if (row === undefined) throw new KeywardError('AUDIT_UNAVAILABLE');
  return row.xid;
}

/** An entry's line, and the tenant in whose log it is. */
export interface TenantLine {
  readonly tenantId: TenantId;
  readonly line: string;
}

/**
 * Writes entries of calls that changed nothing, all or none, in the order that they have within
 * their tenant. When it throws, it isn't known whether they were written. Throws
 * DATABASE_UNAVAILABLE, DEADLINE_EXCEEDED, AUDIT_UNAVAILABLE.
 */
export function appendEntries(
  store: Appends,
  call: Deadline,
  entries: readonly TenantLine[],
): Promise<void> {
  const groups = Map.groupBy(entries, ({ tenantId }) => tenantId);
  return store.append(
    call,
    [...groups].map(([tenantId, lines]) => ({
      tenantId,
      entryCount: lines.length,
      leaves: lines.map(({ line }) => line).join('\n'),
    })),
  );
}

/** The statement that adds rows of one stream, and its values. */
export function appendStatement(
  stream: Pick<Stream, 'prove'>,
  rows: readonly InboxRow[],
): { readonly text: string; readonly values: readonly unknown[] } {
  const proofs = rows.map((row) => stream.prove(row));
  const [first] = proofs;
  return {
    text: 'SELECT append_audit_rows($1, $2, $3, $4, $5, $6, $7, $8)',
    values: [
      first?.replicaId,
      first?.stream,
      first?.number,
      first?.maskKeyId,
      rows.map(({ tenantId }) => tenantId),
      rows.map(({ entryCount }) => entryCount),
      proofs.map((proof) => proof?.mac ?? null),
      // No entry has a newline; and text is escaped for an array at a cost, which one text hasn't.
      rows.map(({ leaves }) => leaves).join('\n\n'),
    ],
  };
}
