/**
 * The audit entry of a call: what there is to note of it, and that it is durable before the call is
 * answered.
 *
 * Invariants: a call that reached a decision has one entry with its outcome, written here unless
 * what it changed was written with it; encryption contexts get into notes masked or not at all.
 * Knows messages by the names of their fields alone.
 */
import type { Rights } from '../access/access.ts';
import type { ContextMasks } from '../audit/masks.ts';
import type { AuditWriter } from '../audit/writer.ts';
import type { AuditItem, AuditNotes, Call } from '../call.ts';
import { type KeywardError, REASONS } from '../errors.ts';
import type { AdmittedCall, RefusedCall } from '../faces/grpc/admission.ts';
import { tenantOf } from '../store/audit/audit-entry.ts';

/** What it takes to record calls. */
export interface Recording {
  readonly writer: Pick<AuditWriter, 'write' | 'writeRefusal'>;
  readonly masks: Pick<ContextMasks, 'mask'>;
  /** This process, as entries name it. */
  readonly replica: string;
}

/**
 * Failures after which the caller waits for nothing more, or learns nothing new from another one.
 */
const KEPT_STATUSES: readonly string[] = ['UNAVAILABLE', 'DEADLINE_EXCEEDED', 'CANCELLED'];

/** What is known of a call when it is let in. */
export function notesOf(
  {
    caller,
    startedAt,
    certificate,
    address,
  }: Pick<AdmittedCall, 'caller' | 'startedAt' | 'certificate' | 'address'>,
  replica: string,
): AuditNotes {
  const token = caller.token && { issuer: caller.token.issuer, id: caller.token.id };
  return { replica, certificate, address, startedAt, token };
}

/** Notes which binding allowed it, and what was asked for besides and not allowed. */
export function noteRights(
  audit: AuditNotes,
  { binding, denials }: Pick<Rights, 'binding' | 'denials'>,
): void {
  if (binding !== undefined) audit.binding = binding;
  if (denials.length > 0)
    addDetail(audit, {
      missing: denials.map(({ permission, resource }) => `${permission} on ${resource}`),
    });
}

/** Notes which key version the answer says was used, and which one before it. */
export function noteAnswer({ audit }: Call, answer: object): void {
  if (audit === undefined) return;
  const { keyVersion, sourceKeyVersion } = answer as {
    keyVersion?: unknown;
    sourceKeyVersion?: unknown;
  };
  if (typeof keyVersion === 'string') audit.keyVersion = keyVersion;
  if (typeof sourceKeyVersion === 'string') addDetail(audit, { sourceKeyVersion });
}

/** An item of a batch: its request as far as it was understood, and what came of it. */
export interface ServedItem {
  readonly request?: object;
  readonly resource?: string;
  readonly answer?: object;
  readonly outcome: string;
}

/** A mask, its quotes, colon and comma. */
const MASK_BYTES = 36;
/** What else an item has: the name of a version or a resource, and the outcome. */
const ITEM_BYTES = 256;
/** No context that is valid takes more. What isn't valid isn't noted. */
const MAX_CONTEXT_BYTES = 2 * 8_192 + 64 * (MASK_BYTES + 2);

/** Returns how many bytes an item takes of its batch's entry at most, as it was decoded. */
export function itemEntryBytes(item: object): number {
  const { encryptionContext, destinationEncryptionContext } = item as Record<
    string,
    object | undefined
  >;
  const names = Object.keys(encryptionContext ?? destinationEncryptionContext ?? {});
  const bytes = names.reduce(
    (sum, name) => sum + Buffer.byteLength(JSON.stringify(name)) + MASK_BYTES,
    0,
  );
  return ITEM_BYTES + Math.min(bytes, MAX_CONTEXT_BYTES);
}

/** Notes what came of a batch's items. */
export async function noteItems(
  masks: Recording['masks'],
  { audit }: Call,
  tenant: string,
  items: readonly ServedItem[],
): Promise<void> {
  if (audit === undefined) return;
  const contexts = items.map(({ request }) => (request && contextOf(request)) ?? new Map());
  const masked = await masks.mask(tenant, contexts);
  audit.items = items.map(({ resource, answer, outcome }, index): AuditItem => {
    const { keyVersion } = (answer ?? {}) as { keyVersion?: string };
    const context = masked[index]?.context;
    return { keyVersion, resource, outcome, ...(context?.size ? { context } : {}) };
  });
  const [{ maskPeriod } = {}] = masked;
  if (maskPeriod !== undefined && contexts.some(({ size }) => size > 0))
    audit.maskPeriod = maskPeriod;
}

/**
 * Makes the call's entry durable, where it is to have one that it has not. Returns what the call is
 * to be answered with: the error that it had, or AUDIT_UNAVAILABLE.
 */
export async function record(
  { writer, masks }: Recording,
  call: Call,
  {
    request,
    resource,
    error,
  }: { request: object | undefined; resource: string; error: KeywardError | undefined },
): Promise<KeywardError | undefined> {
  const { audit } = call;
  // What a mutation has written says OK, and so what has failed since is said besides.
  if (audit?.decision === undefined || (audit.isWritten && error === undefined)) return error;
  try {
    if (request !== undefined) await noteContexts(masks, audit, tenantOf(resource), request);
    const entry = { call, resource, outcome: error?.reason ?? 'OK' };
    await (audit.decision === 'denied' ? writer.writeRefusal(entry) : writer.write(entry));
    return error;
  } catch (unrecorded) {
    const isKept = error !== undefined && KEPT_STATUSES.includes(REASONS[error.reason].status);
    return isKept ? error : (unrecorded as KeywardError);
  }
}

/**
 * Puts on record that a call was not let in, as far as that is possible. Returns what it is to be
 * answered with.
 */
export async function recordRefusal(
  { writer, replica }: Recording,
  error: KeywardError,
  { id, callerName = 'anonymous', method, certificate, address, startedAt }: RefusedCall,
): Promise<KeywardError> {
  if (REASONS[error.reason].status !== 'UNAUTHENTICATED') return error;
  const audit: AuditNotes = { replica, certificate, address, startedAt, decision: 'denied' };
  const call = { id, caller: callerName, method, audit };
  // Who isn't known gets nothing in any case, and floods of him are what makes writing slow.
  await writer.writeRefusal({ call, resource: method, outcome: error.reason }).catch(() => {});
  return error;
}

async function noteContexts(
  masks: Recording['masks'],
  audit: AuditNotes,
  tenant: string,
  request: object,
): Promise<void> {
  const [context, source] = [contextOf(request), sourceContextOf(request)];
  const given = [context, source].filter((each) => each !== undefined && each.size > 0);
  if (given.length === 0) return;
  const [first, second] = await masks.mask(tenant, [context ?? new Map(), source ?? new Map()]);
  if (first?.context.size) audit.context = first.context;
  if (second?.context.size)
    addDetail(audit, { sourceContext: Object.fromEntries([...second.context].sort()) });
  if (first?.maskPeriod !== undefined) audit.maskPeriod = first.maskPeriod;
}

/** Notes something that there is no member for. */
export function addDetail(audit: AuditNotes, more: Readonly<Record<string, unknown>>): void {
  audit.detail = { ...audit.detail, ...more };
}

type Context = ReadonlyMap<string, string>;

function contextOf(request: object): Context | undefined {
  const { encryptionContext, destinationEncryptionContext } = request as Record<string, unknown>;
  const context = encryptionContext ?? destinationEncryptionContext;
  return context instanceof Map ? context : undefined;
}

function sourceContextOf(request: object): Context | undefined {
  const { sourceEncryptionContext } = request as Record<string, unknown>;
  return sourceEncryptionContext instanceof Map ? sourceEncryptionContext : undefined;
}
