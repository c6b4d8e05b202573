/**
 * Errors on the wire: every failure as a gRPC status with google.rpc.Status in its trailers.
 *
 * ErrorInfo always (reason, domain `keyward`, metadata), BadRequest where fields are to blame, RetryInfo where a retry
 * helps, RequestInfo with the call's id. Whatever isn't a KeywardError is INTERNAL and says nothing but that id.
 */
import { Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { KeywardError, REASONS } from '../errors.ts';
import { serialize } from './proto.ts';

const DOMAIN = 'keyward';
const DETAILS_TRAILER = 'grpc-status-details-bin';

/** Whatever was thrown, as a KeywardError. */
export function toKeywardError(error: unknown): KeywardError {
  return error instanceof KeywardError ? error : new KeywardError('INTERNAL', { cause: error });
}

/** The error as grpc-js sends it. */
export function toServiceError(error: KeywardError, requestId: string): ServiceError {
  const reason: { status: keyof typeof status; retryAfterMs?: number } = REASONS[error.reason];
  const code = status[reason.status];
  const details = [any('ErrorInfo', { reason: error.reason, domain: DOMAIN, metadata: error.metadata })];
  if (error.fields.length > 0) details.push(any('BadRequest', { fieldViolations: error.fields }));
  if (reason.retryAfterMs !== undefined) {
    const { retryAfterMs } = reason;
    const retryDelay = { seconds: Math.floor(retryAfterMs / 1000), nanos: (retryAfterMs % 1000) * 1e6 };
    details.push(any('RetryInfo', { retryDelay }));
  }
  details.push(any('RequestInfo', { requestId }));
  const metadata = new Metadata();
  metadata.set(DETAILS_TRAILER, serialize('google.rpc.Status', { code, message: error.message, details }));
  return Object.assign(new Error(error.message), { code, details: error.message, metadata });
}

function any(type: string, message: object): { readonly type_url: string; readonly value: Buffer } {
  return {
    // protobufjs brings its own google.protobuf.Any, whose fields keep their case.
    type_url: `type.googleapis.com/google.rpc.${type}`,
    value: serialize(`google.rpc.${type}`, message),
  };
}
