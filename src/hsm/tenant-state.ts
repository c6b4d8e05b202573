/**
 * A tenant as bytes: what its seal is computed over, behind what `record-seal.ts` puts before it.
 *
 * Owns this encoding alone. Invariant: two tenants have one encoding only if they are the same in
 * everything, so that a seal vouches for one state of one tenant under one name; and the revision
 * is in it, so that an older state is told from the newest.
 */
import { idFromBytes, idToBytes, type TenantId, UUID_BYTES } from '../ids.ts';

const STATE_CODES: ReadonlyMap<string, number> = new Map([
  ['ENABLED', 1],
  ['DISABLED', 2],
  ['SHRED_SCHEDULED', 3],
  ['SHREDDED', 4],
]);

/** All that there is of a tenant. Times are in microseconds since 1970; null is never, or none. */
export interface TenantState {
  readonly tenantId: TenantId;
  readonly name: string;
  readonly revision: bigint;
  readonly state: string;
  readonly dedicatedRootKey: boolean;
  readonly createdAt: bigint;
  readonly shredAt: bigint | null;
  readonly shreddedAt: bigint | null;
  readonly quotas: {
    readonly callsPerSecond: bigint | null;
    readonly keys: bigint | null;
    readonly storedDataKeys: bigint | null;
  };
  /** How often its approval rules were changed; null where none were ever set. */
  readonly approvalRulesRevision: bigint | null;
}

const HEAD_BYTES = 8 + 1 + 1;
const OPTIONAL_BYTES = 1 + 8;

/** What stays of a tenant for ever. */
export type TenantIdentity = Pick<TenantState, 'tenantId' | 'name'>;

/** What an agent has to know of a tenant to seal what it has become. */
export interface TenantHead extends TenantIdentity {
  readonly revision: bigint;
  readonly dedicatedRootKey: boolean;
  readonly createdAt: Buffer;
  /** 0 where none were ever set. */
  readonly approvalRulesRevision: bigint;
}

/** Which UUID a tenant's name has, as bytes: what an encoding of the tenant begins with. */
export function encodeTenantName({ tenantId, name }: TenantIdentity): Buffer {
  const bytes = Buffer.from(name, 'utf8');
  const length = Buffer.alloc(2);
  length.writeUInt16BE(bytes.length);
  return Buffer.concat([idToBytes(tenantId), length, bytes]);
}

/** Returns the tenant that an encoding is of. Throws RangeError for any other bytes. */
export function readTenantHead(content: Buffer): TenantHead {
  const nameEnd = UUID_BYTES + 2 + content.readUInt16BE(UUID_BYTES);
  const times = nameEnd + HEAD_BYTES;
  const rules = times + 6 * OPTIONAL_BYTES;
  if (content.length !== rules && content.length !== rules + OPTIONAL_BYTES)
    throw new RangeError('an encoding of a tenant has another length');
  return {
    tenantId: idFromBytes<TenantId>(content.subarray(0, UUID_BYTES)),
    name: content.subarray(UUID_BYTES + 2, nameEnd).toString('utf8'),
    revision: content.readBigUInt64BE(nameEnd),
    dedicatedRootKey: content.readUInt8(nameEnd + 9) === 1,
    createdAt: content.subarray(times, times + OPTIONAL_BYTES),
    approvalRulesRevision: content.length === rules ? 0n : content.readBigInt64BE(rules + 1),
  };
}

/** The tenant as bytes. Throws RangeError for what no tenant can be. */
export function encodeTenantState(tenant: TenantState): Buffer {
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeBigUInt64BE(tenant.revision, 0);
  head.writeUInt8(codeOf(tenant.state), 8);
  head.writeUInt8(tenant.dedicatedRootKey ? 1 : 0, 9);
  const { callsPerSecond, keys, storedDataKeys } = tenant.quotas;
  const { approvalRulesRevision: rules } = tenant;
  return Buffer.concat([
    encodeTenantName(tenant),
    head,
    ...[tenant.createdAt, tenant.shredAt, tenant.shreddedAt].map(optional),
    ...[callsPerSecond, keys, storedDataKeys].map(optional),
    // Older releases know none, and sealed without.
    ...(rules === null ? [] : [optional(rules)]),
  ]);
}

/** u8 1 ‖ i64; nine zeros for null. */
function optional(value: bigint | null): Buffer {
  const bytes = Buffer.alloc(OPTIONAL_BYTES);
  if (value === null) return bytes;
  bytes.writeUInt8(1, 0);
  bytes.writeBigInt64BE(value, 1);
  return bytes;
}

function codeOf(state: string): number {
  const code = STATE_CODES.get(state);
  if (code === undefined) throw new RangeError('there is no such state');
  return code;
}
