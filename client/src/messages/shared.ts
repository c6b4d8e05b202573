/**
 * What requests have in common.
 */

/** A `Map`, or an object's own enumerable properties, whatever their names. */
export type Strings = Readonly<Record<string, string>> | ReadonlyMap<string, string>;

/**
 * Strings that are authenticated but not secret, and must be given again, identical, to decrypt.
 * Order doesn't matter; absent is the same as empty.
 */
export type EncryptionContext = Strings;

/** What every change also has. */
export interface Change {
  /**
   * A UUID (version 4): the same request with it, within 24 hours, has no further effect and gets
   * the answer anew. Absent: one of the client's making for each call, so that the client may try
   * again. Give your own to repeat the call yourself when its outcome is unknown.
   */
  readonly requestId?: string;
}

/** What a change to something that is there also has. */
export interface ChangeOfExisting extends Change {
  /**
   * As it was last seen: the change is refused with ETAG_MISMATCH when there has been another
   * since. Absent: whatever it is.
   */
  readonly etag?: string;
}

/** What every destruction also has. */
export interface Destruction extends Change {
  /** What the same request with `validateOnly` answered as the etag: must be given without it. */
  readonly etag?: string;
  /** After how many days: 7 to 120; absent means 30. */
  readonly windowDays?: number;
  /** Change nothing, only answer what would be lost. */
  readonly validateOnly?: boolean;
}

/** Which page of a list. */
export interface Page {
  /** 1 to 1,000; absent means 100. */
  readonly pageSize?: number;
  /** `nextPageToken` of the page before, from the same request; absent for the first. */
  readonly pageToken?: string;
}

/** Which page of a list, and of what. */
export interface FilteredPage extends Page {
  /**
   * As in `state = DISABLED AND labels.team = "payments"`; the contract has the grammar. Absent:
   * all.
   */
  readonly filter?: string;
}
