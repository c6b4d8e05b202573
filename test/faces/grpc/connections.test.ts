/**
 * Connections: that none outlives its peer, that one which ends loses no call, who makes way for
 * whom when there are too many, and what the log says of those that are ended. Resets at every
 * point are `test/long/connections.test.ts`'s.
 */
import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { constants } from 'node:http2';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ConnectionOptions } from 'node:tls';
import { Client, connectivityState, credentials as grpcCredentials } from '@grpc/grpc-js';
import { type Credentials, createCertificateAuthority } from '../../../dev/certificates.ts';
import {
  call,
  FLAG,
  FRAME,
  FrameClient,
  field,
  frame,
  grpcFrame,
  HeldSocket,
  headerBlock,
  openSession,
  type Peer,
  uint32,
} from '../../faults/http2.ts';
import { type HostileService, KEY, startHostile } from '../../hostile/service.ts';
import { eventually } from '../../support/kit.ts';
import { drawHere, SEED } from '../../support/random.ts';
import { sql } from '../../support/reconciling.ts';

const LIST_TENANTS = '/keyward.v1.AdminService/ListTenants';
const ENCRYPT = '/keyward.v1.EncryptionService/Encrypt';
const HEALTH_WATCH = '/grpc.health.v1.Health/Watch';
const EMPTY = grpcFrame(Buffer.alloc(0));
const GOAWAY = frame(FRAME.goaway, 0, 0, Buffer.alloc(8));
const PING = frame(FRAME.ping, 0, 0, Buffer.alloc(8));
const ACKNOWLEDGED = frame(FRAME.settings, FLAG.ack, 0);

/** A whole request, as frames. */
function request(path: string, stream: number, message: Buffer = EMPTY): Buffer {
  const parts: Buffer[] = [frame(FRAME.headers, FLAG.endHeaders, stream, headerBlock(path))];
  for (let from = 0; from < message.length; from += 16_384) {
    const part = message.subarray(from, from + 16_384);
    const isLast = from + part.length === message.length;
    parts.push(frame(FRAME.data, isLast ? FLAG.endStream : 0, stream, part));
  }
  return Buffer.concat(parts);
}

describe('sockets', () => {
  let hostile: HostileService;
  before(async () => {
    hostile = await startHostile({ KEYWARD_KEEPALIVE_MS: '1000' });
    // Connections to the database are sockets too, and stay: as many as there will be.
    using session = openSession(hostile.peer);
    await Promise.all(
      Array.from({ length: 40 }, () => call(session, { path: LIST_TENANTS, body: [EMPTY] })),
    );
  });
  after(async () => {
    await hostile?.[Symbol.asyncDispose]();
  });

  type Step = (client: FrameClient, tcp: HeldSocket) => unknown;
  /** So that the server has its hands full with the handshake when the rest comes. */
  const shaken = async (tcp: HeldSocket) => {
    await tcp.release();
    tcp.hold();
  };
  const opened: Step = async (client, tcp) => {
    client.begin();
    await tcp.release();
    await eventually(() => assert.ok(client.received(FRAME.settings).length > 1));
    tcp.hold();
  };
  const resets: Readonly<Record<string, Step>> = {
    'before it says anything': () => {},
    'right after the preface': async (client, tcp) => {
      await shaken(tcp);
      client.begin();
    },
    'right after the preface and a request': async (client, tcp) => {
      await shaken(tcp);
      client.begin();
      client.send(request(LIST_TENANTS, 1));
    },
    'after SETTINGS': opened,
    'with requests whose answers it has not read': async (client, tcp) => {
      await opened(client, tcp);
      client.send(
        ...Array.from({ length: 20 }, (_, index) => request(LIST_TENANTS, 2 * index + 1)),
      );
    },
    'after its GOAWAY': async (client, tcp) => {
      await opened(client, tcp);
      client.send(request(LIST_TENANTS, 1), GOAWAY);
    },
  };
  for (const [when, step] of drawHere(Object.entries(resets), 2)) {
    test(`none is left of a hundred peers that reset the connection ${when} (seed ${SEED})`, async () => {
      const from = hostile.openSockets();
      await hostile.staysHonest(async () => {
        for (let index = 0; index < 100; index += 1) {
          const tcp = new HeldSocket(hostile.peer.port);
          await step(await FrameClient.connect(hostile.peer, { socket: tcp }), tcp);
          await tcp.reset(10 * index); // Somewhere there the server has read, and not answered yet.
        }
      });
      // Honest callers have one or two of their own.
      await eventually(
        () => assert.ok(hostile.openSockets() <= from + 2),
        () => `${from} sockets before, ${hostile.openSockets()} now`,
      );
    });
  }

  test('none is left of peers that say goodbye and stay, or are gone without a word', async () => {
    const from = hostile.openSockets();
    const line = hostile.service.log.length;
    await hostile.staysHonest(async () => {
      // Which tls.connect hands on to the socket, whatever its types say.
      const halfOpen: ConnectionOptions & { allowHalfOpen: boolean } = { allowHalfOpen: true };
      const staying = await Promise.all(
        Array.from({ length: 10 }, () => FrameClient.connect(hostile.peer, halfOpen)),
      );
      try {
        for (const [index, client] of staying.entries()) {
          client.begin();
          client.send(ACKNOWLEDGED);
          // Whom a watch keeps from being idle, and who answers no PING.
          if (index % 2) client.send(request(HEALTH_WATCH, 1));
          else client.send(GOAWAY);
        }
        await eventually(
          () => assert.ok(hostile.openSockets() <= from + 2),
          () => `${from} sockets before, ${hostile.openSockets()} now`,
        );
      } finally {
        for (const client of staying) client[Symbol.dispose]();
      }
    });
    await hostile.service.logged(({ msg }) => /answers no PING/.test(String(msg)), line);
  });

  test('a peer that has nothing to say, and answers PINGs, stays', async () => {
    using session = openSession(hostile.peer);
    const watch = call(session, { path: HEALTH_WATCH, body: [EMPTY] });
    await sleep(5_000); // As long as five times what a silent peer gets.
    assert.equal(await Promise.race([watch, 'open']), 'open');
  });
});

describe('the announced end of a connection', () => {
  // A client that is kept from the processor for long hears of the end when it has come.
  test('no call of a client with 64 in flight fails over it, and none is performed twice', () =>
    eventually(async () => {
      await using hostile = await startHostile({ KEYWARD_CONNECTION_AGE_MS: '1000' });
      const { ca, cert, key, port } = hostile.peer;
      const message = Buffer.concat([field(1, KEY), field(2, 'a plaintext')]);
      let [ends, answers] = [0, 0];
      const failures: string[] = [];
      const clients = Array.from({ length: 4 }, () => {
        const secure = grpcCredentials.createSsl(
          Buffer.from(ca),
          Buffer.from(String(key)),
          Buffer.from(String(cert)),
        );
        return new Client(`localhost:${port}`, secure, { 'grpc.use_local_subchannel_pool': 1 });
      });
      const encrypt = (client: Client) =>
        new Promise<void>((resolve) => {
          const same = (bytes: Buffer) => bytes;
          client.makeUnaryRequest(
            ENCRYPT,
            same,
            same,
            message,
            { deadline: Date.now() + 30_000 },
            (error) => {
              // What the server refuses with a reason, on a machine that is slow, say, it has
              // answered.
              if (error === null) answers += 1;
              else if (!error.metadata.get('grpc-status-details-bin').length)
                failures.push(error.message);
              resolve();
            },
          );
        });
      const isOver = () => ends >= 8 || failures.length > 0;
      const inFlight = clients.flatMap((client) => {
        const channel = client.getChannel();
        const look = () => {
          const state = channel.getConnectivityState(false);
          channel.watchConnectivityState(state, Infinity, (error) => {
            if (error || channel.getConnectivityState(false) === connectivityState.SHUTDOWN) return;
            if (state === connectivityState.READY) ends += 1;
            look();
          });
        };
        look();
        return Array.from({ length: 64 }, async () => {
          do await encrypt(client);
          while (!isOver());
        });
      });
      await Promise.all(inFlight);
      for (const client of clients) client.close();
      assert.deepEqual(failures, []);
      const [entries] = await sql<{ count: string }>(
        hostile.environment,
        `SELECT count(*) FROM (SELECT leaf FROM audit_log UNION ALL
         SELECT unnest(string_to_array(leaves, E'\\n')) FROM audit_inbox) AS entries
       WHERE leaf::json ->> 'method' LIKE '%Encrypt' AND leaf::json ->> 'outcome' = 'OK'`,
      );
      assert.equal(Number(entries?.count), answers);
    }));
});

describe('PINGs', () => {
  let hostile: HostileService;
  before(async () => {
    hostile = await startHostile({ KEYWARD_MAX_PINGS: '20' });
  });
  after(async () => {
    await hostile?.[Symbol.asyncDispose]();
  });

  test('a client that measures with one after each DATA of a large answer is not ended', async () => {
    await hostile.staysHonest(async () => {
      using client = await FrameClient.connect(hostile.peer);
      client.begin([[4, 400]]); // SETTINGS_INITIAL_WINDOW_SIZE: an answer in many parts.
      const message = Buffer.concat([field(1, KEY), field(2, Buffer.alloc(32_000, 1))]);
      client.send(request(ENCRYPT, 1, grpcFrame(message)));
      const isOver = () =>
        client.received(FRAME.headers).some(({ flags }) => flags & FLAG.endStream);
      for (let measured = 0; !isOver(); ) {
        await eventually(() =>
          assert.ok(isOver() || client.received(FRAME.data).length > measured),
        );
        assert.equal(client.goaway, undefined);
        measured = client.received(FRAME.data).length;
        client.send(PING, frame(FRAME.windowUpdate, 0, 1, uint32(400)));
      }
      assert.ok(client.received(FRAME.ping).length > 60);
    });
  });

  for (const [what, flood] of [
    ['PINGs', PING],
    ['SETTINGS', frame(FRAME.settings, 0, 0)],
  ] as const) {
    test(`${what} without an answer under way end the connection, and the log says so once`, async () => {
      const from = hostile.service.log.length;
      await hostile.staysHonest(async () => {
        for (let index = 0; index < 5; index += 1) {
          using client = await FrameClient.connect(hostile.peer);
          client.begin();
          client.send(...Array.from({ length: 60 }, () => flood));
          await client.closed;
          assert.equal(client.goaway?.code, constants.NGHTTP2_ENHANCE_YOUR_CALM);
        }
      });
      const message = `a connection is ended: too many ${what}`;
      await hostile.service.logged(
        ({ msg, address }) => msg === message && address === '127.0.0.1',
        from,
      );
      assert.equal(hostile.service.log.slice(from).filter(({ msg }) => msg === message).length, 1);
    });
  }
});

/** Settings by which callers may bring tokens. */
function issuers(): Readonly<Record<string, string>> {
  const directory = mkdtempSync(join(String(process.env['KEYWARD_TEST_DIRECTORY']), 'issuers-'));
  const [file, jwksFile] = [join(directory, 'issuers.json'), join(directory, 'jwks.json')];
  const jwk = generateKeyPairSync('ed25519').publicKey.export({ format: 'jwk' });
  writeFileSync(
    jwksFile,
    JSON.stringify({ keys: [{ ...jwk, kid: 'one', alg: 'EdDSA', use: 'sig' }] }),
  );
  const issuer = { name: 'file', issuer: 'https://file.test/', jwksFile, audience: 'keyward' };
  writeFileSync(file, JSON.stringify({ issuers: [{ ...issuer, algorithms: ['EdDSA'] }] }));
  return { KEYWARD_ISSUERS_FILE: file };
}

describe('a refused certificate', () => {
  const yesterday = new Date(Date.now() - 86_400_000);
  const dayBefore = new Date(yesterday.getTime() - 86_400_000);

  let hostile: HostileService;
  before(async () => {
    hostile = await startHostile();
  });
  after(async () => {
    await hostile?.[Symbol.asyncDispose]();
  });

  async function assertRefused(hostile: HostileService): Promise<void> {
    const { ca } = hostile.environment;
    const subject = `${'x'.repeat(30)}\nmsg`;
    const refused: Readonly<Record<string, Credentials>> = {
      CERT_HAS_EXPIRED: ca.issue({
        subject,
        usage: 'client',
        notBefore: dayBefore,
        notAfter: yesterday,
      }),
      INVALID_PURPOSE: ca.issue({
        subject,
        usage: 'server',
        uris: [`spiffe://x/${'y'.repeat(5_000)}`],
      }),
      UNABLE_TO_VERIFY_LEAF_SIGNATURE: createCertificateAuthority('other').issue({
        subject,
        usage: 'client',
      }),
    };
    await hostile.staysHonest(async () => {
      for (const [reason, { certPem: cert, keyPem: key }] of Object.entries(refused)) {
        const from = hostile.service.log.length;
        for (let index = 0; index < 3; index += 1) {
          using client = await FrameClient.connect({ ...hostile.peer, cert, key });
          client.begin();
          client.send(request(LIST_TENANTS, 1));
          await client.closed;
          assert.deepEqual(client.frames, [], 'no HTTP/2 is spoken with it');
        }
        const line = await hostile.service.logged((each) => each['reason'] === reason, from);
        assert.equal(line['level'], 'warn');
        assert.match(String(line['subject']), /^CN=x{30}/);
        assert.equal(line['address'], '127.0.0.1');
        assert.ok(JSON.stringify(line).length < 1_500);
        const lines = hostile.service.log.slice(from).filter((each) => each['reason'] === reason);
        assert.equal(lines.length, 1);
      }
    });
  }

  test('is closed without HTTP/2, and the log says why, where one is required', () =>
    assertRefused(hostile));

  test('is closed without HTTP/2, and the log says why, also where tokens may take its place', async () => {
    await using withTokens = await startHostile(issuers());
    await assertRefused(withTokens);
  });

  test('where one is required, none at all is in the log too', async () => {
    await hostile.staysHonest(async () => {
      using client = await FrameClient.connect({ port: hostile.peer.port, ca: hostile.peer.ca });
      await client.closed;
      assert.deepEqual(client.frames, []);
    });
    await hostile.service.logged(({ reason }) => reason === 'NONE');
  });
});

describe('shares of the connections', () => {
  let hostile: HostileService;
  before(async () => {
    // Three are for peers that have yet to show who they are; of the rest one caller can have
    // eleven.
    hostile = await startHostile({ KEYWARD_MAX_CONNECTIONS: '24' });
  });
  after(async () => {
    await hostile?.[Symbol.asyncDispose]();
  });

  function peerNamed(subject: string): Peer {
    const { certPem: cert, keyPem: key } = hostile.environment.ca.issue({
      subject,
      usage: 'client',
    });
    return { ...hostile.peer, cert, key };
  }

  /** Opens so many connections, one after another; what of them is open says `open`. */
  async function openAs(peer: Peer, count: number, request?: Buffer) {
    const clients: FrameClient[] = [];
    const closed = new Set<FrameClient>();
    for (let index = 0; index < count; index += 1) {
      const client = await FrameClient.connect(peer);
      client.begin();
      if (request !== undefined) client.send(request);
      clients.push(client);
      client.closed.then(() => closed.add(client));
      await eventually(() =>
        assert.ok(client.received(FRAME.settings).length > 0 || closed.has(client)),
      );
    }
    return {
      clients,
      open: () => clients.filter((client) => !closed.has(client)),
      [Symbol.dispose]: () => {
        for (const client of clients) client[Symbol.dispose]();
      },
    };
  }

  /** Whether a peer gets an answer, be it a refusal. */
  async function isAnswered(peer: Peer): Promise<boolean> {
    using session = openSession(peer);
    return (await call(session, { path: LIST_TENANTS, body: [EMPTY] })).status !== undefined;
  }

  test('one caller’s idle connections leave room for others, and for its own new ones', async () => {
    const from = hostile.service.log.length;
    await hostile.staysHonest(async () => {
      const peer = peerNamed('greedy');
      using greedy = await openAs(peer, 40);
      await eventually(() => assert.ok(greedy.open().length <= 11));
      assert.ok(greedy.open().length > 4);
      assert.ok(greedy.open().includes(greedy.clients.at(-1) as FrameClient), 'the newest stays');
      assert.equal(greedy.clients[0]?.goaway?.code, constants.NGHTTP2_NO_ERROR);
      for (let index = 0; index < 10; index += 1)
        assert.ok(await isAnswered(peerNamed(`other ${index}`)));
      assert.ok(await isAnswered(peer));
    });
    const line = await hostile.service.logged(
      ({ msg }) => /the oldest one without a call/.test(String(msg)),
      from,
    );
    assert.deepEqual(
      [line['caller'], line['address'], line['limit']],
      ['CN=greedy', '127.0.0.1', 24],
    );
  });

  test('where each of a caller’s connections has a call, it is the new one that is refused', async () => {
    const from = hostile.service.log.length;
    await hostile.staysHonest(async () => {
      using watching = await openAs(peerNamed('watcher'), 20, request(HEALTH_WATCH, 1));
      await eventually(() => assert.ok(watching.open().length <= 11));
      assert.equal(watching.clients.at(-1)?.goaway?.code, constants.NGHTTP2_ENHANCE_YOUR_CALM);
      assert.equal(watching.clients[0]?.goaway, undefined);
      assert.ok(await isAnswered(peerNamed('another')));
    });
    await hostile.service.logged(
      ({ msg, caller }) => caller === 'CN=watcher' && /a new one is refused/.test(String(msg)),
      from,
    );
  });

  test('many callers that take what they can do not keep a newcomer out', async () => {
    await hostile.staysHonest(async () => {
      const greedy: Disposable[] = [];
      try {
        for (let index = 0; index < 8; index += 1)
          greedy.push(await openAs(peerNamed(`greedy ${index}`), 12));
        for (let index = 0; index < 8; index += 1)
          assert.ok(await isAnswered(peerNamed(`late ${index}`)));
      } finally {
        for (const each of greedy) each[Symbol.dispose]();
      }
    });
  });
});
