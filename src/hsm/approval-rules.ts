/**
 * Approval rules: what they say, the text that is stored of them, and what its seal is computed
 * over, to the byte.
 *
 * ```
 *  tenant UUID (16) ‖ u64 revision ‖ content (UTF-8)
 *  content = one object of JSON: stepUp, approvals, updatedAt (milliseconds since 1970)
 * ```
 *
 * Holds no key: the agent computes the HMAC in the token (`record-seal.ts`).
 */
import { idToBytes, type TenantId } from '../ids.ts';
import type { Approver } from './approval-records.ts';

/** What every rule says of the calls that it concerns. */
export interface AnyRule {
  /** Empty for all that are dangerous. */
  readonly permissions: readonly string[];
  /** Names of callers that it does not concern. */
  readonly exempt: readonly string[];
}

/** Says that calls want a proof of that strength and no older. */
export interface StepUpRule extends AnyRule {
  /** Any of them; empty for whatever it is. */
  readonly acrValues: readonly string[];
  /** All of them. */
  readonly amrValues: readonly string[];
  readonly maxAgeSeconds: number;
}

/** Says that calls want the approval of others. */
export interface ApprovalRule extends AnyRule {
  /** Names it among the tenant's. */
  readonly ruleId: string;
  readonly approvals: number;
  /** Empty for everyone who may approve there. */
  readonly approvers: readonly Approver[];
  /** Whether it is for emergencies: it concerns a call only once a requester breaks the glass. */
  readonly breakGlass: boolean;
}

/** All rules of a tenant. */
export interface ApprovalRules {
  /** Counts their changes; 0 where none were ever set. */
  readonly revision: bigint;
  readonly stepUp: readonly StepUpRule[];
  readonly approvals: readonly ApprovalRule[];
  /** By the database's clock, in milliseconds; null where none were ever set. */
  readonly updatedAt: Date | null;
}

/** What of a tenant's rules is stored as text. */
export type RulesContent = Pick<ApprovalRules, 'stepUp' | 'approvals'> & {
  readonly updatedAt: Date;
};

/** Returns the text, with the members of every rule in one order. */
export function formatRules({ stepUp, approvals, updatedAt }: RulesContent): string {
  return JSON.stringify({
    stepUp: stepUp.map(stepUpContent),
    approvals: approvals.map(approvalContent),
    updatedAt: updatedAt.getTime(),
  });
}

/** Returns what a text says that {@link formatRules} made. */
export function parseRules(content: string): RulesContent {
  const { stepUp, approvals, updatedAt }: Stored = JSON.parse(content);
  return { stepUp, approvals, updatedAt: new Date(updatedAt) };
}

interface Stored extends Omit<RulesContent, 'updatedAt'> {
  readonly updatedAt: number;
}

/** Returns the content of the seal. */
export function rulesSealContent(tenantId: TenantId, revision: bigint, content: string): Buffer {
  const number = Buffer.alloc(8);
  number.writeBigUInt64BE(revision);
  return Buffer.concat([idToBytes(tenantId), number, Buffer.from(content, 'utf8')]);
}

/** Returns what is stored, and what an audit entry says, of a step-up rule. */
export function stepUpContent(rule: StepUpRule): StepUpRule {
  const { permissions, acrValues, amrValues, maxAgeSeconds, exempt } = rule;
  return { permissions, acrValues, amrValues, maxAgeSeconds, exempt };
}

/** Returns what is stored, and what an audit entry says, of an approval rule. */
export function approvalContent(rule: ApprovalRule): ApprovalRule {
  const { ruleId, permissions, approvals, breakGlass, exempt } = rule;
  const approvers = rule.approvers.map(({ kind, name }) => ({ kind, name }));
  return { ruleId, permissions, approvals, approvers, breakGlass, exempt };
}
