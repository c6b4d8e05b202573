/**
 * The socket of a host of agents as a file: in whose folder it is, who may open it, and what is
 * there before it.
 *
 * Invariant: nothing is removed but a socket of our own user's at which nobody answers.
 */
import { chmodSync, lstatSync, mkdirSync, statSync, unlinkSync } from 'node:fs';
import { connect, type Server } from 'node:net';
import { dirname } from 'node:path';

/** For its owner and its group. */
const SOCKET_MODE = 0o660;
const FOLDER_MODE = 0o750;
const WRITABLE_BY_OTHERS = 0o022;

/**
 * Throws Error, in words for operators, unless there is a socket at this path, in a folder that
 * only root or the socket's owner can change: in any other, anyone could have put it there.
 */
export function requireGuardedSocket(path: string): void {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (!found?.isSocket()) throw new Error(`cannot reach the agent host: ${path} is no socket`);
  requireGuardedFolder(path, found.uid);
}

function requireGuardedFolder(path: string, owner: number | undefined): void {
  const folder = dirname(path);
  const { uid, mode } = statSync(folder);
  if (uid !== 0 && uid !== owner)
    throw new Error(`cannot use ${path}: its folder belongs to neither root nor the host’s user`);
  if ((mode & WRITABLE_BY_OTHERS) !== 0)
    throw new Error(`cannot use ${path}: others can change its folder; chmod go-w ${folder}`);
}

/**
 * Has the server listen at this path, in a folder that is made if it is missing. Throws Error, in
 * words for operators.
 */
export async function listenAt(server: Server, path: string): Promise<void> {
  mkdirSync(dirname(path), { recursive: true, mode: FOLDER_MODE });
  requireGuardedFolder(path, process.getuid?.());
  await removeStale(path);
  // It is there from the moment that it is bound, within `listen`.
  const before = process.umask(0o777 & ~SOCKET_MODE);
  const listening = new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, resolve);
  });
  process.umask(before);
  await listening;
  chmodSync(path, SOCKET_MODE);
}

async function removeStale(path: string): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return;
  if (!found.isSocket() || found.uid !== process.getuid?.())
    throw new Error(`cannot listen at ${path}: there is something that is no socket of this user`);
  if (await answers(path))
    throw new Error(`cannot listen at ${path}: another agent host listens there`);
  unlinkSync(path);
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => resolve(true));
    // Anything but a refusal leaves it unknown, and then it is left alone.
    socket.once('error', ({ code }: NodeJS.ErrnoException) => resolve(code !== 'ECONNREFUSED'));
    socket.once('connect', () => socket.destroy());
  });
}
