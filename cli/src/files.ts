/**
 * Reads and writes files, standard input and output, and the two forms of a ciphertext.
 *
 * - Input is bounded, and accepted or refused as it is, never repaired.
 * - One rule for every file that a command writes: it is the user's own and new, has its name only
 *   when it is whole, and replaces one of that name only by `--force`. No link is followed. `-` is
 *   standard output.
 * - A terminal gets bytes that are no text only where `-` asks for them.
 * - Only its owner can read a file with plaintext.
 * - Text that is written commands no terminal.
 */
import {
  constants,
  createReadStream,
  lstatSync,
  readFileSync,
  readlinkSync,
  statSync,
} from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { fileTrouble, UsageError } from './failures.ts';
import { NewFile } from './new-file.ts';
import { printable, printableLines } from './output/printable.ts';

/** Ciphertexts of every format begin with its number, and format 1 is the only one yet. */
const FORMAT = 1;
/** With what an envelope begins, and what it has next if it is an encrypted file. */
const ENVELOPE = Buffer.from('KWE\u0001', 'latin1');
const FILE_CONTENT = 3;

/** The least that tells an encrypted file. */
export const FILE_BEGINNING_BYTES = ENVELOPE.length + 1;

/** Returns whether bytes begin as those of an encrypted file do (docs/envelopes.md). */
export function isEncryptedFile(bytes: Buffer): boolean {
  return isEnvelope(bytes) && bytes[ENVELOPE.length] === FILE_CONTENT;
}

function isEnvelope(bytes: Buffer): boolean {
  return bytes.subarray(0, ENVELOPE.length).equals(ENVELOPE);
}

/** Returns the bytes of a file that an option names. Throws UsageError. */
export function readGiven(file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (error) {
    throw new UsageError(`cannot read ${file}: ${fileTrouble(error)}`, { cause: error });
  }
}

/**
 * Returns the bytes of the file or of standard input. Throws UsageError for more than `limit`, with
 * the words that `tooLong` has for what begins so.
 */
export async function readInput(
  file: string | undefined,
  limit: number,
  tooLong: (beginning: Buffer) => string,
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
      if (length > limit) throw new UsageError(tooLong(Buffer.concat(chunks)));
    }
  } catch (error) {
    if (error instanceof UsageError) throw error;
    throw new UsageError(`cannot read ${file ?? 'standard input'}: ${fileTrouble(error)}`, {
      cause: error,
    });
  }
  return Buffer.concat(chunks);
}

/** How a ciphertext is written. */
export type Form = 'raw' | 'base64';

/** More than any ciphertext, in base64 with line breaks. */
const CIPHERTEXT_INPUT_BYTES = 262_144;

/**
 * Returns the bytes of a ciphertext from the file or from standard input, which is recognised
 * unless its form is given. Throws UsageError, which tells what else the bytes are.
 */
export async function readCiphertext(
  file: string | undefined,
  form: Form | undefined,
): Promise<Buffer> {
  const name = file === undefined || file === '-' ? 'standard input' : file;
  const refusal = (why: string) => `cannot use ${name} as a ciphertext: ${why}`;
  const input = await readInput(file, CIPHERTEXT_INPUT_BYTES, (beginning) =>
    refusal(envelopeIn(beginning) ?? 'it is longer than any ciphertext'),
  );
  const found = ciphertextOf(input, form);
  if (found !== undefined) return found;
  const other = form === 'base64' ? 'it is not base64' : otherIn(input);
  throw new UsageError(refusal(other));
}

function otherIn(input: Buffer): string {
  if (input.length === 0) return 'it is empty';
  return envelopeIn(input) ?? 'it is not what "keyward encrypt" or "data-key" has made';
}

/** Returns which envelope it is, and what opens that. */
function envelopeIn(bytes: Buffer): string | undefined {
  if (isEncryptedFile(bytes)) return 'it is an encrypted file; "keyward decrypt-file" opens it';
  return isEnvelope(bytes) ? 'it is an envelope; the client that made it opens it' : undefined;
}

/**
 * Returns a ciphertext's bytes. Raw ones begin with 01, and their base64 with "AQ", so neither is
 * ever taken for the other; `form` overrides the detection.
 */
function ciphertextOf(input: Buffer, form: Form | undefined): Buffer | undefined {
  if (form === 'raw' || (form === undefined && input[0] === FORMAT)) return input;
  const decoded = decodeBase64(input.toString('latin1'));
  return form === 'base64' || decoded?.[0] === FORMAT ? decoded : undefined;
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
 * Writes a result to standard output, to the last byte. A reader that has gone away is no error
 * (`keyward … | head`), but a standard output that is closed is one.
 */
export async function writeStandardOutput(bytes: string | Uint8Array): Promise<void> {
  if (isStandardOutputClosed())
    throw new Error('cannot write the result: standard output is closed');
  await write(bytes);
}

/**
 * Writes bytes to standard output where no file was named. Throws UsageError for bytes that a
 * terminal would show as noise, or obey; `option` names what takes a file.
 */
export async function writeUnnamed(bytes: Uint8Array, option: string): Promise<void> {
  if (process.stdout.isTTY && !isText(bytes))
    throw new UsageError(
      'cannot write the result to the terminal: it is not plain text; redirect it, give ' +
        `${option} <file>, or give "${option} -" to write it anyway`,
    );
  await writeStandardOutput(bytes);
}

/** Returns whether bytes are UTF-8 that a terminal shows as it is. */
function isText(bytes: Uint8Array): boolean {
  const text = Buffer.from(bytes).toString();
  const lines = text.replace(/[\t\r\n]/g, '');
  return Buffer.from(text).equals(bytes) && printable(lines) === lines;
}

/** Writes text to standard output, as {@link printableLines}. */
export async function printText(text: string): Promise<void> {
  await write(printableLines(text));
}

function write(content: string | Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(content, (error) => {
      const { code } = (error ?? {}) as NodeJS.ErrnoException;
      if (error && code !== 'EPIPE' && code !== 'ERR_STREAM_DESTROYED') reject(error);
      else resolve();
    });
  });
}

/** Whether a file is open for reading, for writing, or for both (open(2)). */
const ACCESS_MODE = constants.O_WRONLY | constants.O_RDWR;

/**
 * Node opens /dev/null in the place of a standard output that is closed, for reading as well, which
 * a shell's `> /dev/null` does not.
 */
function isStandardOutputClosed(): boolean {
  try {
    if (readlinkSync('/proc/self/fd/1') !== '/dev/null') return false;
    const flags = /^flags:\s*([0-7]+)/m.exec(readFileSync('/proc/self/fdinfo/1', 'latin1'))?.[1];
    return (Number.parseInt(flags ?? '0', 8) & ACCESS_MODE) === constants.O_RDWR;
  } catch {
    return false;
  }
}

/** How a file is written. */
export interface WriteOptions {
  /** Whether only the owner may read it. */
  readonly secret?: boolean;
  /** Whether it may replace one of that name. */
  readonly force?: boolean;
}

/**
 * Throws UsageError for a file that {@link writeOutput} would not write, before a secret is made
 * for it.
 */
export function refuseToOverwrite(
  files: readonly (string | undefined)[],
  { force = false }: WriteOptions = {},
): void {
  for (const file of files) if (file !== undefined && file !== '-') targetOf(file, force);
}

/** What a file is to have, at once or piece by piece. */
type Content = Uint8Array | AsyncIterable<Uint8Array>;

/**
 * Writes the file, or standard output for `-`. Where the content fails in the middle, no file has
 * the name.
 */
export async function writeOutput(
  file: string,
  content: Content,
  { secret = false, force = false }: WriteOptions = {},
): Promise<void> {
  if (file === '-') {
    for await (const bytes of content instanceof Uint8Array ? [content] : content)
      await writeStandardOutput(bytes);
    return;
  }
  const mode = secret ? 0o600 : 0o666;
  const target = targetOf(file, force);
  try {
    if (target === 'stream') await writeFile(file, content);
    else {
      await using whole = await NewFile.begin(file, mode);
      await whole.handle.writeFile(content);
      await whole.finish({ force });
    }
  } catch (error) {
    throw new Error(`cannot write ${file}: ${fileTrouble(error)}`, { cause: error });
  }
}

/**
 * Returns whether the name is of a file, or of something that bytes only pass through, as a device
 * or a pipe. Throws UsageError for a link, for what belongs to another user, and for a file that
 * exists unless it may be replaced.
 */
export function targetOf(file: string, force: boolean): 'file' | 'stream' {
  const status = statSync(file, { throwIfNoEntry: false });
  if (status?.isDirectory()) throw new UsageError(`cannot write ${file}: it is a directory`);
  if (status !== undefined && !status.isFile()) {
    if (status.uid !== 0 && status.uid !== process.getuid?.())
      throw new UsageError(`cannot write ${file}: it belongs to another user`);
    return 'stream';
  }
  const named = lstatSync(file, { throwIfNoEntry: false });
  if (named === undefined) return 'file';
  if (named.isSymbolicLink())
    throw new UsageError(`cannot write ${file}: it is a link; name the file itself`);
  if (!force)
    throw new UsageError(`cannot write ${file}: it already exists; give --force to replace it`);
  return 'file';
}
