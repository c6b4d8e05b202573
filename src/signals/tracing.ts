/**
 * Spans of calls and of what they wait for, made with OpenTelemetry's API.
 *
 * - No other module imports the API. Who keeps spans is an SDK that the operator loads before the
 *   service (docs/tracing.md); whether there is one is found out once, here, and without one
 *   nothing is made.
 * - Parts make spans only within one that is recorded: what the service does automatically has
 *   none, but for groups of audit entries, which are linked to the calls that wait for them.
 * - Attributes are those of a log line: no payload, no context, no token, no message of an error.
 */
import {
  type Attributes,
  context,
  createTraceState,
  ProxyTracerProvider,
  ROOT_CONTEXT,
  type Span,
  type SpanContext,
  SpanKind,
  SpanStatusCode,
  TraceFlags,
  type Tracer,
  trace,
} from '@opentelemetry/api';
import { monotonicNow } from '../call.ts';
import { type KeywardError, REASONS, toKeywardError } from '../errors.ts';
import type { TraceContext } from './trace-context.ts';

/** What of the service a span is about; each part has its own kind of spans. */
const PARTS = {
  hsm: { kind: SpanKind.INTERNAL, attributes: {} },
  store: { kind: SpanKind.CLIENT, attributes: { 'db.system.name': 'postgresql' } },
  audit: { kind: SpanKind.INTERNAL, attributes: {} },
} as const;
type SpanPart = keyof typeof PARTS;

/** Failures of the service rather than of the request (semantic conventions for gRPC servers). */
const FAULTS: readonly string[] = [
  'DEADLINE_EXCEEDED',
  'UNIMPLEMENTED',
  'INTERNAL',
  'UNAVAILABLE',
  'DATA_LOSS',
];

const tracer = findTracer();

/** Returns undefined where no SDK was loaded. */
function findTracer(): Tracer | undefined {
  const provider = trace.getTracerProvider();
  // What stands for the provider until there is one, and for ever where none is loaded.
  return provider instanceof ProxyTracerProvider
    ? provider.getDelegateTracer('keyward')
    : provider.getTracer('keyward');
}

/** A call, as its span has it. */
export interface SpannedCall {
  readonly id: string;
  /** What it came in by; `approved`: nothing, the service itself does what was approved. */
  readonly face: 'grpc' | 'http' | 'approved';
  readonly caller: { readonly name: string };
  /** When it began, in `monotonicNow`'s milliseconds. */
  readonly startedAt: number;
  /** Where its caller has it belong. */
  readonly trace: TraceContext | undefined;
}

/** The span of a call. */
export class CallSpan {
  readonly #span: Span;
  readonly #isGrpc: boolean;

  constructor(span: Span, isGrpc: boolean) {
    this.#span = span;
    this.#isGrpc = isGrpc;
  }

  /** What the call's lines, entry and errors name it by. */
  get trace(): TraceContext {
    const { traceId, spanId, traceFlags } = this.#span.spanContext();
    return { traceId, spanId, isSampled: (traceFlags & TraceFlags.SAMPLED) !== 0 };
  }

  /** Does the call's work, whose spans are below this one. */
  around<T>(work: () => T): T {
    return context.with(trace.setSpan(ROOT_CONTEXT, this.#span), work);
  }

  /** Notes what the call was answered with, and the resource that it was about. */
  note(error: KeywardError | undefined, resource: string | undefined): void {
    if (resource !== undefined) this.#span.setAttribute('keyward.resource', resource);
    const status = error === undefined ? 'OK' : REASONS[error.reason].status;
    if (this.#isGrpc) this.#span.setAttribute('rpc.response.status_code', status);
    if (error === undefined) return;
    if (!this.#isGrpc) this.#span.setAttribute('rpc.response.status_code', connectCode(status));
    this.#span.setAttribute('error.type', error.reason);
    if (FAULTS.includes(status)) this.#span.setStatus({ code: SpanStatusCode.ERROR });
  }

  /** Says that nothing is done for the call any more. */
  end(): void {
    this.#span.end();
  }
}

/**
 * Begins the span of a call of a method, as `keyward.v1.KeyService/CreateKey`. Returns undefined
 * where no SDK was loaded.
 */
export function beginCall(method: string, call: SpannedCall): CallSpan | undefined {
  if (tracer === undefined) return undefined;
  const isGrpc = call.face === 'grpc';
  const span = tracer.startSpan(
    method,
    {
      kind: call.face === 'approved' ? SpanKind.INTERNAL : SpanKind.SERVER,
      startTime: Date.now() - (monotonicNow() - call.startedAt),
      attributes: {
        ...(call.face === 'approved' ? {} : { 'rpc.system.name': isGrpc ? 'grpc' : 'connectrpc' }),
        'rpc.method': method,
        'keyward.request_id': call.id,
        'keyward.caller': call.caller.name,
      },
    },
    call.trace && trace.setSpanContext(ROOT_CONTEXT, spanContextOf(call.trace)),
  );
  return new CallSpan(span, isGrpc);
}

/** Does a part's work, in a span of its own where it is for something that is recorded. */
export function traced<T>(part: SpanPart, operation: string, work: () => Promise<T>): Promise<T> {
  if (tracer === undefined || recordedSpan() === undefined) return work();
  const { kind, attributes } = PARTS[part];
  const span = tracer.startSpan(`${part} ${operation}`, { kind, attributes });
  return endAfter(span, () => context.with(trace.setSpan(context.active(), span), work));
}

/** What a group's span is linked to. */
export type TraceLink = SpanContext;

/** Returns what a later group's span can be linked to this work by; undefined where it has none. */
export function traceLink(): TraceLink | undefined {
  return tracer === undefined ? undefined : recordedSpan()?.spanContext();
}

/**
 * Does what is done for many at once, and so below none of them: in a span of its own that is
 * linked to theirs, where any has one.
 */
export function tracedGroup<T>(
  part: SpanPart,
  members: readonly { readonly link?: TraceLink | undefined }[],
  work: () => Promise<T>,
): Promise<T> {
  if (tracer === undefined) return work();
  const links = members.flatMap(({ link }) => (link === undefined ? [] : { context: link }));
  if (links.length === 0) return context.with(ROOT_CONTEXT, work);
  const attributes: Attributes = { 'keyward.group.size': members.length };
  const span = tracer.startSpan(`${part} group`, { root: true, links, attributes });
  return endAfter(span, () => context.with(trace.setSpan(ROOT_CONTEXT, span), work));
}

function recordedSpan(): Span | undefined {
  const span = trace.getActiveSpan();
  return span?.isRecording() ? span : undefined;
}

async function endAfter<T>(span: Span, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    span.setAttribute('error.type', toKeywardError(error).reason);
    span.setStatus({ code: SpanStatusCode.ERROR });
    throw error;
  } finally {
    span.end();
  }
}

function spanContextOf({ traceId, spanId, isSampled, state }: TraceContext): SpanContext {
  return {
    traceId,
    spanId,
    traceFlags: isSampled ? TraceFlags.SAMPLED : TraceFlags.NONE,
    isRemote: true,
    ...(state !== undefined && { traceState: createTraceState(state) }),
  };
}

/** Returns Connect's name of a status. */
function connectCode(status: string): string {
  return status === 'CANCELLED' ? 'canceled' : status.toLowerCase();
}
