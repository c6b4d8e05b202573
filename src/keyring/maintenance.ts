/**
 * The switch for incidents: stops and starts what the service does by itself.
 *
 * What it stops asks for it in each of its transactions, so that it holds at once and on every
 * replica.
 */
import type { Call } from '../call.ts';
import { findMaintenance, type MaintenanceRecord, setMaintenance } from '../store/maintenance.ts';
import type { KeyringParts } from './keyring.ts';

const RESOURCE = 'maintenance';

/** See this file's first paragraph. */
export class Maintenance {
  readonly #parts: Pick<KeyringParts, 'store' | 'systemTenantId' | 'wake'>;

  constructor(parts: Pick<KeyringParts, 'store' | 'systemTenantId' | 'wake'>) {
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
