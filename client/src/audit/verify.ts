/**
 * Verifying an export of the audit log with nothing but its folder and the log's public key
 * (docs/audit.md).
 *
 * Its invariant: an export verifies only if every entry from its first to the signed size is, byte
 * for byte and in its place, what was signed; what is wrong is looked for from the root down, so
 * that the first wrong entry can be named. The service isn't asked, and nothing in the folder is
 * believed unless it is under the signed root.
 */
import { join } from 'node:path';
import { setImmediate as breathe } from 'node:timers/promises';
import { ApprovalChecks, type ApprovalReport } from './approvals.ts';
import { AuditVerificationError } from './errors.ts';
import { linesOf, readUpTo } from './files.ts';
import {
  CHECKPOINT_FILE,
  type EntryFile,
  type ExportDescription,
  entryFiles,
  readDescription,
  refuseOthers,
} from './layout.ts';
import {
  type Cosignature,
  cosignatureOf,
  logKey,
  MAX_NOTE_BYTES,
  openCheckpoint,
  type SignedCheckpoint,
  witnessOf,
} from './note.ts';
import { type AuditResumption, verifyResumptions } from './resumptions.ts';
import { TILE_WIDTH, TiledTree, tilePath } from './tiles.ts';
import { HASH_BYTES, leafHash, treeHash } from './tree.ts';

/** What an export is verified against. */
export interface VerifyAuditExportOptions {
  /** The log's public keys, PEM: more than one where the environment has moved to another token. */
  readonly publicKeys: readonly string[];
  /** Checkpoints of the log from elsewhere, signed notes: the export must continue each. */
  readonly known?: readonly (string | Uint8Array)[];
  /**
   * Verifier keys of witnesses (C2SP signed-note), each of whom must have cosigned the export's
   * checkpoint.
   */
  readonly witnesses?: readonly string[];
  /** Called with each entry once it is verified: its place in the log, and its line's bytes. */
  readonly onEntry?: (leafIndex: number, line: Buffer) => void;
  /** Called now and then with how many entries are verified, of how many. */
  readonly onProgress?: (done: number, total: number) => void;
  /** Stops it: it rejects with the signal's reason. */
  readonly signal?: AbortSignal;
}

/** What an export has been proven to be. */
export interface AuditExportReport {
  /** Which log it is of: `keyward/` and the environment's UUID. */
  readonly origin: string;
  /** How many entries the log had. */
  readonly treeSize: number;
  readonly rootHash: Buffer;
  /** The first entry that is in the export; the log has those before it as hashes only. */
  readonly firstLeafIndex: number;
  /** How many entries were verified. */
  readonly entries: number;
  /** How its generation was begun, and those that it descends from, the latest first. */
  readonly resumptions: readonly AuditResumption[];
  /** One for each witness that was asked for. */
  readonly cosignatures: readonly Cosignature[];
  /** What was found of approvals among the entries. */
  readonly approvals: ApprovalReport;
}

/**
 * Verifies an export, and says what it is. Rejects with an {@link AuditVerificationError} at the
 * first thing that is wrong, with a TypeError for a key that is none, and with what the file system
 * throws for a folder that can't be read. A million entries take some seconds; memory stays the
 * same.
 */
export async function verifyAuditExport(
  folder: string,
  options: VerifyAuditExportOptions,
): Promise<AuditExportReport> {
  const keys = options.publicKeys.map(logKey);
  const witnesses = (options.witnesses ?? []).map(witnessOf);
  const description = readDescription(folder);
  const checkpoint = opened(CHECKPOINT_FILE, () => {
    const bytes = readUpTo(join(folder, CHECKPOINT_FILE), MAX_NOTE_BYTES);
    if (bytes === undefined) throw new Error('there is no such file');
    return openCheckpoint(bytes, keys);
  });
  requireSame(description, checkpoint);
  const cosignatures = witnesses.map((witness) =>
    opened(CHECKPOINT_FILE, () => {
      const found = cosignatureOf(checkpoint, witness);
      if (found === undefined) throw new Error(`${witness.name} has not cosigned it`);
      return found;
    }),
  );
  const tree = new TiledTree(folder, { size: checkpoint.treeSize, root: checkpoint.rootHash });
  const resumptions = verifyResumptions(folder, tree, checkpoint.origin, keys);
  for (const known of options.known ?? []) {
    requireContinued(
      tree,
      checkpoint,
      opened('a known checkpoint', () => openCheckpoint(Buffer.from(known), keys)),
    );
  }
  const checks = new ApprovalChecks(checkpoint.origin, description.firstLeafIndex === 0);
  const onEntry = (leafIndex: number, line: Buffer) => {
    checks.check(leafIndex, line);
    options.onEntry?.(leafIndex, line);
  };
  await verifyEntries(folder, tree, description, { ...options, onEntry });
  const { origin, treeSize, rootHash } = checkpoint;
  const { firstLeafIndex } = description;
  return {
    origin,
    treeSize,
    rootHash,
    firstLeafIndex,
    entries: treeSize - firstLeafIndex,
    resumptions,
    cosignatures,
    approvals: checks.report,
  };
}

function opened<T>(what: string, open: () => T): T {
  try {
    return open();
  } catch (cause) {
    throw new AuditVerificationError('CHECKPOINT', `${what}: ${(cause as Error).message}`, {
      cause,
    });
  }
}

function requireSame(description: ExportDescription, { origin, treeSize }: SignedCheckpoint): void {
  if (description.origin !== origin || description.treeSize !== treeSize)
    throw new AuditVerificationError(
      'EXPORT',
      'export.json and the checkpoint are not of one log and size',
    );
}

/** An export must have all that was signed before, and the same. */
function requireContinued(
  tree: TiledTree,
  { origin }: SignedCheckpoint,
  known: SignedCheckpoint,
): void {
  if (known.origin !== origin) {
    const message =
      `a known checkpoint is of ${known.origin}: another log, or an earlier generation of ` +
      'this one';
    throw new AuditVerificationError('ORIGIN', message);
  }
  if (known.treeSize > tree.size) {
    const [ends, signed] = [tree.size, known.treeSize];
    const message = `the export ends at ${ends} entries, and the log has signed ${signed}`;
    throw new AuditVerificationError('CUT', message);
  }
  if (!tree.rootAt(known.treeSize).equals(known.rootHash)) {
    const message =
      `the log has signed two histories: its first ${known.treeSize} entries are not what ` +
      'they were';
    throw new AuditVerificationError('FORK', message);
  }
}

async function verifyEntries(
  folder: string,
  tree: TiledTree,
  { firstLeafIndex }: ExportDescription,
  { onEntry, onProgress, signal }: VerifyAuditExportOptions,
): Promise<void> {
  const files = [...entryFiles(firstLeafIndex, tree.size)];
  refuseOthers(folder, new Set(files.map(({ path }) => path)));
  // Those of entries that are not in the export, too: known checkpoints and the entries' numbers
  // stand on them.
  for (let index = 0; index < Math.floor(firstLeafIndex / TILE_WIDTH); index += 1) {
    tree.tile(0, index);
    if (index % TILE_WIDTH === 0) await breathe(undefined, { signal });
  }
  const total = tree.size - firstLeafIndex;
  for (const file of files) {
    for await (const done of verifyFile(folder, file, tree, onEntry)) {
      onProgress?.(done - firstLeafIndex, total);
      await breathe(undefined, { signal });
    }
  }
}

/** Verifies one file's entries; gives out, now and then, up to which entry it is. */
async function* verifyFile(
  folder: string,
  file: EntryFile,
  tree: TiledTree,
  onEntry: VerifyAuditExportOptions['onEntry'],
): AsyncGenerator<number, void, undefined> {
  let next = file.firstLeafIndex;
  let hashes: Buffer = Buffer.alloc(0);
  for await (const { lines, cut } of linesOf(join(folder, file.path))) {
    for (const [i, line] of lines.entries()) {
      if (next === file.endLeafIndex)
        throw wrongEntry(next, `${file.path} goes on after the entry before it`);
      if (next % TILE_WIDTH === 0) hashes = await leafHashes(folder, file, tree, next);
      const hash = leafHash(line);
      if (!equalsAt(hashes, next % TILE_WIDTH, hash))
        throw wrongEntry(next, whatHappened(tree, { index: next, hash, following: lines[i + 1] }));
      onEntry?.(next, line);
      next += 1;
    }
    if (cut)
      throw wrongEntry(
        next,
        `${file.path} ends in the middle of its line, or the line is too long`,
      );
    yield next;
  }
  if (next < file.endLeafIndex) throw wrongEntry(next, `${file.path} ends before it`);
}

/** The hashes of the entries from `first` on, where a tile begins. */
async function leafHashes(
  folder: string,
  file: EntryFile,
  tree: TiledTree,
  first: number,
): Promise<Buffer> {
  const index = first / TILE_WIDTH;
  try {
    return tree.tile(0, index);
  } catch (error) {
    const own = tilePath(0, index, TILE_WIDTH);
    if (!(error instanceof AuditVerificationError) || error.file !== own) throw error;
    // The entries may be right all the same, by the hash above the tile.
    const right = await hashTo(folder, file, first, tree.above(0, index));
    const entries = `the entries ${first} to ${first + TILE_WIDTH - 1}`;
    const rest = right
      ? `${entries} are right all the same`
      : `of ${entries}, one at least is not what was logged`;
    throw new AuditVerificationError('TILE', `${error.message}; ${rest}`, {
      file: own,
      cause: error,
    });
  }
}

/** Whether a whole tile's entries hash to `expected`. */
async function hashTo(
  folder: string,
  file: EntryFile,
  first: number,
  expected: Buffer,
): Promise<boolean> {
  const hashes: Buffer[] = [];
  let next = file.firstLeafIndex;
  for await (const { lines } of linesOf(join(folder, file.path))) {
    const begin = Math.max(first - next, 0);
    const lacking = TILE_WIDTH - hashes.length;
    hashes.push(...lines.slice(begin, begin + lacking).map(leafHash));
    next += lines.length;
    if (hashes.length === TILE_WIDTH) break;
  }
  return hashes.length === TILE_WIDTH && treeHash(Buffer.concat(hashes)).equals(expected);
}

function equalsAt(hashes: Buffer, at: number, hash: Buffer): boolean {
  return hash.compare(hashes, at * HASH_BYTES, (at + 1) * HASH_BYTES) === 0;
}

function wrongEntry(leafIndex: number, what: string): AuditVerificationError {
  return new AuditVerificationError('ENTRY', `entry ${leafIndex}: ${what}`, { leafIndex });
}

/** In words, as far as can be told. */
function whatHappened(
  tree: TiledTree,
  {
    index,
    hash,
    following,
  }: { readonly index: number; readonly hash: Buffer; readonly following?: Buffer | undefined },
): string {
  const tile = tree.tile(0, Math.floor(index / TILE_WIDTH));
  const place = index % TILE_WIDTH;
  if (following !== undefined && equalsAt(tile, place, leafHash(following)))
    return 'a line stands before it that was never logged there';
  const other = placeOf(tree, hash);
  if (other === index + 1) return 'it is missing: in its place is the next one';
  if (other !== undefined) return `in its place is entry ${other}`;
  return 'its line is not what was logged';
}

/** Which entry has the hash, if any; damage elsewhere isn't of interest here. */
function placeOf(tree: TiledTree, hash: Buffer): number | undefined {
  for (let index = 0; index * TILE_WIDTH < tree.size; index += 1) {
    try {
      const tile = tree.tile(0, index);
      for (let at = 0; at < tile.length / HASH_BYTES; at += 1)
        if (equalsAt(tile, at, hash)) return index * TILE_WIDTH + at;
    } catch (error) {
      if (!(error instanceof AuditVerificationError)) throw error;
    }
  }
  return undefined;
}
