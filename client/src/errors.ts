/**
 * The client's one error type, and how it is read off a failed call.
 *
 * Owns the decoding of google.rpc.Status, in `grpc-status-details-bin` and in a batch's item. Its
 * invariant: reading an error never fails; details that don't parse are as good as none. Of the
 * reasons it knows those that the client acts on; the others are the service's (docs/errors.md),
 * and a newer service may have more.
 */
import { type ServiceError, status } from '@grpc/grpc-js';
import { read } from './contract.ts';

/**
 * The reason for bytes that don't have their checksum, found by the service or, with `DATA_LOSS`,
 * by the client.
 */
export const CHECKSUM_MISMATCH = 'CHECKSUM_MISMATCH';

/** The reason for a proof that is too weak or too old for the call (RFC 9470). */
export const STEP_UP_REQUIRED = 'STEP_UP_REQUIRED';

/** The name of a gRPC status, as in `NOT_FOUND`. */
export type StatusName = keyof typeof status;

/** One field of a request that is not valid, and why. */
export interface FieldViolation {
  readonly field: string;
  readonly description: string;
}

interface ErrorFacts {
  readonly code: StatusName;
  readonly message: string;
  readonly reason?: string | undefined;
  readonly metadata?: ReadonlyMap<string, string>;
  readonly fieldViolations?: readonly FieldViolation[];
  readonly retryDelayMs?: number | undefined;
  readonly requestId?: string | undefined;
  readonly traceId?: string | undefined;
  readonly cause?: unknown;
}

/**
 * A call that failed. Act on `reason`, and on `code` where there is none: on the message never.
 *
 * `reason` is undefined when the answer isn't Keyward's own: the service wasn't reached, the
 * deadline passed, the call was cancelled, or something between refused it.
 */
export class KeywardError extends Error {
  override readonly name = 'KeywardError';
  /** The gRPC status. */
  readonly code: StatusName;
  /** Which failure it is, stable across releases; docs/errors.md lists all. */
  readonly reason: string | undefined;
  /**
   * Facts for programs that belong to the reason: of PERMISSION_MISSING, the `permission` and the
   * `resource`.
   */
  readonly metadata: ReadonlyMap<string, string>;
  /**
   * Which fields of the request are not valid; empty unless the reason is INVALID_FIELD or
   * CHECKSUM_MISMATCH.
   */
  readonly fieldViolations: readonly FieldViolation[];
  /** The service's word on when the same call can succeed: after that many milliseconds. */
  readonly retryDelayMs: number | undefined;
  /**
   * Under which the service's log has the call; not the `requestId` of a change, which is the
   * caller's.
   */
  readonly requestId: string | undefined;
  /** Which trace the call is part of, in hexadecimal, if it is part of one. */
  readonly traceId: string | undefined;

  constructor(facts: ErrorFacts) {
    super(facts.message, facts.cause === undefined ? undefined : { cause: facts.cause });
    this.code = facts.code;
    this.reason = facts.reason;
    this.metadata = facts.metadata ?? new Map();
    this.fieldViolations = facts.fieldViolations ?? [];
    this.retryDelayMs = facts.retryDelayMs;
    this.requestId = facts.requestId;
    this.traceId = facts.traceId;
  }

  /** The first field that is not valid, as the contract spells it. */
  get field(): string | undefined {
    return this.fieldViolations[0]?.field;
  }

  /**
   * Whether the same call can succeed later: the service says so, could not be reached, or did not
   * answer in time. A change is sent again with the same `requestId`.
   */
  get retryable(): boolean {
    return this.retryDelayMs !== undefined || UNANSWERED.includes(this.code);
  }
}

const UNANSWERED: readonly StatusName[] = ['UNAVAILABLE', 'DEADLINE_EXCEEDED'];

/** Returns the error for what a caller's signal has ended. */
export function cancelledBy({ reason }: AbortSignal): KeywardError {
  const message = 'The caller cancelled the call.';
  return new KeywardError({ code: 'CANCELLED', message, cause: reason });
}

/** Errors of attempts of which nothing has left this process. */
const unsent = new WeakSet<KeywardError>();

/** Returns whether the attempt that failed so can't have had an effect: none of it was sent. */
export function isUnsent(error: KeywardError): boolean {
  return unsent.has(error);
}

/** Returns the error for an attempt that was given up before there was a connection. */
export function unconnected(address: string, why: string): KeywardError {
  const message = `cannot reach ${address}: ${why}`;
  const error = new KeywardError({ code: 'UNAVAILABLE', message });
  unsent.add(error);
  return error;
}

/** Returns the error for an attempt that was not made: as the service's refusal, and saying so. */
export function heldBack({ code, reason, retryDelayMs }: KeywardError): KeywardError {
  const message =
    `cannot make the call: the service has refused most calls as ${reason}, so the client did ` +
    'not send this one; make fewer at once';
  const metadata = new Map([['refused_by', 'client']]);
  const error = new KeywardError({ code, reason, retryDelayMs, message, metadata });
  unsent.add(error);
  return error;
}

/**
 * Returns the error for an attempt that grpc-js reports as failed; `address` is where it was sent.
 * One that ended as cancelled, and not by the caller (`call.ts` sees to those first), or without
 * any status, was on a connection that went away: measured with a server that stops. So was one on
 * a connection that the service has ended for what its caller did.
 */
export function errorOf(failed: ServiceError, address: string): KeywardError {
  const details = detailsOf(failed);
  if (details.reason === undefined && UNCONNECTED.test(failed.details))
    return unconnected(address, causeIn(failed.details));
  const isLost =
    details.reason === undefined &&
    (failed.code === status.CANCELLED || ENDED.some((words) => words.test(failed.details)));
  const code = isLost ? status.UNAVAILABLE : failed.code;
  return new KeywardError({
    ...details,
    code: statusName(code),
    message: details.message || unanswered(code, failed.details, address),
  });
}

/** How grpc-js words what became of an attempt, where the service has not answered it. */
const UNCONNECTED = /^No connection established/;
/** By ENHANCE_YOUR_CALM (RFC 9113, 7). */
const CALMED = /^Bandwidth exhausted or memory limit exceeded/;
const ENDED = [/Call ended without gRPC status/, CALMED];

/** Of several causes the last; grpc-js decorates it with what helps nobody. */
function causeIn(details: string): string {
  if (CALMED.test(details))
    return 'it has ended the connection: this caller has too many, or gave up too many calls';
  const why = /Last error: (.*?)(?:\. Resolution note:.*)?$/s.exec(details)?.[1] ?? details;
  return why.replace(/^Error: /, '');
}

/** What is told where the answer is not Keyward's own. */
function unanswered(code: status, details: string, address: string): string {
  switch (code) {
    case status.UNAVAILABLE:
      return `cannot reach ${address}: ${causeIn(details)}`;
    case status.DEADLINE_EXCEEDED:
      return `no answer from ${address} by the deadline`;
    case status.UNIMPLEMENTED:
      return `cannot call ${address}: it does not have this method, or is not Keyward`;
    default:
      return `cannot use what ${address} answered: ${details || statusName(code)}`;
  }
}

/** google.rpc.Status. */
export interface Status {
  readonly code: number;
  readonly message: string;
  readonly details: readonly { readonly type_url: string; readonly value: Uint8Array }[];
}

/** The error of a batch's item: the same that the item's call alone would have had. */
export function errorOfStatus(failed: Status): KeywardError {
  return new KeywardError({
    message: failed.message,
    ...detailsIn(failed),
    code: statusName(failed.code),
  });
}

function statusName(code: number): StatusName {
  return (status[code] as StatusName | undefined) ?? 'UNKNOWN';
}

type Details = Partial<Omit<ErrorFacts, 'code' | 'cause'>>;

function detailsOf(failed: ServiceError): Details {
  const bytes = failed.metadata?.get('grpc-status-details-bin')[0];
  if (!Buffer.isBuffer(bytes)) return {};
  try {
    return detailsIn(read('Status', bytes));
  } catch {
    return {};
  }
}

function detailsIn({ message, details }: Omit<Status, 'code'>): Details {
  try {
    return Object.assign({ message }, ...details.map((any) => detail(any.type_url, any.value)));
  } catch {
    return {};
  }
}

/** One detail; types that this client doesn't know are skipped, as google.rpc wants it. */
function detail(typeUrl: string, value: Uint8Array): Details {
  switch (typeUrl.slice(typeUrl.lastIndexOf('/') + 1)) {
    case 'google.rpc.ErrorInfo': {
      const info = read('ErrorInfo', value);
      if (info.domain !== 'keyward') return {};
      return { reason: info.reason, metadata: new Map(Object.entries(info.metadata)) };
    }
    case 'google.rpc.BadRequest':
      return { fieldViolations: read('BadRequest', value).fieldViolations };
    case 'google.rpc.RetryInfo': {
      const delay = read('RetryInfo', value).retryDelay;
      return { retryDelayMs: delay === null ? 0 : delay.seconds * 1000 + delay.nanos / 1e6 };
    }
    case 'google.rpc.RequestInfo': {
      const { requestId, servingData } = read('RequestInfo', value);
      return { requestId, traceId: servingData || undefined };
    }
    default:
      return {};
  }
}
