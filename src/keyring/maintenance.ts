/**
 * The switch for incidents: stops and starts what the service does by itself.
 *
 * What it stops asks for it in each of its transactions, so that it holds at once and on every
 * replica.
 */
import type { Call } from '../call.ts';
import type { TenantId } from '../ids.ts';
import {
  findMaintenance,
  type MaintenanceRecord,
  setMaintenance,
} from '../store/lifecycle/maintenance.ts';
import type { Store } from '../store/store.ts';

const RESOURCE = 'maintenance';

/** What {@link Maintenance} stands on. */
export interface MaintenanceParts {
  readonly store: Store;
  /** The reserved tenant, whose audit entries say what is done for the whole service. */
  readonly systemTenantId: TenantId;
  /** Tells the reconciler that there is something to do. */
  readonly wake: () => void;
}

/** Pauses and resumes automatic work, for all tenants. */
export class Maintenance {
  readonly #parts: MaintenanceParts;

  constructor(parts: MaintenanceParts) {
    this.#parts = parts;
  }

  get(call: Call): Promise<MaintenanceRecord> {
    const { store, systemTenantId } = this.#parts;
    return store.read(call, systemTenantId, findMaintenance);
  }

  /** Pausing what is paused, and resuming what is not, changes nothing. */
  async setPaused(call: Call, paused: boolean): Promise<MaintenanceRecord> {
    const { store, systemTenantId: tenantId, wake } = this.#parts;
    const changed = await store.mutate(
      call,
      { tenantId, resource: RESOURCE },
      (tx) => setMaintenance(tx, call, paused),
      { reference: {}, rebuild: findMaintenance },
    );
    if (!paused) wake();
    return changed;
  }
}
