/**
 * Batches: many requests of one method in one call, each with a result of its own.
 *
 * Invariants:
 *
 * - results are in the requests' order;
 * - an item that fails has no effect on the others, and says what the same call alone would have
 *   said;
 * - every item is of the tenant that the batch names, and allowed for itself;
 * - no item is done unless clients take the answer to all of them, and the audit entry, whatever
 *   becomes of each;
 * - a window of items is under way at a time, so that one batch doesn't fill the queue for all
 *   others.
 *
 * Knows no method.
 */
import { z } from 'zod';
import { LATER } from '../access/policy.ts';
import { invalidField, KeywardError } from '../errors.ts';
import { fieldBytes, MAX_ANSWER_BYTES } from '../faces/contract/answer-size.ts';
import { tenantName, validate } from '../faces/contract/fields.ts';
import { serialize } from '../faces/contract/proto.ts';
import { type Status, toKeywardError, toStatus } from '../faces/grpc/status.ts';
import { formatTenantName, type TenantName } from '../names.ts';
import { itemEntryBytes, noteItems, type ServedItem } from './audit.ts';
import { requireRights } from './authorization.ts';
import type { AuthorizedCall, MethodRow, Services } from './operation.ts';

const MAX_ITEMS = 1_000;
/** As many bytes as a message may have; KEYWARD_MAX_MESSAGE_BYTES can only make it less. */
const MAX_BYTES = Number.MAX_SAFE_INTEGER;
/** Enough to keep the agents busy. */
const WINDOW = 64;

/**
 * So much of a batch's audit entry its items may be: it has to be read as an answer, with all that
 * it says of the call.
 */
const MAX_ENTRY_BYTES = 3_670_016;
/** What is kept free for each item: an error in its reason's own words, with all of its details. */
export const SHORT_ERROR_BYTES = 400;

/** What became of an item. */
export type ItemResult<Response> = { readonly response: Response } | { readonly error: Status };

/** What a method's batch is made of besides the method. */
export interface BatchParts<Request, Item> {
  /** Whose a request is. */
  tenantOf(request: Request): TenantName;
  /** Returns how many bytes the answer to an item has at most, whatever is in the item. */
  answerBytes(item: Item): number;
}

/** The batch of a method, whose items are decoded as `Item`. */
export function batchOf<Request, Response, Item>(
  row: MethodRow<Request, Response>,
  { tenantOf, answerBytes }: BatchParts<Request, Item>,
): MethodRow<
  { readonly parent: TenantName; readonly requests: readonly unknown[] },
  { results: ItemResult<Response>[] }
> {
  return {
    request: z.object({
      parent: tenantName,
      requests: z
        .array(z.unknown())
        .min(1, 'must have an item')
        .max(MAX_ITEMS, `must have at most ${MAX_ITEMS} items`),
    }),
    large: {
      maxBytes: MAX_BYTES,
      addressee: z
        .object({ parent: tenantName })
        .transform(({ parent }) => ({ parent, requests: [] })),
    },
    calls: ({ requests }) => requests.length,
    permission: row.permission,
    // Which keys, with which contexts, the items say; each is asked about for itself.
    target: ({ parent }) => ({ tenant: parent.tenant, key: LATER, context: LATER }),
    resource: ({ parent }) => formatTenantName(parent),
    handle: async (services, call, { parent, requests }) => {
      const bytes = requests.map((item) => answerBytes(item as Item));
      const answer = sumOf(bytes, (each) => resultBytes(Math.max(each, SHORT_ERROR_BYTES)));
      requireFits('an answer', answer, MAX_ANSWER_BYTES);
      const entry = sumOf(requests, (item) => itemEntryBytes(item as object));
      requireFits('an audit entry', entry, MAX_ENTRY_BYTES);
      const items = await inWindow(requests, (item, index) =>
        handleItem(services, call, item, index, parent),
      );
      await noteItems(
        services.masks,
        call,
        parent.tenant,
        items.map(({ served }) => served),
      );
      return { results: fitting(call, items, bytes) };
    },
  };

  async function handleItem(
    services: Services,
    call: AuthorizedCall,
    item: unknown,
    index: number,
    parent: TenantName,
  ) {
    let served: Partial<ServedItem> = {};
    try {
      const request = validate(row.request, item);
      served = { request: request as object, resource: row.resource(request) };
      if (tenantOf(request).tenant !== parent.tenant)
        throw invalidField('name', 'must be of the tenant that parent names');
      requireRights(row, call.rights, request);
      const response = await row.handle(services, call, request);
      return {
        result: { response },
        served: { ...served, answer: response as object, outcome: 'OK' },
      };
    } catch (thrown) {
      const error = toKeywardError(thrown);
      const result = { error: toStatus(within(`requests[${index}].`, error), call.id) };
      return { result, failure: error, served: { ...served, outcome: error.reason } };
    }
  }
}

/** An item's result, and where it failed why. */
interface Outcome<Response> {
  readonly result: ItemResult<Response>;
  readonly failure?: KeywardError;
}

/** What an item's result takes of the answer whose `response` or `error` has so many bytes. */
function resultBytes(bytes: number): number {
  return fieldBytes(fieldBytes(bytes));
}

function sumOf<T>(all: readonly T[], bytesOf: (each: T) => number): number {
  return all.reduce((sum, each) => sum + bytesOf(each), 0);
}

/**
 * Throws MESSAGE_TOO_LARGE where what a batch leads to, `what`, could have more bytes than the
 * limit.
 */
function requireFits(what: string, bytes: number, limit: number): void {
  if (bytes <= limit) return;
  const description = `would have ${what} of up to ${bytes} bytes, of ${limit} at most: send fewer at once`;
  throw new KeywardError('MESSAGE_TOO_LARGE', {
    message: `requests: ${description}`,
    fields: [{ field: 'requests', description }],
    metadata: { limit: String(limit) },
  });
}

/**
 * The results, with errors in their reasons' own words where the answer would be too large with all
 * that there is to say.
 */
function fitting<Response>(
  { id }: Pick<AuthorizedCall, 'id'>,
  outcomes: readonly Outcome<Response>[],
  answerBytes: readonly number[],
): ItemResult<Response>[] {
  const bytes = outcomes.map(({ result }, index) =>
    'error' in result
      ? serialize('google.rpc.Status', result.error).length
      : (answerBytes[index] ?? 0),
  );
  const all = sumOf(bytes, resultBytes);
  return outcomes.map(({ result, failure }) =>
    failure === undefined || all <= MAX_ANSWER_BYTES
      ? result
      : { error: toStatus(shortened(failure), id) },
  );
}

/** The error with nothing but its reason, and when to try again. */
export function shortened({ reason, retryAfterMs }: KeywardError): KeywardError {
  return new KeywardError(reason, retryAfterMs === undefined ? {} : { retryAfterMs });
}

/** The error with its fields named as parts of an item. */
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
