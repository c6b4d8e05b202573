/**
 * What the headers of a request say of the call, before anything of it is read.
 *
 * Invariant: what Connect's protocol, or a limit, does not allow is refused here with a reason.
 */
import { KeywardError } from '../../errors.ts';
import type { Refusal } from '../transport/admission.ts';
import type { Wire } from './wire.ts';

/** What the headers of one call may be. */
export interface HeaderLimits {
  /** The header list of one call, as HTTP/2 counts it. */
  readonly maxHeaderBytes: number;
  /** How many headers may be in it. */
  readonly maxHeaders: number;
}

/** How the messages of a call are written. */
export interface Form {
  readonly isJson: boolean;
  /** Whether each message has an envelope, because there may be many. */
  readonly isStream: boolean;
}

const CONTENT_TYPE =
  /^application\/(connect\+)?(json|proto)[ \t]*(?:;[ \t]*charset[ \t]*=[ \t]*"?utf-8"?[ \t]*)?$/i;
const TIMEOUT = /^\d{1,10}$/;

/** Returns how a call's messages are written; undefined where its content type says nothing. */
export function formOf({ headers }: Pick<Wire, 'headers'>): Form | undefined {
  const found = CONTENT_TYPE.exec(headers['content-type'] ?? '');
  if (found === null) return undefined;
  return { isStream: found[1] !== undefined, isJson: found[2]?.toLowerCase() === 'json' };
}

/** Returns the content type of such messages. */
export function contentTypeOf({ isJson, isStream }: Form): string {
  return `application/${isStream ? 'connect+' : ''}${isJson ? 'json' : 'proto'}`;
}

/** Returns every value of a header: Node keeps one of several and says nothing. */
export function valuesOf(name: string, rawHeaders: readonly string[]): string[] {
  // HTTP/1.1 keeps the case of names.
  return rawHeaders.filter((_, at) => at % 2 === 1 && rawHeaders[at - 1]?.toLowerCase() === name);
}

/** Returns the time that the caller gives the call, in milliseconds; Infinity where none. */
export function timeoutMs({ headers }: Pick<Wire, 'headers'>): number {
  const given = headers['connect-timeout-ms'];
  return given === undefined ? Infinity : Number(given);
}

/** Returns why so many headers, or so large ones, go no further; undefined if they may. */
export function oversizeOf(
  { rawHeaders }: Pick<Wire, 'rawHeaders'>,
  { maxHeaderBytes, maxHeaders }: HeaderLimits,
): Refusal | undefined {
  if (headerBytes(rawHeaders) > maxHeaderBytes)
    return tooLarge('its headers are larger than the server takes', maxHeaderBytes);
  if (rawHeaders.length / 2 > maxHeaders)
    return tooLarge('it has more headers than the server takes', maxHeaders);
  return undefined;
}

/**
 * Returns why a call with these headers goes no further; undefined if it may. `method` is the
 * called one, if there is one of that name.
 */
export function refusalOf(
  wire: Pick<Wire, 'method' | 'headers' | 'rawHeaders'>,
  method: { readonly isStream: boolean } | undefined,
  limits: HeaderLimits,
): Refusal | undefined {
  const { headers } = wire;
  const oversize = oversizeOf(wire, limits);
  if (oversize !== undefined) return oversize;
  if (method === undefined) return { error: new KeywardError('METHOD_UNKNOWN'), httpStatus: 404 };
  if (wire.method !== 'POST') return malformed('calls use POST', 405);
  if (formOf(wire)?.isStream !== method.isStream) {
    const types = acceptedTypes(method.isStream);
    return malformed(`its content-type must be ${types.replace(', ', ' or ')}`, 415);
  }
  const encoding = headers[method.isStream ? 'connect-content-encoding' : 'content-encoding'];
  if ((encoding ?? 'identity') !== 'identity')
    return { error: new KeywardError('COMPRESSION_NOT_SUPPORTED') };
  if ((headers['connect-protocol-version'] ?? '1') !== '1')
    return malformed('connect-protocol-version must be 1');
  const timeout = headers['connect-timeout-ms'];
  if (timeout !== undefined && !TIMEOUT.test(String(timeout)))
    return malformed('connect-timeout-ms must be up to ten digits');
  if (Number(timeout) === 0) return { error: new KeywardError('DEADLINE_EXCEEDED') };
  return undefined;
}

/** Returns the content types that a method takes, as `accept-post` lists them. */
export function acceptedTypes(isStream: boolean): string {
  return [true, false].map((isJson) => contentTypeOf({ isStream, isJson })).join(', ');
}

function malformed(problem: string, httpStatus?: number): Refusal {
  const error = new KeywardError('MALFORMED_REQUEST', {
    message: `cannot read the request: ${problem}`,
  });
  return { error, ...(httpStatus !== undefined && { httpStatus }) };
}

function tooLarge(problem: string, limit: number): Refusal {
  const message = `cannot accept the call: ${problem}`;
  const metadata = { limit: String(limit) };
  return { error: new KeywardError('MESSAGE_TOO_LARGE', { message, metadata }), httpStatus: 431 };
}

/** As HTTP/2 counts them: with 32 bytes for each (RFC 9113, 6.5.2). */
function headerBytes(rawHeaders: readonly string[]): number {
  let bytes = 16 * rawHeaders.length;
  for (const text of rawHeaders) bytes += text.length;
  return bytes;
}
