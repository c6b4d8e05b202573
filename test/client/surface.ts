/**
 * What the client's users write against: names, shapes, and how pleasant they are.
 *
 * The assertions are types and nothing here runs: `npm run check` fails where one doesn't hold.
 * Each kind of field stands here once and exactly; of the rest, the names.
 */
import type {
  AccessObstacle,
  AddAuditCosignaturesRequest,
  Algorithm,
  AuditCheckpoint,
  AuditConsistencyProof,
  AuditEntry,
  AuditEntryContent,
  AuditInclusionProof,
  AuditSelection,
  AuditTile,
  BatchEncryptRequest,
  BatchResult,
  Caller,
  CallOptions,
  CancelRewrapJobRequest,
  ClaimValue,
  ConsideredBinding,
  ContextCondition,
  CreateDataKeyRequest,
  CreateDataKeyResponse,
  CreateKeyRequest,
  CreateRewrapJobRequest,
  CreateRoleBindingRequest,
  CreateRoleRequest,
  CreateTenantRequest,
  DataKey,
  DecryptRequest,
  DecryptResponse,
  DeleteDataKeyRequest,
  DeleteRoleBindingRequest,
  DeleteRoleRequest,
  DestructionImpact,
  DisableKeyRequest,
  DisableKeyVersionRequest,
  DisableTenantRequest,
  EnableKeyRequest,
  EnableKeyVersionRequest,
  EnableTenantRequest,
  EncryptionContext,
  EncryptRequest,
  EncryptResponse,
  ExplainAccessRequest,
  ExplainAccessResponse,
  GenerateDataKeyRequest,
  GenerateDataKeyResponse,
  GenerateDataKeyWithoutPlaintextRequest,
  GenerateDataKeyWithoutPlaintextResponse,
  GenerateRandomBytesRequest,
  GenerateRandomBytesResponse,
  GetAuditCheckpointRequest,
  GetAuditConsistencyProofRequest,
  GetAuditInclusionProofRequest,
  GetCallerRequest,
  GetDataKeyRequest,
  GetDataKeyResponse,
  GetKeyRequest,
  GetKeyVersionRequest,
  GetMaintenanceRequest,
  GetRewrapJobRequest,
  GetRoleBindingRequest,
  GetRoleRequest,
  GetTenantRequest,
  GetTokenKeyRequest,
  GetTokenStatusRequest,
  Key,
  KeyState,
  KeyVersion,
  KeyVersionState,
  KeyVersionUsage,
  KeywardClient,
  KeywardError,
  ListAuditEntriesRequest,
  ListAuditEntriesResponse,
  ListDataKeysRequest,
  ListDataKeysResponse,
  ListKeysRequest,
  ListKeysResponse,
  ListKeyVersionsRequest,
  ListKeyVersionsResponse,
  ListOptions,
  ListRewrapJobsRequest,
  ListRewrapJobsResponse,
  ListRoleBindingsRequest,
  ListRoleBindingsResponse,
  ListRolesRequest,
  ListRolesResponse,
  ListRotationsRequest,
  ListRotationsResponse,
  ListTenantsRequest,
  ListTenantsResponse,
  ListTokenKeysRequest,
  ListTokenKeysResponse,
  Maintenance,
  NewContextCondition,
  NewMember,
  NewRoleBinding,
  PauseMaintenanceRequest,
  ReadAuditEntriesRequest,
  ReadAuditTilesRequest,
  ReEncryptRequest,
  ReEncryptResponse,
  RestoreKeyRequest,
  RestoreKeyVersionRequest,
  RestoreTenantRequest,
  ResumeMaintenanceRequest,
  RewrapFailure,
  RewrapJob,
  RewrapJobKind,
  RewrapJobState,
  Role,
  RoleBinding,
  RotateKeyRequest,
  RotateRootKeyRequest,
  RotateSealKeyRequest,
  Rotation,
  RotationCause,
  ScheduleKeyDestructionRequest,
  ScheduleKeyDestructionResponse,
  ScheduleKeyVersionDestructionRequest,
  ScheduleKeyVersionDestructionResponse,
  ShredImpact,
  ShredTenantRequest,
  ShredTenantResponse,
  Strings,
  Tenant,
  TenantQuotas,
  TenantState,
  TestPermissionsRequest,
  TestPermissionsResponse,
  TokenAttribute,
  TokenAttributeState,
  TokenKey,
  TokenKeyState,
  TokenModule,
  TokenObject,
  TokenObjectCondition,
  TokenObjectRole,
  TokenProfile,
  TokenStatus,
  UnrecordedTokenObject,
  UpdateKeyRequest,
  UpdateTenantRequest,
  WalkOptions,
} from '../../client/src/index.ts';

/** Compiles only where the two types are one and the same. */
function same<A, B>(
  ..._: (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? [] : [never]
): void {}

/** One object of what is declared in several. */
type Flat<T> = { [Name in keyof T]: T[Name] };

type Client = KeywardClient;
/** What a method with `options` takes and returns. */
type Unary<Request, Response> = (request: Request, options?: CallOptions) => Promise<Response>;
type Asked<Request, Response> = (request?: Request, options?: CallOptions) => Promise<Response>;
type Streamed<Item> = AsyncGenerator<Item, void, undefined>;

/** Answers have Dates, Buffers, words, and undefined for what is absent. */
export function answers(): void {
  same<
    Flat<Key>,
    {
      readonly name: string;
      readonly uid: string;
      readonly primary: KeyVersion;
      readonly createTime: Date;
      readonly state: KeyState;
      readonly description: string;
      readonly labels: Readonly<Record<string, string>>;
      readonly etag: string;
      readonly rotationPeriodSeconds: number | undefined;
      readonly nextRotationTime: Date | undefined;
      readonly rotationUsageLimit: number;
      readonly maintenancePaused: boolean;
      readonly epochMaxMessages: number;
      readonly epochMaxAgeSeconds: number | undefined;
      readonly destroyTime: Date | undefined;
      readonly destroyEventTime: Date | undefined;
    }
  >();
  same<KeyState, 'UNSPECIFIED' | 'ENABLED' | 'DISABLED' | 'DESTROY_SCHEDULED' | 'DESTROYED'>();
  same<Algorithm, 'UNSPECIFIED' | 'HMAC_SHA512_AES_256_GCM'>();
  same<KeyVersion['usage'], KeyVersionUsage | undefined>();
  same<DestructionImpact['usage'], KeyVersionUsage>();
  same<[DestructionImpact['destroyTime'], ShredImpact['shredTime']], [Date, Date]>();
  same<Role['createTime'], Date | undefined>();
  same<Tenant['quotas'], TenantQuotas>();
  same<[TokenStatus['module'], TokenStatus['profile']], [TokenModule, TokenProfile]>();
  same<TokenStatus['objects'], readonly TokenObject[]>();
  same<Caller['groups'], readonly string[]>();
  same<ConsideredBinding['obstacles'], readonly AccessObstacle[]>();
  same<[Rotation['durationSeconds'], RewrapJob['rate']], [number | undefined, number]>();
  same<AuditInclusionProof['hashes'], readonly Buffer[]>();
  same<
    Flat<EncryptResponse>,
    {
      readonly ciphertext: Buffer;
      readonly keyVersion: string;
      readonly ciphertextCrc32c: number;
      readonly verifiedPlaintextCrc32c: boolean;
    }
  >();
  same<
    Flat<ContextCondition>,
    {
      readonly contextKey: string;
      readonly equals: string | undefined;
      readonly oneOf: readonly string[] | undefined;
      readonly claim: readonly string[] | undefined;
    }
  >();
  same<RoleBinding['principal'], string | undefined>();
}

/** Requests need what must be given and nothing else. */
export function requests(): void {
  same<
    Flat<EncryptRequest>,
    {
      readonly name: string;
      readonly plaintext: Uint8Array;
      readonly encryptionContext?: EncryptionContext;
      readonly plaintextCrc32c?: number;
    }
  >();
  same<Strings, Readonly<Record<string, string>> | ReadonlyMap<string, string>>();
  same<
    Flat<CreateKeyRequest>,
    {
      readonly parent: string;
      readonly keyId: string;
      readonly description?: string;
      readonly labels?: Strings;
      readonly rotationPeriodSeconds?: number;
      readonly nextRotationTime?: Date;
      readonly rotationUsageLimit?: number;
      readonly epochMaxMessages?: number;
      readonly epochMaxAgeSeconds?: number;
      readonly requestId?: string;
    }
  >();
  same<
    Flat<UpdateKeyRequest['key']>,
    {
      readonly name: string;
      readonly description?: string;
      readonly labels?: Strings;
      readonly rotationPeriodSeconds?: number | null;
      readonly nextRotationTime?: Date | null;
      readonly rotationUsageLimit?: number;
      readonly maintenancePaused?: boolean;
      readonly epochMaxMessages?: number;
      readonly epochMaxAgeSeconds?: number | null;
      readonly etag?: string;
    }
  >();
  same<UpdateKeyRequest['updateMask'], readonly string[] | undefined>();
  same<Flat<NonNullable<UpdateTenantRequest['tenant']['quotas']>>, Partial<TenantQuotas>>();
  same<CreateRewrapJobRequest['kind'], 'DATA_KEYS' | 'KEY_VERSIONS' | undefined>();
  same<Flat<Pick<DecryptRequest, 'key'>>, { readonly key?: string }>();
  same<GenerateRandomBytesRequest['length'], number>();
  same<GenerateDataKeyRequest['length'], number | undefined>();
  same<ClaimValue['claim'], readonly string[]>();
  same<GetCallerRequest, Readonly<Record<string, never>>>();
  same<
    Flat<GetAuditInclusionProofRequest>,
    { readonly leafIndex: number; readonly treeSize?: number }
  >();
}

/** Of several fields that exclude each other, exactly one is given. */
export function oneOfSeveral(): void {
  const members: NewMember[] = [{ principal: 'a' }, { group: 'a' }];
  const role = 'roles/decrypter';
  const conditions: NewContextCondition[] = [
    { contextKey: 'a', equals: 'b' },
    { contextKey: 'a', oneOf: ['b'] },
    { contextKey: 'a', claim: ['b'] },
  ];
  const bindings: NewRoleBinding[] = members.map((member) => ({ ...member, role, conditions }));
  // @ts-expect-error: two members
  bindings.push({ principal: 'a', group: 'b', role });
  // @ts-expect-error: no member
  bindings.push({ role });
  // @ts-expect-error: two requirements
  conditions.push({ contextKey: 'a', equals: 'b', claim: ['c'] });
  // @ts-expect-error: no requirement
  conditions.push({ contextKey: 'a' });
}

/** Methods take a request and options, and return a promise, a stream or a walk. */
export function methods(): void {
  same<Client['encrypt'], Unary<EncryptRequest, EncryptResponse>>();
  same<Client['getMaintenance'], Asked<GetMaintenanceRequest, Maintenance>>();
  same<Client['listTenants'], Asked<ListTenantsRequest, ListTenantsResponse>>();
  same<Client['listKeys'], Unary<ListKeysRequest, ListKeysResponse>>();
  same<Client['deleteDataKey'], Unary<DeleteDataKeyRequest, void>>();
  same<Client['batchEncrypt'], Unary<BatchEncryptRequest, BatchResult<EncryptResponse>[]>>();
  same<BatchResult<Key>, { readonly response: Key } | { readonly error: KeywardError }>();
  same<ReturnType<Client['watchRewrapJob']>, Streamed<RewrapJob>>();
  same<ReturnType<Client['readAuditEntries']>, Streamed<readonly AuditEntry[]>>();
  same<ReturnType<Client['readAuditTiles']>, Streamed<readonly AuditTile[]>>();
  same<Client['keys'], (parent: string, options?: ListOptions) => Streamed<Key>>();
  same<Client['rotations'], (parent: string, options?: WalkOptions) => Streamed<Rotation>>();
  same<Client['tenants'], (options?: ListOptions) => Streamed<Tenant>>();
  same<
    Client['auditEntries'],
    (
      request: Omit<ListAuditEntriesRequest, 'pageSize' | 'pageToken'>,
      options?: WalkOptions,
    ) => Streamed<AuditEntry>
  >();
  const plaintextOf = (keyward: Client, request: CreateDataKeyRequest) =>
    keyward.createDataKey({ ...request, returnPlaintext: true });
  same<ReturnType<typeof plaintextOf>, Promise<GetDataKeyResponse>>();
  const perhaps = (keyward: Client, request: CreateDataKeyRequest) =>
    keyward.createDataKey(request);
  same<ReturnType<typeof perhaps>, Promise<CreateDataKeyResponse>>();
  same<CreateDataKeyResponse['plaintext'], Buffer | undefined>();
}

/** Every other type that has a name of its own: it is here so that none is lost. */
export type Names = [
  AddAuditCosignaturesRequest,
  AuditCheckpoint,
  AuditConsistencyProof,
  AuditEntryContent,
  AuditSelection,
  CancelRewrapJobRequest,
  CreateRoleBindingRequest,
  CreateRoleRequest,
  CreateTenantRequest,
  DataKey,
  DecryptResponse,
  DeleteRoleBindingRequest,
  DeleteRoleRequest,
  DisableKeyRequest,
  DisableKeyVersionRequest,
  DisableTenantRequest,
  EnableKeyRequest,
  EnableKeyVersionRequest,
  EnableTenantRequest,
  ExplainAccessRequest,
  ExplainAccessResponse,
  GenerateDataKeyResponse,
  GenerateDataKeyWithoutPlaintextRequest,
  GenerateDataKeyWithoutPlaintextResponse,
  GenerateRandomBytesResponse,
  GetAuditCheckpointRequest,
  GetAuditConsistencyProofRequest,
  GetDataKeyRequest,
  GetKeyRequest,
  GetKeyVersionRequest,
  GetRewrapJobRequest,
  GetRoleBindingRequest,
  GetRoleRequest,
  GetTenantRequest,
  GetTokenKeyRequest,
  GetTokenStatusRequest,
  KeyVersionState,
  ListAuditEntriesResponse,
  ListDataKeysRequest,
  ListDataKeysResponse,
  ListKeyVersionsRequest,
  ListKeyVersionsResponse,
  ListRewrapJobsRequest,
  ListRewrapJobsResponse,
  ListRoleBindingsRequest,
  ListRoleBindingsResponse,
  ListRolesRequest,
  ListRolesResponse,
  ListRotationsRequest,
  ListRotationsResponse,
  ListTokenKeysRequest,
  ListTokenKeysResponse,
  PauseMaintenanceRequest,
  ReEncryptRequest,
  ReEncryptResponse,
  ReadAuditEntriesRequest,
  ReadAuditTilesRequest,
  RestoreKeyRequest,
  RestoreKeyVersionRequest,
  RestoreTenantRequest,
  ResumeMaintenanceRequest,
  RewrapFailure,
  RewrapJobKind,
  RewrapJobState,
  RotateKeyRequest,
  RotateRootKeyRequest,
  RotateSealKeyRequest,
  RotationCause,
  ScheduleKeyDestructionRequest,
  ScheduleKeyDestructionResponse,
  ScheduleKeyVersionDestructionRequest,
  ScheduleKeyVersionDestructionResponse,
  ShredTenantRequest,
  ShredTenantResponse,
  TenantState,
  TestPermissionsRequest,
  TestPermissionsResponse,
  TokenAttribute,
  TokenAttributeState,
  TokenKey,
  TokenKeyState,
  TokenObjectCondition,
  TokenObjectRole,
  UnrecordedTokenObject,
];
