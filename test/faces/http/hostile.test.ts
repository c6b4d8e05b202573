/**
 * The HTTP listener under attack: whatever a peer sends or leaves unsent, the process lives, honest
 * calls are answered, and nothing stays open.
 *
 * Honest calls, and what has to hold of the log and of listeners for errors, are
 * `hostile/service.ts`'s.
 */
import assert from 'node:assert/strict';
import { constants } from 'node:http2';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { TLSSocket } from 'node:tls';
import {
  FLAG,
  FRAME,
  FrameClient,
  frame,
  headerBlock,
  type Peer,
  uint32,
} from '../../faults/http2.ts';
import { type HostileService, KEY, PARENT, SECRET, startHostile } from '../../hostile/service.ts';
import { eventually } from '../../support/kit.ts';
import {
  ask,
  askRaw,
  failureIn,
  HTTP_VERSIONS,
  openHttp2,
  openRaw,
  requestText,
} from './client.ts';

const ENCRYPT = '/keyward.v1.EncryptionService/Encrypt';
const GET_KEY = '/keyward.v1.KeyService/GetKey';
const GET = JSON.stringify({ name: KEY });
const SLACK = 3;
const MOST_CONNECTIONS = 200;
/** RFC 9113, 6.5.2. */
const SETTINGS_INITIAL_WINDOW_SIZE = 4;

let hostile: HostileService;
let peer: Peer;
let held: number | undefined;

before(async () => {
  hostile = await startHostile({
    KEYWARD_HTTP_LISTEN: '127.0.0.1:0',
    KEYWARD_HANDSHAKE_MS: '1500',
    KEYWARD_DEADLINE_MS: '3000',
    KEYWARD_MAX_CONNECTIONS: String(MOST_CONNECTIONS),
  });
  peer = { ...hostile.peer, port: hostile.service.httpPort };
});

after(() => hostile?.[Symbol.asyncDispose]());

/**
 * Runs an attack while honest calls are made by both faces; afterwards nothing is left open, and no
 * memory held.
 */
async function survives(attack: () => Promise<void>): Promise<void> {
  const files = hostile.openFiles();
  // Of before the first one: what each leaves behind would add up otherwise.
  held ??= await hostile.heldBytes();
  await hostile.staysHonest(attack);
  for (const version of HTTP_VERSIONS) {
    const { status } = await ask(peer, version, { path: GET_KEY, body: GET });
    assert.equal(status, 200);
  }
  await eventually(() => {
    const now = hostile.openFiles();
    assert.ok(now <= files + SLACK, `${now} files are open, ${files} were before`);
  });
  await hostile.holdsLittleMoreThan(held);
}

/** The answer's first line. */
const statusLine = (text: string) => text.split('\r\n')[0];

async function manySockets(count: number, alpn: string[]): Promise<TLSSocket[]> {
  const opened = await Promise.all(
    Array.from({ length: count }, () => openRaw(peer, alpn).catch(() => undefined)),
  );
  return opened.filter((socket) => socket !== undefined);
}

describe('requests of HTTP/1.1 that no client sends', () => {
  const odd = {
    'a Host that opens a bracket': ['Host: ['],
    'a Host with a space': ['Host: a b'],
    'two authorizations': ['Authorization: a', 'Authorization: b'],
    'an unknown expectation': ['Expect: nonsense'],
    'an upgrade': ['Connection: Upgrade, close', 'Upgrade: websocket'],
  };
  test(Object.keys(odd).join(', '), () =>
    survives(async () => {
      for (const [name, lines] of Object.entries(odd)) {
        const text = requestText(GET_KEY, GET, ['Connection: close', ...lines]);
        assert.match(await askRaw(peer, text), /^HTTP\/1\.1 (200|400|401) /, name);
      }
    }),
  );

  test('no Host at all, by HTTP/1.0 and by HTTP/1.1', () =>
    survives(async () => {
      const text = requestText(GET_KEY, GET).replace('Host: localhost\r\n', '');
      const old = text.replace('HTTP/1.1', 'HTTP/1.0');
      assert.equal(statusLine(await askRaw(peer, old)), 'HTTP/1.1 200 OK');
      assert.equal(statusLine(await askRaw(peer, text)), 'HTTP/1.1 400 Bad Request');
    }));

  test('both lengths, bytes that are no HTTP, CONNECT', () =>
    survives(async () => {
      const both = requestText(GET_KEY, GET, ['Transfer-Encoding: chunked']);
      assert.equal(statusLine(await askRaw(peer, both)), 'HTTP/1.1 400 Bad Request');
      const garbage = await askRaw(peer, '\x16\x03\x01 garbage\r\n\r\n');
      assert.equal(statusLine(garbage), 'HTTP/1.1 400 Bad Request');
      await askRaw(peer, 'CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n');
    }));

  test('headers of a megabyte', () =>
    survives(async () => {
      const text = requestText(GET_KEY, GET, [`X-Large: ${'a'.repeat(1_000_000)}`]);
      const answer = await askRaw(peer, text);
      assert.match(answer, /^(HTTP\/1\.1 431 |$)/);
    }));

  test('two thousand pipelined ones end the connection, and are not served', () =>
    survives(async () => {
      const answer = await askRaw(peer, requestText(ENCRYPT, encryption()).repeat(2_000));
      assert.ok(answer.split('HTTP/1.1 200').length < 20);
    }));
});

describe('bodies that do not come', () => {
  test('an early answer stops the rest of the body, and arrives', () =>
    survives(async () => {
      const text = requestText('/nonsense', 'x'.repeat(15_000_000));
      assert.match(await askRaw(peer, text), /^HTTP\/1\.1 404 Not Found\r\n/);
      const { status } = await ask(peer, 'HTTP/2', {
        path: '/nonsense',
        body: Buffer.alloc(15_000_000),
      });
      assert.equal(status, 404);
    }));

  test('a caller who is not let in is answered before the body comes', () =>
    survives(async () => {
      const [head] = requestText(GET_KEY, GET, [
        'Content-Length: 100000',
        'Authorization: x',
      ]).split('{');
      assert.match(await askRaw(peer, String(head)), /^HTTP\/1\.1 401 /);
    }));

  test('one that stops half-way is answered at the deadline', () =>
    survives(async () => {
      const half = requestText(ENCRYPT, encryption()).slice(0, -20);
      assert.match(await askRaw(peer, half), /^HTTP\/1\.1 504 /);
      using session = openHttp2(peer);
      const stream = session.request({ ':method': 'POST', ':path': ENCRYPT, ...TYPE });
      stream.on('error', () => {});
      stream.write('{"name":"');
      const status = await new Promise((resolve) =>
        stream.once('response', (headers) => resolve(headers[':status'])),
      );
      assert.equal(status, 504);
    }));

  test('headers that stop half-way end the connection', () =>
    survives(async () => {
      const answer = await askRaw(peer, `POST ${ENCRYPT} HTTP/1.1\r\nHost: loc`);
      assert.match(answer, /^(HTTP\/1\.1 408 |$)/);
    }));

  test('a peer that says nothing is gone after its time, whichever HTTP it offered', () =>
    survives(async () => {
      for (const alpn of [['http/1.1'], ['h2'], []]) await askRaw(peer, '', { alpn });
    }));

  test('a request that was reset, or whose socket went, is not performed', () =>
    survives(async () => {
      const from = hostile.service.log.length;
      const half = requestText(ENCRYPT, encryption()).slice(0, -1);
      const sockets = await manySockets(20, ['http/1.1']);
      for (const socket of sockets) socket.write(half);
      using client = await FrameClient.connect(peer);
      client.begin();
      const headers = headerBlock(ENCRYPT, [['content-type', 'application/json']]);
      for (let at = 0; at < 50; at += 1) {
        const stream = 2 * at + 1;
        client.send(
          frame(FRAME.headers, FLAG.endHeaders, stream, headers),
          // Whole but for the frame that would say so.
          frame(FRAME.data, 0, stream, Buffer.from(encryption())),
        );
        await sleep(1);
        client.send(frame(FRAME.rstStream, 0, stream, uint32(constants.NGHTTP2_CANCEL)));
      }
      await sleep(100);
      for (const socket of sockets) socket.destroy();
      await sleep(200);
      const outcomes = await eventually(() => {
        const calls = hostile.service.log
          .slice(from)
          .filter(({ msg, method }) => msg === 'call' && String(method).endsWith('/Encrypt'));
        assert.ok(calls.length > 0);
        return calls.map(({ outcome }) => outcome);
      });
      // Honest callers cancel none, and a call whose request was taken for whole ends as cancelled.
      assert.ok(!outcomes.includes('CALL_CANCELLED'));
    }));
});

describe('floods', () => {
  test('streams that are reset right after their headers', () =>
    survives(async () => {
      using session = openHttp2(peer);
      for (let at = 0; at < 1_000 && !session.destroyed; at += 1) {
        const stream = session.request({ ':method': 'POST', ':path': ENCRYPT, ...TYPE });
        stream.on('error', () => {});
        await new Promise((resolve) => setImmediate(resolve));
        stream.close(constants.NGHTTP2_CANCEL);
      }
    }));

  test('half bodies on a thousand streams, whose sockets go', () =>
    survives(async () => {
      for (let round = 0; round < 10; round += 1) {
        using session = openHttp2(peer);
        for (let at = 0; at < 100; at += 1) {
          const stream = session.request({ ':method': 'POST', ':path': ENCRYPT, ...TYPE });
          stream.on('error', () => {});
          stream.write('{"name":"');
        }
        await sleep(20);
      }
    }));

  test('as many connections of HTTP/1.1 as there may be leave room for others', () =>
    survives(async () => {
      const sockets: TLSSocket[] = [];
      for (let made = 0; made < MOST_CONNECTIONS; made += 100)
        sockets.push(...(await manySockets(100, ['http/1.1'])));
      for (const socket of sockets) socket.write(requestText(GET_KEY, GET));
      try {
        // The database may have no time for one more for a moment; it has no role, and is told so.
        await eventually(async () => {
          const asked = await ask(newcomer(), 'HTTP/1.1', { path: GET_KEY, body: GET });
          assert.equal(failureIn(asked.json).reason, 'RESOURCE_NOT_FOUND');
        });
      } finally {
        for (const socket of sockets) socket.destroy();
      }
    }));

  test('a batch that is nothing but empty items is refused before it is parsed', () =>
    survives(async () => {
      const body = `{"parent":"${PARENT}","requests":[${'{},'.repeat(1_000_000)}{}]}`;
      const path = '/keyward.v1.EncryptionService/BatchEncrypt';
      const { json } = await ask(peer, 'HTTP/2', { path, body });
      assert.equal(failureIn(json).reason, 'MESSAGE_TOO_LARGE');
    }));

  test('JSON that is nested as deep as it goes is refused', () =>
    survives(async () => {
      for (const [path, count] of [
        [ENCRYPT, 60_000],
        ['/keyward.v1.EncryptionService/BatchEncrypt', 2_000_000],
      ] as const) {
        const body = `{"parent":${'['.repeat(count)}${']'.repeat(count)}}`;
        const { json } = await ask(peer, 'HTTP/2', { path, body });
        assert.match(String(failureIn(json).reason), /MALFORMED_REQUEST|MESSAGE_TOO_LARGE/);
      }
    }));

  test('answers that their peer has no window for are given up', () =>
    survives(async () => {
      using client = await FrameClient.connect(peer);
      client.begin([[SETTINGS_INITIAL_WINDOW_SIZE, 0]]);
      const isJson = [['content-type', 'application/json']] as const;
      const body = Buffer.from(encryption());
      client.send(
        frame(FRAME.headers, FLAG.endHeaders, 1, headerBlock(ENCRYPT, isJson)),
        frame(FRAME.data, FLAG.endStream, 1, body),
        frame(FRAME.headers, FLAG.endHeaders, 3, headerBlock('/nonsense', isJson)),
      );
      await eventually(() => {
        const ended = client.received(FRAME.rstStream).map(({ stream }) => stream);
        assert.deepEqual(ended.sort(), [1, 3]);
      });
      assert.deepEqual(client.received(FRAME.data), []);
    }));
});

const TYPE = { 'content-type': 'application/json' };

function encryption(): string {
  return JSON.stringify({ name: KEY, plaintext: SECRET.toString('base64') });
}

/** Another caller, who has no right at all. */
function newcomer(): Peer {
  return { ...hostile.peerOf('newcomer'), port: peer.port };
}
