/**
 * The requests and responses of the public API, in friendly types.
 *
 * Most are generated from `proto/keyward/v1`, with its comments: field names are in camel case,
 * times are `Date`, durations numbers of seconds and named so; what is absent in an answer is
 * `undefined`. Limits are checked by the service, in one place, and not here. Owns what the
 * contract has no word for.
 */
import type { KeywardError } from './errors.ts';
import type { ListAuditEntriesRequest } from './generated/messages.ts';

export type * from './generated/messages.ts';

/** A `Map`, or an object's own enumerable properties, whatever their names. */
export type Strings = Readonly<Record<string, string>> | ReadonlyMap<string, string>;

/**
 * Strings that are authenticated but not secret, and must be given again, identical, to decrypt.
 * Order doesn't matter; absent is the same as empty.
 */
export type EncryptionContext = Strings;

/** What became of one item: the answer, or the error that the same call alone would have had. */
export type BatchResult<Response> =
  | { readonly response: Response }
  | { readonly error: KeywardError };

/** Which entries, in what is listed or read. */
export type AuditSelection = Pick<ListAuditEntriesRequest, 'parent' | 'filter'>;

/** What an entry says. A newer service may say more. */
export interface AuditEntryContent {
  /** The version of the format: 1, or a later one, which has these members too. */
  readonly v: number;
  readonly id: string;
  /** When it was decided, in RFC 3339. */
  readonly time: string;
  /** The tenant's name alone, as in `acme`; `system` for what is no tenant's. */
  readonly tenant: string;
  /** Its UUID; absent where there is no tenant of that name, and in entries of earlier releases. */
  readonly tenantId?: string;
  readonly requestId?: string;
  /** The trace that its caller had it be part of, or that the service has it in. */
  readonly traceId?: string;
  readonly replica?: string;
  readonly caller?: string;
  /** SHA-256 of the certificate (DER), base64url. */
  readonly certificate?: string;
  readonly token?: { readonly issuer: string; readonly id?: string };
  readonly address?: string;
  /** In full, as in `keyward.v1.EncryptionService/Encrypt`. */
  readonly method: string;
  readonly resource?: string;
  /** The UUID of the key that it is about, once it was found. */
  readonly keyId?: string;
  /** The full name of the key version that was used. */
  readonly keyVersion?: string;
  /** The encryption context's names, and masks of their values in hexadecimal, or null. */
  readonly context?: Readonly<Record<string, string | null>>;
  /** The month of the masks' key: masks of different months can't be compared. */
  readonly maskPeriod?: string;
  readonly decision?: 'allowed' | 'denied';
  /** The binding that has allowed it. */
  readonly binding?: string;
  /** `OK`, or the reason for failure. */
  readonly outcome: string;
  readonly durationMs?: number;
  /** A batch's items; of one that is too large, the first. */
  readonly items?: readonly object[];
  /** Of a batch that is too large: how many items it had. */
  readonly itemCount?: number;
  /** Of a batch that is too large: SHA-256 of all items as JSON, in hexadecimal. */
  readonly itemsSha256?: string;
  /** Of a batch that is too large: all items without their contexts, those that are alike once. */
  readonly itemGroups?: readonly object[];
  /** How many items are in no group. */
  readonly itemsLeftOut?: number;
  /** What was changed. */
  readonly change?: AuditChange;
  /** How many refusals it stands for, where that isn't one. */
  readonly count?: number;
  readonly detail?: unknown;
}

/** What an audit entry says of a change (docs/audit.md). */
export interface AuditChange {
  /** As `roleBinding`, `key` or `tenant`. */
  readonly kind: string;
  /** Absent where it was not there. */
  readonly before?: Readonly<Record<string, unknown>>;
  /** Absent where it is not there any more. */
  readonly after?: Readonly<Record<string, unknown>>;
  /** Of a key: those of its versions that were changed. */
  readonly versions?: readonly {
    readonly version: number;
    readonly before?: Readonly<Record<string, unknown>>;
    readonly after?: Readonly<Record<string, unknown>>;
  }[];
  /** Of a key that was rotated: why. */
  readonly cause?: string;
  /** How many stored data keys went with it. */
  readonly storedDataKeys?: number;
  /** Of a role binding or a role: the revision of the tenant's policy after the change. */
  readonly policyRevision?: string;
}
