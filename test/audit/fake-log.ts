/** What a fake service answers about an audit log that a test has made. */
import type { Handler } from '../client/fake-service.ts';
import {
  checkpointOver,
  ENVIRONMENT,
  type LogKey,
  leafHashOf,
  merkleTreeHash,
  tilesOf,
} from './log.ts';

/** How many entries, or tiles, come at a time. */
const AT_A_TIME = 100;

/** When the fake's checkpoints are signed. */
export const SIGNED = { seconds: 1_800_000_000, nanos: 0 };

/** AuditService over these lines, of which those before `firstKept` were dropped. */
export function fakeLog(
  lines: readonly string[],
  key: LogKey,
  firstKept = 0,
): Record<string, Handler> {
  const hashes = lines.map(leafHashOf);
  const entry = (line: string, leafIndex: number) => ({ leafIndex, leaf: Buffer.from(line) });
  const checkpoint = (note = checkpointOver(lines, key)) => ({
    note,
    treeSize: lines.length,
    rootHash: merkleTreeHash(hashes),
    signTime: SIGNED,
    environmentId: ENVIRONMENT,
    publicKey: key.publicPem,
    firstLeafIndex: firstKept,
  });
  return {
    GetCheckpoint: () => checkpoint(),
    AddCosignatures: ({ note }) => checkpoint(note as string),
    ListEntries: ({ pageSize, pageToken }) => {
      const newestFirst = lines.map(entry).reverse();
      const begin = Number(pageToken || 0);
      const end = begin + Number(pageSize);
      return {
        entries: newestFirst.slice(begin, end),
        nextPageToken: end < lines.length ? String(end) : '',
      };
    },
    ReadEntries: ({ firstLeafIndex, treeSize }) =>
      inParts(lines.map(entry).slice(Number(firstLeafIndex), Number(treeSize) || undefined)).map(
        (entries) => ({
          entries,
        }),
      ),
    ReadTiles: () =>
      inParts(tilesOf(hashes)).map((tiles) => ({
        tiles: tiles.map(({ level, index, hashes: own }) => ({
          level,
          index,
          width: own.length,
          hashes: Buffer.concat(own),
        })),
      })),
  };
}

function inParts<T>(items: readonly T[]): T[][] {
  return Array.from({ length: Math.ceil(items.length / AT_A_TIME) }, (_, i) =>
    items.slice(i * AT_A_TIME, (i + 1) * AT_A_TIME),
  );
}
