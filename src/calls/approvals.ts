/**
 * What the wrapper asks before a call has its effect: whether rules want others to approve it.
 *
 * - A call that rules want approved becomes a pending operation, and fails with APPROVAL_REQUIRED,
 *   which names it; one whose preview fails does not, so that no approver is asked for what cannot
 *   be done.
 * - A call that does such an operation passes once the operation is verified again, with those who
 *   have approved it.
 * - Calls that only look or bring what stands for an approval, and operations that need no
 *   permission, are let through.
 * Knows no face and no operation.
 */
import type { Caller } from '../access/identity.ts';
import { isDangerous } from '../access/permissions.ts';
import { withAgentRule } from '../approvals/agent-rule.ts';
import type { ApprovedOperations, ToDo } from '../approvals/doing.ts';
import { nameOf, type PendingOperations } from '../approvals/pending.ts';
import { digestOf } from '../approvals/pending-seals.ts';
import type { RuleBook } from '../approvals/rule-book.ts';
import type { Warrant } from '../call.ts';
import { KeywardError } from '../errors.ts';
import type { Agents } from '../hsm/token-router.ts';
import {
  ANY_CALLER,
  type AuthorizedCall,
  type Operation,
  onlyLooks,
  type Services,
} from './operation.ts';

/** What {@link ApprovalGate} stands on. */
export interface ApprovalGateParts {
  readonly rules: Pick<RuleBook, 'approvalRuleFor'>;
  readonly pending: Pick<PendingOperations, 'request'>;
  readonly approved: Pick<ApprovedOperations, 'requireApproved'>;
  readonly agents: Pick<Agents, 'rule'>;
}

/** What the gate needs of a call's face. */
export interface Shown<Request, Answer> {
  /** Set where the call does an operation that was approved. */
  readonly approved?: ToDo | undefined;
  /** Returns the canonical request. Throws MESSAGE_TOO_LARGE. */
  canonical(): Buffer;
  /** Returns an answer in JSON. */
  describe(answer: Answer, request: Request): Buffer;
}

/** Lets calls through, or has them wait for approval. */
export class ApprovalGate {
  readonly #parts: ApprovalGateParts;

  constructor(parts: ApprovalGateParts) {
    this.#parts = parts;
  }

  /**
   * Returns if the call may go on: by what others have approved it, where they had to. Throws
   * APPROVAL_REQUIRED, what {@link PendingOperations.request}
   * and {@link ApprovedOperations.requireApproved} throw, and what a preview throws.
   */
  async pass<Request, Answer>(
    services: Services,
    operation: Operation<Request, Answer>,
    call: AuthorizedCall,
    request: Request,
    shown: Shown<Request, Answer>,
  ): Promise<Warrant | undefined> {
    const { permission } = operation;
    if (permission === ANY_CALLER || onlyLooks(request)) return undefined;
    const { caller: requester, tenantId, tenant: name } = call.rights;
    if (tenantId === undefined) return undefined;
    const agentNeed = operation.agentNeed?.(request);
    // What most calls do: rules are about what is dangerous.
    const mayNeed = agentNeed !== undefined || isDangerous(permission);
    if (!mayNeed && shown.approved === undefined) return undefined;
    const tenant = await services.access.tenantOf(name);
    if (shown.approved !== undefined) {
      const { method } = call;
      const requestDigest = digestOf(shown.canonical());
      const { row: operation } = shown.approved;
      return this.#parts.approved.requireApproved(call, {
        ...{ operation, tenant, requester, permission, agentNeed, method, requestDigest },
      });
    }
    const isVouchedFor = operation.isVouchedFor?.(request) === true;
    const own = isVouchedFor
      ? undefined
      : await this.#parts.rules.approvalRuleFor(permission, tenant, requester);
    const rule = withAgentRule(own, this.#parts.agents.rule, agentNeed);
    if (rule === undefined) return undefined;
    const resource = operation.resource(request);
    const preview = await previewOf(services, operation, call, request, shown);
    const wanted = { tenant, rule, permission, requester, resource, preview };
    const record = await this.#parts.pending.request(call, {
      ...{ ...wanted, request: shown.canonical() },
    });
    throw approvalRequired(nameOf(tenant, record), record);
  }
}

/** Returns what a call that only looks is answered, in JSON; undefined where there is none. */
async function previewOf<Request, Answer>(
  services: Services,
  operation: Operation<Request, Answer>,
  call: AuthorizedCall,
  request: Request,
  { describe }: Shown<Request, Answer>,
): Promise<Buffer | undefined> {
  if (operation.preview === undefined) return undefined;
  // What it looks at is no part of the call's entry, and it has no effect to be kept.
  const { audit: _, idempotency: __, ...looking } = call;
  return describe(await operation.preview(services, looking, request), request);
}

function approvalRequired(
  operation: string,
  {
    rule: { approvals },
    expiresAt,
  }: { readonly rule: { readonly approvals: number }; readonly expiresAt: Date },
): KeywardError {
  return new KeywardError('APPROVAL_REQUIRED', {
    message:
      `cannot perform the call yet: it waits for ${approvals} ` +
      `${approvals === 1 ? 'approval' : 'approvals'} by others, as ${operation}`,
    metadata: { operation, expire_time: expiresAt.toISOString() },
  });
}

/** Returns who asked for an operation, as the caller that they were. */
export function requesterOf({ record }: Pick<ToDo, 'record'>): Caller {
  const { requester: name, requesterGroups: groups, requesterTenants: tenants } = record;
  return { name, groups, tenants, claim: () => undefined };
}
