/**
 * The end of a tenant: looked at before, scheduled, called back, and done when the time has come.
 *
 * Invariants: from the moment of scheduling none of the tenant's keys can be used; nothing is
 * erased before its time by the database's clock, nor while maintenance is paused; erased is
 * everything in one transaction, and from then on the tenant answers as if it had never been. Its
 * own root keys an operator destroys afterwards (`token-destruction.ts`). Knows no gRPC and no SQL.
 */
import type { Call } from '../../call.ts';
import { invalidField, KeywardError } from '../../errors.ts';
import type { TenantId } from '../../ids.ts';
import {
  formatTenantName,
  formatTokenKeyName,
  SYSTEM_TENANT,
  type TenantName,
} from '../../names.ts';
import type { Tx } from '../../store/core/transaction.ts';
import { listTokenObjects } from '../../store/hsm-token/token-objects.ts';
import { type DueShredding, timeAfterDays } from '../../store/lifecycle/maintenance.ts';
import { supersedeTenantJobs } from '../../store/lifecycle/rewrap-jobs.ts';
import type { Store } from '../../store/store.ts';
import { eraseTenant, measureTenant, type TenantHoldings } from '../../store/tenants/shredding.ts';
import { readClock } from '../../store/tenants/tenant-seals.ts';
import type { TenantRecord } from '../../store/tenants/tenants.ts';
import type { KeyCache } from '../keys/key-cache.ts';
import { type DestructionRequest, noteValidateOnly } from '../keys/mutations.ts';
import type { TenantSeals } from '../keys/tenant-seals.ts';
import { ownCall, requireEtag } from '../own-calls.ts';
import { changeRecorded } from './tenant-content.ts';
import { readTenant, requireTenantKept, tenantMutation } from './tenants.ts';

/** All of a tenant is one transaction. */
const OWN_CALL_MS = 600_000;

/** What shredding a tenant takes with it. */
export interface ShredImpact extends TenantHoldings {
  readonly shredAt: Date;
  /** Of the tenant, as it was looked at. */
  readonly etag: string;
  /** The full names of its own root keys; none for a tenant that shares its root key. */
  readonly rootKeys: readonly string[];
}

export interface ShredAnswer {
  readonly tenant: TenantRecord;
  readonly impact: ShredImpact;
}

/** What {@link Shredding} stands on. */
export interface ShreddingParts {
  readonly store: Store;
  readonly cache: KeyCache;
  readonly tenantSeals: TenantSeals;
  /** The reserved tenant, whose audit entries say what is done for the whole service. */
  readonly systemTenantId: TenantId;
}

/** Schedules, undoes and performs the shredding of tenants. */
export class Shredding {
  readonly #parts: ShreddingParts;

  constructor(parts: ShreddingParts) {
    this.#parts = parts;
  }

  /**
   * Schedules a tenant. Throws RESOURCE_NOT_FOUND, ETAG_MISMATCH, DESTRUCTION_UNDER_WAY,
   * INVALID_FIELD.
   */
  async schedule(call: Call, name: TenantName, request: DestructionRequest): Promise<ShredAnswer> {
    const { store, cache, tenantSeals } = this.#parts;
    if (name.tenant === SYSTEM_TENANT) throw invalidField('name', 'must not be a reserved name');
    if (request.etag === '' && !request.validateOnly)
      throw invalidField('etag', 'must be the etag of an answer to validate_only');
    const { tenantId } = await cache.tenant(name.tenant);
    const rootKeys = await this.#rootKeysOf(call, tenantId);
    const look = async (tx: Tx, tenant: TenantRecord): Promise<ShredAnswer> => {
      const shredAt = tenant.shredAt ?? (await timeAfterDays(tx, request.windowDays));
      const holdings = await measureTenant(tx, tenantId);
      return { tenant, impact: { ...holdings, shredAt, etag: tenant.revision, rootKeys } };
    };
    if (request.validateOnly) {
      noteValidateOnly(call);
      return store.read(call, tenantId, async (tx) => {
        const tenant = requireThere(await readTenant(tenantSeals, call, tx, tenantId));
        requireTenantKept(tenant);
        return look(tx, tenant);
      });
    }
    const answer = await store.mutate(call, tenantMutation(tenantId, name), async (tx) => {
      let impact: ShredImpact | undefined;
      const tenant = await changeRecorded(
        tx,
        tenantId,
        tenantSeals.sealer(call),
        async (before) => {
          requireThere(before);
          requireEtag(request.etag, before.revision);
          requireTenantKept(before);
          ({ impact } = await look(tx, before));
          await supersedeTenantJobs(tx, tenantId);
          return { state: 'SHRED_SCHEDULED', shredAt: impact.shredAt };
        },
      );
      if (impact === undefined) throw new Error('a tenant was scheduled that nobody looked at');
      return { tenant, impact: { ...impact, etag: tenant.revision } };
    });
    cache.forgetTenant(tenantId);
    return answer;
  }

  /**
   * Calls a tenant back: it is disabled then. Throws RESOURCE_NOT_FOUND, ETAG_MISMATCH,
   * DESTRUCTION_NOT_SCHEDULED.
   */
  async restore(call: Call, name: TenantName, etag: string): Promise<TenantRecord> {
    const { store, cache, tenantSeals } = this.#parts;
    const { tenantId } = await cache.tenant(name.tenant);
    const restored = await store.mutate(call, tenantMutation(tenantId, name), (tx) =>
      changeRecorded(tx, tenantId, tenantSeals.sealer(call), (tenant) => {
        requireThere(tenant);
        requireEtag(etag, tenant.revision);
        if (tenant.state !== 'SHRED_SCHEDULED')
          throw new KeywardError('DESTRUCTION_NOT_SCHEDULED', {
            metadata: { state: tenant.state },
          });
        return { state: 'DISABLED', shredAt: null };
      }),
    );
    cache.forgetTenant(tenantId);
    return restored;
  }

  /**
   * Shreds what is due, each by itself; `onError` hears of what failed and stays due. Returns what
   * was shredded.
   */
  async shredDue(
    due: readonly DueShredding[],
    onError: (error: unknown, resource: string) => void,
  ): Promise<{ readonly resource: string; readonly storedDataKeys: number }[]> {
    const shredded: { resource: string; storedDataKeys: number }[] = [];
    for (const { tenantId, tenant } of due) {
      const resource = formatTenantName({ tenant });
      await this.#shred(tenantId, resource).then(
        (storedDataKeys) => {
          if (storedDataKeys !== undefined) shredded.push({ resource, storedDataKeys });
        },
        (error: unknown) => onError(error, resource),
      );
    }
    return shredded;
  }

  async #shred(tenantId: TenantId, resource: string): Promise<number | undefined> {
    const { store, cache, tenantSeals, systemTenantId } = this.#parts;
    const call = ownCall('ShredTenant', OWN_CALL_MS);
    const change = { kind: 'shredded', subjectId: tenantId } as const;
    const deleted = await store
      .mutate(
        call,
        // Its own audit log can't be asked for any more.
        { tenantId: systemTenantId, ids: { tenantId }, resource, change, asReconciler: true },
        async (tx) => {
          let erased = 0;
          await changeRecorded(tx, tenantId, tenantSeals.sealer(call), async (tenant) => {
            const { now, paused } = await readClock(tx);
            // Both without what is less than a millisecond.
            const isDue = tenant.shredAt !== null && tenant.shredAt < now && !paused;
            // Called back, or done by another replica.
            if (tenant.state !== 'SHRED_SCHEDULED' || !isDue) throw new KeywardError('CONFLICT');
            erased = await eraseTenant(tx, tenantId);
            tx.changed({ kind: 'tenant', storedDataKeys: erased });
            return { state: 'SHREDDED', shreddedAt: now };
          });
          return erased;
        },
      )
      .catch((error: unknown) => {
        if (error instanceof KeywardError && error.reason === 'CONFLICT') return undefined;
        throw error;
      });
    if (deleted !== undefined) cache.forgetAllOf(tenantId);
    return deleted;
  }

  async #rootKeysOf(call: Call, tenantId: TenantId): Promise<string[]> {
    const objects = await listTokenObjects(this.#parts.store, call);
    return objects
      .filter(
        (each) => each.tenantId === tenantId && each.role === 'root' && each.state !== 'DESTROYED',
      )
      .map((each) => formatTokenKeyName(each, each.objectId));
  }
}

function requireThere(tenant: TenantRecord): TenantRecord {
  if (tenant.state === 'SHREDDED') throw new KeywardError('RESOURCE_NOT_FOUND');
  return tenant;
}
