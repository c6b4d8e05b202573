/** Sockets of a client that grpc-js, or Node, would leave open. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, createServer, connect as netConnect, type Socket } from 'node:net';
import { test } from 'node:test';
import { ChannelCredentials } from '@grpc/grpc-js';
import { closingSockets } from '../../client/src/connecting.ts';

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
