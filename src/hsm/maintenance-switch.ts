/**
 * The switch for incidents, as bytes: what its seal is computed over, behind what `record-seal.ts`
 * puts before it.
 *
 * Owns this encoding alone. Invariant: two states of the switch have one encoding only if they are
 * the same.
 */

/** The switch as it was set. */
export interface MaintenanceSwitch {
  /** Counts the changes. */
  readonly revision: bigint;
  readonly paused: boolean;
  /** In microseconds since 1970; null where nobody has set it. */
  readonly changedAt: bigint | null;
  readonly caller: string;
}

const HEAD_BYTES = 8 + 1 + 9;

/** u64 revision ‖ u8 paused ‖ time (9) ‖ caller. Throws RangeError for what no switch can be. */
export function encodeMaintenanceSwitch(at: MaintenanceSwitch): Buffer {
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeBigUInt64BE(at.revision, 0);
  head.writeUInt8(at.paused ? 1 : 0, 8);
  if (at.changedAt !== null) {
    head.writeUInt8(1, 9);
    head.writeBigInt64BE(at.changedAt, 10);
  }
  return Buffer.concat([head, Buffer.from(at.caller, 'utf8')]);
}
