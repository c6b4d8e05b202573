/**
 * Admission, through raw HTTP/2: what outlives its peer, what one caller can have of the server,
 * what resets count, and what is refused with a reason.
 */
import assert from 'node:assert/strict';
import { constants } from 'node:http2';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import {
  call,
  FLAG,
  FRAME,
  FrameClient,
  field,
  frame,
  grpcFrame,
  headerBlock,
  openSession,
  uint32,
} from '../faults/http2.ts';
import { eventually } from '../support/kit.ts';
import { type HostileService, KEY, startHostile } from './service.ts';

const LIST_TENANTS = '/keyward.v1.AdminService/ListTenants';
const ENCRYPT = '/keyward.v1.EncryptionService/Encrypt';
const BATCH_ENCRYPT = '/keyward.v1.EncryptionService/BatchEncrypt';
const AUDIT = '/keyward.v1.AuditService/GetCheckpoint';
const READ_ENTRIES = '/keyward.v1.AuditService/ReadEntries';
const HEALTH = '/grpc.health.v1.Health/Check';
const HEALTH_WATCH = '/grpc.health.v1.Health/Watch';
const EMPTY = grpcFrame(Buffer.alloc(0));
const CANCEL = uint32(constants.NGHTTP2_CANCEL);
const OK = 0;
const UNIMPLEMENTED = 12;

const encryptRequest = grpcFrame(Buffer.concat([field(1, KEY), field(2, Buffer.alloc(64))]));

function streamIds(count: number, from = 0): number[] {
  return Array.from({ length: count }, (_, index) => 2 * (from + index) + 1);
}

/** Whole calls with empty messages. */
function wholeCalls(path: string, ids: readonly number[]): Buffer[] {
  const block = headerBlock(path);
  return ids.flatMap((id) => [
    frame(FRAME.headers, FLAG.endHeaders, id, block),
    frame(FRAME.data, FLAG.endStream, id, EMPTY),
  ]);
}

describe('what a peer sends and does not stay for', () => {
  let hostile: HostileService;
  before(async () => {
    hostile = await startHostile();
  });
  after(async () => {
    await hostile?.[Symbol.asyncDispose]();
  });

  test('whole requests whose answers are not read, from a peer that then goes away, end nothing', async () => {
    await hostile.staysHonest(async () => {
      for (let round = 0; round < 5; round += 1) {
        using client = await FrameClient.connect(hostile.peerOf('stranger'));
        client.begin();
        client.stopReading();
        for (let burst = 0; burst < 6; burst += 1) {
          client.send(...wholeCalls(LIST_TENANTS, streamIds(100, burst * 100)));
          await sleep(1);
        }
      }
    });
  });

  test('callers whose deadlines pass keep their connection, and calls with time enough are served on it', async () => {
    // Frames of our own: Node's client now and then forgets a stream that it has reset, and bytes
    // of the connection's window with it.
    await hostile.staysHonest(async () => {
      using client = await FrameClient.connect(hostile.peer);
      client.begin();
      client.send(frame(FRAME.windowUpdate, 0, 0, uint32(2 ** 30)));
      const isAnswered = (id: number) =>
        client.frames.some(({ stream, flags }) => stream === id && flags & FLAG.endStream);
      const send = (id: number, block: Buffer) =>
        client.send(
          frame(FRAME.headers, FLAG.endHeaders, id, block),
          frame(FRAME.data, FLAG.endStream, id, encryptRequest),
        );
      const hurried = headerBlock(ENCRYPT, [['grpc-timeout', '20m']]);
      for (let round = 0; round < 75; round += 1) {
        const ids = streamIds(40, round * 40);
        client.frames.length = 0;
        for (const id of ids) send(id, hurried);
        client.send(frame(FRAME.ping, 0, 0, Buffer.alloc(8)));
        await sleep(20);
        // By its answer the server has let in what came before: it isn't reset any earlier.
        await eventually(() =>
          assert.ok(client.received(FRAME.ping).length > 0 || client.isClosed),
        );
        const late = ids.filter((id) => !isAnswered(id));
        client.send(...late.map((id) => frame(FRAME.rstStream, 0, id, CANCEL)));
      }
      assert.ok(!client.isClosed, JSON.stringify(client.goaway));
      const [unhurried = 0] = streamIds(1, 3_000);
      send(unhurried, headerBlock(ENCRYPT));
      await eventually(() => assert.ok(isAnswered(unhurried)));
      assert.ok(client.received(FRAME.data).some(({ stream }) => stream === unhurried));
    });
  });

  test('resets without end cost a caller its connection, a stranger sooner', async () => {
    const from = hostile.service.log.length;
    await hostile.staysHonest(async () => {
      const block = headerBlock(LIST_TENANTS);
      using client = await FrameClient.connect(hostile.peerOf('stranger'));
      client.begin();
      const isEnded = () => client.isClosed || client.goaway !== undefined;
      for (let batch = 0; !isEnded(); batch += 1) {
        const streams = streamIds(100, batch * 100).map((id) => [
          frame(FRAME.headers, FLAG.endHeaders, id, block),
          frame(FRAME.rstStream, 0, id, CANCEL),
        ]);
        client.send(...streams.flat(), frame(FRAME.ping, 0, 0, Buffer.alloc(8)));
        // Of a thousand at once HTTP/2 would end the connection itself, and say something else.
        await eventually(() => assert.ok(isEnded() || client.received(FRAME.ping).length > batch));
      }
      assert.equal(client.goaway?.code, constants.NGHTTP2_ENHANCE_YOUR_CALM);
      assert.equal(client.goaway.text, 'too_many_resets');
    });
    const line = await hostile.service.logged(
      ({ msg }) => msg === 'a connection is ended: too many stream resets',
      from,
    );
    assert.equal(line['caller'], 'spiffe://keyward.test/stranger');
  });
});

describe('what one caller can have', () => {
  let hostile: HostileService;
  before(async () => {
    hostile = await startHostile({
      KEYWARD_MAX_CALLS: '64',
      KEYWARD_MAX_REQUEST_BYTES: '2097152',
      KEYWARD_DEADLINE_MS: '60000',
    });
  });
  after(async () => {
    await hostile?.[Symbol.asyncDispose]();
  });

  // Before those that hold what they can: the server may take a while to see that they are gone.
  test('of more calls at once than a caller may have the first are served, and give way to none', async () => {
    using session = openSession(hostile.peer);
    const calls = Array.from({ length: 100 }, () =>
      call(session, { path: ENCRYPT, body: [encryptRequest] }),
    );
    const answers = await Promise.all(calls);
    const reasons = answers.map(({ status, reason }) => reason ?? status);
    // Half of what there is: what one caller leaves to others.
    assert.deepEqual(new Set(reasons.slice(0, 32)), new Set([OK]));
    const refused = answers.filter(({ reason }) => reason === 'SERVER_BUSY');
    assert.ok(refused.length > 1);
    for (const { status, message, headers } of refused) {
      assert.deepEqual([status, message.slice(0, 24)], [8, 'cannot accept the call: ']);
      const details = Buffer.from(String(headers['grpc-status-details-bin']), 'base64');
      for (const text of ['RetryInfo', 'RequestInfo', String(headers['keyward-request-id'])])
        assert.ok(details.includes(text), text);
    }
    const ids = refused.map(({ headers }) => headers['keyward-request-id']);
    assert.equal(new Set(ids).size, refused.length);
  });

  test('calls of one caller that are on their way give way to none of its later ones', async () => {
    using session = openSession(hostile.peer);
    const { promise: after, resolve: send } = Promise.withResolvers<void>();
    // Half of what there is.
    const begin = () =>
      Array.from({ length: 32 }, () =>
        call(session, { path: ENCRYPT, body: [encryptRequest], after }),
      );
    const first = begin();
    assert.equal((await call(session, { path: HEALTH, body: [EMPTY] })).status, OK);
    for (const { reason } of await Promise.all(begin())) assert.equal(reason, 'SERVER_BUSY');
    assert.equal(await Promise.race([...first, 'on their way']), 'on their way');
    send();
    for (const { status } of await Promise.all(first)) assert.equal(status, OK);
  });

  test('a caller whose connection is reset while it is answered has its places back, before any deadline', async () => {
    const from = hostile.service.log.length;
    const files = hostile.openFiles();
    const block = headerBlock(ENCRYPT);
    const requests = streamIds(200).map((id) => frame(FRAME.headers, FLAG.endHeaders, id, block));
    for (let round = 0; round < 10; round += 1) {
      const peer = hostile.peerOf(`short-lived ${round}`);
      const client = await FrameClient.connect(peer, { isResettable: true });
      client.begin();
      client.send(...requests);
      // Refusals take turns: the others are written when there is nobody any more.
      await eventually(() => assert.ok(client.received(FRAME.headers).length > 0));
      await client.reset();
    }
    await eventually(() => assert.ok(hostile.openFiles() <= files));
    const lines = hostile.service.log.slice(from);
    assert.ok(lines.some(({ outcome }) => outcome === 'SERVER_BUSY'));
    for (const { outcome, msg } of lines) {
      assert.notEqual(outcome, 'DEADLINE_EXCEEDED');
      assert.notEqual(msg, 'a connection is closed: its peer is silent, and answers no PING');
    }
  });

  /** A caller that holds as much as it can by these calls, while `during` is done. */
  async function greedy<T>(
    path: string,
    body: readonly Buffer[],
    during: () => Promise<T>,
  ): Promise<T> {
    using session = openSession(hostile.peerOf('greedy'));
    const calls = Array.from({ length: 200 }, () =>
      call(session, { path, body, unfinished: true }),
    );
    let refused = 0;
    for (const each of calls)
      each.then(({ reason }) => (refused += reason === 'SERVER_BUSY' ? 1 : 0));
    await eventually(() => assert.ok(refused >= 100, `${refused} refused`));
    return during();
  }

  test('streams without end of one caller leave room for those of others, and for the audit service', async () => {
    await greedy(HEALTH_WATCH, [EMPTY], async () => {
      using session = openSession(hostile.peer);
      const upToLeaf1 = Buffer.concat([field(1, 'tenants/system'), Buffer.from([0x18, 1])]);
      const entries = await call(session, { path: READ_ENTRIES, body: [grpcFrame(upToLeaf1)] });
      assert.equal(entries.status, OK, entries.reason);
      using watch = await FrameClient.connect(hostile.peerOf('another'));
      watch.begin();
      watch.send(...wholeCalls(HEALTH_WATCH, [1]));
      await eventually(() => assert.equal(watch.received(FRAME.data).length, 1));
    });
  });

  test('requests of one caller that never end leave room for others’ calls', async () => {
    await greedy(ENCRYPT, [], async () => {
      using session = openSession(hostile.peer);
      for (const path of [LIST_TENANTS, AUDIT, HEALTH])
        assert.equal((await call(session, { path, body: [EMPTY] })).status, OK);
      assert.equal((await call(session, { path: ENCRYPT, body: [encryptRequest] })).status, OK);
    });
  });

  test('bytes of one caller’s requests leave room for others’', async () => {
    const part = grpcFrame(Buffer.alloc(100_000), { length: 4_000_000 });
    await greedy(BATCH_ENCRYPT, [part], async () => {
      using session = openSession(hostile.peer);
      const request = Buffer.concat([field(1, KEY), field(2, Buffer.alloc(60_000))]);
      for (let index = 0; index < 10; index += 1) {
        const { status, reason } = await call(session, {
          path: ENCRYPT,
          body: [grpcFrame(request)],
        });
        assert.equal(status, OK, reason);
      }
    });
  });
});

describe('what is refused', () => {
  let hostile: HostileService;
  before(async () => {
    hostile = await startHostile();
  });
  after(async () => {
    await hostile?.[Symbol.asyncDispose]();
  });

  test('every answer names its call, as the log does', async () => {
    const from = hostile.service.log.length;
    using session = openSession(hostile.peer);
    for (const path of [LIST_TENANTS, ENCRYPT, '/keyward.v1.KeyService/Nothing']) {
      const { headers } = await call(session, { path, body: [EMPTY] });
      const id = headers['keyward-request-id'];
      assert.match(String(id), /^[0-9a-f-]{36}$/);
      await hostile.service.logged(({ requestId }) => requestId === id, from);
    }
    const { headers } = await call(session, { path: HEALTH, body: [EMPTY] });
    assert.match(String(headers['keyward-request-id']), /^[0-9a-f-]{36}$/);
  });

  test('the content type is known in whatever case', async () => {
    using session = openSession(hostile.peer);
    for (const type of ['APPLICATION/GRPC', 'Application/Grpc+Proto']) {
      const answer = await call(session, {
        path: LIST_TENANTS,
        headers: { 'content-type': type },
        body: [EMPTY],
      });
      assert.equal(answer.status, OK);
    }
  });

  test('a message that is marked as compressed, and in no encoding, is refused and not performed', async () => {
    using session = openSession(hostile.peer);
    for (const message of [encryptRequest.subarray(5), gzipSync('x'), Buffer.alloc(0)]) {
      const answer = await call(session, {
        path: ENCRYPT,
        body: [grpcFrame(message, { flag: 1 })],
      });
      assert.deepEqual(
        [answer.status, answer.reason],
        [UNIMPLEMENTED, 'COMPRESSION_NOT_SUPPORTED'],
      );
    }
    const create = field(1, 'tenants/acme');
    const parts = [...grpcFrame(Buffer.concat([create, field(2, 'compressed')]), { flag: 1 })];
    const bytewise = parts.map((byte) => Buffer.from([byte]));
    const answer = await call(session, {
      path: '/keyward.v1.KeyService/CreateKey',
      body: bytewise,
    });
    assert.equal(answer.reason, 'COMPRESSION_NOT_SUPPORTED');
    const { keys } = await hostile.keyward.listKeys({ parent: 'tenants/acme' });
    assert.deepEqual(
      keys.map(({ name }) => name),
      [KEY],
    );
  });

  test('no message, or two, is UNIMPLEMENTED, as gRPC has it; half a one is malformed', async () => {
    using session = openSession(hostile.peer);
    for (const body of [[], [EMPTY, EMPTY]]) {
      const answer = await call(session, { path: LIST_TENANTS, body });
      assert.deepEqual([answer.status, answer.reason], [UNIMPLEMENTED, 'MESSAGE_COUNT_WRONG']);
    }
    const half = await call(session, {
      path: LIST_TENANTS,
      body: [grpcFrame(Buffer.alloc(3), { length: 9 })],
    });
    assert.equal(half.reason, 'MALFORMED_REQUEST');
  });

  test('too much metadata is refused with details, also once the limit is known', async () => {
    using session = openSession(hostile.peer);
    const many = Object.fromEntries(Array.from({ length: 100 }, (_, index) => [`x-${index}`, 'v']));
    for (const headers of [
      { 'x-large': 'v'.repeat(20_000) },
      many,
      { 'x-large': 'v'.repeat(20_000) },
    ]) {
      const answer = await call(session, { path: LIST_TENANTS, headers, body: [EMPTY] });
      assert.deepEqual([answer.httpStatus, answer.reason], [431, 'MESSAGE_TOO_LARGE']);
      assert.ok(Number(answer.metadata['limit']) > 0);
    }
  });
});
