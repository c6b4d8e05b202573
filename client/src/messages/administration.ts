/**
 * Requests and responses about the service as a whole: its tenants, and what it does by itself.
 */

import type { Change, ChangeOfExisting, FilteredPage } from './shared.ts';

/** Whether a tenant's keys can be used; `UNSPECIFIED` is a state newer than this client. */
export type TenantState = 'UNSPECIFIED' | 'ENABLED' | 'DISABLED';

/** The unit of isolation. */
export interface Tenant {
  /** `tenants/{tenant}`. */
  readonly name: string;
  /** Random and immutable, lower-case UUID text. */
  readonly uid: string;
  readonly createTime: Date;
  readonly state: TenantState;
  /** Changes with every change to the tenant. */
  readonly etag: string;
}

/** See {@link Tenant}. */
export interface CreateTenantRequest extends Change {
  /** The last part of the new tenant's name. */
  readonly tenantId: string;
}

/** See {@link Tenant}. */
export interface GetTenantRequest {
  /** `tenants/{tenant}`. */
  readonly name: string;
}

/** Stops all use of a tenant's keys. */
export interface DisableTenantRequest extends ChangeOfExisting {
  /** `tenants/{tenant}`. */
  readonly name: string;
}

/** Undoes DisableTenant. */
export interface EnableTenantRequest extends ChangeOfExisting {
  /** `tenants/{tenant}`. */
  readonly name: string;
}

/** One page of the tenants. */
export interface ListTenantsRequest extends FilteredPage {}

/** One page of the tenants, ordered by name. */
export interface ListTenantsResponse {
  readonly tenants: readonly Tenant[];
  /** Empty on the last page. */
  readonly nextPageToken: string;
}

/** What the service does by itself, as a whole: rotating, re-wrapping, destroying. */
export interface Maintenance {
  /** Whether it stands still. */
  readonly paused: boolean;
  /** When it was paused or resumed last; undefined if never. */
  readonly changeTime: Date | undefined;
  /** Who did that. */
  readonly caller: string;
}

/** Asks for {@link Maintenance}. */
export type GetMaintenanceRequest = Readonly<Record<string, never>>;

/** Stops what the service does by itself, for all tenants. */
export interface PauseMaintenanceRequest extends Change {}

/** Undoes PauseMaintenance. */
export interface ResumeMaintenanceRequest extends Change {}
