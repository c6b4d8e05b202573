/**
 * What the HTTP listener shares with gRPC's: callers, places, bytes, and how the service ends.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { describe, test } from 'node:test';
import { connect as connectTls } from 'node:tls';
import { createCertificateAuthority } from '../../../dev/certificates.ts';
import type { Peer } from '../../faults/http2.ts';
import {
  type Environment,
  eventually,
  newEnvironment,
  type Service,
  startService,
} from '../../support/kit.ts';
import { ask, askRaw, failureIn, openHttp2, openRaw, requestText } from './client.ts';
import { envelopesIn, inEnvelope } from './envelopes.ts';

const ENCRYPT = '/keyward.v1.EncryptionService/Encrypt';
const GET_TENANT = '/keyward.v1.AdminService/GetTenant';
const TENANT = { name: 'tenants/acme' };

/** Starts a service of its own with these settings, and a tenant with a key. */
async function started(variables: Readonly<Record<string, string>> = {}) {
  const environment = await newEnvironment();
  const settings = { KEYWARD_HTTP_LISTEN: '127.0.0.1:0', ...variables };
  const service = await startService(environment, settings);
  const keyward = service.client();
  await keyward.createTenant({ tenantId: 'acme' });
  await keyward.createKey({ parent: 'tenants/acme', keyId: 'k' });
  return {
    environment,
    service,
    keyward,
    peer: peerOf(service),
    [Symbol.asyncDispose]: async () => {
      await service.stop();
      await environment[Symbol.asyncDispose]();
    },
  };
}

function peerOf(service: Service): Peer {
  const { ca, cert, key } = service.connectOptions();
  return { port: service.httpPort, ca: String(ca), cert: String(cert), key: String(key) };
}

test('a caller’s calls by one listener give way to its calls by the other', async () => {
  await using rig = await started({ KEYWARD_MAX_CALLS: '2' });
  const request = { name: 'tenants/acme/keys/k', plaintext: Buffer.from('x') };
  const half = requestText(ENCRYPT, JSON.stringify(request)).slice(0, -1);
  const unfinished = askRaw(rig.peer, half);
  await eventually(async () => {
    await rig.keyward.encrypt(request);
    const line = rig.service.log.find(({ msg }) => msg === 'call refused');
    assert.equal(line?.['outcome'], 'SERVER_BUSY');
  });
  assert.match(await unfinished, /^HTTP\/1\.1 429 .*SERVER_BUSY/s);
});

describe('peers who may not stay', () => {
  const closedWith = async (environment: Environment, service: Service, more: object) => {
    const socket = connectTls({
      host: '127.0.0.1',
      port: service.httpPort,
      servername: 'localhost',
      ca: environment.ca.certPem,
      ...more,
    });
    socket.on('error', () => {});
    socket.resume();
    await new Promise((resolve) => socket.once('close', resolve));
  };

  test('have no certificate, one of another CA, or an older TLS', async () => {
    await using rig = await started();
    const { environment, service } = rig;
    const { certPem, keyPem } = createCertificateAuthority('another CA').issue({
      subject: 'x',
      usage: 'client',
    });
    await closedWith(environment, service, {});
    await closedWith(environment, service, { cert: certPem, key: keyPem });
    await closedWith(environment, service, { ...rig.peer, maxVersion: 'TLSv1.2' });
    await eventually(() => {
      const refused = service.log.filter(({ msg }) => msg === 'a client certificate was refused');
      assert.equal(refused.length, 2);
    });
  });
});

describe('when the service stops', () => {
  test('streams end with the reason, and idle connections hold up nothing', async () => {
    await using rig = await started({ KEYWARD_DRAIN_MS: '60000' });
    using idle = await openRaw(rig.peer);
    idle.write(requestText(GET_TENANT, JSON.stringify(TENANT)));
    await once(idle, 'data');
    using session = openHttp2(rig.peer);
    await once(session, 'connect');
    const stream = session.request({
      ':method': 'POST',
      ':path': '/keyward.v1.AuditService/ReadEntries',
      'content-type': 'application/connect+json',
    });
    stream.on('error', () => {});
    const pieces: Buffer[] = [];
    stream.on('data', (piece: Buffer) => pieces.push(piece));
    stream.end(inEnvelope(Buffer.from('{"parent":"tenants/acme"}')));
    await eventually(() => assert.ok(pieces.length > 0));
    const closed = once(stream, 'close');
    const from = performance.now();
    assert.equal(await rig.service.stop(), 0);
    assert.ok(performance.now() - from < 50_000, 'it waited for what was idle');
    await closed;
    const last = envelopesIn(Buffer.concat(pieces)).at(-1);
    const error = last?.json['error'] as Readonly<Record<string, unknown>>;
    assert.equal(failureIn(error).reason, 'SERVER_STOPPING');
  });

  test('a connection of HTTP/1.1 that has come of age says so with its last answer', async () => {
    await using rig = await started({ KEYWARD_CONNECTION_AGE_MS: '1000' });
    await eventually(async () => {
      using socket = await openRaw(rig.peer);
      let received = '';
      socket.on('data', (piece: Buffer) => {
        received += piece.toString();
      });
      const gone = once(socket, 'close');
      // A call under way when the age is reached: its body is late.
      const text = requestText(GET_TENANT, JSON.stringify(TENANT));
      socket.write(text.slice(0, -1));
      await new Promise((resolve) => setTimeout(resolve, 1_500));
      socket.write(text.slice(-1));
      await gone;
      assert.match(received, /^HTTP\/1\.1 200 OK\r\n/);
      assert.match(received, /connection: close/i);
    });
  });

  test('one that was idle is closed after its time', async () => {
    await using rig = await started({ KEYWARD_IDLE_MS: '300' });
    using socket = await openRaw(rig.peer);
    const gone = once(socket, 'close');
    socket.write(requestText(GET_TENANT, JSON.stringify(TENANT)));
    const [answer] = (await once(socket, 'data')) as [Buffer];
    assert.match(answer.toString(), /^HTTP\/1\.1 200 /);
    await gone;
    const { status } = await ask(rig.peer, 'HTTP/1.1', { path: GET_TENANT, body: TENANT });
    assert.equal(status, 200);
  });
});
