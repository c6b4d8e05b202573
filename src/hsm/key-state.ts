/**
 * How a key stands, as bytes: what the seal of its state is computed over, behind what
 * `record-seal.ts` puts before it.
 *
 * Owns this encoding alone. Invariant: two states have one encoding only if they are the same, so
 * that a seal vouches for one state of one key. Under it is all that says what may be done with a
 * key, and what the service does to it by itself: its name, its state and when it is to be
 * destroyed, which version is its primary, and the same of each of its versions, so that none can
 * be hidden or added; when it is rotated, and whether the service leaves it alone; within which
 * bounds agents keep keys of its epochs, if they do; and the revision, so that an older state is
 * told from the newest. Description and labels are not: they let nobody do anything.
 */
import { createHash } from 'node:crypto';
import { idToBytes, type KeyId, type TenantId } from '../ids.ts';

/** Of a key, and of a key version, as bytes. */
const STATE_CODES: ReadonlyMap<string, number> = new Map([
  ['ENABLED', 1],
  ['DISABLED', 2],
  ['DESTROY_SCHEDULED', 3],
  ['DESTROYED', 4],
]);

/** How one version of a key stands. */
export interface VersionState {
  readonly version: number;
  readonly state: string;
  /** When it is, or was, to be destroyed, in microseconds since 1970; null for never. */
  readonly destroyAt: bigint | null;
}

/** How a key stands. */
export interface KeyState {
  readonly tenantId: TenantId;
  readonly keyId: KeyId;
  readonly name: string;
  readonly revision: bigint;
  readonly state: string;
  /** As of a version. */
  readonly destroyAt: bigint | null;
  readonly primaryVersion: number;
  /** All of them, in the order of their numbers. */
  readonly versions: readonly VersionState[];
  readonly schedule: KeySchedule;
  /** Null: agents derive each message's key in the HSM. */
  readonly derivationEpoch: DerivationEpoch | null;
}

/** For how many messages, and for how many seconds, agents keep the key of an epoch. */
export interface DerivationEpoch {
  readonly maxMessages: number;
  readonly maxAgeSeconds: number;
}

/** What the service does to a key by itself, and when. Null: never. */
export interface KeySchedule {
  /** In seconds. */
  readonly rotationPeriod: bigint | null;
  /** In microseconds since 1970. */
  readonly nextRotationAt: bigint | null;
  readonly rotationUsageLimit: bigint | null;
  readonly maintenancePaused: boolean;
}

const TIME_BYTES = 9;
const VERSION_BYTES = 5 + TIME_BYTES;
const HEAD_BYTES = 8 + 1 + TIME_BYTES + 4;
const SCHEDULE_BYTES = 8 + TIME_BYTES + 8 + 1;

/**
 * The state as bytes, of the same length whatever the number of versions: of those it has the
 * SHA-256. Throws RangeError for what no key's state can be.
 */
export function encodeKeyState(state: KeyState): Buffer {
  return Buffer.concat([
    encodeFormerKeyState(state),
    encodeSchedule(state.schedule),
    encodeEpoch(state.derivationEpoch),
  ]);
}

/** As it was before schedules were under the seal. Throws as {@link encodeKeyState}. */
export function encodeFormerKeyState(
  state: Omit<KeyState, 'schedule' | 'derivationEpoch'>,
): Buffer {
  const name = Buffer.from(state.name, 'utf8');
  const length = Buffer.alloc(2);
  length.writeUInt16BE(name.length);
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeBigUInt64BE(state.revision, 0);
  head.writeUInt8(codeOf(state.state), 8);
  writeTime(head, 9, state.destroyAt);
  head.writeUInt32BE(state.primaryVersion, 9 + TIME_BYTES);
  const ids = [idToBytes(state.tenantId), idToBytes(state.keyId)];
  return Buffer.concat([...ids, length, name, head, digestOf(state.versions)]);
}

/** u64 seconds, zero for no period ‖ time ‖ u64 encryptions, zero for no limit ‖ u8 paused. */
function encodeSchedule(schedule: KeySchedule): Buffer {
  const bytes = Buffer.alloc(SCHEDULE_BYTES);
  bytes.writeBigUInt64BE(countOf(schedule.rotationPeriod), 0);
  writeTime(bytes, 8, schedule.nextRotationAt);
  bytes.writeBigUInt64BE(countOf(schedule.rotationUsageLimit), 8 + TIME_BYTES);
  bytes.writeUInt8(schedule.maintenancePaused ? 1 : 0, SCHEDULE_BYTES - 1);
  return bytes;
}

/** u32 messages ‖ u32 seconds; nothing for none, as before there were any. */
function encodeEpoch(epoch: DerivationEpoch | null): Buffer {
  if (epoch === null) return Buffer.alloc(0);
  const { maxMessages, maxAgeSeconds } = epoch;
  if (maxMessages < 1 || maxAgeSeconds < 1) throw new RangeError('there is no such epoch');
  const bytes = Buffer.alloc(8);
  bytes.writeUInt32BE(maxMessages, 0);
  bytes.writeUInt32BE(maxAgeSeconds, 4);
  return bytes;
}

function countOf(count: bigint | null): bigint {
  if (count === null) return 0n;
  if (count <= 0n) throw new RangeError('there is no such schedule');
  return count;
}

/** SHA-256(u32 n ‖ n × (u32 version ‖ u8 state ‖ time)). */
function digestOf(versions: readonly VersionState[]): Buffer {
  const bytes = Buffer.alloc(4 + versions.length * VERSION_BYTES);
  bytes.writeUInt32BE(versions.length);
  for (const [index, { version, state, destroyAt }] of versions.entries()) {
    const at = 4 + index * VERSION_BYTES;
    bytes.writeUInt32BE(version, at);
    bytes.writeUInt8(codeOf(state), at + 4);
    writeTime(bytes, at + 5, destroyAt);
  }
  return createHash('sha256').update(bytes).digest();
}

/** u8 1 ‖ i64 microseconds; nine zeros for never. */
function writeTime(target: Buffer, at: number, time: bigint | null): void {
  if (time === null) return;
  target.writeUInt8(1, at);
  target.writeBigInt64BE(time, at + 1);
}

function codeOf(state: string): number {
  const code = STATE_CODES.get(state);
  if (code === undefined) throw new RangeError('there is no such state');
  return code;
}
