/**
 * What an operator does to the audit log: have it go on after an older database was restored, and
 * drop what is old.
 *
 * Invariants: the log goes on only where a kept checkpoint contradicts it, as another log by its
 * origin, by a note that the token signs, so that nobody can take the two for one; nothing is
 * dropped that isn't in an export of this very log, or that is younger than asked for. That the
 * export's entries are whole is `keyward audit verify`'s to say.
 */
import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { generationOf, parseCheckpointText, parseNote } from '../hsm/checkpoint.ts';
import type { ResumeReply, ResumeSettings } from '../hsm/protocol.ts';
import { chainOf, noteInLeaf } from '../hsm/resumption.ts';
import type { EnvironmentId } from '../ids.ts';
import { auditLine } from '../store/audit/audit-entry.ts';
import {
  findAuditState,
  findLastCheckpoint,
  findTile,
  listGenerations,
} from '../store/audit/audit-log.ts';
import {
  type AuditOperator,
  beginGeneration,
  dropPartitions,
  listFullPartitions,
  newestTimeIn,
} from '../store/audit/audit-owner.ts';
import type { OwnerConnection } from '../store/core/owner.ts';
import { contradictionOf, unbegun } from './continuity.ts';
import { type KeptCheckpoint, readKept } from './kept-checkpoint.ts';
import { TreeReader } from './tree.ts';

const DAY_MS = 86_400_000;

/** What an operator's command works with. */
export interface AuditOperation extends AuditOperator {
  readonly owner: OwnerConnection;
  readonly environmentId: EnvironmentId;
}

/** What resuming takes besides. */
export interface Resuming extends AuditOperation {
  /** Has the current token sign the note. */
  readonly sign: (
    heads: Pick<ResumeSettings, 'generation' | 'left' | 'from' | 'before'>,
  ) => Promise<ResumeReply>;
}

/**
 * Has the log go on as another generation, where what is kept or was signed contradicts it, or
 * where no note of this token's has begun the generation that it is of. Returns what it
 * contradicts, in words. Throws an Error, in words for the operator, where nothing does.
 */
export async function resumeLog(
  operation: Resuming,
  kept: readonly Pick<KeptCheckpoint, 'read'>[],
): Promise<string> {
  const { owner, environmentId, caller } = operation;
  const last = await findLastCheckpoint(owner);
  const notes = [...(await readKept(kept)), ...(last ? [last.note] : [])];
  const state = { ...(await findAuditState(owner)), environmentId };
  const leaves = await listGenerations(owner);
  const reader = readerOf(owner);
  const chain = chainOf(state.generation, leaves, environmentId);
  const contradiction =
    (await unbegun(state, chain, reader)) ?? (await contradictionOf(notes, state, reader));
  const [begun] = chain ?? [];
  if (contradiction === undefined && begun === undefined) throw nothingToDo();
  const left = latestOf(notes, environmentId);
  if (left === undefined)
    throw new Error('cannot resume the log: no checkpoint is kept, so nothing is left behind');
  // Later than every one that is kept, so that none of them contradicts what follows.
  const generation = Math.max(state.generation, left.generation) + 1;
  // One that no note has begun is none.
  const descent = chain === undefined ? 1 : state.generation;
  const { treeSize } = state;
  const root = (await reader.root(treeSize)).toString('base64');
  const { note: resumption, hasSignedBefore } = await operation.sign({
    generation,
    left: { ...left, rootHash: left.rootHash.toString('base64') },
    from: { generation: descent, treeSize, rootHash: root },
    before: begun === undefined ? null : (noteInLeaf(begun.leaf) ?? null),
  });
  if (contradiction === undefined && hasSignedBefore) throw nothingToDo();
  const why =
    contradiction ?? `another token’s key has signed the note of generation ${state.generation}`;
  const audit = { detail: { contradiction: why, resumption } };
  const call = { id: randomUUID(), caller, method: 'keyward-server audit resume', audit };
  const leaf = auditLine({ entryId: randomUUID(), call, resource: 'auditLog', outcome: 'OK' });
  await beginGeneration(owner, generation, leaf);
  return why;
}

function nothingToDo(): Error {
  return new Error(
    'cannot resume the log: it continues the kept checkpoint, so there is nothing to do',
  );
}

/** The latest checkpoint of those that are one of this log. */
function latestOf(notes: readonly string[], environmentId: EnvironmentId) {
  let latest: { generation: number; treeSize: number; rootHash: Buffer } | undefined;
  for (const note of notes) {
    const signed = parseCheckpointText(parseNote(note)?.text ?? '');
    const generation = signed && generationOf(signed.origin, environmentId);
    if (signed === undefined || generation === undefined) continue;
    const { treeSize, rootHash } = signed;
    const isLater =
      latest === undefined ||
      generation > latest.generation ||
      (generation === latest.generation && treeSize > latest.treeSize);
    if (isLater) latest = { generation, treeSize, rootHash };
  }
  return latest;
}

/** Which leaves are not kept any more. */
export interface DroppedLeaves {
  readonly firstLeafIndex: number;
  readonly end: number;
}

/**
 * Drops entries that are older than so many days and in the export in that folder, in whole
 * partitions. Returns which they were, undefined for none. Throws an Error, in words for the
 * operator, for an export that isn't of this log.
 */
export async function dropExported(
  operation: AuditOperation,
  { folder, olderThanDays }: { readonly folder: string; readonly olderThanDays: number },
): Promise<DroppedLeaves | undefined> {
  const { owner } = operation;
  const exported = await readExport(operation, folder);
  const { firstLeafIndex: firstKept } = await findAuditState(owner);
  if (exported.firstLeafIndex > firstKept)
    throw new Error(
      `cannot drop entries: the export in ${folder} begins with leaf ${exported.firstLeafIndex}, and the log with ${firstKept}; export from the log’s first leaf`,
    );
  const before = Date.now() - olderThanDays * DAY_MS;
  const old = [];
  for (const partition of await listFullPartitions(owner)) {
    const isOld = (await newestTimeIn(owner, partition)).getTime() < before;
    if (!isOld || partition.end > exported.treeSize) break;
    old.push(partition);
  }
  const [first, last] = [old[0], old.at(-1)];
  if (first === undefined || last === undefined) return undefined;
  await dropPartitions(owner, operation, old);
  return { firstLeafIndex: first.firstLeafIndex, end: last.end };
}

async function readExport({ owner, environmentId }: AuditOperation, folder: string) {
  const text = await readFile(join(folder, 'export.json'), 'utf8');
  const { firstLeafIndex } = JSON.parse(text) as { firstLeafIndex?: unknown };
  const note = parseNote(await readFile(join(folder, 'checkpoint'), 'utf8'));
  const signed = parseCheckpointText(note?.text ?? '');
  if (signed === undefined || typeof firstLeafIndex !== 'number')
    throw new Error(`cannot drop entries: ${folder} is not an export`);
  const { treeSize } = await findAuditState(owner);
  const isOurs =
    generationOf(signed.origin, environmentId) !== undefined &&
    signed.treeSize <= treeSize &&
    (await readerOf(owner).root(signed.treeSize)).equals(signed.rootHash);
  if (!isOurs) throw new Error(`cannot drop entries: the export in ${folder} is of another log`);
  return { firstLeafIndex, treeSize: signed.treeSize };
}

function readerOf(owner: OwnerConnection): TreeReader {
  return new TreeReader((level, index) => findTile(owner, level, index));
}
