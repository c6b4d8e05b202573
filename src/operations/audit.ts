/**
 * AuditService, a row for each method.
 */
import { z } from 'zod';
import type { ShownCheckpoint } from '../audit/log.ts';
import { type AuthorizedCall, ofSystem, type RowsOf, row, streamRow } from '../calls/operation.ts';
import * as field from '../faces/contract/fields.ts';
import type { AuditServiceHandlers } from '../faces/contract/generated/keyward/v1/AuditService.ts';
import { timestamp } from '../faces/contract/times.ts';
import { parseCheckpointText, parseNote } from '../hsm/checkpoint.ts';
import { decodePageToken, encodePageToken } from '../keyring/pages.ts';
import { SYSTEM_TENANT } from '../names.ts';
import { ENTRY_FIELDS, type LeafRecord } from '../store/audit/audit-entries.ts';

/** What calls about the log as a whole are about. */
const LOG = 'auditLog';
const HASH_BYTES = 32;

const checkpointNote = z
  .string()
  .refine(
    (note) => parseCheckpointText(parseNote(note)?.text ?? '') !== undefined,
    'must be a signed note over a checkpoint',
  );
const treeOfSome = field.count.refine((size) => size >= 1, 'must be 1 or more');

const isLeafIndex = (text: string) => /^\d{1,15}$/.test(text);

export const auditService = {
  ListEntries: row({
    permission: 'auditEntries.list',
    target: ofWhose,
    request: z.object({
      parent: field.tenantOrAll,
      ...field.page(ENTRY_FIELDS),
      startTime: field.time,
      endTime: field.time,
    }),
    resource: ({ parent }) => `tenants/${parent}`,
    handle: async (
      { auditLog },
      call,
      { parent, filter: conditions, pageSize, pageToken, ...times },
    ) => {
      requireAll(call, parent);
      const list = `entries ${parent} ${JSON.stringify([conditions, times])}`;
      const before = decodePageToken(list, pageToken, isLeafIndex);
      const query = { conditions, ...times, limit: pageSize };
      const page = await auditLog.list(
        call,
        parent,
        before === undefined ? undefined : Number(before),
        query,
      );
      return {
        entries: page.leaves.map(entryMessage),
        nextPageToken: page.next === undefined ? '' : encodePageToken(list, String(page.next)),
      };
    },
  }),
  ReadEntries: streamRow({
    permission: 'auditEntries.list',
    target: ofWhose,
    request: z.object({
      parent: field.tenantOrAll,
      firstLeafIndex: field.count,
      treeSize: field.count,
      filter: field.filter(ENTRY_FIELDS),
    }),
    resource: ({ parent }) => `tenants/${parent}`,
    stream: async function* (
      { auditLog },
      call,
      { parent, firstLeafIndex: first, treeSize, filter },
    ) {
      requireAll(call, parent);
      for await (const leaves of auditLog.read(call, parent, { first, treeSize }, filter))
        yield { entries: leaves.map(entryMessage) };
    },
  }),
  GetCheckpoint: row({
    permission: 'auditLog.get',
    target: ofSystem,
    request: z.object({ cosigned: z.boolean() }),
    resource: () => LOG,
    handle: async ({ auditLog, environmentId }, call, request) =>
      checkpointMessage(environmentId, await auditLog.checkpoint(call, request)),
  }),
  AddCosignatures: row({
    permission: 'auditLog.cosign',
    target: ofSystem,
    request: z.object({ note: checkpointNote }),
    resource: () => LOG,
    handle: async ({ auditLog, environmentId }, call, { note }) =>
      checkpointMessage(environmentId, await auditLog.addCosignatures(call, note)),
  }),
  GetInclusionProof: row({
    permission: 'auditLog.get',
    target: ofSystem,
    request: z.object({ leafIndex: field.count, treeSize: field.count }),
    resource: () => LOG,
    handle: ({ auditLog }, call, request) => auditLog.inclusionProof(call, request),
  }),
  GetConsistencyProof: row({
    permission: 'auditLog.get',
    target: ofSystem,
    request: z.object({ fromSize: treeOfSome, toSize: field.count }),
    resource: () => LOG,
    handle: ({ auditLog }, call, request) => auditLog.consistencyProof(call, request),
  }),
  ReadTiles: streamRow({
    permission: 'auditLog.get',
    target: ofSystem,
    request: z.object({ treeSize: field.count }),
    resource: () => LOG,
    stream: async function* ({ auditLog }, call, { treeSize }) {
      for await (const tiles of auditLog.tiles(call, treeSize))
        yield { tiles: tiles.map((tile) => ({ ...tile, width: tile.hashes.length / HASH_BYTES })) };
    },
  }),
} satisfies RowsOf<AuditServiceHandlers>;

/** Whose entries are asked for; those of all tenants are the system's to show. */
function ofWhose({ parent }: { readonly parent: string }) {
  return { tenant: parent === '-' ? SYSTEM_TENANT : parent };
}

/** Throws PERMISSION_MISSING. */
function requireAll({ rights }: AuthorizedCall, parent: string): void {
  if (parent === '-') rights.require('auditEntries.listForAllTenants', ofSystem(), 'tenants/-');
}

function entryMessage({ leafIndex, leaf }: LeafRecord) {
  return { leafIndex, leaf: Buffer.from(leaf) };
}

function checkpointMessage(environmentId: string, checkpoint: ShownCheckpoint) {
  const { note, cosignatures, treeSize, rootHash, publicKey, signedAt, firstLeafIndex } =
    checkpoint;
  return {
    note: note + cosignatures.map((line) => `${line}\n`).join(''),
    treeSize,
    rootHash,
    publicKey,
    firstLeafIndex,
    environmentId,
    signTime: timestamp(signedAt),
  };
}
