/**
 * Reads and writes files, standard input and output, and the two forms of a ciphertext.
 *
 * - Input is bounded, and accepted or refused as it is, never repaired.
 * - Only its owner can read a file with plaintext.
 */
import { createReadStream, existsSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { fileTrouble, UsageError } from './failures.ts';

/** Ciphertexts of every format begin with its number, and format 1 is the only one yet. */
const FORMAT = 1;

/** Returns the bytes of the file or of standard input. Throws UsageError for more than `limit`. */
export async function readInput(
  file: string | undefined,
  limit: number,
  tooLong: string,
): Promise<Buffer> {
  const standard = file === undefined || file === '-';
  if (standard && process.stdin.isTTY)
    process.stderr.write('Reading from the terminal; Ctrl-D ends the input.\n');
  const chunks: Buffer[] = [];
  let length = 0;
  try {
    for await (const chunk of standard ? process.stdin : createReadStream(file)) {
      chunks.push(chunk);
      length += chunk.length;
      if (length > limit) throw new UsageError(tooLong);
    }
  } catch (error) {
    if (error instanceof UsageError) throw error;
    throw new UsageError(`cannot read ${file ?? 'standard input'}: ${fileTrouble(error)}`, {
      cause: error,
    });
  }
  return Buffer.concat(chunks);
}

/**
 * Returns a ciphertext's bytes from the input. Raw ones begin with 01, and their base64 with "AQ",
 * so neither is ever taken for the other; `form` overrides the detection.
 */
export function ciphertextOf(input: Buffer, form: 'raw' | 'base64' | undefined): Buffer {
  if (form === 'raw' || (form === undefined && input[0] === FORMAT)) return input;
  const decoded = decodeBase64(input.toString('latin1'));
  if (form === 'base64' && decoded !== undefined) return decoded;
  if (form === undefined && decoded?.[0] === FORMAT) return decoded;
  throw new UsageError(
    form === 'base64'
      ? 'cannot read the input: it is not base64'
      : 'cannot read the input: it is not a ciphertext, raw or in base64; ' +
          'give --raw or --base64 to send it anyway',
  );
}

/**
 * Canonical base64 (RFC 4648, section 4), whitespace ignored and padding optional; undefined for
 * anything else.
 */
function decodeBase64(text: string): Buffer | undefined {
  const dense = text.replace(/\s+/g, '');
  const decoded = Buffer.from(dense, 'base64');
  const canonical = decoded.toString('base64');
  return dense === canonical || dense === canonical.replace(/=+$/, '') ? decoded : undefined;
}

/**
 * Writes to standard output, to the last byte. A reader that has gone away is no error
 * (`keyward … | head`).
 */
export function writeStandardOutput(bytes: string | Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(bytes, (error) => {
      const { code } = (error ?? {}) as NodeJS.ErrnoException;
      if (error && code !== 'EPIPE' && code !== 'ERR_STREAM_DESTROYED') reject(error);
      else resolve();
    });
  });
}

/** How a file is written. */
interface WriteOptions {
  /** For the owner alone, also when it exists already. */
  readonly secret?: boolean;
  /** Fail when it exists. */
  readonly fresh?: boolean;
}

/** Throws UsageError for a file that exists, before a secret is made that could not be written. */
export function refuseToOverwrite(files: readonly (string | undefined)[]): void {
  for (const file of files) {
    if (file !== undefined && existsSync(file)) {
      throw new UsageError(`cannot write ${file}: it already exists; give --force to overwrite it`);
    }
  }
}

/** Writes the file, or standard output for `-`. */
export async function writeOutput(
  file: string,
  bytes: Uint8Array,
  { secret = false, fresh = false }: WriteOptions = {},
): Promise<void> {
  if (file === '-') return writeStandardOutput(bytes);
  try {
    const handle = await open(file, fresh ? 'wx' : 'w', secret ? 0o600 : 0o666);
    try {
      if (secret && (await handle.stat()).isFile()) await handle.chmod(0o600);
      await handle.writeFile(bytes);
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw new Error(`cannot write ${file}: ${fileTrouble(error)}`, { cause: error });
  }
}
