/**
 * What can go wrong behind the transport: handlers that throw, reject, hang or return junk, answers
 * that can't be sent, and certificates whose holders would like to be someone else. None of it
 * takes the process down or passes for success.
 */
import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { status } from '@grpc/grpc-js';
import type { Logger } from 'pino';
import { z } from 'zod';
import type { Caller } from '../../src/access/identity.ts';
import { monotonicNow } from '../../src/call.ts';
import type { AdmittedCall } from '../../src/calls/arrivals.ts';
import { Budgets } from '../../src/calls/budgets.ts';
import { ANY_CALLER, type Operation, type Services } from '../../src/calls/operation.ts';
import { KeywardError } from '../../src/errors.ts';
import { DEFAULT_REQUEST_BYTES, type ServedMethod } from '../../src/faces/contract/methods.ts';
import type { UnaryRpc } from '../../src/faces/contract/rpc.ts';
import { framed } from '../../src/faces/grpc/message-frames.ts';
import { errorHeaders } from '../../src/faces/grpc/status.ts';
import { type AnsweredCall, UnaryCalls } from '../../src/faces/grpc/unary-calls.ts';
import { newId, type TenantId } from '../../src/ids.ts';
import { detailsOf, field } from '../faults/http2.ts';

/** An error as its call's headers say it. */
interface SentError {
  readonly code: unknown;
  readonly text: string;
  readonly reason: string | undefined;
}

interface Outcome {
  readonly error: SentError | null;
  readonly response: Buffer | null;
  readonly answers: number;
  readonly log: readonly Record<string, unknown>[];
  readonly isReleased: boolean;
  readonly request: Buffer;
}

type AnyOperation = Operation<unknown, object>;
type Handle = AnyOperation['handle'];

interface Variations {
  readonly operation?: Partial<AnyOperation>;
  readonly large?: UnaryRpc<unknown, object, object>['large'];
  readonly encode?: ServedMethod['encode'];
  readonly decode?: ServedMethod['decode'];
  readonly scanner?: ServedMethod['scanner'];
  readonly services?: Partial<Services>;
  readonly request?: Buffer;
  readonly timeLeftMs?: number;
  /** What the stream does when the answer is handed to it. */
  readonly onAnswer?: () => void;
  readonly isCancelled?: boolean;
  readonly isAdmitted?: boolean;
  /** The caller's share of the time for decoding. */
  readonly share?: AdmittedCall['decode'];
}

const CALLER: Caller = { name: 'spiffe://keyward.test/tester', groups: [], claim: () => undefined };

/** Serves one call with a handler, and waits until nothing of it is left. */
async function serve(handle: Handle, variations: Variations = {}): Promise<Outcome> {
  const log: Record<string, unknown>[] = [];
  const reported: (string | undefined)[] = [];
  const note = (line: Record<string, unknown>) => log.push(line);
  let isReleased = false;
  const admitted: AdmittedCall = {
    id: 'the-id',
    face: 'grpc',
    caller: CALLER,
    identify: () => CALLER,
    certificate: undefined,
    address: undefined,
    trace: undefined,
    startedAt: monotonicNow(),
    deadline: monotonicNow() + (variations.timeLeftMs ?? 60_000),
    answers: (answer: Buffer) => answer,
    decode: variations.share ?? ((_length, decode) => decode()),
    hold: () => () => {
      isReleased = true;
    },
    markReplayed: () => {},
  };
  const request = variations.request ?? Buffer.from('request');
  const stream = Object.assign(new EventEmitter(), { aborted: false });
  const answers: [SentError | null, Buffer | null][] = [];
  const call: AnsweredCall & { isOver: boolean } = {
    path: '/test.Service/Method',
    isOver: false,
    isAnswering: false,
    onClose: (listener) => stream.once('close', listener),
    finish: (error, answer) => {
      if (call.isOver) return;
      // As of a stream: what it sends is a copy.
      answers.push([error ? sent(error) : null, answer ? Buffer.from(answer) : null]);
      variations.onAnswer?.();
    },
  };
  const rpcRow: UnaryRpc<unknown, object, object> = {
    operation: {
      permission: ANY_CALLER,
      target: () => ({ tenant: '' }),
      resource: () => 'thing',
      handle,
      ...variations.operation,
    },
    request: z.custom<object>(),
    message: (answer) => answer,
    ...(variations.large && { large: variations.large }),
  };
  const method: ServedMethod = {
    name: 'test.Service/Method',
    rpc: rpcRow,
    decode: variations.decode ?? ((bytes) => ({ bytes })),
    scanner: variations.scanner,
    encode: variations.encode ?? ((message) => Buffer.from(JSON.stringify(message))),
  };
  const unary = new UnaryCalls<AnsweredCall>({
    serving: {
      services: { quotas: { takeCallOf: async () => {} }, ...variations.services } as Services,
      recording: {
        writer: { write: async () => {}, writeRefusal: async () => {} },
        masks: { mask: async () => [] },
        replica: 'test',
        systemTenantId: newId<TenantId>(),
      },
      replays: {
        keep: () => Promise.reject(new Error('nothing is changed here')),
        find: async () => undefined,
      },
      canaryWatch: { recognise: () => [], record: async () => undefined },
      stepUp: { checkFor: async () => () => {} },
      approvalGate: { pass: async () => {} },
      outcomes: { report: ({ error }) => reported.push(error?.reason) },
      log: { info: note, warn: note, error: note } as unknown as Logger,
      stopping: new AbortController().signal,
    },
    admission: {
      take: () => (variations.isAdmitted === false ? undefined : admitted),
      received: () => {},
      turnOut: (_, error) => call.finish(error, null),
    },
    maxMessageBytes: 0xffff_ffff,
  });
  unary.add(method);
  assert.ok(unary.serve(call, stream));
  const frame = framed(request);
  stream.emit('data', frame);
  stream.emit('end');
  if (variations.isCancelled) {
    call.isOver = true;
    stream.emit('close');
  }
  while (!(isReleased || variations.isAdmitted === false)) await sleep(1);
  const [error, response] = answers[0] ?? [null, null];
  const logged = log.flatMap(({ outcome }) => outcome ?? []);
  assert.deepEqual(
    reported.map((reason) => reason ?? 'OK'),
    logged,
    'what is reported of a call is not what is logged',
  );
  return {
    error,
    response,
    answers: answers.length,
    log,
    isReleased,
    request: frame.subarray(-request.length),
  };
}

function sent(error: KeywardError): SentError {
  const headers = errorHeaders(error, { id: 'the-id' });
  const details = Buffer.from(String(headers['grpc-status-details-bin']), 'base64');
  return {
    code: headers['grpc-status'],
    text: decodeURI(String(headers['grpc-message'])),
    reason: detailsOf(details).reason,
  };
}

/** Whatever a handler may throw; a name for each. */
const THROWN: readonly (readonly [string, unknown])[] = [
  ['an Error', new Error('internal detail, host=db.internal')],
  ['null', null],
  ['undefined', undefined],
  ['a string', 'internal detail'],
  [
    'an object that claims to be a gRPC error',
    { code: 2, details: 'internal detail', message: 'x' },
  ],
  ['an error with a status of OK', Object.assign(new Error('internal detail'), { code: 0 })],
  ['an error that can not be printed', { toString: () => assert.fail('printed') }],
];

describe('a handler', () => {
  for (const [what, thrown] of THROWN) {
    test(`that throws or rejects with ${what} makes the call INTERNAL, and says nothing of it`, async () => {
      const handlers: Handle[] = [
        () => {
          throw thrown;
        },
        () => Promise.reject(thrown),
        async () => {
          await sleep(1);
          throw thrown;
        },
      ];
      for (const handle of handlers) {
        const { error, answers, log } = await serve(handle);
        assert.equal(answers, 1);
        assert.equal(error?.code, status.INTERNAL);
        assert.equal(error?.reason, 'INTERNAL');
        assert.doesNotMatch(String(error?.text), /internal detail/);
        assert.deepEqual(
          log.map(({ outcome }) => outcome),
          ['INTERNAL'],
        );
      }
    });
  }

  test('that throws a reason is answered with it, also when its message can not be sent as it is', async () => {
    const { error } = await serve(() => {
      throw new KeywardError('CONFLICT', { message: 'lone \ud800 surrogate' });
    });
    assert.equal(error?.code, status.ABORTED);
    assert.equal(error?.text, 'lone \ufffd surrogate');
  });

  test('that returns junk makes the call INTERNAL', async () => {
    const junk = [undefined, null, 'text', 7, () => {}];
    const encode = (message: object) => {
      if (typeof message !== 'object' || message === null) throw new TypeError('not a message');
      return Buffer.alloc(0);
    };
    for (const value of junk) {
      const { error, answers } = await serve((async () => value) as unknown as Handle, { encode });
      assert.deepEqual([error?.code, error?.reason, answers], [status.INTERNAL, 'INTERNAL', 1]);
    }
  });

  test('whose row throws while it names the resource makes the call INTERNAL', async () => {
    const resource = () => {
      throw new Error('no name');
    };
    const { error } = await serve(async () => ({}), { operation: { resource } });
    assert.equal(error?.reason, 'INTERNAL');
  });

  test('that takes too long is answered for at the deadline, once, and counts until it is done', async () => {
    let isDone = false;
    const { error, answers, isReleased } = await serve(
      async () => {
        await sleep(100);
        isDone = true;
        return {};
      },
      { timeLeftMs: 5 },
    );
    assert.deepEqual(
      [error?.reason, answers, isDone, isReleased],
      ['DEADLINE_EXCEEDED', 1, true, true],
    );
  });

  test('case 48: whose call is cancelled learns that its time is up', async () => {
    const { answers, log } = await serve(
      async (_keyring, call) => {
        while (call.deadline > monotonicNow()) await sleep(1);
        throw new KeywardError('DEADLINE_EXCEEDED');
      },
      { isCancelled: true },
    );
    assert.equal(answers, 0);
    assert.deepEqual(
      log.map(({ outcome }) => outcome),
      ['CALL_CANCELLED'],
    );
  });
});

describe('an answer', () => {
  test('that its stream throws at is given up, and the process lives', async () => {
    const onAnswer = () => {
      throw new Error('the stream is gone');
    };
    for (const handle of [async () => ({}), () => Promise.reject(new Error('x'))]) {
      const { answers, isReleased } = await serve(handle, { onAnswer });
      assert.deepEqual([answers, isReleased], [1, true]);
    }
  });

  test('and its request are zeroed when both are done with', async () => {
    let encoded: Buffer | undefined;
    const { request, response } = await serve(async () => ({ plaintext: 'p' }), {
      encode: () => {
        encoded = Buffer.from('plaintext');
        return encoded;
      },
    });
    assert.equal(response?.toString(), 'plaintext');
    assert.ok(encoded?.every((byte) => byte === 0));
    assert.ok(request.every((byte) => byte === 0));
  });

  test('is refused to a call that was not let in', async () => {
    const { error } = await serve(async () => ({}), { isAdmitted: false });
    assert.equal(error?.code, status.INTERNAL);
  });
});

describe('a request', () => {
  const request = () => {
    const item = field(2, field(1, Buffer.alloc(DEFAULT_REQUEST_BYTES / 2)));
    return Buffer.concat([item, item]);
  };
  const large = { maxBytes: Infinity, addressee: z.custom<object>() };
  const scanner = { addresseeOf: () => 'tenants/acme' };
  /**
   * Which of the requests of a kind were decoded: to be called with what else there is to the call.
   */
  const decoded = async (variations: Variations) => {
    let times = 0;
    const decode = (bytes: Buffer) => {
      times += 1;
      return { bytes };
    };
    const { error } = await serve(async () => ({}), { request: request(), decode, ...variations });
    return [error?.reason, times];
  };

  test('of a caller that had its share of the time for decoding is refused before it is decoded', async () => {
    const budgets = new Budgets({ maxCalls: 64, maxRequestBytes: 1_048_576 });
    const share: AdmittedCall['decode'] = (length, decode) =>
      budgets.decode('a caller', length, decode);
    const request = Buffer.alloc(100_000);
    const slow = (bytes: Buffer) => {
      const before = process.threadCpuUsage();
      while (process.threadCpuUsage(before).user < 300_000);
      return { bytes };
    };
    const first = await serve(async () => ({}), { request, share, decode: slow });
    assert.equal(first.error, null);
    const decode = () => assert.fail('it was decoded');
    const second = await serve(async () => ({}), { request: Buffer.alloc(100_000), share, decode });
    assert.equal(second.error?.reason, 'SERVER_BUSY');
  });

  test('larger than its method takes is refused before it is decoded', async () => {
    assert.deepEqual(await decoded({}), ['MESSAGE_TOO_LARGE', 0]);
    const bounded = { ...large, maxBytes: DEFAULT_REQUEST_BYTES + 1 };
    assert.deepEqual(await decoded({ large: bounded, scanner }), ['MESSAGE_TOO_LARGE', 0]);
    assert.deepEqual(await decoded({ large, scanner }), [undefined, 1]);
  });

  test('that is large is not decoded for a caller without rights, nor where its scan refuses it', async () => {
    const operation = { permission: 'data.encrypt' } as const;
    const rightsOf = async () => {
      throw new KeywardError('RESOURCE_NOT_FOUND');
    };
    const services = { access: { rightsOf } as unknown as Services['access'] };
    assert.deepEqual(await decoded({ operation, large, scanner, services }), [
      'RESOURCE_NOT_FOUND',
      0,
    ]);
    const addresseeOf = () => {
      throw new KeywardError('MALFORMED_REQUEST');
    };
    assert.deepEqual(await decoded({ large, scanner: { addresseeOf } }), ['MALFORMED_REQUEST', 0]);
  });
});
