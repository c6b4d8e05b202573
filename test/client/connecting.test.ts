/** Connections that end: what grpc-js, or Node, would leave open, and what callers are told. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { constants, createSecureServer } from 'node:http2';
import { type AddressInfo, createServer, connect as netConnect, type Socket } from 'node:net';
import { test } from 'node:test';
import { ChannelCredentials } from '@grpc/grpc-js';
import { closingSockets } from '../../client/src/connecting.ts';
import { connect } from '../../client/src/index.ts';
import { createCertificateAuthority } from '../../dev/certificates.ts';

test('a connection that its peer resets is closed, also while Node does not read it', async () => {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const accepted = once(server, 'connection');
  const { port } = server.address() as AddressInfo;
  // Neither reads nor writes, as HTTP/2 after a write of TLS that failed.
  const socket = netConnect(port, '127.0.0.1').pause();
  await once(socket, 'connect');
  try {
    const credentials = ChannelCredentials.createInsecure();
    const target = { scheme: 'ipv4', path: '127.0.0.1' };
    await closingSockets(credentials)._createSecureConnector(target, {}).connect(socket);
    const closed = once(socket, 'close');
    const [peer] = (await accepted) as [Socket];
    peer.resetAndDestroy();
    await closed;
    assert.ok(socket.destroyed);
  } finally {
    socket.destroy();
    server.close();
  }
});

test('a call on a connection that is ended for what its caller did can be made again, and says why', async () => {
  const ca = createCertificateAuthority('CA');
  const own = ca.issue({ subject: 'service', usage: 'server', ips: ['127.0.0.1'] });
  const client = ca.issue({ subject: 'test', usage: 'client' });
  const server = createSecureServer({ cert: own.certPem, key: own.keyPem });
  let connections = 0;
  server.on('session', (session) => {
    connections += 1;
    session.on('error', () => {});
  });
  server.on('stream', (stream) => {
    stream.on('error', () => {});
    stream.session?.goaway(constants.NGHTTP2_ENHANCE_YOUR_CALM, 0, Buffer.from('too_many_resets'));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  try {
    using keyward = connect({
      address: `127.0.0.1:${port}`,
      ca: ca.certPem,
      cert: client.certPem,
      key: client.keyPem,
      retries: 1,
    });
    await assert.rejects(keyward.getTenant({ name: 'tenants/acme' }), {
      code: 'UNAVAILABLE',
      message: /ended the connection: this caller has too many, or gave up too many calls$/,
    });
    assert.equal(connections, 2);
  } finally {
    server.close();
  }
});
