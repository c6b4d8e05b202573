/**
 * The rule that agents hold: for what they want people to have approved, as far as the server may
 * know it. The passkeys that the rule trusts stay with the agents (`agent/rule.ts`).
 */

/** What the rule has a number for: what is to be sealed or made. */
export const AGENT_NEEDS = [
  /** A role binding or a role that comes to a tenant's policy. */
  'policies',
  /** A tenant's approval rules. */
  'approvalRules',
  /** A passkey that is registered. */
  'passkeys',
  /** A root or seal key that is made in the token. */
  'tokenKeys',
  /** A role binding, a role or a passkey that goes. */
  'removals',
] as const;

/** One of {@link AGENT_NEEDS}. */
export type AgentNeed = (typeof AGENT_NEEDS)[number];

/** What agents report of their rule. */
export interface AgentRuleReport {
  /** How many different persons must have approved; 0 for none. */
  readonly approvals: Readonly<Record<AgentNeed, number>>;
  /** Those whose approval counts, by the names of callers. */
  readonly approvers: readonly string[];
}
