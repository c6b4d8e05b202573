/**
 * Pending operations: an operation for each method of ApprovalService that is about them.
 */
import type { PasskeyAssertion } from '../approvals/passkeys.ts';
import { ofName, ofParent, operation, streamOperation } from '../calls/operation.ts';
import type { Decision } from '../hsm/approval-records.ts';
import {
  formatPendingOperationName,
  formatTenantName,
  type PendingOperationName,
  type TenantName,
} from '../names.ts';
import type { In, ListIn, Named, Repeatable } from './requests.ts';

/** A decision on an operation. */
export interface DecisionRequest extends Named<PendingOperationName>, Repeatable {
  readonly assertion: PasskeyAssertion;
}

/** An operation whose glass is to be broken. */
export interface GlassToBreak extends Named<PendingOperationName>, Repeatable {
  readonly reason: string;
}

type Own = Named<PendingOperationName>;
const resource = ({ name }: Own) => formatPendingOperationName(name, name.operation);

const decide = (decision: Decision) =>
  operation({
    isSensitive: true,
    permission: 'operations.approve',
    target: ofName,
    resource: (request: DecisionRequest) => resource(request),
    handle: ({ pendingOperations }, call, { name, assertion }) =>
      pendingOperations.decide(call, call.rights.caller, name, { decision, assertion }),
  });

export const pendingOperationOperations = {
  GetPendingOperation: operation({
    permission: 'operations.list',
    target: ofName,
    resource,
    handle: ({ pendingOperations }, call, { name }: Own) => pendingOperations.get(call, name),
  }),
  ListPendingOperations: operation({
    permission: 'operations.list',
    target: ofParent,
    resource: ({ parent }: ListIn<TenantName>) => formatTenantName(parent),
    handle: ({ pendingOperations }, call, { parent, ...page }) =>
      pendingOperations.list(call, parent.tenant, page),
  }),
  ApproveOperation: decide('approve'),
  RejectOperation: decide('reject'),
  CancelOperation: operation({
    permission: 'operations.list',
    target: ofName,
    resource: (request: Own & Repeatable) => resource(request),
    handle: ({ pendingOperations }, call, { name }) =>
      pendingOperations.cancel(call, call.rights.caller, name),
  }),
  BreakGlass: operation({
    isSensitive: true,
    permission: 'operations.list',
    target: ofName,
    resource: (request: GlassToBreak) => resource(request),
    handle: ({ pendingOperations }, call, { name, reason }) =>
      pendingOperations.breakGlass(call, call.rights.caller, name, reason),
  }),
  WatchPendingOperations: streamOperation({
    permission: 'operations.list',
    target: ofParent,
    resource: ({ parent }: In<TenantName>) => formatTenantName(parent),
    stream: ({ pendingOperations }, call, { parent }: In<TenantName>) =>
      pendingOperations.watch(call, parent.tenant),
  }),
};
