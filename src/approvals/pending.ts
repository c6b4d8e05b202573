/**
 * Pending operations: calls that rules want approved, from when they are asked for until they are
 * approved, rejected, cancelled or over.
 *
 * - An operation is changed only while its row is locked, from what verified, to what is sealed.
 * - Its requester never decides on it, and everyone else at most once.
 * - Approvals are for the terms that were signed: breaking the glass, which changes the terms,
 *   leaves none of those before.
 * - That the caller may do what is asked for, or may decide, is asked before. How an operation is
 *   done is in `doing.ts`.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Caller } from '../access/identity.ts';
import type { Permission } from '../access/permissions.ts';
import type { TenantIdentity } from '../access/tenant-records.ts';
import { addDetail, type Call, millisecondsLeft, monotonicNow } from '../call.ts';
import { KeywardError } from '../errors.ts';
import type {
  Decision,
  DecisionRecord,
  PendingOperationRecord,
  RuleRecord,
} from '../hsm/approval-records.ts';
import { type EnvironmentId, newId, type OperationId } from '../ids.ts';
import { type ListRequest, type Page, type Positions, readPage } from '../keyring/pages.ts';
import {
  formatPendingOperationName,
  formatTenantName,
  isUuid,
  type PendingOperationName,
} from '../names.ts';
import type { Alerts } from '../signals/alerts.ts';
import {
  countOpen,
  type DecisionRow,
  deleteDecisions,
  findOperation,
  findSame,
  insertDecision,
  insertOperation,
  listDecisions,
  listOperations,
  listRecent,
  lockOpenOperations,
  lockOperation,
  type OperationRef,
  type OperationRow,
  timeOf,
  writeOperation,
} from '../store/approvals/pending.ts';
import type { MutationTx, Tx } from '../store/core/transaction.ts';
import type { Store } from '../store/store.ts';
import { evidenceOf } from './evidence.ts';
import type { PasskeyAssertion, Passkeys } from './passkeys.ts';
import { columnsOf, digestOf, type PendingSeals, type VerifiedOperation } from './pending-seals.ts';
import { approversOf, isEnough, mayApprove } from './quorum.ts';
import type { RuleBook } from './rule-book.ts';

/** So many operations of a tenant, and of one requester in it, may wait at a time. */
const LIMITS = { all: 100, own: 10 } as const;
/** So long an operation waits whose glass is broken. */
const BROKEN_GLASS_MS = 3_600_000;
const WATCH_MS = 500;
/** So long a watch's read may take. */
const STEP_MS = 5_000;

/** What {@link PendingOperations} stands on. */
export interface PendingOperationsParts {
  readonly store: Pick<Store, 'read' | 'mutate'>;
  readonly seals: PendingSeals;
  readonly rules: Pick<RuleBook, 'breakGlassFor'>;
  readonly passkeys: Pick<Passkeys, 'decide'>;
  /** Returns a tenant by the last part of its name. Throws RESOURCE_NOT_FOUND. */
  readonly tenantOf: (name: string) => TenantIdentity | Promise<TenantIdentity>;
  readonly environmentId: EnvironmentId;
  readonly signOffUrl: () => string;
  /** So long an operation waits for approval, in milliseconds. */
  readonly expiryMs: number;
  /** Has what is approved be done. */
  readonly wake: () => void;
  readonly alerts: Alerts;
}

/** A call that a rule wants approved. */
export interface WantedOperation {
  readonly tenant: TenantIdentity;
  readonly rule: RuleRecord;
  readonly permission: Permission;
  readonly requester: Caller;
  /** What the call is about. */
  readonly resource: string;
  /** The canonical request. */
  readonly request: Buffer;
  /** What a call that only looks is answered, in JSON, where there is one. */
  readonly preview: Buffer | undefined;
}

/** A decision, and what of it was sealed. */
export interface ShownDecision {
  readonly row: DecisionRow;
  readonly record: DecisionRecord;
}

/** An operation as it is shown, and what else its approvers sign. */
export interface OperationView {
  /** The last part of its tenant's name. */
  readonly tenant: string;
  readonly environmentId: EnvironmentId;
  /** Where they sign; empty where they cannot. */
  readonly signOffUrl: string;
  readonly row: OperationRow;
  readonly record: PendingOperationRecord;
  /** Those that verify. */
  readonly decisions: readonly ShownDecision[];
}

/** Asks for approval, and takes decisions. */
export class PendingOperations {
  readonly #parts: PendingOperationsParts;

  constructor(parts: PendingOperationsParts) {
    this.#parts = parts;
  }

  /**
   * Makes the call wait, whose entry says so. Returns the operation: the one that waits already,
   * where the caller asked for the same before. Throws PENDING_OPERATIONS_FULL.
   */
  async request(call: Call, wanted: WantedOperation): Promise<PendingOperationRecord> {
    const { store, alerts } = this.#parts;
    const { tenantId } = wanted.tenant;
    // Its request id is for what it does once it is approved.
    const { idempotency: _, ...asked } = call;
    const mutation = { tenantId, resource: wanted.resource, outcome: 'APPROVAL_REQUIRED' } as const;
    const { record, isNew } = await store.mutate(asked, mutation, (tx) =>
      this.#request(tx, asked, wanted),
    );
    const operation = nameOf(wanted.tenant, record);
    if (isNew)
      alerts.raise('operation-pending', operation, {
        ...{ operation, method: record.method, resource: record.resource },
        ...{ requester: record.requester, approvals: record.rule.approvals },
        expireTime: record.expiresAt.toISOString(),
      });
    return record;
  }

  async #request(
    tx: MutationTx,
    call: Call,
    wanted: WantedOperation,
  ): Promise<{ readonly record: PendingOperationRecord; readonly isNew: boolean }> {
    const { tenantId } = wanted.tenant;
    const now = await lockOpenOperations(tx, tenantId);
    const record = this.#newRecord(call, wanted, now);
    const readAfter = this.#parts.seals.now();
    const same = await findSame(tx, tenantId, record, now);
    if (same !== undefined) {
      const { deadline } = call;
      const verified = await this.#parts.seals.verifiedOne(same, { readAfter, deadline });
      noteOperation(call, nameOf(wanted.tenant, verified.record), verified.record);
      return { record: verified.record, isNew: false };
    }
    const open = await countOpen(tx, tenantId, record.requester);
    if (open.all >= LIMITS.all || open.own >= LIMITS.own)
      throw new KeywardError('PENDING_OPERATIONS_FULL');
    const { request, preview = null } = wanted;
    const sealed = await this.#parts.seals.seal(tx, call, record);
    await insertOperation(tx, { ...columnsOf(record), request, preview, ...sealed });
    noteOperation(call, nameOf(wanted.tenant, record), record);
    return { record, isNew: true };
  }

  #newRecord(call: Call, wanted: WantedOperation, now: Date): PendingOperationRecord {
    const { tenant, requester, request, preview } = wanted;
    return {
      operationId: newId<OperationId>(),
      tenantId: tenant.tenantId,
      revision: 1n,
      state: 'PENDING',
      method: call.method,
      permission: wanted.permission,
      resource: wanted.resource,
      requestDigest: digestOf(request),
      previewDigest: preview && digestOf(preview),
      requester: requester.name,
      requesterGroups: requester.groups,
      requesterTenants: requester.tenants,
      rule: wanted.rule,
      isGlassBroken: false,
      deciders: [],
      createdAt: now,
      expiresAt: new Date(now.getTime() + this.#parts.expiryMs),
    };
  }

  /** Returns an operation. Throws RESOURCE_NOT_FOUND, PENDING_OPERATION_CORRUPT. */
  async get(call: Call, name: PendingOperationName): Promise<OperationView> {
    const tenant = await this.#parts.tenantOf(name.tenant);
    const [view] = await this.#views(call, tenant, async (tx) => [
      expectOperation(await findOperation(tx, tenant.tenantId, name.operation)),
    ]);
    if (view === undefined) throw new Error('nothing was verified');
    return view;
  }

  /** Returns a tenant's operations, the newest first. Throws PENDING_OPERATION_CORRUPT. */
  async list(call: Call, parent: string, request: ListRequest): Promise<Page<OperationView>> {
    const tenant = await this.#parts.tenantOf(parent);
    const list = `operations ${formatTenantName({ tenant: tenant.name })}`;
    return readPage(list, request, BY_TIME, ({ after, ...page }) =>
      this.#views(call, tenant, (tx) =>
        listOperations(tx, tenant.tenantId, {
          ...page,
          after: after === undefined ? undefined : positionIn(after),
        }),
      ),
    );
  }

  /**
   * Returns the operations of a tenant that wait, then each that is new or has changed, until the
   * call's deadline has come.
   */
  async *watch(call: Call, parent: string): AsyncGenerator<OperationView> {
    const tenant = await this.#parts.tenantOf(parent);
    let known: ReadonlyMap<OperationId, bigint> | undefined;
    while (millisecondsLeft(call.deadline) > 0) {
      const step = { ...call, deadline: Math.min(call.deadline, monotonicNow() + STEP_MS) };
      const views = await this.#views(step, tenant, (tx) => listRecent(tx, tenant.tenantId));
      for (const view of views.toReversed()) {
        const isNews =
          known === undefined
            ? view.row.endedAt === null
            : known.get(view.row.operationId) !== view.row.revision;
        if (isNews) yield view;
      }
      known = new Map(views.map(({ row }) => [row.operationId, row.revision]));
      await delay(Math.min(WATCH_MS, millisecondsLeft(call.deadline)));
    }
  }

  async #views(
    call: Call,
    tenant: TenantIdentity,
    read: (tx: Tx) => Promise<readonly OperationRow[]>,
  ): Promise<OperationView[]> {
    const { store, seals } = this.#parts;
    const readAfter = seals.now();
    const found = await store.read(call, tenant.tenantId, async (tx) => {
      const rows = await read(tx);
      const ids = rows.map(({ operationId }) => operationId);
      return { rows, decisions: await listDecisions(tx, tenant.tenantId, ids) };
    });
    const verified = await seals.verified(found.rows, { readAfter, deadline: call.deadline });
    const decisions = await seals.decisions([...found.decisions.values()].flat(), call.deadline);
    return verified.map(({ row, record }) => ({
      ...this.#shownWith(tenant),
      ...{ row, record },
      decisions: shownOf(row, found.decisions.get(row.operationId) ?? [], decisions),
    }));
  }

  /** What every operation of a tenant is shown with. */
  #shownWith({
    name,
  }: TenantIdentity): Pick<OperationView, 'tenant' | 'environmentId' | 'signOffUrl'> {
    const { environmentId, signOffUrl } = this.#parts;
    return { tenant: name, environmentId, signOffUrl: signOffUrl() };
  }

  /**
   * Takes the caller's decision, by their passkey. Returns the operation, which is approved when
   * enough have. Throws RESOURCE_NOT_FOUND, OPERATION_NOT_PENDING, OWN_OPERATION,
   * APPROVER_NOT_NAMED, ALREADY_DECIDED, and what verifying the assertion throws.
   */
  async decide(
    call: Call,
    approver: Caller,
    name: PendingOperationName,
    decided: { readonly decision: Decision; readonly assertion: PasskeyAssertion },
  ): Promise<OperationView> {
    const view = await this.#change(call, name, async (tx, before, now) => {
      const { record } = before;
      requireOpen(record, now);
      requireMayDecide(record, approver);
      const earlier = await decisionsOf(tx, record);
      if (earlier.some((each) => each.approver === approver.name))
        throw new KeywardError('ALREADY_DECIDED');
      const { evidence, ...decision } = await this.#parts.passkeys.decide(call, tx, {
        ...{ operation: before.row, ...decided },
      });
      const row = { ...decision, ...decided.assertion, approver: approver.name };
      await insertDecision(tx, record.tenantId, record.operationId, row);
      const operation = formatPendingOperationName(name, name.operation);
      if (call.audit !== undefined)
        addDetail(call.audit, { evidence: evidenceOf(operation, before, evidence) });
      const { name: who, groups, tenants } = approver;
      const deciders = [...record.deciders, { name: who, groups, tenants }];
      const after = { ...record, deciders };
      const state = decided.decision === 'reject' ? 'REJECTED' : 'PENDING';
      return { after: { ...after, state }, decisions: [...earlier, row] };
    });
    if (view.record.state === 'APPROVED') this.#parts.wake();
    return view;
  }

  /**
   * Ends the caller's own operation before anything is done. Throws RESOURCE_NOT_FOUND,
   * PERMISSION_MISSING, OPERATION_NOT_PENDING.
   */
  cancel(call: Call, requester: Caller, name: PendingOperationName): Promise<OperationView> {
    return this.#change(call, name, async (tx, { record }, now) => {
      requireRequester(record, requester);
      requireOpen(record, now);
      return { after: { ...record, state: 'CANCELLED' }, decisions: await decisionsOf(tx, record) };
    });
  }

  /**
   * Puts the caller's own operation under the rule for emergencies. Throws RESOURCE_NOT_FOUND,
   * PERMISSION_MISSING, OPERATION_NOT_PENDING, NO_GLASS_TO_BREAK.
   */
  async breakGlass(
    call: Call,
    requester: Caller,
    name: PendingOperationName,
    reason: string,
  ): Promise<OperationView> {
    const { rules, tenantOf, alerts } = this.#parts;
    const tenant = await tenantOf(name.tenant);
    const view = await this.#change(call, name, async (tx, { record }, now) => {
      requireRequester(record, requester);
      requireOpen(record, now);
      if (record.isGlassBroken) throw new KeywardError('NO_GLASS_TO_BREAK');
      const rule = await rules.breakGlassFor(record, tenant);
      if (rule === undefined) throw new KeywardError('NO_GLASS_TO_BREAK');
      await deleteDecisions(tx, record.tenantId, record.operationId);
      if (call.audit !== undefined) addDetail(call.audit, { reason, rule });
      const expiresAt = new Date(now.getTime() + BROKEN_GLASS_MS);
      const after = { ...record, rule, expiresAt, deciders: [], isGlassBroken: true };
      return { after, decisions: [] };
    });
    const operation = nameOf(tenant, view.record);
    alerts.raise('glass-broken', operation, {
      ...{ operation, reason, requester: requester.name },
      ...{ method: view.record.method, resource: view.record.resource },
    });
    return view;
  }

  /**
   * One change of an operation, under the call's entry: locked and verified before, sealed after.
   * It is approved as soon as enough have.
   */
  async #change(
    call: Call,
    name: PendingOperationName,
    change: (
      tx: MutationTx,
      before: VerifiedOperation,
      now: Date,
    ) => Promise<{
      readonly after: PendingOperationRecord;
      readonly decisions: readonly DecisionRow[];
    }>,
  ): Promise<OperationView> {
    const { store, seals, environmentId } = this.#parts;
    const tenant = await this.#parts.tenantOf(name.tenant);
    const { tenantId } = tenant;
    const resource = formatPendingOperationName(name, name.operation);
    return store.mutate(call, { tenantId, resource }, async (tx) => {
      const readAfter = seals.now();
      const row = expectOperation(await lockOperation(tx, tenantId, name.operation));
      const before = await seals.verifiedOne(row, { readAfter, deadline: call.deadline });
      const { after, decisions } = await change(tx, before, await timeOf(tx));
      const verified = await seals.decisions(decisions, call.deadline);
      const isApproved =
        after.state === 'PENDING' &&
        isEnough(after.rule, approversOf(environmentId, after, verified.values()));
      const state = isApproved ? 'APPROVED' : after.state;
      const record = { ...after, state, revision: after.revision + 1n };
      const end = { errorReason: '', errorMessage: '' };
      await writeOperation(tx, { ...record, ...(await seals.seal(tx, call, record)) }, end);
      tx.changed({
        kind: 'pendingOperation',
        before: contentOf(before.record),
        after: contentOf(record),
      });
      const now = expectOperation(await findOperation(tx, tenantId, name.operation));
      return {
        ...this.#shownWith(tenant),
        row: now,
        record,
        decisions: shownOf(now, decisions, verified),
      };
    });
  }
}

/** By time, the newest first: `{milliseconds since 1970}_{UUID}`. */
const BY_TIME: Positions<OperationView> = {
  positionOf: ({ row }) => `${row.createdAt.getTime()}_${row.operationId}`,
  isPosition: (text) => /^\d{1,15}_/.test(text) && isUuid(text.slice(text.indexOf('_') + 1)),
};

function positionIn(text: string) {
  const [time, id] = text.split('_');
  return { createdAt: new Date(Number(time)), operationId: id as OperationId };
}

async function decisionsOf(tx: Tx, ref: OperationRef): Promise<readonly DecisionRow[]> {
  const all = await listDecisions(tx, ref.tenantId, [ref.operationId]);
  return all.get(ref.operationId) ?? [];
}

/** Returns the decisions that verify, and are of this operation. */
function shownOf(
  { operationId }: Pick<PendingOperationRecord, 'operationId'>,
  rows: readonly DecisionRow[],
  verified: ReadonlyMap<DecisionRow, DecisionRecord>,
): ShownDecision[] {
  return rows.flatMap((row) => {
    const record = verified.get(row);
    return record?.operationId === operationId ? [{ row, record }] : [];
  });
}

function expectOperation(row: OperationRow | undefined): OperationRow {
  if (row === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
  return row;
}

/** Returns an operation's full name. */
export function nameOf(
  { name }: Pick<TenantIdentity, 'name'>,
  { operationId }: Pick<PendingOperationRecord, 'operationId'>,
): string {
  return formatPendingOperationName({ tenant: name }, operationId);
}

function noteOperation(
  { audit }: Call,
  pendingOperation: string,
  { requestDigest, rule }: PendingOperationRecord,
): void {
  if (audit === undefined) return;
  addDetail(audit, {
    pendingOperation,
    requestDigest: requestDigest.toString('base64url'),
    approvalsRequired: rule.approvals,
  });
}

/** Throws OPERATION_NOT_PENDING for one that does not wait any more. */
function requireOpen({ state, expiresAt }: PendingOperationRecord, now: Date): void {
  const current = state === 'PENDING' && expiresAt <= now ? 'EXPIRED' : state;
  if (current !== 'PENDING')
    throw new KeywardError('OPERATION_NOT_PENDING', { metadata: { state: current } });
}

/** Throws OWN_OPERATION, and APPROVER_NOT_NAMED. */
function requireMayDecide({ requester, rule }: PendingOperationRecord, caller: Caller): void {
  if (caller.name === requester) throw new KeywardError('OWN_OPERATION');
  if (!mayApprove(rule, caller)) throw new KeywardError('APPROVER_NOT_NAMED');
}

function requireRequester({ requester }: PendingOperationRecord, { name }: Caller): void {
  if (name !== requester)
    throw new KeywardError('PERMISSION_MISSING', {
      message: 'cannot change the operation: only the caller who asked for it can',
    });
}

/**
 * What an entry says of an operation. Not who the rule lets approve, which can be a hundred names:
 * the evidence beside it is never to be left out of an entry that is too large.
 */
function contentOf({ state, rule, expiresAt }: PendingOperationRecord): object {
  const { tenant, ruleId, approvals } = rule;
  return { state, rule: { tenant, ruleId, approvals }, expireTime: expiresAt.toISOString() };
}
