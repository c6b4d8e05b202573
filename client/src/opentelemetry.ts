/**
 * Hooks that make OpenTelemetry's spans and durations of a client's calls.
 *
 * Its invariant: no dependency, since the program hands over the API that it has. No span has a
 * payload, an encryption context, a token, or the message of an error.
 */

import { KeywardError } from './errors.ts';
import type { CallEnd, ClientCall, Hooks, TraceHeaders } from './hooks.ts';

type Attributes = Record<string, string | number>;

interface Span {
  setAttributes(attributes: Attributes): unknown;
  setStatus(status: { code: number }): unknown;
  addEvent(name: string, attributes: Attributes): unknown;
  end(): void;
}

/** What is used of the module `@opentelemetry/api`, which fits. */
export interface OpenTelemetryApi {
  readonly trace: {
    getTracer(name: string): {
      startSpan(
        name: string,
        options: { kind: number; attributes: Attributes },
        context: unknown,
      ): Span;
    };
    setSpan(context: unknown, span: unknown): unknown;
  };
  readonly context: { active(): unknown };
  readonly propagation: { inject(context: unknown, carrier: unknown): void };
  readonly metrics: {
    getMeter(name: string): {
      createHistogram(
        name: string,
        options: { unit: string; description: string },
      ): { record(value: number, attributes: Attributes): void };
    };
  };
}

const NAME = 'keyward-client';
/** SpanKind.CLIENT and SpanStatusCode.ERROR. */
const CLIENT = 2;
const ERROR = 2;

/**
 * Returns hooks with a span of kind client for each call, below the span that is active where the
 * call is made and above the service's; an event of it for each retry; and the histogram
 * `rpc.client.call.duration`, in seconds. Attributes are those of OpenTelemetry's conventions for
 * RPC, and `keyward.request_id`.
 *
 *     import * as api from '@opentelemetry/api';
 *     const keyward = connect({ ..., hooks: openTelemetryHooks(api) });
 */
export function openTelemetryHooks(api: OpenTelemetryApi): Hooks {
  const tracer = api.trace.getTracer(NAME);
  const durations = api.metrics
    .getMeter(NAME)
    .createHistogram('rpc.client.call.duration', { unit: 's', description: 'Calls, with retries' });
  const spans = new WeakMap<ClientCall, Span>();
  return {
    onCallStart: (call) => {
      const { method } = call;
      const attributes = { 'rpc.system.name': 'grpc', 'rpc.method': method };
      const active = api.context.active();
      const span = tracer.startSpan(method, { kind: CLIENT, attributes }, active);
      spans.set(call, span);
      const headers: TraceHeaders = {};
      api.propagation.inject(api.trace.setSpan(active, span), headers);
      return headers;
    },
    onRetry: (call, { error, address, attempt, delayMs }) => {
      const why = error.reason ?? error.code;
      const attributes = {
        'error.type': why,
        'server.address': address,
        attempt,
        delay_ms: delayMs,
      };
      spans.get(call)?.addEvent('retry', attributes);
    },
    onCallEnd: (call, end) => {
      const outcome = attributesOf(end);
      const span = spans.get(call);
      span?.setAttributes({ ...outcome, ...requestOf(end) });
      if (end.error !== undefined) span?.setStatus({ code: ERROR });
      span?.end();
      const named = { 'rpc.system.name': 'grpc', 'rpc.method': call.method, ...outcome };
      durations.record(end.durationMs / 1000, named);
    },
  };
}

function attributesOf({ outcome, error, address }: CallEnd): Attributes {
  const status = error instanceof KeywardError ? error.code : error?.name;
  return {
    'rpc.response.status_code': status ?? 'OK',
    ...(error !== undefined && { 'error.type': outcome }),
    ...(address !== undefined && { 'server.address': address }),
  };
}

function requestOf({ error, attempts }: CallEnd): Attributes {
  const id = error instanceof KeywardError ? error.requestId : undefined;
  return { 'keyward.attempts': attempts, ...(id !== undefined && { 'keyward.request_id': id }) };
}
