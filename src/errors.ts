/**
 * The one error type that crosses module boundaries, and the one table of reasons for failure.
 *
 * Owns which reasons exist, which gRPC status each has, what it says, and whether trying again can
 * help. Programs act on the reason, never on the message. Knows nothing of gRPC's wire
 * (`faces/grpc/status.ts` does the mapping) and nothing of what went wrong underneath: a cause is kept for
 * the log and never reaches a caller.
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
  /** What the caller reads unless the error brings a message of its own. */
  readonly message: string;
  /** When trying the same call again can help: after how many milliseconds at the earliest. */
  readonly retryAfterMs?: number;
  /** Whether it can depends: each error says for itself. */
  readonly retryVaries?: true;
}

/** Every reason for failure; docs/errors.md lists the same, and a test compares them. */
export const REASONS = {
  INVALID_FIELD: { status: 'INVALID_ARGUMENT', message: 'A field of the request is not valid.' },
  MALFORMED_REQUEST: {
    status: 'INVALID_ARGUMENT',
    message: 'The request is not one message of the kind that the method takes.',
  },
  MESSAGE_COUNT_WRONG: {
    status: 'UNIMPLEMENTED',
    message: 'The method takes exactly one message; the call brought none, or more than one.',
  },
  MESSAGE_TOO_LARGE: {
    status: 'RESOURCE_EXHAUSTED',
    message: 'The request is larger than the method takes.',
  },
  METHOD_UNKNOWN: { status: 'UNIMPLEMENTED', message: 'There is no such method.' },
  COMPRESSION_NOT_SUPPORTED: {
    status: 'UNIMPLEMENTED',
    message: 'Compressed messages are not taken: send them as they are.',
  },
  CREDENTIALS_MISSING: {
    status: 'UNAUTHENTICATED',
    message: 'The call brings neither a client certificate nor a token.',
  },
  CREDENTIALS_INVALID: {
    status: 'UNAUTHENTICATED',
    message: 'The token or the certificate of the call is not accepted. The log says why.',
  },
  TOKEN_NOT_BOUND: {
    status: 'UNAUTHENTICATED',
    message:
      'The token is not bound to the connection’s certificate, or to one that the connection lacks.',
  },
  CERTIFICATE_DENIED: {
    status: 'UNAUTHENTICATED',
    message: 'The client certificate is on the deny list.',
  },
  PERMISSION_MISSING: {
    status: 'PERMISSION_DENIED',
    message: 'The caller has no role that allows this.',
  },
  ISSUER_UNAVAILABLE: {
    status: 'UNAVAILABLE',
    message: 'The keys of the token’s issuer can not be had now.',
    retryAfterMs: 1000,
  },
  SERVER_BUSY: {
    status: 'RESOURCE_EXHAUSTED',
    message: 'The server has as many calls under way as it takes.',
    retryAfterMs: 200,
  },
  QUOTA_EXCEEDED: {
    status: 'RESOURCE_EXHAUSTED',
    message: 'The tenant has used up its quota.',
    retryVaries: true,
  },
  DECRYPTION_FAILED: {
    status: 'INVALID_ARGUMENT',
    message: 'The ciphertext does not open with this tenant, key and encryption context.',
  },
  CHECKSUM_MISMATCH: {
    status: 'INVALID_ARGUMENT',
    message: 'A checksum does not match its bytes: they changed on their way.',
    retryAfterMs: 0,
  },
  REQUEST_ID_REUSED: {
    status: 'INVALID_ARGUMENT',
    message: 'The request id was used for another request.',
  },
  RESOURCE_NOT_FOUND: { status: 'NOT_FOUND', message: 'There is no such resource.' },
  RESOURCE_EXISTS: { status: 'ALREADY_EXISTS', message: 'A resource of that name exists already.' },
  TENANT_DISABLED: { status: 'FAILED_PRECONDITION', message: 'The tenant is disabled.' },
  KEY_NOT_ENABLED: { status: 'FAILED_PRECONDITION', message: 'The key is not enabled.' },
  KEY_VERSION_NOT_ENABLED: {
    status: 'FAILED_PRECONDITION',
    message: 'The key version is not enabled.',
  },
  KEY_VERSION_IS_PRIMARY: {
    status: 'FAILED_PRECONDITION',
    message:
      'The primary version can not be destroyed alone: rotate the key first, or destroy the whole key.',
  },
  KEY_VERSION_IN_USE: {
    status: 'FAILED_PRECONDITION',
    message: 'Stored data keys are wrapped under the key version: re-wrap them first.',
  },
  DESTRUCTION_UNDER_WAY: {
    status: 'FAILED_PRECONDITION',
    message: 'It is scheduled for destruction, or destroyed.',
  },
  DESTRUCTION_NOT_SCHEDULED: {
    status: 'FAILED_PRECONDITION',
    message: 'It is not scheduled for destruction, so there is nothing to restore.',
  },
  SEPARATION_OF_DUTIES: {
    status: 'FAILED_PRECONDITION',
    message:
      'The member would both administer and use a key. Where that is meant, set override_separation_of_duties.',
  },
  ROLE_IN_USE: {
    status: 'FAILED_PRECONDITION',
    message: 'Role bindings give the role: delete them first.',
  },
  POLICY_FULL: {
    status: 'FAILED_PRECONDITION',
    message: 'The tenant has as many role bindings, or roles of its own, as it can have.',
  },
  TOKEN_KEY_NOT_READY: {
    status: 'UNAVAILABLE',
    message: 'The tenant’s root key is being made or replaced in the HSM.',
    retryAfterMs: 500,
  },
  TOKEN_KEY_ROTATION_UNDER_WAY: {
    status: 'FAILED_PRECONDITION',
    message: 'Another key is on its way to take this one’s place.',
  },
  TENANT_SHARES_ROOT_KEY: {
    status: 'FAILED_PRECONDITION',
    message: 'The tenant has no root key of its own: rotate that of tenants/system.',
  },
  ETAG_MISMATCH: {
    status: 'ABORTED',
    message: 'The resource has changed since the etag was given: read it again.',
  },
  CONFLICT: {
    status: 'ABORTED',
    message: 'Another change to the same resource came first.',
    retryAfterMs: 100,
  },
  STORED_ROW_CORRUPT: {
    status: 'DATA_LOSS',
    message: 'A stored key version does not verify and was not used. Operators have been alerted.',
  },
  POLICY_CORRUPT: {
    status: 'DATA_LOSS',
    message:
      'Who may do what in this tenant does not verify and was not obeyed. Operators have been alerted.',
  },
  KEY_STATE_CORRUPT: {
    status: 'DATA_LOSS',
    message:
      'What is stored of the key’s state does not verify and was not obeyed. Operators have been alerted.',
  },
  HSM_UNAVAILABLE: {
    status: 'UNAVAILABLE',
    message: 'No HSM agent can do this now.',
    retryAfterMs: 1000,
  },
  HSM_QUEUE_FULL: {
    status: 'RESOURCE_EXHAUSTED',
    message: 'Too many calls are waiting for the HSM.',
    retryAfterMs: 200,
  },
  DATABASE_UNAVAILABLE: {
    status: 'UNAVAILABLE',
    message: 'The database does not answer now.',
    retryAfterMs: 1000,
  },
  DATABASE_POOL_EXHAUSTED: {
    status: 'RESOURCE_EXHAUSTED',
    message: 'Too many calls are waiting for the database.',
    retryAfterMs: 200,
  },
  AUDIT_UNAVAILABLE: {
    status: 'UNAVAILABLE',
    message: 'The call can not be recorded in the audit log now, so nothing comes of it.',
    retryAfterMs: 500,
  },
  AUDIT_ENTRIES_DROPPED: {
    status: 'FAILED_PRECONDITION',
    message: 'Entries from before the first one that is kept were exported and dropped.',
  },
  COSIGNATURE_REFUSED: {
    status: 'INVALID_ARGUMENT',
    message: 'The note has no cosignature of a configured witness, or one that does not verify.',
  },
  REPLICA_STALE: {
    status: 'UNAVAILABLE',
    message: 'This replica has not heard of recent changes and does not answer from memory.',
    retryAfterMs: 500,
  },
  SERVER_STOPPING: {
    status: 'UNAVAILABLE',
    message: 'The server is stopping: another one, or this one when it is back, goes on.',
    retryAfterMs: 100,
  },
  DEADLINE_EXCEEDED: {
    status: 'DEADLINE_EXCEEDED',
    message: 'The call was not finished by its deadline.',
  },
  CALL_CANCELLED: { status: 'CANCELLED', message: 'The caller cancelled the call.' },
  INTERNAL: {
    status: 'INTERNAL',
    message: 'Something went wrong inside the service; the log has it under this request id.',
  },
} as const satisfies Record<string, ReasonRow>;

/** A reason for failure, stable across releases. */
export type Reason = keyof typeof REASONS;

/** One field of a request that is not valid, and why, in words for the caller. */
export interface FieldViolation {
  readonly field: string;
  readonly description: string;
}

interface KeywardErrorOptions {
  /**
   * Replaces the reason's own message; the caller reads it, so it says nothing about other tenants
   * or secrets.
   */
  readonly message?: string;
  readonly fields?: readonly FieldViolation[];
  /** Facts for programs, sent as ErrorInfo.metadata. */
  readonly metadata?: Readonly<Record<string, string>>;
  /** For a reason whose row says that this varies. */
  readonly retryAfterMs?: number;
  /** For the log only. */
  readonly cause?: unknown;
}

/**
 * A failure with a reason out of {@link REASONS}. Everything else that is thrown becomes INTERNAL.
 */
export class KeywardError extends Error {
  override readonly name = 'KeywardError';
  readonly reason: Reason;
  readonly fields: readonly FieldViolation[];
  readonly metadata: Readonly<Record<string, string>>;
  /** When trying again can help: after how many milliseconds at the earliest. */
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

/** Returns whatever was thrown as a {@link KeywardError}: INTERNAL, unless it is one. */
export function toKeywardError(error: unknown): KeywardError {
  return error instanceof KeywardError ? error : new KeywardError('INTERNAL', { cause: error });
}

/**
 * The error for one field of a request that is not valid: `field` in the request's own spelling.
 */
export function invalidField(field: string, description: string): KeywardError {
  return new KeywardError('INVALID_FIELD', {
    message: `${field}: ${description}`,
    fields: [{ field, description }],
  });
}

/**
 * The error for a quota that is used up, by its name in the contract. `retryAfterMs`: when there is
 * room again by itself.
 */
export function quotaExceeded(quota: string, limit: number, retryAfterMs?: number): KeywardError {
  return new KeywardError('QUOTA_EXCEEDED', {
    message: `The tenant has used up its quota of ${quota}, which is ${limit}.`,
    metadata: { quota, limit: String(limit) },
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
  });
}
