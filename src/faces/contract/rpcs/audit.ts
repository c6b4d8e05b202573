/**
 * AuditService as messages.
 */
import { z } from 'zod';
import type { ShownCheckpoint } from '../../../audit/log.ts';
import { parseCheckpointText, parseNote } from '../../../hsm/checkpoint.ts';
import { auditOperations } from '../../../operations/audit.ts';
import { ENTRY_FIELDS, type LeafRecord } from '../../../store/audit/audit-entries.ts';
import * as field from '../fields.ts';
import type { AuditServiceHandlers } from '../generated/keyward/v1/AuditService.ts';
import { type RpcsOf, rpc, streamRpc } from '../rpc.ts';
import { timestamp } from '../times.ts';

const HASH_BYTES = 32;

const checkpointNote = z
  .string()
  .refine(
    (note) => parseCheckpointText(parseNote(note)?.text ?? '') !== undefined,
    'must be a signed note over a checkpoint',
  );
const treeOfSome = field.count.refine((size) => size >= 1, 'must be 1 or more');

const entryMessage = ({ leafIndex, leaf }: LeafRecord) => ({ leafIndex, leaf: Buffer.from(leaf) });

function checkpointMessage({
  environmentId,
  checkpoint,
}: {
  readonly environmentId: string;
  readonly checkpoint: ShownCheckpoint;
}) {
  const { note, cosignatures, treeSize, rootHash, publicKey, signedAt, firstLeafIndex } =
    checkpoint;
  const resumptions = checkpoint.resumptions.map((leaf) => Buffer.from(leaf));
  return {
    note: note + cosignatures.map((line) => `${line}\n`).join(''),
    treeSize,
    rootHash,
    publicKey,
    firstLeafIndex,
    resumptions,
    environmentId,
    signTime: timestamp(signedAt),
  };
}

const FILTER_FIELDS = Object.fromEntries(
  ENTRY_FIELDS.map((name) => [name, field.ANY_TEXT] as const),
);

export const auditService = {
  ListEntries: rpc(auditOperations.ListEntries, {
    request: z
      .object({
        parent: field.tenantOrAll,
        ...field.page(FILTER_FIELDS),
        startTime: field.time,
        endTime: field.time,
      })
      .transform(field.filtered),
    message: ({ items, nextPageToken }) => ({ entries: items.map(entryMessage), nextPageToken }),
  }),
  ReadEntries: streamRpc(auditOperations.ReadEntries, {
    request: z
      .object({
        parent: field.tenantOrAll,
        firstLeafIndex: field.count,
        treeSize: field.count,
        filter: field.filter(FILTER_FIELDS),
      })
      .transform(field.filtered),
    message: (leaves) => ({ entries: leaves.map(entryMessage) }),
  }),
  GetCheckpoint: rpc(auditOperations.GetCheckpoint, {
    request: z.object({ cosigned: z.boolean() }),
    message: checkpointMessage,
  }),
  AddCosignatures: rpc(auditOperations.AddCosignatures, {
    request: z.object({ note: checkpointNote }),
    message: checkpointMessage,
  }),
  GetInclusionProof: rpc(auditOperations.GetInclusionProof, {
    request: z.object({ leafIndex: field.count, treeSize: field.count }),
    message: (proof) => proof,
  }),
  GetConsistencyProof: rpc(auditOperations.GetConsistencyProof, {
    request: z.object({ fromSize: treeOfSome, toSize: field.count }),
    message: (proof) => proof,
  }),
  ReadTiles: streamRpc(auditOperations.ReadTiles, {
    request: z.object({ treeSize: field.count }),
    message: (tiles) => ({
      tiles: tiles.map((tile) => ({ ...tile, width: tile.hashes.length / HASH_BYTES })),
    }),
  }),
} satisfies RpcsOf<AuditServiceHandlers>;
