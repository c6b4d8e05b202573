/**
 * The audit log as callers read it: entries, checkpoints, proofs, tiles; and witnesses'
 * cosignatures, as they bring them.
 *
 * Invariants: what is read is leaves only, so that whatever was shown once can be proven later; a
 * tenant's reader sees that tenant's leaves through row-level security; proofs and tiles are of
 * trees no larger than the last checkpoint's, so that there is something signed to hold them
 * against. Knows no message.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { type Call, millisecondsLeft, monotonicNow } from '../call.ts';
import { invalidField, KeywardError } from '../errors.ts';
import { parseCheckpointText, parseNote } from '../hsm/checkpoint.ts';
import { chainOf } from '../hsm/resumption.ts';
import type { EnvironmentId, TenantId } from '../ids.ts';
import {
  type LeafPage,
  type LeafQuery,
  type LeafRecord,
  listLeavesBefore,
  listLeavesFrom,
  listTiles,
} from '../store/audit/audit-entries.ts';
import {
  type AuditState,
  addCosignatures,
  type CheckpointRecord,
  findAuditState,
  findLastCheckpoint,
  findLastCosigned,
  findTile,
  listGenerations,
} from '../store/audit/audit-log.ts';
import type { Deadline, Tx } from '../store/core/transaction.ts';
import type { Store } from '../store/store.ts';
import { HASH_BYTES, TreeReader, type TreeTile, tilesOf } from './tree.ts';
import { cosignaturesOf, type Witness } from './witnesses.ts';

/** Leaves, and tiles, that are read at once. */
const LEAVES = 1_000;
const TILES = 64;
/** So many bytes of leaves go into one answer, or one leaf: gRPC clients take 4 MiB. */
const BATCH_BYTES = 1024 * 1024;
const FOLLOW_MS = 500;
const READ_MS = 30_000;

export interface AuditLogParts {
  readonly store: Store;
  readonly tenantIdOf: (tenant: string) => Promise<TenantId>;
  readonly witnesses: readonly Witness[];
}

/** Whose entries: a tenant by the last part of its name, or `-` for all. */
export type Whose = string;

/** A checkpoint, the first leaf that is kept, and how its generation was begun. */
export interface ShownCheckpoint extends CheckpointRecord {
  readonly firstLeafIndex: number;
  /** The first leaves of the generations that it descends from, the latest first. */
  readonly resumptions: readonly string[];
}

/** Reads entries, checkpoints, proofs and tiles, and adds witnesses' cosignatures. */
export class AuditLog {
  readonly #parts: AuditLogParts;

  constructor(parts: AuditLogParts) {
    this.#parts = parts;
  }

  /**
   * The entries that match, the newest first, before a leaf. Throws RESOURCE_NOT_FOUND for a tenant
   * that there isn't.
   */
  list(
    call: Call,
    whose: Whose,
    before: number | undefined,
    query: Omit<LeafQuery, 'tenantId'>,
  ): Promise<LeafPage> {
    return this.#read(call, whose, (tx, tenantId) =>
      listLeavesBefore(tx, before ?? Number.MAX_SAFE_INTEGER, { ...query, tenantId }),
    );
  }

  /**
   * The entries that match, the oldest first, from a leaf on: up to a tree size, or as they come
   * until the call's deadline. Throws RESOURCE_NOT_FOUND, AUDIT_ENTRIES_DROPPED.
   */
  async *read(
    call: Call,
    whose: Whose,
    { first, treeSize }: { readonly first: number; readonly treeSize: number },
    conditions: LeafQuery['conditions'],
  ): AsyncGenerator<readonly LeafRecord[]> {
    const end = treeSize === 0 ? Number.MAX_SAFE_INTEGER : treeSize;
    let from = first;
    while (from < end && millisecondsLeft(call.deadline) > 0) {
      const page = await this.#read(call, whose, async (tx, tenantId) => {
        const state = await findAuditState(tx);
        if (from < state.firstLeafIndex)
          throw new KeywardError('AUDIT_ENTRIES_DROPPED', {
            metadata: { first_leaf_index: String(state.firstLeafIndex) },
          });
        const last = Math.min(end, state.treeSize);
        const found = await listLeavesFrom(tx, from, last, { tenantId, conditions, limit: LEAVES });
        return { ...found, last };
      });
      yield* inBatches(page.leaves);
      from = page.next ?? Math.max(from, page.last);
      const isAtEnd = page.next === undefined && from < end;
      if (isAtEnd) await delay(Math.min(FOLLOW_MS, millisecondsLeft(call.deadline)));
    }
  }

  /**
   * The last checkpoint, or the last that is cosigned. Throws RESOURCE_NOT_FOUND while there is
   * none.
   */
  checkpoint(
    call: Call,
    { cosigned = false }: { readonly cosigned?: boolean } = {},
  ): Promise<ShownCheckpoint> {
    const how = cosigned ? 'cosigned' : 'signed';
    return this.#parts.store.reconcile(within(call), (tx) => lastCheckpoint(tx, how));
  }

  /** Keeps cosignatures of configured witnesses. Throws INVALID_FIELD, COSIGNATURE_REFUSED. */
  async addCosignatures(call: Call, note: string): Promise<ShownCheckpoint> {
    const { store, witnesses } = this.#parts;
    const parsed = parseNote(note);
    const checkpoint = parseCheckpointText(parsed?.text ?? '');
    if (parsed === undefined || checkpoint === undefined)
      throw invalidField('note', 'must be a signed note over a checkpoint');
    const { text, signatures } = parsed;
    const lines = cosignaturesOf(text, signatures, witnesses);
    if (lines === undefined || lines.length === 0) throw new KeywardError('COSIGNATURE_REFUSED');
    return store.reconcile(within(call), async (tx) => {
      const kept = await addCosignatures(tx, { text, treeSize: checkpoint.treeSize }, lines);
      if (kept === undefined) throw new KeywardError('COSIGNATURE_REFUSED');
      return shown(tx, kept);
    });
  }

  /** Throws INVALID_FIELD for a leaf or a size that the last checkpoint doesn't have. */
  inclusionProof(
    call: Call,
    request: { readonly leafIndex: number; readonly treeSize: number },
  ): Promise<{
    readonly leafIndex: number;
    readonly treeSize: number;
    readonly leafHash: Buffer;
    readonly hashes: Buffer[];
  }> {
    return this.#prove(call, async (reader, signed) => {
      const { leafIndex } = request;
      const treeSize = sizeWithin('tree_size', request.treeSize, signed);
      if (leafIndex < 0 || leafIndex >= treeSize)
        throw invalidField('leaf_index', `must be less than the tree’s size, ${treeSize}`);
      const leafHash = await reader.leafHash(leafIndex);
      return {
        leafIndex,
        treeSize,
        leafHash,
        hashes: await reader.inclusionProof(leafIndex, treeSize),
      };
    });
  }

  /** Throws INVALID_FIELD for sizes that the last checkpoint doesn't have. */
  consistencyProof(
    call: Call,
    request: { readonly fromSize: number; readonly toSize: number },
  ): Promise<{ readonly fromSize: number; readonly toSize: number; readonly hashes: Buffer[] }> {
    return this.#prove(call, async (reader, signed) => {
      const { fromSize } = request;
      const toSize = sizeWithin('to_size', request.toSize, signed);
      if (fromSize < 1 || fromSize > toSize)
        throw invalidField('from_size', `must be 1 up to the larger tree’s size, ${toSize}`);
      return { fromSize, toSize, hashes: await reader.consistencyProof(fromSize, toSize) };
    });
  }

  /**
   * All tiles of the tree of that size, or the last checkpoint's, some at a time. Throws
   * INVALID_FIELD.
   */
  async *tiles(call: Call, requestedSize: number): AsyncGenerator<readonly TreeTile[]> {
    const { store } = this.#parts;
    const last = await store.reconcile(within(call), (tx) => lastCheckpoint(tx));
    const treeSize = sizeWithin('tree_size', requestedSize, last.treeSize);
    const wanted = tilesOf(treeSize);
    for (let start = 0; start < wanted.length; ) {
      const { level, index: first } = wanted[start] as (typeof wanted)[number];
      const some = wanted.slice(start, start + TILES).filter((tile) => tile.level === level);
      const found = await store.reconcile(within(call), (tx) =>
        listTiles(tx, level, first, some.length),
      );
      yield some.map(({ index, width }, place) => {
        const hashes = found[place]?.index === index ? found[place].hashes : undefined;
        if (hashes === undefined || hashes.length < width * HASH_BYTES)
          throw new Error(
            `cannot read the log’s tree: tile ${index} of level ${level} lacks hashes`,
          );
        return { level, index, hashes: hashes.subarray(0, width * HASH_BYTES) };
      });
      start += some.length;
    }
  }

  #prove<T>(call: Call, work: (reader: TreeReader, signedSize: number) => Promise<T>): Promise<T> {
    return this.#parts.store.reconcile(within(call), async (tx) => {
      const { treeSize } = await lastCheckpoint(tx);
      return work(new TreeReader((level, index) => findTile(tx, level, index)), treeSize);
    });
  }

  async #read<T>(
    call: Call,
    whose: Whose,
    work: (tx: Tx, tenantId: TenantId | undefined) => Promise<T>,
  ): Promise<T> {
    const { store, tenantIdOf } = this.#parts;
    if (whose === '-') return store.reconcile(within(call), (tx) => work(tx, undefined));
    const tenantId = await tenantIdOf(whose);
    return store.read(within(call), tenantId, (tx) => work(tx, tenantId));
  }
}

async function lastCheckpoint(
  tx: Tx,
  how: 'signed' | 'cosigned' = 'signed',
): Promise<ShownCheckpoint> {
  const checkpoint = await (how === 'cosigned' ? findLastCosigned(tx) : findLastCheckpoint(tx));
  if (checkpoint === undefined)
    throw new KeywardError('RESOURCE_NOT_FOUND', {
      message: `cannot find the checkpoint: none is ${how} yet`,
    });
  return shown(tx, checkpoint);
}

/** With what a reader needs besides. Of a generation that was never begun it has no resumption. */
async function shown(tx: Tx, checkpoint: CheckpointRecord): Promise<ShownCheckpoint> {
  const { firstLeafIndex }: AuditState = await findAuditState(tx);
  const { generation, note } = checkpoint;
  const environmentId = (note.split(/[/\n]/)[1] ?? '') as EnvironmentId;
  const leaves = generation === 1 ? new Map() : await listGenerations(tx);
  const chain = chainOf(generation, leaves, environmentId) ?? [];
  return { ...checkpoint, firstLeafIndex, resumptions: chain.map(({ leaf }) => leaf) };
}

/** The size that is asked for, or the signed one. */
function sizeWithin(field: string, size: number, signedSize: number): number {
  if (size < 0 || size > signedSize)
    throw invalidField(field, `must be at most the last checkpoint’s, ${signedSize}`);
  return size === 0 ? signedSize : size;
}

function* inBatches(leaves: readonly LeafRecord[]): Generator<readonly LeafRecord[]> {
  let batch: LeafRecord[] = [];
  let bytes = 0;
  for (const record of leaves) {
    if (batch.length > 0 && bytes + record.leaf.length > BATCH_BYTES) {
      yield batch;
      batch = [];
      bytes = 0;
    }
    batch.push(record);
    bytes += record.leaf.length;
  }
  if (batch.length > 0) yield batch;
}

/** One transaction of a call that may have no end of its own. */
function within(call: Deadline): Deadline {
  return { deadline: Math.min(call.deadline, monotonicNow() + READ_MS) };
}
