/**
 * Calls with one message each way, served on their HTTP/2 streams without grpc-js, which would take
 * a sixth of the server's time for them.
 *
 * Invariants:
 * - a request is one whole message, which is not compressed; anything else is refused with a
 *   reason, at the first byte that shows it;
 * - nothing of a call throws here, and no promise of one rejects.
 * Knows no method's meaning; how an answer looks is `call-stream.ts`'s.
 */
import type { AdmittedCall } from '../../calls/arrivals.ts';
import { type Serving, serveCall } from '../../calls/serve-call.ts';
import { KeywardError } from '../../errors.ts';
import { messageExchange, type ServedMethod } from '../contract/methods.ts';
import type { CallStream } from './call-stream.ts';
import { RequestMessage } from './request-message.ts';

/** A call, as far as it is served here. */
export type AnsweredCall = Pick<
  CallStream,
  'path' | 'isOver' | 'isAnswering' | 'onClose' | 'finish'
>;

/** What a request comes by. */
export interface RequestStream {
  readonly aborted: boolean;
  on(event: 'data', listener: (chunk: Buffer) => void): unknown;
  once(event: 'end', listener: () => void): unknown;
}

/** What is needed to serve calls. */
export interface UnaryCallsParts<Call> {
  readonly serving: Serving;
  /** Where calls were let in. */
  readonly admission: {
    take(call: Call): AdmittedCall | undefined;
    received(call: Call, bytes: number): void;
    turnOut(call: Call, error: KeywardError): void;
  };
  /** The largest message that any method takes, in bytes. */
  readonly maxMessageBytes: number;
}

/** Reads, serves and answers calls that have one message each way. */
export class UnaryCalls<Call extends AnsweredCall = CallStream> {
  readonly #parts: UnaryCallsParts<Call>;
  /** By path. */
  readonly #methods = new Map<string, ServedMethod>();

  constructor(parts: UnaryCallsParts<Call>) {
    this.#parts = parts;
  }

  /** Serves this method from now on. */
  add(method: ServedMethod): void {
    this.#methods.set(`/${method.name}`, method);
  }

  /** Serves a call that was let in. Returns false for one of a method that is not served here. */
  serve(call: Call, stream: RequestStream): boolean {
    const method = this.#methods.get(call.path);
    if (method === undefined) return false;
    const { admission, maxMessageBytes } = this.#parts;
    const request = new RequestMessage(maxMessageBytes);
    stream.on('data', (chunk) => {
      if (call.isOver || call.isAnswering) return;
      const refusal = request.add(chunk);
      if (refusal === undefined) admission.received(call, chunk.length);
      else admission.turnOut(call, refusal);
    });
    // A stream that was reset, or whose socket is gone, ends too: with half of its request.
    stream.once('end', () => {
      if (stream.aborted || call.isOver || call.isAnswering) return;
      const message = request.whole();
      if (Buffer.isBuffer(message)) this.#perform(call, method, message);
      else admission.turnOut(call, message);
    });
    return true;
  }

  #perform(call: Call, method: ServedMethod, message: Buffer): void {
    const { serving, admission } = this.#parts;
    const admitted = admission.take(call);
    if (admitted === undefined) {
      serving.log.error({ method: method.name }, 'cannot perform a call: it was not admitted');
      admission.turnOut(call, new KeywardError('INTERNAL'));
      return;
    }
    serveCall(serving, {
      ...messageExchange(method, admitted, message),
      send: () => undefined,
      finish: (error, answer) => call.finish(error, answer),
      onCancelled: (listener) => call.onClose(listener),
    });
  }
}
