/**
 * What an audit entry says of a decision: all that it takes to verify years later, without the
 * service, that this person decided so on this very request.
 *
 * Bytes are base64url without padding; docs/approvals.md describes the members for others.
 */
import type { PendingOperationRecord } from '../hsm/approval-records.ts';
import type { OperationRow } from '../store/approvals/pending.ts';
import type { DecisionEvidence } from './passkeys.ts';

/** The largest canonical request that an entry has whole: an entry has at most 64 KiB. */
const MAX_REQUEST_BYTES = 16_384;

/** Returns the evidence of a decision on an operation, by its full name. */
export function evidenceOf(
  operation: string,
  { record, row }: { readonly record: PendingOperationRecord; readonly row: OperationRow },
  decided: DecisionEvidence,
): object {
  const { method, requestDigest, requester, expiresAt } = record;
  const isWhole = row.request.length <= MAX_REQUEST_BYTES;
  return {
    operation,
    method,
    ...(isWhole ? { request: row.request.toString('base64url') } : {}),
    requestDigest: requestDigest.toString('base64url'),
    requester,
    expiresAt: expiresAt.toISOString(),
    ...decided,
  };
}
