/**
 * What the headers of a request say of the call, before anything of it is read.
 *
 * Invariants:
 * - what gRPC, or a limit, does not allow is refused here with a reason, so that grpc-js and HTTP/2
 *   have nothing left to refuse without one;
 * - of the headers only those in {@link FORWARDED} go further, the content type in the spelling
 *   that grpc-js knows; a bearer token ends here.
 * Knows no method.
 */
import type { IncomingHttpHeaders } from 'node:http2';
import { KeywardError } from '../../errors.ts';
import type { Refusal } from '../transport/admission.ts';

/** What the headers of one call may be. */
export interface HeaderLimits {
  /** The header list of one call, as HTTP/2 counts it. */
  readonly maxHeaderBytes: number;
  /** How many headers may be in it. */
  readonly maxHeaders: number;
}

/** What a request says of itself. */
export interface RequestHeaders {
  readonly headers: IncomingHttpHeaders;
  readonly path: string;
  /** Every value of `authorization`: Node keeps the first of several and says nothing. */
  readonly authorizations: readonly string[];
  /** How many headers came. */
  readonly count: number;
}

/**
 * How a call's id gets through grpc-js to its handler; what a client sends under this name is
 * dropped.
 */
export const CALL_HEADER = 'keyward-call';

const FORWARDED = [':path', ':authority', 'te'] as const;
/** gRPC's own content types: `+json` and grpc-web are something else. */
export const CONTENT_TYPE = /^application\/grpc(\+proto)?\s*(;|$)/i;
const TIMEOUT = /^(\d{1,8})([HMSmun])$/;
const UNIT_MS: Readonly<Record<string, number>> = {
  H: 3.6e6,
  M: 6e4,
  S: 1e3,
  m: 1,
  u: 1e-3,
  n: 1e-6,
};

/**
 * Reads what Node gives of a request's headers: `rawHeaders` are names and values in turns, as they
 * came.
 */
export function readHeaders(
  headers: IncomingHttpHeaders,
  rawHeaders: readonly string[],
): RequestHeaders {
  return {
    headers,
    path: String(headers[':path']),
    authorizations: valuesOf('authorization', rawHeaders),
    count: rawHeaders.length / 2,
  };
}

/** Returns why a call with these headers goes no further; undefined if it may. */
export function refusalOf(
  { headers, count }: RequestHeaders,
  { maxHeaderBytes, maxHeaders }: HeaderLimits,
): Refusal | undefined {
  if (headers[':method'] !== 'POST')
    return malformed('cannot read the request: gRPC calls use POST', 405);
  if (!CONTENT_TYPE.test(headers['content-type'] ?? ''))
    return malformed('cannot read the request: its content-type must be application/grpc', 415);
  if (headerBytes(headers) > maxHeaderBytes)
    return tooLarge(
      'cannot accept the call: its headers are larger than the server takes',
      maxHeaderBytes,
    );
  if (count > maxHeaders)
    return tooLarge(
      'cannot accept the call: it has more headers than the server takes',
      maxHeaders,
    );
  // grpc-js inflates every message of a frame at once, before it has counted them: 16 KiB become
  // gigabytes.
  if ((headers['grpc-encoding'] ?? 'identity') !== 'identity')
    return { error: new KeywardError('COMPRESSION_NOT_SUPPORTED') };
  const timeout = headers['grpc-timeout'];
  if (timeout !== undefined && !TIMEOUT.test(String(timeout)))
    return malformed('cannot read the request: grpc-timeout must be up to eight digits and a unit');
  if (/^0+\D/.test(String(timeout))) return { error: new KeywardError('DEADLINE_EXCEEDED') };
  return undefined;
}

/**
 * Returns the time that the caller gives the call, in milliseconds; Infinity where it gives none.
 */
export function timeoutMs(headers: IncomingHttpHeaders): number {
  const [, amount, unit = ''] = TIMEOUT.exec(String(headers['grpc-timeout'])) ?? [];
  return Number(amount ?? Infinity) * (UNIT_MS[unit] ?? 1);
}

/** Returns the headers that grpc-js gets to see of the call with this id. */
export function forwarded(headers: IncomingHttpHeaders, id: string): IncomingHttpHeaders {
  const kept: Record<string, string | string[] | undefined> = {
    'content-type': 'application/grpc',
    [CALL_HEADER]: id,
  };
  for (const name of FORWARDED) if (headers[name] !== undefined) kept[name] = headers[name];
  return kept;
}

function malformed(message: string, httpStatus = 200): Refusal {
  return { error: new KeywardError('MALFORMED_REQUEST', { message }), httpStatus };
}

function tooLarge(message: string, limit: number): Refusal {
  const metadata = { limit: String(limit) };
  return { error: new KeywardError('MESSAGE_TOO_LARGE', { message, metadata }), httpStatus: 431 };
}

function valuesOf(name: string, rawHeaders: readonly string[]): string[] {
  return rawHeaders.filter((_, index) => index % 2 === 1 && rawHeaders[index - 1] === name);
}

/** With 32 bytes for each header (RFC 9113, 6.5.2). */
function headerBytes(headers: IncomingHttpHeaders): number {
  let bytes = 0;
  for (const name in headers) bytes += name.length + String(headers[name]).length + 32;
  return bytes;
}
