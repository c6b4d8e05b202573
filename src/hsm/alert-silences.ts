/**
 * The list of silences, as bytes: what its seal is computed over, behind what `record-seal.ts` puts
 * before it.
 *
 * Owns this encoding alone. Invariant: two lists have one encoding only if they are the same.
 */

/** The list as it is kept. */
export interface AlertSilences {
  /** Counts the changes. */
  readonly revision: bigint;
  /** In JSON. */
  readonly content: string;
}

const HEAD_BYTES = 8;

/** u64 revision ‖ content. Throws RangeError for what no list can be. */
export function encodeAlertSilences({ revision, content }: AlertSilences): Buffer {
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeBigUInt64BE(revision, 0);
  return Buffer.concat([head, Buffer.from(content, 'utf8')]);
}
