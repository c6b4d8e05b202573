/**
 * ApprovalService as messages.
 */
import { z } from 'zod';
import { etagOf } from '../../../approvals/rule-changes.ts';
import type { ApprovalRule, ApprovalRules, StepUpRule } from '../../../hsm/approval-rules.ts';
import { formatApprovalRulesName, type TenantName } from '../../../names.ts';
import { approvalOperations } from '../../../operations/approval.ts';
import { newApprovalRules } from '../approval-fields.ts';
import * as field from '../fields.ts';
import type { ApprovalRule as ApprovalRuleMessage } from '../generated/keyward/v1/ApprovalRule.ts';
import type { ApprovalRules as ApprovalRulesMessage } from '../generated/keyward/v1/ApprovalRules.ts';
import type { ApprovalServiceHandlers } from '../generated/keyward/v1/ApprovalService.ts';
import type { StepUpRule as StepUpRuleMessage } from '../generated/keyward/v1/StepUpRule.ts';
import { type RpcsOf, rpc } from '../rpc.ts';
import { duration, optionalTime } from '../times.ts';
import { pendingOperationRpcs } from './pending-operation.ts';

function stepUpMessage(rule: StepUpRule): StepUpRuleMessage {
  return {
    permissions: [...rule.permissions],
    acrValues: [...rule.acrValues],
    amrValues: [...rule.amrValues],
    maxAge: duration(rule.maxAgeSeconds * 1_000),
    exemptPrincipals: [...rule.exempt],
  };
}

function approvalMessage(rule: ApprovalRule): ApprovalRuleMessage {
  return {
    ruleId: rule.ruleId,
    permissions: [...rule.permissions],
    approvals: rule.approvals,
    approvers: rule.approvers.map(({ kind, name }) => `${kind}:${name}`),
    breakGlass: rule.breakGlass,
    exemptPrincipals: [...rule.exempt],
  };
}

function rulesMessage(name: TenantName, rules: ApprovalRules): ApprovalRulesMessage {
  return {
    name: formatApprovalRulesName(name),
    etag: etagOf(rules),
    stepUpRules: rules.stepUp.map(stepUpMessage),
    approvalRules: rules.approvals.map(approvalMessage),
    updateTime: optionalTime(rules.updatedAt),
    revision: Number(rules.revision),
  };
}

export const approvalService = {
  GetApprovalRules: rpc(approvalOperations.GetApprovalRules, {
    request: z.object({ name: field.approvalRulesName }),
    message: (rules, { name }) => rulesMessage(name, rules),
  }),
  UpdateApprovalRules: rpc(approvalOperations.UpdateApprovalRules, {
    request: z
      .object({
        approvalRules: newApprovalRules,
        requestId: field.requestId,
        validateOnly: z.boolean(),
      })
      .transform(({ approvalRules, ...rest }) => {
        const { stepUpRules: stepUp, approvalRules: approvals, name, etag } = approvalRules;
        return { ...rest, name, etag, stepUp, approvals };
      }),
    message: (rules, { name }) => rulesMessage(name, rules),
  }),
  ...pendingOperationRpcs,
} satisfies RpcsOf<ApprovalServiceHandlers>;
