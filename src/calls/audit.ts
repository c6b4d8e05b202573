/**
 * The audit entry of a call: what there is to note of it, and that it is durable before the call is
 * answered.
 *
 * Invariants: a call that reached a decision has one entry with its outcome, written here unless
 * what it changed was written with it; a stream has one of its beginning besides, where it did not
 * end well; encryption contexts get into notes masked or not at all,
 * and before the operation begins, so that an entry that is written with a change has them, too.
 * Which contexts those are, the operation says; which key version was used, the keyring notes where
 * it counts the use.
 */
import type { Rights } from '../access/access.ts';
import { isDangerous } from '../access/permissions.ts';
import type { ContextMasks, MaskedContext } from '../audit/masks.ts';
import type { AuditWriter } from '../audit/writer.ts';
import { type AuditItem, type AuditNotes, addDetail, type Call } from '../call.ts';
import { KeywardError, REASONS } from '../errors.ts';
import type { TenantId } from '../ids.ts';
import { SYSTEM_TENANT } from '../names.ts';
import { tenantOf } from '../store/audit/audit-entry.ts';
import type { AdmittedCall, RefusedCall } from './arrivals.ts';
import { ANY_CALLER, type AnyOperation, type Contexts } from './operation.ts';

/** What it takes to record calls. */
export interface Recording {
  readonly writer: Pick<AuditWriter, 'write' | 'writeRefusal'>;
  readonly masks: Pick<ContextMasks, 'mask'>;
  /** This process, as entries name it. */
  readonly replica: string;
  /** The tenant that what belongs to no other is recorded in. */
  readonly systemTenantId: TenantId;
}

/**
 * Failures after which the caller waits for nothing more, or learns nothing new from another one.
 */
const KEPT_STATUSES: readonly string[] = ['UNAVAILABLE', 'DEADLINE_EXCEEDED', 'CANCELLED'];

/** Failures that a caller who may call can cause in any number, outside the tenant's quota too. */
const REPEATED: readonly string[] = [
  'RESOURCE_NOT_FOUND',
  'QUOTA_EXCEEDED',
  'INVALID_FIELD',
  'MESSAGE_TOO_LARGE',
];

/** Whether anyone can cause any number of such entries: denied, in vain, or of the service. */
function isOneOfMany({ decision, tenant }: AuditNotes, error: KeywardError | undefined): boolean {
  if (decision === 'denied' || tenant !== undefined) return true;
  return error !== undefined && REPEATED.includes(error.reason);
}

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

/** So many permissions that were missing are named; of more, how many there were. */
const MISSING = 20;

/**
 * Notes which binding allowed what the operation asks for, which ones allowed what it asked for
 * besides, and what was asked for and not allowed.
 */
export function noteRights(
  audit: AuditNotes,
  { bindings, denials }: Pick<Rights, 'bindings' | 'denials'>,
  permission: AnyOperation<unknown>['permission'],
): void {
  for (const [each, binding] of bindings)
    if (each === permission) audit.binding = binding;
    else audit.otherBindings = { ...audit.otherBindings, [each]: binding };
  if (denials.length === 0) return;
  addDetail(audit, {
    missing: denials
      .slice(0, MISSING)
      .map(({ permission: each, resource }) => `${each} on ${resource}`),
    ...(denials.length > MISSING ? { missingCount: denials.length } : {}),
  });
}

/**
 * Notes how the caller of something dangerous has proven who they are, where that is known: class,
 * methods, and how many seconds ago.
 */
export function noteAuthentication(
  audit: AuditNotes,
  { permission, isSensitive }: Pick<AnyOperation<unknown>, 'permission' | 'isSensitive'>,
  { authentication }: Pick<AdmittedCall['caller'], 'authentication'>,
): void {
  if (authentication === undefined || permission === ANY_CALLER) return;
  if (!isSensitive && !isDangerous(permission)) return;
  const { acr, methods: amr, at } = authentication;
  const ageSeconds = at && Math.round((Date.now() - at.getTime()) / 1_000);
  addDetail(audit, { authentication: { acr, amr, ageSeconds } });
}

/** Notes that it was not allowed: then no binding has allowed it. */
export function noteDenied(audit: AuditNotes): void {
  audit.decision = 'denied';
  delete audit.binding;
  delete audit.otherBindings;
}

/**
 * Notes that the call is about the service, whatever it names: its caller may have nothing in the
 * tenant, whose log is not theirs to write in.
 */
export function noteOfSystem(audit: AuditNotes, { systemTenantId }: Recording): void {
  audit.tenant = SYSTEM_TENANT;
  audit.tenantId = systemTenantId;
}

/** An item of a batch, as far as it was understood, and what came of it. */
export interface ServedItem extends Omit<AuditItem, 'context' | 'sourceContext'> {
  readonly contexts?: Contexts | undefined;
}

const NO_CONTEXT: Contexts['context'] = new Map();

/** Notes what came of a batch's items; of those that failed, contexts without masks. */
export async function noteItems(
  masks: Recording['masks'],
  { audit }: Call,
  tenant: string,
  items: readonly ServedItem[],
): Promise<void> {
  if (audit === undefined) return;
  const isUsed = ({ contexts, outcome }: ServedItem) => outcome === 'OK' && contexts !== undefined;
  const masked = await masks.mask(
    tenant,
    items.flatMap((item) =>
      isUsed(item) && item.contexts !== undefined
        ? [item.contexts.context, item.contexts.source ?? NO_CONTEXT]
        : [],
    ),
  );
  const rest = masked.values();
  const next = () => rest.next().value?.context;
  audit.items = items.map((item): AuditItem => {
    const { keyVersion, sourceKeyVersion, resource, contexts, bindings, outcome } = item;
    const [context, source] = isUsed(item)
      ? [next(), next()]
      : [contexts && namesOf(contexts.context), contexts?.source && namesOf(contexts.source)];
    return {
      ...{ keyVersion, sourceKeyVersion, resource, bindings, outcome },
      ...(context?.size ? { context } : {}),
      ...(source?.size ? { sourceContext: source } : {}),
    };
  });
  const [{ maskPeriod } = {}] = masked;
  if (maskPeriod !== undefined && masked.some(({ context }) => context.size > 0))
    audit.maskPeriod = maskPeriod;
}

/** The names in a context, none with a mask. */
function namesOf(context: ReadonlyMap<string, unknown>): ReadonlyMap<string, null> {
  return new Map([...context.keys()].map((name) => [name, null]));
}

/**
 * Makes the call's entry durable, where it is to have one that it has not, and does what waited for
 * that. Returns what the call is to be answered with: the error that it had, or AUDIT_UNAVAILABLE.
 */
export async function record(
  { writer }: Pick<Recording, 'writer'>,
  call: Call,
  { resource, error }: { readonly resource: string; readonly error: KeywardError | undefined },
): Promise<KeywardError | undefined> {
  const { audit } = call;
  // What was changed has its entry. What failed since, the log has.
  if (audit?.decision === undefined || audit.isWritten) return error;
  if (error !== undefined) removeMasks(audit);
  if (audit.isUncertain) addDetail(audit, { changeUnknown: true });
  try {
    const entry = { call, resource, outcome: error?.reason ?? 'OK' };
    await (isOneOfMany(audit, error) ? writer.writeRefusal(entry) : writer.write(entry));
  } catch (unrecorded) {
    return answerUnrecorded(audit, error, unrecorded as KeywardError);
  }
  if (error === undefined) for (const action of audit.onRecorded ?? []) action();
  return error;
}

/** Returns what a call is answered with that could not be recorded, and that had this error. */
export function answerUnrecorded(
  audit: AuditNotes,
  error: KeywardError | undefined,
  unrecorded: KeywardError,
): KeywardError {
  const isKept = error !== undefined && KEPT_STATUSES.includes(REASONS[error.reason].status);
  return isKept ? error : notRecorded(audit, unrecorded);
}

/** Why the call could not be recorded; of one that comes again, without denying what it did. */
function notRecorded({ detail }: AuditNotes, error: KeywardError): KeywardError {
  if (detail?.['repeated'] !== true) return error;
  return new KeywardError('AUDIT_UNAVAILABLE', {
    message:
      'cannot answer the call: it could not be recorded in the audit log; what its request did ' +
      'when it came before stands; try again',
    cause: error.cause,
  });
}

/**
 * Puts on record that a call was not let in, as far as that is possible. Returns what it is to be
 * answered with.
 */
export async function recordRefusal(
  { writer, replica, systemTenantId }: Recording,
  error: KeywardError,
  { id, callerName = 'anonymous', method, certificate, address, trace, startedAt }: RefusedCall,
): Promise<KeywardError> {
  if (REASONS[error.reason].status !== 'UNAUTHENTICATED') return error;
  const audit: AuditNotes = {
    replica,
    certificate,
    address,
    startedAt,
    decision: 'denied',
    tenantId: systemTenantId,
  };
  const call = { id, caller: callerName, method, trace, audit };
  // Who isn't known gets nothing in any case, and floods of him are what makes writing slow.
  await writer.writeRefusal({ call, resource: method, outcome: error.reason }).catch(() => {});
  return error;
}

/**
 * Notes the encryption contexts of a call about this resource: masked, where it is to use a key
 * with them; at once, where its masks can be had so. Never rejects.
 */
export function noteContexts(
  { masks }: Pick<Recording, 'masks'>,
  audit: AuditNotes,
  resource: string,
  { context, source = NO_CONTEXT, isOnlyNamed = false }: Contexts,
): Promise<void> | undefined {
  if (context.size + source.size === 0) return undefined;
  if (isOnlyNamed) {
    noteMasked(audit, [namesOf(context), namesOf(source)]);
    return undefined;
  }
  const note = ([first, second]: readonly MaskedContext[]) => {
    noteMasked(audit, [first?.context, second?.context]);
    if (first?.maskPeriod !== undefined) audit.maskPeriod = first.maskPeriod;
  };
  const masked = masks.mask(tenantOf(resource), [context, source]);
  if (masked instanceof Promise) return masked.then(note);
  note(masked);
  return undefined;
}

function noteMasked(
  audit: AuditNotes,
  [context, source]: readonly (ReadonlyMap<string, string | null> | undefined)[],
): void {
  if (context?.size) audit.context = context;
  if (source?.size) audit.sourceContext = source;
}

/**
 * Takes the masks out of what was noted. Of a call that was not allowed, or failed, they would tell
 * a reader of the log who makes calls with guesses which one is right.
 */
function removeMasks(audit: AuditNotes): void {
  if (audit.maskPeriod === undefined) return;
  delete audit.maskPeriod;
  noteMasked(audit, [
    audit.context && namesOf(audit.context),
    audit.sourceContext && namesOf(audit.sourceContext),
  ]);
  for (const item of audit.items ?? []) {
    if (item.context) item.context = namesOf(item.context);
    if (item.sourceContext) item.sourceContext = namesOf(item.sourceContext);
  }
}
