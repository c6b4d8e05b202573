/**
 * The floods: a row for each way to ask more of the server than it gives, over sockets of our own.
 *
 * Each is bounded, by number and not by time, and whatever it leaves open is closed behind it. What
 * has to be true afterwards is `rig.ts`.
 */
import assert from 'node:assert/strict';
import { constants } from 'node:http2';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type Answer,
  call,
  FLAG,
  FRAME,
  type FrameClient,
  field,
  frame,
  grpcFrame,
  headerBlock,
  openSession,
  PREFACE,
  SilentSockets,
  uint32,
} from '../faults/http2.ts';
import { eventually } from '../support/kit.ts';
import { randomFrames } from './random-frames.ts';
import type { Flood, Flooder } from './rig.ts';
import { KEY } from './service.ts';

const LIST_TENANTS = '/keyward.v1.AdminService/ListTenants';
const ENCRYPT = '/keyward.v1.EncryptionService/Encrypt';
const HEALTH = '/grpc.health.v1.Health/Check';
const CANCEL = uint32(constants.NGHTTP2_CANCEL);
const EMPTY = grpcFrame(Buffer.alloc(0));
const BLOCK = headerBlock(LIST_TENANTS);
/** The beginning of a ClientHello of 512 bytes. */
const HALF_HELLO = Buffer.from([22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]);
const LAST_PING = Buffer.from('the last');

/** The ids of a client's streams. */
function streamIds(count: number, from = 0): number[] {
  return Array.from({ length: count }, (_, index) => 2 * (from + index) + 1);
}

function wholeRequest(id: number, block = BLOCK): Buffer {
  return Buffer.concat([
    frame(FRAME.headers, FLAG.endHeaders, id, block),
    frame(FRAME.data, FLAG.endStream, id, EMPTY),
  ]);
}

function repeated(count: number, bytes: Buffer): Buffer[] {
  return Array.from({ length: count }, () => bytes);
}

/** Waits until the server has come to the end of what was sent, or has closed the connection. */
async function isReadToItsEnd(client: FrameClient): Promise<void> {
  client.send(frame(FRAME.ping, 0, 0, LAST_PING));
  const answered = () =>
    client
      .received(FRAME.ping)
      .some(({ flags, payload }) => flags === FLAG.ack && payload.equals(LAST_PING));
  await eventually(() => assert.ok(client.isClosed || answered()));
}

/** Frames on one connection, whose answers are read. */
async function sendAll(flooder: Flooder, frames: readonly Buffer[]): Promise<void> {
  const client = await flooder.connect();
  if (client === undefined) return;
  client.begin();
  client.send(...frames);
  await isReadToItsEnd(client);
}

/** Bursts of whole requests on one connection, nothing of which is read, then the end. */
async function wholeRequestsUnread(client: FrameClient | undefined, path: string): Promise<void> {
  if (client === undefined) return;
  client.begin();
  client.stopReading();
  const block = headerBlock(path);
  for (let burst = 0; burst < 6; burst++) {
    client.send(...streamIds(100, 100 * burst).map((id) => wholeRequest(id, block)));
    await sleep(2);
  }
  client[Symbol.dispose]();
}

/** So many connections, 50 at a time. */
async function onConnections(
  flooder: Flooder,
  count: number,
  use: (client: FrameClient) => Promise<void>,
): Promise<void> {
  for (let made = 0; made < count; made += 50) {
    const connections = Array.from({ length: 50 }, async () => {
      const client = await flooder.connect({ isResettable: true });
      if (client !== undefined) await use(client);
    });
    await Promise.all(connections);
  }
}

/** Whole requests, each reset some milliseconds later, `count` of them each time. */
async function resetsPaced(flooder: Flooder, count: number): Promise<void> {
  const client = await flooder.connect();
  if (client === undefined) return;
  client.begin();
  for (let round = 0; round < 50; round++) {
    const ids = streamIds(count, count * round);
    client.send(...ids.map((id) => wholeRequest(id)));
    await sleep(10);
    client.send(...ids.map((id) => frame(FRAME.rstStream, 0, id, CANCEL)));
  }
  await isReadToItsEnd(client);
}

/**
 * As clients do whose server has too much to do: calls in flight on one connection, each given up
 * after 40 ms.
 */
async function deadlinesPass({ peer }: Flooder, inFlight: number) {
  const session = openSession(peer);
  const body = [grpcFrame(Buffer.concat([field(1, KEY), field(2, Buffer.alloc(1_024))]))];
  const answers: Answer[] = [];
  const end = performance.now() + 2_000;
  const caller = async () => {
    while (performance.now() < end && !session.closed && !session.destroyed) {
      const signal = AbortSignal.timeout(40);
      const answer = call(session, {
        path: ENCRYPT,
        headers: { 'grpc-timeout': '40m' },
        body,
        signal,
      });
      // Node's client does not always notice that a connection is gone.
      await Promise.race([answer.then((each) => answers.push(each)), sleep(1_000)]);
    }
  };
  await Promise.all(Array.from({ length: inFlight }, caller));
  return { session, answers };
}

/**
 * Who is known keeps the connection, and is told why what is not done is not. As many as 32 give
 * up, in 40 ms each, may be reset each second before they have begun.
 */
async function deadlinesPassInOrder(flooder: Flooder): Promise<void> {
  const { session, answers } = await deadlinesPass(flooder, 32);
  try {
    if (flooder.kind !== 'a certificate') return;
    const unexplained = answers.filter(({ status, reason }) => status && reason === undefined);
    assert.deepEqual(unexplained.slice(0, 3), []);
    const last = call(session, { path: LIST_TENANTS, body: [EMPTY] });
    const answer = await Promise.race([last, sleep(10_000, undefined, { ref: false })]);
    assert.equal(answer?.status, 0, 'the connection is of no more use');
  } finally {
    session.destroy();
  }
}

/** Floods by which a peer needs no more than a connection. */
export const CONNECTION_FLOODS: readonly Flood[] = [
  {
    name: 'whole requests whose answers are never read, then the end',
    run: async (flooder) => {
      for (let round = 0; round < 3; round++) {
        await wholeRequestsUnread(await flooder.connect(), LIST_TENANTS);
      }
    },
  },
  {
    name: 'connections that are reset before SETTINGS',
    run: (flooder) =>
      onConnections(flooder, 100, async (client) => {
        client.send(PREFACE);
        await client.reset();
      }),
  },
  {
    name: 'connections that are reset after SETTINGS',
    run: (flooder) =>
      onConnections(flooder, 100, async (client) => {
        client.begin();
        client.send(...streamIds(5).map((id) => wholeRequest(id)));
        await sleep(1);
        await client.reset();
      }),
  },
];

/** On one connection. */
const RESETS = 6_000;

/** All floods of the port that callers use. */
export const FLOODS: readonly Flood[] = [
  ...CONNECTION_FLOODS,
  {
    name: 'resets of streams that have just begun',
    // A caller may reset 800 a second, and those of two seconds at once. A machine that other work
    // keeps busy may not even read more.
    isEnded: (seconds) => RESETS > 800 * (seconds + 2),
    run: (flooder) =>
      sendAll(
        flooder,
        streamIds(RESETS).flatMap((id) => [
          frame(FRAME.headers, FLAG.endHeaders, id, BLOCK),
          frame(FRAME.rstStream, 0, id, CANCEL),
        ]),
      ),
  },
  {
    name: 'resets of whole requests, as many as a client may that gives up early',
    run: (flooder) => resetsPaced(flooder, 10),
  },
  {
    name: 'resets of whole requests, as many as streams are allowed',
    run: (flooder) => resetsPaced(flooder, 256),
  },
  {
    name: 'calls whose deadlines pass under overload',
    isCustomer: true,
    run: deadlinesPassInOrder,
  },
  {
    name: 'calls whose deadlines pass, as many as streams are allowed',
    isCustomer: true,
    run: async (flooder) => (await deadlinesPass(flooder, 256)).session.destroy(),
  },
  {
    name: 'CONTINUATION without end',
    isEnded: true,
    run: (flooder) =>
      sendAll(flooder, [
        frame(FRAME.headers, 0, 1, BLOCK),
        ...repeated(20_000, frame(FRAME.continuation, 0, 1, BLOCK.subarray(0, 9))),
      ]),
  },
  {
    name: 'SETTINGS',
    isEnded: true,
    run: (flooder) => sendAll(flooder, repeated(20_000, frame(FRAME.settings, 0, 0))),
  },
  {
    name: 'PINGs',
    isEnded: true,
    run: (flooder) => sendAll(flooder, repeated(20_000, frame(FRAME.ping, 0, 0, Buffer.alloc(8)))),
  },
  {
    name: 'WINDOW_UPDATEs of a byte',
    run: (flooder) =>
      sendAll(flooder, repeated(20_000, frame(FRAME.windowUpdate, 0, 0, uint32(1)))),
  },
  {
    name: 'WINDOW_UPDATEs beyond what a window may be',
    isEnded: true,
    run: (flooder) =>
      sendAll(flooder, repeated(1_000, frame(FRAME.windowUpdate, 0, 0, uint32(0x7fff_ffff)))),
  },
  {
    name: 'empty DATA',
    run: (flooder) =>
      sendAll(flooder, [
        frame(FRAME.headers, FLAG.endHeaders, 1, BLOCK),
        ...repeated(20_000, frame(FRAME.data, 0, 1)),
      ]),
  },
  {
    name: 'handshakes begun by the thousand',
    run: async ({ peer }) => {
      using halves = new SilentSockets(peer, 1_500, HALF_HELLO);
      // Not this side's end: the server's patience.
      await eventually(() => assert.equal(halves.open, 0));
      using reset = new SilentSockets(peer, 500, HALF_HELLO);
      await sleep(50);
      reset.reset();
    },
  },
  {
    name: 'key updates of TLS',
    run: async (flooder) => {
      const client = await flooder.connect({ ownRecords: true });
      if (client === undefined) return;
      client.begin();
      client.updateKeys(2_000);
      await isReadToItsEnd(client);
    },
  },
  randomFrames(2_000),
];

/** Floods of the listener for health, which has no TLS before it. */
export const HEALTH_FLOODS: readonly Flood[] = [
  {
    name: 'whole requests to the listener for health whose answers are never read, then the end',
    run: async (flooder) => {
      for (let round = 0; round < 5; round++) {
        await wholeRequestsUnread(await flooder.connectPlain(), HEALTH);
      }
    },
  },
  {
    name: 'connections to the listener for health that are reset',
    run: async (flooder) => {
      for (let round = 0; round < 200; round++) {
        const client = await flooder.connectPlain();
        client.begin();
        client.send(wholeRequest(1, headerBlock(HEALTH)));
        if (round % 2) await sleep(1);
        await client.reset();
      }
    },
  },
];
