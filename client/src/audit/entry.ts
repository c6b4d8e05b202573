/**
 * The audit log's messages, to the wire and off it, in friendly types.
 *
 * Its invariant: leaves and hashes are passed on byte for byte; what they prove is for the caller
 * to find out. Knows nothing of methods.
 */
import { filteredPage, text, timestamp, whole } from '../fields.ts';
import type { AuditEntry__Output } from '../generated/keyward/v1/AuditEntry.ts';
import type { Checkpoint__Output } from '../generated/keyward/v1/Checkpoint.ts';
import type { ConsistencyProof__Output } from '../generated/keyward/v1/ConsistencyProof.ts';
import type { InclusionProof__Output } from '../generated/keyward/v1/InclusionProof.ts';
import type { ListEntriesResponse__Output } from '../generated/keyward/v1/ListEntriesResponse.ts';
import type * as m from '../messages.ts';
import { date } from '../times.ts';

export function listRequest(r: m.ListAuditEntriesRequest) {
  return {
    parent: text('parent', r.parent),
    ...filteredPage(r),
    startTime: r.startTime === undefined ? null : timestamp('startTime', r.startTime),
    endTime: r.endTime === undefined ? null : timestamp('endTime', r.endTime),
  };
}

export function listResponse({
  entries,
  nextPageToken,
}: ListEntriesResponse__Output): m.ListAuditEntriesResponse {
  return { entries: entries.map(entry), nextPageToken };
}

export function readRequest(r: m.ReadAuditEntriesRequest) {
  return {
    parent: text('parent', r.parent),
    firstLeafIndex: whole('firstLeafIndex', r.firstLeafIndex),
    treeSize: whole('treeSize', r.treeSize ?? 0),
    filter: text('filter', r.filter ?? ''),
  };
}

/** The request for what comes after these entries. */
export function readOn(
  r: m.ReadAuditEntriesRequest,
  entries: readonly m.AuditEntry[],
): m.ReadAuditEntriesRequest {
  const last = entries.at(-1);
  return last === undefined ? r : { ...r, firstLeafIndex: last.leafIndex + 1 };
}

export function entry({ leafIndex, leaf }: AuditEntry__Output): m.AuditEntry {
  return { leafIndex, leaf };
}

export function checkpoint(wire: Checkpoint__Output): m.AuditCheckpoint {
  return { ...wire, signTime: date(wire.signTime) };
}

export function inclusionProof(wire: InclusionProof__Output): m.AuditInclusionProof {
  return wire;
}

export function consistencyProof(wire: ConsistencyProof__Output): m.AuditConsistencyProof {
  return wire;
}

/**
 * What an entry says; one of a later version says what it has in common with version 1, and more.
 * Throws a TypeError when it isn't a JSON object with a version.
 */
export function readAuditEntry({ leaf }: Pick<m.AuditEntry, 'leaf'>): m.AuditEntryContent {
  let content: unknown;
  try {
    content = JSON.parse(leaf.toString());
  } catch (cause) {
    throw new TypeError('the entry is not JSON', { cause });
  }
  if (
    typeof content !== 'object' ||
    content === null ||
    !('v' in content) ||
    !Number.isInteger(content.v)
  )
    throw new TypeError('the entry has no version');
  return content as m.AuditEntryContent;
}
