/**
 * Errors on gRPC's wire: every failure as a gRPC status with google.rpc.Status in its trailers.
 *
 * What grpc-js answers by itself has a reason of ours.
 */
import type { OutgoingHttpHeaders } from 'node:http2';
import { Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { KeywardError, type Reason, SERVER_BUSY } from '../../errors.ts';
import { serialize } from '../contract/proto.ts';
import { challengeOf, type NamedCall, toStatus } from '../contract/status.ts';
import { REQUEST_ID_HEADER } from '../transport/arriving-call.ts';

const DETAILS_TRAILER = 'grpc-status-details-bin';

/** The error as grpc-js sends it. */
export function toServiceError(error: KeywardError, call: NamedCall): ServiceError {
  const message = toStatus(error, call);
  const metadata = new Metadata();
  metadata.set(DETAILS_TRAILER, serialize('google.rpc.Status', message));
  const challenge = challengeOf(error);
  if (challenge !== undefined) metadata.set('www-authenticate', challenge);
  return Object.assign(new Error(message.message), {
    code: message.code,
    details: message.message,
    metadata,
  });
}

/** The error as an answer of nothing but headers, for a call that grpc-js doesn't get to see. */
export function errorHeaders(error: KeywardError, call: NamedCall): OutgoingHttpHeaders {
  if (error === SERVER_BUSY && call.trace === undefined) return busyHeaders(call.id);
  return encodedHeaders(error, call);
}

function encodedHeaders(error: KeywardError, call: NamedCall): OutgoingHttpHeaders {
  const message = toStatus(error, call);
  const challenge = challengeOf(error);
  return {
    ':status': 200,
    'content-type': 'application/grpc+proto',
    'grpc-status': message.code,
    'grpc-message': encodeURI(message.message),
    'grpc-accept-encoding': 'identity',
    [REQUEST_ID_HEADER]: call.id,
    [DETAILS_TRAILER]: serialize('google.rpc.Status', message).toString('base64'),
    ...(challenge !== undefined && { 'www-authenticate': challenge }),
  };
}

/** As long as every call's id, so that it can give its place to one. */
const NO_ID = '00000000-0000-0000-0000-000000000000';
const BUSY_HEADERS = encodedHeaders(SERVER_BUSY, { id: NO_ID });
const BUSY_DETAILS = Buffer.from(String(BUSY_HEADERS[DETAILS_TRAILER]), 'base64');
const BUSY_ID = BUSY_DETAILS.indexOf(NO_ID);

/** What `encodedHeaders` returns for {@link SERVER_BUSY}, encoded once but for the call's id. */
function busyHeaders(id: string): OutgoingHttpHeaders {
  BUSY_DETAILS.write(id, BUSY_ID, 'latin1');
  return {
    ...BUSY_HEADERS,
    [REQUEST_ID_HEADER]: id,
    [DETAILS_TRAILER]: BUSY_DETAILS.toString('base64'),
  };
}

/** What is known of a call that grpc-js answers by itself. */
export interface BareCall {
  /** The largest message that any method takes. */
  readonly maxMessageBytes: number;
  /** Whether its request ended within a message. */
  readonly isPartial: boolean;
}

/**
 * Returns what an answer of grpc-js's own means; undefined if it is no error, or has details. Its
 * texts are all there is to go by.
 */
export function bareError(headers: OutgoingHttpHeaders, call: BareCall): KeywardError | undefined {
  if (headers['grpc-status'] === undefined || headers[DETAILS_TRAILER] !== undefined)
    return undefined;
  const text = String(headers['grpc-message']);
  const reason = bareReason(Number(headers['grpc-status']), text);
  switch (reason) {
    case undefined:
      return undefined;
    case 'MESSAGE_TOO_LARGE':
      return new KeywardError(reason, { metadata: { limit: String(call.maxMessageBytes) } });
    case 'MESSAGE_COUNT_WRONG':
      return new KeywardError(call.isPartial ? 'MALFORMED_REQUEST' : reason);
    default:
      return new KeywardError(reason, reason === 'INTERNAL' ? { cause: text } : {});
  }
}

function bareReason(code: number, text: string): Reason | undefined {
  switch (code) {
    case status.RESOURCE_EXHAUSTED:
      return 'MESSAGE_TOO_LARGE';
    case status.UNIMPLEMENTED:
      return /no%20request|second%20request/.test(text) ? 'MESSAGE_COUNT_WRONG' : 'METHOD_UNKNOWN';
    case status.INTERNAL:
      return /decompress|deserializing%20request/.test(text) ? 'MALFORMED_REQUEST' : 'INTERNAL';
    case status.UNKNOWN:
      return 'INTERNAL';
    case status.DEADLINE_EXCEEDED:
      return 'DEADLINE_EXCEEDED';
    default:
      return undefined;
  }
}
