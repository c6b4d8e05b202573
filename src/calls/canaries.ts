/**
 * What becomes of a call that wants canaries opened: nothing that its caller could tell.
 *
 * - The call goes on as any other, and fails as one whose ciphertext does not open: a canary opens
 *   for no caller. What its caller may do is asked after it was recognised, and decided as ever.
 * - An entry in the log of each canary's tenant says who wanted it opened, beside the call's own.
 *   It is handed to the writer in the same moment, and is durable before the answer leaves.
 * - Operators are told, and the caller suspended where the canary asks for it, a moment later: not
 *   in the time that the caller measures, and however long the call goes on.
 */
import type { Caller } from '../access/identity.ts';
import type { AuditNotes, Call } from '../call.ts';
import { KeywardError } from '../errors.ts';
import type { Canary, Recogniser } from '../keyring/canaries/canaries.ts';
import type { CanaryChanges } from '../keyring/canaries/canary-changes.ts';
import type { Alerts } from '../signals/alerts.ts';
import { traceFields } from '../signals/trace-context.ts';
import { answerUnrecorded, type Recording } from './audit.ts';
import type { AnyOperation } from './operation.ts';

/** After this nearly every call is answered. */
const TELL_AFTER_MS = 50;
/** A suspension that cannot be written is tried again, so often and after so long. */
const TRIES = 5;
const RETRY_MS = 500;
/** Stands in an entry where others have the reason for failure. */
const OPENED = 'CANARY_OPENED';

export interface CanaryWatchParts extends Pick<Recording, 'writer'> {
  readonly canaries: Recogniser;
  readonly changes: Pick<CanaryChanges, 'suspendFor'>;
  readonly alerts: Pick<Alerts, 'raise'>;
  readonly log: { error(fields: object, message: string): void };
}

/** Recognises canaries that calls want opened, and tells of them. */
export class CanaryWatch {
  readonly #parts: CanaryWatchParts;

  constructor(parts: CanaryWatchParts) {
    this.#parts = parts;
  }

  /** Returns the canaries that the request wants opened, and has operators told of them. */
  recognise<Request>(
    operation: AnyOperation<Request>,
    request: Request,
    call: Call,
    caller: Caller,
  ): readonly Canary[] {
    const found = operation.canaries?.(this.#parts.canaries, request);
    if (found === undefined || found.length === 0) return [];
    const canaries = [...new Set(found)];
    setTimeout(() => this.#tell(canaries, call, caller), TELL_AFTER_MS);
    return canaries;
  }

  /**
   * Makes the entries durable that say who wanted canaries opened. Returns what the call is to be
   * answered with: what it was, or AUDIT_UNAVAILABLE.
   */
  async record(
    canaries: readonly Canary[],
    { id, caller, method, trace, audit }: Call,
    outcome: KeywardError | undefined,
  ): Promise<KeywardError | undefined> {
    const entries = canaries.map(({ row, name }) => {
      const { replica, certificate, token, address } = audit ?? {};
      const notes: AuditNotes = {
        ...{ ...(replica === undefined ? {} : { replica }), certificate, token, address },
        ...{ decision: 'denied', tenantId: row.tenantId },
        detail: { canary: row.uid, answered: outcome?.reason ?? 'OK' },
      };
      const call = { id, caller, method, trace, audit: notes };
      return { call, resource: name, outcome: OPENED };
    });
    try {
      await Promise.all(entries.map((entry) => this.#parts.writer.writeRefusal(entry)));
      return outcome;
    } catch (unrecorded) {
      return answerUnrecorded(audit ?? {}, outcome, unrecorded as KeywardError);
    }
  }

  #tell(canaries: readonly Canary[], { id, method, trace, audit }: Call, caller: Caller): void {
    const { certificate, address } = audit ?? {};
    for (const canary of canaries) {
      const { name, tenant, content } = canary;
      const suspends = content?.suspends === true;
      this.#parts.alerts.raise('canary-opened', `${name} by ${caller.name}`, {
        ...{ canary: name, tenant, caller: caller.name, token: caller.token },
        ...{ certificate, address, method, requestId: id, suspends, ...traceFields(trace) },
      });
      if (suspends) void this.#suspend(canary, { caller: caller.name, requestId: id }, TRIES);
    }
  }

  /** Never rejects. */
  async #suspend(
    canary: Canary,
    who: { readonly caller: string; readonly requestId: string },
    tries: number,
  ): Promise<void> {
    try {
      await this.#parts.changes.suspendFor(canary, who);
    } catch (err) {
      const isFull = err instanceof KeywardError && err.reason === 'CANARIES_FULL';
      const isOver = tries <= 1 || isFull;
      const message = isOver ? 'cannot suspend a caller' : 'cannot suspend a caller; trying again';
      this.#parts.log.error({ err, canary: canary.name, ...who }, message);
      if (!isOver) setTimeout(() => void this.#suspend(canary, who, tries - 1), RETRY_MS);
    }
  }
}
