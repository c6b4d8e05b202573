/**
 * The proto files at run time: services and messages as `@grpc/proto-loader` makes them.
 *
 * Owns where the files are and how they are loaded. Of the generated files it takes types only, so
 * that none is needed at run time. Knows nothing of what the messages mean.
 */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { loadSync } from '@grpc/proto-loader';
import type { AccessServiceDefinition } from './generated/keyward/v1/AccessService.ts';
import type { AdminServiceDefinition } from './generated/keyward/v1/AdminService.ts';
import type { AuditServiceDefinition } from './generated/keyward/v1/AuditService.ts';
import type { DataKeyServiceDefinition } from './generated/keyward/v1/DataKeyService.ts';
import type { EncryptionServiceDefinition } from './generated/keyward/v1/EncryptionService.ts';
import type { HsmServiceDefinition } from './generated/keyward/v1/HsmService.ts';
import type { KeyServiceDefinition } from './generated/keyward/v1/KeyService.ts';
import type { RotationServiceDefinition } from './generated/keyward/v1/RotationService.ts';

/** A message type by its `deserialize` alone: all that reading error details needs. */
export interface Reader<Message> {
  deserialize(bytes: Uint8Array): Message;
}

interface Contract {
  readonly 'keyward.v1.AdminService': AdminServiceDefinition;
  readonly 'keyward.v1.KeyService': KeyServiceDefinition;
  readonly 'keyward.v1.EncryptionService': EncryptionServiceDefinition;
  readonly 'keyward.v1.DataKeyService': DataKeyServiceDefinition;
  readonly 'keyward.v1.RotationService': RotationServiceDefinition;
  readonly 'keyward.v1.HsmService': HsmServiceDefinition;
  readonly 'keyward.v1.AccessService': AccessServiceDefinition;
  readonly 'keyward.v1.AuditService': AuditServiceDefinition;
  readonly 'google.rpc.Status': Reader<{
    readonly message: string;
    readonly details: readonly { readonly type_url: string; readonly value: Uint8Array }[];
  }>;
  readonly 'google.rpc.ErrorInfo': Reader<{
    readonly reason: string;
    readonly domain: string;
    readonly metadata: Readonly<Record<string, string>>;
  }>;
  readonly 'google.rpc.BadRequest': Reader<{
    readonly fieldViolations: readonly { readonly field: string; readonly description: string }[];
  }>;
  readonly 'google.rpc.RetryInfo': Reader<{
    readonly retryDelay: { readonly seconds: number; readonly nanos: number } | null;
  }>;
  readonly 'google.rpc.RequestInfo': Reader<{ readonly requestId: string }>;
}

let loaded: Contract | undefined;

/** The proto files, read once per process, when first needed (about 20 ms). */
export function contract(): Contract {
  loaded ??= loadSync(
    [
      'keyward/v1/admin.proto',
      'keyward/v1/key.proto',
      'keyward/v1/encryption.proto',
      'keyward/v1/data_key.proto',
      'keyward/v1/rotation.proto',
      'keyward/v1/hsm.proto',
      'keyward/v1/access.proto',
      'keyward/v1/audit.proto',
      'google/rpc/status.proto',
      'google/rpc/error_details.proto',
    ],
    {
      keepCase: false,
      longs: Number,
      enums: String,
      defaults: true,
      oneofs: true,
      includeDirs: [protoFolder()],
    },
  ) as unknown as Contract;
  return loaded;
}

/** Beside the built file, where the build copies them, else in the repository. */
function protoFolder(): string {
  const besideBuild = fileURLToPath(new URL('./proto', import.meta.url));
  return existsSync(besideBuild)
    ? besideBuild
    : fileURLToPath(new URL('../../proto', import.meta.url));
}
