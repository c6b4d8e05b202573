/**
 * An audit entry as it is kept: one JSON object in one line, which is the leaf of the Merkle tree
 * byte for byte.
 *
 * Owns the members, their order, and that no text, whatever it holds, makes a second line or a line
 * that can't be read: JSON escapes controls, and what Postgres takes for no text (U+0000, half a
 * surrogate pair) becomes U+FFFD. What is in an entry is decided elsewhere; docs/audit.md describes
 * the format for others.
 */
import type { AuditItem, AuditNotes, Call } from '../../call.ts';
import { monotonicNow } from '../../call.ts';
import { SYSTEM_TENANT } from '../../names.ts';
import type { Changed } from '../core/transaction.ts';
import { entryLine } from './entry-size.ts';

/** UUIDs beside the names in an entry. */
export interface EntryIds {
  readonly tenantId?: string | undefined;
  readonly keyId?: string | undefined;
}

export interface AuditEntry {
  /** A random UUID. */
  readonly entryId: string;
  readonly call: Pick<Call, 'id' | 'caller' | 'method' | 'trace' | 'audit'>;
  /** The full name of what the call was about. */
  readonly resource: string;
  /** `OK`, or the reason for failure. */
  readonly outcome: string;
  /** UUIDs of the resource's tenant and key, where the call's notes don't say them. */
  readonly ids?: EntryIds | undefined;
  /** What was changed with it. */
  readonly changed?: Changed | undefined;
  /** What else there is to say, where the call's notes don't say it. */
  readonly detail?: string | undefined;
  /** How many refusals the entry stands for, where that isn't one. */
  readonly count?: number;
}

/** Who has written an entry, where nobody says otherwise. */
const NO_NOTES: AuditNotes = {};

/** The entry's line, without a newline. */
export function auditLine(entry: AuditEntry): string {
  const { entryId, call, resource, outcome, ids, changed, detail, count } = entry;
  const notes = call.audit ?? NO_NOTES;
  return entryLine({
    v: 1,
    id: entryId,
    time: new Date().toISOString(),
    tenant: notes.tenant ?? tenantOf(resource),
    tenantId: ids?.tenantId ?? notes.tenantId,
    requestId: call.id,
    traceId: call.trace?.traceId,
    replica: notes.replica,
    caller: clean(call.caller),
    certificate: notes.certificate,
    token: notes.token && { issuer: clean(notes.token.issuer), id: clean(notes.token.id) },
    address: notes.address,
    method: call.method,
    resource: clean(resource),
    keyId: ids?.keyId ?? notes.keyId,
    keyVersion: notes.keyVersion,
    context: notes.context && masked(notes.context),
    maskPeriod: notes.maskPeriod,
    decision: notes.decision,
    binding: clean(notes.binding),
    outcome,
    durationMs:
      notes.startedAt === undefined ? undefined : roundedMs(monotonicNow() - notes.startedAt),
    items: notes.items && itemsOf(notes.items),
    change: changed,
    count,
    detail: detail ?? detailOf(notes),
  });
}

/**
 * The last part of the name of the tenant that a resource belongs to: `system` for what is no
 * tenant's.
 */
export function tenantOf(resource: string): string {
  return /^tenants\/([a-z0-9-]{2,63}|[a-z])(?:\/|$)/.exec(resource)?.[1] ?? SYSTEM_TENANT;
}

/** What there is no member for. */
function detailOf(notes: AuditNotes): object | undefined {
  const { detail, otherBindings, sourceKeyVersion, sourceContext } = notes;
  if (otherBindings === undefined && sourceContext === undefined && sourceKeyVersion === undefined)
    return detail;
  return {
    ...detail,
    bindings: otherBindings,
    sourceKeyVersion,
    sourceContext: sourceContext && masked(sourceContext),
  };
}

/** As compact as they can be: keyVersion or resource, context, outcome where it isn't OK. */
function itemsOf(items: readonly AuditItem[]): object[] {
  // Items may have one context: what it looks like is worked out once.
  const known = new Map<ReadonlyMap<string, string | null>, object>();
  const once = (context: AuditItem['context']) => {
    if (context === undefined) return undefined;
    const object = known.get(context) ?? masked(context);
    known.set(context, object);
    return object;
  };
  return items.map((item) => ({
    keyVersion: item.keyVersion,
    sourceKeyVersion: item.sourceKeyVersion,
    resource: item.keyVersion === undefined ? clean(item.resource) : undefined,
    context: once(item.context),
    sourceContext: once(item.sourceContext),
    bindings: item.bindings,
    outcome: item.outcome === 'OK' ? undefined : item.outcome,
  }));
}

/** Not by assignment: a name may be `__proto__`. Sorted, so that a map has one line. */
function masked(context: ReadonlyMap<string, string | null>): object {
  return Object.fromEntries(
    [...context].map(([name, mask]) => [clean(name), mask] as const).sort(),
  );
}

function roundedMs(milliseconds: number): number {
  return Math.round(milliseconds * 1000) / 1000;
}

function clean<T extends string | undefined>(text: T): T {
  return text?.replaceAll('\0', '\ufffd').toWellFormed() as T;
}
