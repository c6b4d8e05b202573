/**
 * How PostgreSQL is run, which refuses to run as root: directly by an ordinary user; by root in a
 * user namespace, where the same files belong to an unprivileged account; and where namespaces are
 * refused, under a real unprivileged account, in a folder of root's in /var/lib.
 *
 * Owns the choice, and keeps to it for data that exists. What that account owns there are folders
 * of data, and root changes nothing inside of those: it could be led elsewhere by links. Knows
 * nothing of PostgreSQL but where its binaries are.
 */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  cpSync,
  fchownSync,
  lchownSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { exists, readIfThere, writePrivate } from './files.ts';

const OUTSIDE = '/var/lib/keyward-';

/** Where and as whom programs run. */
export interface Place {
  /** The folder for folders of data, which {@link makeFolder} makes. */
  readonly directory: string;
  /** The folder of the binaries, readable by that account. */
  readonly binaries: string;
  /** The account's ids where they are not our own. */
  readonly account: Account | undefined;
  /** What to put before a command. */
  readonly prefix: readonly string[];
}

interface Account {
  readonly uid: number;
  readonly gid: number;
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
  const kept = folderOutside(directory);
  const prefix = ['unshare', '--user', `--map-user=${account.uid}`, `--map-group=${account.gid}`];
  if (kept === undefined) {
    if (userNamespaces && canRun(prefix, own.binaries, directory)) return { ...own, prefix };
    if (exists(join(directory, 'data')))
      throw new Error(
        `cannot use the data in ${directory}: it was made with user namespaces for root, which ` +
          'are not allowed here; run as an ordinary user, or remove that folder to begin with ' +
          'new data',
      );
  }
  const outside = kept ?? makeOutside(directory);
  say(
    'PostgreSQL does not run as root, and user namespaces are not allowed here: ' +
      `its data is in ${outside}.`,
  );
  return {
    directory: outside,
    account,
    prefix: [],
    binaries: prepareBinaries(outside, installation, account),
  };
}

/** Makes a folder for the account alone, which is not there yet. */
export function makeFolder({ account }: Place, folder: string): void {
  mkdirSync(folder, { mode: 0o700 });
  // Nobody but root can put another in its place.
  if (account !== undefined) lchownSync(folder, account.uid, account.gid);
}

/** Makes a file for the account alone, which is not there yet, beside the folders of data. */
export function makeFile({ account }: Place, file: string, content: string): void {
  const descriptor = openSync(file, 'wx', 0o600);
  try {
    writeSync(descriptor, content);
    if (account !== undefined) fchownSync(descriptor, account.uid, account.gid);
  } finally {
    closeSync(descriptor);
  }
}

/** Removes a folder that {@link makeFolder} made, if it is there. */
export function removeFolder({ account }: Pick<Place, 'account'>, folder: string): void {
  if (account === undefined) {
    rmSync(folder, { recursive: true, force: true });
  } else if (isThere(folder)) {
    // What is in it goes as the account, which then cannot remove the folder itself.
    spawnSync('rm', ['-rf', '--', folder], { ...account, stdio: 'ignore', cwd: '/' });
    rmdirSync(folder);
  }
}

/**
 * The account that data is given to: `nobody`, which every Linux has, else the first that isn't
 * root.
 */
function unprivilegedAccount(): Account {
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

/**
 * The folder outside that stands for one of ours, if one was made and is there still; throws where
 * it is not as it was made.
 */
export function folderOutside(directory: string): string | undefined {
  const outside = readIfThere(recordOf(directory))?.trim();
  if (outside === undefined || !isThere(outside)) return undefined;
  const status = lstatSync(outside);
  if (!status.isDirectory() || status.uid !== 0 || (status.mode & 0o022) !== 0)
    throw new Error(`cannot use ${outside}: others can change it; remove it, then try again`);
  return outside;
}

/** Removes the folder outside with the data in it, if there is one. */
export function removeOutside(directory: string): void {
  const outside = folderOutside(directory);
  if (outside === undefined) return;
  const account = unprivilegedAccount();
  for (const name of ['data', 'data.new']) removeFolder({ account }, join(outside, name));
  rmSync(outside, { recursive: true, force: true });
  rmSync(recordOf(directory), { force: true });
}

/** Root's, of a name that nobody can have foreseen; the account may only pass through it. */
function makeOutside(directory: string): string {
  const outside = mkdtempSync(OUTSIDE);
  chmodSync(outside, 0o711);
  writePrivate(recordOf(directory), `${outside}\n`);
  return outside;
}

function recordOf(directory: string): string {
  return join(directory, 'outside');
}

function isThere(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
}

/** PostgreSQL's own folder, or where the account cannot read that, a copy of root's. */
function prepareBinaries(outside: string, installation: string, account: Account): string {
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
