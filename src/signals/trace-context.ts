/**
 * Trace context as callers bring it: W3C Trace Context's `traceparent` and `tracestate`.
 *
 * A context that is not written exactly as the recommendation has it counts as none, and fails no
 * call. What a caller brings is the caller's word: it names a trace, and decides nothing.
 */

/** Names a place in a trace. */
export interface TraceContext {
  /** 32 lower-case hexadecimal digits, not all zero. */
  readonly traceId: string;
  /** The span that what is done belongs to: 16 such digits. */
  readonly spanId: string;
  /** Whether the caller may record it. */
  readonly isSampled: boolean;
  /** `tracestate` as it came. */
  readonly state?: string | undefined;
}

/** Headers, by their names in lower case; several of one name are joined by a comma. */
type Headers = Readonly<Record<string, string | string[] | undefined>>;

/**
 * Version, trace id, parent id, flags; versions after 00 may have more after another dash
 * (Trace Context, 3.2 and 4).
 */
const TRACEPARENT =
  /^(?!ff)([\da-f]{2})-(?!0{32})([\da-f]{32})-(?!0{16})([\da-f]{16})-([\da-f]{2})(-.*)?$/;
const SAMPLED = 1;

/** Returns the trace context of a request; undefined where it brings none, or none that counts. */
export function readTraceContext(headers: Headers): TraceContext | undefined {
  const { traceparent, tracestate } = headers;
  if (typeof traceparent !== 'string') return undefined;
  const [, version, traceId, spanId, flags = '', rest] = TRACEPARENT.exec(traceparent) ?? [];
  if (traceId === undefined || spanId === undefined) return undefined;
  if (version === '00' && rest !== undefined) return undefined;
  const isSampled = (Number.parseInt(flags, 16) & SAMPLED) !== 0;
  return { traceId, spanId, isSampled, state: tracestate?.toString() };
}

/** Returns what lines of the log have of it. */
export function traceFields(
  trace: TraceContext | undefined,
): Pick<TraceContext, 'traceId' | 'spanId'> | undefined {
  return trace && { traceId: trace.traceId, spanId: trace.spanId };
}
