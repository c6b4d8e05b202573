/**
 * Development certificates: that a TLS stack accepts and refuses them for the right reasons.
 */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { connect, createServer, type TLSSocket } from 'node:tls';
import {
  type Credentials,
  createCertificateAuthority,
  restoreCertificateAuthority,
} from '../../dev/certificates.ts';
import { openCertificates } from '../../dev/environment.ts';

const authority = createCertificateAuthority('Test CA');
const server = authority.issue({
  subject: 'localhost',
  usage: 'server',
  dns: ['localhost'],
  ips: ['127.0.0.1', '::1'],
});
const client = authority.issue({
  subject: 'caller',
  usage: 'client',
  uris: ['spiffe://keyward.test/caller'],
});

/** What the server saw of the client, or why the handshake failed on either side. */
async function handshake(
  serverSide: Credentials,
  clientSide: Credentials,
  servername = '',
): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  const listener = createServer(
    {
      cert: serverSide.certPem,
      key: serverSide.keyPem,
      ca: authority.certPem,
      requestCert: true,
      // Accepted for the moment, so that the reason for refusing it can be read.
      rejectUnauthorized: false,
      minVersion: 'TLSv1.3',
    },
    (socket: TLSSocket) => {
      const name = socket.getPeerX509Certificate()?.subjectAltName ?? 'no name';
      resolve(socket.authorized ? name : `server: ${socket.authorizationError}`);
    },
  );
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const socket = connect({
    host: '127.0.0.1',
    port: (listener.address() as AddressInfo).port,
    ca: authority.certPem,
    cert: clientSide.certPem,
    key: clientSide.keyPem,
    servername,
  });
  socket.on('error', (error: NodeJS.ErrnoException) => resolve(`client: ${error.code}`));
  const outcome = await promise;
  socket.destroy();
  listener.close();
  return outcome;
}

test('a server and a client of the same authority meet, and the server sees the SPIFFE id', async () => {
  assert.equal(await handshake(server, client), 'URI:spiffe://keyward.test/caller');
  assert.equal(await handshake(server, client, 'localhost'), 'URI:spiffe://keyward.test/caller');
});

test('an expired client certificate is refused', async () => {
  const expired = authority.issue({
    subject: 'caller',
    usage: 'client',
    notBefore: new Date('2020-01-01'),
    notAfter: new Date('2020-01-02'),
  });
  assert.equal(await handshake(server, expired), 'server: CERT_HAS_EXPIRED');
});

test('a certificate for another usage is refused on either side', async () => {
  assert.match(await handshake(server, server), /^server: INVALID_PURPOSE/);
  assert.match(await handshake(client, client, 'localhost'), /^client: INVALID_PURPOSE/);
});

test("another authority's certificate is refused, also where the authority has the same name", async () => {
  const other = createCertificateAuthority('Test CA').issue({ subject: 'caller', usage: 'client' });
  assert.match(await handshake(server, other), /^server: /);
});

test("a restored authority's certificates are as good as the original's", async () => {
  const restored = restoreCertificateAuthority('Test CA', authority);
  const issued = restored.issue({
    subject: 'caller',
    usage: 'client',
    uris: ['spiffe://keyward.test/restored'],
  });
  assert.equal(await handshake(server, issued), 'URI:spiffe://keyward.test/restored');
});

test('dates on both sides of 2050 are read back as they were given', () => {
  for (const notAfter of [new Date('2049-12-31T23:59:59Z'), new Date('2050-01-01T00:00:00Z')]) {
    const { certPem } = authority.issue({ subject: 'caller', usage: 'client', notAfter });
    assert.deepEqual(new X509Certificate(certPem).validToDate, notAfter);
  }
});

test('kept certificates are used again; a broken pair and one about to expire are made anew', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'keyward-certificates-'));
  t.after(() => rmSync(directory, { recursive: true }));
  const files = openCertificates(directory);
  const read = () => Object.values(files).map(({ cert }) => readFileSync(cert, 'utf8'));
  const first = read();
  const [ca, , clientCert] = first;
  openCertificates(directory);
  assert.deepEqual(read(), first);
  for (const { key } of Object.values(files)) assert.equal(statSync(key).mode & 0o777, 0o600);

  writeFileSync(files.client.key, readFileSync(files.server.key));
  openCertificates(directory);
  assert.notEqual(read()[2], clientCert);

  const kept = {
    certPem: readFileSync(files.ca.cert, 'utf8'),
    keyPem: readFileSync(files.ca.key, 'utf8'),
  };
  const soon = new Date(Date.now() + 86_400_000);
  const expiring = restoreCertificateAuthority('Keyward development CA', kept).issue({
    subject: 'localhost',
    usage: 'server',
    notAfter: soon,
  });
  writeFileSync(files.server.cert, expiring.certPem);
  writeFileSync(files.server.key, expiring.keyPem);
  openCertificates(directory);
  assert.notEqual(read()[1], expiring.certPem);
  assert.equal(read()[0], ca);
});
