/**
 * Re-wrapping stored data keys: each brought under its key's primary version.
 *
 * Invariant: each data key is opened, wrapped and opened again inside one agent operation before
 * anything is written, and its plaintext stays there; and nothing is brought under a primary that
 * the key's seal doesn't name. Knows no gRPC and no SQL.
 */
import { KeywardError, type Reason } from '../../errors.ts';
import { encode } from '../../hsm/codec.ts';
import { sealedKeyVersion } from '../../hsm/key-version.ts';
import { ITEM_OUTCOME } from '../../hsm/protocol.ts';
import type { Agents } from '../../hsm/token-router.ts';
import { idToBytes } from '../../ids.ts';
import { formatDataKeyName, formatKeyVersionName } from '../../names.ts';
import type { Moment } from '../../sealed-rows.ts';
import type { Alerts } from '../../signals/alerts.ts';
import type { Lease, LeasedKey, Progress } from '../../store/lifecycle/rewrap-ranges.ts';
import {
  type DataKeyBatch,
  type RewrappedDataKeys,
  readDataKeys,
  type StaleDataKey,
  writeDataKeys,
} from '../../store/lifecycle/stale-data-keys.ts';
import type { Store } from '../../store/store.ts';
import { type KeyStates, standsAs } from '../keys/key-states.ts';
import { type BatchSizes, type RangeWork, type StepResult, step, type Throttle } from '../pace.ts';

/** What became of a batch. */
interface Outcome {
  readonly rewrapped: RewrappedDataKeys;
  readonly progress: Progress;
}

/** What {@link RewrapDataKeys} stands on. */
export interface RewrapDataKeysParts {
  readonly store: Store;
  readonly agents: Agents;
  readonly states: KeyStates;
  readonly alerts: Alerts;
}

/** Re-wraps stored data keys under the primary version, a batch at a time. */
export class RewrapDataKeys implements RangeWork {
  readonly #parts: RewrapDataKeysParts;
  readonly #sizes: BatchSizes;

  constructor(parts: RewrapDataKeysParts, sizes: BatchSizes) {
    this.#parts = parts;
    this.#sizes = sizes;
  }

  async step(lease: Lease, throttle: Throttle): Promise<StepResult> {
    const { store, states } = this.#parts;
    const { key } = lease;
    if (key === undefined) throw new Error('a range of data keys without a key');
    const readAfter = states.now();
    const batch = await readDataKeys(store, step(), key, lease, this.#sizes.batch);
    if (batch.key.state !== 'ENABLED' || batch.key.primary.state !== 'ENABLED') return 'moved';
    const isSound = await this.#verify(batch, readAfter);
    if (isSound && !standsAsSealed(batch)) return 'moved';
    const { rewrapped, progress } = await this.#rewrap(key, lease, { ...batch, isSound }, throttle);
    const written = await writeDataKeys(store, step(), { lease, key }, rewrapped, progress);
    if (written !== 'written') return written;
    return progress.finished ? 'finished' : progress;
  }

  /**
   * Whether the key stands as it was read: nothing is brought under a primary that somebody else
   * has made one.
   */
  async #verify({ key }: DataKeyBatch, readAfter: Moment): Promise<boolean> {
    try {
      await this.#parts.states.verify([key.sealed], { readAfter, ...step() });
      return true;
    } catch (error) {
      if (error instanceof KeywardError && error.reason === 'KEY_STATE_CORRUPT') return false;
      throw error;
    }
  }

  async #rewrap(
    name: LeasedKey,
    { untilName }: Lease,
    batch: DataKeyBatch & { readonly isSound: boolean },
    throttle: Throttle,
  ): Promise<Outcome> {
    const { key, dataKeys } = batch;
    const { operation, batch: batchSize } = this.#sizes;
    const sealed = sealedVersionsOf(batch);
    const items: RewrappedDataKeys['items'][number][] = [];
    const failed: Progress['failed'][number][] = [];
    const usable: StaleDataKey[] = [];
    const corrupt = new Set<number>();
    const fail = (dataKey: StaleDataKey, reason: Reason) => {
      failed.push({ resource: formatDataKeyName(name, dataKey.name), reason });
      if (reason === 'STORED_ROW_CORRUPT') corrupt.add(dataKey.version);
    };
    for (const dataKey of dataKeys) {
      const problem = problemOf(batch, dataKey);
      if (problem === undefined) usable.push(dataKey);
      else fail(dataKey, problem);
    }
    for (let start = 0; start < usable.length; start += operation) {
      const some = usable.slice(start, start + operation);
      const results = await rewrapItems(this.#parts.agents, sealed, some);
      for (const [index, before] of some.entries()) {
        const { outcome, ciphertext } = results[index] as (typeof results)[number];
        if (outcome === ITEM_OUTCOME.done) items.push({ before, ciphertext });
        else fail(before, REASON_OF[outcome] ?? 'INTERNAL');
      }
      await throttle.pause();
    }
    for (const version of corrupt) {
      const resource = formatKeyVersionName(name, version);
      this.#parts.alerts.raise('stored-row-corrupt', resource, { resource });
    }
    const finished = dataKeys.length < batchSize;
    const afterName = finished ? untilName : (dataKeys.at(-1)?.name ?? untilName);
    return {
      rewrapped: { target: key.primary.version, items },
      progress: { done: items.length, failed, afterName, finished },
    };
  }
}

/** What a job's failure says, by what an agent says of the item. */
const REASON_OF: Readonly<Record<number, Reason>> = {
  [ITEM_OUTCOME.doesNotOpen]: 'DECRYPTION_FAILED',
  [ITEM_OUTCOME.sourceCorrupt]: 'STORED_ROW_CORRUPT',
};

/** Whether the versions, which were read after the key, stand as its seal says. */
function standsAsSealed({ key, versions }: DataKeyBatch): boolean {
  return versions.every((row) => standsAs(key.sealed, row.version, row));
}

/** What keeps a data key from being tried. */
function problemOf(
  { versions, isSound }: DataKeyBatch & { readonly isSound: boolean },
  { version }: StaleDataKey,
): Reason | undefined {
  if (!isSound) return 'KEY_STATE_CORRUPT';
  const source = versions.find((each) => each.version === version);
  if (source === undefined) return 'STORED_ROW_CORRUPT';
  return source.state === 'ENABLED' ? undefined : 'KEY_VERSION_NOT_ENABLED';
}

/** Key versions as an agent takes them. */
interface SealedVersions {
  readonly target: Buffer;
  readonly sources: readonly Buffer[];
  /** Where in `sources` a version is. */
  readonly indexOf: ReadonlyMap<number, number>;
}

function sealedVersionsOf({ key, versions }: DataKeyBatch): SealedVersions {
  return {
    target: encode(sealedKeyVersion, key.primary),
    sources: versions.map((version) => encode(sealedKeyVersion, version)),
    indexOf: new Map(versions.map(({ version }, index) => [version, index])),
  };
}

async function rewrapItems(
  agents: Agents,
  { target, sources, indexOf }: SealedVersions,
  items: readonly StaleDataKey[],
) {
  const request = {
    keyVersion: target,
    sourceKeyVersions: sources,
    items: items.map(({ version, dataKeyId, contextDigest, ciphertext }) => ({
      source: indexOf.get(version) as number,
      subject: idToBytes(dataKeyId),
      contextDigest,
      ciphertext,
    })),
  };
  const { results } = await agents.call('rewrap', request, step().deadline);
  if (results.length !== items.length) throw new Error('an agent answered for other items');
  return results;
}
