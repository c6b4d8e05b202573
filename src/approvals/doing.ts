/**
 * What becomes of pending operations once enough have approved, or their time is over: which are to
 * be done, whether one still may be, and how it ended.
 *
 * - An operation is done only while it verifies, is approved, and enough people who may still
 *   approve have, by the rule that it was made by and by the rules of the moment. Whether its
 *   requester still may do it is asked as of any call.
 * - Nothing is done later than an hour after its expiry.
 * - All state is in rows: a replica that ends anywhere leaves what it was doing to another. An
 *   operation has its effect once because its request id is its UUID.
 */
import type { Access } from '../access/access.ts';
import type { Caller } from '../access/identity.ts';
import type { Permission } from '../access/permissions.ts';
import type { TenantIdentity } from '../access/tenant-records.ts';
import { addDetail, type Call, monotonicNow, type Warrant } from '../call.ts';
import { KeywardError, REASONS } from '../errors.ts';
import type { AgentNeed } from '../hsm/agent-rule.ts';
import type { PendingOperationRecord, PendingOperationState } from '../hsm/approval-records.ts';
import type { Agents } from '../hsm/token-router.ts';
import type { EnvironmentId, TenantId } from '../ids.ts';
import type { TenantSeals } from '../keyring/keys/tenant-seals.ts';
import { ownCall } from '../keyring/own-calls.ts';
import {
  type DecisionRow,
  findExpired,
  findOperation,
  listDecisions,
  lockOperation,
  type OperationRef,
  postponeApproved,
  takeApproved,
  timeOf,
  writeOperation,
} from '../store/approvals/pending.ts';
import type { Tx } from '../store/core/transaction.ts';
import type { Store } from '../store/store.ts';
import { withAgentRule } from './agent-rule.ts';
import { nameOf } from './pending.ts';
import type { PendingSeals, VerifiedOperation } from './pending-seals.ts';
import { approversOf, type Decider, isEnough } from './quorum.ts';
import type { RuleBook } from './rule-book.ts';

/** An approved operation is still begun for so long after its expiry. */
const GRACE_MS = 3_600_000;
/** So long another replica leaves one alone that this one has taken up. */
export const TAKEN_MS = 10_000;
/** After so long one is tried again that failed for a reason that passes. */
const AGAIN_MS = 2_000;
const LIMIT = 20;
const OWN_CALL_MS = 10_000;
const PASSING: readonly string[] = ['UNAVAILABLE', 'DEADLINE_EXCEEDED', 'CANCELLED'];

/** What {@link ApprovedOperations} stands on. */
export interface ApprovedOperationsParts {
  readonly store: Pick<Store, 'read' | 'mutate' | 'reconcile'>;
  readonly seals: PendingSeals;
  readonly rules: Pick<RuleBook, 'approvalRuleFor' | 'breakGlassFor'>;
  readonly access: Pick<Access, 'rightsOf'>;
  readonly tenantById: (tenantId: TenantId) => Promise<TenantIdentity>;
  readonly environmentId: EnvironmentId;
  readonly agents: Pick<Agents, 'rule'>;
  /** Shows which UUID a tenant's name has. */
  readonly tenantSeals: Pick<TenantSeals, 'evidenceOf'>;
}

/** An operation that is to be done. */
export interface ToDo extends VerifiedOperation {
  readonly tenant: TenantIdentity;
}

/** What is asked of an operation that is about to be done. */
export interface Doing {
  readonly operation: OperationRef;
  readonly tenant: TenantIdentity;
  readonly requester: Caller;
  readonly permission: Permission;
  /** What of the agents' rule concerns it. */
  readonly agentNeed: AgentNeed | undefined;
  readonly method: string;
  /** Of the canonical request that is about to be done. */
  readonly requestDigest: Buffer;
}

/** Finds what is approved, says whether it may be done, and ends it. */
export class ApprovedOperations {
  readonly #parts: ApprovedOperationsParts;

  constructor(parts: ApprovedOperationsParts) {
    this.#parts = parts;
  }

  /** Returns operations that are to be done now, which other replicas leave alone for a while. */
  take(): Promise<readonly OperationRef[]> {
    return this.#parts.store.reconcile(ownCall('FindApproved', OWN_CALL_MS), (tx) =>
      takeApproved(tx, { limit: LIMIT, milliseconds: TAKEN_MS }),
    );
  }

  /**
   * Returns an operation that is to be done; undefined where it is not any more. Throws
   * PENDING_OPERATION_CORRUPT, and what finding its tenant throws.
   */
  async open(ref: OperationRef): Promise<ToDo | undefined> {
    const { store, seals, tenantById } = this.#parts;
    const call = ownCall('FindApproved', OWN_CALL_MS);
    const tenant = await tenantById(ref.tenantId);
    const readAfter = seals.now();
    const row = await store.read(call, ref.tenantId, (tx) =>
      findOperation(tx, ref.tenantId, ref.operationId),
    );
    if (row?.state !== 'APPROVED') return undefined;
    const verified = await seals.verifiedOne(row, { readAfter, deadline: call.deadline });
    return { tenant, ...verified };
  }

  /**
   * Notes for the call's entry who has approved the operation that it does, and returns by what
   * they have. Throws OPERATION_NOT_PENDING for one that is not to be done, APPROVALS_MISSING where
   * not enough of those count who have approved, PENDING_OPERATION_CORRUPT, and what deciding on
   * rights throws.
   */
  async requireApproved(call: Call, doing: Doing): Promise<Warrant> {
    const { tenant, requester } = doing;
    const { record, row, approvals, approvers } = await this.#approved(call, doing);
    const stand: Decider[] = [];
    for (const each of approvers) if (await this.#mayApprove(each, tenant)) stand.push(each);
    if (call.audit !== undefined)
      addDetail(call.audit, {
        approvers: stand.map(({ name }) => name),
        ...(record.isGlassBroken ? { isGlassBroken: true } : {}),
      });
    const { rules, agents } = this.#parts;
    const current = record.isGlassBroken
      ? await rules.breakGlassFor(record, tenant)
      : await rules.approvalRuleFor(doing.permission, tenant, requester);
    const isWithdrawn = record.isGlassBroken && current === undefined;
    const wanted = [record.rule, current, withAgentRule(current, agents.rule, doing.agentNeed)];
    if (isWithdrawn || !wanted.every((rule) => rule === undefined || isEnough(rule, stand)))
      throw new KeywardError('APPROVALS_MISSING');
    return this.#warrant(call, tenant, {
      ...{ record, row },
      approvals: approvals.filter(({ approver }) => stand.some(({ name }) => name === approver)),
    });
  }

  /** Returns what shows agents that these people have approved the operation. */
  async #warrant(
    call: Call,
    tenant: TenantIdentity,
    { record, row, approvals }: VerifiedOperation & { readonly approvals: readonly DecisionRow[] },
  ): Promise<Warrant> {
    const { operationId, method, requester, expiresAt } = record;
    return {
      ...{ operationId, method, requester, expiresAt },
      request: row.request,
      assertions: approvals.map(
        ({ credentialId, clientDataJson, authenticatorData, signature }) => ({
          ...{ credentialId, clientDataJson, authenticatorData, signature },
        }),
      ),
      tenant: await this.#parts.tenantSeals.evidenceOf(call, tenant),
    };
  }

  async #approved(
    call: Call,
    { operation: { tenantId, operationId }, requester, method, requestDigest, permission }: Doing,
  ): Promise<
    VerifiedOperation & {
      readonly approvals: readonly DecisionRow[];
      readonly approvers: readonly Decider[];
    }
  > {
    const { store, seals, environmentId } = this.#parts;
    const readAfter = seals.now();
    const { row, rows, now } = await store.read(call, tenantId, async (tx) => ({
      row: await findOperation(tx, tenantId, operationId),
      rows: (await listDecisions(tx, tenantId, [operationId])).get(operationId) ?? [],
      now: await timeOf(tx),
    }));
    if (row === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
    const { record } = await seals.verifiedOne(row, { readAfter, deadline: call.deadline });
    const { state } = record;
    if (state !== 'APPROVED')
      throw new KeywardError('OPERATION_NOT_PENDING', { metadata: { state } });
    if (isOver(record, now))
      throw new KeywardError('OPERATION_NOT_PENDING', {
        metadata: { state },
        message:
          'cannot perform the operation: it could not be performed until an hour after its expiry; ' +
          'ask for it again',
      });
    const isTheSame =
      record.method === method &&
      record.permission === permission &&
      record.requester === requester.name &&
      record.requestDigest.equals(requestDigest);
    if (!isTheSame) throw new KeywardError('PENDING_OPERATION_CORRUPT');
    const decisions = await seals.decisions(rows, call.deadline);
    const approvals = rows.filter((each) => decisions.get(each)?.decision === 'approve');
    const approvers = approversOf(environmentId, record, decisions.values());
    return { row, record, approvals, approvers };
  }

  /** Whether the approver still has the right to approve in the tenant. */
  async #mayApprove(approver: Decider, tenant: TenantIdentity): Promise<boolean> {
    try {
      const rights = await this.#parts.access.rightsOf(callerOf(approver), tenant.name);
      return rights.bindingFor('operations.approve', {}) !== undefined;
    } catch (error) {
      // Their token was not good for the tenant.
      if (error instanceof KeywardError && error.reason === 'RESOURCE_NOT_FOUND') return false;
      throw error;
    }
  }

  /**
   * Ends an operation that was tried: done, or failed by `error`; one that failed for a reason that
   * passes is tried again while there is time. One that has ended stays as it is.
   */
  async end(ref: OperationRef, error: KeywardError | undefined): Promise<void> {
    const call = ownCall('EndOperation', OWN_CALL_MS);
    await this.#end(
      call,
      ref,
      ({ state, ...record }, now) => {
        if (state !== 'APPROVED') return undefined;
        if (error !== undefined && mayPass(error) && !isOver(record, now)) return 'again';
        return error === undefined ? 'DONE' : 'FAILED';
      },
      error,
    );
  }

  /** Ends what has waited for too long. Returns how many there were. */
  async expire(onError: (error: unknown, ref: OperationRef) => void): Promise<number> {
    const { store } = this.#parts;
    const due = await store.reconcile(ownCall('FindExpired', OWN_CALL_MS), (tx) =>
      findExpired(tx, LIMIT),
    );
    for (const ref of due)
      await this.#end(ownCall('ExpireOperation', OWN_CALL_MS), ref, ({ state, expiresAt }, now) =>
        state === 'PENDING' && expiresAt <= now ? 'EXPIRED' : undefined,
      ).catch((error: unknown) => onError(error, ref));
    return due.length;
  }

  async #end(
    call: Call,
    { tenantId, operationId }: OperationRef,
    decide: (
      record: PendingOperationRecord,
      now: Date,
    ) => PendingOperationState | 'again' | undefined,
    error?: KeywardError,
  ): Promise<void> {
    const { store, seals, tenantById } = this.#parts;
    const tenant = await tenantById(tenantId);
    const resource = nameOf(tenant, { operationId });
    const change = async (tx: Tx) => {
      const readAfter = seals.now();
      const row = await lockOperation(tx, tenantId, operationId);
      if (row === undefined) throw new Unchanged(false);
      const { record } = await seals.verifiedOne(row, { readAfter, deadline: call.deadline });
      const state = decide(record, await timeOf(tx));
      if (state === undefined || state === 'again') throw new Unchanged(state === 'again');
      const after = { ...record, state, revision: record.revision + 1n };
      const sealed = await seals.seal(tx, call, after);
      await writeOperation(tx, { ...after, ...sealed }, endOf(error));
      return { before: { state: record.state }, after: { state, error: error?.reason } };
    };
    try {
      await store.mutate(call, { tenantId, resource }, async (tx) =>
        tx.changed({ kind: 'pendingOperation', ...(await change(tx)) }),
      );
    } catch (thrown) {
      if (!(thrown instanceof Unchanged)) throw thrown;
      if (!thrown.isTriedAgain) return;
      await store.reconcile(ownCall('PostponeOperation', OWN_CALL_MS), (tx) =>
        postponeApproved(tx, { tenantId, operationId }, AGAIN_MS),
      );
    }
  }
}

/** There was nothing to change, so nothing is written. */
class Unchanged extends Error {
  readonly isTriedAgain: boolean;

  constructor(isTriedAgain: boolean) {
    super('the operation stays as it is');
    this.isTriedAgain = isTriedAgain;
  }
}

/** Returns who has decided, or asked, as the caller that they were: without a token's claims. */
export function callerOf({ name, groups, tenants }: Decider): Caller {
  return { name, groups, tenants, claim: () => undefined };
}

function isOver({ expiresAt }: Pick<PendingOperationRecord, 'expiresAt'>, now: Date): boolean {
  return now.getTime() >= expiresAt.getTime() + GRACE_MS;
}

/** Whether the same may succeed later. */
function mayPass({ reason, retryAfterMs }: KeywardError): boolean {
  return retryAfterMs !== undefined || PASSING.includes(REASONS[reason].status);
}

function endOf(error: KeywardError | undefined) {
  return { errorReason: error?.reason ?? '', errorMessage: error?.message ?? '' };
}

/** By when a call that does an operation has to be over. */
export const doingDeadline = () => monotonicNow() + TAKEN_MS;
