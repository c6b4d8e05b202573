/**
 * The requests and responses of the public API, in friendly types.
 *
 * Most are generated from `proto/keyward/v1`, with its comments: field names are in camel case,
 * times are `Date`, durations numbers of seconds and named so; what is absent in an answer is
 * `undefined`. Limits are checked by the service, in one place, and not here. Owns what the
 * contract has no word for.
 */
import type { KeywardClientError } from './errors.ts';
import type { ListAuditEntriesRequest } from './generated/messages.ts';

export type * from './generated/messages.ts';

/** A `Map`, or an object's own enumerable properties, whatever their names. */
export type Strings = Readonly<Record<string, string>> | ReadonlyMap<string, string>;

/**
 * Strings that are authenticated but not secret, and must be given again, identical, to decrypt.
 * Order doesn't matter; absent is the same as empty.
 */
export type EncryptionContext = Strings;

/** Many requests of one kind in one call. */
export interface BatchRequest<Request> {
  /** The tenant that every item must be of: `tenants/{tenant}`. */
  readonly parent: string;
  /** 1 to 1,000, as many as one message holds. */
  readonly requests: readonly Request[];
}

/** What became of one item: the answer, or the error that the same call alone would have had. */
export type BatchResult<Response> =
  | { readonly response: Response }
  | { readonly error: KeywardClientError };

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
  readonly requestId?: string;
  readonly replica?: string;
  readonly caller?: string;
  /** SHA-256 of the certificate (DER), base64url. */
  readonly certificate?: string;
  readonly token?: { readonly issuer: string; readonly id?: string };
  readonly address?: string;
  /** In full, as in `keyward.v1.EncryptionService/Encrypt`. */
  readonly method: string;
  readonly resource?: string;
  /** The full name of the key version that was used. */
  readonly keyVersion?: string;
  /** The encryption context's names, and masks of their values in hexadecimal. */
  readonly context?: Readonly<Record<string, string | null>>;
  /** The month of the masks' key: masks of different months can't be compared. */
  readonly maskPeriod?: string;
  readonly decision?: 'allowed' | 'denied';
  /** The binding that has allowed it. */
  readonly binding?: string;
  /** `OK`, or the reason for failure. */
  readonly outcome: string;
  readonly durationMs?: number;
  /** A batch's items. */
  readonly items?: readonly object[];
  /** How many refusals it stands for, where that isn't one. */
  readonly count?: number;
  readonly detail?: unknown;
}
