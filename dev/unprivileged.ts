/**
 * How PostgreSQL is run, which refuses to run as root: directly by an ordinary user; by root in a
 * user namespace, where the same files belong to an unprivileged account; and where namespaces are
 * refused, under a real unprivileged account that has a folder of its own in /var/tmp.
 *
 * Owns the choice, and keeps to it for data that exists. Knows nothing of PostgreSQL but where its
 * binaries are.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chownSync,
  cpSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
} from 'node:fs';
import { join } from 'node:path';
import { exists } from './files.ts';

/** Where and as whom programs run. */
export interface Place {
  /** The folder for data, writable by the account that programs run under. */
  readonly directory: string;
  /** The folder of the binaries, readable by that account. */
  readonly binaries: string;
  /** The account's ids where they are not our own. */
  readonly account: { readonly uid: number; readonly gid: number } | undefined;
  /** What to put before a command. */
  readonly prefix: readonly string[];
}

export interface PlaceOptions {
  /** Our own folder for the data, existing. */
  readonly directory: string;
  /** PostgreSQL's folder, with bin, lib and share. */
  readonly installation: string;
  /** False acts as where user namespaces are refused. */
  readonly userNamespaces?: boolean;
  readonly say: (line: string) => void;
}

/** Finds out how programs can run over `directory`; says so where data ends up outside of it. */
export function findPlace({
  directory,
  installation,
  userNamespaces = true,
  say,
}: PlaceOptions): Place {
  const own = { directory, binaries: join(installation, 'bin'), account: undefined };
  if (process.getuid?.() !== 0) return { ...own, prefix: [] };
  const account = unprivilegedAccount();
  const outside = folderOutside(directory);
  const prefix = ['unshare', '--user', `--map-user=${account.uid}`, `--map-group=${account.gid}`];
  const keepOutside = exists(join(outside, 'data'));
  if (!keepOutside && userNamespaces && canRun(prefix, own.binaries, directory))
    return { ...own, prefix };
  if (!keepOutside && exists(join(directory, 'data'))) {
    throw new Error(
      `cannot use the data in ${directory}: it was made with user namespaces for root, which are ` +
        'not allowed here; run as an ordinary user, or remove that folder to begin with new data',
    );
  }
  say(
    'PostgreSQL does not run as root, and user namespaces are not allowed here: ' +
      `its data is in ${outside}.`,
  );
  return {
    directory: outside,
    account,
    prefix: [],
    binaries: prepareOutside(outside, installation, account),
  };
}

/**
 * The account that data is given to: `nobody`, which every Linux has, else the first that isn't
 * root.
 */
function unprivilegedAccount(): { uid: number; gid: number } {
  const accounts = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .map((line) => line.split(':'))
    .map(([name, , uid, gid]) => ({ name, uid: Number(uid), gid: Number(gid) }))
    .filter(({ uid, gid }) => uid > 0 && gid > 0);
  // initdb wants an account that has a name.
  const account = accounts.find(({ name }) => name === 'nobody') ?? accounts[0];
  if (account === undefined)
    throw new Error(
      'cannot start PostgreSQL: it refuses to run as root, and /etc/passwd has no other account',
    );
  return { uid: account.uid, gid: account.gid };
}

function canRun(prefix: readonly string[], binaries: string, directory: string): boolean {
  const [command = '', ...args] = [
    ...prefix,
    'sh',
    '-c',
    '"$0" --version && test -w "$1"',
    join(binaries, 'postgres'),
    directory,
  ];
  return spawnSync(command, args, { stdio: 'ignore', cwd: '/' }).status === 0;
}

/** The folder in /var/tmp that stands for one of ours, which exists. */
export function folderOutside(directory: string): string {
  const name = createHash('sha256').update(realpathSync(directory)).digest('hex').slice(0, 16);
  return `/var/tmp/keyward-${name}`;
}

function prepareOutside(
  outside: string,
  installation: string,
  account: { uid: number; gid: number },
): string {
  mkdirSync(outside, { recursive: true, mode: 0o700 });
  const status = lstatSync(outside);
  // Anyone can make a folder in /var/tmp: one that isn't ours is not used.
  if (!status.isDirectory() || (status.uid !== 0 && status.uid !== account.uid)) {
    throw new Error(`cannot use ${outside}: it belongs to another user; remove it, then try again`);
  }
  chownSync(outside, account.uid, account.gid);
  const inPlace = join(installation, 'bin', 'postgres');
  const readable =
    spawnSync(inPlace, ['--version'], { ...account, stdio: 'ignore', cwd: '/' }).status === 0;
  if (readable) return join(installation, 'bin');
  const copy = join(outside, 'installation');
  if (!exists(copy)) {
    const unfinished = `${copy}.new`;
    rmSync(unfinished, { recursive: true, force: true });
    cpSync(installation, unfinished, { recursive: true, verbatimSymlinks: true });
    renameSync(unfinished, copy);
  }
  return join(copy, 'bin');
}
