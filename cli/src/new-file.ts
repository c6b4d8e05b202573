/**
 * Makes a file that has its name only when it is whole.
 *
 * - Until then it has another one in the same folder.
 * - Before it gets its name it is on disk; the folder is, once {@link syncFolder} was called.
 * - A file of that name is replaced only where that is allowed, even if it came meanwhile.
 */
import { randomBytes } from 'node:crypto';
import { type FileHandle, link, open, readdir, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';

/** What a run that was killed leaves. */
const UNFINISHED = /^\.keyward-[0-9a-f]{12}\.new$/;

/** Returns whether the name is of a file that was not finished. */
export function isUnfinished(name: string): boolean {
  return UNFINISHED.test(name);
}

/** Removes what runs that were killed have left in the folder, if there is one. */
export async function removeUnfinished(folder: string): Promise<void> {
  const names = await readdir(folder).catch(() => []);
  for (const name of names.filter(isUnfinished)) await rm(join(folder, name), { force: true });
}

/** What a file gets with its name. */
export interface Finish {
  /** Permission bits; those that it began with unless given. */
  readonly mode?: number;
  /** In seconds; now unless given. */
  readonly modified?: number;
  /** Whether it may replace one of that name. */
  readonly force: boolean;
}

/** A file that is being written; disposed of before it is finished, nothing of it is left. */
export class NewFile implements AsyncDisposable {
  readonly handle: FileHandle;
  readonly #file: string;
  readonly #unfinished: string;
  #isFinished = false;

  private constructor(file: string, unfinished: string, handle: FileHandle) {
    this.#file = file;
    this.#unfinished = unfinished;
    this.handle = handle;
  }

  /** Begins a file. Rejects as `open` does. */
  static async begin(file: string, mode = 0o600): Promise<NewFile> {
    const name = `.keyward-${randomBytes(6).toString('hex')}.new`;
    const unfinished = join(dirname(file), name);
    return new NewFile(file, unfinished, await open(unfinished, 'wx', mode));
  }

  /** Gives the file its name. Rejects with EEXIST where that is taken and must not be replaced. */
  async finish({ mode, modified, force }: Finish): Promise<void> {
    if (mode !== undefined) await this.handle.chmod(mode);
    if (modified !== undefined) await this.handle.utimes(modified, modified);
    await this.handle.sync();
    await this.handle.close();
    if (force) await rename(this.#unfinished, this.#file);
    else await nameNew(this.#unfinished, this.#file);
    this.#isFinished = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isFinished) return;
    await this.handle.close().catch(() => {});
    await rm(this.#unfinished, { force: true });
  }
}

/** Not by `rename`, which replaces what has come meanwhile. */
async function nameNew(unfinished: string, file: string): Promise<void> {
  try {
    await link(unfinished, file);
    await rm(unfinished);
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException;
    if (!LINKLESS.includes(code)) throw error;
    await (await open(file, 'wx', 0o600)).close();
    await rename(unfinished, file);
  }
}

/** How file systems without hard links refuse one. */
const LINKLESS = ['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK'];

/** Puts on disk what names a folder has. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
