/**
 * Batches: many requests of one operation in one call, each with a result of its own.
 *
 * Invariants:
 *
 * - results are in the requests' order;
 * - an item that fails has no effect on the others, and says what the same call alone would have
 *   said;
 * - every item is of the tenant that the batch names, and allowed for itself, before any is done;
 * - no item is done unless clients take the answer to all of them, whatever becomes of each.
 *
 * Knows no operation and no message, nor how many items are done at once.
 */
import type { Rights } from '../access/access.ts';
import { LATER } from '../access/policy.ts';
import type { Call } from '../call.ts';
import { invalidField, KeywardError } from '../errors.ts';
import type { Item } from '../keyring/keys/encryption-batches.ts';
import { type Outcome, outcomeOf, settled } from '../keyring/keys/outcomes.ts';
import { formatTenantName, type TenantName } from '../names.ts';
import { noteItems, type ServedItem } from './audit.ts';
import { requireRights } from './authorization.ts';
import type { AuthorizedCall, Operation, Services } from './operation.ts';

/** An item of a batch, before it is looked at. */
export interface BatchItem<Request> {
  /** Returns the request. Throws INVALID_FIELD. */
  read(): Request;
  /** What it wants opened, where it does, as it came. */
  readonly ciphertext?: Buffer | undefined;
}

/** How large the answer to a batch may get, as its face counts it. */
export interface AnswerSizes {
  /** How many bytes each item's answer has at most. */
  readonly items: readonly number[];
  /** How many the whole has at most, whatever becomes of each item. */
  readonly whole: number;
  /** How many are taken. */
  readonly limit: number;
}

/** Many requests. */
export interface BatchRequest<Request> {
  readonly parent: TenantName;
  readonly items: readonly BatchItem<Request>[];
  readonly answerSizes: AnswerSizes;
}

/** What became of an item. */
export type ItemResult<Request, Answer> =
  | { readonly request: Request; readonly answer: Answer }
  | { readonly error: KeywardError };

/** How an operation is done many times at once. */
export interface InBatches<Request, Prepared, Answer> {
  /** Returns whose a request is. */
  tenantOf(request: Request): TenantName;
  /**
   * Returns what is to be done for a request that was allowed. Throws what the call alone would
   * throw before it does anything.
   */
  prepare(rights: Rights, request: Request): Prepared;
  /** Returns what became of each item. */
  perform(
    services: Services,
    call: Call,
    items: readonly Item<Prepared>[],
  ): Promise<readonly Outcome<Answer>[]>;
}

/** Returns the batch of an operation. */
export function batchOf<Request, Prepared, Answer>(
  operation: Operation<Request, Answer>,
  many: InBatches<NoInfer<Request>, Prepared, NoInfer<Answer>>,
): Operation<BatchRequest<Request>, readonly ItemResult<Request, Answer>[]> {
  return {
    calls: ({ items }) => items.length,
    permission: operation.permission,
    // Which keys, with which contexts, the items say; each is asked about for itself.
    target: ({ parent }) => ({ tenant: parent.tenant, key: LATER, context: LATER }),
    resource: ({ parent }) => formatTenantName(parent),
    canaries: (known, { items }) =>
      items.flatMap(({ ciphertext }) =>
        ciphertext === undefined ? [] : (known.ofCiphertext(ciphertext) ?? []),
      ),
    handle: async (services, call, { parent, items, answerSizes: { whole, limit } }) => {
      requireFits(whole, limit);
      const admitted = items.map((item) => admit(operation, many, item, { call, parent }));
      await perform(services, call, many, admitted);
      for (const { rights, outcome } of admitted)
        if (errorOf(outcome) !== undefined) call.rights.denials.push(...rights.denials);
      const served = servedItems(operation, call.rights, admitted);
      await noteItems(services.masks, call, parent.tenant, served);
      return admitted.map(resultOf);
    },
  };
}

/** An item on its way: as far as it was understood, and what became of it. */
interface Admitted<Request, Prepared, Answer> {
  readonly request: Request | undefined;
  readonly rights: Rights;
  readonly prepared: Prepared | undefined;
  readonly notes: Item<Prepared>['notes'];
  outcome: Outcome<Answer> | undefined;
}

/** Reads an item and asks whether it is allowed, as the same call alone. */
function admit<Request, Prepared, Answer>(
  operation: Operation<Request, Answer>,
  { tenantOf, prepare }: InBatches<Request, Prepared, Answer>,
  item: BatchItem<Request>,
  { call, parent }: { readonly call: AuthorizedCall; readonly parent: TenantName },
): Admitted<Request, Prepared, Answer> {
  const rights = call.rights.apart();
  let request: Request | undefined;
  const prepared = outcomeOf(() => {
    request = item.read();
    if (tenantOf(request).tenant !== parent.tenant)
      throw invalidField('name', 'must be in the tenant that parent names');
    requireRights(operation, rights, request);
    return prepare(rights, request);
  });
  const common = { request, rights, notes: {} };
  return 'error' in prepared
    ? { ...common, prepared: undefined, outcome: prepared }
    : { ...common, prepared: prepared.answer, outcome: undefined };
}

/** Has all items done that were let in. Never rejects: what fails as a whole fails for each. */
async function perform<Request, Prepared, Answer>(
  services: Services,
  call: AuthorizedCall,
  many: InBatches<Request, Prepared, Answer>,
  admitted: readonly Admitted<Request, Prepared, Answer>[],
): Promise<void> {
  const ready = admitted.filter(({ outcome }) => outcome === undefined);
  if (ready.length === 0) return;
  const items = ready.map(({ prepared, notes }) => ({ request: prepared as Prepared, notes }));
  const outcomes = await settled(many.perform(services, call, items));
  for (const [index, item] of ready.entries())
    item.outcome = 'error' in outcomes ? outcomes : outcomes.answer[index];
}

/**
 * Returns what there is to say of each item: no bindings but those that aren't the batch's, which
 * are those of the first item that was done.
 */
function servedItems<Request, Answer>(
  operation: Operation<Request, Answer>,
  { bindings }: Rights,
  admitted: readonly Admitted<Request, unknown, Answer>[],
): ServedItem[] {
  const first = admitted.find(({ outcome }) => errorOf(outcome) === undefined);
  for (const [permission, binding] of first?.rights.bindings ?? [])
    bindings.set(permission, binding);
  return admitted.map(({ request, rights, notes, outcome }) => {
    const error = errorOf(outcome);
    const { keyVersion, sourceKeyVersion } = notes;
    const isApart = error === undefined && !areSame(rights.bindings, first?.rights.bindings);
    return {
      ...{ keyVersion, sourceKeyVersion, outcome: error?.reason ?? 'OK' },
      // An item that used a version names that.
      resource: request && keyVersion === undefined ? operation.resource(request) : undefined,
      contexts: request && operation.contexts?.(request),
      bindings: isApart ? Object.fromEntries(rights.bindings) : undefined,
    };
  });
}

type Bindings = Rights['bindings'];

function areSame(some: Bindings, others: Bindings | undefined): boolean {
  if (some.size !== others?.size) return false;
  for (const [permission, binding] of some) if (others.get(permission) !== binding) return false;
  return true;
}

function errorOf(outcome: Outcome<unknown> | undefined): KeywardError | undefined {
  return outcome !== undefined && 'error' in outcome ? outcome.error : undefined;
}

function resultOf<Request, Answer>(
  { request, outcome }: Admitted<Request, unknown, Answer>,
  index: number,
): ItemResult<Request, Answer> {
  if (outcome === undefined) throw new Error('nothing became of an item of a batch');
  if ('error' in outcome) return { error: within(`requests[${index}].`, outcome.error) };
  return { request: request as Request, answer: outcome.answer };
}

/** Throws MESSAGE_TOO_LARGE where the answer to a batch could have more bytes than the limit. */
function requireFits(bytes: number, limit: number): void {
  if (bytes <= limit) return;
  const description = `must be fewer: an answer could have ${bytes} bytes, and ${limit} at most are allowed`;
  throw new KeywardError('MESSAGE_TOO_LARGE', {
    message: `requests: ${description}`,
    fields: [{ field: 'requests', description }],
    metadata: { limit: String(limit) },
  });
}

/** Returns the error with its fields named as parts of an item. */
function within(prefix: string, error: KeywardError): KeywardError {
  if (error.fields.length === 0) return error;
  const fields = error.fields.map(({ field, description }) => ({
    field: `${prefix}${field}`,
    description,
  }));
  return new KeywardError(error.reason, {
    message: error.message,
    fields,
    metadata: error.metadata,
  });
}
