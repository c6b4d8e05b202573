/**
 * Registers pending operations as a kind of record that is sealed again when the seal key is
 * replaced. Decisions are not: agents alone seal them, and an hour after its expiry no operation
 * needs them.
 */
import { RECORD } from '../hsm/record-seal.ts';
import type { SealKeyId } from '../ids.ts';
import { formatPendingOperationName } from '../names.ts';
import {
  findFormerOperationKeys,
  readStaleOperations,
  rewriteOperationSeals,
  type StaleOperation,
} from '../store/approvals/pending.ts';
import type { Query } from '../store/core/transaction.ts';

/** Describes pending operations as a kind of record for `keyring/seals/reseal.ts`. */
export const PENDING_OPERATIONS = {
  kind: RECORD.pendingOperation,
  findFormer: findFormerOperationKeys,
  readStale: async (
    query: Query,
    former: SealKeyId,
    after: StaleOperation | undefined,
    size: number,
  ) =>
    (await readStaleOperations(query, former, after, size)).map((row) => ({
      row,
      resource: formatPendingOperationName(row, row.operationId),
      content: row.content,
      seal: row.seal,
      sealKeyId: row.currentKeyId,
    })),
  write: rewriteOperationSeals,
} as const;
