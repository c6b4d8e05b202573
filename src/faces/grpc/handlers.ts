/**
 * Methods with many answers as grpc-js's handlers: every call goes to the wrapper round all of
 * them, and its answers to grpc-js.
 *
 * Invariant: no handler throws and no promise of one rejects, since grpc-js lets a rejecting
 * handler take the process down, and answers UNKNOWN for a throwing one. Knows no method.
 */
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import type { handleServerStreamingCall, Metadata } from '@grpc/grpc-js';
import type { AdmittedCall } from '../../calls/arrivals.ts';
import { type Serving, serveCall } from '../../calls/serve-call.ts';
import { KeywardError } from '../../errors.ts';
import { messageExchange, type ServedMethod } from '../contract/methods.ts';
import { toServiceError } from './status.ts';

/** Returns the call as it was let in; undefined for one that was not. */
export type AdmittedOf = (rpc: { readonly metadata: Metadata }) => AdmittedCall | undefined;

/** Returns the grpc-js handler of a method that answers as often as there is something to say. */
export function handlerOf(
  serving: Serving,
  admittedOf: AdmittedOf,
  method: ServedMethod,
): handleServerStreamingCall<Buffer, Buffer> {
  return (rpc) => {
    const admitted = admittedOf(rpc);
    if (admitted === undefined) {
      serving.log.error({ method: method.name }, 'cannot perform a call: it was not admitted');
      rpc.emit('error', toServiceError(new KeywardError('INTERNAL'), { id: randomUUID() }));
      return;
    }
    serveCall(serving, {
      ...messageExchange(method, admitted, rpc.request),
      // A reader that is slower than what there is to say is waited for, unless it goes away.
      send: (answer) =>
        rpc.write(answer)
          ? undefined
          : Promise.race([once(rpc, 'drain'), once(rpc, 'cancelled')]).then(() => {}),
      finish: (error) => {
        if (rpc.cancelled) return;
        if (error) rpc.emit('error', toServiceError(error, admitted));
        else rpc.end();
      },
      onCancelled: (listener) => rpc.once('cancelled', listener),
    });
  };
}
