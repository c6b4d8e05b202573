/**
 * Requests that are wrong, in what they say and in how they are sent: each is refused with a status
 * that says so, and nobody else notices. Attacks by number and by time are in load.test.ts.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import type { ClientHttp2Session } from 'node:http2';
import { after, before, describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { DEFAULT_REQUEST_BYTES } from '../../src/faces/contract/methods.ts';
import { RPCS } from '../../src/faces/contract/rpcs.ts';
import { type Answer, call, field, grpcFrame } from '../faults/http2.ts';
import { type HostileService, SECRET, startHostile } from './service.ts';

const GET_TENANT = '/keyward.v1.AdminService/GetTenant';
const CREATE_TENANT = '/keyward.v1.AdminService/CreateTenant';
const ENCRYPT = '/keyward.v1.EncryptionService/Encrypt';
const STATUS = {
  ok: 0,
  invalidArgument: 3,
  deadlineExceeded: 4,
  resourceExhausted: 8,
  unimplemented: 12,
};

let hostile: HostileService;

before(async () => {
  hostile = await startHostile({
    KEYWARD_DEADLINE_MS: '5000',
    KEYWARD_RELYING_PARTY_ID: 'keyward.example',
  });
});

after(async () => {
  await hostile?.[Symbol.asyncDispose]();
});

const acme = grpcFrame(field(1, 'tenants/acme'));

/**
 * The attack's answers, none of them UNKNOWN or INTERNAL or without a reason, while honest calls go
 * on.
 */
async function refused(
  attack: (session: ClientHttp2Session) => Promise<Answer[]>,
): Promise<Answer[]> {
  const answers = await hostile.staysHonest(attack);
  for (const answer of answers) {
    assert.ok(
      answer.status !== 2 && answer.status !== 13,
      `status ${answer.status}: ${answer.message}`,
    );
    if (answer.status !== undefined && answer.status !== STATUS.ok) {
      assert.ok(answer.reason, `no reason: ${answer.message}`);
    }
  }
  return answers;
}

function summary(answers: readonly Answer[]): [number | undefined, string | undefined][] {
  return answers.map(({ status, reason }) => [status, reason]);
}

function repeated<T>(count: number, value: T): T[] {
  return Array.from({ length: count }, () => value);
}

describe('messages', () => {
  test('case 39: a message over the limit, or that claims to be, is MESSAGE_TOO_LARGE', async () => {
    const answers = await refused((session) =>
      Promise.all([
        call(session, {
          path: ENCRYPT,
          body: [grpcFrame(Buffer.alloc(0), { length: 0xffffffff })],
        }),
        call(session, {
          path: ENCRYPT,
          body: [grpcFrame(Buffer.alloc(0), { length: 0xffffffff })],
          unfinished: true,
        }),
        call(session, { path: ENCRYPT, body: [grpcFrame(Buffer.alloc(4_194_305))] }),
      ]),
    );
    assert.deepEqual(
      summary(answers),
      repeated(answers.length, [STATUS.resourceExhausted, 'MESSAGE_TOO_LARGE']),
    );
  });

  test('case 39: a method’s own limit is exact, and named', async () => {
    const request = (length: number) => {
      const head = field(1, 'tenants/acme/keys/k');
      return Buffer.concat([head, field(2, Buffer.alloc(length - head.length - 4))]);
    };
    const [fits, over] = await refused((session) =>
      Promise.all(
        [request(DEFAULT_REQUEST_BYTES), request(DEFAULT_REQUEST_BYTES + 1)].map((message) =>
          call(session, { path: ENCRYPT, body: [grpcFrame(message)] }),
        ),
      ),
    );
    assert.deepEqual([fits?.reason, fits?.fields], ['INVALID_FIELD', ['plaintext']]);
    assert.equal(over?.reason, 'MESSAGE_TOO_LARGE');
    assert.deepEqual(over?.metadata, { limit: String(DEFAULT_REQUEST_BYTES) });
  });

  test('case 39: a batch of two million items, entries or keys of an entry is refused before it is decoded', async () => {
    const limit = 4_194_304;
    const filled = (hex: string, length = 2_000_000) =>
      Buffer.alloc(length, Buffer.from(hex, 'hex'));
    const twice = (part: Buffer) => Buffer.concat([part, part]);
    const messages = [
      filled('1200', limit),
      twice(field(2, filled('1a00'))),
      twice(field(2, field(3, filled('0a00')))),
      filled('0b0c', limit),
      filled('7801', limit),
    ];
    const methods = ['BatchEncrypt', 'BatchDecrypt', 'BatchReEncrypt'];
    const attacks = methods.flatMap((method) => messages.map((message) => ({ method, message })));
    attacks.push({
      method: 'BatchGenerateDataKey',
      message: twice(field(2, field(2, filled('0a00')))),
    });
    const answers = await refused(async (session) => {
      const each: Answer[] = [];
      // One at a time: together they are almost as many bytes as the service takes.
      for (const { method, message } of attacks) {
        const path = `/keyward.v1.EncryptionService/${method}`;
        each.push(await call(session, { path, body: [grpcFrame(message)] }));
      }
      return each;
    });
    assert.deepEqual(
      summary(answers),
      repeated(attacks.length, [STATUS.resourceExhausted, 'MESSAGE_TOO_LARGE']),
    );
    for (const { message, metadata } of answers) {
      assert.match(message, /more than \d+ fields/);
      assert.equal(metadata['unit'], 'fields');
    }
  });

  test('case 40: bytes that are no message are INVALID_ARGUMENT, whatever the method', async () => {
    const paths = Object.entries(RPCS).flatMap(([service, rows]) =>
      Object.keys(rows)
        // Its one field is a flag, which is set by whatever isn't 0: there is no such checkpoint
        // then.
        .filter((method) => method !== 'GetCheckpoint')
        .map((method) => `/${service}/${method}`),
    );
    const garbage = [
      Buffer.from([0x0a]),
      Buffer.from([0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
      Buffer.from([0x0a, 0x7f, 0x41]),
      Buffer.from('ffffffffffffffffffff', 'hex'),
      Buffer.alloc(100_000, 0x0b), // Groups within groups.
      randomBytes(1000),
      Buffer.from([0x08, 0x01]), // A number where a string belongs.
    ];
    const answers = await refused(async (session) => {
      const all: Answer[] = [];
      for (const path of paths)
        all.push(
          ...(await Promise.all(
            garbage.map((message) => call(session, { path, body: [grpcFrame(message)] })),
          )),
        );
      return all;
    });
    assert.deepEqual(
      new Set(answers.flatMap(({ status }) => (status === STATUS.ok ? [] : status))),
      new Set([STATUS.invalidArgument]),
    );
    for (const { reason } of answers)
      assert.match(reason ?? 'OK', /^(MALFORMED_REQUEST|INVALID_FIELD|DECRYPTION_FAILED|OK)$/);
    assert.ok(answers.some(({ reason }) => reason === 'MALFORMED_REQUEST'));
  });

  test('case 41: no message, two or a thousand are UNIMPLEMENTED, half a one is MALFORMED_REQUEST', async () => {
    const wrongCounts = [
      [],
      [acme, acme],
      [Buffer.concat([acme, acme])],
      [Buffer.concat(repeated(1000, grpcFrame(Buffer.alloc(0))))],
    ];
    const halves = [[grpcFrame(Buffer.alloc(5), { length: 10 })], [Buffer.from([0, 0])]];
    const answers = await refused((session) =>
      Promise.all(
        [...wrongCounts, ...halves].map((body) => call(session, { path: GET_TENANT, body })),
      ),
    );
    assert.deepEqual(summary(answers), [
      ...repeated(wrongCounts.length, [STATUS.unimplemented, 'MESSAGE_COUNT_WRONG']),
      ...repeated(halves.length, [STATUS.invalidArgument, 'MALFORMED_REQUEST']),
    ]);
  });

  test('case 42: what is compressed is refused before it is inflated, in whatever encoding', async () => {
    const bomb = gzipSync(Buffer.alloc(256 * 1024 * 1024), { level: 1 });
    const messages = [
      bomb.subarray(0, 4_000_000),
      gzipSync(acme),
      randomBytes(100),
      Buffer.alloc(0),
    ];
    const attempts = ['gzip', 'deflate', 'br', 'identity, gzip', 'x'.repeat(500)].flatMap(
      (encoding) => messages.map((message) => ({ encoding, message })),
    );
    const before = hostile.residentBytes();
    const answers = await refused((session) =>
      Promise.all(
        attempts.map(({ encoding, message }) =>
          call(session, {
            path: ENCRYPT,
            headers: { 'grpc-encoding': encoding },
            body: [grpcFrame(message, { flag: 1 })],
          }),
        ),
      ),
    );
    assert.deepEqual(
      summary(answers),
      repeated(attempts.length, [STATUS.unimplemented, 'COMPRESSION_NOT_SUPPORTED']),
    );
    for (const { headers } of answers) assert.equal(headers['grpc-accept-encoding'], 'identity');
    assert.ok(hostile.residentBytes() - before < 200 * 1024 * 1024, 'a bomb was inflated');
  });

  test('case 42: compressed bytes that are not declared are refused, and no answer invites them', async () => {
    const [garbage, honest] = await refused((session) =>
      Promise.all([
        call(session, { path: GET_TENANT, body: [grpcFrame(gzipSync('x'), { flag: 1 })] }),
        call(session, { path: GET_TENANT, headers: { 'grpc-encoding': 'identity' }, body: [acme] }),
      ]),
    );
    assert.equal(garbage?.reason, 'COMPRESSION_NOT_SUPPORTED');
    assert.equal(honest?.status, STATUS.ok);
    assert.equal(honest?.headers['grpc-accept-encoding'], 'identity');
  });
});

describe('headers', () => {
  test('case 43: a deadline that is none is refused, an absurd one is cut to our own', async () => {
    const wrong = [
      '',
      '1',
      'S',
      'abc',
      '-1S',
      '1.5S',
      '1s',
      '123456789S',
      '1S1S',
      '0x10S',
      'NaNS',
      '١S',
    ];
    const answers = await refused((session) =>
      Promise.all(
        wrong.map((timeout) =>
          call(session, { path: GET_TENANT, headers: { 'grpc-timeout': timeout }, body: [acme] }),
        ),
      ),
    );
    assert.deepEqual(
      summary(answers),
      repeated(wrong.length, [STATUS.invalidArgument, 'MALFORMED_REQUEST']),
    );
    const absurd = await refused((session) =>
      Promise.all(
        ['99999999H', '00000009S', '99999999M'].map((timeout) =>
          call(session, { path: GET_TENANT, headers: { 'grpc-timeout': timeout }, body: [acme] }),
        ),
      ),
    );
    assert.deepEqual(summary(absurd), repeated(3, [STATUS.ok, undefined]));
  });

  test('case 43: a deadline of zero, or one that passes, is DEADLINE_EXCEEDED', async () => {
    const answers = await refused((session) =>
      Promise.all([
        call(session, { path: GET_TENANT, headers: { 'grpc-timeout': '0m' }, body: [acme] }),
        call(session, { path: GET_TENANT, headers: { 'grpc-timeout': '20m' }, unfinished: true }),
        call(session, {
          path: GET_TENANT,
          headers: { 'grpc-timeout': '1n' },
          body: [acme.subarray(0, 6)],
          unfinished: true,
        }),
      ]),
    );
    assert.deepEqual(summary(answers), repeated(3, [STATUS.deadlineExceeded, 'DEADLINE_EXCEEDED']));
  });

  test('case 43: without a deadline, and with a body that never ends, our own deadline answers', async () => {
    const answers = await refused((session) =>
      Promise.all([
        call(session, { path: GET_TENANT, unfinished: true }),
        call(session, { path: GET_TENANT, body: [acme], unfinished: true }),
        call(session, {
          path: '/grpc.health.v1.Health/Check',
          body: [acme.subarray(0, 3)],
          unfinished: true,
        }),
      ]),
    );
    assert.deepEqual(summary(answers), repeated(3, [STATUS.deadlineExceeded, 'DEADLINE_EXCEEDED']));
  });

  test('case 44: 200 headers, or 20 KB of them, are refused with the limit; far more are refused by HTTP/2', async () => {
    const many = (count: number) =>
      Object.fromEntries(Array.from({ length: count }, (_, index) => [`x-${index}`, 'v']));
    const large = { 'x-large': 'v'.repeat(20_000) };
    const [early, later, tooMany, honest] = await refused(async (session) => {
      const answer = (headers: Record<string, string>) =>
        call(session, { path: GET_TENANT, headers, body: [acme] });
      const answers = [await answer(large), await answer(large), await answer(many(200))];
      const { status, rstCode } = await answer(many(1_000));
      assert.deepEqual([status, rstCode !== 0], [undefined, true]);
      return [...answers, await answer({})];
    });
    for (const refusal of [early, later, tooMany])
      assert.deepEqual([refusal?.httpStatus, refusal?.reason], [431, 'MESSAGE_TOO_LARGE']);
    assert.equal(honest?.status, STATUS.ok);
  });

  test('case 44: 100 KB of headers cost the connection, and no other', async () => {
    await refused(async (session) => {
      const headers = { 'x-large': 'v'.repeat(100_000) };
      const answer = await call(session, { path: GET_TENANT, headers, body: [acme] });
      assert.deepEqual([answer.status, answer.rstCode !== 0], [undefined, true]);
      return [];
    });
  });

  test('case 44: what is not gRPC is told so by HTTP and by gRPC', async () => {
    const types = [
      'application/json',
      'application/grpc-web',
      'application/grpc+json',
      'text/plain',
      '',
    ];
    const methods = ['GET', 'PUT', 'HEAD', 'OPTIONS'];
    const answers = await refused((session) =>
      Promise.all([
        ...types.map((type) =>
          call(session, { path: GET_TENANT, headers: { 'content-type': type }, body: [acme] }),
        ),
        ...methods.map((method) =>
          call(session, { path: GET_TENANT, headers: { ':method': method }, unfinished: true }),
        ),
      ]),
    );
    assert.deepEqual(
      answers.map(({ httpStatus }) => httpStatus),
      [...repeated(types.length, 415), ...repeated(methods.length, 405)],
    );
    assert.deepEqual(
      summary(answers),
      repeated(answers.length, [STATUS.invalidArgument, 'MALFORMED_REQUEST']),
    );
    const proper = ['application/grpc+proto', 'application/grpc;charset=utf-8'];
    const served = await refused((session) =>
      Promise.all(
        proper.map((type) =>
          call(session, { path: GET_TENANT, headers: { 'content-type': type }, body: [acme] }),
        ),
      ),
    );
    assert.deepEqual(summary(served), repeated(2, [STATUS.ok, undefined]));
  });

  test('case 44: headers that are no metadata, or name what is ours, change nothing and reach no log', async () => {
    const from = hostile.service.log.length;
    const answers = await refused((session) =>
      Promise.all(
        [
          { 'x-bin': '!!! not base64 !!!' },
          { 'keyward-call': '00000000-0000-4000-8000-000000000000' },
          { 'grpc-tags-bin': 'AAAA', cookie: `session=${SECRET.toString('hex')}` },
        ].map((headers) => call(session, { path: GET_TENANT, headers, body: [acme] })),
      ),
    );
    assert.deepEqual(summary(answers), repeated(3, [STATUS.ok, undefined]));
    assert.deepEqual(
      hostile.service.log.slice(from).filter(({ text }) => text !== undefined),
      [],
    );
  });

  test('an unknown method is METHOD_UNKNOWN, and its name is nowhere repeated', async () => {
    const paths = [
      '/keyward.v1.KeyService/Nothing',
      '/',
      '/x',
      `/${'a'.repeat(9_000)}`,
      '/a%0d%0ab/\u00ff',
    ];
    const answers = await refused((session) =>
      Promise.all(paths.map((path) => call(session, { path }))),
    );
    assert.deepEqual(
      summary(answers),
      repeated(paths.length, [STATUS.unimplemented, 'METHOD_UNKNOWN']),
    );
    for (const { message } of answers)
      assert.equal(message, 'cannot find the method: this release does not have it');
  });

  test('health names that were never served are not remembered, and their watch says so', async () => {
    const path = '/grpc.health.v1.Health/Check';
    const [unknown, known] = await hostile.staysHonest((session) =>
      Promise.all([
        call(session, { path, body: [grpcFrame(field(1, 'z'.repeat(1_000_000)))] }),
        call(session, { path, body: [grpcFrame(field(1, 'keyward.v1.KeyService'))] }),
      ]),
    );
    assert.equal(unknown?.status, 5);
    assert.ok((unknown?.message.length ?? Infinity) < 100);
    assert.equal(known?.status, STATUS.ok);
  });
});

describe('names', () => {
  const evil = [
    Buffer.from('tenants/\xff\xfe', 'latin1'),
    'tenants/a\u0000b',
    'tenants/a\nb',
    'tenants/a\r\nkeyward: forged',
    'tenants/a\u202eb',
    'tenants/a\u2066b',
    'tenants/\ufeffa',
    'tenants/a\u0301',
    'tenants/../system',
    'tenants/a/../b',
    "tenants/a' OR '1'='1",
    'tenants/\u{1f511}',
  ];

  test('case 45: invalid UTF-8, NUL, newlines and bidi controls are refused with their field', async () => {
    const from = hostile.service.log.length;
    const attempts = evil.flatMap((name) => [
      { path: GET_TENANT, body: [grpcFrame(field(1, name))], expected: 'name' },
      {
        path: CREATE_TENANT,
        body: [grpcFrame(field(1, Buffer.from(name as string).subarray(8)))],
        expected: 'tenant_id',
      },
      {
        path: ENCRYPT,
        body: [grpcFrame(Buffer.concat([field(1, name), field(2, SECRET)]))],
        expected: 'name',
      },
    ]);
    const answers = await refused((session) =>
      Promise.all(attempts.map((parts) => call(session, parts))),
    );
    assert.deepEqual(
      answers.map(({ status, reason, fields }) => [status, reason, fields]),
      attempts.map(({ expected }) => [STATUS.invalidArgument, 'INVALID_FIELD', [expected]]),
    );
    assert.doesNotMatch(JSON.stringify(hostile.service.log.slice(from)), /forged|\\u202e|‮/);
  });

  test('case 45: the same in an encryption context', async () => {
    const name = field(1, 'tenants/acme/keys/k');
    const entries = [
      [Buffer.from('\xff', 'latin1'), 'v'],
      ['k', Buffer.from('\xc3\x28', 'latin1')],
      ['k\u0000', 'v'],
      ['k', 'a\nb'],
    ] as const;
    const answers = await refused((session) =>
      Promise.all(
        entries.map(([key, value]) => {
          const entry = field(3, Buffer.concat([field(1, key), field(2, value)]));
          return call(session, {
            path: ENCRYPT,
            body: [grpcFrame(Buffer.concat([name, field(2, SECRET), entry]))],
          });
        }),
      ),
    );
    assert.deepEqual(
      answers.map(({ reason, fields }) => [reason, fields]),
      repeated(entries.length, ['INVALID_FIELD', ['encryption_context']]),
    );
  });
});
