/**
 * The public face of `keyward-client`: {@link connect}, {@link KeywardClient}, and the types of its
 * calls.
 *
 * Owns how a caller says where the service is and who calls, and that every method of the contract
 * is here exactly once. Knows nothing of the wire (`wire.ts`), of deadlines and retries
 * (`call.ts`), and nothing of the server.
 *
 *     using keyward = connect({ address, caFile, certFile, keyFile });
 *     const { ciphertext } = await keyward.encrypt({ name: 'tenants/demo/keys/a', plaintext });
 */
import { readFileSync } from 'node:fs';
import { type CallOptions, Transport } from './call.ts';
import { Checksums } from './checksums.ts';
import { type ListOptions, pages, type WalkOptions } from './lists.ts';
import type * as m from './messages.ts';
import { checked, type Token, TokenSource } from './token.ts';
import { methods } from './wire.ts';

export { readAuditEntry } from './audit/entry.ts';
export { type AuditProblem, AuditVerificationError } from './audit/errors.ts';
export {
  type AuditExport,
  type AuditSource,
  type ExportAuditLogOptions,
  exportAuditLog,
} from './audit/export.ts';
export {
  type ConsistencyClaim,
  type InclusionClaim,
  leafHash as auditLeafHash,
  verifyConsistency as verifyAuditConsistency,
  verifyInclusion as verifyAuditInclusion,
} from './audit/tree.ts';
export {
  type AuditExportReport,
  type VerifyAuditExportOptions,
  verifyAuditExport,
} from './audit/verify.ts';
export type { CallOptions } from './call.ts';
export { type FieldViolation, KeywardClientError, type StatusName } from './errors.ts';
export type { ListOptions, WalkOptions } from './lists.ts';
export type * from './messages.ts';
export type { Token } from './token.ts';

/** PEM, as a file's path or as itself. */
type Pem<Name extends string> =
  | ({ readonly [N in `${Name}File`]: string } & { readonly [N in Name]?: never })
  | ({ readonly [N in Name]: string | Uint8Array } & { readonly [N in `${Name}File`]?: never });

/** No certificate. */
interface NoPem {
  readonly cert?: never;
  readonly certFile?: never;
  readonly key?: never;
  readonly keyFile?: never;
}

/** Who calls: whom a certificate or a token says, or a token that is bound to the certificate. */
type Caller =
  | (Pem<'cert'> & Pem<'key'> & { readonly token?: Token })
  | (NoPem & { readonly token: Token });

/**
 * Where the service is, how it proves itself (`ca`), and who calls (`cert` and `key`, `token`, or a
 * bound token with both). Files are read once. A `token` that is a function is called when a token
 * is needed: at first, shortly before the one that it gave expires, and once when the service
 * refuses that.
 */
export type ConnectOptions = Pem<'ca'> &
  Caller & {
    /** `host:port`; an IPv6 address in brackets. */
    readonly address: string;
    /** The name that the service's certificate must have, where it isn't the address's host. */
    readonly serverName?: string;
    /**
     * How long a call may take, retries included, unless the call says otherwise. 10,000 unless
     * given.
     */
    readonly defaultTimeoutMs?: number;
    /**
     * How often at most a call is tried again, only where that can help; a change is made once all
     * the same. 2 unless given.
     */
    readonly retries?: number;
    /**
     * Whether bytes are sent with their CRC32C, and answers compared with theirs. Yes unless
     * `false`.
     */
    readonly checksums?: boolean;
  };

/**
 * A client of the service at `options.address`. Connects when first used, so this never waits;
 * throws a TypeError for options that make no sense, and what the file system throws for a file
 * that can't be read.
 */
export function connect(options: ConnectOptions): KeywardClient {
  return new KeywardClient(options);
}

/**
 * Typed calls of all services. Every call but those that answer as a stream has a deadline, and
 * rejects with a `KeywardClientError`, or with a TypeError before anything is sent when an argument
 * is of the wrong type. One client holds one connection and serves any number of calls at once; its
 * owner closes it.
 */
export class KeywardClient {
  readonly #transport: Transport;
  readonly #methods: ReturnType<typeof methods>;

  /** See {@link connect}. */
  constructor(options: ConnectOptions) {
    const {
      address,
      serverName,
      defaultTimeoutMs = 10_000,
      retries = 2,
      checksums = true,
    } = options;
    if (
      typeof address !== 'string' ||
      !/^([^\s:/[\]]+|\[[0-9a-fA-F:.]+\]):\d{1,5}$/.test(address)
    ) {
      throw new TypeError(`address must be host:port, not ${JSON.stringify(address)}`);
    }
    if (!Number.isInteger(retries) || retries < 0)
      throw new TypeError('retries must be a whole number');
    if (typeof checksums !== 'boolean') throw new TypeError('checksums must be true or false');
    this.#methods = methods(new Checksums(checksums));
    this.#transport = new Transport({
      address,
      serverName,
      defaultTimeoutMs,
      retries,
      ca: pem('ca', options.ca, options.caFile),
      ...callerOf(options),
    });
  }

  /**
   * Creates a tenant; with `dedicatedRootKey`, one with a root key of its own, which may be current
   * a little later.
   */
  createTenant(request: m.CreateTenantRequest, options?: CallOptions): Promise<m.Tenant> {
    return this.#transport.call(this.#methods.createTenant, request, options);
  }

  /** Returns one tenant. */
  getTenant(request: m.GetTenantRequest, options?: CallOptions): Promise<m.Tenant> {
    return this.#transport.call(this.#methods.getTenant, request, options);
  }

  /** Returns one page of the tenants; {@link tenants} walks all. */
  listTenants(
    request: m.ListTenantsRequest = {},
    options?: CallOptions,
  ): Promise<m.ListTenantsResponse> {
    return this.#transport.call(this.#methods.listTenants, request, options);
  }

  /** Changes what is given of a tenant's quotas. */
  updateTenant(request: m.UpdateTenantRequest, options?: CallOptions): Promise<m.Tenant> {
    return this.#transport.call(this.#methods.updateTenant, request, options);
  }

  /** Stops all use of a tenant's keys, until {@link enableTenant}. */
  disableTenant(request: m.DisableTenantRequest, options?: CallOptions): Promise<m.Tenant> {
    return this.#transport.call(this.#methods.disableTenant, request, options);
  }

  /** Undoes {@link disableTenant}. */
  enableTenant(request: m.EnableTenantRequest, options?: CallOptions): Promise<m.Tenant> {
    return this.#transport.call(this.#methods.enableTenant, request, options);
  }

  /**
   * Schedules a tenant to be shredded: none of its keys can be used from now on, and all are erased
   * when the time has come. With `validateOnly`, says what would be lost, and the etag that the
   * real request must carry.
   */
  shredTenant(
    request: m.ShredTenantRequest,
    options?: CallOptions,
  ): Promise<m.ShredTenantResponse> {
    return this.#transport.call(this.#methods.shredTenant, request, options);
  }

  /** Undoes {@link shredTenant} before the time has come: the tenant is then disabled. */
  restoreTenant(request: m.RestoreTenantRequest, options?: CallOptions): Promise<m.Tenant> {
    return this.#transport.call(this.#methods.restoreTenant, request, options);
  }

  /** Returns whether what the service does by itself stands still. */
  getMaintenance(
    request: m.GetMaintenanceRequest = {},
    options?: CallOptions,
  ): Promise<m.Maintenance> {
    return this.#transport.call(this.#methods.getMaintenance, request, options);
  }

  /**
   * The switch for an incident: nothing is rotated, re-wrapped or destroyed by itself, until
   * {@link resumeMaintenance}.
   */
  pauseMaintenance(
    request: m.PauseMaintenanceRequest = {},
    options?: CallOptions,
  ): Promise<m.Maintenance> {
    return this.#transport.call(this.#methods.pauseMaintenance, request, options);
  }

  /** Undoes {@link pauseMaintenance}: what became due meanwhile is done now. */
  resumeMaintenance(
    request: m.ResumeMaintenanceRequest = {},
    options?: CallOptions,
  ): Promise<m.Maintenance> {
    return this.#transport.call(this.#methods.resumeMaintenance, request, options);
  }

  /**
   * What the HSM token is: itself, its objects with their attributes, and how many key versions are
   * under each root key.
   */
  getTokenStatus(
    request: m.GetTokenStatusRequest = {},
    options?: CallOptions,
  ): Promise<m.TokenStatus> {
    return this.#transport.call(this.#methods.getTokenStatus, request, options);
  }

  /** Creates a key with its version 1. */
  createKey(request: m.CreateKeyRequest, options?: CallOptions): Promise<m.Key> {
    return this.#transport.call(this.#methods.createKey, request, options);
  }

  /** Returns one key. */
  getKey(request: m.GetKeyRequest, options?: CallOptions): Promise<m.Key> {
    return this.#transport.call(this.#methods.getKey, request, options);
  }

  /** Returns one page of a tenant's keys; {@link keys} walks all. */
  listKeys(request: m.ListKeysRequest, options?: CallOptions): Promise<m.ListKeysResponse> {
    return this.#transport.call(this.#methods.listKeys, request, options);
  }

  /** Returns one page of a key's versions; {@link keyVersions} walks all. */
  listKeyVersions(
    request: m.ListKeyVersionsRequest,
    options?: CallOptions,
  ): Promise<m.ListKeyVersionsResponse> {
    return this.#transport.call(this.#methods.listKeyVersions, request, options);
  }

  /**
   * Makes a new primary version; a job brings the key's stored data keys under it
   * ({@link rotations}).
   */
  rotateKey(request: m.RotateKeyRequest, options?: CallOptions): Promise<m.Key> {
    return this.#transport.call(this.#methods.rotateKey, request, options);
  }

  /** Changes a key's description, labels or schedule. */
  updateKey(request: m.UpdateKeyRequest, options?: CallOptions): Promise<m.Key> {
    return this.#transport.call(this.#methods.updateKey, request, options);
  }

  /** The switch for an incident: stops all use of a key, until {@link enableKey}. */
  disableKey(request: m.DisableKeyRequest, options?: CallOptions): Promise<m.Key> {
    return this.#transport.call(this.#methods.disableKey, request, options);
  }

  /** Undoes {@link disableKey}. */
  enableKey(request: m.EnableKeyRequest, options?: CallOptions): Promise<m.Key> {
    return this.#transport.call(this.#methods.enableKey, request, options);
  }

  /** Returns one version of a key. */
  getKeyVersion(request: m.GetKeyVersionRequest, options?: CallOptions): Promise<m.KeyVersion> {
    return this.#transport.call(this.#methods.getKeyVersion, request, options);
  }

  /** Stops all use of one version, until {@link enableKeyVersion}. */
  disableKeyVersion(
    request: m.DisableKeyVersionRequest,
    options?: CallOptions,
  ): Promise<m.KeyVersion> {
    return this.#transport.call(this.#methods.disableKeyVersion, request, options);
  }

  /** Undoes {@link disableKeyVersion}. */
  enableKeyVersion(
    request: m.EnableKeyVersionRequest,
    options?: CallOptions,
  ): Promise<m.KeyVersion> {
    return this.#transport.call(this.#methods.enableKeyVersion, request, options);
  }

  /**
   * Schedules one version for destruction: it can't be used from now on, and its material is erased
   * when the time has come. With `validateOnly`, says what would be lost, and the etag that the
   * real request must carry.
   */
  scheduleKeyVersionDestruction(
    request: m.ScheduleKeyVersionDestructionRequest,
    options?: CallOptions,
  ): Promise<m.ScheduleKeyVersionDestructionResponse> {
    return this.#transport.call(this.#methods.scheduleKeyVersionDestruction, request, options);
  }

  /**
   * Undoes {@link scheduleKeyVersionDestruction} before the time has come: the version is then
   * disabled.
   */
  restoreKeyVersion(
    request: m.RestoreKeyVersionRequest,
    options?: CallOptions,
  ): Promise<m.KeyVersion> {
    return this.#transport.call(this.#methods.restoreKeyVersion, request, options);
  }

  /**
   * Schedules a key for destruction, as {@link scheduleKeyVersionDestruction}, with its versions
   * and stored data keys.
   */
  scheduleKeyDestruction(
    request: m.ScheduleKeyDestructionRequest,
    options?: CallOptions,
  ): Promise<m.ScheduleKeyDestructionResponse> {
    return this.#transport.call(this.#methods.scheduleKeyDestruction, request, options);
  }

  /** Undoes {@link scheduleKeyDestruction} before the time has come: the key is then disabled. */
  restoreKey(request: m.RestoreKeyRequest, options?: CallOptions): Promise<m.Key> {
    return this.#transport.call(this.#methods.restoreKey, request, options);
  }

  /** Encrypts up to 64 KiB. */
  encrypt(request: m.EncryptRequest, options?: CallOptions): Promise<m.EncryptResponse> {
    return this.#transport.call(this.#methods.encrypt, request, options);
  }

  /** Opens what encrypt or generateDataKey returned. Whatever doesn't open is DECRYPTION_FAILED. */
  decrypt(request: m.DecryptRequest, options?: CallOptions): Promise<m.DecryptResponse> {
    return this.#transport.call(this.#methods.decrypt, request, options);
  }

  /** Issues a data key, in plaintext and wrapped. */
  generateDataKey(
    request: m.GenerateDataKeyRequest,
    options?: CallOptions,
  ): Promise<m.GenerateDataKeyResponse> {
    return this.#transport.call(this.#methods.generateDataKey, request, options);
  }

  /** Issues a data key, wrapped only. */
  generateDataKeyWithoutPlaintext(
    request: m.GenerateDataKeyWithoutPlaintextRequest,
    options?: CallOptions,
  ): Promise<m.GenerateDataKeyWithoutPlaintextResponse> {
    return this.#transport.call(this.#methods.generateDataKeyWithoutPlaintext, request, options);
  }

  /**
   * Brings a ciphertext under a key's primary version, and to another encryption context if wanted.
   */
  reEncrypt(request: m.ReEncryptRequest, options?: CallOptions): Promise<m.ReEncryptResponse> {
    return this.#transport.call(this.#methods.reEncrypt, request, options);
  }

  /** Returns random bytes. */
  generateRandomBytes(
    request: m.GenerateRandomBytesRequest,
    options?: CallOptions,
  ): Promise<m.GenerateRandomBytesResponse> {
    return this.#transport.call(this.#methods.generateRandomBytes, request, options);
  }

  /**
   * Encrypts many at once. Resolves with a result for each request, in their order, when the call
   * itself succeeds, whatever became of the items; those that failed are not tried again.
   */
  batchEncrypt(
    request: m.BatchRequest<m.EncryptRequest>,
    options?: CallOptions,
  ): Promise<m.BatchResult<m.EncryptResponse>[]> {
    return this.#transport.call(this.#methods.batchEncrypt, request, options);
  }

  /** Decrypts many at once; see {@link batchEncrypt}. */
  batchDecrypt(
    request: m.BatchRequest<m.DecryptRequest>,
    options?: CallOptions,
  ): Promise<m.BatchResult<m.DecryptResponse>[]> {
    return this.#transport.call(this.#methods.batchDecrypt, request, options);
  }

  /** Issues many data keys at once; see {@link batchEncrypt}. */
  batchGenerateDataKey(
    request: m.BatchRequest<m.GenerateDataKeyRequest>,
    options?: CallOptions,
  ): Promise<m.BatchResult<m.GenerateDataKeyResponse>[]> {
    return this.#transport.call(this.#methods.batchGenerateDataKey, request, options);
  }

  /** Re-encrypts many at once; see {@link batchEncrypt}. */
  batchReEncrypt(
    request: m.BatchRequest<m.ReEncryptRequest>,
    options?: CallOptions,
  ): Promise<m.BatchResult<m.ReEncryptResponse>[]> {
    return this.#transport.call(this.#methods.batchReEncrypt, request, options);
  }

  /**
   * Makes a data key that the service keeps; with `returnPlaintext`, the answer has its plaintext.
   */
  createDataKey(
    request: m.CreateDataKeyRequest & { readonly returnPlaintext: true },
    options?: CallOptions,
  ): Promise<m.GetDataKeyResponse>;
  createDataKey(
    request: m.CreateDataKeyRequest,
    options?: CallOptions,
  ): Promise<m.CreateDataKeyResponse>;
  createDataKey(
    request: m.CreateDataKeyRequest,
    options?: CallOptions,
  ): Promise<m.CreateDataKeyResponse> {
    return this.#transport.call(this.#methods.createDataKey, request, options);
  }

  /** Opens a stored data key. */
  getDataKey(request: m.GetDataKeyRequest, options?: CallOptions): Promise<m.GetDataKeyResponse> {
    return this.#transport.call(this.#methods.getDataKey, request, options);
  }

  /**
   * Returns one page of a key's stored data keys, without their plaintext; {@link dataKeys} walks
   * all.
   */
  listDataKeys(
    request: m.ListDataKeysRequest,
    options?: CallOptions,
  ): Promise<m.ListDataKeysResponse> {
    return this.#transport.call(this.#methods.listDataKeys, request, options);
  }

  /** Deletes a stored data key at once and for good. */
  deleteDataKey(request: m.DeleteDataKeyRequest, options?: CallOptions): Promise<void> {
    return this.#transport.call(this.#methods.deleteDataKey, request, options);
  }

  /** Returns one page of a key's rotations; {@link rotations} walks all. */
  listRotations(
    request: m.ListRotationsRequest,
    options?: CallOptions,
  ): Promise<m.ListRotationsResponse> {
    return this.#transport.call(this.#methods.listRotations, request, options);
  }

  /**
   * Starts a re-wrap job by hand, or returns the one of the same scope and kind that is under way.
   */
  createRewrapJob(request: m.CreateRewrapJobRequest, options?: CallOptions): Promise<m.RewrapJob> {
    return this.#transport.call(this.#methods.createRewrapJob, request, options);
  }

  /** Returns one re-wrap job. */
  getRewrapJob(request: m.GetRewrapJobRequest, options?: CallOptions): Promise<m.RewrapJob> {
    return this.#transport.call(this.#methods.getRewrapJob, request, options);
  }

  /** Returns one page of a tenant's re-wrap jobs; {@link rewrapJobs} walks all. */
  listRewrapJobs(
    request: m.ListRewrapJobsRequest,
    options?: CallOptions,
  ): Promise<m.ListRewrapJobsResponse> {
    return this.#transport.call(this.#methods.listRewrapJobs, request, options);
  }

  /** Stops a re-wrap job; what it has done stays done. */
  cancelRewrapJob(request: m.CancelRewrapJobRequest, options?: CallOptions): Promise<m.RewrapJob> {
    return this.#transport.call(this.#methods.cancelRewrapJob, request, options);
  }

  /**
   * The job as it is now, then each time that it has moved on, to its last state. Has no deadline
   * unless `timeoutMs` is given. When the connection is lost, the call is made anew as often as
   * `retries` says, from the last answer on, and throws a `KeywardClientError` after that. Leaving
   * the loop cancels the call.
   */
  watchRewrapJob(
    request: m.WatchRewrapJobRequest,
    options?: CallOptions,
  ): AsyncGenerator<m.RewrapJob, void, undefined> {
    return this.#transport.stream(this.#methods.watchRewrapJob, request, options);
  }

  /**
   * Makes a new root key in the HSM; a job brings every key version under it. Resolves when it is
   * current, or shortly before the deadline while the service goes on by itself:
   * {@link getTokenKey} then says how it stands.
   */
  rotateRootKey(request: m.RotateRootKeyRequest, options?: CallOptions): Promise<m.TokenKey> {
    return this.#transport.call(this.#methods.rotateRootKey, request, options);
  }

  /**
   * Makes a new seal key in the HSM; a job seals every key version's row anew under it. See
   * {@link rotateRootKey}.
   */
  rotateSealKey(request: m.RotateSealKeyRequest = {}, options?: CallOptions): Promise<m.TokenKey> {
    return this.#transport.call(this.#methods.rotateSealKey, request, options);
  }

  /** Returns one root or seal key. */
  getTokenKey(request: m.GetTokenKeyRequest, options?: CallOptions): Promise<m.TokenKey> {
    return this.#transport.call(this.#methods.getTokenKey, request, options);
  }

  /**
   * Returns all root and seal keys that tenants share, or a tenant's own root keys, newest first.
   */
  listTokenKeys(
    request: m.ListTokenKeysRequest,
    options?: CallOptions,
  ): Promise<m.ListTokenKeysResponse> {
    return this.#transport.call(this.#methods.listTokenKeys, request, options);
  }

  /** Gives a role to a principal or a group, in one tenant or, from `tenants/system`, in all. */
  createRoleBinding(
    request: m.CreateRoleBindingRequest,
    options?: CallOptions,
  ): Promise<m.RoleBinding> {
    return this.#transport.call(this.#methods.createRoleBinding, request, options);
  }

  /** Returns one role binding. */
  getRoleBinding(request: m.GetRoleBindingRequest, options?: CallOptions): Promise<m.RoleBinding> {
    return this.#transport.call(this.#methods.getRoleBinding, request, options);
  }

  /** Returns one page of a tenant's role bindings; {@link roleBindings} walks all. */
  listRoleBindings(
    request: m.ListRoleBindingsRequest,
    options?: CallOptions,
  ): Promise<m.ListRoleBindingsResponse> {
    return this.#transport.call(this.#methods.listRoleBindings, request, options);
  }

  /** Takes a role away: on every replica within 2 s, for open streams too. */
  deleteRoleBinding(request: m.DeleteRoleBindingRequest, options?: CallOptions): Promise<void> {
    return this.#transport.call(this.#methods.deleteRoleBinding, request, options);
  }

  /** Makes a role of the tenant's own. */
  createRole(request: m.CreateRoleRequest, options?: CallOptions): Promise<m.Role> {
    return this.#transport.call(this.#methods.createRole, request, options);
  }

  /** Returns one role of the tenant's own; the predefined ones are in {@link listRoles}. */
  getRole(request: m.GetRoleRequest, options?: CallOptions): Promise<m.Role> {
    return this.#transport.call(this.#methods.getRole, request, options);
  }

  /**
   * Returns all roles that can be given in a tenant: the predefined ones, then the tenant's own.
   */
  listRoles(request: m.ListRolesRequest, options?: CallOptions): Promise<m.ListRolesResponse> {
    return this.#transport.call(this.#methods.listRoles, request, options);
  }

  /** Deletes a role of the tenant's own, which no binding may give. */
  deleteRole(request: m.DeleteRoleRequest, options?: CallOptions): Promise<void> {
    return this.#transport.call(this.#methods.deleteRole, request, options);
  }

  /**
   * Says which of some permissions the caller has. Any caller may ask; of what it may not know of,
   * it has none.
   */
  testPermissions(
    request: m.TestPermissionsRequest,
    options?: CallOptions,
  ): Promise<m.TestPermissionsResponse> {
    return this.#transport.call(this.#methods.testPermissions, request, options);
  }

  /**
   * Says whether somebody would be allowed to do something, by which binding, or what each of his
   * bindings lacks.
   */
  explainAccess(
    request: m.ExplainAccessRequest,
    options?: CallOptions,
  ): Promise<m.ExplainAccessResponse> {
    return this.#transport.call(this.#methods.explainAccess, request, options);
  }

  /** Says who the caller is. Any caller may ask. */
  getCaller(request: m.GetCallerRequest = {}, options?: CallOptions): Promise<m.Caller> {
    return this.#transport.call(this.#methods.getCaller, request, options);
  }

  /** Returns one page of the audit log's entries, newest first; {@link auditEntries} walks all. */
  listAuditEntries(
    request: m.ListAuditEntriesRequest,
    options?: CallOptions,
  ): Promise<m.ListAuditEntriesResponse> {
    return this.#transport.call(this.#methods.listAuditEntries, request, options);
  }

  /**
   * Entries from one on, oldest first, many at a time: up to a size of the log, or as they come.
   * Deadline and retries are as {@link watchRewrapJob}'s; no entry comes twice.
   */
  readAuditEntries(
    request: m.ReadAuditEntriesRequest,
    options?: CallOptions,
  ): AsyncGenerator<readonly m.AuditEntry[], void, undefined> {
    return this.#transport.stream(this.#methods.readAuditEntries, request, options);
  }

  /** Returns the audit log's last signed checkpoint, or the last that was cosigned. */
  getAuditCheckpoint(
    request: m.GetAuditCheckpointRequest = {},
    options?: CallOptions,
  ): Promise<m.AuditCheckpoint> {
    return this.#transport.call(this.#methods.getAuditCheckpoint, request, options);
  }

  /** Adds witnesses' cosignatures to a checkpoint. */
  addAuditCosignatures(
    request: m.AddAuditCosignaturesRequest,
    options?: CallOptions,
  ): Promise<m.AuditCheckpoint> {
    return this.#transport.call(this.#methods.addAuditCosignatures, request, options);
  }

  /** Returns the proof that an entry is in the log, for {@link verifyAuditInclusion}. */
  getAuditInclusionProof(
    request: m.GetAuditInclusionProofRequest,
    options?: CallOptions,
  ): Promise<m.AuditInclusionProof> {
    return this.#transport.call(this.#methods.getAuditInclusionProof, request, options);
  }

  /**
   * Returns the proof that the log of one size begins with that of another, for
   * {@link verifyAuditConsistency}.
   */
  getAuditConsistencyProof(
    request: m.GetAuditConsistencyProofRequest,
    options?: CallOptions,
  ): Promise<m.AuditConsistencyProof> {
    return this.#transport.call(this.#methods.getAuditConsistencyProof, request, options);
  }

  /**
   * All hash tiles of the log's tree, many at a time. Deadline and retries are as
   * {@link watchRewrapJob}'s; after a retry they come from the first again.
   */
  readAuditTiles(
    request: m.ReadAuditTilesRequest = {},
    options?: CallOptions,
  ): AsyncGenerator<readonly m.AuditTile[], void, undefined> {
    return this.#transport.stream(this.#methods.readAuditTiles, request, options);
  }

  /** All audit entries that match, newest first, fetched page by page. */
  auditEntries(
    request: Omit<m.ListAuditEntriesRequest, 'pageSize' | 'pageToken'>,
    options: WalkOptions = {},
  ): AsyncGenerator<m.AuditEntry, void, undefined> {
    return pages({ filter: request.filter ?? '', ...options }, async (page) => {
      const { entries, nextPageToken } = await this.listAuditEntries(
        { ...request, ...page },
        options,
      );
      return { items: entries, nextPageToken };
    });
  }

  /** All tenants, ordered by name, fetched page by page. */
  tenants(options: ListOptions = {}): AsyncGenerator<m.Tenant, void, undefined> {
    return pages(options, async (page) => {
      const { tenants, nextPageToken } = await this.listTenants(page, options);
      return { items: tenants, nextPageToken };
    });
  }

  /** All keys of the tenant `parent`, ordered by name, fetched page by page. */
  keys(parent: string, options: ListOptions = {}): AsyncGenerator<m.Key, void, undefined> {
    return pages(options, async (page) => {
      const { keys, nextPageToken } = await this.listKeys({ parent, ...page }, options);
      return { items: keys, nextPageToken };
    });
  }

  /** All versions of the key `parent`, newest first, fetched page by page. */
  keyVersions(
    parent: string,
    options: ListOptions = {},
  ): AsyncGenerator<m.KeyVersion, void, undefined> {
    return pages(options, async (page) => {
      const { keyVersions, nextPageToken } = await this.listKeyVersions(
        { parent, ...page },
        options,
      );
      return { items: keyVersions, nextPageToken };
    });
  }

  /** All stored data keys of the key `parent`, ordered by name, fetched page by page. */
  dataKeys(parent: string, options: ListOptions = {}): AsyncGenerator<m.DataKey, void, undefined> {
    return pages(options, async (page) => {
      const { dataKeys, nextPageToken } = await this.listDataKeys({ parent, ...page }, options);
      return { items: dataKeys, nextPageToken };
    });
  }

  /** All rotations of the key `parent`, newest first, fetched page by page. */
  rotations(
    parent: string,
    options: WalkOptions = {},
  ): AsyncGenerator<m.Rotation, void, undefined> {
    return pages(options, async (page) => {
      const { rotations, nextPageToken } = await this.listRotations({ parent, ...page }, options);
      return { items: rotations, nextPageToken };
    });
  }

  /** All re-wrap jobs of the tenant `parent`, newest first, fetched page by page. */
  rewrapJobs(
    parent: string,
    options: ListOptions = {},
  ): AsyncGenerator<m.RewrapJob, void, undefined> {
    return pages(options, async (page) => {
      const { rewrapJobs, nextPageToken } = await this.listRewrapJobs({ parent, ...page }, options);
      return { items: rewrapJobs, nextPageToken };
    });
  }

  /** All role bindings of the tenant `parent`, ordered by name, fetched page by page. */
  roleBindings(
    parent: string,
    options: ListOptions = {},
  ): AsyncGenerator<m.RoleBinding, void, undefined> {
    return pages(options, async (page) => {
      const { roleBindings, nextPageToken } = await this.listRoleBindings(
        { parent, ...page },
        options,
      );
      return { items: roleBindings, nextPageToken };
    });
  }

  /**
   * Cancels the calls in flight; later ones reject with `CANCELLED`, "The client is closed." Twice
   * is as good as once.
   */
  close(): void {
    this.#transport.close();
  }

  /** {@link close}, for `using`. */
  [Symbol.dispose](): void {
    this.close();
  }
}

/** A key without a certificate, or the other way round, is a mistake, with a token or without. */
function callerOf(options: ConnectOptions) {
  const { cert, certFile, key, keyFile, token } = options;
  if (typeof token === 'string') checked(token);
  else if (token !== undefined && typeof token !== 'function')
    throw new TypeError('token must be a string or a function');
  const isBare = [cert, certFile, key, keyFile].every((given) => given === undefined);
  return {
    token: token === undefined ? undefined : new TokenSource(token),
    identity:
      isBare && token !== undefined
        ? undefined
        : { cert: pem('cert', cert, certFile), key: pem('key', key, keyFile) },
  };
}

function pem(
  name: string,
  text: string | Uint8Array | undefined,
  file: string | undefined,
): string | Uint8Array {
  if (text !== undefined) return text;
  if (file === undefined) throw new TypeError(`${name} or ${name}File must be given`);
  return readFileSync(file);
}
