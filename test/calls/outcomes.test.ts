/**
 * What is reported of a call: once, whatever became of it, and also of those that never end well.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Caller } from '../../src/access/identity.ts';
import { monotonicNow } from '../../src/call.ts';
import type { AdmittedCall } from '../../src/calls/arrivals.ts';
import {
  ANY_CALLER,
  type AuthorizedCall,
  type Services,
  type StreamOperation,
} from '../../src/calls/operation.ts';
import { type CallOutcome, CallOutcomes } from '../../src/calls/outcomes.ts';
import { type Exchange, type Serving, serveCall } from '../../src/calls/serve-call.ts';
import { KeywardError } from '../../src/errors.ts';
import { newId, type TenantId } from '../../src/ids.ts';
import type { Logger } from '../../src/signals/log.ts';

const CALLER: Caller = { name: 'spiffe://keyward.test/tester', groups: [], claim: () => undefined };
const TRACE = { traceId: 'a'.repeat(32), spanId: 'b'.repeat(16), isSampled: true };
const SILENT = { info: () => {}, warn: () => {}, error: () => {} } as unknown as Logger;

type Stream = StreamOperation<object, string>['stream'];

/** What goes on beside a stream. */
interface Beside {
  readonly timeLeftMs?: number;
  /** Called once the first answer was sent. */
  readonly onSent?: (cancel: () => void, stop: () => void) => void;
}

/** Serves a stream until nothing of it is left. Returns what was reported of it. */
async function reportsOf(stream: Stream, beside: Beside = {}): Promise<CallOutcome[]> {
  const reports: CallOutcome[] = [];
  const outcomes = new CallOutcomes(SILENT);
  outcomes.listen(() => assert.fail('a listener that throws'));
  outcomes.listen((outcome) => reports.push(outcome));
  const stopping = new AbortController();
  const released = Promise.withResolvers<void>();
  let cancel = () => {};
  const admitted: AdmittedCall = {
    ...{ id: 'the-id', face: 'http', caller: CALLER, identify: () => CALLER },
    ...{ certificate: undefined, address: '192.0.2.1', trace: TRACE },
    startedAt: monotonicNow(),
    deadline: monotonicNow() + (beside.timeLeftMs ?? 60_000),
    decode: (_length, decode) => decode(),
    answers: (answer) => answer,
    hold: () => released.resolve,
    markReplayed: () => {},
  };
  const exchange: Exchange<object, string> = {
    admitted,
    method: 'test.Service/Watch',
    operation: {
      ...{ permission: ANY_CALLER, target: () => ({ tenant: '' }), resource: () => 'thing' },
      stream,
    },
    read: () => ({}),
    encode: (answer) => Buffer.from(answer),
    keep: (answer) => Buffer.from(answer),
    fromKept: (kept) => kept,
    canonical: () => assert.fail('nothing is to be approved'),
    describe: () => assert.fail('nothing is to be approved'),
    send: async () => beside.onSent?.(cancel, () => stopping.abort()),
    // As of a stream that is closed: faces say so at the end of every one.
    finish: () => cancel(),
    onCancelled: (listener) => {
      cancel = listener;
    },
    wipe: () => {},
  };
  const serving: Serving = {
    services: { quotas: { takeCallOf: async () => {} } } as unknown as Services,
    recording: {
      writer: { write: async () => {}, writeRefusal: async () => {} },
      masks: { mask: async () => [] },
      ...{ replica: 'test', systemTenantId: newId<TenantId>() },
    },
    replays: { keep: () => assert.fail('nothing is changed'), find: async () => undefined },
    canaryWatch: { recognise: () => [], record: async () => undefined },
    stepUp: { checkFor: async () => () => {} },
    approvalGate: { pass: async () => {} },
    ...{ outcomes, log: SILENT, stopping: stopping.signal },
  };
  serveCall(serving, exchange);
  await released.promise;
  return reports;
}

/** Answers once, and has nothing more to say until its time is up. */
async function* untilItEnds(_services: Services, call: AuthorizedCall): AsyncIterable<string> {
  yield 'one';
  while (call.deadline > monotonicNow()) await new Promise((resolve) => setTimeout(resolve, 1));
}

describe('of a stream is reported once', () => {
  const ends: readonly (readonly [string, string | undefined, Stream, Beside?])[] = [
    [
      'that it ended well',
      undefined,
      async function* () {
        yield 'one';
        yield 'two';
      },
    ],
    [
      'that it failed after an answer',
      'CONFLICT',
      async function* () {
        yield 'one';
        throw new KeywardError('CONFLICT');
      },
    ],
    ['that its deadline passed', 'DEADLINE_EXCEEDED', untilItEnds, { timeLeftMs: 5 }],
    ['that its caller went away', 'CALL_CANCELLED', untilItEnds, { onSent: (cancel) => cancel() }],
    ['that the server stops', 'SERVER_STOPPING', untilItEnds, { onSent: (_, stop) => stop() }],
  ];
  for (const [what, reason, stream, beside] of ends) {
    test(`${what}, although another listener throws`, async () => {
      const [report, ...others] = await reportsOf(stream, beside);
      assert.deepEqual(others, []);
      assert.ok(report !== undefined && report.durationMs >= 0);
      const { error, durationMs, notes, ...rest } = report;
      assert.equal(error?.reason, reason);
      assert.deepEqual([notes?.keyVersion, notes?.items], [undefined, undefined]);
      assert.deepEqual(rest, {
        ...{ requestId: 'the-id', method: 'test.Service/Watch', face: 'http', isAdmitted: true },
        ...{ caller: CALLER.name, address: '192.0.2.1', tenant: undefined, resource: 'thing' },
        trace: TRACE,
      });
    });
  }
});
