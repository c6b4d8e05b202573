/**
 * Sockets whose TLS handshake is under way: those of a client that is closed are closed with it.
 *
 * grpc-js leaves them to the peer, which may be silent; a program would go on for their sake. A
 * handshake that is over is grpc-js' own affair.
 */
import type { Socket } from 'node:net';
import type { ChannelCredentials } from '@grpc/grpc-js';

type SecureConnector = ReturnType<ChannelCredentials['_createSecureConnector']>;

/** Returns the credentials, whose channel leaves no handshake behind when it is closed. */
export function endingHandshakes(credentials: ChannelCredentials): ChannelCredentials {
  const create = credentials._createSecureConnector.bind(credentials);
  credentials._createSecureConnector = (...args) => ending(create(...args));
  return credentials;
}

function ending(connector: SecureConnector): SecureConnector {
  const connecting = new Set<Socket>();
  let isOver = false;
  // Not at once: grpc-js first has to know that it wants no connection any more.
  const end = () =>
    setImmediate(() => {
      for (const socket of connecting) socket.destroy();
    });
  return {
    connect: (socket) => {
      connecting.add(socket);
      if (isOver) end();
      return connector.connect(socket).finally(() => connecting.delete(socket));
    },
    waitForReady: () => connector.waitForReady(),
    getCallCredentials: () => connector.getCallCredentials(),
    destroy: () => {
      isOver = true;
      connector.destroy();
      end();
    },
  };
}
