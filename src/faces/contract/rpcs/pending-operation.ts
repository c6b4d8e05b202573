/**
 * Pending operations as messages of ApprovalService.
 */
import { z } from 'zod';
import type { OperationView, ShownDecision } from '../../../approvals/pending.ts';
import type { DecisionRecord } from '../../../hsm/approval-records.ts';
import { formatPendingOperationName } from '../../../names.ts';
import { pendingOperationOperations as operations } from '../../../operations/pending-operation.ts';
import * as field from '../fields.ts';
import type { Decision as DecisionMessage } from '../generated/keyward/v1/Decision.ts';
import type { OperationDecision as OperationDecisionMessage } from '../generated/keyward/v1/OperationDecision.ts';
import type { PendingOperation as PendingOperationMessage } from '../generated/keyward/v1/PendingOperation.ts';
import { rpc, streamRpc } from '../rpc.ts';
import { optionalTime, timestamp } from '../times.ts';

const DECISIONS = {
  approve: 'DECISION_APPROVE',
  reject: 'DECISION_REJECT',
} as const satisfies Readonly<Record<DecisionRecord['decision'], DecisionMessage>>;

/** WebAuthn has credential ids of at most 1,023 bytes; the rest is far shorter than this. */
const MAX_CREDENTIAL_ID_BYTES = 1_023;
const MAX_ASSERTION_BYTES = 8_192;
const MAX_REASON = 1_024;

const some = (most: number) =>
  z
    .custom<Buffer>(Buffer.isBuffer)
    .refine(({ length }) => length >= 1 && length <= most, `must have 1 to ${most} bytes in each`);

/** What an authenticator answered. */
export const assertion = z.object(
  {
    credentialId: some(MAX_CREDENTIAL_ID_BYTES),
    clientDataJson: some(MAX_ASSERTION_BYTES),
    authenticatorData: some(MAX_ASSERTION_BYTES),
    signature: some(MAX_ASSERTION_BYTES),
  },
  'must be given',
);

const decision = z.object({
  name: field.pendingOperationName,
  assertion,
  requestId: field.requestId,
});

const reason = field.description.refine(
  (text) => text.trim() !== '' && text.length <= MAX_REASON,
  'must say why',
);

function decisionMessage({ row, record }: ShownDecision): OperationDecisionMessage {
  const { decision: decided, decidedAt } = record;
  const { credentialId, clientDataJson, authenticatorData, signature } = row;
  return {
    decision: DECISIONS[decided],
    approver: row.approver,
    decideTime: timestamp(decidedAt),
    assertion: { credentialId, clientDataJson, authenticatorData, signature },
    publicKey: row.publicKey,
  };
}

function operationMessage(shown: OperationView): PendingOperationMessage {
  const { tenant, row, record, decisions, environmentId, signOffUrl } = shown;
  const { rule } = record;
  return {
    name: formatPendingOperationName({ tenant }, record.operationId),
    method: record.method,
    resource: record.resource,
    request: row.request,
    preview: row.preview ?? Buffer.alloc(0),
    requester: record.requester,
    state: `PENDING_OPERATION_STATE_${record.state}`,
    rule: `tenants/${rule.tenant}/approvalRules/${rule.ruleId}`,
    approvalsRequired: rule.approvals,
    isGlassBroken: record.isGlassBroken,
    decisions: decisions.map(decisionMessage),
    createTime: timestamp(record.createdAt),
    expireTime: timestamp(record.expiresAt),
    endTime: optionalTime(row.endedAt),
    environmentId,
    signOffUrl,
    errorReason: row.errorReason,
    errorMessage: row.errorMessage,
  };
}

export const pendingOperationRpcs = {
  GetPendingOperation: rpc(operations.GetPendingOperation, {
    request: z.object({ name: field.pendingOperationName }),
    message: operationMessage,
  }),
  ListPendingOperations: rpc(operations.ListPendingOperations, {
    request: z
      .object({
        parent: field.tenantName,
        ...field.page({
          state: field.valuesOf('PendingOperationState'),
          requester: field.ANY_TEXT,
        }),
      })
      .transform(field.filtered),
    message: ({ items, nextPageToken }) => ({
      pendingOperations: items.map(operationMessage),
      nextPageToken,
    }),
  }),
  ApproveOperation: rpc(operations.ApproveOperation, {
    request: decision,
    message: operationMessage,
  }),
  RejectOperation: rpc(operations.RejectOperation, {
    request: decision,
    message: operationMessage,
  }),
  CancelOperation: rpc(operations.CancelOperation, {
    request: z.object({ name: field.pendingOperationName, requestId: field.requestId }),
    message: operationMessage,
  }),
  BreakGlass: rpc(operations.BreakGlass, {
    request: z.object({
      name: field.pendingOperationName,
      reason,
      requestId: field.requestId,
    }),
    message: operationMessage,
  }),
  WatchPendingOperations: streamRpc(operations.WatchPendingOperations, {
    request: z.object({ parent: field.tenantName }),
    message: operationMessage,
  }),
};
