/**
 * Pending operations: an operation for each method of ApprovalService that is about them.
 */
import type { PasskeyAssertion } from '../approvals/passkeys.ts';
import type { OperationView } from '../approvals/pending.ts';
import {
  type AuthorizedCall,
  ofName,
  ofParent,
  operation,
  type Services,
  streamOperation,
} from '../calls/operation.ts';
import type { Decision } from '../hsm/approval-records.ts';
import type { Page } from '../keyring/pages.ts';
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

/** An operation as it is shown, and what else its approvers sign. */
export interface ShownOperation extends OperationView {
  readonly environmentId: string;
  /** Where they sign. */
  readonly signOffUrl: string;
}

type Own = Named<PendingOperationName>;
const resource = ({ name }: Own) => formatPendingOperationName(name, name.operation);

/** Returns an operation as it is shown. */
const show = (services: Services, view: OperationView): ShownOperation => ({
  ...view,
  environmentId: services.environmentId,
  signOffUrl: services.signOffUrl(),
});

const shown = async (services: Services, view: Promise<OperationView>): Promise<ShownOperation> =>
  show(services, await view);

const decide = (decision: Decision) =>
  operation({
    isSensitive: true,
    permission: 'operations.approve',
    target: ofName,
    resource: (request: DecisionRequest) => resource(request),
    handle: (services, call, { name, assertion }) => {
      const { caller } = call.rights;
      const decided = { decision, assertion };
      return shown(services, services.pendingOperations.decide(call, caller, name, decided));
    },
  });

async function* watched(
  services: Services,
  call: AuthorizedCall,
  { parent }: In<TenantName>,
): AsyncGenerator<ShownOperation> {
  for await (const view of services.pendingOperations.watch(call, parent.tenant))
    yield show(services, view);
}

export const pendingOperationOperations = {
  GetPendingOperation: operation({
    permission: 'operations.list',
    target: ofName,
    resource,
    handle: (services, call, { name }: Own) =>
      shown(services, services.pendingOperations.get(call, name)),
  }),
  ListPendingOperations: operation({
    permission: 'operations.list',
    target: ofParent,
    resource: ({ parent }: ListIn<TenantName>) => formatTenantName(parent),
    handle: async (services, call, { parent, ...page }): Promise<Page<ShownOperation>> => {
      const { pendingOperations } = services;
      const { items, nextPageToken } = await pendingOperations.list(call, parent.tenant, page);
      return { items: items.map((view) => show(services, view)), nextPageToken };
    },
  }),
  ApproveOperation: decide('approve'),
  RejectOperation: decide('reject'),
  CancelOperation: operation({
    permission: 'operations.list',
    target: ofName,
    resource: (request: Own & Repeatable) => resource(request),
    handle: (services, call, { name }) =>
      shown(services, services.pendingOperations.cancel(call, call.rights.caller, name)),
  }),
  BreakGlass: operation({
    isSensitive: true,
    permission: 'operations.list',
    target: ofName,
    resource: (request: GlassToBreak) => resource(request),
    handle: (services, call, { name, reason }) => {
      const { caller } = call.rights;
      return shown(services, services.pendingOperations.breakGlass(call, caller, name, reason));
    },
  }),
  WatchPendingOperations: streamOperation({
    permission: 'operations.list',
    target: ofParent,
    resource: ({ parent }: In<TenantName>) => formatTenantName(parent),
    stream: watched,
  }),
};
