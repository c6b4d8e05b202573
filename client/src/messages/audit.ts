/**
 * Requests and responses about the audit log: its entries, its signed checkpoints, its proofs, its
 * tiles.
 */

import type { Page } from './shared.ts';

/** An entry, as it is in the log. */
export interface AuditEntry {
  /** Its place in the log, from 0 on. */
  readonly leafIndex: number;
  /** The leaf, exactly as it is hashed: one JSON object in UTF-8. `readAuditEntry` reads it. */
  readonly leaf: Buffer;
}

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

/** Which entries, in what is listed or read. */
export interface AuditSelection {
  /** `tenants/{tenant}`, or `tenants/-` for all. */
  readonly parent: string;
  /**
   * As in `decision = denied AND outcome != RATE_LIMITED`; the contract has the grammar. Absent:
   * all.
   */
  readonly filter?: string;
}

/** Asks for entries, newest first. */
export interface ListAuditEntriesRequest extends AuditSelection, Page {
  /** Only those of this time or later. */
  readonly startTime?: Date;
  /** Only those from before this time. */
  readonly endTime?: Date;
}

/** One page of entries; it can be empty and not the last. */
export interface ListAuditEntriesResponse {
  readonly entries: readonly AuditEntry[];
  /** Absent on the last page: the empty string. */
  readonly nextPageToken: string;
}

/** Asks for entries from one on, oldest first. */
export interface ReadAuditEntriesRequest extends AuditSelection {
  readonly firstLeafIndex: number;
  /** Up to the entry before this one; absent: on and on, as they come. */
  readonly treeSize?: number;
}

/** Asks for the last signed checkpoint. */
export interface GetAuditCheckpointRequest {
  /** The last that has a witness's cosignature, instead of the last. */
  readonly cosigned?: boolean;
}

/** A signed statement of what the log is. */
export interface AuditCheckpoint {
  /** As a signed note, with cosignatures. */
  readonly note: string;
  readonly treeSize: number;
  readonly rootHash: Buffer;
  readonly signTime: Date;
  /** The environment's UUID. */
  readonly environmentId: string;
  /** PEM. Whoever doesn't trust the service has it from elsewhere. */
  readonly publicKey: string;
  /** The first entry that is kept. */
  readonly firstLeafIndex: number;
}

/** Hands witnesses' cosignatures to the log. */
export interface AddAuditCosignaturesRequest {
  /** A checkpoint's note with the cosignatures to add, or with them among others. */
  readonly note: string;
}

/** Asks for the proof that an entry is in a tree. */
export interface GetAuditInclusionProofRequest {
  readonly leafIndex: number;
  /** Absent: the last checkpoint's. */
  readonly treeSize?: number;
}

/** See `verifyAuditInclusion`. */
export interface AuditInclusionProof {
  readonly leafIndex: number;
  readonly treeSize: number;
  readonly leafHash: Buffer;
  /** From the leaf's sibling up. */
  readonly hashes: readonly Buffer[];
}

/** Asks for the proof that the tree of one size begins with that of another. */
export interface GetAuditConsistencyProofRequest {
  /** 1 or more. */
  readonly fromSize: number;
  /** Absent: the last checkpoint's. */
  readonly toSize?: number;
}

/** See `verifyAuditConsistency`. */
export interface AuditConsistencyProof {
  readonly fromSize: number;
  readonly toSize: number;
  readonly hashes: readonly Buffer[];
}

/** Asks for all hash tiles of a tree. */
export interface ReadAuditTilesRequest {
  /** Absent: the last checkpoint's. */
  readonly treeSize?: number;
}

/** `width` hashes of a level, one beside the other. */
export interface AuditTile {
  readonly level: number;
  /** Its place in the level. */
  readonly index: number;
  readonly width: number;
  readonly hashes: Buffer;
}
