/**
 * An export's folder: which files it has, and what `export.json` says.
 *
 * Knows nothing of hashes and signatures.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { AuditVerificationError } from './errors.ts';
import { readUpTo, unlessMissing } from './files.ts';
import { TILE_WIDTH } from './tiles.ts';

/** How many entries a file has at most; each but the first begins at a multiple of it. */
const FILE_ENTRIES = 65_536;

/** The file with the signed checkpoint. */
export const CHECKPOINT_FILE = 'checkpoint';

/** The file that says what the export is, written last. */
export const EXPORT_FILE = 'export.json';

/** The folder of the entries' files. */
export const ENTRIES_FOLDER = 'entries';

/** The longest `export.json` that is read. */
const DESCRIPTION_BYTES = 65_536;

/** The version of the layout. */
const FORMAT = 1;

const NUMBERS = ['format', 'firstLeafIndex', 'treeSize'] as const;
/** Those members as they are written; a text can contain none, since its quotes are escaped. */
const NUMBER_MEMBER = new RegExp(`"(${NUMBERS.join('|')})"\\s*:\\s*([^\\s,}]*)`, 'g');

/** What `export.json` says. */
export interface ExportDescription {
  readonly origin: string;
  /** The first entry that is in the export. */
  readonly firstLeafIndex: number;
  readonly treeSize: number;
}

/** A file of entries. */
export interface EntryFile {
  /** Relative to the export's folder. */
  readonly path: string;
  readonly firstLeafIndex: number;
  /** The entry that begins the next file. */
  readonly endLeafIndex: number;
}

/** The files with the entries from `first` on, to the tree's last one. */
export function* entryFiles(
  first: number,
  treeSize: number,
): Generator<EntryFile, void, undefined> {
  for (let begin = first; begin < treeSize; ) {
    const next = (Math.floor(begin / FILE_ENTRIES) + 1) * FILE_ENTRIES;
    const end = Math.min(next, treeSize);
    yield { path: `${ENTRIES_FOLDER}/${begin}.jsonl`, firstLeafIndex: begin, endLeafIndex: end };
    begin = end;
  }
}

/** `export.json` for an export. */
export function describeExport(
  { origin, firstLeafIndex, treeSize }: ExportDescription,
  publicKey: string,
): string {
  const [, environment] = origin.split('/');
  const described = { format: FORMAT, environment, origin, firstLeafIndex, treeSize, publicKey };
  return `${JSON.stringify(described, null, 2)}\n`;
}

/** Whether entries can begin here in an export: at a tile's first hash, or after the last. */
export function canBegin(first: unknown, treeSize: number): first is number {
  return (
    Number.isSafeInteger(first) &&
    (first as number) >= 0 &&
    (first as number) <= treeSize &&
    ((first as number) % TILE_WIDTH === 0 || first === treeSize)
  );
}

/**
 * What an export says of itself. Throws an {@link AuditVerificationError} of the problem EXPORT
 * when that makes no sense.
 */
export function readDescription(folder: string): ExportDescription {
  const bytes = readUpTo(join(folder, EXPORT_FILE), DESCRIPTION_BYTES);
  if (bytes === undefined)
    throw new AuditVerificationError(
      'EXPORT',
      `there is no ${EXPORT_FILE}: the export did not end, or is none`,
    );
  const said = parseDescription(bytes);
  const { format, origin, firstLeafIndex, treeSize } = (said ?? {}) as Partial<
    Record<string, unknown>
  >;
  if (format !== FORMAT)
    throw new AuditVerificationError('EXPORT', `${EXPORT_FILE} is not of format ${FORMAT}`);
  if (typeof origin !== 'string' || !Number.isSafeInteger(treeSize))
    throw new AuditVerificationError(
      'EXPORT',
      `${EXPORT_FILE} lacks the origin or the tree's size`,
    );
  if (!canBegin(firstLeafIndex, treeSize as number))
    throw new AuditVerificationError('EXPORT', `${EXPORT_FILE} has no entry to begin with`);
  return { origin, firstLeafIndex, treeSize: treeSize as number };
}

/** The file's JSON, in UTF-8. Numbers that are read as integers must be written as integers. */
function parseDescription(bytes: Buffer): unknown {
  try {
    if (bytes.length > DESCRIPTION_BYTES) throw new Error('it is too long');
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    const said: unknown = JSON.parse(text);
    const written = new Map<string, string>();
    for (const [, name = '', value = ''] of text.matchAll(NUMBER_MEMBER)) {
      if (!/^(0|[1-9]\d*)$/.test(value)) throw new Error(`${name} is not an integer`);
      written.set(name, value);
    }
    if (written.size < NUMBERS.length) throw new Error(`it lacks one of ${NUMBERS.join(', ')}`);
    return said;
  } catch (cause) {
    const why = (cause as Error).message;
    throw new AuditVerificationError('EXPORT', `${EXPORT_FILE} cannot be read: ${why}`, { cause });
  }
}

/**
 * Throws an {@link AuditVerificationError} of the problem FILE for a file among the entries that
 * isn't one of `expected`.
 */
export function refuseOthers(folder: string, expected: ReadonlySet<string>): void {
  const names = unlessMissing(() => readdirSync(join(folder, ENTRIES_FOLDER))) ?? [];
  for (const name of names.sort()) {
    const file = `${ENTRIES_FOLDER}/${name}`;
    if (!expected.has(file))
      throw new AuditVerificationError('FILE', `${file} is not of the log`, { file });
  }
}
