/**
 * Requests and responses about the service as a whole: its tenants, and what it does by itself.
 */

import type { Change, ChangeOfExisting, Destruction, FilteredPage } from './shared.ts';

/** Whether a tenant's keys can be used; `UNSPECIFIED` is a state newer than this client. */
export type TenantState = 'UNSPECIFIED' | 'ENABLED' | 'DISABLED' | 'SHRED_SCHEDULED';

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
  /** Whether it has a root key of its own in the HSM; fixed when it is created. */
  readonly dedicatedRootKey: boolean;
  /** When it is to be shredded; undefined unless scheduled. */
  readonly shredTime: Date | undefined;
  /** What it may use. */
  readonly quotas: TenantQuotas;
}

/** What a tenant may use; 0 is the service's default, which may be no limit. */
export interface TenantQuotas {
  /** Calls each second, on all replicas together; items of batches each for itself. */
  readonly callsPerSecond: number;
  /** Keys, destroyed ones aside. */
  readonly keys: number;
  /** Stored data keys of all keys together. */
  readonly storedDataKeys: number;
}

/** See {@link Tenant}. */
export interface CreateTenantRequest extends Change {
  /** The last part of the new tenant's name. */
  readonly tenantId: string;
  /**
   * Whether it gets a root key of its own in the HSM, so that it can be shredded beyond every
   * backup. Absent: no.
   */
  readonly dedicatedRootKey?: boolean;
}

/** See {@link Tenant}. */
export interface GetTenantRequest {
  /** `tenants/{tenant}`. */
  readonly name: string;
}

/** Changes a tenant's quotas; what is absent stays. */
export interface UpdateTenantRequest extends Change {
  /** Which tenant, and what its fields are to be. */
  readonly tenant: {
    /** `tenants/{tenant}`. */
    readonly name: string;
    readonly quotas?: Partial<TenantQuotas>;
    /** As it was last seen, or absent for whatever it is now. */
    readonly etag?: string;
  };
  /**
   * Which fields, by their names in the contract, as in `quotas.keys`. Absent: those that `tenant`
   * has.
   */
  readonly updateMask?: readonly string[];
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

/**
 * Schedules a tenant to be shredded, with all of its keys and stored data keys; from now on none
 * can be used.
 */
export interface ShredTenantRequest extends Destruction {
  /** `tenants/{tenant}`. */
  readonly name: string;
}

/** What ShredTenant returns. */
export interface ShredTenantResponse {
  /** The tenant as it is now. */
  readonly tenant: Tenant;
  /** What is lost when the time has come. */
  readonly impact: ShredImpact;
}

/** What shredding a tenant takes with it, and what it doesn't reach. */
export interface ShredImpact {
  /** How many keys that are not destroyed yet. */
  readonly keys: number;
  /** How many versions of theirs that are not destroyed yet. */
  readonly keyVersions: number;
  /** How many stored data keys are deleted. */
  readonly storedDataKeys: number;
  /** When any of its keys was used last, as far as that is known; undefined if never. */
  readonly lastUseTime: Date | undefined;
  /** When it is shredded, or would be. */
  readonly shredTime: Date;
  /** What the real request must carry. */
  readonly etag: string;
  /**
   * Its own root keys, which an operator destroys afterwards: `tenants/{tenant}/tokenKeys/{uuid}`;
   * none if it shares one.
   */
  readonly rootKeys: readonly string[];
  /** What is out of reach, in words for an administrator. */
  readonly notice: string;
  /** Where copies of those root keys may be, each to be seen to by an operator. */
  readonly checklist: readonly string[];
}

/** Undoes ShredTenant while that is possible: the tenant is then disabled. */
export interface RestoreTenantRequest extends ChangeOfExisting {
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
