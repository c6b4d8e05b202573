/**
 * Batches: many requests of one method in one call, each with a result of its own.
 *
 * Invariants: results are in the requests' order; an item that fails has no effect on the others and says what the same
 * call alone would have said; every item is of the tenant that the batch names, and allowed for
 * itself. A window of items is under way at a
 * time, so that one batch doesn't fill the queue for all others. Knows no method.
 */
import { z } from 'zod';
import { LATER } from '../access/policy.ts';
import { invalidField, KeywardError } from '../errors.ts';
import { formatTenantName, type TenantName } from '../keyring/names.ts';
import { requireRights } from './authorization.ts';
import { noteItems, type ServedItem } from './call-audit.ts';
import { tenantName, validate } from './fields.ts';
import type { AuthorizedCall, MethodRow, Services } from './methods/row.ts';
import { type Status, toKeywardError, toStatus } from './status.ts';

const MAX_ITEMS = 1_000;
/** As many bytes as a message may have; KEYWARD_MAX_MESSAGE_BYTES can only make it less. */
const MAX_BYTES = Number.MAX_SAFE_INTEGER;
/** Enough to keep the agents busy. */
const WINDOW = 64;

/** What became of an item. */
export type ItemResult<Response> = { readonly response: Response } | { readonly error: Status };

/** The batch of a method whose requests belong to the tenant that `tenantOf` says. */
export function batchOf<Request, Response>(
  row: MethodRow<Request, Response>,
  tenantOf: (request: Request) => TenantName,
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
      addressee: z.object({ parent: tenantName }).transform(({ parent }) => ({ parent, requests: [] })),
    },
    calls: ({ requests }) => requests.length,
    permission: row.permission,
    // Which keys, with which contexts, the items say; each is asked about for itself.
    target: ({ parent }) => ({ tenant: parent.tenant, key: LATER, context: LATER }),
    resource: ({ parent }) => formatTenantName(parent),
    handle: async (services, call, { parent, requests }) => {
      const items = await inWindow(requests, (item, index) =>
        handleItem(services, call, item, index, parent),
      );
      await noteItems(
        services.masks,
        call,
        parent.tenant,
        items.map(({ served }) => served),
      );
      return { results: items.map(({ result }) => result) };
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
      return { result: { response }, served: { ...served, answer: response as object, outcome: 'OK' } };
    } catch (thrown) {
      const error = toKeywardError(thrown);
      const result = { error: toStatus(within(`requests[${index}].`, error), call.id) };
      return { result, served: { ...served, outcome: error.reason } };
    }
  }
}

/** The error with its fields named as parts of an item. */
function within(prefix: string, error: KeywardError): KeywardError {
  if (error.fields.length === 0) return error;
  const fields = error.fields.map(({ field, description }) => ({ field: `${prefix}${field}`, description }));
  return new KeywardError(error.reason, { message: error.message, fields, metadata: error.metadata });
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
