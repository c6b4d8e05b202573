/**
 * Errors as Connect's protocol has them: a code in words, a message, and the same details that gRPC
 * has in its trailers.
 */
import { type KeywardError, REASONS } from '../../errors.ts';
import { type NamedCall, toStatus } from '../contract/status.ts';
import type { JsonCodec } from './codec.ts';

/** gRPC's names of codes, each with Connect's name and HTTP status. */
const CODES = {
  CANCELLED: ['canceled', 499],
  INVALID_ARGUMENT: ['invalid_argument', 400],
  DEADLINE_EXCEEDED: ['deadline_exceeded', 504],
  NOT_FOUND: ['not_found', 404],
  ALREADY_EXISTS: ['already_exists', 409],
  PERMISSION_DENIED: ['permission_denied', 403],
  RESOURCE_EXHAUSTED: ['resource_exhausted', 429],
  FAILED_PRECONDITION: ['failed_precondition', 400],
  ABORTED: ['aborted', 409],
  UNIMPLEMENTED: ['unimplemented', 501],
  INTERNAL: ['internal', 500],
  UNAVAILABLE: ['unavailable', 503],
  DATA_LOSS: ['data_loss', 500],
  UNAUTHENTICATED: ['unauthenticated', 401],
} as const satisfies Record<(typeof REASONS)[keyof typeof REASONS]['status'], [string, number]>;

/** Returns the HTTP status of an error. */
export function httpStatusOf({ reason }: KeywardError): number {
  return CODES[REASONS[reason].status][1];
}

/** Returns an error as Connect's JSON; `call` is what failed. */
export function errorJson(error: KeywardError, call: NamedCall, codec: JsonCodec): object {
  const { message, details } = toStatus(error, call);
  return {
    code: CODES[REASONS[error.reason].status][0],
    message,
    details: details.map(({ type_url, value }) => {
      const type = type_url.slice(type_url.lastIndexOf('/') + 1);
      const unpadded = value.toString('base64').replace(/=+$/, '');
      return { type, value: unpadded, debug: codec.describe(type, value) };
    }),
  };
}
