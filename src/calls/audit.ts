/**
 * The audit entry of a call: what there is to note of it, and that it is durable before the call is
 * answered.
 *
 * Invariants: a call that reached a decision has one entry with its outcome, written here unless
 * what it changed was written with it; encryption contexts get into notes masked or not at all,
 * and before the operation begins, so that an entry that is written with a change has them, too.
 * Which contexts those are, the operation says; which key version was used, the keyring notes where
 * it counts the use.
 */
import type { Rights } from '../access/access.ts';
import type { ContextMasks } from '../audit/masks.ts';
import type { AuditWriter } from '../audit/writer.ts';
import { type AuditItem, type AuditNotes, addDetail, type Call } from '../call.ts';
import { type KeywardError, REASONS } from '../errors.ts';
import { tenantOf } from '../store/audit/audit-entry.ts';
import type { AdmittedCall, RefusedCall } from './arrivals.ts';
import type { Contexts } from './operation.ts';

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

/** An item of a batch, as far as it was understood, and what came of it. */
export interface ServedItem extends Pick<AuditItem, 'keyVersion' | 'resource' | 'outcome'> {
  readonly contexts?: Contexts | undefined;
}

const NO_CONTEXT: Contexts['context'] = new Map();
/** A mask, its quotes, colon and comma. */
const MASK_BYTES = 36;
/** What else an item has: the name of a version or a resource, and the outcome. */
const ITEM_BYTES = 256;
/** No context that is valid takes more. What isn't valid isn't noted. */
const MAX_CONTEXT_BYTES = 2 * 8_192 + 64 * (MASK_BYTES + 2);

/**
 * Returns how many bytes an item takes of its batch's entry at most, with a context of these names.
 */
export function itemEntryBytes(contextNames: readonly string[]): number {
  const bytes = contextNames.reduce(
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
  const contexts = items.map((item) => item.contexts?.context ?? new Map());
  const masked = await masks.mask(tenant, contexts);
  audit.items = items.map(({ keyVersion, resource, outcome }, index): AuditItem => {
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
  { writer }: Pick<Recording, 'writer'>,
  call: Call,
  { resource, error }: { readonly resource: string; readonly error: KeywardError | undefined },
): Promise<KeywardError | undefined> {
  const { audit } = call;
  // What a mutation has written says OK, and so what has failed since is said besides.
  if (audit?.decision === undefined || (audit.isWritten && error === undefined)) return error;
  try {
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

/** Notes the encryption contexts of a call about this resource, masked. Never rejects. */
export async function noteContexts(
  { masks }: Pick<Recording, 'masks'>,
  audit: AuditNotes,
  resource: string,
  { context, source = NO_CONTEXT }: Contexts,
): Promise<void> {
  if (context.size + source.size === 0) return;
  const [first, second] = await masks.mask(tenantOf(resource), [context, source]);
  if (first?.context.size) audit.context = first.context;
  if (second?.context.size)
    addDetail(audit, { sourceContext: Object.fromEntries([...second.context].sort()) });
  if (first?.maskPeriod !== undefined) audit.maskPeriod = first.maskPeriod;
}
