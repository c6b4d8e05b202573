/**
 * Whether a pending operation is what its row says: seals of operations and of decisions, verified
 * and made by the agents.
 *
 * - Nothing becomes a {@link VerifiedOperation} but here. A row whose columns, request or preview
 *   are not those that were sealed, or that is older than what this replica has verified of the
 *   operation, is refused (PENDING_OPERATION_CORRUPT) with an alert.
 * - Decisions are sealed by agents alone, which verify the assertion first.
 * - Remembers revisions only, and not for ever: an older row that was put back with its seal while
 *   no replica remembers a newer one verifies.
 */
import { hash } from 'node:crypto';
import type { Call } from '../call.ts';
import { KeywardError } from '../errors.ts';
import {
  type DecisionRecord,
  type PendingOperationRecord,
  pendingOperationContent,
  readDecision,
  readPendingOperation,
} from '../hsm/approval-records.ts';
import { RECORD } from '../hsm/record-seal.ts';
import type { Agents } from '../hsm/token-router.ts';
import type { OperationId, SealKeyId } from '../ids.ts';
import {
  changeDeadline,
  type Moment,
  NewestRevisions,
  type Reading,
  sealsMatch,
} from '../sealed-rows.ts';
import type { Alerts } from '../signals/alerts.ts';
import type {
  DecisionRow,
  OperationColumns,
  OperationRow,
  OperationSeal,
} from '../store/approvals/pending.ts';
import type { Tx } from '../store/core/transaction.ts';
import { holdCurrentSealKey } from '../store/hsm-token/token-objects.ts';
import type { Store } from '../store/store.ts';

/** Of so many operations the revision is remembered. */
const REMEMBERED = 20_000;

/** What {@link PendingSeals} stands on. */
export interface PendingSealsParts {
  readonly store: Pick<Store, 'query'>;
  readonly agents: Pick<Agents, 'call' | 'held'>;
  /** Knows which key is current for seals. */
  readonly states: {
    sealer(call: Pick<Call, 'deadline'>): { sealKey(tx?: Tx): Promise<SealKeyId | undefined> };
  };
  readonly alerts: Alerts;
}

/** An operation that is as it was sealed. */
export interface VerifiedOperation {
  readonly row: OperationRow;
  readonly record: PendingOperationRecord;
}

/** Verifies and makes the seals of pending operations. */
export class PendingSeals {
  readonly #parts: PendingSealsParts;
  readonly #newest = new NewestRevisions<OperationId>(REMEMBERED);

  constructor(parts: PendingSealsParts) {
    this.#parts = parts;
  }

  /** Returns the moment that rows are read after: what is seen later says nothing against them. */
  now(): Moment {
    return this.#newest.now();
  }

  /**
   * Returns the operations, if all of these rows verify. Throws PENDING_OPERATION_CORRUPT,
   * TOKEN_KEY_NOT_READY, and what agents throw.
   */
  async verified(
    rows: readonly OperationRow[],
    { readAfter, deadline }: Reading,
  ): Promise<VerifiedOperation[]> {
    const matches = await sealsMatch(this.#parts, RECORD.pendingOperation, rows, deadline);
    return rows.map((row, index) => {
      const { operationId } = row;
      const record = matches[index] ? this.#recordOf(row) : undefined;
      if (record === undefined) throw this.#corrupt(row);
      if (this.#newest.note(operationId, row.revision, readAfter) !== undefined)
        throw this.#corrupt(row);
      this.#parts.alerts.clear('pending-operation-corrupt', operationId);
      return { row, record };
    });
  }

  /** As {@link PendingSeals.verified}, of one. */
  async verifiedOne(row: OperationRow, reading: Reading): Promise<VerifiedOperation> {
    const [verified] = await this.verified([row], reading);
    if (verified === undefined) throw new Error('nothing was verified');
    return verified;
  }

  /** Returns the decisions among these that verify, by their rows. Throws what agents throw. */
  async decisions(
    rows: readonly DecisionRow[],
    deadline: number,
  ): Promise<ReadonlyMap<DecisionRow, DecisionRecord>> {
    const matches = await sealsMatch(this.#parts, RECORD.decision, rows, deadline);
    const verified = new Map<DecisionRow, DecisionRecord>();
    for (const [index, row] of rows.entries()) {
      if (!matches[index]) continue;
      const record = readDecision(row.content);
      if (record.approver === row.approver) verified.set(row, record);
    }
    return verified;
  }

  /** Returns the seal of an operation, by the key that is current until the transaction ends. */
  async seal(
    tx: Tx,
    call: Pick<Call, 'deadline'>,
    record: PendingOperationRecord,
  ): Promise<OperationSeal> {
    const { agents, states } = this.#parts;
    const deadline = changeDeadline(call);
    const sealKeyId = await holdCurrentSealKey(tx, states.sealer(call));
    const content = pendingOperationContent(record);
    const request = { sealKeyId, kind: RECORD.pendingOperation, contents: [content] };
    const { seals } = await agents.call('sealRecords', request, deadline);
    if (seals[0] === undefined) throw new Error('an agent sealed nothing');
    return { content, sealKeyId, seal: Buffer.from(seals[0]) };
  }

  /** Returns what was sealed, where the columns agree with it; else undefined. */
  #recordOf(row: OperationRow): PendingOperationRecord | undefined {
    try {
      const record = readPendingOperation(row.content);
      return agrees(row, record) ? record : undefined;
    } catch {
      return undefined;
    }
  }

  #corrupt({ operationId, tenantId }: OperationRow): KeywardError {
    this.#parts.alerts.raise('pending-operation-corrupt', operationId, {
      detail: `operation ${operationId} of tenant ${tenantId}`,
    });
    return new KeywardError('PENDING_OPERATION_CORRUPT');
  }
}

/** Whether a row's columns, its request and its preview are those of the record. */
function agrees(row: OperationRow, record: PendingOperationRecord): boolean {
  return (
    row.tenantId === record.tenantId &&
    row.operationId === record.operationId &&
    row.revision === record.revision &&
    row.state === record.state &&
    row.method === record.method &&
    row.requester === record.requester &&
    row.createdAt.getTime() === record.createdAt.getTime() &&
    row.expiresAt.getTime() === record.expiresAt.getTime() &&
    row.requestDigest.equals(record.requestDigest) &&
    digestOf(row.request).equals(record.requestDigest) &&
    (row.preview === null
      ? record.previewDigest === undefined
      : record.previewDigest?.equals(digestOf(row.preview)) === true)
  );
}

/** Returns SHA-256. */
export function digestOf(bytes: Uint8Array): Buffer {
  return hash('sha256', bytes, 'buffer');
}

/** Returns the columns of a record that rows are found by. */
export function columnsOf(
  record: PendingOperationRecord,
): Omit<OperationColumns, 'request' | 'preview'> {
  const { tenantId, operationId, revision, state, method, requester } = record;
  const { requestDigest, createdAt, expiresAt } = record;
  return {
    ...{ tenantId, operationId, revision, state, method, requester },
    ...{ requestDigest, createdAt, expiresAt },
  };
}
