/**
 * The contract as loaded from `proto/`: service definitions, and the google.rpc messages that errors travel as.
 *
 * Owns how messages look in JavaScript (camelCase, enums as text, 64-bit numbers as numbers, absent fields as their
 * defaults). Knows no method's meaning.
 */
import { fileURLToPath } from 'node:url';
import type { ServiceDefinition } from '@grpc/grpc-js';
import {
  type AnyDefinition,
  loadSync,
  type MessageTypeDefinition,
  type PackageDefinition,
} from '@grpc/proto-loader';

const PROTO_DIRECTORY = fileURLToPath(new URL('../../proto', import.meta.url));

/** All of `proto/`, also for reflection. */
export const packageDefinition: PackageDefinition = loadSync(
  [
    'keyward/v1/access.proto',
    'keyward/v1/admin.proto',
    'keyward/v1/hsm.proto',
    'keyward/v1/key.proto',
    'keyward/v1/encryption.proto',
    'keyward/v1/data_key.proto',
    'keyward/v1/rotation.proto',
    'keyward/v1/audit.proto',
    'google/rpc/status.proto',
    'google/rpc/error_details.proto',
  ],
  { includeDirs: [PROTO_DIRECTORY], longs: Number, enums: String, defaults: true, oneofs: true },
);

function definition(name: string): AnyDefinition {
  const found = packageDefinition[name];
  if (found === undefined) throw new Error(`proto/ has no ${name}`);
  return found;
}

/** A service by its full name, `keyward.v1.KeyService`. */
export function serviceDefinition(name: string): ServiceDefinition {
  return definition(name) as ServiceDefinition;
}

/** Serializes a message of a type by its full name, `google.rpc.Status`. */
export function serialize(name: string, message: object): Buffer {
  return (definition(name) as MessageTypeDefinition<object, object>).serialize(message);
}
