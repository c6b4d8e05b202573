/**
 * The one wrapper round every call: decoding, validation, the handler, the deadline, encoding, the log line, the error.
 *
 * Invariants: it never throws and its promise never rejects, since grpc-js lets a rejecting handler take the process
 * down, and answers UNKNOWN for a throwing one; every call is answered once, at its deadline at the latest; every call
 * leaves one log line, with no payload and no context. The bytes of request and answer are zeroed when both are done
 * with. Knows no method.
 */
import { randomUUID } from 'node:crypto';
import type { handleUnaryCall, ServerUnaryCall, sendUnaryData } from '@grpc/grpc-js';
import type { Logger } from 'pino';
import { type Call, millisecondsLeft, monotonicNow } from '../call.ts';
import { KeywardError } from '../errors.ts';
import type { Keyring } from '../keyring/keyring.ts';
import type { AdmittedCall } from './admission.ts';
import { hasTooManyFields } from './field-count.ts';
import { validate } from './fields.ts';
import { idempotencyOf } from './idempotency.ts';
import type { MethodRow } from './methods.ts';
import { toKeywardError, toServiceError } from './status.ts';

/** What the wrapper needs of the server. */
export interface Serving {
  readonly keyring: Keyring;
  readonly log: Logger;
  /** The call as it was let in; undefined for one that was not. */
  readonly admitted: (rpc: ServerUnaryCall<Buffer, Buffer>) => AdmittedCall | undefined;
}

/** A method of the contract, and how its messages look on the wire. */
export interface ServedMethod {
  /** As `keyward.v1.KeyService/CreateKey`. */
  readonly name: string;
  readonly row: MethodRow<unknown, object>;
  readonly decode: (bytes: Buffer) => object;
  readonly encode: (message: object) => Buffer;
}

/**
 * The largest request of a method that has no limit of its own: 64 KiB of payload, two contexts and names, with room.
 * Decoding a map takes 100 times as long as its bytes take to arrive, so no method takes more than it needs.
 */
export const DEFAULT_REQUEST_BYTES = 131_072;

/** The grpc-js handler of a method. */
export function serveCall(serving: Serving, method: ServedMethod): handleUnaryCall<Buffer, Buffer> {
  return (rpc, callback) => {
    const admitted = serving.admitted(rpc);
    if (admitted === undefined) {
      serving.log.error({ method: method.name }, 'a call that was not let in');
      callback(toServiceError(new KeywardError('INTERNAL'), randomUUID()));
      return;
    }
    new Execution(serving, method, rpc, callback, admitted).run();
  };
}

/** One call, from its whole request to its one answer. */
class Execution {
  readonly #serving: Serving;
  readonly #method: ServedMethod;
  readonly #rpc: ServerUnaryCall<Buffer, Buffer>;
  readonly #callback: sendUnaryData<Buffer>;
  readonly #startedAt: number;
  readonly #release: () => void;
  readonly #call: { -readonly [Field in keyof Call]: Call[Field] };
  #resource: string | undefined;
  #isAnswered = false;

  constructor(
    serving: Serving,
    method: ServedMethod,
    rpc: ServerUnaryCall<Buffer, Buffer>,
    callback: sendUnaryData<Buffer>,
    admitted: AdmittedCall,
  ) {
    this.#serving = serving;
    this.#method = method;
    this.#rpc = rpc;
    this.#callback = callback;
    const { id, caller, deadline } = admitted;
    this.#startedAt = admitted.startedAt;
    this.#release = admitted.hold();
    this.#call = { id, method: method.name, caller, deadline };
  }

  run(): void {
    const timer = setTimeout(
      () => this.#fail(new KeywardError('DEADLINE_EXCEEDED')),
      millisecondsLeft(this.#call.deadline),
    );
    this.#rpc.once('cancelled', () => {
      // grpc-js says so at the end of every stream.
      if (this.#isAnswered) return;
      // Whatever still works for the call sees that its time is up, and begins nothing more.
      this.#call.deadline = Math.min(this.#call.deadline, monotonicNow());
      this.#fail(new KeywardError('CALL_CANCELLED'));
    });
    this.#response()
      .then(
        (response) => this.#answer(undefined, response),
        (error: unknown) => this.#fail(error),
      )
      .finally(() => {
        clearTimeout(timer);
        this.#rpc.request.fill(0);
        this.#release();
      });
  }

  async #response(): Promise<Buffer> {
    const { row, encode } = this.#method;
    const request = validate(row.request, this.#decoded());
    this.#resource = row.resource(request);
    const idempotency = idempotencyOf(request);
    if (idempotency !== undefined) this.#call.idempotency = idempotency;
    return encode(await row.handle(this.#serving.keyring, this.#call, request));
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
      if (!this.#rpc.cancelled) this.#callback(error ? toServiceError(error, this.#call.id) : null, response);
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
      resource: this.#resource,
      outcome: error?.reason ?? 'OK',
      durationMs: Math.round((monotonicNow() - this.#startedAt) * 1000) / 1000,
    };
    if (error?.reason === 'INTERNAL') log.error({ ...line, err: error.cause }, 'call failed');
    else if (error?.cause !== undefined) log.warn({ ...line, cause: String(error.cause) }, 'call failed');
    else log.info(line, 'call');
  }
}
