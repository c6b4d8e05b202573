/**
 * Encrypts or decrypts files, each under a data key of its own, and several at once.
 *
 * - Nothing is made before it is known that nothing would be replaced.
 * - What is wrong with one file stops that one; what is wrong with the service, or the disk, all.
 * - No byte of a file has the file's name before all of it was read, verified and is on disk.
 */
import { constants, type Stats } from 'node:fs';
import { type FileHandle, mkdir, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Duplex } from 'node:stream';
import { failureLine, fileTrouble, UsageError } from '../failures.ts';
import { NewFile, removeUnfinished, syncFolder } from '../new-file.ts';
import type { Output } from '../output/output.ts';
import { passFile } from './blocks.ts';
import { type Asking, othersAmong, targetStatus } from './made.ts';
import { Places } from './places.ts';
import { isOfOneFile, wordsOf } from './troubles.ts';
import { type Direction, type Left, type Named, type Pair, walk } from './walk.ts';

/** How files are made. */
export interface Plan {
  readonly direction: Direction;
  /** Returns what the bytes of one file go through. */
  readonly through: () => Duplex;
  /** Whether files that are there may be replaced. */
  readonly force: boolean;
  /** Whether files that an earlier run made are left. */
  readonly resume: boolean;
  /** Tells whether what an earlier run made is of this key and context; absent if it has to be. */
  readonly asking?: Asking;
  /** How what is remarkable of single files is told. */
  readonly output: Output;
  /** Is told how many bytes were read. */
  readonly progress: (done: number, total: number) => void;
  readonly signal: AbortSignal;
}

/** What a run did. */
export interface Tally {
  files: number;
  bytes: number;
  /** Files that an earlier run has made. */
  made: number;
  /** Files that are of the other direction. */
  left: number;
  skipped: number;
  failed: number;
}

/**
 * So many small files are made at once; one of {@link PLACE_BYTES} more takes a place more, so that
 * large ones are alone, and memory has a bound.
 */
const PLACES = 16;
const PLACE_BYTES = 65_536;

const WHY: Readonly<Record<Exclude<Left['why'], 'done'>, string>> = {
  link: 'it is a symbolic link',
  special: 'it is not a regular file',
  unfinished: 'a run that was ended has left it; --resume removes it',
};

/** Makes all files that were named. Throws UsageError before any is made, or what went wrong. */
export async function makeFiles(named: Named, plan: Plan): Promise<Tally> {
  const total = await survey(named, plan);
  return new Run(plan, total).all(named);
}

/** What there is to do. */
async function survey(named: Named, plan: Plan): Promise<{ files: number; bytes: number }> {
  const sum = { files: 0, bytes: 0 };
  const taken: Taken[] = [];
  const made: Pair[] = [];
  const add = ({ to, status }: Pair, why?: Taken['why']) => {
    if (why !== undefined && !plan.force) taken.push({ to, why });
    sum.files += 1;
    sum.bytes += status.size;
  };
  const ask = async () => {
    for (const pair of await othersIn(made.splice(0), plan)) add(pair, 'other');
  };
  for await (const found of walk(named, plan.direction)) {
    plan.signal.throwIfAborted();
    if ('why' in found || found.status.isDirectory()) continue;
    const target = await targetStatus(found);
    if (target !== 'made' || !plan.resume) add(found, target === 'new' ? undefined : 'there');
    else if (made.push(found) === ASKED_AT_ONCE) await ask();
  }
  await ask();
  if (taken.length > 0) throw new UsageError(alreadyThere(taken, plan));
  return sum;
}

/** As many as the client asks for in a call. */
const ASKED_AT_ONCE = 100;

async function othersIn(made: readonly Pair[], { asking }: Plan): Promise<readonly Pair[]> {
  return asking === undefined || made.length === 0 ? [] : await othersAmong(made, asking);
}

/** A file in the place of one that is to be made: it is there, or is of another key or context. */
interface Taken {
  readonly to: string;
  readonly why: 'there' | 'other';
}

function alreadyThere([first, ...others]: readonly Taken[], { resume }: Plan): string {
  const more =
    others.length === 0
      ? ''
      : ` (and so ${others.length === 1 ? 'does' : 'do'} ${others.length} more)`;
  return `cannot write ${first?.to}: it already exists${more}${remedyFor(first, resume)}`;
}

function remedyFor(taken: Taken | undefined, resume: boolean): string {
  if (!resume) return '; give --resume if an earlier run has made it, or --force to replace it';
  const fact =
    taken?.why === 'other'
      ? 'does not open under this key and encryption context'
      : 'is not of the file as it is now';
  return ` and ${fact}; give --force to replace it`;
}

class Run {
  readonly #plan: Plan;
  readonly #total: { readonly files: number; readonly bytes: number };
  readonly #places = new Places(PLACES);
  readonly #folders = new Set<string>();
  readonly #tally: Tally = { files: 0, bytes: 0, made: 0, left: 0, skipped: 0, failed: 0 };
  #read = 0;
  /** What ends the run. */
  #end: { readonly error: unknown } | undefined;

  constructor(plan: Plan, total: { readonly files: number; readonly bytes: number }) {
    this.#plan = plan;
    this.#total = total;
  }

  async all(named: Named): Promise<Tally> {
    for await (const found of walk(named, this.#plan.direction)) {
      if ('why' in found) this.#leave(found);
      else if (found.status.isDirectory()) await this.#makeFolder(found);
      else await this.#begin(found);
      if (this.#end !== undefined) break;
    }
    // Whatever is under way is over once all places are free.
    using _ = await this.#places.take(PLACES);
    for (const folder of this.#folders) await syncFolder(folder);
    if (this.#end !== undefined) throw this.#end.error;
    return this.#tally;
  }

  #leave({ path, why }: Left): void {
    if (why === 'done') this.#tally.left += 1;
    else {
      this.#tally.skipped += 1;
      this.#plan.output.remark(`left out ${path}: ${WHY[why]}`, { path });
    }
  }

  async #makeFolder({ from, to, status }: Pair): Promise<void> {
    const { direction } = this.#plan;
    const mode = direction === 'encrypt' ? (status.mode & 0o777) | 0o700 : 0o700;
    if (from === to) return;
    try {
      await mkdir(to, { recursive: true, mode });
    } catch (error) {
      throw new UsageError(`cannot make the folder ${to}: ${fileTrouble(error)}`, { cause: error });
    }
  }

  /** Returns once the file has a place. */
  async #begin(pair: Pair): Promise<void> {
    if (await this.#isMade(pair)) {
      this.#tally.made += 1;
      return;
    }
    const place = await this.#places.take(1 + Math.floor(pair.status.size / PLACE_BYTES));
    void this.#make(pair).finally(() => place[Symbol.dispose]());
  }

  /** Without --force there are no others any more. */
  async #isMade(pair: Pair): Promise<boolean> {
    const { resume, force } = this.#plan;
    if (!resume || (await targetStatus(pair)) !== 'made') return false;
    return !force || (await othersIn([pair], this.#plan)).length === 0;
  }

  async #make(pair: Pair): Promise<void> {
    if (this.#end !== undefined) return;
    try {
      await this.#toFolder(dirname(pair.to));
      await this.#makeFile(pair);
      this.#tally.files += 1;
      this.#tally.bytes += pair.status.size;
    } catch (error) {
      this.#failed(pair, error);
    }
  }

  async #toFolder(folder: string): Promise<void> {
    if (this.#folders.has(folder)) return;
    this.#folders.add(folder);
    if (this.#plan.resume) await removeUnfinished(folder);
  }

  async #makeFile({ from, to, status }: Pair): Promise<void> {
    const { direction, force, signal, through } = this.#plan;
    await using input = await openUnchanged(from, status);
    await using output = await NewFile.begin(to);
    await passFile({
      input,
      size: status.size,
      through: through(),
      output: output.handle,
      signal,
      wasRead: (bytes) => this.#wasRead(bytes),
    });
    await requireUnchanged(input, status);
    const mode = status.mode & (direction === 'encrypt' ? 0o777 : 0o700);
    await output.finish({ mode, modified: status.mtimeMs / 1000, force });
  }

  #wasRead(bytes: number): void {
    this.#read += bytes;
    this.#plan.progress(this.#read, this.#total.bytes);
  }

  #failed({ from }: Pair, error: unknown): void {
    const { signal, direction, output } = this.#plan;
    if (signal.aborted) this.#end ??= { error: signal.reason };
    else if (!isOfOneFile(error, direction)) this.#end ??= { error };
    else {
      const words = `cannot ${direction} ${from}: ${wordsOf(error)}`;
      const failure = new Error(words, { cause: error });
      this.#tally.failed += 1;
      if (this.#total.files === 1) this.#end = { error: failure };
      else process.stderr.write(failureLine(failure, output.isData, { path: from }));
    }
  }
}

/** Opens a file, without waiting for the other end of a pipe that has taken its place. */
async function openUnchanged(file: string, status: Stats): Promise<FileHandle> {
  const handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    await requireUnchanged(handle, status);
  } catch (error) {
    await handle.close();
    throw error;
  }
  return handle;
}

async function requireUnchanged(file: FileHandle, before: Stats): Promise<void> {
  const now = await file.stat();
  const names = ['dev', 'ino', 'size', 'mtimeMs'] as const;
  if (names.some((name) => now[name] !== before[name]))
    throw new UsageError('it was changed meanwhile; try again');
}
