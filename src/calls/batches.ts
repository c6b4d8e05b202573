/**
 * Batches: many requests of one operation in one call, each with a result of its own.
 *
 * Invariants:
 *
 * - results are in the requests' order;
 * - an item that fails has no effect on the others, and says what the same call alone would have
 *   said;
 * - every item is of the tenant that the batch names, and allowed for itself;
 * - no item is done unless clients take the answer to all of them, whatever becomes of each;
 * - a window of items is under way at a time, so that one batch doesn't fill the queue for all
 *   others.
 *
 * Knows no operation and no message.
 */
import { isDeepStrictEqual } from 'node:util';
import type { Rights } from '../access/access.ts';
import type { Permission } from '../access/permissions.ts';
import { LATER } from '../access/policy.ts';
import { type AuditNotes, onceRecorded } from '../call.ts';
import { invalidField, KeywardError, toKeywardError } from '../errors.ts';
import { formatTenantName, type TenantName } from '../names.ts';
import { noteItems, type ServedItem } from './audit.ts';
import { requireRights } from './authorization.ts';
import type { AuthorizedCall, Operation, Services } from './operation.ts';

/** Enough to keep the agents busy. */
const WINDOW = 64;

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

/** Returns the batch of an operation. `tenantOf` returns whose a request is. */
export function batchOf<Request, Answer>(
  operation: Operation<Request, Answer>,
  tenantOf: (request: Request) => TenantName,
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
      const serve = itemServer(operation, tenantOf, { services, call, parent });
      const served = await inWindow(items, serve);
      const notes = served.map((each) => each.notes);
      await noteItems(services.masks, call, parent.tenant, apartFrom(call.rights, notes));
      return served.map(({ result }) => result);
    },
  };
}

/**
 * Returns the items with no bindings but those that aren't the batch's, which are those of the
 * first that has any.
 */
function apartFrom({ bindings }: Rights, items: readonly ServedItem[]): ServedItem[] {
  const shared = items.find((item) => item.bindings !== undefined)?.bindings ?? {};
  for (const [permission, binding] of Object.entries(shared))
    bindings.set(permission as Permission, binding);
  return items.map(({ bindings: own, ...item }) =>
    own === undefined || isDeepStrictEqual(own, shared) ? item : { ...item, bindings: own },
  );
}

/** What all items of a batch share. */
interface Batch {
  readonly services: Services;
  readonly call: AuthorizedCall;
  readonly parent: TenantName;
}

/** Returns what serves one item: as the same call alone, with notes of its own. */
function itemServer<Request, Answer>(
  operation: Operation<Request, Answer>,
  tenantOf: (request: Request) => TenantName,
  { services, call, parent }: Batch,
) {
  return async (item: BatchItem<Request>, index: number) => {
    const audit: AuditNotes = {};
    const rights = call.rights.apart();
    let known: Pick<ServedItem, 'resource' | 'contexts'> = {};
    const notes = (outcome: string): ServedItem => ({
      ...known,
      keyVersion: audit.keyVersion,
      sourceKeyVersion: audit.sourceKeyVersion,
      ...(outcome === 'OK' ? { bindings: Object.fromEntries(rights.bindings) } : {}),
      outcome,
    });
    try {
      const request = item.read();
      known = { resource: operation.resource(request), contexts: operation.contexts?.(request) };
      if (tenantOf(request).tenant !== parent.tenant)
        throw invalidField('name', 'must be in the tenant that parent names');
      requireRights(operation, rights, request);
      const answer = await operation.handle(services, { ...call, audit, rights }, request);
      for (const action of audit.onRecorded ?? []) onceRecorded(call, action);
      return { result: { request, answer }, notes: notes('OK') };
    } catch (thrown) {
      call.rights.denials.push(...rights.denials);
      const error = toKeywardError(thrown);
      return {
        result: { error: within(`requests[${index}].`, error) },
        notes: notes(error.reason),
      };
    }
  };
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

async function inWindow<T, R>(
  items: readonly T[],
  work: (item: T, index: number) => Promise<R>,
): Promise<R[]> {
  const results: R[] = [];
  const rest = items.entries();
  const worker = async () => {
    for (const [index, item] of rest) results[index] = await work(item, index);
  };
  await Promise.all(Array.from({ length: Math.min(WINDOW, items.length) }, worker));
  return results;
}
