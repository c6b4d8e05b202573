/**
 * The lines of a file, many at a time.
 *
 * Its invariant: a line is what stands before a newline, byte for byte, whatever else is in it. Knows nothing of what
 * lines are.
 */
import { type FileHandle, open } from 'node:fs/promises';

/** How much is read at a time, in bytes. */
const CHUNK_BYTES = 1_048_576;

/** The longest line that is read, in bytes. */
const MAX_LINE_BYTES = 16_777_216;

const NEWLINE = 0x0a;

/** Some of a file's lines, in order. */
export interface Lines {
  readonly lines: readonly Buffer[];
  /** Whether the file ended without a newline, or has a line that is too long. */
  readonly cut: boolean;
}

/** The file's lines; none when there is no file. */
export async function* linesOf(file: string): AsyncGenerator<Lines, void, undefined> {
  const handle = await openIfThere(file);
  if (handle === undefined) return;
  try {
    let rest: Buffer = Buffer.alloc(0);
    for (;;) {
      const chunk = Buffer.allocUnsafe(rest.length + CHUNK_BYTES);
      rest.copy(chunk);
      const { bytesRead } = await handle.read(chunk, rest.length, CHUNK_BYTES);
      const { lines, used } = split(chunk.subarray(0, rest.length + bytesRead));
      rest = chunk.subarray(used, rest.length + bytesRead);
      const cut = rest.length > 0 && (bytesRead === 0 || rest.length > MAX_LINE_BYTES);
      yield { lines, cut };
      if (cut || bytesRead === 0) return;
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

async function openIfThere(file: string): Promise<FileHandle | undefined> {
  try {
    return await open(file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}
