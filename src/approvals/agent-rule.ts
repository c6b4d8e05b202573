/**
 * What the HSM agents' rule wants of a call, besides the service's own approval rules: the service
 * asks for as much, so that agents are not asked for what they refuse.
 *
 * - What agents report is theirs to enforce: this decides nothing that they do not check.
 */
import type { AgentNeed, AgentRuleReport } from '../hsm/agent-rule.ts';
import type { Approver, RuleRecord } from '../hsm/approval-records.ts';
import { SYSTEM_TENANT } from '../names.ts';

/** Names the agents' rule where no rule of the service's own concerns a call. */
export const AGENTS_RULE_ID = 'agents';

/**
 * Returns the rule that a call is to be approved by: the service's own where agents want nothing;
 * otherwise one that wants the larger number of approvals, by those whose approval agents count.
 */
export function withAgentRule(
  own: RuleRecord | undefined,
  report: AgentRuleReport | undefined,
  need: AgentNeed | undefined,
): RuleRecord | undefined {
  const wanted = report === undefined || need === undefined ? 0 : report.approvals[need];
  if (report === undefined || wanted === 0) return own;
  const trusted = report.approvers.map((name): Approver => ({ kind: 'principal', name }));
  if (own === undefined)
    return {
      tenant: SYSTEM_TENANT,
      ruleId: AGENTS_RULE_ID,
      approvals: wanted,
      approvers: trusted,
    };
  return {
    ...own,
    approvals: Math.max(own.approvals, wanted),
    approvers: trusted.filter((each) => mayStand(own, each)),
  };
}

/** Whether the service's own rule may count them; who is in a group is asked when they approve. */
function mayStand({ approvers }: RuleRecord, { name }: Approver): boolean {
  return (
    approvers.length === 0 || approvers.some((each) => each.kind === 'group' || each.name === name)
  );
}
