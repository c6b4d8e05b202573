/**
 * Attacks by number and by time: streams, resets, frames, connections, bodies and answers that
 * never end. The server keeps its limits, ends what goes beyond them, and serves everybody else.
 * Each attack is bounded; no test depends on how long anything takes.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { constants } from 'node:http2';
import { connect as connectTcp } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import {
  type Answer,
  call,
  FLAG,
  FRAME,
  FrameClient,
  field,
  frame,
  grpcFrame,
  headerBlock,
  openSession,
  SilentSockets,
  uint32,
} from '../faults/http2.ts';
import { eventually, reasonOf } from '../support/kit.ts';
import { type HostileService, KEY, SECRET, startHostile } from './service.ts';

const LIST_TENANTS = '/keyward.v1.AdminService/ListTenants';
const GET_DATA_KEY = '/keyward.v1.DataKeyService/GetDataKey';
const HEALTH = '/grpc.health.v1.Health/Check';
const HEALTH_WATCH = '/grpc.health.v1.Health/Watch';
const EMPTY = grpcFrame(Buffer.alloc(0));
const CANCEL = uint32(constants.NGHTTP2_CANCEL);
const DEADLINE_EXCEEDED = 4;
const NOT_FOUND = 5;

/** The ids of a client's first streams. */
function streamIds(count: number, from = 0): number[] {
  return Array.from({ length: count }, (_, index) => 2 * (from + index) + 1);
}

/** The reasons with which calls failed, each once. */
function reasons(answers: readonly Answer[]): string[] {
  return [...new Set(answers.map(({ reason, status }) => reason ?? `status ${status}`))].sort();
}

/** The first `count` answers that come. */
async function first(count: number, calls: readonly Promise<Answer>[]): Promise<Answer[]> {
  const answers: Answer[] = [];
  for (const each of calls) each.then((answer) => answers.push(answer));
  await eventually(() => assert.ok(answers.length >= count));
  return answers.slice(0, count);
}

/** Holds the tables of keys, so that whoever wants to change them waits. */
async function lockKeys(
  hostile: HostileService,
): Promise<AsyncDisposable & { waiting(): Promise<number> }> {
  const client = new pg.Client({ connectionString: hostile.environment.urls.superuser });
  await client.connect();
  await client.query('BEGIN; LOCK TABLE keys, key_versions IN ACCESS EXCLUSIVE MODE');
  return {
    waiting: async () => {
      await client.query('SELECT pg_stat_clear_snapshot()'); // A transaction sees one snapshot otherwise.
      const { rows } = await client.query<{ count: string }>(
        `SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND wait_event_type = 'Lock'`,
      );
      return Number(rows[0]?.count);
    },
    [Symbol.asyncDispose]: () => client.end(),
  };
}

describe('with default limits', () => {
  let hostile: HostileService;
  before(async () => {
    hostile = await startHostile();
  });
  after(async () => {
    await hostile?.[Symbol.asyncDispose]();
  });

  test('case 98: streams that are reset as soon as they are opened cost the connection', async () => {
    const from = hostile.service.log.length;
    const block = headerBlock(LIST_TENANTS);
    await hostile.staysHonest(async () => {
      using client = await FrameClient.connect(hostile.peer);
      client.begin();
      for (let batch = 0; !client.isClosed; batch += 1) {
        const streams = streamIds(500, batch * 500).map((id) => [
          frame(FRAME.headers, FLAG.endHeaders, id, block),
          frame(FRAME.rstStream, 0, id, CANCEL),
        ]);
        client.send(...streams.flat());
        await sleep(20); // So that the server has the processor, too.
      }
      // What it is told is lost where it goes on sending when the server closes.
      if (client.goaway !== undefined)
        assert.equal(client.goaway.code, constants.NGHTTP2_ENHANCE_YOUR_CALM);
    });
    await hostile.service.logged(
      ({ msg }) => String(msg).startsWith('a connection is ended: '),
      from,
    );
  });

  test('case 98: whole requests that are reset, whose work is then for nobody, hold up no others', async () => {
    const block = headerBlock(LIST_TENANTS);
    await hostile.staysHonest(async () => {
      using client = await FrameClient.connect(hostile.peer);
      client.begin();
      for (let batch = 0; batch < 20; batch++) {
        const streams = streamIds(100, batch * 100).map((id) => [
          frame(FRAME.headers, FLAG.endHeaders, id, block),
          frame(FRAME.data, FLAG.endStream, id, EMPTY),
        ]);
        client.send(...streams.flat());
        await sleep(1);
        client.send(
          ...streamIds(100, batch * 100).map((id) => frame(FRAME.rstStream, 0, id, CANCEL)),
        );
      }
    });
  });

  test('case 98: streams beyond those that one connection may have are refused, then the connection is', async () => {
    const block = headerBlock(LIST_TENANTS);
    await hostile.staysHonest(async () => {
      using client = await FrameClient.connect(hostile.peer);
      client.begin();
      client.send(
        ...streamIds(2_000).map((id) => frame(FRAME.headers, FLAG.endHeaders, id, block)),
      );
      await client.closed;
    });
  });

  test('too many PINGs are answered with ENHANCE_YOUR_CALM, those of a keepalive are not', async () => {
    await hostile.staysHonest(async () => {
      using quiet = await FrameClient.connect(hostile.peer);
      quiet.begin();
      quiet.send(...Array.from({ length: 20 }, () => frame(FRAME.ping, 0, 0, Buffer.alloc(8))));
      await eventually(() => assert.equal(quiet.received(FRAME.ping).length, 20));
      assert.equal(quiet.goaway, undefined);

      using loud = await FrameClient.connect(hostile.peer);
      loud.begin();
      loud.send(...Array.from({ length: 300 }, () => frame(FRAME.ping, 0, 0, Buffer.alloc(8))));
      await loud.closed;
      const { goaway } = loud;
      assert.equal(goaway?.code, constants.NGHTTP2_ENHANCE_YOUR_CALM);
      assert.ok(
        loud.frames.some(({ payload }) => payload.subarray(8).toString() === 'too_many_pings'),
      );
    });
  });

  test('floods of other frames, and what is no HTTP/2 at all, end at most their own connection', async () => {
    const block = headerBlock(LIST_TENANTS);
    const floods: Readonly<Record<string, readonly Buffer[]>> = {
      pings: Array.from({ length: 5_000 }, () => frame(FRAME.ping, 0, 0, Buffer.alloc(8))),
      settings: Array.from({ length: 5_000 }, () => frame(FRAME.settings, 0, 0)),
      'empty data': [
        frame(FRAME.headers, FLAG.endHeaders, 1, block),
        ...Array.from({ length: 5_000 }, () => frame(FRAME.data, 0, 1)),
      ],
      continuations: [
        frame(FRAME.headers, 0, 1, block),
        ...Array.from({ length: 5_000 }, () =>
          frame(FRAME.continuation, 0, 1, block.subarray(0, 9)),
        ),
      ],
      'window updates': Array.from({ length: 5_000 }, () =>
        frame(FRAME.windowUpdate, 0, 0, uint32(0x7fffffff)),
      ),
      'resets of nothing': streamIds(5_000).map((id) => frame(FRAME.rstStream, 0, id, CANCEL)),
      'unknown frames': Array.from({ length: 5_000 }, () => frame(0xee, 0xff, 1, Buffer.alloc(16))),
      'a frame too large': [frame(FRAME.data, 0, 1, Buffer.alloc(100_000))],
      'frames of wrong size': [
        frame(FRAME.ping, 0, 0, Buffer.alloc(3)),
        frame(FRAME.settings, 0, 0, Buffer.alloc(5)),
      ],
      'no header block': [frame(FRAME.headers, FLAG.endHeaders, 1, Buffer.alloc(64, 0xff))],
      'server stream': [frame(FRAME.headers, FLAG.endHeaders, 2, block)],
    };
    await hostile.staysHonest(async () => {
      for (const frames of Object.values(floods)) {
        using client = await FrameClient.connect(hostile.peer);
        client.begin();
        client.send(...frames);
        client.send(frame(FRAME.ping, 0, 0, Buffer.alloc(8)));
        await Promise.race([
          client.closed,
          eventually(() => assert.notEqual(client.received(FRAME.ping).length, 0)),
        ]);
      }
      using noPreface = await FrameClient.connect(hostile.peer);
      noPreface.send(Buffer.from('GET / HTTP/1.1\r\nhost: x\r\n\r\n'.repeat(100)));
      await noPreface.closed;
    });
  });

  test('case 48: calls that are cancelled in the middle leave nothing behind', async () => {
    await hostile.staysHonest(async () => {
      const keyward = hostile.service.client();
      for (let round = 0; round < 4; round++) {
        const abort = new AbortController();
        const calls = Array.from({ length: 40 }, (_, index) =>
          index % 2
            ? keyward.createKey(
                { parent: 'tenants/acme', keyId: `cancelled-${round}-${index}` },
                abort,
              )
            : keyward.encrypt({ name: KEY, plaintext: SECRET }, abort),
        );
        setTimeout(() => abort.abort(), 3 * round);
        await Promise.allSettled(calls);
      }
      // Each key that was begun is there as a whole, or not at all.
      for await (const { name } of keyward.keys('tenants/acme')) {
        await keyward.encrypt({ name, plaintext: SECRET });
      }
    });
  });
});

describe('with tight limits', () => {
  let hostile: HostileService;
  before(async () => {
    hostile = await startHostile({
      KEYWARD_MAX_CALLS: '8',
      KEYWARD_MAX_REQUEST_BYTES: '1048576',
      KEYWARD_MAX_CONNECTIONS: '40',
      KEYWARD_HANDSHAKE_MS: '1000',
    });
  });
  after(async () => {
    await hostile?.[Symbol.asyncDispose]();
  });

  test('case 99: requests that never come make way for those that do', async () => {
    const answers = await hostile.staysHonest(async () => {
      const hanging: Promise<Answer>[] = [];
      using one = openSession(hostile.peer);
      using two = openSession(hostile.peer);
      for (let wave = 0; wave < 20; wave++) {
        for (const session of [one, two]) {
          for (let index = 0; index < 25; index++) {
            hanging.push(call(session, { path: LIST_TENANTS, unfinished: true }));
          }
        }
        await sleep(5);
      }
      return await first(992, hanging); // Eight have a place.
    });
    assert.deepEqual(reasons(answers), ['SERVER_BUSY']);
  });

  test('case 99: with as many calls under way as a caller may have, more are shed, and health and others answer', async () => {
    const getDataKey = (index: number) => ({
      path: GET_DATA_KEY,
      body: [grpcFrame(field(1, `tenants/acme/keys/k-${index}/dataKeys/d`))],
    });
    {
      await using lock = await lockKeys(hostile);
      using session = openSession(hostile.peer);
      const held = Array.from({ length: 4 }, (_, index) => call(session, getDataKey(index)));
      await eventually(async () => assert.ok((await lock.waiting()) > 0));
      const shed = await eventually(async () => {
        const answer = await call(session, getDataKey(4));
        assert.equal(answer.reason, 'SERVER_BUSY');
        return answer;
      });
      assert.deepEqual([shed.status, shed.retryAfterMs], [8, 200]);
      for (const path of [HEALTH, LIST_TENANTS])
        assert.equal((await call(session, { path, body: [EMPTY] })).status, 0);
      using other = openSession(hostile.peerOf('other'));
      const denied = await call(other, getDataKey(5));
      assert.notEqual(denied.reason, 'SERVER_BUSY');
      await lock[Symbol.asyncDispose]();
      // Those that were let in are served as soon as that is possible; there are no such keys.
      for (const { status } of await Promise.all(held)) assert.equal(status, NOT_FOUND);
    }
    await hostile.staysHonest(async () => {});
  });

  test('a peer that does not get as far as HTTP in time is gone, and the log says how far it got', async () => {
    const says = (far: string) =>
      hostile.service.log.some(
        ({ msg, address, limitMs }) =>
          msg === `a connection is closed: its peer ${far} in time` &&
          address === '127.0.0.1' &&
          limitMs === 1_000,
      );
    const silent = connectTcp({ host: '127.0.0.1', port: hostile.peer.port });
    await once(silent, 'close');
    await eventually(() => assert.ok(says('finished no TLS handshake')));
    // On a busy machine a handshake may take too long as well, and another is tried.
    await eventually(async () => {
      using shaken = await FrameClient.connect(hostile.peer);
      await shaken.closed;
      assert.ok(says('spoke no HTTP'));
    });
  });

  test('health watches are limited apart from calls', async () => {
    await hostile.staysHonest(async () => {
      using client = await FrameClient.connect(hostile.peer);
      client.begin();
      const block = headerBlock(HEALTH_WATCH);
      client.send(
        ...streamIds(20).flatMap((id) => [
          frame(FRAME.headers, FLAG.endHeaders, id, block),
          frame(FRAME.data, FLAG.endStream, id, EMPTY),
        ]),
      );
      const ended = () =>
        client.received(FRAME.headers).filter(({ flags }) => (flags & FLAG.endStream) !== 0).length;
      await eventually(() => assert.equal(ended(), 16));
      await eventually(() => assert.equal(client.received(FRAME.data).length, 4));
    });
  });

  test('case 100: bodies that together are more than the server holds make way for others', async () => {
    const answers = await hostile.staysHonest(async (session) => {
      const part = grpcFrame(Buffer.alloc(200_000), { length: 400_000 });
      const calls = Array.from({ length: 12 }, () =>
        call(session, { path: LIST_TENANTS, body: [part], unfinished: true }),
      );
      // Eight have a place, and at most five of these the bytes that they want.
      return await first(7, calls);
    });
    assert.deepEqual(reasons(answers), ['SERVER_BUSY']);
  });

  test('case 101: sockets that never shake hands make way, and are closed in the end', async () => {
    const half = Buffer.from([22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]);
    await hostile.staysHonest(async () => {
      for (const bytes of [Buffer.alloc(0), half, Buffer.from('GET / HTTP/1.1\r\n\r\n')]) {
        using sockets = new SilentSockets(hostile.peer.port, 200, bytes);
        for (let index = 0; index < 5; index++) {
          using session = openSession(hostile.peer);
          const { status } = await call(session, { path: LIST_TENANTS, body: [EMPTY] });
          assert.equal(status, 0);
        }
        await eventually(() => assert.equal(sockets.open, 0));
      }
    });
  });

  test('whoever speaks TLS but not HTTP/2 is disconnected', async () => {
    await hostile.staysHonest(async () => {
      for (const ALPNProtocols of [['http/1.1'], undefined, ['spdy/3', 'x']]) {
        const attempt = FrameClient.connect(hostile.peer, ALPNProtocols ? { ALPNProtocols } : {});
        const client = await attempt.catch(() => undefined);
        client?.send(Buffer.from('GET / HTTP/1.1\r\nhost: x\r\n\r\n'));
        await client?.closed;
      }
    });
  });
});

describe('cancelled calls', () => {
  test('case 48: a cancelled call that waits for the database waits no longer than its deadline', async () => {
    await using hostile = await startHostile({
      KEYWARD_DEADLINE_MS: '2000',
      // Maintenance waits for the lock, too: once a year.
      KEYWARD_MAINTENANCE_TICKS: '0 0 0 1 1 *',
    });
    {
      await using lock = await lockKeys(hostile);
      const abort = new AbortController();
      const cancelled = hostile.keyward.createKey({ parent: 'tenants/acme', keyId: 'gone' }, abort);
      cancelled.catch(() => {});
      await eventually(async () => assert.ok((await lock.waiting()) > 0));
      abort.abort();
      await assert.rejects(cancelled);
      await eventually(async () => assert.equal(await lock.waiting(), 0));
    }
    await hostile.staysHonest(async () => {});
    assert.equal(
      await reasonOf(hostile.keyward.getKey({ name: `tenants/acme/keys/gone` })),
      'RESOURCE_NOT_FOUND',
    );
  });
});

describe('with a short deadline', () => {
  let hostile: HostileService;
  before(async () => {
    hostile = await startHostile({ KEYWARD_DEADLINE_MS: '3000', KEYWARD_IDLE_MS: '1000' });
  });
  after(async () => {
    await hostile?.[Symbol.asyncDispose]();
  });

  test('case 100: a body that comes byte by byte is ended at the deadline, and its stream closed', async () => {
    await hostile.staysHonest(async () => {
      using client = await FrameClient.connect(hostile.peer);
      client.begin();
      client.send(frame(FRAME.headers, FLAG.endHeaders, 1, headerBlock(LIST_TENANTS)));
      client.send(frame(FRAME.data, 0, 1, Buffer.from([0, 0, 0, 0xff, 0xff])));
      const trickle = setInterval(() => client.send(frame(FRAME.data, 0, 1, Buffer.from([0]))), 20);
      try {
        await eventually(() => assert.equal(client.received(FRAME.rstStream).length, 1));
        assert.equal(client.received(FRAME.headers).length, 1);
      } finally {
        clearInterval(trickle);
      }
    });
  });

  test('case 100: answers that are never read are given up', async () => {
    await hostile.staysHonest(async () => {
      using client = await FrameClient.connect(hostile.peer);
      client.begin([[4, 0]]); // SETTINGS_INITIAL_WINDOW_SIZE
      client.send(
        ...streamIds(5).flatMap((id) => [
          frame(FRAME.headers, FLAG.endHeaders, id, headerBlock(LIST_TENANTS)),
          frame(FRAME.data, FLAG.endStream, id, EMPTY),
        ]),
      );
      await eventually(() => assert.equal(client.received(FRAME.rstStream).length, 5));
      assert.equal(client.received(FRAME.data).length, 0);
    });
  });

  test('case 101: who shakes hands and then says nothing, or reads nothing, is disconnected', async () => {
    await hostile.staysHonest(async () => {});
    const before = hostile.openSockets();
    const clients = await Promise.all(
      Array.from({ length: 10 }, () => FrameClient.connect(hostile.peer)),
    );
    try {
      for (const client of clients.slice(0, 5)) client.begin();
      for (const client of clients.slice(3, 8)) client.stopReading();
      await eventually(() => assert.ok(hostile.openSockets() <= before));
    } finally {
      for (const client of clients) client[Symbol.dispose]();
    }
  });
});

describe('the end of connections', () => {
  test('a connection that has come of age is closed in order, and calls go on', async () => {
    await using hostile = await startHostile({ KEYWARD_CONNECTION_AGE_MS: '1000' });
    await hostile.staysHonest(async (session) => {
      const goaway = new Promise((resolve) => session.once('goaway', resolve));
      const closed = new Promise((resolve) => session.once('close', resolve));
      assert.equal((await call(session, { path: LIST_TENANTS, body: [EMPTY] })).status, 0);
      assert.equal(await goaway, constants.NGHTTP2_NO_ERROR);
      await closed;
    });
  });

  test('case 108: the end is not held up by who is connected and does nothing', async () => {
    const hostile = await startHostile({ KEYWARD_DRAIN_MS: '500', KEYWARD_DEADLINE_MS: '600000' });
    try {
      using _sockets = new SilentSockets(hostile.peer.port, 10);
      using silent = await FrameClient.connect(hostile.peer);
      using session = openSession(hostile.peer);
      silent.stopReading();
      const unfinished = call(session, { path: LIST_TENANTS, unfinished: true });
      assert.equal((await call(session, { path: LIST_TENANTS, body: [EMPTY] })).status, 0);
      assert.equal(await hostile.service.stop(), 0);
      assert.notEqual((await unfinished).status, DEADLINE_EXCEEDED);
    } finally {
      await hostile[Symbol.asyncDispose]();
    }
  });
});
