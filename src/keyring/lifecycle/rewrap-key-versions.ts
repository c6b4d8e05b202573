/**
 * Re-wrapping key versions: each brought under its tenant's current root key, its row sealed by the
 * current seal key.
 *
 * Invariants: each version is verified, wrapped anew, unwrapped again and proven by its check value
 * inside one agent operation before anything is written; its material never leaves the token but
 * wrapped; and it comes under nothing that wasn't verified to be current. Knows no gRPC and no SQL.
 */
import { KeywardError } from '../../errors.ts';
import { decode, encode } from '../../hsm/codec.ts';
import { sealedKeyVersion } from '../../hsm/key-version.ts';
import type { Agents } from '../../hsm/token-router.ts';
import type { SealKeyId } from '../../ids.ts';
import { formatKeyVersionName } from '../../names.ts';
import type { Alerts } from '../../signals/alerts.ts';
import type { Lease, Progress } from '../../store/lifecycle/rewrap-ranges.ts';
import type {
  KeyVersionToRewrap,
  RewrappedKeyVersion,
} from '../../store/lifecycle/rewrapped-key-versions.ts';
import {
  placeOf,
  readKeyVersions,
  writeKeyVersions,
} from '../../store/lifecycle/stale-key-versions.ts';
import type { Store } from '../../store/store.ts';
import type { KeyCache } from '../keys/key-cache.ts';
import type { CurrentKeyJudge } from '../keys/key-versions.ts';
import { type BatchSizes, type RangeWork, type StepResult, step, type Throttle } from '../pace.ts';

/** An agent is busy with a version for about as long as with so many data keys. */
const COST = 4;

/** What {@link RewrapKeyVersions} stands on. */
export interface RewrapKeyVersionsParts {
  readonly store: Store;
  readonly cache: Pick<KeyCache, 'tenantById'>;
  readonly agents: Agents;
  readonly alerts: Alerts;
  /** The token's objects, as this replica knows them. */
  readonly tokenObjects: CurrentKeyJudge;
}

/** Re-wraps key versions under the current root key, a batch at a time. */
export class RewrapKeyVersions implements RangeWork {
  readonly #parts: RewrapKeyVersionsParts;
  readonly #sizes: BatchSizes;

  constructor(parts: RewrapKeyVersionsParts, sizes: BatchSizes) {
    this.#parts = parts;
    this.#sizes = {
      batch: Math.ceil(sizes.batch / COST),
      operation: Math.ceil(sizes.operation / COST),
    };
  }

  async step(lease: Lease, throttle: Throttle): Promise<StepResult> {
    const { store, alerts, tokenObjects } = this.#parts;
    const versions = await readKeyVersions(store, step(), lease, this.#sizes.batch);
    // What the database says is current is what versions are brought under only if it is verified.
    const targets = versions.map(({ record: { tenantId }, rootKeyId, sealKeyId }) => ({
      tenantId,
      rootKeyId,
      sealKeyId,
    }));
    if (!(await tokenObjects.areCurrent(targets))) return 'moved';
    const items: RewrappedKeyVersion[] = [];
    const failed: Progress['failed'][number][] = [];
    for (let start = 0; start < versions.length; start += this.#sizes.operation) {
      const read = versions.slice(start, start + this.#sizes.operation);
      const some = await this.#ofVerified(read, failed);
      for (const [index, sealed] of (await this.#transfer(some)).entries()) {
        const stale = some[index] as KeyVersionToRewrap;
        const { record } = stale;
        if (sealed.length > 0)
          items.push({ before: record, after: decode(sealedKeyVersion, sealed) });
        else {
          const resource = formatKeyVersionName(stale, record.version);
          alerts.raise('stored-row-corrupt', resource, { resource });
          failed.push({ resource, reason: 'STORED_ROW_CORRUPT' });
        }
      }
      await throttle.pause();
    }
    const last = versions.at(-1);
    const finished = last === undefined || versions.length < this.#sizes.batch;
    const afterName = finished ? lease.untilName : placeOf(last.record);
    const progress = { done: items.length, failed, afterName, finished };
    const written = await writeKeyVersions(store, step(), lease, items, progress);
    if (written !== 'written') return written;
    return finished ? 'finished' : progress;
  }

  /**
   * Leaves out those of tenants that don't verify: whether a tenant has a root key of its own
   * decides what its versions are brought under.
   */
  async #ofVerified(
    versions: readonly KeyVersionToRewrap[],
    failed: Progress['failed'][number][],
  ): Promise<KeyVersionToRewrap[]> {
    const sound: KeyVersionToRewrap[] = [];
    for (const [tenantId, some] of Map.groupBy(versions, ({ record }) => record.tenantId)) {
      try {
        const { name: tenant } = await this.#parts.cache.tenantById(tenantId);
        sound.push(...some.map((each) => ({ ...each, tenant })));
      } catch (error) {
        if (!(error instanceof KeywardError) || error.reason !== 'TENANT_CORRUPT') throw error;
        for (const each of some) {
          const resource = formatKeyVersionName(each, each.record.version);
          failed.push({ resource, reason: error.reason });
        }
      }
    }
    return sound;
  }

  async #transfer(versions: readonly KeyVersionToRewrap[]): Promise<readonly Buffer[]> {
    if (versions.length === 0) return [];
    const request = {
      // There is one for all tenants.
      sealKeyId: versions[0]?.sealKeyId as SealKeyId,
      items: versions.map(({ record, rootKeyId }) => ({
        rootKeyId,
        keyVersion: encode(sealedKeyVersion, record),
      })),
    };
    const { keyVersions } = await this.#parts.agents.call('transfer', request, step().deadline);
    if (keyVersions.length !== versions.length)
      throw new Error('an agent answered for other items');
    return keyVersions;
  }
}
