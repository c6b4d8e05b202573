/**
 * Finds which file becomes which: of names that a user gave, and of all that is below folders.
 *
 * - Only regular files are read. A link that the user named is followed; one in a folder is left.
 * - Nothing is remembered of what was found, so a tree of any size can be walked, and again.
 * - It reads nothing of the files but the first bytes of those that look encrypted.
 */
import { constants, type Stats, statSync } from 'node:fs';
import { lstat, open, readdir } from 'node:fs/promises';
import { basename, dirname, join, resolve, sep } from 'node:path';
import { fileTrouble, UsageError } from '../failures.ts';
import { FILE_BEGINNING_BYTES, isEncryptedFile } from '../files.ts';
import { isUnfinished } from '../new-file.ts';

/** Which way. */
export type Direction = 'encrypt' | 'decrypt';

/** What the name of an encrypted file ends with. */
export const SUFFIX = '.kwe';

/** A file to be read and the one that it becomes, or a folder and the one that mirrors it. */
export interface Pair {
  readonly from: string;
  readonly to: string;
  readonly status: Stats;
}

/** What is left as it is, and why: `done` is of a kind that the other direction is for. */
export interface Left {
  readonly path: string;
  readonly why: 'link' | 'special' | 'unfinished' | 'done';
}

/** What a user named. */
export interface Named {
  readonly paths: readonly string[];
  readonly out: string | undefined;
  readonly recursive: boolean;
}

/** Returns whether the name is of an encrypted file. */
function isEncryptedName(name: string): boolean {
  return name.endsWith(SUFFIX) && name.length > SUFFIX.length;
}

function renamed(name: string, direction: Direction): string {
  return direction === 'encrypt' ? name + SUFFIX : name.slice(0, -SUFFIX.length);
}

/**
 * Yields all that is to become another file, folders before what is in them, and all that is left.
 * Throws UsageError.
 */
export async function* walk(named: Named, direction: Direction): AsyncGenerator<Pair | Left> {
  const { roots, intoFolder } = rootsOf(named, direction);
  if (intoFolder && named.out !== undefined)
    yield { from: '.', to: named.out, status: statSync('.') };
  for (const { from, to, status } of roots) {
    if (status.isDirectory()) yield* below({ from, to, status }, direction);
    else yield { from, to, status };
  }
}

/** What was named and what it becomes, and whether that is in a folder that may have to be made. */
function rootsOf({ paths, out, recursive }: Named, direction: Direction) {
  const given = paths.map((from) => ({ from, status: statusOf(from, direction) }));
  const isFolder = out !== undefined && (out.endsWith(sep) || isDirectory(out));
  const intoFolder = given.length > 1 || (isFolder && given[0]?.status.isFile() === true);
  const sources = new Map<string, string>();
  const roots = given.map(({ from, status }): Pair => {
    const isTree = status.isDirectory();
    if (isTree && !recursive)
      throw new UsageError(`cannot ${direction} ${from}: it is a directory; give --recursive`);
    const to = targetOf(from, { isTree, out, intoFolder }, direction);
    if (isTree) refuseInside(from, to, direction);
    const other = sources.get(resolve(to));
    if (other !== undefined)
      throw new UsageError(`cannot write ${to}: both ${other} and ${from} would become it`);
    sources.set(resolve(to), from);
    return { from, to, status };
  });
  return { roots, intoFolder };
}

function statusOf(path: string, direction: Direction): Stats {
  try {
    const status = statSync(path);
    if (status.isFile() || status.isDirectory()) return status;
  } catch (error) {
    throw new UsageError(`cannot ${direction} ${path}: ${fileTrouble(error)}`, { cause: error });
  }
  throw new UsageError(
    `cannot ${direction} ${path}: it is not a regular file; give - and pipe it in`,
  );
}

function isDirectory(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
}

interface Place {
  readonly isTree: boolean;
  readonly out: string | undefined;
  readonly intoFolder: boolean;
}

function targetOf(path: string, { isTree, out, intoFolder }: Place, direction: Direction): string {
  if (out !== undefined && !intoFolder) return out;
  const name = basename(resolve(path));
  if (isTree) return out === undefined ? path : join(out, name);
  if (direction === 'decrypt' && !isEncryptedName(name))
    throw new UsageError(
      `cannot decrypt ${path}: its name does not end in ${SUFFIX}; name the output with --out`,
    );
  return join(out ?? dirname(path), renamed(name, direction));
}

/** A tree would have its own output below it. */
function refuseInside(path: string, to: string, direction: Direction): void {
  if (resolve(to).startsWith(resolve(path) + sep))
    throw new UsageError(`cannot ${direction} ${path}: --out is inside it; name another folder`);
}

async function* below(folder: Pair, direction: Direction): AsyncGenerator<Pair | Left> {
  yield folder;
  // All names at once: files that are made here meanwhile are not among them.
  for (const name of (await namesIn(folder.from, direction)).sort()) {
    const [path, to] = [join(folder.from, name), join(folder.to, name)];
    const status = await lstat(path).catch(() => undefined);
    if (status === undefined) continue;
    if (status.isDirectory()) yield* below({ from: path, to, status }, direction);
    else if (status.isSymbolicLink()) yield { path, why: 'link' };
    else if (!status.isFile()) yield { path, why: 'special' };
    else if (isUnfinished(name)) yield { path, why: 'unfinished' };
    else if (await isDone(path, name, direction)) yield { path, why: 'done' };
    else yield { from: path, to: join(folder.to, renamed(name, direction)), status };
  }
}

async function namesIn(folder: string, direction: Direction): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    throw new UsageError(`cannot ${direction} ${folder}: ${fileTrouble(error)}`, { cause: error });
  }
}

/** Returns whether a file is encrypted where such are wanted, or the other way round. */
async function isDone(path: string, name: string, direction: Direction): Promise<boolean> {
  if (!isEncryptedName(name)) return direction === 'decrypt';
  if (direction === 'decrypt') return false;
  const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW).catch(() => undefined);
  if (handle === undefined) return false;
  try {
    const beginning = Buffer.alloc(FILE_BEGINNING_BYTES);
    await handle.read(beginning, 0, beginning.length, 0);
    return isEncryptedFile(beginning);
  } finally {
    await handle.close();
  }
}
