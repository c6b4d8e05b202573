/**
 * Every method of the contract, one row each: where it is, and how its messages travel.
 *
 * Its invariant: every method may be called again with the same bytes: it reads, or what it makes is the caller's alone,
 * or it has a request id. The conversions themselves are in `fields.ts`, `resources.ts` and `encryption.ts`. Knows nothing
 * of channels and deadlines.
 */
import type { Checksums } from './checksums.ts';
import { contract } from './contract.ts';
import * as data from './encryption.ts';
import { change, integer, page, requestId, strings, text } from './fields.ts';
import type * as m from './messages.ts';
import { key, keyVersion, tenant } from './resources.ts';

/** One method: where it is, and how its messages travel. */
export interface Method<Request, Response> {
  readonly path: string;
  /** Throws a TypeError for what can't be sent as it is. */
  readonly serialize: (request: Request) => Buffer;
  /** Throws for a message that isn't a whole answer; a KeywardClientError where it knows more. */
  readonly deserialize: (bytes: Buffer, request: Request) => Response;
}

/** The part of a generated method definition that is used, so that its message types can be inferred. */
interface Definition<WireRequest, WireResponse> {
  readonly path: string;
  readonly requestSerialize: (request: WireRequest) => Buffer;
  readonly responseDeserialize: (bytes: Buffer) => WireResponse;
}

function method<WireRequest, WireResponse, Request, Response>(
  definition: Definition<WireRequest, WireResponse>,
  encode: (request: Request) => WireRequest,
  decode: (response: WireResponse, request: Request) => Response,
): Method<Request, Response> {
  return {
    path: definition.path,
    serialize: (request) => definition.requestSerialize(encode(request)),
    deserialize: (bytes, request) => decode(definition.responseDeserialize(bytes), request),
  };
}

/** Every method of the three services. */
export function methods(checksums: Checksums) {
  return { ...administration(), ...keys(), ...encryption(checksums), ...batches(checksums) };
}

const named = (r: { readonly name: string }) => ({ name: text('name', r.name) });

function administration() {
  const admin = contract()['keyward.v1.AdminService'];
  return {
    createTenant: method(
      admin.CreateTenant,
      (r: m.CreateTenantRequest) => ({ tenantId: text('tenantId', r.tenantId), ...requestId(r.requestId) }),
      tenant,
    ),
    getTenant: method(admin.GetTenant, (r: m.GetTenantRequest) => named(r), tenant),
    listTenants: method(
      admin.ListTenants,
      (r: m.ListTenantsRequest) => page(r),
      (a): m.ListTenantsResponse => ({
        tenants: a.tenants.map(tenant),
        nextPageToken: a.nextPageToken,
      }),
    ),
    disableTenant: method(admin.DisableTenant, (r: m.DisableTenantRequest) => change(r), tenant),
    enableTenant: method(admin.EnableTenant, (r: m.EnableTenantRequest) => change(r), tenant),
  };
}

function keys() {
  const service = contract()['keyward.v1.KeyService'];
  return {
    createKey: method(
      service.CreateKey,
      (r: m.CreateKeyRequest) => ({
        parent: text('parent', r.parent),
        keyId: text('keyId', r.keyId),
        description: text('description', r.description ?? ''),
        labels: strings('labels', r.labels),
        ...requestId(r.requestId),
      }),
      key,
    ),
    getKey: method(service.GetKey, (r: m.GetKeyRequest) => named(r), key),
    listKeys: method(
      service.ListKeys,
      (r: m.ListKeysRequest) => ({ parent: text('parent', r.parent), ...page(r) }),
      (a): m.ListKeysResponse => ({ keys: a.keys.map(key), nextPageToken: a.nextPageToken }),
    ),
    rotateKey: method(service.RotateKey, (r: m.RotateKeyRequest) => change(r), key),
    updateKey: method(service.UpdateKey, updateKeyRequest, key),
    disableKey: method(service.DisableKey, (r: m.DisableKeyRequest) => change(r), key),
    enableKey: method(service.EnableKey, (r: m.EnableKeyRequest) => change(r), key),
    getKeyVersion: method(service.GetKeyVersion, (r: m.GetKeyVersionRequest) => named(r), keyVersion),
    listKeyVersions: method(
      service.ListKeyVersions,
      (r: m.ListKeyVersionsRequest) => ({ parent: text('parent', r.parent), ...page(r) }),
      (a): m.ListKeyVersionsResponse => ({
        keyVersions: a.keyVersions.map(keyVersion),
        nextPageToken: a.nextPageToken,
      }),
    ),
    disableKeyVersion: method(
      service.DisableKeyVersion,
      (r: m.DisableKeyVersionRequest) => change(r),
      keyVersion,
    ),
    enableKeyVersion: method(
      service.EnableKeyVersion,
      (r: m.EnableKeyVersionRequest) => change(r),
      keyVersion,
    ),
  };
}

function updateKeyRequest(r: m.UpdateKeyRequest) {
  const { name, etag, description, labels } = r.key;
  const given = Object.entries({ description, labels }).flatMap(([path, value]) =>
    value === undefined ? [] : path,
  );
  return {
    key: {
      name: text('key.name', name),
      etag: text('key.etag', etag ?? ''),
      description: text('key.description', description ?? ''),
      labels: strings('key.labels', labels),
    },
    updateMask: { paths: (r.updateMask ?? given).map((path) => text('a path of updateMask', path)) },
    ...requestId(r.requestId),
  };
}

function encryption(checksums: Checksums) {
  const service = contract()['keyward.v1.EncryptionService'];
  return {
    encrypt: method(
      service.Encrypt,
      (r: m.EncryptRequest) => data.encryptRequest(r, checksums),
      (a) => data.encryptResponse(a, checksums),
    ),
    decrypt: method(
      service.Decrypt,
      (r: m.DecryptRequest) => data.decryptRequest(r, checksums),
      (a) => data.decryptResponse(a, checksums),
    ),
    generateDataKey: method(service.GenerateDataKey, data.dataKeyRequest, (a) =>
      data.dataKeyResponse(a, checksums),
    ),
    generateDataKeyWithoutPlaintext: method(
      service.GenerateDataKeyWithoutPlaintext,
      data.dataKeyRequest,
      (a) => data.wrappedDataKeyResponse(a, checksums),
    ),
    reEncrypt: method(
      service.ReEncrypt,
      (r: m.ReEncryptRequest) => data.reEncryptRequest(r, checksums),
      (a) => data.reEncryptResponse(a, checksums),
    ),
    generateRandomBytes: method(
      service.GenerateRandomBytes,
      (r: m.GenerateRandomBytesRequest) => ({
        parent: text('parent', r.parent),
        length: integer('length', r.length),
      }),
      (a) => data.randomBytesResponse(a, checksums),
    ),
  };
}

function batches(checksums: Checksums) {
  const service = contract()['keyward.v1.EncryptionService'];
  return {
    batchEncrypt: method(
      service.BatchEncrypt,
      (r: m.BatchRequest<m.EncryptRequest>) =>
        data.batchRequest(r, (item) => data.encryptRequest(item, checksums)),
      ({ results }, r) => data.batchResults(results, r, (a) => data.encryptResponse(a, checksums)),
    ),
    batchDecrypt: method(
      service.BatchDecrypt,
      (r: m.BatchRequest<m.DecryptRequest>) =>
        data.batchRequest(r, (item) => data.decryptRequest(item, checksums)),
      ({ results }, r) => data.batchResults(results, r, (a) => data.decryptResponse(a, checksums)),
    ),
    batchGenerateDataKey: method(
      service.BatchGenerateDataKey,
      (r: m.BatchRequest<m.GenerateDataKeyRequest>) => data.batchRequest(r, data.dataKeyRequest),
      ({ results }, r) => data.batchResults(results, r, (a) => data.dataKeyResponse(a, checksums)),
    ),
    batchReEncrypt: method(
      service.BatchReEncrypt,
      (r: m.BatchRequest<m.ReEncryptRequest>) =>
        data.batchRequest(r, (item) => data.reEncryptRequest(item, checksums)),
      ({ results }, r) => data.batchResults(results, r, (a) => data.reEncryptResponse(a, checksums)),
    ),
  };
}
