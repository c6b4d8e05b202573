/**
 * The port of a start's server: taken by its start, not looked for.
 *
 * Between choosing a port and the server's own listening lie seconds in which others find it free
 * as well. So a start listens on it itself until its server is about to (who takes it then is for
 * the start to notice: start.ts); and it holds, as long as
 * it runs, a socket in the port's name in Linux' abstract namespace, against other starts while its
 * server isn't there. One process has that at a time, the kernel takes it back however that one
 * ends, and it is shared by exactly those who share the port. Knows no server.
 */
import { createServer, type ListenOptions, type Server } from 'node:net';

/** A port that no other start takes until it is disposed of. */
export interface HeldPort extends Disposable {
  readonly port: number;
  /** Listens on it no longer, so that the server can. */
  giveToServer(): Promise<void>;
}

/**
 * Holds the first port from `first` on that no other start holds and nobody listens on at
 * 127.0.0.1. Throws when none of `tried` is such a port.
 */
export async function holdPort(first: number, tried: number): Promise<HeldPort> {
  for (let port = first; port < first + tried; port += 1) {
    const name = await listening({ path: `\0keyward-start-${port}` });
    if (name === undefined) continue;
    const listener = await listening({ port, host: '127.0.0.1' });
    if (listener === undefined) {
      name.close();
      continue;
    }
    return {
      port,
      giveToServer: () => new Promise((resolve) => listener.close(() => resolve())),
      [Symbol.dispose]: () => {
        listener.close();
        name.close();
      },
    };
  }
  throw new Error(`cannot find a free port: ${first} to ${first + tried - 1} are in use`);
}

/** A server that listens there, or nothing where it can't; whoever connects is sent away. */
function listening(where: ListenOptions): Promise<Server | undefined> {
  const server = createServer((socket) => socket.destroy());
  return new Promise((resolve) => {
    server.once('error', () => resolve(undefined));
    server.listen(where, () => resolve(server.unref()));
  });
}
