/**
 * Approval rules: an operation for each method of ApprovalService.
 */
import type { NewApprovalRules } from '../approvals/rule-changes.ts';
import { type AuthorizedCall, ofName, operation, type Services } from '../calls/operation.ts';
import { requireProof } from '../calls/step-up.ts';
import type { ApprovalRules } from '../hsm/approval-rules.ts';
import { formatApprovalRulesName, SYSTEM_TENANT, type TenantName } from '../names.ts';
import type { Named, Repeatable } from './requests.ts';

/** The rules that a tenant is to have from now on. */
export interface NewApprovalRulesRequest extends Named<TenantName>, NewApprovalRules, Repeatable {}

async function replaceRules(
  { access, ruleChanges }: Services,
  call: AuthorizedCall,
  { name, requestId: _, ...asked }: NewApprovalRulesRequest,
): Promise<ApprovalRules> {
  if (name.tenant === SYSTEM_TENANT)
    call.rights.require('approvalRules.updateForAllTenants', {}, formatApprovalRulesName(name));
  // Who does not meet the rules that they set could not take them back. Of a call that has waited
  // for approval it was asked before.
  if (call.requestedAt === undefined)
    requireProof(asked.stepUp, 'approvalRules.update', call.rights.caller);
  return ruleChanges.replace(call, await access.tenantOf(name.tenant), asked);
}

export const approvalOperations = {
  GetApprovalRules: operation({
    permission: 'approvalRules.get',
    target: ofName,
    resource: ({ name }: Named<TenantName>) => formatApprovalRulesName(name),
    handle: async ({ access, ruleChanges }, _, { name }) =>
      ruleChanges.get(await access.tenantOf(name.tenant)),
  }),
  UpdateApprovalRules: operation({
    isSensitive: true,
    agentNeed: () => 'approvalRules',
    permission: 'approvalRules.update',
    target: ofName,
    resource: ({ name }: NewApprovalRulesRequest) => formatApprovalRulesName(name),
    handle: replaceRules,
    preview: (services, call, request) =>
      replaceRules(services, call, { ...request, validateOnly: true }),
  }),
};
