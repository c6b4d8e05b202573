/**
 * Client certificates that expire on an open connection: calls by both listeners, tokens bound to
 * them, streams, and the connection itself.
 */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { PeerCertificate } from 'node:tls';
import { createCertificateAuthority } from '../../dev/certificates.ts';
import { clientCertificate, requireValid } from '../../src/access/certificates.ts';
import { grpcFrame, openSession } from '../faults/http2.ts';
import { eventually } from '../support/kit.ts';
import { newId } from '../support/reconciling.ts';
import { AccessRig, type Caller } from './access-rig.ts';

const WATCH = 'RotationService/WatchRewrapJob';
const KEY = { name: 'tenants/acme/keys/k' };
const CLOCK = join(import.meta.dirname, '..', 'faults', 'clock.ts');

let rig: AccessRig;

before(async () => {
  rig = await AccessRig.start({
    KEYWARD_HTTP_LISTEN: '127.0.0.1:0',
    NODE_OPTIONS: `--import=${CLOCK}`,
  });
});

after(() => rig?.[Symbol.asyncDispose]());

async function somebody(): Promise<Caller> {
  const name = `spiffe://keyward.test/${newId('somebody')}`;
  await rig.bind('acme', name, 'keyViewer');
  return rig.certified(name);
}

describe('a client certificate', () => {
  test('is checked at every call: once it has expired, nothing more is done on its connection', async () => {
    await rig.done('AdminService/PauseMaintenance', {});
    const job = await rig.done('RotationService/CreateRewrapJob', { scope: KEY.name });
    const [caller, watcher] = [await somebody(), await somebody()];
    await rig.bind('acme', 'jwt:corp/bound', 'keyViewer');
    await rig.bind('acme', 'jwt:corp/free', 'keyViewer');
    const then = { iat: inDays(400) - 60, exp: inDays(400) + 3_000 };
    const bound = rig.bound('bound', ['acme'], caller, then);
    const free = rig.tokened('free', ['acme'], then);
    const ask = [
      () => rig.ask(caller, 'KeyService/GetKey', KEY),
      () => rig.askByHttp(caller, 'KeyService/GetKey', KEY),
    ];
    for (const each of ask) assert.equal((await each()).reason, 'OK');
    const watched = rig.ask(watcher, WATCH, { name: job['name'] });
    assert.equal((await rig.ask(watcher, 'KeyService/GetKey', KEY)).reason, 'OK');
    process.kill(rig.service.pid, 'SIGUSR2');
    assert.equal((await watched).reason, 'CREDENTIALS_INVALID', 'a stream ends');
    for (const each of [...ask, () => rig.ask(bound, 'KeyService/GetKey', KEY)]) {
      const { reason, status } = await each();
      assert.deepEqual([reason, status], ['CREDENTIALS_INVALID', 16]);
    }
    await rig.service.logged(({ cause }) => /certificate has expired/.test(String(cause)));
    assert.equal((await rig.ask(free, 'KeyService/GetKey', KEY)).reason, 'OK', 'it is the time');
  });

  test('ends its connection when it expires, and with that a watch of health', () =>
    eventually(async () => {
      const replica = await rig.addReplica({ KEYWARD_DEADLINE_MS: '1000' });
      try {
        const { certPem: cert, keyPem: key } = rig.environment.ca.issue({
          subject: 'x',
          usage: 'client',
          uris: ['spiffe://keyward.test/brief'],
          // Seconds count; a machine that is too slow to connect meanwhile tries again.
          notAfter: new Date(Date.now() + 4_000),
        });
        using session = openSession({
          port: replica.port,
          ca: rig.environment.ca.certPem,
          cert,
          key,
        });
        const stream = session.request({
          ':method': 'POST',
          ':path': '/grpc.health.v1.Health/Watch',
          'content-type': 'application/grpc',
          te: 'trailers',
        });
        stream.on('error', () => {});
        stream.end(grpcFrame(Buffer.alloc(0)));
        const [first] = await once(stream, 'data');
        assert.ok((first as Buffer).length > 5);
        await once(session, 'close');
      } finally {
        await replica.stop();
      }
    }));
});

describe('the time for which a certificate counts', () => {
  const authority = createCertificateAuthority('some CA', { notAfter: inDaysDate(10) });
  const other = createCertificateAuthority('some CA', {
    notBefore: inDaysDate(-20),
    notAfter: inDaysDate(-10),
  });
  const peerOf = (issuerPem: string, notAfter?: Date) => {
    const request = { subject: 'x', usage: 'client', ...(notAfter && { notAfter }) } as const;
    const peer = legacy(authority.issue(request).certPem);
    const issuer = { ...legacy(issuerPem) };
    Object.assign(issuer, { issuerCertificate: issuer });
    return clientCertificate({ ...peer, issuerCertificate: issuer as never }, 'subject');
  };
  const refused = { reason: 'CREDENTIALS_INVALID' };

  test('is its own, up to the last second', () => {
    const certificate = peerOf(authority.certPem, inDaysDate(5));
    const { from, until } = certificate.validity;
    requireValid(certificate, from);
    requireValid(certificate, until);
    assert.throws(() => requireValid(certificate, until + 1), refused);
    assert.throws(() => requireValid(certificate, from - 1), refused);
  });

  test('ends with its issuer’s, but for an issuer that the handshake did not verify by', () => {
    assert.throws(() => requireValid(peerOf(authority.certPem), inDaysDate(11).getTime()), refused);
    requireValid(peerOf(other.certPem), inDaysDate(11).getTime());
  });
});

function legacy(pem: string): PeerCertificate {
  return new X509Certificate(pem).toLegacyObject() as PeerCertificate;
}

function inDaysDate(days: number): Date {
  return new Date(Date.now() + days * 86_400_000);
}

function inDays(days: number): number {
  return Math.floor(inDaysDate(days).getTime() / 1000);
}
