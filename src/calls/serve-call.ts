/**
 * The one wrapper round every call: decoding, validation, authorization, the tenant's quota of
 * calls, the handler, the deadline, encoding, the log line, the error.
 *
 * Invariants: nothing is done for a caller who hasn't got what the method needs, nor counted
 * against the tenant, and a stream ends soon after he hasn't any more; what is refused is recorded
 * before the answer leaves; it never throws and its promise never rejects, since grpc-js lets a
 * rejecting handler take the process down, and answers UNKNOWN for a throwing one; every call is
 * answered once, at its deadline at the latest; every call leaves one log line, with no payload and
 * no context. The bytes of request and answer are zeroed when both are done with. Knows no method.
 */
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import type {
  Metadata,
  ServerUnaryCall,
  ServerWritableStream,
  ServiceError,
  sendUnaryData,
  UntypedHandleCall,
} from '@grpc/grpc-js';
import type { Logger } from 'pino';
import type { Rights } from '../access/access.ts';
import type { Caller } from '../access/identity.ts';
import { isOfSystem } from '../access/permissions.ts';
import { type AuditNotes, type Call, millisecondsLeft, monotonicNow } from '../call.ts';
import { KeywardError } from '../errors.ts';
import { validate } from '../faces/contract/fields.ts';
import type { RequestScanner } from '../faces/contract/request-scan.ts';
import type { AdmittedCall } from '../faces/grpc/admission.ts';
import { toKeywardError, toServiceError } from '../faces/grpc/status.ts';
import { addDetail, noteAnswer, noteRights, notesOf, type Recording, record } from './audit.ts';
import { authorize } from './authorization.ts';
import { idempotencyOf } from './idempotency.ts';
import {
  ANY_CALLER,
  type AuthorizedCall,
  type MethodRow,
  type Services,
  type StreamRow,
} from './operation.ts';

/** What the wrapper needs of the server. */
export interface Serving {
  readonly services: Services;
  readonly recording: Recording;
  readonly log: Logger;
  /** The call as it was let in; undefined for one that was not. */
  readonly admitted: (rpc: { readonly metadata: Metadata }) => AdmittedCall | undefined;
  /** Aborted when streams are to end, because the server does. */
  readonly stopping: AbortSignal;
}

/** A method of the contract, and how its messages look on the wire. */
export interface ServedMethod<Row = MethodRow<unknown, object> | StreamRow<unknown, object>> {
  /** As `keyward.v1.KeyService/CreateKey`. */
  readonly name: string;
  readonly row: Row;
  readonly decode: (bytes: Buffer) => object;
  /**
   * Looks at requests before they are decoded, where they may be larger than {@link
   * DEFAULT_REQUEST_BYTES}.
   */
  readonly scanner?: Pick<RequestScanner, 'addresseeOf'> | undefined;
  readonly encode: (message: object) => Buffer;
}

/**
 * The largest request of a method that has no limit of its own: 64 KiB of payload, two contexts and
 * names, with room. Decoding a map takes 100 times as long as its bytes take to arrive, so no
 * method takes more than it needs.
 */
export const DEFAULT_REQUEST_BYTES = 131_072;
/**
 * How often a stream's caller is asked for his rights again: a revocation that was heard of has
 * ended it by then.
 */
const REAUTHORIZE_MS = 1_000;

/** The grpc-js handler of a method. */
export function serveCall(serving: Serving, method: ServedMethod): UntypedHandleCall {
  const { row } = method;
  if ('stream' in row) {
    const streamed = { ...method, row };
    return (rpc: ServerWritableStream<Buffer, Buffer>) =>
      begin(serving, streamed, rpc, streamOf(serving, streamed, rpc));
  }
  const unary = { ...method, row };
  return (rpc: ServerUnaryCall<Buffer, Buffer>, callback: sendUnaryData<Buffer>) =>
    begin(serving, unary, rpc, answerOf(serving, unary, callback));
}

/** How far a call is, as a stream has to know. */
interface Progress {
  isOver(): boolean;
  /**
   * To be awaited before the first answer: there is a record of it then. Throws AUDIT_UNAVAILABLE.
   */
  begins(): Promise<void>;
}

/** How a call is answered. */
interface Answering {
  /** Does what was asked for. Returns the answer, or null if it was sent bit by bit. */
  respond(call: AuthorizedCall, request: unknown, progress: Progress): Promise<Buffer | null>;
  /** The last word. */
  finish(error: ServiceError | null, answer: Buffer | null): void;
  /** Of a stream: aborted when it is to end before its time. */
  readonly ended?: AbortSignal;
}

function answerOf(
  { services }: Serving,
  { row, encode }: ServedMethod<MethodRow<unknown, object>>,
  callback: sendUnaryData<Buffer>,
): Answering {
  return {
    respond: async (call, request) => {
      const message = await row.handle(services, call, request);
      noteAnswer(call, message);
      return encode(message);
    },
    finish: callback,
  };
}

function streamOf(
  { services, stopping }: Serving,
  { row, encode }: ServedMethod<StreamRow<unknown, object>>,
  rpc: ServerWritableStream<Buffer, Buffer>,
): Answering {
  return {
    ended: stopping,
    respond: async (call, request, { isOver, begins }) => {
      for await (const message of row.stream(services, call, request)) {
        await begins();
        if (isOver()) break;
        // A reader that is slower than what there is to tell is waited for, unless it goes away.
        if (!rpc.write(encode(message)))
          await Promise.race([once(rpc, 'drain'), once(rpc, 'cancelled')]);
      }
      return null;
    },
    finish: (error) => {
      if (error) rpc.emit('error', error);
      else rpc.end();
    },
  };
}

type Rpc = ServerUnaryCall<Buffer, Buffer> | ServerWritableStream<Buffer, Buffer>;

function begin(serving: Serving, method: ServedMethod, rpc: Rpc, answering: Answering): void {
  const admitted = serving.admitted(rpc);
  if (admitted === undefined) {
    serving.log.error({ method: method.name }, 'a call that was not let in');
    answering.finish(toServiceError(new KeywardError('INTERNAL'), randomUUID()), null);
    return;
  }
  new Execution(serving, method, rpc, answering, admitted).run();
}

/** One call, from its whole request to its last word. */
class Execution {
  readonly #serving: Serving;
  readonly #method: ServedMethod;
  readonly #rpc: Rpc;
  readonly #answering: Answering;
  readonly #startedAt: number;
  readonly #admitted: AdmittedCall;
  readonly #release: () => void;
  readonly #audit: AuditNotes;
  readonly #call: { -readonly [Field in keyof Call]: Call[Field] };
  #resource: string | undefined;
  #rights: Rights | undefined;
  #reauthorizing: NodeJS.Timeout | undefined;
  #request: object | undefined;
  #isAnswered = false;

  constructor(
    serving: Serving,
    method: ServedMethod,
    rpc: Rpc,
    answering: Answering,
    admitted: AdmittedCall,
  ) {
    this.#serving = serving;
    this.#method = method;
    this.#rpc = rpc;
    this.#answering = answering;
    const { id, caller, deadline } = admitted;
    this.#admitted = admitted;
    this.#startedAt = admitted.startedAt;
    this.#release = admitted.hold();
    const audit = notesOf(admitted, serving.recording.replica);
    this.#call = { id, method: method.name, caller: caller.name, deadline, audit };
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
    // grpc-js says so at the end of every stream, too, where an error with its stack would cost 3
    // µs for nothing.
    this.#rpc.once('cancelled', () => {
      if (!this.#isAnswered) this.#endEarly(new KeywardError('CALL_CANCELLED'));
    });
    const { ended } = this.#answering;
    const stop = () => this.#endEarly(new KeywardError('SERVER_STOPPING'));
    ended?.addEventListener('abort', stop, { once: true });
    this.#response()
      .then(
        (response) => this.#answer(undefined, response),
        (error: unknown) => this.#fail(error),
      )
      .finally(() => {
        clearTimeout(timer);
        clearInterval(this.#reauthorizing);
        ended?.removeEventListener('abort', stop);
        this.#rpc.request.fill(0);
        this.#release();
      });
  }

  #endEarly(error: unknown): void {
    if (this.#isAnswered) return;
    // Whatever still works for the call sees that its time is up, and begins nothing more.
    this.#call.deadline = Math.min(this.#call.deadline, monotonicNow());
    void this.#fail(error);
  }

  async #response(): Promise<Buffer | null> {
    const { row } = this.#method;
    if (this.#rpc.request.length > DEFAULT_REQUEST_BYTES) await this.#admitLarge();
    const request = validate(row.request, this.#decoded());
    this.#resource = row.resource(request);
    this.#request = request as object;
    const idempotency = idempotencyOf(request);
    if (idempotency !== undefined) this.#call.idempotency = idempotency;
    const rights = await this.#authorize(request);
    await this.#count(request);
    const call = Object.assign(this.#call, { rights });
    try {
      return await this.#answering.respond(call, request, {
        isOver: () => this.#isAnswered,
        begins: () => this.#begins(),
      });
    } catch (error) {
      // An item that was denied doesn't make the batch fail; what fails after a denial, fails for
      // it.
      if (rights.denials.length > 0) this.#audit.decision = 'denied';
      throw error;
    } finally {
      noteRights(this.#audit, rights);
    }
  }

  /** The caller's rights, which suffice. A stream's are asked for again while it is open. */
  async #authorize(request: unknown): Promise<Rights> {
    const rights = await this.#authorized(this.#admitted.caller, request);
    this.#rights = rights;
    if (this.#answering.ended !== undefined) {
      const again = async () => this.#authorized(await this.#admitted.identify(), request);
      const end = (error: unknown) => this.#endEarly(error);
      this.#reauthorizing = setInterval(() => void again().catch(end), REAUTHORIZE_MS);
    }
    return rights;
  }

  /** The caller's rights, which suffice; that they don't is recorded before it is thrown. */
  async #authorized(caller: Caller, request: unknown): Promise<Rights> {
    const { row } = this.#method;
    try {
      const rights = await authorize(this.#serving.services.access, row, caller, request);
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
  async #count(request: unknown): Promise<void> {
    const { row } = this.#method;
    if (row.permission === ANY_CALLER || isOfSystem(row.permission)) return;
    const { quotas } = this.#serving.services;
    await quotas.takeCalls(row.target(request).tenant, row.calls?.(request) ?? 1);
  }

  /**
   * Refuses a large request before it is decoded: for what it is, or because its caller has no
   * right to it.
   */
  async #admitLarge(): Promise<void> {
    const { row, scanner } = this.#method;
    const { request: bytes } = this.#rpc;
    const limit = row.large?.maxBytes ?? DEFAULT_REQUEST_BYTES;
    if (row.large === undefined || scanner === undefined || bytes.length > limit)
      throw new KeywardError('MESSAGE_TOO_LARGE', { metadata: { limit: String(limit) } });
    const request = validate(row.large.addressee, { parent: scanner.addresseeOf(bytes) });
    this.#resource = row.resource(request);
    await this.#authorized(this.#admitted.caller, request);
  }

  #decoded(): object {
    try {
      const { request: bytes } = this.#rpc;
      return this.#admitted.decode(bytes.length, () => this.#method.decode(bytes));
    } catch (error) {
      throw error instanceof KeywardError ? error : new KeywardError('MALFORMED_REQUEST');
    }
  }

  /** A stream is on record before its first answer, as what was well so far. */
  async #begins(): Promise<void> {
    if (this.#audit.isWritten || this.#isAnswered) return;
    const refused = await this.#record(undefined);
    if (refused !== undefined) throw refused;
    this.#audit.isWritten = true;
  }

  #record(error: KeywardError | undefined): Promise<KeywardError | undefined> {
    const { recording } = this.#serving;
    return record(recording, this.#call, {
      request: this.#request,
      resource: this.#resource ?? '',
      error,
    });
  }

  #fail(error: unknown): Promise<void> {
    return this.#answer(toKeywardError(error), null);
  }

  /** Once. Never rejects. */
  async #answer(outcome: KeywardError | undefined, result: Buffer | null): Promise<void> {
    if (this.#isAnswered) return;
    this.#isAnswered = true;
    const error = await this.#record(outcome);
    const response = error === undefined ? result : null;
    this.#attempt('its log line can not be written', () => this.#writeLogLine(error));
    this.#attempt('it can not be answered', () => {
      if (!this.#rpc.cancelled)
        this.#answering.finish(error ? toServiceError(error, this.#call.id) : null, response);
    });
    // grpc-js has copied it into the frame that it sends.
    result?.fill(0);
  }

  /** What fails here is the call's last word; its stream is closed by the deadline. */
  #attempt(failure: string, action: () => void): void {
    try {
      action();
    } catch (err) {
      this.#serving.log.error({ requestId: this.#call.id, err }, `a call is over and ${failure}`);
    }
  }

  #writeLogLine(error: KeywardError | undefined): void {
    const { log } = this.#serving;
    const line = {
      requestId: this.#call.id,
      method: this.#call.method,
      caller: this.#call.caller,
      token: this.#admitted.caller.token,
      resource: this.#resource,
      binding: this.#rights?.binding,
      outcome: error?.reason ?? 'OK',
      durationMs: Math.round((monotonicNow() - this.#startedAt) * 1000) / 1000,
    };
    if (error?.reason === 'INTERNAL') log.error({ ...line, err: error.cause }, 'call failed');
    else if (error?.cause !== undefined)
      log.warn({ ...line, cause: String(error.cause) }, 'call failed');
    else log.info(line, 'call');
  }
}
