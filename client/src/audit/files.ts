/**
 * Reading the files of an export, whose maker needn't be trusted: no more of any is read at a time
 * than is asked for.
 *
 * Its invariant: a line is what stands before a newline, byte for byte, whatever else is in it.
 * Knows nothing of what files and lines are.
 */
import { closeSync, openSync, readSync, statSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';

/** How much of lines is read at a time, in bytes. */
const CHUNK_BYTES = 1_048_576;

/** A line that has not ended after so many bytes is none: the service's answers are shorter. */
const MAX_LINE_BYTES = 67_108_864;

const NEWLINE = 0x0a;

/**
 * A file's bytes; undefined for no file, and for what is none, as a folder. Of one with more than
 * `limit`, only one more: so that it can be told.
 */
export function readUpTo(file: string, limit: number): Buffer | undefined {
  const descriptor = isFile(file) ? unlessMissing(() => openSync(file, 'r')) : undefined;
  if (descriptor === undefined) return undefined;
  try {
    const bytes = Buffer.alloc(limit + 1);
    let length = 0;
    for (let read = -1; read !== 0 && length <= limit; length += read)
      read = readSync(descriptor, bytes, length, bytes.length - length, null);
    return bytes.subarray(0, length);
  } finally {
    closeSync(descriptor);
  }
}

/** Some of a file's lines, in order. */
export interface Lines {
  readonly lines: readonly Buffer[];
  /** Whether the file ended without a newline, or has a line that is too long. */
  readonly cut: boolean;
}

/** The file's lines; none when there is no file. They are good until more are asked for. */
export async function* linesOf(file: string): AsyncGenerator<Lines, void, undefined> {
  const handle = await openIfThere(file);
  if (handle === undefined) return;
  try {
    let buffer = Buffer.allocUnsafe(2 * CHUNK_BYTES);
    // How many bytes at its beginning are a line that has not ended yet.
    let begun = 0;
    for (;;) {
      if (buffer.length - begun < CHUNK_BYTES) buffer = Buffer.concat([buffer], 2 * buffer.length);
      const { bytesRead } = await handle.read(buffer, begun, CHUNK_BYTES);
      const end = begun + bytesRead;
      const { lines, used } = split(buffer.subarray(0, end));
      begun = end - used;
      const cut = begun > 0 && (bytesRead === 0 || begun > MAX_LINE_BYTES);
      yield { lines, cut };
      if (cut || bytesRead === 0) return;
      buffer.copyWithin(0, used, end);
    }
  } finally {
    await handle.close();
  }
}

function split(bytes: Buffer): { readonly lines: Buffer[]; readonly used: number } {
  const lines: Buffer[] = [];
  let used = 0;
  for (let at = bytes.indexOf(NEWLINE); at >= 0; at = bytes.indexOf(NEWLINE, used)) {
    lines.push(bytes.subarray(used, at));
    used = at + 1;
  }
  return { lines, used };
}

/** Whether it is a file: to read a folder fails, and to open a pipe may never end. */
function isFile(file: string): boolean {
  return unlessMissing(() => statSync(file))?.isFile() ?? false;
}

async function openIfThere(file: string): Promise<FileHandle | undefined> {
  if (!isFile(file)) return undefined;
  try {
    return await open(file);
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

/** What `attempt` gives; undefined where there is no such file or folder. */
export function unlessMissing<T>(attempt: () => T): T | undefined {
  try {
    return attempt();
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

function isMissing(error: unknown): boolean {
  return /^(ENOENT|ENOTDIR)$/.test((error as NodeJS.ErrnoException).code ?? '');
}
