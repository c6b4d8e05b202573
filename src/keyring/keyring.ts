/**
 * The heart, as the rest of the server sees it: tenants, their keys, what is encrypted under them,
 * and how keys age and end.
 *
 * Owns what its parts have in common and nothing else; what happens on Encrypt is in
 * `encryption.ts`.
 */
import { CanaryChanges, type CanaryChangesParts } from './canaries/canary-changes.ts';
import { TokenKeys, type TokenKeysParts } from './hsm-token/token-keys.ts';
import { TokenStatus, type TokenStatusParts } from './hsm-token/token-status.ts';
import { DataKeys, type DataKeysParts } from './keys/data-keys.ts';
import { Encryption, type EncryptionParts } from './keys/encryption.ts';
import { EncryptionBatches } from './keys/encryption-batches.ts';
import { Keys, type KeysParts } from './keys/keys.ts';
import { Destruction, type DestructionParts } from './lifecycle/destruction.ts';
import { Rewrap, type RewrapParts } from './lifecycle/rewrap.ts';
import { Rotation, type RotationParts } from './lifecycle/rotation.ts';
import { Maintenance, type MaintenanceParts } from './maintenance.ts';
import { Seals, type SealsParts } from './seals/seals.ts';
import type { TenantQuotas } from './tenants/quotas.ts';
import { Shredding, type ShreddingParts } from './tenants/shredding.ts';
import { Tenants, type TenantsParts } from './tenants/tenants.ts';

/** What the keyring stands on. */
export type KeyringParts = CanaryChangesParts &
  DataKeysParts &
  DestructionParts &
  EncryptionParts &
  KeysParts &
  MaintenanceParts &
  RewrapParts &
  RotationParts &
  SealsParts &
  ShreddingParts &
  TenantsParts &
  TokenKeysParts &
  TokenStatusParts & { readonly quotas: TenantQuotas };

export interface Keyring {
  readonly tenants: Tenants;
  readonly keys: Keys;
  readonly encryption: Encryption;
  readonly encryptionBatches: EncryptionBatches;
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
  readonly canaryChanges: CanaryChanges;
}

export function createKeyring(parts: KeyringParts): Keyring {
  const tokenKeys = new TokenKeys(parts);
  return {
    tenants: new Tenants(parts, tokenKeys),
    keys: new Keys(parts),
    encryption: new Encryption(parts),
    encryptionBatches: new EncryptionBatches(parts),
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
    canaryChanges: new CanaryChanges(parts),
  };
}
