/**
 * One call on its way through the service: who makes it, under which id, what it is, and until when
 * it may take.
 *
 * Made once by the wrapper in `calls/`, handed down as the first argument of whatever acts for a
 * caller, so that nothing acts for nobody. Knows nothing of gRPC. Deadlines are monotonic, so that
 * a clock that is set changes none, and they mean the same in every process of a machine
 * (CLOCK_MONOTONIC).
 */
import { randomUUID } from 'node:crypto';
import type { AnyId, OperationId, SealKeyId, TenantId } from './ids.ts';
import type { TraceContext } from './signals/trace-context.ts';

/** Who does what nobody asked for, in audit entries and in the history. */
export const SELF = 'keyward';

/** Describes one call on its way through the service. */
export interface Call {
  /** UUID of the call, in every log line, audit entry and error about it. */
  readonly id: string;
  /** Full method name, as `keyward.v1.KeyService/CreateKey`. */
  readonly method: string;
  /** The authenticated caller, as audit entries name it. */
  readonly caller: string;
  /** Which trace it is part of, if any. */
  readonly trace?: TraceContext | undefined;
  /** When the call must be over, in {@link monotonicNow}'s milliseconds. */
  readonly deadline: number;
  /** Set when the caller gave the request an id, so that sending it again has no second effect. */
  readonly idempotency?: {
    /** A UUID of the caller's making. */
    readonly requestId: string;
    /** SHA-256 of the rest of the request: the id stands for this request and no other. */
    readonly fingerprint: Buffer;
    /** Returns what is to be kept of the effect, by which the request is answered again. */
    keep(effect: Effect): Promise<KeptEffect>;
  };
  /** When its requester asked for it, of a call that has waited for the approval of others. */
  readonly requestedAt?: Date;
  /** By what others have approved it, for agents that want to see that. */
  readonly warrant?: Warrant;
  /** What the call's audit entry is to say; absent for what the service does by itself. */
  readonly audit?: AuditNotes;
}

/** Shows that people have approved a request: what they have signed, and what it says. */
export interface Warrant {
  readonly operationId: OperationId;
  readonly method: string;
  /** The canonical request. */
  readonly request: Buffer;
  readonly requester: string;
  readonly expiresAt: Date;
  /** Of those who have approved, each by a passkey of theirs. */
  readonly assertions: readonly {
    readonly credentialId: Buffer;
    readonly clientDataJson: Buffer;
    readonly authenticatorData: Buffer;
    readonly signature: Buffer;
  }[];
  /** The tenant that the call is about: which UUID has its name, by the seal of its row. */
  readonly tenant: SealedContent;
}

/** A record as it is sealed. */
export interface SealedContent {
  readonly content: Buffer;
  readonly sealKeyId: SealKeyId;
  readonly seal: Buffer;
}

/** What a mutation did. */
export interface Effect {
  /** The tenant that its row belongs to. */
  readonly tenantId: TenantId;
  /** What every replica must forget because of it. */
  readonly change?: { readonly kind: string; readonly subjectId: string } | undefined;
  /** The UUID of the key that it was about. */
  readonly keyId?: string | undefined;
  /** What the operation answers; absent where the answer is made again from `reference`. */
  readonly answer?: { readonly content: unknown } | undefined;
  readonly reference?: Reference | undefined;
}

/** What an answer is made again from: ids and numbers, and nothing secret. */
export type Reference = Readonly<Record<string, string | number>>;

/** An effect as it is kept. */
export interface KeptEffect {
  readonly effect: string;
  /** By which of the token's keys the key of `mac` was derived. */
  readonly maskKeyId: AnyId;
  readonly mac: Buffer;
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
  /** Whose log it belongs in, by the last part of its name, where the resource doesn't say so. */
  tenant?: string;
  /** The UUID of the tenant that the entry names. */
  tenantId?: string;
  /** The UUID of the key that the call is about, once it is found. */
  keyId?: string;
  /** The name of the binding that allowed it. */
  binding?: string;
  /** The names of the bindings that allowed what was asked for besides, by the permission. */
  otherBindings?: Readonly<Record<string, string>>;
  /** The full name of the key version that was used. */
  keyVersion?: string;
  /**
   * The names of the encryption context, each with its value's mask; null where that wasn't to be
   * made, or couldn't.
   */
  context?: ReadonlyMap<string, string | null>;
  /** The key version that something was opened with to be sealed again. */
  sourceKeyVersion?: string;
  /** The encryption context of that. */
  sourceContext?: ReadonlyMap<string, string | null>;
  /** Under which period's key the masks were made. */
  maskPeriod?: string;
  /** A batch's items, in their order. */
  items?: AuditItem[];
  /** What else there is to say of this method. */
  detail?: Readonly<Record<string, unknown>>;
  /** Whether an entry with outcome OK is durable, in the transaction of what was changed. */
  isWritten?: boolean;
  /** Whether a change was sent to be committed, and nobody knows what became of it. */
  isUncertain?: boolean;
  /** What is done once the entry is durable, unless the call fails. */
  onRecorded?: (() => void)[];
}

/**
 * Has something done once the call's entry is durable and its answer is to leave: at once where
 * that is so, or there is to be no entry.
 */
export function onceRecorded({ audit }: Pick<Call, 'audit'>, action: () => void): void {
  if (audit === undefined || audit.isWritten) action();
  else {
    audit.onRecorded ??= [];
    audit.onRecorded.push(action);
  }
}

/** Notes something that {@link AuditNotes} has no member for. */
export function addDetail(audit: AuditNotes, more: Readonly<Record<string, unknown>>): void {
  audit.detail = { ...audit.detail, ...more };
}

/** An item of a batch, in the batch's entry. */
export interface AuditItem {
  readonly keyVersion?: string | undefined;
  readonly sourceKeyVersion?: string | undefined;
  readonly resource?: string | undefined;
  context?: ReadonlyMap<string, string | null>;
  sourceContext?: ReadonlyMap<string, string | null>;
  /**
   * The names of the bindings that allowed it, by the permission, where they aren't the batch's.
   */
  readonly bindings?: Readonly<Record<string, string>> | undefined;
  readonly outcome: string;
}

/** Names what the service does by itself, as audit entries have it. */
export function ownWork(action: string): Pick<Call, 'id' | 'method' | 'caller'> {
  return { id: randomUUID(), method: `keyward.v1.Maintenance/${action}`, caller: SELF };
}

/** Milliseconds of CLOCK_MONOTONIC, the same for every process of the machine. */
export function monotonicNow(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/** How many milliseconds are left until `deadline`, at least 0. */
export function millisecondsLeft(deadline: number): number {
  return Math.max(0, deadline - monotonicNow());
}
