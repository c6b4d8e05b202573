/**
 * One call on its way through the service: who makes it, under which id, what it is, and until when
 * it may take.
 *
 * Made once by the wrapper in `calls/`, handed down as the first argument of whatever acts for a
 * caller, so that nothing acts for nobody. Knows nothing of gRPC. Deadlines are monotonic, so that
 * a clock that is set changes none, and they mean the same in every process of a machine
 * (CLOCK_MONOTONIC).
 */

/** Describes one call on its way through the service. */
export interface Call {
  /** UUID of the call, in every log line, audit entry and error about it. */
  readonly id: string;
  /** Full method name, as `keyward.v1.KeyService/CreateKey`. */
  readonly method: string;
  /** The authenticated caller, as audit entries name it. */
  readonly caller: string;
  /** When the call must be over, in {@link monotonicNow}'s milliseconds. */
  readonly deadline: number;
  /** Set when the caller gave the request an id, so that sending it again has no second effect. */
  readonly idempotency?: {
    /** A UUID of the caller's making. */
    readonly requestId: string;
    /** SHA-256 of the rest of the request: the id stands for this request and no other. */
    readonly fingerprint: Buffer;
  };
  /** What the call's audit entry is to say; absent for what the service does by itself. */
  readonly audit?: AuditNotes;
}

/**
 * What an audit entry says besides who did what to which resource: noted while the call goes on,
 * read when it is written.
 */
export interface AuditNotes {
  /** The process that served the call. */
  readonly replica?: string;
  /** SHA-256 of the caller's certificate, base64url. */
  readonly certificate?: string | undefined;
  /** The token that the caller came with, by its issuer's name and its own id. */
  readonly token?: { readonly issuer: string; readonly id: string | undefined } | undefined;
  /** The address that the call came from. */
  readonly address?: string | undefined;
  /** When it began, in {@link monotonicNow}'s milliseconds. */
  readonly startedAt?: number;
  decision?: 'allowed' | 'denied';
  /** The name of the binding that allowed it. */
  binding?: string;
  /** The full name of the key version that was used. */
  keyVersion?: string;
  /**
   * The names of the encryption context, each with its value's mask; null where that couldn't be
   * made.
   */
  context?: ReadonlyMap<string, string | null>;
  /** Under which period's key the masks were made. */
  maskPeriod?: string;
  /** A batch's items, in their order. */
  items?: AuditItem[];
  /** What else there is to say of this method. */
  detail?: Readonly<Record<string, unknown>>;
  /** Whether an entry with outcome OK is durable, in the transaction of what was changed. */
  isWritten?: boolean;
}

/** Notes something that {@link AuditNotes} has no member for. */
export function addDetail(audit: AuditNotes, more: Readonly<Record<string, unknown>>): void {
  audit.detail = { ...audit.detail, ...more };
}

/** An item of a batch, in the batch's entry. */
export interface AuditItem {
  readonly keyVersion?: string | undefined;
  readonly resource?: string | undefined;
  context?: ReadonlyMap<string, string | null>;
  readonly outcome: string;
}

/** Milliseconds of CLOCK_MONOTONIC, the same for every process of the machine. */
export function monotonicNow(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/** How many milliseconds are left until `deadline`, at least 0. */
export function millisecondsLeft(deadline: number): number {
  return Math.max(0, deadline - monotonicNow());
}
