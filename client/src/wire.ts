/**
 * The contract at run time: the proto files, one row per method, and the conversions between `messages.ts` and the
 * wire.
 *
 * Its invariant: what a caller passes arrives exactly or is refused here with a TypeError, nothing is coerced (protobufjs
 * would take a string for base64, and `undefined` for the text "undefined"); and an encryption context keeps every key,
 * `__proto__` too. Knows nothing of channels, deadlines or errors. Of the generated files it takes types only, so that
 * none is needed at run time.
 */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { loadSync } from '@grpc/proto-loader';
import type { Timestamp__Output } from './generated/google/protobuf/Timestamp.ts';
import type { AdminServiceDefinition } from './generated/keyward/v1/AdminService.ts';
import type { Algorithm__Output } from './generated/keyward/v1/Algorithm.ts';
import type { EncryptionServiceDefinition } from './generated/keyward/v1/EncryptionService.ts';
import type { Key__Output } from './generated/keyward/v1/Key.ts';
import type { KeyServiceDefinition } from './generated/keyward/v1/KeyService.ts';
import type { KeyVersion__Output } from './generated/keyward/v1/KeyVersion.ts';
import type { KeyVersionState__Output } from './generated/keyward/v1/KeyVersionState.ts';
import type { Tenant__Output } from './generated/keyward/v1/Tenant.ts';
import type * as m from './messages.ts';

/** One method: where it is, whether calling it twice is as good as once, and how its messages travel. */
export interface Method<Request, Response> {
  readonly path: string;
  readonly idempotent: boolean;
  /** Throws a TypeError for what can't be sent as it is. */
  readonly serialize: (request: Request) => Buffer;
  /** Throws for a message that isn't a whole answer. */
  readonly deserialize: (bytes: Buffer) => Response;
}

/** A message type by its `deserialize` alone: all that reading error details needs. */
export interface Reader<Message> {
  deserialize(bytes: Uint8Array): Message;
}

interface Contract {
  readonly 'keyward.v1.AdminService': AdminServiceDefinition;
  readonly 'keyward.v1.KeyService': KeyServiceDefinition;
  readonly 'keyward.v1.EncryptionService': EncryptionServiceDefinition;
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
  return existsSync(besideBuild) ? besideBuild : fileURLToPath(new URL('../../proto', import.meta.url));
}

/** The part of a generated method definition that is used, so that its message types can be inferred. */
interface Definition<WireRequest, WireResponse> {
  readonly path: string;
  readonly requestSerialize: (request: WireRequest) => Buffer;
  readonly responseDeserialize: (bytes: Buffer) => WireResponse;
}

function method<WireRequest, WireResponse, Request, Response>(
  definition: Definition<WireRequest, WireResponse>,
  idempotent: boolean,
  encode: (request: Request) => WireRequest,
  decode: (response: WireResponse) => Response,
): Method<Request, Response> {
  return {
    path: definition.path,
    idempotent,
    serialize: (request) => definition.requestSerialize(encode(request)),
    deserialize: (bytes) => decode(definition.responseDeserialize(bytes)),
  };
}

/** Every method of the three services, one row each. */
export function methods() {
  const {
    'keyward.v1.AdminService': admin,
    'keyward.v1.KeyService': key,
    'keyward.v1.EncryptionService': encryption,
  } = contract();
  return {
    createTenant: method(
      admin.CreateTenant,
      false,
      (r: m.CreateTenantRequest) => ({ tenantId: text('tenantId', r.tenantId) }),
      tenant,
    ),
    getTenant: method(
      admin.GetTenant,
      true,
      (r: m.GetTenantRequest) => ({ name: text('name', r.name) }),
      tenant,
    ),
    listTenants: method(
      admin.ListTenants,
      true,
      page,
      (a): m.ListTenantsResponse => ({
        tenants: a.tenants.map(tenant),
        nextPageToken: a.nextPageToken,
      }),
    ),
    createKey: method(
      key.CreateKey,
      false,
      (r: m.CreateKeyRequest) => ({ parent: text('parent', r.parent), keyId: text('keyId', r.keyId) }),
      keyOf,
    ),
    getKey: method(key.GetKey, true, (r: m.GetKeyRequest) => ({ name: text('name', r.name) }), keyOf),
    listKeys: method(
      key.ListKeys,
      true,
      (r: m.ListKeysRequest) => ({ parent: text('parent', r.parent), ...page(r) }),
      (a): m.ListKeysResponse => ({ keys: a.keys.map(keyOf), nextPageToken: a.nextPageToken }),
    ),
    listKeyVersions: method(
      key.ListKeyVersions,
      true,
      (r: m.ListKeyVersionsRequest) => ({ parent: text('parent', r.parent), ...page(r) }),
      (a): m.ListKeyVersionsResponse => ({
        keyVersions: a.keyVersions.map(keyVersion),
        nextPageToken: a.nextPageToken,
      }),
    ),
    rotateKey: method(
      key.RotateKey,
      false,
      (r: m.RotateKeyRequest) => ({ name: text('name', r.name) }),
      keyOf,
    ),
    encrypt: method(
      encryption.Encrypt,
      true,
      (r: m.EncryptRequest) => ({
        name: text('name', r.name),
        plaintext: bytes('plaintext', r.plaintext),
        encryptionContext: context(r.encryptionContext),
      }),
      (a): m.EncryptResponse => a,
    ),
    decrypt: method(
      encryption.Decrypt,
      true,
      (r: m.DecryptRequest) => ({
        parent: text('parent', r.parent),
        ciphertext: bytes('ciphertext', r.ciphertext),
        encryptionContext: context(r.encryptionContext),
        key: text('key', r.key ?? ''),
      }),
      (a): m.DecryptResponse => a,
    ),
    generateDataKey: method(
      encryption.GenerateDataKey,
      true,
      (r: m.GenerateDataKeyRequest) => ({
        name: text('name', r.name),
        encryptionContext: context(r.encryptionContext),
        length: integer('length', r.length ?? 0),
      }),
      (a): m.GenerateDataKeyResponse => a,
    ),
  };
}

function text(field: string, value: unknown): string {
  if (typeof value !== 'string') throw new TypeError(`${field} must be a string`);
  return value;
}

/** An int32: protobufjs would cut anything else to one. */
function integer(field: string, value: unknown): number {
  if (typeof value !== 'number' || (value | 0) !== value)
    throw new TypeError(`${field} must be a whole number`);
  return value;
}

function bytes(field: string, value: unknown): Uint8Array {
  if (!(value instanceof Uint8Array)) throw new TypeError(`${field} must be a Uint8Array`);
  return value;
}

function page(r: { readonly pageSize?: number; readonly pageToken?: string }) {
  return { pageSize: integer('pageSize', r.pageSize ?? 0), pageToken: text('pageToken', r.pageToken ?? '') };
}

/**
 * The context as protobufjs wants it. Without a prototype, because assigning `__proto__` to an ordinary object is
 * silently lost, and with it part of what the caller wanted authenticated.
 */
function context(given: m.EncryptionContext | undefined): Record<string, string> {
  const wire: Record<string, string> = Object.create(null);
  if (given === undefined) return wire;
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    throw new TypeError('encryptionContext must be a Map or an object of strings');
  }
  for (const [key, value] of given instanceof Map ? given : Object.entries(given)) {
    wire[text('a key of encryptionContext', key)] = text('a value of encryptionContext', value);
  }
  return wire;
}

const STATES = {
  KEY_VERSION_STATE_UNSPECIFIED: 'UNSPECIFIED',
  KEY_VERSION_STATE_ENABLED: 'ENABLED',
} as const satisfies Record<KeyVersionState__Output, m.KeyVersionState>;

const ALGORITHMS = {
  ALGORITHM_UNSPECIFIED: 'UNSPECIFIED',
  ALGORITHM_HMAC_SHA512_AES_256_GCM: 'HMAC_SHA512_AES_256_GCM',
} as const satisfies Record<Algorithm__Output, m.Algorithm>;

function tenant(wire: Tenant__Output): m.Tenant {
  return { name: wire.name, uid: wire.uid, createTime: date(wire.createTime) };
}

function keyOf(wire: Key__Output): m.Key {
  if (wire.primary === null) throw new Error('the answer lacks the primary version');
  return {
    name: wire.name,
    uid: wire.uid,
    primary: keyVersion(wire.primary),
    createTime: date(wire.createTime),
  };
}

function keyVersion(wire: KeyVersion__Output): m.KeyVersion {
  return {
    name: wire.name,
    // A value that the proto files here don't have yet arrives as its number, whatever the type says.
    state: STATES[wire.state] ?? 'UNSPECIFIED',
    algorithm: ALGORITHMS[wire.algorithm] ?? 'UNSPECIFIED',
    createTime: date(wire.createTime),
  };
}

/** To the millisecond: the rest of the nanoseconds is dropped. */
function date(wire: Timestamp__Output | null): Date {
  if (wire === null) throw new Error('the answer lacks a time');
  return new Date(wire.seconds * 1000 + Math.floor(wire.nanos / 1e6));
}
