/**
 * The heart, as the rest of the server sees it: tenants, their keys, what is encrypted under them,
 * and how keys age and end.
 *
 * Owns what its parts have in common and nothing else; what happens on Encrypt is in
 * `encryption.ts`.
 */

import type { TokenObject } from '../hsm/token-profile.ts';
import type { Agents } from '../hsm/token-router.ts';
import type { TenantId } from '../ids.ts';
import type { Condition } from '../store/conditions.ts';
import type { Store } from '../store/store.ts';
import { DataKeys } from './data-keys.ts';
import { Destruction } from './destruction.ts';
import { Encryption } from './encryption.ts';
import type { KeyCache } from './key-cache.ts';
import type { KeyStates } from './key-states.ts';
import { Keys } from './keys.ts';
import { Maintenance } from './maintenance.ts';
import type { TenantQuotas } from './quotas.ts';
import type { AllSealedRecords } from './reseal.ts';
import { Rewrap, type RewrapSettings } from './rewrap.ts';
import { Rotation } from './rotation.ts';
import { Seals } from './seals.ts';
import { Shredding } from './shredding.ts';
import { Tenants } from './tenants.ts';
import { TokenKeys } from './token-keys.ts';
import type { TokenObjects } from './token-objects.ts';
import { TokenStatus } from './token-status.ts';
import type { UsageRecorder } from './usage.ts';

/** What the keyring stands on. */
export interface KeyringParts {
  readonly store: Store;
  readonly agents: Agents;
  readonly cache: KeyCache;
  readonly states: KeyStates;
  readonly usage: UsageRecorder;
  readonly quotas: TenantQuotas;
  /** The token's objects, as this replica knows them. */
  readonly tokenObjects: TokenObjects;
  /**
   * Makes a recorded root or seal key in the token. Rejects when it wasn't made, or nobody knows.
   */
  readonly makeTokenKey: (key: TokenObject) => Promise<void>;
  /** The reserved tenant, whose audit entries say which tenants were made. */
  readonly systemTenantId: TenantId;
  /** The shortest rotation period that is taken. */
  readonly shortestRotationPeriodSeconds: number;
  readonly rewrap: RewrapSettings;
  /** What is sealed anew when the seal key was replaced. */
  readonly sealedRecords: AllSealedRecords;
  /** Tells the reconciler that there is something to do. */
  readonly wake: () => void;
}

export interface Keyring {
  readonly tenants: Tenants;
  readonly keys: Keys;
  readonly encryption: Encryption;
  readonly dataKeys: DataKeys;
  readonly rotation: Rotation;
  readonly rewrap: Rewrap;
  readonly destruction: Destruction;
  readonly maintenance: Maintenance;
  readonly tokenKeys: TokenKeys;
  readonly tokenStatus: TokenStatus;
  readonly shredding: Shredding;
  readonly quotas: TenantQuotas;
  readonly seals: Seals;
}

export function createKeyring(parts: KeyringParts): Keyring {
  const tokenKeys = new TokenKeys(parts);
  return {
    tenants: new Tenants(parts, tokenKeys),
    keys: new Keys(parts),
    encryption: new Encryption(parts),
    dataKeys: new DataKeys(parts),
    rotation: new Rotation(parts),
    rewrap: new Rewrap(parts),
    destruction: new Destruction(parts),
    maintenance: new Maintenance(parts),
    tokenKeys,
    tokenStatus: new TokenStatus(parts),
    shredding: new Shredding(parts),
    quotas: parts.quotas,
    seals: new Seals(parts),
  };
}

/** Which page of a list, and which of its members. */
export interface ListRequest {
  readonly pageSize: number;
  readonly pageToken: string;
  readonly conditions: readonly Condition[];
}
