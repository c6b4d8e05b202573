/**
 * The audit log: an operation for each method of AuditService.
 */
import type { Rights } from '../access/access.ts';
import { ofSystem, operation, streamOperation } from '../calls/operation.ts';
import { decodePageToken, encodePageToken, type ListRequest, type Page } from '../keyring/pages.ts';
import { formatTenantName, SYSTEM_TENANT } from '../names.ts';
import type { LeafRecord } from '../store/audit/audit-entries.ts';
import type { Condition } from '../store/core/conditions.ts';

/** What calls about the log as a whole are about. */
const LOG = 'auditLog';

/** About the entries of a tenant, by the last part of its name; `-` for those of all tenants. */
interface OfTenantOrAll {
  readonly parent: string;
}

/** A page of entries, the newest first. */
export interface EntryList extends OfTenantOrAll, ListRequest {
  readonly startTime: Date | null;
  readonly endTime: Date | null;
}

/** Entries as leaves, from one on to the tree's last. */
export interface EntryRange extends OfTenantOrAll {
  readonly firstLeafIndex: number;
  /** 0: the tree of the newest checkpoint. */
  readonly treeSize: number;
  readonly conditions: readonly Condition[];
}

const isLeafIndex = (text: string) => /^\d{1,15}$/.test(text);

/** Returns whose entries are asked for; those of all tenants are the system's to show. */
const ofWhose = ({ parent }: OfTenantOrAll) => ({
  tenant: parent === '-' ? SYSTEM_TENANT : parent,
});

/** Throws PERMISSION_MISSING. */
function requireAll(rights: Rights, { parent }: OfTenantOrAll): void {
  if (parent === '-') rights.require('auditEntries.listForAllTenants', ofSystem(), 'tenants/-');
}

export const auditOperations = {
  ListEntries: operation({
    permission: 'auditEntries.list',
    target: ofWhose,
    resource: ({ parent }: EntryList) => formatTenantName({ tenant: parent }),
    handle: async ({ auditLog }, call, request): Promise<Page<LeafRecord>> => {
      const { parent, conditions, pageSize, pageToken, startTime, endTime } = request;
      requireAll(call.rights, request);
      const list = `entries ${parent} ${JSON.stringify([conditions, { startTime, endTime }])}`;
      const before = decodePageToken(list, pageToken, isLeafIndex);
      const { leaves, next } = await auditLog.list(
        call,
        parent,
        before === undefined ? undefined : Number(before),
        { conditions, startTime, endTime, limit: pageSize },
      );
      const nextPageToken = next === undefined ? '' : encodePageToken(list, String(next));
      return { items: leaves, nextPageToken };
    },
  }),
  ReadEntries: streamOperation({
    permission: 'auditEntries.list',
    target: ofWhose,
    resource: ({ parent }: EntryRange) => formatTenantName({ tenant: parent }),
    requireMore: requireAll,
    stream: ({ auditLog }, call, { parent, firstLeafIndex: first, treeSize, conditions }) =>
      auditLog.read(call, parent, { first, treeSize }, conditions),
  }),
  GetCheckpoint: operation({
    permission: 'auditLog.get',
    target: ofSystem,
    resource: (_: { readonly cosigned: boolean }) => LOG,
    handle: async ({ auditLog, environmentId }, call, request) => ({
      environmentId,
      checkpoint: await auditLog.checkpoint(call, request),
    }),
  }),
  AddCosignatures: operation({
    permission: 'auditLog.cosign',
    target: ofSystem,
    resource: (_: { readonly note: string }) => LOG,
    handle: async ({ auditLog, environmentId }, call, { note }) => ({
      environmentId,
      checkpoint: await auditLog.addCosignatures(call, note),
    }),
  }),
  GetInclusionProof: operation({
    permission: 'auditLog.get',
    target: ofSystem,
    resource: (_: { readonly leafIndex: number; readonly treeSize: number }) => LOG,
    handle: ({ auditLog }, call, request) => auditLog.inclusionProof(call, request),
  }),
  GetConsistencyProof: operation({
    permission: 'auditLog.get',
    target: ofSystem,
    resource: (_: { readonly fromSize: number; readonly toSize: number }) => LOG,
    handle: ({ auditLog }, call, request) => auditLog.consistencyProof(call, request),
  }),
  ReadTiles: streamOperation({
    permission: 'auditLog.get',
    target: ofSystem,
    resource: (_: { readonly treeSize: number }) => LOG,
    stream: ({ auditLog }, call, { treeSize }) => auditLog.tiles(call, treeSize),
  }),
};
