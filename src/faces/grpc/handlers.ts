/**
 * Methods as grpc-js's handlers: every call goes to the wrapper round all of them, and its answer
 * to grpc-js.
 *
 * Invariant: no handler throws and no promise of one rejects, since grpc-js lets a rejecting
 * handler take the process down, and answers UNKNOWN for a throwing one. Knows no method.
 */
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import type {
  Metadata,
  ServerUnaryCall,
  ServerWritableStream,
  sendUnaryData,
  UntypedHandleCall,
} from '@grpc/grpc-js';
import type { AdmittedCall } from '../../calls/arrivals.ts';
import { type Exchange, type Serving, serveCall } from '../../calls/serve-call.ts';
import { KeywardError } from '../../errors.ts';
import { messageExchange, type ServedMethod } from '../contract/methods.ts';
import type { NamedCall } from '../contract/status.ts';
import { toServiceError } from './status.ts';

type UnaryCall = ServerUnaryCall<Buffer, Buffer>;
type StreamCall = ServerWritableStream<Buffer, Buffer>;

/** How a call is answered. */
type Answering = Pick<Exchange<unknown, unknown>, 'send'> & {
  /** Says the last word about the call. */
  finish(error: KeywardError | undefined, answer: Buffer | null, call: NamedCall): void;
};

/** Returns the call as it was let in; undefined for one that was not. */
export type AdmittedOf = (rpc: { readonly metadata: Metadata }) => AdmittedCall | undefined;

/** Returns the grpc-js handler of a method. */
export function handlerOf(
  serving: Serving,
  admittedOf: AdmittedOf,
  method: ServedMethod,
): UntypedHandleCall {
  const serve = (rpc: UnaryCall | StreamCall, { send, finish }: Answering) => {
    const admitted = admittedOf(rpc);
    if (admitted === undefined) {
      serving.log.error({ method: method.name }, 'cannot perform a call: it was not admitted');
      finish(new KeywardError('INTERNAL'), null, { id: randomUUID() });
      return;
    }
    serveCall(serving, {
      ...messageExchange(method, admitted, rpc.request),
      send,
      finish: (error, answer) => {
        if (!rpc.cancelled) finish(error, answer, admitted);
      },
      onCancelled: (listener) => rpc.once('cancelled', listener),
    });
  };
  if ('stream' in method.rpc.operation)
    return (rpc: StreamCall) => serve(rpc, answeringByStream(rpc));
  return (rpc: UnaryCall, callback: sendUnaryData<Buffer>) => serve(rpc, answeringBy(callback));
}

function answeringBy(callback: sendUnaryData<Buffer>): Answering {
  return {
    send: () => undefined,
    finish: (error, answer, call) => callback(error ? toServiceError(error, call) : null, answer),
  };
}

function answeringByStream(rpc: StreamCall): Answering {
  return {
    // A reader that is slower than what there is to say is waited for, unless it goes away.
    send: (answer) =>
      rpc.write(answer)
        ? undefined
        : Promise.race([once(rpc, 'drain'), once(rpc, 'cancelled')]).then(() => {}),
    finish: (error, _, call) => {
      if (error) rpc.emit('error', toServiceError(error, call));
      else rpc.end();
    },
  };
}
