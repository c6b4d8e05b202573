/**
 * Errors as google.rpc.Status, which carries them in the contract's messages and beside them.
 *
 * ErrorInfo always (reason, domain `keyward`, metadata), BadRequest where fields are to blame,
 * RetryInfo where a retry helps, RequestInfo with the call's id and its trace's. Whatever isn't a
 * KeywardError is INTERNAL and says nothing but those ids.
 */
import { status } from '@grpc/grpc-js';
import { type KeywardError, REASONS } from '../../errors.ts';
import type { TraceContext } from '../../signals/trace-context.ts';
import { serialize } from './proto.ts';

const DOMAIN = 'keyward';

/** google.rpc.Status. */
export interface Status {
  readonly code: status;
  readonly message: string;
  readonly details: AnyMessage[];
}

/** A call, as its errors name it. */
export interface NamedCall {
  readonly id: string;
  readonly trace?: TraceContext | undefined;
}

/** google.protobuf.Any: protobufjs brings its own, whose fields keep their case. */
interface AnyMessage {
  readonly type_url: string;
  readonly value: Buffer;
}

/** The error as google.rpc.Status: for a call's trailer, and for an item of a batch. */
export function toStatus(error: KeywardError, { id, trace }: NamedCall): Status {
  const code = status[REASONS[error.reason].status];
  // A lone surrogate can't be sent.
  const message = error.message.toWellFormed();
  const details = [
    any('ErrorInfo', { reason: error.reason, domain: DOMAIN, metadata: error.metadata }),
  ];
  if (error.fields.length > 0) details.push(any('BadRequest', { fieldViolations: error.fields }));
  const { retryAfterMs } = error;
  if (retryAfterMs !== undefined) {
    const retryDelay = {
      seconds: Math.floor(retryAfterMs / 1000),
      nanos: (retryAfterMs % 1000) * 1e6,
    };
    details.push(any('RetryInfo', { retryDelay }));
  }
  details.push(any('RequestInfo', { requestId: id, servingData: trace?.traceId }));
  return { code, message, details };
}

/**
 * Returns what the header `WWW-Authenticate` has where a caller must sign in again (RFC 9470, 3);
 * undefined for any other error.
 */
export function challengeOf({ reason, metadata }: KeywardError): string | undefined {
  if (reason !== 'STEP_UP_REQUIRED') return undefined;
  const named = ['acr_values', 'max_age'].flatMap((name) =>
    metadata[name] === undefined ? [] : [`${name}="${metadata[name]}"`],
  );
  return ['Bearer error="insufficient_user_authentication"', ...named].join(', ');
}

function any(type: string, message: object): AnyMessage {
  return {
    type_url: `type.googleapis.com/google.rpc.${type}`,
    value: serialize(`google.rpc.${type}`, message),
  };
}
