/**
 * The one wrapper round every call: decoding, validation, the handler, the deadline, encoding, the log line, the error.
 *
 * Invariants: it never throws and its promise never rejects, since grpc-js lets a rejecting handler take the process
 * down, and answers UNKNOWN for a throwing one; every call is answered once, at its deadline at the latest; every call
 * leaves one log line, with no payload and no context. The bytes of request and answer are zeroed when both are done
 * with. Knows no method.
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
import { type Call, millisecondsLeft, monotonicNow } from '../call.ts';
import { KeywardError } from '../errors.ts';
import type { Keyring } from '../keyring/keyring.ts';
import type { AdmittedCall } from './admission.ts';
import { hasTooManyFields } from './field-count.ts';
import { validate } from './fields.ts';
import { idempotencyOf } from './idempotency.ts';
import type { MethodRow, StreamRow } from './methods/row.ts';
import { toKeywardError, toServiceError } from './status.ts';

/** What the wrapper needs of the server. */
export interface Serving {
  readonly keyring: Keyring;
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
  readonly encode: (message: object) => Buffer;
}

/**
 * The largest request of a method that has no limit of its own: 64 KiB of payload, two contexts and names, with room.
 * Decoding a map takes 100 times as long as its bytes take to arrive, so no method takes more than it needs.
 */
export const DEFAULT_REQUEST_BYTES = 131_072;

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

/** How a call is answered. */
interface Answering {
  /** Does what was asked for. Returns the answer, or null if it was sent bit by bit. */
  respond(call: Call, request: unknown, isOver: () => boolean): Promise<Buffer | null>;
  /** The last word. */
  finish(error: ServiceError | null, answer: Buffer | null): void;
  /** Aborted when the call is to end before its time. */
  readonly ended?: AbortSignal;
}

function answerOf(
  { keyring }: Serving,
  { row, encode }: ServedMethod<MethodRow<unknown, object>>,
  callback: sendUnaryData<Buffer>,
): Answering {
  return {
    respond: async (call, request) => encode(await row.handle(keyring, call, request)),
    finish: callback,
  };
}

function streamOf(
  { keyring, stopping }: Serving,
  { row, encode }: ServedMethod<StreamRow<unknown, object>>,
  rpc: ServerWritableStream<Buffer, Buffer>,
): Answering {
  return {
    ended: stopping,
    respond: async (call, request, isOver) => {
      for await (const message of row.stream(keyring, call, request)) {
        if (isOver()) break;
        // A reader that is slower than what there is to tell is waited for, unless it goes away.
        if (!rpc.write(encode(message))) await Promise.race([once(rpc, 'drain'), once(rpc, 'cancelled')]);
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
  readonly #token: AdmittedCall['caller']['token'];
  readonly #release: () => void;
  readonly #call: { -readonly [Field in keyof Call]: Call[Field] };
  #resource: string | undefined;
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
    this.#startedAt = admitted.startedAt;
    this.#token = caller.token;
    this.#release = admitted.hold();
    this.#call = { id, method: method.name, caller: caller.name, deadline };
  }

  run(): void {
    const { deadline } = this.#call;
    // A watch may have none.
    const timer = Number.isFinite(deadline)
      ? setTimeout(() => this.#fail(new KeywardError('DEADLINE_EXCEEDED')), millisecondsLeft(deadline))
      : undefined;
    // grpc-js says so at the end of every stream, too.
    this.#rpc.once('cancelled', () => this.#endEarly('CALL_CANCELLED'));
    const { ended } = this.#answering;
    const stop = () => this.#endEarly('SERVER_STOPPING');
    ended?.addEventListener('abort', stop, { once: true });
    this.#response()
      .then(
        (response) => this.#answer(undefined, response),
        (error: unknown) => this.#fail(error),
      )
      .finally(() => {
        clearTimeout(timer);
        ended?.removeEventListener('abort', stop);
        this.#rpc.request.fill(0);
        this.#release();
      });
  }

  #endEarly(reason: 'CALL_CANCELLED' | 'SERVER_STOPPING'): void {
    if (this.#isAnswered) return;
    // Whatever still works for the call sees that its time is up, and begins nothing more.
    this.#call.deadline = Math.min(this.#call.deadline, monotonicNow());
    this.#fail(new KeywardError(reason));
  }

  async #response(): Promise<Buffer | null> {
    const { row } = this.#method;
    const request = validate(row.request, this.#decoded());
    this.#resource = row.resource(request);
    const idempotency = idempotencyOf(request);
    if (idempotency !== undefined) this.#call.idempotency = idempotency;
    return this.#answering.respond(this.#call, request, () => this.#isAnswered);
  }

  #decoded(): object {
    const { row, decode } = this.#method;
    const { length } = this.#rpc.request;
    const limit = row.maxRequestBytes ?? DEFAULT_REQUEST_BYTES;
    if (length > limit) {
      throw new KeywardError('MESSAGE_TOO_LARGE', { metadata: { limit: String(limit) } });
    }
    if (length > DEFAULT_REQUEST_BYTES && hasTooManyFields(this.#rpc.request)) {
      throw new KeywardError('MESSAGE_TOO_LARGE', { message: 'The request has more fields than are taken.' });
    }
    try {
      return decode(this.#rpc.request);
    } catch {
      throw new KeywardError('MALFORMED_REQUEST');
    }
  }

  #fail(error: unknown): void {
    this.#answer(toKeywardError(error), null);
  }

  #answer(error: KeywardError | undefined, response: Buffer | null): void {
    if (this.#isAnswered) return;
    this.#isAnswered = true;
    this.#attempt('its log line can not be written', () => this.#writeLogLine(error));
    this.#attempt('it can not be answered', () => {
      if (!this.#rpc.cancelled)
        this.#answering.finish(error ? toServiceError(error, this.#call.id) : null, response);
    });
    // grpc-js has copied it into the frame that it sends.
    response?.fill(0);
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
      token: this.#token,
      resource: this.#resource,
      outcome: error?.reason ?? 'OK',
      durationMs: Math.round((monotonicNow() - this.#startedAt) * 1000) / 1000,
    };
    if (error?.reason === 'INTERNAL') log.error({ ...line, err: error.cause }, 'call failed');
    else if (error?.cause !== undefined) log.warn({ ...line, cause: String(error.cause) }, 'call failed');
    else log.info(line, 'call');
  }
}
