/**
 * Which approvals count, and whether they are enough.
 *
 * - A decision counts for the operation, the request, the requester and the time that were signed,
 *   and for no other: its challenge is computed again from what the operation is now.
 * - Persons are compared by the names of callers: one counts once, and the requester never.
 * - Whether an approver may still approve is asked elsewhere.
 */
import {
  challengeOf,
  type DecisionRecord,
  type PendingOperationRecord,
  type RuleRecord,
} from '../hsm/approval-records.ts';
import type { EnvironmentId } from '../ids.ts';

/** Someone who decided, as they came: by name, and in their groups. */
export type Decider = PendingOperationRecord['deciders'][number];

/** Returns those who have approved the operation as it is, each once. */
export function approversOf(
  environmentId: EnvironmentId,
  operation: PendingOperationRecord,
  decisions: Iterable<DecisionRecord>,
): Decider[] {
  const { operationId, method, requestDigest, requester, expiresAt } = operation;
  const decision = 'approve';
  const challenge = challengeOf({
    ...{ environmentId, operationId, method, requestDigest, requester, decision, expiresAt },
  });
  const names = new Set<string>();
  for (const each of decisions)
    if (
      each.operationId === operationId &&
      each.decision === decision &&
      each.approver !== requester &&
      each.challenge.equals(challenge)
    )
      names.add(each.approver);
  return operation.deciders.filter(({ name }) => names.has(name));
}

/** Whether the rule lets them approve. */
export function mayApprove(
  { approvers }: Pick<RuleRecord, 'approvers'>,
  { name, groups }: Pick<Decider, 'name' | 'groups'>,
): boolean {
  return (
    approvers.length === 0 ||
    approvers.some((each) =>
      each.kind === 'principal' ? each.name === name : groups.includes(each.name),
    )
  );
}

/** Whether so many of them may approve by the rule as it wants. */
export function isEnough(
  rule: Pick<RuleRecord, 'approvers' | 'approvals'>,
  approvers: readonly Decider[],
): boolean {
  return approvers.filter((each) => mayApprove(rule, each)).length >= rule.approvals;
}
