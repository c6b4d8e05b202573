/**
 * Every method of the contract, one row each: where it is, and how its messages travel.
 *
 * Its invariant: every method may be called again with the same bytes: it reads, or what it makes
 * is the caller's alone, or it has a request id. The conversions themselves are beside it: requests
 * in `fields.ts`, `tenants.ts` and `keys.ts`, answers in `resources.ts`, `token-keys.ts` and
 * `token-status.ts`, both in `access.ts`, `encryption.ts`, `data-keys.ts`, `rotation.ts` and
 * `audit/entry.ts`. Knows nothing of channels and deadlines.
 */
import * as access from './access.ts';
import * as audit from './audit/entry.ts';
import type { Checksums } from './checksums.ts';
import { contract } from './contract.ts';
import * as stored from './data-keys.ts';
import * as data from './encryption.ts';
import {
  change,
  destruction,
  filteredPage,
  integer,
  named,
  page,
  requestId,
  text,
  whole,
} from './fields.ts';
import { createKeyRequest, updateKeyRequest } from './keys.ts';
import type * as m from './messages.ts';
import { impact, key, keyVersion, maintenance, shredImpact, tenant } from './resources.ts';
import { createJobRequest, rewrapJob, rotation } from './rotation.ts';
import { createTenantRequest, updateTenantRequest } from './tenants.ts';
import { tokenKey } from './token-keys.ts';
import { tokenStatus } from './token-status.ts';

/**
 * One method: where it is, and how its messages travel; of a streaming method, each of its answers.
 */
export interface Method<Request, Response> {
  readonly path: string;
  /** Throws a TypeError for what can't be sent as it is. */
  readonly serialize: (request: Request) => Buffer;
  /** Throws for a message that isn't a whole answer; a KeywardClientError where it knows more. */
  readonly deserialize: (bytes: Buffer, request: Request) => Response;
  /** The request for what comes after an answer, where a stream that broke goes on from there. */
  readonly after?: (request: Request, response: Response) => Request;
}

/**
 * The part of a generated method definition that is used, so that its message types can be
 * inferred.
 */
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

/** Every method of all services. */
export function methods(checksums: Checksums) {
  return {
    ...tenants(),
    ...administration(),
    ...keys(),
    ...keyVersions(),
    ...keyDestruction(),
    ...encryption(checksums),
    ...batches(checksums),
    ...dataKeys(checksums),
    ...rotations(),
    ...tokenKeys(),
    ...roleBindings(),
    ...roles(),
    ...questions(),
    ...auditLog(),
  };
}

function tenants() {
  const admin = contract()['keyward.v1.AdminService'];
  return {
    createTenant: method(admin.CreateTenant, createTenantRequest, tenant),
    getTenant: method(admin.GetTenant, (r: m.GetTenantRequest) => named(r), tenant),
    listTenants: method(
      admin.ListTenants,
      (r: m.ListTenantsRequest) => filteredPage(r),
      (a): m.ListTenantsResponse => ({
        tenants: a.tenants.map(tenant),
        nextPageToken: a.nextPageToken,
      }),
    ),
    updateTenant: method(admin.UpdateTenant, updateTenantRequest, tenant),
    disableTenant: method(admin.DisableTenant, (r: m.DisableTenantRequest) => change(r), tenant),
    enableTenant: method(admin.EnableTenant, (r: m.EnableTenantRequest) => change(r), tenant),
    shredTenant: method(
      admin.ShredTenant,
      (r: m.ShredTenantRequest) => destruction(r),
      (a): m.ShredTenantResponse => ({ tenant: tenant(a.tenant), impact: shredImpact(a.impact) }),
    ),
    restoreTenant: method(admin.RestoreTenant, (r: m.RestoreTenantRequest) => change(r), tenant),
  };
}

function administration() {
  const admin = contract()['keyward.v1.AdminService'];
  return {
    getMaintenance: method(admin.GetMaintenance, (_: m.GetMaintenanceRequest) => ({}), maintenance),
    pauseMaintenance: method(
      admin.PauseMaintenance,
      (r: m.PauseMaintenanceRequest) => requestId(r.requestId),
      maintenance,
    ),
    resumeMaintenance: method(
      admin.ResumeMaintenance,
      (r: m.ResumeMaintenanceRequest) => requestId(r.requestId),
      maintenance,
    ),
    getTokenStatus: method(admin.GetTokenStatus, (_: m.GetTokenStatusRequest) => ({}), tokenStatus),
  };
}

function keys() {
  const service = contract()['keyward.v1.KeyService'];
  return {
    createKey: method(service.CreateKey, createKeyRequest, key),
    getKey: method(service.GetKey, (r: m.GetKeyRequest) => named(r), key),
    listKeys: method(
      service.ListKeys,
      (r: m.ListKeysRequest) => ({ parent: text('parent', r.parent), ...filteredPage(r) }),
      (a): m.ListKeysResponse => ({ keys: a.keys.map(key), nextPageToken: a.nextPageToken }),
    ),
    rotateKey: method(service.RotateKey, (r: m.RotateKeyRequest) => change(r), key),
    updateKey: method(service.UpdateKey, updateKeyRequest, key),
    disableKey: method(service.DisableKey, (r: m.DisableKeyRequest) => change(r), key),
    enableKey: method(service.EnableKey, (r: m.EnableKeyRequest) => change(r), key),
  };
}

function keyVersions() {
  const service = contract()['keyward.v1.KeyService'];
  return {
    getKeyVersion: method(
      service.GetKeyVersion,
      (r: m.GetKeyVersionRequest) => named(r),
      keyVersion,
    ),
    listKeyVersions: method(
      service.ListKeyVersions,
      (r: m.ListKeyVersionsRequest) => ({ parent: text('parent', r.parent), ...filteredPage(r) }),
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

function keyDestruction() {
  const service = contract()['keyward.v1.KeyService'];
  return {
    scheduleKeyVersionDestruction: method(
      service.ScheduleKeyVersionDestruction,
      (r: m.ScheduleKeyVersionDestructionRequest) => destruction(r),
      (a): m.ScheduleKeyVersionDestructionResponse => ({
        keyVersion: keyVersion(a.keyVersion),
        impact: impact(a.impact),
      }),
    ),
    restoreKeyVersion: method(
      service.RestoreKeyVersion,
      (r: m.RestoreKeyVersionRequest) => change(r),
      keyVersion,
    ),
    scheduleKeyDestruction: method(
      service.ScheduleKeyDestruction,
      (r: m.ScheduleKeyDestructionRequest) => destruction(r),
      (a): m.ScheduleKeyDestructionResponse => ({ key: key(a.key), impact: impact(a.impact) }),
    ),
    restoreKey: method(service.RestoreKey, (r: m.RestoreKeyRequest) => change(r), key),
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
      ({ results }, r) =>
        data.batchResults(results, r, (a) => data.reEncryptResponse(a, checksums)),
    ),
  };
}

function dataKeys(checksums: Checksums) {
  const service = contract()['keyward.v1.DataKeyService'];
  return {
    createDataKey: method(service.CreateDataKey, stored.createRequest, (a, r) =>
      stored.createResponse(a, r, checksums),
    ),
    getDataKey: method(service.GetDataKey, stored.getRequest, (a) =>
      stored.getResponse(a, checksums),
    ),
    listDataKeys: method(
      service.ListDataKeys,
      (r: m.ListDataKeysRequest) => ({ parent: text('parent', r.parent), ...filteredPage(r) }),
      (a): m.ListDataKeysResponse => ({
        dataKeys: a.dataKeys.map(stored.dataKey),
        nextPageToken: a.nextPageToken,
      }),
    ),
    deleteDataKey: method(
      service.DeleteDataKey,
      (r: m.DeleteDataKeyRequest) => change(r),
      () => undefined,
    ),
  };
}

function rotations() {
  const service = contract()['keyward.v1.RotationService'];
  return {
    listRotations: method(
      service.ListRotations,
      (r: m.ListRotationsRequest) => ({ parent: text('parent', r.parent), ...page(r) }),
      (a): m.ListRotationsResponse => ({
        rotations: a.rotations.map(rotation),
        nextPageToken: a.nextPageToken,
      }),
    ),
    createRewrapJob: method(service.CreateRewrapJob, createJobRequest, rewrapJob),
    getRewrapJob: method(service.GetRewrapJob, (r: m.GetRewrapJobRequest) => named(r), rewrapJob),
    listRewrapJobs: method(
      service.ListRewrapJobs,
      (r: m.ListRewrapJobsRequest) => ({ parent: text('parent', r.parent), ...filteredPage(r) }),
      (a): m.ListRewrapJobsResponse => ({
        rewrapJobs: a.rewrapJobs.map(rewrapJob),
        nextPageToken: a.nextPageToken,
      }),
    ),
    cancelRewrapJob: method(
      service.CancelRewrapJob,
      (r: m.CancelRewrapJobRequest) => ({ ...named(r), ...requestId(r.requestId) }),
      rewrapJob,
    ),
    watchRewrapJob: method(
      service.WatchRewrapJob,
      (r: m.WatchRewrapJobRequest) => named(r),
      rewrapJob,
    ),
  };
}

function tokenKeys() {
  const service = contract()['keyward.v1.HsmService'];
  return {
    rotateRootKey: method(
      service.RotateRootKey,
      (r: m.RotateRootKeyRequest) => ({
        parent: text('parent', r.parent),
        ...requestId(r.requestId),
      }),
      tokenKey,
    ),
    rotateSealKey: method(
      service.RotateSealKey,
      (r: m.RotateSealKeyRequest) => requestId(r.requestId),
      tokenKey,
    ),
    getTokenKey: method(service.GetTokenKey, (r: m.GetTokenKeyRequest) => named(r), tokenKey),
    listTokenKeys: method(
      service.ListTokenKeys,
      (r: m.ListTokenKeysRequest) => ({ parent: text('parent', r.parent) }),
      (a): m.ListTokenKeysResponse => ({ tokenKeys: a.tokenKeys.map(tokenKey) }),
    ),
  };
}

function roleBindings() {
  const service = contract()['keyward.v1.AccessService'];
  return {
    createRoleBinding: method(
      service.CreateRoleBinding,
      access.createRoleBindingRequest,
      access.roleBinding,
    ),
    getRoleBinding: method(
      service.GetRoleBinding,
      (r: m.GetRoleBindingRequest) => named(r),
      access.roleBinding,
    ),
    listRoleBindings: method(
      service.ListRoleBindings,
      (r: m.ListRoleBindingsRequest) => ({ parent: text('parent', r.parent), ...filteredPage(r) }),
      (a): m.ListRoleBindingsResponse => ({
        roleBindings: a.roleBindings.map(access.roleBinding),
        nextPageToken: a.nextPageToken,
      }),
    ),
    deleteRoleBinding: method(
      service.DeleteRoleBinding,
      (r: m.DeleteRoleBindingRequest) => ({ ...named(r), ...requestId(r.requestId) }),
      () => undefined,
    ),
  };
}

function roles() {
  const service = contract()['keyward.v1.AccessService'];
  return {
    createRole: method(service.CreateRole, access.createRoleRequest, access.role),
    getRole: method(service.GetRole, (r: m.GetRoleRequest) => named(r), access.role),
    listRoles: method(
      service.ListRoles,
      (r: m.ListRolesRequest) => ({ parent: text('parent', r.parent) }),
      (a): m.ListRolesResponse => ({ roles: a.roles.map(access.role) }),
    ),
    deleteRole: method(
      service.DeleteRole,
      (r: m.DeleteRoleRequest) => ({ ...named(r), ...requestId(r.requestId) }),
      () => undefined,
    ),
  };
}

function questions() {
  const service = contract()['keyward.v1.AccessService'];
  return {
    testPermissions: method(
      service.TestPermissions,
      access.testPermissionsRequest,
      ({ permissions }): m.TestPermissionsResponse => ({ permissions }),
    ),
    explainAccess: method(service.ExplainAccess, access.explainRequest, access.explanation),
    getCaller: method(service.GetCaller, (_: m.GetCallerRequest) => ({}), access.caller),
  };
}
function auditLog() {
  const service = contract()['keyward.v1.AuditService'];
  return {
    listAuditEntries: method(service.ListEntries, audit.listRequest, audit.listResponse),
    readAuditEntries: {
      ...method(service.ReadEntries, audit.readRequest, ({ entries }) => entries.map(audit.entry)),
      after: audit.readOn,
    },
    getAuditCheckpoint: method(
      service.GetCheckpoint,
      ({ cosigned = false }: m.GetAuditCheckpointRequest) => ({ cosigned }),
      audit.checkpoint,
    ),
    addAuditCosignatures: method(
      service.AddCosignatures,
      (r: m.AddAuditCosignaturesRequest) => ({ note: text('note', r.note) }),
      audit.checkpoint,
    ),
    getAuditInclusionProof: method(
      service.GetInclusionProof,
      (r: m.GetAuditInclusionProofRequest) => ({
        leafIndex: whole('leafIndex', r.leafIndex),
        treeSize: whole('treeSize', r.treeSize ?? 0),
      }),
      audit.inclusionProof,
    ),
    getAuditConsistencyProof: method(
      service.GetConsistencyProof,
      (r: m.GetAuditConsistencyProofRequest) => ({
        fromSize: whole('fromSize', r.fromSize),
        toSize: whole('toSize', r.toSize ?? 0),
      }),
      audit.consistencyProof,
    ),
    readAuditTiles: method(
      service.ReadTiles,
      (r: m.ReadAuditTilesRequest) => ({ treeSize: whole('treeSize', r.treeSize ?? 0) }),
      ({ tiles }): readonly m.AuditTile[] => tiles,
    ),
  };
}
