/**
 * Every HTTP/2 stream before grpc-js sees it: made a call of, and given to what lets calls in.
 *
 * Invariants:
 * - a stream has an 'error' listener before anything else is done with it, whatever became of it by
 *   then;
 * - grpc-js sees of a call only what `request-headers.ts` lets through, and then its request.
 * Knows no method.
 */
import { constants, type IncomingHttpHeaders, type ServerHttp2Stream } from 'node:http2';
import type { Metadata } from '@grpc/grpc-js';
import type { Logger } from 'pino';
import type { AdmittedCall } from '../../calls/arrivals.ts';
import type { CallOutcomes } from '../../calls/outcomes.ts';
import { KeywardError } from '../../errors.ts';
import { readTraceContext } from '../../signals/trace-context.ts';
import type { Admission } from '../transport/admission.ts';
import type { Connections } from '../transport/connections.ts';
import { CallStream } from './call-stream.ts';
import {
  CALL_HEADER,
  forwarded,
  type HeaderLimits,
  readHeaders,
  refusalOf,
  timeoutMs,
} from './request-headers.ts';
import type { UnaryCalls } from './unary-calls.ts';

/** What is needed to make calls of streams. */
export interface StreamAdmissionParts {
  readonly admission: Admission;
  readonly connections: Connections;
  readonly limits: HeaderLimits & {
    /** The largest message that any method takes, in bytes. */
    readonly maxMessageBytes: number;
  };
  readonly log: Logger;
  readonly outcomes: Pick<CallOutcomes, 'report'>;
  readonly unary: Pick<UnaryCalls, 'serve'>;
}

/** grpc-js's own listener. */
export type Dispatch = (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void;

/** As HTTP/2 has it: the last are names and values in turns, as they came. */
type StreamListener = (
  stream: ServerHttp2Stream,
  headers: IncomingHttpHeaders,
  flags: number,
  rawHeaders: readonly string[],
) => void;

/** Makes calls of grpc-js's streams. */
export class StreamAdmission {
  readonly #parts: StreamAdmissionParts;
  /** Streams that grpc-js has been given, by their id. */
  readonly #passed = new Map<string, CallStream>();

  constructor(parts: StreamAdmissionParts) {
    this.#parts = parts;
  }

  /**
   * Returns the call whose headers these are; undefined if it didn't come through here, or is over.
   */
  take(metadata: Metadata): AdmittedCall | undefined {
    const stream = this.#passed.get(String(metadata.get(CALL_HEADER)[0]));
    return stream && this.#parts.admission.take(stream);
  }

  /** Returns the listener to put before grpc-js's. */
  before(dispatch: Dispatch): StreamListener {
    const { admission, connections, limits, log, outcomes } = this.#parts;
    return (stream, headers, _flags, rawHeaders) => {
      stream.on('error', () => {}); // 'close' follows, and is enough.
      const connection = connections.of(stream);
      if (connection === undefined) {
        stream.close(constants.NGHTTP2_REFUSED_STREAM);
        return;
      }
      // Reset by the bytes that came with its headers: it costs no more.
      if (stream.closed || stream.destroyed) {
        connection.callReset(false);
        return;
      }
      const request = readHeaders(headers, rawHeaders);
      const { path, authorizations } = request;
      const { maxMessageBytes } = limits;
      const trace = readTraceContext(headers);
      admission.admit({
        call: new CallStream({
          ...{ stream, path, connection, trace, maxMessageBytes, log, outcomes },
        }),
        refusal: refusalOf(request, limits),
        authorizations,
        timeoutMs: timeoutMs(headers),
        goOn: (call) =>
          this.#pass(call, stream, () => dispatch(stream, forwarded(headers, call.id))),
      });
    };
  }

  /** Gives it to grpc-js, and looks at its request as it comes. */
  #pass(call: CallStream, stream: ServerHttp2Stream, dispatch: () => void): void {
    const { admission, unary } = this.#parts;
    if (unary.serve(call, stream)) return;
    call.explainAnswers();
    this.#passed.set(call.id, call);
    call.onClose(() => this.#passed.delete(call.id));
    dispatch();
    // Before grpc-js's own.
    stream.prependListener('data', (chunk: Buffer) => {
      if (call.hasCompressed(chunk))
        admission.turnOut(call, new KeywardError('COMPRESSION_NOT_SUPPORTED'));
      else admission.received(call, chunk.length);
    });
  }
}
