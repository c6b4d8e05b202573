/**
 * What is sealed and signed when people decide on an operation, to the byte: the record of a
 * pending operation, of a passkey and of a decision, and the challenge that a passkey signs.
 *
 * - A record's content is a JSON array in UTF-8, its fields in the order of this file: bytes as
 *   base64url without padding, times as milliseconds since 1970, revisions as decimal text.
 * - Two records that differ in anything differ in content, and a content that is read is written
 *   again as the same bytes; any other is refused.
 *
 * Server and agents use it alike. Holds no key, and verifies nothing.
 */
import { hash } from 'node:crypto';
import {
  type AnyId,
  type EnvironmentId,
  idToBytes,
  type OperationId,
  type TenantId,
} from '../ids.ts';

/** The signature algorithms of passkeys, by their COSE numbers (RFC 9053). */
export const PASSKEY_ALGORITHMS = { ES256: -7, EdDSA: -8, RS256: -257 } as const;

/** The states that a pending operation can be in. */
export const PENDING_OPERATION_STATES = [
  'PENDING',
  'APPROVED',
  'DONE',
  'FAILED',
  'REJECTED',
  'CANCELLED',
  'EXPIRED',
] as const;

/** Names the state of a pending operation. */
export type PendingOperationState = (typeof PENDING_OPERATION_STATES)[number];

const DECISIONS = ['approve', 'reject'] as const;
/** What a person decides. */
export type Decision = (typeof DECISIONS)[number];

const APPROVER_KINDS = ['principal', 'group'] as const;

/** Who may approve: a caller by name, or a group's members. */
export interface Approver {
  readonly kind: (typeof APPROVER_KINDS)[number];
  readonly name: string;
}

/** The part of an approval rule that a pending operation was made by. */
export interface RuleRecord {
  /** The tenant whose rule it is. */
  readonly tenant: string;
  readonly ruleId: string;
  readonly approvals: number;
  /** Empty where everyone may who has the permission. */
  readonly approvers: readonly Approver[];
}

/** An operation that waits for approval, as it is sealed. */
export interface PendingOperationRecord {
  readonly operationId: OperationId;
  readonly tenantId: TenantId;
  /** Counts the changes of the record. */
  readonly revision: bigint;
  readonly state: PendingOperationState;
  /** As `keyward.v1.KeyService/DestroyKey`. */
  readonly method: string;
  /** What its requester needs. */
  readonly permission: string;
  readonly resource: string;
  /** SHA-256 of the canonical request. */
  readonly requestDigest: Buffer;
  /** SHA-256 of what approvers are shown of its effect; undefined where they are shown none. */
  readonly previewDigest: Buffer | undefined;
  readonly requester: string;
  readonly requesterGroups: readonly string[];
  /** The only tenants that the requester's token was good for; undefined for no such limit. */
  readonly requesterTenants: readonly string[] | undefined;
  readonly rule: RuleRecord;
  /** Whether `rule` is one for emergencies. */
  readonly isGlassBroken: boolean;
  /** Those who have decided, as they came. */
  readonly deciders: readonly DeciderRecord[];
  readonly createdAt: Date;
  readonly expiresAt: Date;
}

/** Someone who has decided, as far as their rights depend on it. */
export interface DeciderRecord {
  readonly name: string;
  readonly groups: readonly string[];
  /** The only tenants that their token was good for; undefined for no such limit. */
  readonly tenants: readonly string[] | undefined;
}

/** A person's passkey, as it is sealed. */
export interface PasskeyRecord {
  readonly credentialId: Buffer;
  /** The caller whose passkey it is, by name. */
  readonly principal: string;
  /** One of {@link PASSKEY_ALGORITHMS}. */
  readonly algorithm: number;
  /** SPKI, DER. */
  readonly publicKey: Buffer;
  readonly signCount: number;
  /** Whether the authenticator may copy it to other devices; otherwise it is device-bound. */
  readonly isBackupEligible: boolean;
  readonly relyingPartyId: string;
  /** The authenticator's model: a UUID. */
  readonly aaguid: AnyId;
  /** `none`, or the format of the attestation that verified under a configured root. */
  readonly attestation: string;
  readonly displayName: string;
  readonly createdAt: Date;
  /** When a decision was last made with it. */
  readonly lastUsedAt: Date | undefined;
  readonly isRemoved: boolean;
  /** Counts the changes of the record. */
  readonly revision: bigint;
}

/** What a person has decided on a pending operation, as it is sealed. */
export interface DecisionRecord {
  readonly operationId: OperationId;
  readonly decision: Decision;
  /** The caller who decided, by name. */
  readonly approver: string;
  readonly credentialId: Buffer;
  /** What was signed: {@link challengeOf}. */
  readonly challenge: Buffer;
  /** Of the assertion: {@link assertionDigestOf}. */
  readonly assertionDigest: Buffer;
  readonly decidedAt: Date;
}

/** What an authenticator answers when it signs (WebAuthn Level 3, section 5.2.2). */
export interface Assertion {
  readonly clientDataJson: Buffer;
  readonly authenticatorData: Buffer;
  readonly signature: Buffer;
}

/** What a challenge is made of. */
export interface ChallengeInput {
  readonly environmentId: EnvironmentId;
  readonly operationId: OperationId;
  readonly method: string;
  /** SHA-256 of the canonical request. */
  readonly requestDigest: Buffer;
  readonly requester: string;
  readonly decision: Decision;
  readonly expiresAt: Date;
}

const CHALLENGE_LABEL = Buffer.from('keyward/v1/approval\0', 'latin1');
const DIGEST_BYTES = 32;
/** How a decision is written in a challenge, and told to agents. */
export const DECISION_CODE = { approve: 1, reject: 2 } as const satisfies Record<Decision, number>;

/**
 * Returns the challenge that is signed to decide, big-endian:
 *
 * ```
 * SHA-256( "keyward/v1/approval" 00 ‖ environment UUID (16) ‖ operation UUID (16) ‖
 *          u16 length ‖ method ‖ SHA-256(canonical request) (32) ‖ u16 length ‖ requester ‖
 *          u8 decision (1 approve, 2 reject) ‖ u64 expiry, in milliseconds since 1970 )
 * ```
 *
 * Throws RangeError for what has no such form.
 */
export function challengeOf(input: ChallengeInput): Buffer {
  if (input.requestDigest.length !== DIGEST_BYTES)
    throw new RangeError('the digest of a request has 32 bytes');
  const end = Buffer.alloc(9);
  end.writeUInt8(DECISION_CODE[input.decision], 0);
  end.writeBigUInt64BE(BigInt(input.expiresAt.getTime()), 1);
  const text = Buffer.concat([
    CHALLENGE_LABEL,
    idToBytes(input.environmentId),
    idToBytes(input.operationId),
    ...withLength(input.method),
    input.requestDigest,
    ...withLength(input.requester),
    end,
  ]);
  return hash('sha256', text, 'buffer');
}

function withLength(text: string): Buffer[] {
  const bytes = Buffer.from(text, 'utf8');
  const length = Buffer.alloc(2);
  length.writeUInt16BE(bytes.length);
  return [length, bytes];
}

/**
 * Returns the digest of an assertion: SHA-256 over client data, authenticator data and signature,
 * each after its length (u32, big-endian).
 */
export function assertionDigestOf(assertion: Assertion): Buffer {
  const { clientDataJson, authenticatorData, signature } = assertion;
  const parts = [clientDataJson, authenticatorData, signature].flatMap((part) => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(part.length);
    return [length, part];
  });
  return hash('sha256', Buffer.concat(parts), 'buffer');
}

/** How one kind of value is written in a record's array; reading throws RangeError. */
interface Column<T> {
  write(value: T): unknown;
  read(json: unknown): T;
}
type Columns = Readonly<Record<string, Column<unknown>>>;
type RecordOf<C> = { readonly [K in keyof C]: C[K] extends Column<infer T> ? T : never };

const text: Column<string> = { write: (value) => value, read: (json) => string(json) };
const flag: Column<boolean> = {
  write: (value) => value,
  read: (json) => (typeof json === 'boolean' ? json : refuse()),
};
const integer: Column<number> = { write: safeInteger, read: safeInteger };
const time: Column<Date> = {
  write: (value) => safeInteger(value.getTime()),
  read: (json) => new Date(safeInteger(json)),
};
const revision: Column<bigint> = {
  write: (value) => String(value),
  read: (json) => (/^[0-9]{1,19}$/.test(string(json)) ? BigInt(string(json)) : refuse()),
};
const octets: Column<Buffer> = {
  write: (value) => value.toString('base64url'),
  read: (json) => Buffer.from(string(json), 'base64url'),
};
function uuid<Id extends AnyId>(): Column<Id> {
  const form = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
  return {
    write: (value) => value,
    read: (json) => (form.test(string(json)) ? (json as Id) : refuse()),
  };
}
function oneOf<const T extends string>(values: readonly T[]): Column<T> {
  return {
    write: (value) => value,
    read: (json) => values.find((value) => value === json) ?? refuse(),
  };
}
function list<T>(item: Column<T>): Column<readonly T[]> {
  return {
    write: (values) => values.map((value) => item.write(value)),
    read: (json) => array(json).map((value) => item.read(value)),
  };
}
function optional<T>(column: Column<T>): Column<T | undefined> {
  return {
    write: (value) => (value === undefined ? null : column.write(value)),
    read: (json) => (json === null ? undefined : column.read(json)),
  };
}
function record<const C extends { readonly [name: string]: unknown }>(
  columns: C,
): Column<RecordOf<C>> {
  const entries = Object.entries(columns as unknown as Columns) as [keyof C, Column<unknown>][];
  return {
    write: (value) => entries.map(([name, column]) => column.write(value[name])),
    read: (json) => {
      const values = array(json);
      if (values.length !== entries.length) refuse();
      const read: Partial<Record<keyof C, unknown>> = {};
      for (const [index, [name, column]] of entries.entries())
        read[name] = column.read(values[index]);
      return read as RecordOf<C>;
    },
  };
}

const PENDING_OPERATION: Column<PendingOperationRecord> = record({
  operationId: uuid<OperationId>(),
  tenantId: uuid<TenantId>(),
  revision,
  state: oneOf(PENDING_OPERATION_STATES),
  method: text,
  permission: text,
  resource: text,
  requestDigest: octets,
  previewDigest: optional(octets),
  requester: text,
  requesterGroups: list(text),
  requesterTenants: optional(list(text)),
  rule: record({
    tenant: text,
    ruleId: text,
    approvals: integer,
    approvers: list(record({ kind: oneOf(APPROVER_KINDS), name: text })),
  }),
  isGlassBroken: flag,
  deciders: list(record({ name: text, groups: list(text), tenants: optional(list(text)) })),
  createdAt: time,
  expiresAt: time,
});

const PASSKEY: Column<PasskeyRecord> = record({
  credentialId: octets,
  principal: text,
  algorithm: integer,
  publicKey: octets,
  signCount: integer,
  isBackupEligible: flag,
  relyingPartyId: text,
  aaguid: uuid<AnyId>(),
  attestation: text,
  displayName: text,
  createdAt: time,
  lastUsedAt: optional(time),
  isRemoved: flag,
  revision,
});

const DECISION: Column<DecisionRecord> = record({
  operationId: uuid<OperationId>(),
  decision: oneOf(DECISIONS),
  approver: text,
  credentialId: octets,
  challenge: octets,
  assertionDigest: octets,
  decidedAt: time,
});

/** Returns the content of a pending operation's seal. Throws RangeError for an invalid time. */
export function pendingOperationContent(operation: PendingOperationRecord): Buffer {
  return contentOf(PENDING_OPERATION, operation);
}

/** Returns the pending operation that a content is of. Throws RangeError for any other bytes. */
export function readPendingOperation(content: Buffer): PendingOperationRecord {
  return readContent(PENDING_OPERATION, content);
}

/** Returns the content of a passkey's seal. Throws RangeError for an invalid time. */
export function passkeyContent(passkey: PasskeyRecord): Buffer {
  return contentOf(PASSKEY, passkey);
}

/** Returns the passkey that a content is of. Throws RangeError for any other bytes. */
export function readPasskey(content: Buffer): PasskeyRecord {
  return readContent(PASSKEY, content);
}

/** Returns the content of a decision's seal. Throws RangeError for an invalid time. */
export function decisionContent(decision: DecisionRecord): Buffer {
  return contentOf(DECISION, decision);
}

/** Returns the decision that a content is of. Throws RangeError for any other bytes. */
export function readDecision(content: Buffer): DecisionRecord {
  return readContent(DECISION, content);
}

function contentOf<T>(column: Column<T>, value: T): Buffer {
  return Buffer.from(JSON.stringify(column.write(value)), 'utf8');
}

function readContent<T>(column: Column<T>, content: Buffer): T {
  let json: unknown;
  try {
    json = JSON.parse(content.toString('utf8'));
  } catch {
    return refuse();
  }
  const value = column.read(json);
  return contentOf(column, value).equals(content) ? value : refuse();
}

function string(json: unknown): string {
  return typeof json === 'string' ? json : refuse();
}

function array(json: unknown): readonly unknown[] {
  return Array.isArray(json) ? json : refuse();
}

function safeInteger(json: unknown): number {
  return typeof json === 'number' && Number.isSafeInteger(json) ? json : refuse();
}

function refuse(): never {
  throw new RangeError('a record does not have the form of its kind');
}
