/**
 * Approval rules: an operation for each method of ApprovalService.
 */
import type { NewApprovalRules } from '../approvals/rule-changes.ts';
import { ofName, operation } from '../calls/operation.ts';
import { requireProof } from '../calls/step-up.ts';
import { formatApprovalRulesName, SYSTEM_TENANT, type TenantName } from '../names.ts';
import type { Named, Repeatable } from './requests.ts';

/** The rules that a tenant is to have from now on. */
export interface NewApprovalRulesRequest extends Named<TenantName>, NewApprovalRules, Repeatable {}

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
    permission: 'approvalRules.update',
    target: ofName,
    resource: ({ name }: NewApprovalRulesRequest) => formatApprovalRulesName(name),
    handle: async ({ access, ruleChanges }, call, { name, requestId: _, ...asked }) => {
      if (name.tenant === SYSTEM_TENANT)
        call.rights.require('approvalRules.updateForAllTenants', {}, formatApprovalRulesName(name));
      // Who does not meet the rules that they set could not take them back.
      requireProof(asked.stepUp, 'approvalRules.update', call.rights.caller);
      return ruleChanges.replace(call, await access.tenantOf(name.tenant), asked);
    },
  }),
};
