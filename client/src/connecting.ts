/**
 * What grpc-js leaves undone about the sockets of a client.
 *
 * - Those whose TLS handshake is under way when the client is closed are closed with it: grpc-js
 *   leaves them to the peer, which may be silent; a program would go on for their sake.
 * - Those that the peer has reset are closed, also where Node doesn't say so: calls on them would
 *   wait for their deadlines, and new ones would join them.
 */
import type { Socket } from 'node:net';
import { constants } from 'node:os';
import type { ChannelCredentials } from '@grpc/grpc-js';

type SecureConnector = ReturnType<ChannelCredentials['_createSecureConnector']>;

/** Of Node's own of a socket, what asks the kernel. */
interface Handle {
  /** Returns 0, or a system error. */
  getpeername?(into: object): number;
}

/** How often it is asked whether the peer has reset a connection. */
const RESET_LOOK_MS = 1_000;
const NO_PEER = -constants.errno.ENOTCONN;

/**
 * Returns the credentials, whose channel leaves no handshake behind when it is closed, and no
 * connection open that was reset.
 */
export function closingSockets(credentials: ChannelCredentials): ChannelCredentials {
  const create = credentials._createSecureConnector.bind(credentials);
  credentials._createSecureConnector = (...args) => closing(create(...args));
  return credentials;
}

function closing(connector: SecureConnector): SecureConnector {
  const connecting = new Set<Socket>();
  let isOver = false;
  // Not at once: grpc-js first has to know that it wants no connection any more.
  const end = () =>
    setImmediate(() => {
      for (const socket of connecting) socket.destroy();
    });
  return {
    connect: async (socket) => {
      connecting.add(socket);
      if (isOver) end();
      try {
        const connected = await connector.connect(socket);
        closeWhenReset(connected.socket);
        return connected;
      } finally {
        connecting.delete(socket);
      }
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

function closeWhenReset(socket: Socket): void {
  if (socket.destroyed) return; // Its 'close' may be over.
  const look = setInterval(() => wasReset(socket) && socket.destroy(), RESET_LOOK_MS).unref();
  socket.once('close', () => clearInterval(look));
}

/**
 * Where a write of TLS fails, nothing tells HTTP/2: its next one is never finished, and it reads
 * nothing until it is. So the kernel is asked, which knows no peer of a connection that was reset.
 */
function wasReset(socket: Socket): boolean {
  const { _handle } = socket as { readonly _handle?: Handle | null };
  return _handle?.getpeername?.({}) === NO_PEER;
}
