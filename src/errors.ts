/**
 * Defines the one error type that crosses module boundaries, and the one table of reasons.
 *
 * - Each reason has one gRPC status, one message, and states whether a retry can help.
 * - Programs act on the reason, never on the message: `cannot VERB OBJECT: cause; what to do`.
 * - A cause is kept for the log and never reaches a caller.
 */

type StatusName =
  | 'CANCELLED'
  | 'UNAUTHENTICATED'
  | 'PERMISSION_DENIED'
  | 'INVALID_ARGUMENT'
  | 'DEADLINE_EXCEEDED'
  | 'NOT_FOUND'
  | 'ALREADY_EXISTS'
  | 'RESOURCE_EXHAUSTED'
  | 'FAILED_PRECONDITION'
  | 'ABORTED'
  | 'UNIMPLEMENTED'
  | 'INTERNAL'
  | 'UNAVAILABLE'
  | 'DATA_LOSS';

interface ReasonRow {
  readonly status: StatusName;
  /** The message for the caller, unless the error has one of its own. */
  readonly message: string;
  /** Milliseconds before the same call can succeed, at the earliest; absent if it cannot. */
  readonly retryAfterMs?: number;
  /** Set where each error decides for itself whether a retry can help. */
  readonly retryVaries?: true;
}

/** Lists every reason for failure; docs/errors.md explains the same ones, and a test compares. */
export const REASONS = {
  INVALID_FIELD: {
    status: 'INVALID_ARGUMENT',
    message: 'cannot accept the request: one of its fields is not valid',
  },
  MALFORMED_REQUEST: {
    status: 'INVALID_ARGUMENT',
    message: 'cannot read the request: it is not one message of the type that the method takes',
  },
  MESSAGE_COUNT_WRONG: {
    status: 'UNIMPLEMENTED',
    message: 'cannot accept the call: it must carry exactly one message',
  },
  MESSAGE_TOO_LARGE: {
    status: 'RESOURCE_EXHAUSTED',
    message: 'cannot accept the request: it is larger than the method takes; send less at once',
  },
  METHOD_UNKNOWN: {
    status: 'UNIMPLEMENTED',
    message: 'cannot find the method: this release does not have it',
  },
  COMPRESSION_NOT_SUPPORTED: {
    status: 'UNIMPLEMENTED',
    message: 'cannot accept the request: it is compressed; send it uncompressed',
  },
  CREDENTIALS_MISSING: {
    status: 'UNAUTHENTICATED',
    message:
      'cannot authenticate the caller: the call has no client certificate and no token; send one',
  },
  CREDENTIALS_INVALID: {
    status: 'UNAUTHENTICATED',
    message:
      'cannot authenticate the caller: the token or certificate is not accepted; the server’s ' +
      'log shows the cause under this request id',
  },
  TOKEN_NOT_BOUND: {
    status: 'UNAUTHENTICATED',
    message:
      'cannot authenticate the caller: the token and the certificate are not bound to each ' +
      'other; send one of them alone, or a token that is bound to the certificate',
  },
  CERTIFICATE_DENIED: {
    status: 'UNAUTHENTICATED',
    message:
      'cannot authenticate the caller: the client certificate is on the deny list; get a new one',
  },
  PERMISSION_MISSING: {
    status: 'PERMISSION_DENIED',
    message: 'cannot perform the call: no role binding gives the caller the permission',
  },
  CALLER_SUSPENDED: {
    status: 'PERMISSION_DENIED',
    message:
      'cannot perform the call: the caller is suspended in the tenant; ask its administrators to ' +
      'lift the suspension',
  },
  STEP_UP_REQUIRED: {
    status: 'UNAUTHENTICATED',
    message:
      'cannot perform the call: approval rules want a fresh proof of who calls; sign in again',
  },
  ISSUER_UNAVAILABLE: {
    status: 'UNAVAILABLE',
    message: 'cannot verify the token: the keys of its issuer are unavailable; try again later',
    retryAfterMs: 1000,
  },
  SERVER_BUSY: {
    status: 'RESOURCE_EXHAUSTED',
    message:
      'cannot accept the call: the server is at its limit of calls or bytes; send fewer at once',
    retryAfterMs: 200,
  },
  QUOTA_EXCEEDED: {
    status: 'RESOURCE_EXHAUSTED',
    message: 'cannot perform the call: a quota of the tenant is used up',
    retryVaries: true,
  },
  DECRYPTION_FAILED: {
    status: 'INVALID_ARGUMENT',
    message:
      'cannot decrypt the ciphertext: it does not open with this tenant, key and encryption ' +
      'context',
  },
  CHECKSUM_MISMATCH: {
    status: 'INVALID_ARGUMENT',
    message:
      'cannot accept the request: a checksum does not match the bytes that arrived; send it ' +
      'again',
    retryAfterMs: 0,
  },
  REQUEST_ID_REUSED: {
    status: 'INVALID_ARGUMENT',
    message: 'cannot accept the request: its request_id was used for another one; make a new one',
  },
  REPLAY_UNKNOWN: {
    status: 'FAILED_PRECONDITION',
    message:
      'cannot answer the request again: it was performed before, and what it did then cannot be ' +
      'verified any more; read the resource',
  },
  RESOURCE_NOT_FOUND: {
    status: 'NOT_FOUND',
    message: 'cannot find the resource: it does not exist, or the caller has no role in its tenant',
  },
  RESOURCE_EXISTS: {
    status: 'ALREADY_EXISTS',
    message: 'cannot create the resource: one of that name already exists; choose another name',
  },
  TENANT_DISABLED: {
    status: 'FAILED_PRECONDITION',
    message: 'cannot use the tenant’s keys: the tenant is not enabled; enable it first',
  },
  KEY_NOT_ENABLED: {
    status: 'FAILED_PRECONDITION',
    message: 'cannot use the key: it is not enabled; enable it, or restore and then enable it',
  },
  KEY_VERSION_NOT_ENABLED: {
    status: 'FAILED_PRECONDITION',
    message:
      'cannot use the key version: it is not enabled; enable it, or restore and then enable it',
  },
  KEY_VERSION_IS_PRIMARY: {
    status: 'FAILED_PRECONDITION',
    message:
      'cannot destroy the key version: it is the primary; rotate the key first, or destroy the ' +
      'whole key',
  },
  KEY_VERSION_IN_USE: {
    status: 'FAILED_PRECONDITION',
    message:
      'cannot destroy the key version: stored data keys are wrapped under it; re-wrap them first',
  },
  DESTRUCTION_UNDER_WAY: {
    status: 'FAILED_PRECONDITION',
    message:
      'cannot change the resource: it is scheduled for destruction, or destroyed; restore it ' +
      'first, while that is possible',
  },
  DESTRUCTION_NOT_SCHEDULED: {
    status: 'FAILED_PRECONDITION',
    message: 'cannot restore the resource: it is not scheduled for destruction',
  },
  SEPARATION_OF_DUTIES: {
    status: 'FAILED_PRECONDITION',
    message:
      'cannot bind the role: the member could then both administer and use a key; give the roles ' +
      'to two members, or set override_separation_of_duties',
  },
  ROLE_IN_USE: {
    status: 'FAILED_PRECONDITION',
    message: 'cannot delete the role: role bindings give it; delete them first',
  },
  POLICY_FULL: {
    status: 'FAILED_PRECONDITION',
    message:
      'cannot change the access policy: the tenant or the member is at its limit of role ' +
      'bindings, or the tenant at its limit of roles; bind roles to groups',
  },
  CANARIES_FULL: {
    status: 'FAILED_PRECONDITION',
    message:
      'cannot add the canary or the suspension: the tenant or the service is at its limit; delete ' +
      'some first',
  },
  PASSKEYS_FULL: {
    status: 'FAILED_PRECONDITION',
    message:
      'cannot register the passkey: its owner has 20, or the service 10,000; remove some first',
  },
  PASSKEYS_NOT_CONFIGURED: {
    status: 'FAILED_PRECONDITION',
    message:
      'cannot use passkeys: the service is configured for no relying party ' +
      '(KEYWARD_RELYING_PARTY_ID)',
  },
  PASSKEYS_MISSING: {
    status: 'FAILED_PRECONDITION',
    message:
      'cannot set the approval rules: too few people have passkeys to approve what they ask for',
  },
  PASSKEY_NOT_ACCEPTED: {
    status: 'INVALID_ARGUMENT',
    message: 'cannot register the passkey: the authenticator’s answer does not verify',
  },
  ASSERTION_NOT_ACCEPTED: {
    status: 'PERMISSION_DENIED',
    message:
      'cannot accept the signature: it is not by a passkey of the caller over exactly what it is ' +
      'for; sign again',
  },
  ALERT_SILENCES_FULL: {
    status: 'FAILED_PRECONDITION',
    message: 'cannot silence the alert: there are 200 silences; delete some, or wait for their end',
  },
  APPROVAL_REQUIRED: {
    status: 'FAILED_PRECONDITION',
    message: 'cannot perform the call yet: it waits for the approval of others',
  },
  OPERATION_NOT_PENDING: {
    status: 'FAILED_PRECONDITION',
    message:
      'cannot change the operation: it does not wait for approval any more; read it to see what ' +
      'became of it',
  },
  OWN_OPERATION: {
    status: 'PERMISSION_DENIED',
    message:
      'cannot decide on the operation: its requester asked for it with these credentials; others ' +
      'have to decide',
  },
  APPROVER_NOT_NAMED: {
    status: 'PERMISSION_DENIED',
    message: 'cannot decide on the operation: the approval rule names others as its approvers',
  },
  ALREADY_DECIDED: {
    status: 'FAILED_PRECONDITION',
    message: 'cannot decide on the operation: the caller has done so before; others have to decide',
  },
  APPROVALS_MISSING: {
    status: 'PERMISSION_DENIED',
    message:
      'cannot perform the operation: of those who approved it, too few may still approve, or the ' +
      'approval rules want more by now; ask for it again',
  },
  AGENT_RULE_NOT_MET: {
    status: 'FAILED_PRECONDITION',
    message:
      'cannot perform the call: the rule that the HSM agents hold wants more people to have ' +
      'approved it',
  },
  PENDING_OPERATIONS_FULL: {
    status: 'FAILED_PRECONDITION',
    message:
      'cannot ask for approval: 100 operations of the tenant wait for it, or 10 of the caller’s; ' +
      'cancel some, or have them decided on',
  },
  NO_GLASS_TO_BREAK: {
    status: 'FAILED_PRECONDITION',
    message:
      'cannot break the glass: no approval rule is for emergencies of this kind, or it was broken ' +
      'before',
  },
  TOKEN_KEY_NOT_READY: {
    status: 'UNAVAILABLE',
    message: 'cannot use a token key: it is being made or replaced in the HSM; try again',
    retryAfterMs: 500,
  },
  TOKEN_KEY_ROTATION_UNDER_WAY: {
    status: 'FAILED_PRECONDITION',
    message:
      'cannot rotate the token key: a rotation of it is already under way; wait until it has ' +
      'ended',
  },
  TENANT_SHARES_ROOT_KEY: {
    status: 'FAILED_PRECONDITION',
    message:
      'cannot rotate the root key: the tenant has none of its own; rotate that of tenants/system',
  },
  ETAG_MISMATCH: {
    status: 'ABORTED',
    message: 'cannot change the resource: it has changed since the etag was read; read it again',
  },
  CONFLICT: {
    status: 'ABORTED',
    message: 'cannot change the resource: another change to it came first; read it again',
    retryAfterMs: 100,
  },
  STORED_ROW_CORRUPT: {
    status: 'DATA_LOSS',
    message:
      'cannot use the key version: its stored row failed verification; operators have been ' +
      'alerted',
  },
  POLICY_CORRUPT: {
    status: 'DATA_LOSS',
    message:
      'cannot authorize the call: the tenant’s access policy failed verification and was not ' +
      'applied; operators have been alerted',
  },
  APPROVAL_RULES_CORRUPT: {
    status: 'DATA_LOSS',
    message:
      'cannot tell what the call wants besides a permission: the approval rules of the tenant or ' +
      'of tenants/system failed verification; operators have been alerted',
  },
  CANARIES_CORRUPT: {
    status: 'DATA_LOSS',
    message:
      'cannot change canaries or suspensions: what is stored of them failed verification; ' +
      'operators have been alerted',
  },
  PASSKEY_CORRUPT: {
    status: 'DATA_LOSS',
    message:
      'cannot use the passkey: what is stored of it failed verification; operators have been alerted',
  },
  TENANT_CORRUPT: {
    status: 'DATA_LOSS',
    message:
      'cannot use the tenant: what is stored of it failed verification and was not applied; ' +
      'operators have been alerted',
  },
  KEY_STATE_CORRUPT: {
    status: 'DATA_LOSS',
    message:
      'cannot use the key: its stored state failed verification and was not applied; operators ' +
      'have been alerted',
  },
  ALERT_SILENCES_CORRUPT: {
    status: 'DATA_LOSS',
    message:
      'cannot tell which alerts are silenced: the list failed verification, and counts as empty; ' +
      'set a silence to have it sealed again',
  },
  PENDING_OPERATION_CORRUPT: {
    status: 'DATA_LOSS',
    message:
      'cannot use the pending operation: what is stored of it failed verification and is not ' +
      'performed; operators have been alerted',
  },
  TOKEN_KEYS_CORRUPT: {
    status: 'DATA_LOSS',
    message:
      'cannot tell which keys of the token are current: what is recorded of them failed ' +
      'verification and was not applied; operators have been alerted',
  },
  HSM_UNAVAILABLE: {
    status: 'UNAVAILABLE',
    message: 'cannot reach the HSM: no agent is ready; try again',
    retryAfterMs: 1000,
  },
  HSM_QUEUE_FULL: {
    status: 'RESOURCE_EXHAUSTED',
    message: 'cannot reach the HSM: too many calls are waiting for it; send fewer at once',
    retryAfterMs: 200,
  },
  DATABASE_UNAVAILABLE: {
    status: 'UNAVAILABLE',
    message: 'cannot reach the database: it does not answer; try again',
    retryAfterMs: 1000,
  },
  DATABASE_POOL_EXHAUSTED: {
    status: 'RESOURCE_EXHAUSTED',
    message: 'cannot reach the database: too many calls are waiting for it; send fewer at once',
    retryAfterMs: 200,
  },
  AUDIT_UNAVAILABLE: {
    status: 'UNAVAILABLE',
    message:
      'cannot answer the call: it could not be recorded in the audit log, so it was not ' +
      'performed; try again',
    retryAfterMs: 500,
  },
  AUDIT_ENTRIES_DROPPED: {
    status: 'FAILED_PRECONDITION',
    message: 'cannot read the audit entries: they were exported and dropped; look in the export',
  },
  COSIGNATURE_REFUSED: {
    status: 'INVALID_ARGUMENT',
    message:
      'cannot accept the note: a cosignature failed verification, none is of a configured ' +
      'witness, or the log did not sign the checkpoint',
  },
  REPLICA_STALE: {
    status: 'UNAVAILABLE',
    message: 'cannot answer from memory: this replica has not received recent changes; try again',
    retryAfterMs: 500,
  },
  SERVER_STOPPING: {
    status: 'UNAVAILABLE',
    message: 'cannot finish the call: the server is stopping; call again',
    retryAfterMs: 100,
  },
  DEADLINE_EXCEEDED: {
    status: 'DEADLINE_EXCEEDED',
    message: 'cannot finish the call: its deadline has passed; a change may still have been made',
  },
  CALL_CANCELLED: {
    status: 'CANCELLED',
    message: 'cannot finish the call: the caller cancelled it; a change may still have been made',
  },
  INTERNAL: {
    status: 'INTERNAL',
    message:
      'cannot finish the call: an internal error occurred; the server’s log has it under this ' +
      'request id',
  },
} as const satisfies Record<string, ReasonRow>;

/** Names a reason for failure, stable across releases. */
export type Reason = keyof typeof REASONS;

/** Names one field of a request that is not valid, and tells the caller why. */
export interface FieldViolation {
  readonly field: string;
  readonly description: string;
}

interface KeywardErrorOptions {
  /**
   * Replaces the reason's own message. The caller reads it, so it must not reveal other tenants or
   * secrets.
   */
  readonly message?: string;
  readonly fields?: readonly FieldViolation[];
  /** Facts for programs, sent as `ErrorInfo.metadata`. */
  readonly metadata?: Readonly<Record<string, string>>;
  /** Replaces the `retryAfterMs` of the reason's row. */
  readonly retryAfterMs?: number;
  /** Kept for the log only. */
  readonly cause?: unknown;
}

/**
 * Reports a failure by a reason of {@link REASONS}. Whatever else is thrown becomes INTERNAL.
 */
export class KeywardError extends Error {
  override readonly name = 'KeywardError';
  readonly reason: Reason;
  readonly fields: readonly FieldViolation[];
  readonly metadata: Readonly<Record<string, string>>;
  /** Milliseconds before a retry can succeed, at the earliest; undefined if it cannot. */
  readonly retryAfterMs: number | undefined;

  constructor(reason: Reason, options: KeywardErrorOptions = {}) {
    super(options.message ?? REASONS[reason].message, { cause: options.cause });
    this.reason = reason;
    this.fields = options.fields ?? [];
    this.metadata = options.metadata ?? {};
    const row: ReasonRow = REASONS[reason];
    this.retryAfterMs = options.retryAfterMs ?? row.retryAfterMs;
  }
}

/**
 * What most calls get while there are too many: made once, since its stack alone is a tenth of what
 * it costs to refuse a call (measured).
 */
export const SERVER_BUSY = new KeywardError('SERVER_BUSY');

/** Returns whatever was thrown as a {@link KeywardError}: INTERNAL, unless it is one. */
export function toKeywardError(error: unknown): KeywardError {
  return error instanceof KeywardError ? error : new KeywardError('INTERNAL', { cause: error });
}

/** Returns the error for one field that is not valid; `field` is spelled as in the request. */
export function invalidField(field: string, description: string): KeywardError {
  return new KeywardError('INVALID_FIELD', {
    message: `${field}: ${description}`,
    fields: [{ field, description }],
  });
}

/**
 * Returns the error for a quota that is used up; `quota` is its name in the contract, and
 * `retryAfterMs` when there is room again without a change by the caller.
 */
export function quotaExceeded(quota: string, limit: number, retryAfterMs?: number): KeywardError {
  return new KeywardError('QUOTA_EXCEEDED', {
    message: `cannot perform the call: the tenant’s quota of ${quota} is used up (${limit})`,
    metadata: { quota, limit: String(limit) },
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
  });
}
