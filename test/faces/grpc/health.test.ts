/**
 * The plaintext listener for health, open to whoever reaches it: what it answers, and that nothing
 * that is sent there ends, blocks or fills the service.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdirSync, readlinkSync } from 'node:fs';
import { connect as connectHttp2 } from 'node:http2';
import { connect, type Socket } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { freePort } from '../../../dev/postgres.ts';
import {
  FLAG,
  FRAME,
  field,
  frame,
  grpcFrame,
  headerBlock,
  PREFACE,
  uint32,
} from '../../faults/http2.ts';
import {
  type Environment,
  eventually,
  newEnvironment,
  type Service,
  startService,
} from '../../support/kit.ts';
import { randomBy, SEED } from '../../support/random.ts';

const CHECK = '/grpc.health.v1.Health/Check';
const WATCH = '/grpc.health.v1.Health/Watch';
const LIST = '/grpc.health.v1.Health/List';
const EMPTY = grpcFrame(Buffer.alloc(0));
const SETTINGS = frame(FRAME.settings, 0, 0);
/**
 * How soon a new caller is to be answered after a flood: at the third try at the latest, since
 * machines are shared.
 */
const SOON_MS = 250;
const RANDOM_FRAMES_MS = 3_000;

let environment: Environment;
let service: Service;
let port: number;

before(async () => {
  environment = await newEnvironment();
  port = await freePort();
  service = await startService(environment, { KEYWARD_HEALTH_LISTEN: `127.0.0.1:${port}` });
});

after(async () => {
  await service?.stop();
  await environment?.[Symbol.asyncDispose]();
});

/** A TCP connection whose end is no error here. */
function raw(...bytes: readonly Uint8Array[]): Socket {
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => {});
  // One that a test leaves open when it fails does not keep this process from its end.
  socket.unref();
  socket.resume();
  for (const piece of bytes) socket.write(piece);
  return socket;
}

function wholeRequest(stream: number, path = CHECK): Buffer {
  return Buffer.concat([
    frame(FRAME.headers, FLAG.endHeaders, stream, headerBlock(path)),
    frame(FRAME.data, FLAG.endStream, stream, EMPTY),
  ]);
}

interface Answer {
  readonly httpStatus: unknown;
  readonly status: string;
  readonly body: Buffer;
}

/** Asks on a connection of its own. */
async function ask(path: string, body: Uint8Array = EMPTY, headers: object = {}): Promise<Answer> {
  const session = connectHttp2(`http://127.0.0.1:${port}`);
  session.on('error', () => {});
  try {
    const stream = session.request({
      ':method': 'POST',
      ':path': path,
      'content-type': 'application/grpc',
      te: 'trailers',
      ...headers,
    });
    const received: Record<string, unknown> = {};
    const chunks: Buffer[] = [];
    stream.on('response', (values) => Object.assign(received, values));
    stream.on('trailers', (values) => Object.assign(received, values));
    stream.on('data', (chunk: Buffer) => chunks.push(chunk));
    stream.on('error', () => {});
    stream.end(body);
    await once(stream, 'close');
    return {
      httpStatus: received[':status'],
      status: String(received['grpc-status']),
      body: Buffer.concat(chunks),
    };
  } finally {
    session.destroy();
  }
}

function openSockets(): number {
  const directory = `/proc/${service.pid}/fd`;
  return readdirSync(directory).filter((descriptor) => {
    try {
      return readlinkSync(`${directory}/${descriptor}`).startsWith('socket:');
    } catch {
      return false; // Closed in between.
    }
  }).length;
}

/** The answer SERVING (1) to a check. */
const SERVING = grpcFrame(Buffer.from([8, 1]));

/** Of the attacks that were made, the reasons for which connections had to be ended. */
const endings: RegExp[] = [];

/**
 * Makes the attack; meanwhile and afterwards a new caller is answered, it is the same process, and
 * its sockets are closed once the attacker's are. For which reason connections had to be ended is
 * looked up in the log when all attacks are made: it has a line in ten seconds.
 */
async function survives(attack: () => Promise<readonly Socket[]>, ended?: RegExp): Promise<void> {
  const pid = service.pid;
  const from = service.log.length;
  const before = openSockets();
  const sockets = await attack();
  const waits: number[] = [];
  while (waits.length < 100 && (waits.at(-1) ?? SOON_MS) >= SOON_MS) {
    const began = performance.now();
    assert.deepEqual((await ask(CHECK)).body, SERVING);
    waits.push(performance.now() - began);
  }
  assert.ok((waits.at(-1) ?? 0) < SOON_MS, `a new caller waits: ${waits}`);
  if (ended !== undefined) {
    endings.push(ended);
    await eventually(() => assert.ok(sockets.every(({ destroyed }) => destroyed)));
  }
  for (const socket of sockets) socket.destroy();
  await eventually(() =>
    assert.ok(openSockets() <= before + 2, `${openSockets()} sockets, before ${before}`),
  );
  assert.equal(service.pid, pid);
  assert.deepEqual((await ask(CHECK)).body, SERVING);
  assert.ok(!service.log.slice(from).some(({ level }) => level === 'error' || level === 'fatal'));
}

/**
 * One connection on which the bytes are sent in pieces, until it is closed or that many pieces are
 * through.
 */
async function pour(
  first: readonly Uint8Array[],
  piece: (n: number) => Uint8Array,
  pieces: number,
) {
  const socket = raw(PREFACE, SETTINGS, ...first);
  for (let n = 0; n < pieces && !socket.destroyed; n++) {
    if (!socket.write(piece(n)))
      await Promise.race([once(socket, 'drain'), once(socket, 'close')]).catch(() => {});
    else if (n % 16 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  return socket;
}

describe('health in plaintext', () => {
  test('a check says whether calls are served, and liveness that the process answers', async () => {
    assert.deepEqual(await ask(CHECK), { httpStatus: 200, status: '0', body: SERVING });
    assert.deepEqual((await ask(CHECK, grpcFrame(field(1, 'liveness')))).body, SERVING);
    const list = await ask(LIST);
    assert.equal(list.status, '0');
    assert.ok(list.body.includes('liveness'));
  });

  test('what is not asked for as it should be is refused in a few bytes', async () => {
    assert.equal((await ask(CHECK, grpcFrame(field(1, 'keyward.v1.KeyService')))).status, '5');
    assert.equal((await ask('/keyward.v1.KeyService/ListKeys')).status, '12');
    assert.equal((await ask(CHECK, Buffer.alloc(0))).status, '12');
    assert.equal((await ask(CHECK, Buffer.concat([EMPTY, EMPTY]))).status, '12');
    assert.equal((await ask(CHECK, grpcFrame(Buffer.alloc(0), { flag: 1 }))).status, '12');
    assert.equal((await ask(CHECK, grpcFrame(Buffer.from([0xff, 0xff])))).status, '3');
    assert.equal((await ask(CHECK, grpcFrame(field(1, 'x'.repeat(1_500))))).status, '8');
    assert.equal((await ask(CHECK, EMPTY, { 'content-type': 'text/plain' })).httpStatus, 415);
    assert.equal((await ask(CHECK, EMPTY, { ':method': 'PUT' })).httpStatus, 415);
  });

  test('a watcher hears of every change', async () => {
    const session = connectHttp2(`http://127.0.0.1:${port}`);
    session.on('error', () => {});
    const stream = session.request({
      ':method': 'POST',
      ':path': WATCH,
      'content-type': 'application/grpc',
    });
    const heard: number[] = [];
    stream.on('data', (chunk: Buffer) => heard.push(chunk.at(-1) ?? -1));
    stream.on('error', () => {});
    stream.end(EMPTY);
    await eventually(() => assert.deepEqual(heard, [1]));
    const [agent] = service.agentPids;
    assert.ok(agent);
    process.kill(agent, 'SIGKILL');
    await eventually(() => assert.deepEqual(heard.slice(0, 3), [1, 2, 1]));
    session.destroy();
  });

  test('an unknown service can be watched, and is unknown', async () => {
    const session = connectHttp2(`http://127.0.0.1:${port}`);
    session.on('error', () => {});
    const stream = session.request({
      ':method': 'POST',
      ':path': WATCH,
      'content-type': 'application/grpc',
    });
    stream.on('error', () => {});
    stream.end(grpcFrame(field(1, 'nothing')));
    const [first] = (await once(stream, 'data')) as [Buffer];
    assert.equal(first.at(-1), 3);
    session.destroy();
  });
});

describe('nothing that is sent to health in plaintext ends, blocks or fills the service', () => {
  test('whole requests in bursts of which no answer is read', () =>
    survives(async () => {
      const socket = raw(PREFACE, SETTINGS);
      socket.pause();
      for (let burst = 0; burst < 6; burst++) {
        const requests = Array.from({ length: 100 }, (_, n) =>
          wholeRequest(2 * (burst * 100 + n) + 1),
        );
        socket.write(Buffer.concat(requests));
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      return [socket];
    }, /flood|protocol/));

  test('requests without an end', () =>
    survives(async () => {
      const open = frame(FRAME.headers, FLAG.endHeaders, 1, headerBlock(CHECK));
      return Array.from({ length: 8 }, () => raw(PREFACE, SETTINGS, open));
    }, /unfinished/));

  test('answers that there is no window for', () =>
    survives(async () => {
      const noWindow = frame(FRAME.settings, 0, 0, Buffer.concat([Buffer.from([0, 4]), uint32(0)]));
      return Array.from({ length: 8 }, () => raw(PREFACE, noWindow, wholeRequest(1)));
    }, /unfinished/));

  test('resets of what was just begun', () =>
    survives(async () => {
      const begunAndReset = (n: number) =>
        Buffer.concat([
          frame(FRAME.headers, FLAG.endHeaders, 2 * n + 1, headerBlock(CHECK)),
          frame(FRAME.rstStream, 0, 2 * n + 1, uint32(8)),
        ]);
      return [await pour([], begunAndReset, 5_000)];
    }, /flood|protocol/));

  test('connections that are reset right after the preface, and as soon as they are there', () =>
    survives(async () => {
      for (let n = 0; n < 300; n++) {
        const socket = raw();
        await once(socket, 'connect');
        if (n % 2 === 0) socket.write(Buffer.concat([PREFACE, SETTINGS]));
        if (n % 3 === 0) await new Promise((resolve) => setImmediate(resolve));
        socket.resetAndDestroy();
      }
      return [];
    }));

  test('connections by the thousand: there is room for the next, and soon they are gone', () =>
    survives(async () => {
      const before = openSockets();
      const sockets = Array.from({ length: 1_500 }, (_, n) => (n % 2 === 0 ? raw() : raw(PREFACE)));
      await eventually(() => assert.ok(openSockets() < 150, `${openSockets()} sockets`));
      // Of those that the kernel dropped, since too many came at once, neither side hears any more.
      await eventually(() => assert.ok(openSockets() < before + 16, `${openSockets()} sockets`));
      for (const socket of sockets) socket.destroy();
      return [];
    }, /silent/));

  for (const [name, first, piece] of [
    [
      'PINGs',
      [],
      () =>
        Buffer.concat(
          Array.from({ length: 1_000 }, () => frame(FRAME.ping, 0, 0, Buffer.alloc(8))),
        ),
    ],
    ['SETTINGS', [], () => Buffer.concat(Array.from({ length: 1_000 }, () => SETTINGS))],
    [
      'CONTINUATIONs',
      [frame(FRAME.headers, 0, 1, headerBlock(CHECK))],
      () => Buffer.concat(Array.from({ length: 1_000 }, () => frame(FRAME.continuation, 0, 1))),
    ],
    [
      'empty DATA',
      [frame(FRAME.headers, FLAG.endHeaders, 1, headerBlock(CHECK))],
      () => Buffer.concat(Array.from({ length: 1_000 }, () => frame(FRAME.data, 0, 1))),
    ],
    [
      'WINDOW_UPDATEs',
      [],
      () =>
        Buffer.concat(
          Array.from({ length: 1_000 }, () => frame(FRAME.windowUpdate, 0, 0, uint32(1))),
        ),
    ],
  ] as const)
    test(`a flood of ${name}`, () =>
      survives(async () => {
        const sockets = await Promise.all([1, 2, 3, 4].map(() => pour([...first], piece, 2_000)));
        await eventually(() => assert.ok(sockets.every(({ destroyed }) => destroyed)));
        return sockets;
      }, /flood|protocol/));

  test('more headers than are taken', () =>
    survives(async () => {
      const more = Array.from({ length: 100 }, (_, n) => [`x-${n}`, 'y'.repeat(100)] as const);
      const block = headerBlock(CHECK, more);
      return [raw(PREFACE, SETTINGS, frame(FRAME.headers, FLAG.endHeaders, 1, block))];
    }));

  test('random frames, whole and cut off, by seed', () =>
    survives(async () => {
      console.log(`seed ${SEED}`);
      const roll = randomBy(SEED);
      const random = (below: number) => Math.floor(roll() * below);
      const bytes = (length: number) => Buffer.from(Array.from({ length }, () => random(256)));
      const end = performance.now() + RANDOM_FRAMES_MS;
      while (performance.now() < end) {
        const socket = raw(
          ...(random(10) > 0 ? [PREFACE] : []),
          ...(random(5) > 0 ? [SETTINGS] : []),
        );
        for (let n = random(60); n > 0; n--) {
          const stream = random(3) === 0 ? random(2 ** 31) : 2 * random(8) + 1;
          const payload =
            random(3) === 0
              ? headerBlock([CHECK, WATCH, LIST][random(3)] ?? CHECK)
              : bytes(random(40));
          socket.write(frame(random(12), random(256), stream, payload));
        }
        if (random(2) === 0) await new Promise((resolve) => setImmediate(resolve));
        if (random(3) === 0) socket.resetAndDestroy();
        else if (random(2) === 0) socket.destroy();
        await new Promise((resolve) => setTimeout(resolve, random(5)));
      }
      return [];
    }));

  test('what had to be ended is in the log, by its reason', () =>
    eventually(() => {
      const reasons = service.log
        .filter(({ msg }) => msg === 'health connections were ended for breaking limits')
        .flatMap((line) => Object.keys(line['ended'] as object))
        .join();
      assert.ok(endings.length > 0);
      for (const ending of endings) assert.match(reasons, ending);
    }));
});
