/**
 * An OpenTelemetry SDK for a server under test, loaded into it by `--import`: writes each span that
 * has ended as a line of JSON to the file that SPANS_FILE names.
 */
import { appendFileSync } from 'node:fs';
import {
  NodeTracerProvider,
  type ReadableSpan,
  SimpleSpanProcessor,
} from '@opentelemetry/sdk-trace-node';

/** A span, as a line of the file has it. */
export interface SpanLine {
  readonly name: string;
  readonly kind: number;
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId: string | undefined;
  readonly traceState: string | undefined;
  readonly attributes: Readonly<Record<string, unknown>>;
  readonly status: number;
  readonly events: number;
  /** The ids of the spans that it is linked to. */
  readonly links: readonly string[];
  readonly durationMs: number;
}

function lineOf(span: ReadableSpan): SpanLine {
  const { traceId, spanId, traceState } = span.spanContext();
  const [seconds, nanoseconds] = span.duration;
  return {
    ...{ name: span.name, kind: span.kind, traceId, spanId },
    parentSpanId: span.parentSpanContext?.spanId,
    traceState: traceState?.serialize(),
    attributes: span.attributes,
    status: span.status.code,
    events: span.events.length,
    links: span.links.map(({ context }) => context.spanId),
    durationMs: seconds * 1e3 + nanoseconds / 1e6,
  };
}

const file = process.env['SPANS_FILE'];
if (file !== undefined)
  new NodeTracerProvider({
    spanProcessors: [
      new SimpleSpanProcessor({
        export(spans, done) {
          appendFileSync(file, spans.map((span) => `${JSON.stringify(lineOf(span))}\n`).join(''));
          done({ code: 0 });
        },
        shutdown: async () => {},
      }),
    ],
  }).register();
