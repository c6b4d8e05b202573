/**
 * The one wrapper round every call, whatever face it came in by: authorization, the tenant's quota
 * of calls, the operation, the audit entry, the deadline, the log line, the outcome.
 *
 * Invariants:
 * - nothing is done for a caller who lacks what the operation needs, nor counted against the
 *   tenant; a stream ends soon after its caller lacks it;
 * - what is refused is recorded before the answer leaves;
 * - every call is answered once, at its deadline at the latest, and leaves one log line, with no
 *   payload and no context;
 * - it never throws, and no promise of its rejects.
 *
 * Knows no operation and no face.
 */
import type { Logger } from 'pino';
import type { Rights } from '../access/access.ts';
import type { Caller } from '../access/identity.ts';
import { isOfSystem } from '../access/permissions.ts';
import { type AuditNotes, addDetail, type Call, millisecondsLeft, monotonicNow } from '../call.ts';
import { KeywardError, toKeywardError } from '../errors.ts';
import type { AdmittedCall } from './arrivals.ts';
import { noteContexts, noteRights, notesOf, type Recording, record } from './audit.ts';
import { authorize } from './authorization.ts';
import { idempotencyOf } from './idempotency.ts';
import {
  ANY_CALLER,
  type AuthorizedCall,
  type Operation,
  type Services,
  type StreamOperation,
} from './operation.ts';

/** What the wrapper needs of the server. */
export interface Serving {
  readonly services: Services;
  readonly recording: Recording;
  readonly log: Logger;
  /** Aborted when streams are to end, because the server does. */
  readonly stopping: AbortSignal;
}

/** One call as its face brings it, and how the face answers it. */
export interface Exchange<Request, Answer> {
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
  /** Sends one of many answers. Returns once there is room for another, or its reader is gone. */
  send(answer: Buffer): Promise<void> | undefined;
  /** Sends the last word: an error, or the answer, which is null where it was sent bit by bit. */
  finish(error: KeywardError | undefined, answer: Buffer | null): void;
  /** Has the listener called once when the caller has gone. */
  onCancelled(listener: () => void): void;
  /** Overwrites what is kept of the request. */
  wipe(): void;
}

/** How often a stream's caller is asked for their rights again. */
const REAUTHORIZE_MS = 1_000;

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
  #request: Request | undefined;
  #resource: string | undefined;
  #rights: Rights | undefined;
  #notingContexts: Promise<void> | undefined;
  #reauthorizing: NodeJS.Timeout | undefined;
  #isAnswered = false;

  constructor(serving: Serving, exchange: Exchange<Request, Answer>) {
    this.#serving = serving;
    this.#exchange = exchange;
    const { admitted, method } = exchange;
    const { id, caller, deadline } = admitted;
    this.#release = admitted.hold();
    const audit = notesOf(admitted, serving.recording.replica);
    this.#call = { id, method, caller: caller.name, deadline, audit };
    this.#audit = audit;
  }

  run(): void {
    const { deadline } = this.#call;
    // A watch may have none.
    const timer = Number.isFinite(deadline)
      ? setTimeout(
          () => void this.#fail(new KeywardError('DEADLINE_EXCEEDED')),
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
        (error: unknown) => this.#fail(error),
      )
      .finally(() => {
        clearTimeout(timer);
        clearInterval(this.#reauthorizing);
        stopping.removeEventListener('abort', stop);
        this.#exchange.wipe();
        this.#release();
      });
  }

  get #isStream(): boolean {
    return 'stream' in this.#exchange.operation;
  }

  #endEarly(error: unknown): void {
    if (this.#isAnswered) return;
    // Whatever still works for the call sees that its time is up, and begins nothing more.
    this.#call.deadline = Math.min(this.#call.deadline, monotonicNow());
    void this.#fail(error);
  }

  /**
   * Does what was asked for. Returns the answer as it is sent, or null if it was sent bit by bit.
   */
  async #respond(): Promise<Buffer | null> {
    const { operation } = this.#exchange;
    const request = await this.#read();
    const rights = await this.#authorize(request);
    await this.#count(request);
    await this.#noteContexts();
    const call = Object.assign(this.#call, { rights });
    try {
      if ('stream' in operation) return await this.#stream(operation, call, request);
      const answer = await operation.handle(this.#serving.services, call, request);
      return this.#exchange.encode(answer, request);
    } catch (error) {
      // An item that was denied doesn't make the batch fail; what fails after a denial, fails for
      // it.
      if (rights.denials.length > 0) this.#audit.decision = 'denied';
      throw error;
    } finally {
      noteRights(this.#audit, rights);
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
    if (idempotency !== undefined) this.#call.idempotency = idempotency;
    return request;
  }

  async #stream(
    operation: StreamOperation<Request, Answer>,
    call: AuthorizedCall,
    request: Request,
  ): Promise<null> {
    for await (const answer of operation.stream(this.#serving.services, call, request)) {
      await this.#begin();
      if (this.#isAnswered) break;
      await this.#exchange.send(this.#exchange.encode(answer, request));
    }
    return null;
  }

  /**
   * Returns the caller's rights, which suffice. A stream's are asked for again while it is open.
   */
  async #authorize(request: Request): Promise<Rights> {
    const { admitted } = this.#exchange;
    const rights = await this.#authorized(admitted.caller, request);
    this.#rights = rights;
    if (this.#isStream) {
      const again = async () => this.#authorized(await admitted.identify(), request);
      const end = (error: unknown) => this.#endEarly(error);
      this.#reauthorizing = setInterval(() => void again().catch(end), REAUTHORIZE_MS);
    }
    return rights;
  }

  /** Returns the caller's rights, which suffice; that they do not is noted before it is thrown. */
  async #authorized(caller: Caller, request: Request): Promise<Rights> {
    try {
      const { access } = this.#serving.services;
      const rights = await authorize(access, this.#exchange.operation, caller, request);
      this.#audit.decision = 'allowed';
      noteRights(this.#audit, rights);
      return rights;
    } catch (error) {
      clearInterval(this.#reauthorizing);
      const { reason, message } = toKeywardError(error);
      if (reason === 'PERMISSION_MISSING' || reason === 'RESOURCE_NOT_FOUND') {
        this.#audit.decision = 'denied';
        addDetail(this.#audit, { denied: message });
      }
      throw error;
    }
  }

  /**
   * Counts it against its tenant's quota; not what only the service's administrators may do, who
   * put quotas right.
   */
  async #count(request: Request): Promise<void> {
    const { operation } = this.#exchange;
    if (operation.permission === ANY_CALLER || isOfSystem(operation.permission)) return;
    const { quotas } = this.#serving.services;
    await quotas.takeCalls(operation.target(request).tenant, operation.calls?.(request) ?? 1);
  }

  /** Notes the request's encryption contexts, once. Never rejects. */
  #noteContexts(): Promise<void> | undefined {
    const contexts =
      this.#request === undefined ? undefined : this.#exchange.operation.contexts?.(this.#request);
    if (contexts === undefined || this.#resource === undefined) return undefined;
    const { recording } = this.#serving;
    this.#notingContexts ??= noteContexts(recording, this.#audit, this.#resource, contexts);
    return this.#notingContexts;
  }

  /** Puts a stream on record before its first answer, as what was well so far. */
  async #begin(): Promise<void> {
    if (this.#audit.isWritten || this.#isAnswered) return;
    const refused = await this.#record(undefined);
    if (refused !== undefined) throw refused;
    this.#audit.isWritten = true;
  }

  async #record(error: KeywardError | undefined): Promise<KeywardError | undefined> {
    if (this.#audit.decision !== undefined) await this.#noteContexts();
    const resource = this.#resource ?? '';
    return record(this.#serving.recording, this.#call, { resource, error });
  }

  #fail(error: unknown): Promise<void> {
    return this.#answer(toKeywardError(error), null);
  }

  /** Answers, once. Never rejects. */
  async #answer(outcome: KeywardError | undefined, result: Buffer | null): Promise<void> {
    if (this.#isAnswered) return;
    this.#isAnswered = true;
    const error = await this.#record(outcome);
    this.#attempt('write its log line', () => this.#writeLogLine(error));
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

  #writeLogLine(error: KeywardError | undefined): void {
    const { log } = this.#serving;
    const { startedAt, caller } = this.#exchange.admitted;
    const line = {
      requestId: this.#call.id,
      method: this.#call.method,
      caller: this.#call.caller,
      token: caller.token,
      resource: this.#resource,
      binding: this.#rights?.binding,
      outcome: error?.reason ?? 'OK',
      durationMs: Math.round((monotonicNow() - startedAt) * 1000) / 1000,
    };
    if (error?.reason === 'INTERNAL') log.error({ ...line, err: error.cause }, 'call failed');
    else if (error?.cause !== undefined)
      log.warn({ ...line, cause: String(error.cause) }, 'call failed');
    else log.info(line, 'call');
  }
}
