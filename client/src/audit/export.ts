/**
 * Writing an export of the audit log into a folder.
 *
 * Its invariant: `export.json` is written last, so that an export that did not end is none. It
 * verifies nothing: that is for whoever gets the folder. Knows nothing of the wire.
 */
import { type FileHandle, mkdir, open, readdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { CallOptions } from '../call.ts';
import type * as m from '../messages.ts';
import {
  CHECKPOINT_FILE,
  canBegin,
  describeExport,
  ENTRIES_FOLDER,
  type EntryFile,
  EXPORT_FILE,
  entryFiles,
} from './layout.ts';
import { RESUMPTIONS_FILE } from './resumptions.ts';
import { tilePath } from './tiles.ts';

/** What an export is fetched from: a KeywardClient, for one. */
export interface AuditSource {
  getAuditCheckpoint(
    request?: m.GetAuditCheckpointRequest,
    options?: CallOptions,
  ): Promise<m.AuditCheckpoint>;
  readAuditEntries(
    request: m.ReadAuditEntriesRequest,
    options?: CallOptions,
  ): AsyncIterable<readonly m.AuditEntry[]>;
  readAuditTiles(
    request?: m.ReadAuditTilesRequest,
    options?: CallOptions,
  ): AsyncIterable<readonly m.AuditTile[]>;
}

/** How to export. */
export interface ExportAuditLogOptions {
  /**
   * The entry to begin with, a multiple of 256; those before it are exported as hashes only. The
   * first kept unless given.
   */
  readonly firstLeafIndex?: number;
  /**
   * Exports the log up to its last checkpoint that has a witness's cosignature, and not up to the
   * last.
   */
  readonly cosigned?: boolean;
  /** Called now and then with how many entries are written, of how many. */
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** What was exported. */
export interface AuditExport {
  readonly checkpoint: m.AuditCheckpoint;
  readonly firstLeafIndex: number;
  /** How many entries. */
  readonly entries: number;
}

interface EntriesFacts {
  readonly first: number;
  readonly treeSize: number;
  readonly onWritten: (done: number) => void;
}

const NEWLINE = Buffer.from('\n');

/**
 * Writes the log, as it was last signed, into `folder`, which is made unless it is there and empty.
 * Rejects with a RangeError for an entry that no export can begin with, with an Error when the
 * service leaves something out, and otherwise as the client and the file system do.
 */
export async function exportAuditLog(
  source: AuditSource,
  folder: string,
  { firstLeafIndex, cosigned = false, onProgress, signal }: ExportAuditLogOptions = {},
): Promise<AuditExport> {
  const call: CallOptions = signal === undefined ? {} : { signal };
  const checkpoint = await source.getAuditCheckpoint({ cosigned }, call);
  const { treeSize, note, publicKey } = checkpoint;
  const first = firstLeafIndex ?? checkpoint.firstLeafIndex;
  if (!canBegin(first, treeSize))
    throw new RangeError(
      `an export begins with a multiple of 256, up to ${treeSize}, and not with ${first}`,
    );
  await mkdir(folder, { recursive: true });
  if ((await readdir(folder)).length > 0)
    throw Object.assign(
      new Error(`cannot export to ${folder}: it is not empty; name another folder, or a new one`),
      { code: 'ENOTEMPTY' },
    );
  const total = treeSize - first;
  if (total > 0) {
    const entries = source.readAuditEntries(
      { parent: 'tenants/-', firstLeafIndex: first, treeSize },
      call,
    );
    await writeEntries(folder, entries, {
      first,
      treeSize,
      onWritten: (done) => onProgress?.(done - first, total),
    });
  }
  if (treeSize > 0) await writeTiles(folder, source.readAuditTiles({ treeSize }, call));
  await writeFile(join(folder, CHECKPOINT_FILE), note);
  const resumptions = checkpoint.resumptions.flatMap((leaf) => [leaf, NEWLINE]);
  if (resumptions.length > 0)
    await writeFile(join(folder, RESUMPTIONS_FILE), Buffer.concat(resumptions));
  const [origin = ''] = note.split('\n');
  const description = describeExport({ origin, firstLeafIndex: first, treeSize }, publicKey);
  await writeFile(join(folder, EXPORT_FILE), description);
  return { checkpoint, firstLeafIndex: first, entries: total };
}

/** Throws an Error unless all entries come, in their order. */
async function writeEntries(
  folder: string,
  answers: AsyncIterable<readonly m.AuditEntry[]>,
  { first, treeSize, onWritten }: EntriesFacts,
): Promise<void> {
  await mkdir(join(folder, ENTRIES_FOLDER));
  const files = entryFiles(first, treeSize);
  let next = first;
  let file: EntryFile | undefined;
  let handle: FileHandle | undefined;
  try {
    for await (let entries of answers) {
      while (entries.length > 0) {
        if (file === undefined || next === file.endLeafIndex) {
          await handle?.close();
          file = files.next().value ?? undefined;
          if (file === undefined)
            throw new Error(`the service has given more than ${treeSize} entries`);
          handle = await open(join(folder, file.path), 'wx');
        }
        const own = entries.slice(0, file.endLeafIndex - next);
        await handle?.appendFile(linesOf(own, next));
        next += own.length;
        entries = entries.slice(own.length);
      }
      onWritten(next);
    }
  } finally {
    await handle?.close();
  }
  if (next !== treeSize)
    throw new Error(`the service has given entries up to ${next} only, of ${treeSize}`);
}

function linesOf(entries: readonly m.AuditEntry[], first: number): Buffer {
  const parts = entries.flatMap(({ leafIndex, leaf }, i) => {
    if (leafIndex !== first + i) throw new Error(`the service has left out entry ${first + i}`);
    if (leaf.includes(NEWLINE)) throw new Error(`entry ${leafIndex} is more than one line`);
    return [leaf, NEWLINE];
  });
  return Buffer.concat(parts);
}

async function writeTiles(
  folder: string,
  answers: AsyncIterable<readonly m.AuditTile[]>,
): Promise<void> {
  const made = new Set<string>();
  for await (const tiles of answers) {
    for (const { level, index, width, hashes } of tiles) {
      const file = join(folder, tilePath(level, index, width));
      const parent = dirname(file);
      if (!made.has(parent)) await mkdir(parent, { recursive: true });
      made.add(parent);
      await writeFile(file, hashes);
    }
  }
}
