/**
 * The one wrapper round every call, whatever face it came in by: authorization, the tenant's quota
 * of calls, the operation, the audit entry, the deadline, the log line, the report of its outcome.
 *
 * Invariants:
 * - nothing is done for a caller who lacks what the operation needs, nor counted against the
 *   tenant; each answer of a stream leaves only under rights that a call of its own would have;
 * - what is refused is recorded before the answer leaves;
 * - every call is answered once, at its deadline at the latest, and leaves one log line and one
 *   report of its outcome, with no payload and no context;
 * - of a call that its deadline or its caller ends, the entry is written when nothing of it goes on
 *   any more, so that it says what was done;
 * - it never throws, and no promise of its rejects.
 *
 * Knows no operation and no face.
 */
import type { Logger } from 'pino';
import type { Rights } from '../access/access.ts';
import type { Caller } from '../access/identity.ts';
import { isOfSystem } from '../access/permissions.ts';
import { nameOf } from '../approvals/pending.ts';
import { type AuditNotes, addDetail, type Call, millisecondsLeft, monotonicNow } from '../call.ts';
import { KeywardError, toKeywardError } from '../errors.ts';
import type { Canary } from '../keyring/canaries/canaries.ts';
import { traceFields } from '../signals/trace-context.ts';
import { beginCall, type CallSpan } from '../signals/tracing.ts';
import { tenantOf } from '../store/audit/audit-entry.ts';
import { RequestRepeated } from '../store/request-ids.ts';
import type { ApprovalGate, Shown } from './approvals.ts';
import type { AdmittedCall } from './arrivals.ts';
import {
  noteAuthentication,
  noteContexts,
  noteDenied,
  noteOfSystem,
  noteRights,
  notesOf,
  type Recording,
  record,
} from './audit.ts';
import { requireRights, rightsAbout } from './authorization.ts';
import type { CanaryWatch } from './canaries.ts';
import { idempotencyOf } from './idempotency.ts';
import {
  ANY_CALLER,
  type AuthorizedCall,
  type Contexts,
  type Operation,
  onlyLooks,
  type Services,
  type StreamOperation,
} from './operation.ts';
import type { CallOutcomes } from './outcomes.ts';
import type { Replays } from './replays.ts';
import type { StepUp } from './step-up.ts';

/** What the wrapper needs of the server. */
export interface Serving {
  readonly services: Services;
  readonly recording: Recording;
  readonly replays: Pick<Replays, 'keep' | 'find'>;
  readonly outcomes: Pick<CallOutcomes, 'report'>;
  readonly canaryWatch: Pick<CanaryWatch, 'recognise' | 'record'>;
  readonly stepUp: Pick<StepUp, 'checkFor'>;
  readonly approvalGate: Pick<ApprovalGate, 'pass'>;
  readonly log: Logger;
  /** Aborted when streams are to end, because the server does. */
  readonly stopping: AbortSignal;
}

/** One call as its face brings it, and how the face answers it. */
export interface Exchange<Request, Answer> extends Shown<Request, Answer> {
  readonly admitted: AdmittedCall;
  /** The full name of the method, as `keyward.v1.KeyService/CreateKey`. */
  readonly method: string;
  readonly operation: Operation<Request, Answer> | StreamOperation<Request, Answer>;
  /**
   * Returns the request. `authorize` is awaited first where reading it costs much: with as much of
   * it as says what it is about. Throws, or rejects with, a KeywardError.
   */
  read(authorize: (about: Request) => Promise<void>): Request | Promise<Request>;
  /** Returns the answer as it is sent. */
  encode(answer: Answer, request: Request): Buffer;
  /** Returns the answer as it is kept for when the request comes again, by whichever face. */
  keep(answer: Answer, request: Request): Buffer;
  /** Returns a kept answer as it is sent. */
  fromKept(kept: Buffer): Buffer;
  /** Sends one of many answers. Returns once there is room for another, or its reader is gone. */
  send(answer: Buffer): Promise<void> | undefined;
  /** Sends the last word: an error, or the answer, which is null where it was sent bit by bit. */
  finish(error: KeywardError | undefined, answer: Buffer | null): void;
  /** Has the listener called once when the caller has gone. */
  onCancelled(listener: () => void): void;
  /** Overwrites what is kept of the request. */
  wipe(): void;
}

/**
 * How often the caller of a stream that has nothing to say is asked for their rights again: with
 * the 1.5 s that a replica's knowledge may be old, within the 2 s that are promised.
 */
const REAUTHORIZE_MS = 500;

/** Why a caller may not do what it asks. */
const DENIED: readonly string[] = [
  'PERMISSION_MISSING',
  'RESOURCE_NOT_FOUND',
  'CALLER_SUSPENDED',
  'STEP_UP_REQUIRED',
];

/** Serves a call to its end. */
export function serveCall<Request, Answer>(
  serving: Serving,
  exchange: Exchange<Request, Answer>,
): void {
  new Execution(serving, exchange).run();
}

/** One call, from its whole request to its last word. */
class Execution<Request, Answer> {
  readonly #serving: Serving;
  readonly #exchange: Exchange<Request, Answer>;
  readonly #release: () => void;
  readonly #audit: AuditNotes;
  readonly #call: { -readonly [Field in keyof Call]: Call[Field] };
  readonly #span: CallSpan | undefined;
  #request: Request | undefined;
  #resource: string | undefined;
  /** The tenant that it is about, if the caller has any rights there. */
  #tenant: string | undefined;
  /** Those that it wants opened. */
  #canaries: readonly Canary[] = [];
  #hasNotedContexts = false;
  #notingContexts: Promise<void> | undefined;
  #reauthorizing: NodeJS.Timeout | undefined;
  #isAnswered = false;
  /** Why it was answered before it was over. */
  #endedBy: KeywardError | undefined;
  /** Whether a stream is on record as begun. */
  #isBegun = false;

  constructor(serving: Serving, exchange: Exchange<Request, Answer>) {
    this.#serving = serving;
    this.#exchange = exchange;
    const { admitted, method } = exchange;
    const { id, caller, deadline } = admitted;
    this.#span = beginCall(method, admitted);
    if (this.#span !== undefined) admitted.trace = this.#span.trace;
    const { trace } = admitted;
    this.#release = admitted.hold();
    const audit = notesOf(admitted, serving.recording.replica);
    this.#call = { id, method, caller: caller.name, deadline, trace, audit };
    this.#audit = audit;
    if (exchange.approved !== undefined) {
      const { tenant, record } = exchange.approved;
      this.#call.requestedAt = record.createdAt;
      addDetail(audit, { pendingOperation: nameOf(tenant, record) });
    }
  }

  /** Serves the call; what is done for it belongs to its span. */
  run(): void {
    if (this.#span === undefined) this.#run();
    else this.#span.around(() => this.#run());
  }

  #run(): void {
    const { deadline } = this.#call;
    // A watch may have none.
    const timer = Number.isFinite(deadline)
      ? setTimeout(
          () => this.#endEarly(new KeywardError('DEADLINE_EXCEEDED')),
          millisecondsLeft(deadline),
        )
      : undefined;
    this.#exchange.onCancelled(() => {
      // Faces say so at the end of every stream, too, where an error with its stack costs 3 µs.
      if (!this.#isAnswered) this.#endEarly(new KeywardError('CALL_CANCELLED'));
    });
    const { stopping } = this.#serving;
    const stop = () => this.#endEarly(new KeywardError('SERVER_STOPPING'));
    if (this.#isStream) stopping.addEventListener('abort', stop, { once: true });
    this.#respond()
      .then(
        (answer) => this.#answer(undefined, answer),
        (error: unknown) => this.#answer(toKeywardError(error), null),
      )
      .then(() => this.#endedBy && this.#record(this.#endedBy))
      .finally(() => {
        clearTimeout(timer);
        clearInterval(this.#reauthorizing);
        stopping.removeEventListener('abort', stop);
        this.#exchange.wipe();
        this.#release();
        this.#span?.end();
      });
  }

  get #isStream(): boolean {
    return 'stream' in this.#exchange.operation;
  }

  #endEarly(error: unknown): void {
    if (this.#isAnswered) return;
    // Whatever still works for the call sees that its time is up, and begins nothing more.
    this.#call.deadline = Math.min(this.#call.deadline, monotonicNow());
    const outcome = toKeywardError(error);
    if (this.#isStream) void this.#answer(outcome, null);
    else {
      this.#isAnswered = true;
      this.#endedBy = outcome;
      this.#finish(outcome, null);
    }
  }

  /**
   * Does what was asked for. Returns the answer as it is sent, or null if it was sent bit by bit.
   */
  async #respond(): Promise<Buffer | null> {
    const { operation } = this.#exchange;
    const request = await this.#read();
    this.#recognise(request);
    const rights = await this.#authorize(request);
    await this.#count(request);
    const noting = this.#noteContexts();
    if (noting !== undefined) await noting;
    const call = Object.assign(this.#call, { rights });
    try {
      if ('stream' in operation) return await this.#stream(operation, call, request);
      const answer = await this.#perform(operation, call, request);
      noteRights(this.#audit, rights, operation.permission);
      return answer;
    } catch (error) {
      // An item that was denied doesn't make the batch fail; what fails after a denial, fails for
      // it.
      noteRights(this.#audit, rights, operation.permission);
      const isUnproven = toKeywardError(error).reason === 'STEP_UP_REQUIRED';
      if (rights.denials.length > 0 || isUnproven) noteDenied(this.#audit);
      throw error;
    }
  }

  async #read(): Promise<Request> {
    const { operation } = this.#exchange;
    const read = this.#exchange.read(async (about) => {
      this.#resource = operation.resource(about);
      await this.#authorized(this.#exchange.admitted.caller, about);
    });
    const request = read instanceof Promise ? await read : read;
    this.#resource = operation.resource(request);
    this.#request = request;
    const idempotency = idempotencyOf(request);
    if (idempotency !== undefined)
      this.#call.idempotency = {
        ...idempotency,
        keep: (effect) =>
          this.#serving.replays.keep(this.#call, effect, (answer) =>
            this.#exchange.keep(answer as Answer, request),
          ),
      };
    return request;
  }

  /** Before anything is decided: a canary is one whoever wants it opened. */
  #recognise(request: Request): void {
    const { operation, admitted } = this.#exchange;
    if (operation.canaries === undefined) return;
    const { canaryWatch } = this.#serving;
    this.#canaries = canaryWatch.recognise(operation, request, this.#call, admitted.caller);
  }

  /**
   * Returns the answer as it is sent: of the operation, or, where the request had its effect
   * before, of then.
   */
  async #perform(
    operation: Operation<Request, Answer>,
    call: AuthorizedCall,
    request: Request,
  ): Promise<Buffer> {
    const { services } = this.#serving;
    const repeated = await this.#repeat(operation, call, request);
    if (repeated !== undefined) return repeated;
    // What was done before is answered again, and changes nothing more, whatever rules want now.
    const { approvalGate } = this.#serving;
    const warrant = await approvalGate.pass(services, operation, call, request, this.#exchange);
    const approved = warrant === undefined ? call : Object.assign(call, { warrant });
    try {
      return this.#exchange.encode(await operation.handle(services, approved, request), request);
    } catch (error) {
      // It had its effect between our looking and now.
      if (!(error instanceof RequestRepeated)) throw error;
      const again = await this.#repeat(operation, call, request);
      if (again === undefined) throw new KeywardError('CONFLICT');
      return again;
    }
  }

  /** Returns the answer of a request that had its effect before; undefined for any other. */
  async #repeat(
    operation: Operation<Request, Answer>,
    call: AuthorizedCall,
    request: Request,
  ): Promise<Buffer | undefined> {
    const { tenantId } = call.rights;
    if (tenantId === undefined) return undefined;
    const { services, replays } = this.#serving;
    const replay = await replays.find(call, tenantId);
    if (replay === undefined) return undefined;
    this.#exchange.admitted.markReplayed();
    const { reference, answer: kept } = replay;
    const answer = reference && (await operation.again?.(services, call, request, reference));
    if (answer !== undefined) return this.#exchange.encode(answer, request);
    if (kept === undefined) throw new Error('no answer was kept of a request, and none is made');
    return this.#exchange.fromKept(kept);
  }

  async #stream(
    operation: StreamOperation<Request, Answer>,
    call: AuthorizedCall,
    request: Request,
  ): Promise<null> {
    for await (const answer of operation.stream(this.#serving.services, call, request)) {
      await this.#authorizeAgain(request);
      await this.#begin();
      if (this.#isAnswered) break;
      await this.#exchange.send(this.#exchange.encode(answer, request));
    }
    // Its own end, which comes with the deadline, is not to be taken for the end of what there is.
    if (millisecondsLeft(call.deadline) === 0) throw new KeywardError('DEADLINE_EXCEEDED');
    return null;
  }

  /**
   * Returns the caller's rights, which suffice. A stream's are asked for again while it is open.
   */
  async #authorize(request: Request): Promise<Rights> {
    const rights = await this.#authorized(this.#exchange.admitted.caller, request);
    if (this.#isStream) {
      const again = () => this.#authorizeAgain(request).catch((error) => this.#endEarly(error));
      this.#reauthorizing = setInterval(() => void again(), REAUTHORIZE_MS);
    }
    return rights;
  }

  async #authorizeAgain(request: Request): Promise<void> {
    await this.#authorized(await this.#exchange.admitted.identify(), request);
  }

  /** Returns the caller's rights, which suffice; that they do not is noted before it is thrown. */
  async #authorized(caller: Caller, request: Request): Promise<Rights> {
    try {
      const { access } = this.#serving.services;
      const { operation } = this.#exchange;
      const rights = await rightsAbout(access, operation, caller, request);
      this.#noteTenant(rights);
      await this.#wantProofs(rights, request);
      requireRights(operation, rights, request);
      if ('stream' in operation) operation.requireMore?.(rights, request);
      this.#audit.decision = 'allowed';
      noteRights(this.#audit, rights, operation.permission);
      return rights;
    } catch (error) {
      clearInterval(this.#reauthorizing);
      const { reason, message } = toKeywardError(error);
      if (DENIED.includes(reason)) {
        noteDenied(this.#audit);
        // Who has nothing in a tenant writes nothing in its log, and there may be no such tenant.
        if (reason === 'RESOURCE_NOT_FOUND') {
          noteOfSystem(this.#audit, this.#serving.recording);
          this.#tenant = undefined;
        }
        addDetail(this.#audit, { denied: message });
      }
      throw error;
    }
  }

  /**
   * Has the caller's proof checked for whatever its rights allow, unless it only wants to look at
   * what a call would do.
   */
  async #wantProofs(rights: Rights, request: Request): Promise<void> {
    if (rights.tenantId === undefined || onlyLooks(request)) return;
    // Its requester has proven who they are when they asked for it.
    if (this.#exchange.approved !== undefined) return;
    const { caller, tenant } = rights;
    noteAuthentication(this.#audit, this.#exchange.operation, caller);
    rights.checkProofs(await this.#serving.stepUp.checkFor(tenant, caller));
  }

  /**
   * Notes the tenant that the rights are in, and its UUID for the entry, if the entry names that
   * tenant.
   */
  #noteTenant({ tenant, tenantId }: Rights): void {
    if (tenantId !== undefined) this.#tenant = tenant;
    if (this.#exchange.operation.permission === ANY_CALLER)
      noteOfSystem(this.#audit, this.#serving.recording);
    else if (tenantId !== undefined && tenant === tenantOf(this.#resource ?? ''))
      this.#audit.tenantId = tenantId;
  }

  /**
   * Counts it against its tenant's quota, or its caller's where it needs no permission; not what
   * only the service's administrators may do, who put quotas right.
   */
  #count(request: Request): Promise<void> | undefined {
    const { operation, admitted } = this.#exchange;
    const { quotas } = this.#serving.services;
    if (operation.permission === ANY_CALLER) return quotas.takeCallOf(admitted.caller.name);
    if (isOfSystem(operation.permission)) return undefined;
    return quotas.takeCalls(operation.target(request).tenant, operation.calls?.(request) ?? 1);
  }

  /** Notes the request's encryption contexts, once. Never rejects. */
  #noteContexts(): Promise<void> | undefined {
    if (this.#request === undefined || this.#resource === undefined || this.#hasNotedContexts)
      return this.#notingContexts;
    const contexts = this.#exchange.operation.contexts?.(this.#request);
    if (contexts === undefined) return undefined;
    this.#hasNotedContexts = true;
    const { recording } = this.#serving;
    const noted: Contexts =
      this.#audit.decision === 'denied' ? { ...contexts, isOnlyNamed: true } : contexts;
    this.#notingContexts = noteContexts(recording, this.#audit, this.#resource, noted);
    return this.#notingContexts;
  }

  /** Puts a stream on record before its first answer, as what was well so far. */
  async #begin(): Promise<void> {
    if (this.#isBegun || this.#isAnswered) return;
    const refused = await this.#record(undefined);
    if (refused !== undefined) throw refused;
    this.#isBegun = true;
  }

  async #record(error: KeywardError | undefined): Promise<KeywardError | undefined> {
    if (this.#isBegun && error === undefined) return undefined;
    if (this.#audit.decision !== undefined) await this.#noteContexts();
    const resource = this.#resource ?? '';
    const recorded = record(this.#serving.recording, this.#call, { resource, error });
    if (this.#canaries.length === 0) return recorded;
    const { canaryWatch } = this.#serving;
    const beside = canaryWatch.record(this.#canaries, this.#call, error);
    const outcome = await recorded;
    return outcome === error ? beside : outcome;
  }

  /** Records and answers, once. Never rejects. */
  async #answer(outcome: KeywardError | undefined, result: Buffer | null): Promise<void> {
    if (this.#isAnswered) {
      result?.fill(0);
      return;
    }
    this.#isAnswered = true;
    this.#finish(await this.#record(outcome), result);
  }

  #finish(error: KeywardError | undefined, result: Buffer | null): void {
    const tookMs = monotonicNow() - this.#exchange.admitted.startedAt;
    const durationMs = Math.round(tookMs * 1000) / 1000;
    this.#attempt('note it in its span', () => this.#span?.note(error, this.#resource));
    this.#attempt('write its log line', () => this.#writeLogLine(error, durationMs));
    this.#attempt('report its outcome', () => this.#report(error, durationMs));
    this.#attempt('answer it', () =>
      this.#exchange.finish(error, error === undefined ? result : null),
    );
    // Faces have copied it into what they send.
    result?.fill(0);
  }

  /** Does what is the call's last word if it fails; its connection is closed by the deadline. */
  #attempt(failure: string, action: () => void): void {
    try {
      action();
    } catch (err) {
      this.#serving.log.error(
        { requestId: this.#call.id, err },
        `cannot end a call in order: failed to ${failure}`,
      );
    }
  }

  #report(error: KeywardError | undefined, durationMs: number): void {
    const { face, address } = this.#exchange.admitted;
    const { id: requestId, method, caller, trace } = this.#call;
    this.#serving.outcomes.report({
      ...{ requestId, method, face, isAdmitted: true, caller, address, trace },
      ...{ tenant: this.#tenant, resource: this.#resource, notes: this.#audit, error, durationMs },
    });
  }

  #writeLogLine(error: KeywardError | undefined, durationMs: number): void {
    const { log } = this.#serving;
    const { caller } = this.#exchange.admitted;
    const line = {
      requestId: this.#call.id,
      ...traceFields(this.#call.trace),
      method: this.#call.method,
      caller: this.#call.caller,
      token: caller.token,
      resource: this.#resource,
      binding: this.#audit.binding,
      outcome: error?.reason ?? 'OK',
      durationMs,
    };
    if (error?.reason === 'INTERNAL') log.error({ ...line, err: error.cause }, 'call failed');
    else if (error?.cause !== undefined)
      log.warn({ ...line, cause: String(error.cause) }, 'call failed');
    else log.info(line, 'call');
  }
}
