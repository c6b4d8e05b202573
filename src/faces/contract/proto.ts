/**
 * The contract as loaded from `proto/`: service definitions, and the google.rpc messages that
 * errors travel as.
 *
 * Owns how messages look in JavaScript (camelCase, enums as text, 64-bit numbers as numbers, absent
 * fields as their defaults). Knows no method's meaning.
 */
import { fileURLToPath } from 'node:url';
import type { ServiceDefinition } from '@grpc/grpc-js';
import {
  type AnyDefinition,
  loadSync,
  type MessageTypeDefinition,
  type PackageDefinition,
} from '@grpc/proto-loader';

const PROTO_DIRECTORY = fileURLToPath(new URL('../../../proto', import.meta.url));

/** All of `proto/`. */
export const packageDefinition: PackageDefinition = loadSync(
  [
    'keyward/v1/access.proto',
    'keyward/v1/admin.proto',
    'keyward/v1/alert.proto',
    'keyward/v1/approval.proto',
    'keyward/v1/hsm.proto',
    'keyward/v1/key.proto',
    'keyward/v1/encryption.proto',
    'keyward/v1/data_key.proto',
    'keyward/v1/rotation.proto',
    'keyward/v1/canary.proto',
    'keyward/v1/passkey.proto',
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

/** The full name of a method's request, which is of the service's package. */
export function requestName(service: string, method: string): string {
  const { requestType } = serviceDefinition(service)[method] as unknown as {
    readonly requestType: { readonly type: { readonly name: string } };
  };
  return `${service.slice(0, service.lastIndexOf('.'))}.${requestType.type.name}`;
}

/** The names of the values of an enumeration, by its full name: `keyward.v1.KeyState`. */
export function enumerationValues(name: string): readonly string[] {
  const { type } = definition(name) as unknown as {
    readonly type: { readonly value: readonly { readonly name: string }[] };
  };
  return type.value.map((value) => value.name);
}

/** Serializes a message of a type by its full name, `google.rpc.Status`. */
export function serialize(name: string, message: object): Buffer {
  return (definition(name) as MessageTypeDefinition<object, object>).serialize(message);
}

/** A field of a message, as far as the wire has it. */
export interface FieldDescriptor {
  /** In camelCase. */
  readonly name: string;
  readonly number: number;
  /** As `TYPE_STRING`. */
  readonly type: string;
  readonly isRepeated: boolean;
  /** What it holds, of a field that holds messages; of a map, its entries. */
  readonly message?: () => MessageDescriptor;
}

export interface MessageDescriptor {
  /** Its full name. */
  readonly name: string;
  readonly fields: readonly FieldDescriptor[];
}

/** What proto-loader keeps of google.protobuf.DescriptorProto. */
interface RawDescriptor {
  readonly name: string;
  readonly field: readonly {
    readonly name: string;
    readonly number: number;
    readonly type: string;
    readonly typeName: string;
    readonly label: string;
  }[];
  readonly nestedType: readonly RawDescriptor[];
}

/** A message's fields, by its full name, `keyward.v1.EncryptRequest`. */
export function descriptorOf(name: string): MessageDescriptor {
  return describe(
    name,
    (definition(name) as MessageTypeDefinition<object, object>).type as RawDescriptor,
  );
}

function describe(fullName: string, raw: RawDescriptor): MessageDescriptor {
  const fields = raw.field.map(({ name, number, type, typeName, label }) => ({
    name,
    number,
    type,
    isRepeated: label === 'LABEL_REPEATED',
    ...(type === 'TYPE_MESSAGE' && { message: () => find(fullName, raw, typeName) }),
  }));
  return { name: fullName, fields };
}

/**
 * The message that a field's type names: from the root, beginning with a dot, or from within the
 * message it is in.
 */
function find(within: string, { nestedType }: RawDescriptor, typeName: string): MessageDescriptor {
  const absolute = typeName.startsWith('.');
  const nested = nestedType.find(
    ({ name }) => typeName === (absolute ? `.${within}.${name}` : name),
  );
  if (nested !== undefined) return describe(`${within}.${nested.name}`, nested);
  if (absolute) return descriptorOf(typeName.slice(1));
  const scopes = within
    .split('.')
    .map((_, index, parts) => parts.slice(0, parts.length - index).join('.'));
  const scope = scopes.find((each) => packageDefinition[`${each}.${typeName}`] !== undefined);
  return descriptorOf(scope === undefined ? typeName : `${scope}.${typeName}`);
}
