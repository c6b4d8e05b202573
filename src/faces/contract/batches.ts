/**
 * Batches as messages: items that are read one by one, and an answer that clients take whatever
 * becomes of each.
 */
import { z } from 'zod';
import type { BatchRequest, ItemResult } from '../../calls/batches.ts';
import type { Operation } from '../../calls/operation.ts';
import { invalidField, KeywardError } from '../../errors.ts';
import {
  type EncryptionContext,
  findContextProblem,
} from '../../keyring/keys/encryption-context.ts';
import { fieldBytes, MAX_ANSWER_BYTES } from './answer-size.ts';
import { encryptionContext, protoName, tenantName, validate } from './fields.ts';
import { serialize } from './proto.ts';
import type { UnaryRpc } from './rpc.ts';
import { type Status, toStatus } from './status.ts';

const MAX_ITEMS = 1_000;
/** As many bytes as a message may have; KEYWARD_MAX_MESSAGE_BYTES can only make it less. */
const MAX_BYTES = Number.MAX_SAFE_INTEGER;
/** What is kept free for each item: an error in its reason's own words, with all of its details. */
export const SHORT_ERROR_BYTES = 400;

/** What a batch has to know of an item's message. */
export interface BatchMessages<Request, Item> {
  /**
   * The fields of contexts, which the batch has as an item has them, by what an item's request
   * calls them.
   */
  readonly contexts: Readonly<Partial<Record<keyof Request, string>>>;
  /** Returns how many bytes the answer to an item has at most, whatever is in the item. */
  answerBytes(item: Item): number;
}

/** Contexts of a batch, by the fields that have them. */
type Contexts = Readonly<Record<string, EncryptionContext>>;

/** What became of an item, as a message. */
export type ResultMessage<Message> = { readonly response: Message } | { readonly error: Status };

/** Returns the batch of an RPC, whose items are decoded as `Item`. */
export function batchRpc<Request, Answer, Message, Item>(
  operation: Operation<BatchRequest<Request>, readonly ItemResult<Request, Answer>[]>,
  single: UnaryRpc<Request, Answer, Message>,
  { answerBytes, contexts }: BatchMessages<Request, Item>,
): UnaryRpc<
  BatchRequest<Request>,
  readonly ItemResult<Request, Answer>[],
  { results: ResultMessage<Message>[] }
> {
  const fields = Object.entries<string | undefined>(contexts).map(
    ([name, field]) => [name as keyof Request, field ?? ''] as const,
  );
  const itemOf = (shared: Contexts) => (item: unknown) => ({
    read: () => {
      const request = validate(single.request, item);
      // A schema's own output: nobody else has it.
      for (const [name, field] of fields)
        Object.assign(request as object, {
          [name]: joined(field, shared[field], request[name] as EncryptionContext),
        });
      return request;
    },
    ciphertext: ciphertextOf(item),
  });
  return {
    operation,
    request: z
      .object({
        ...Object.fromEntries(fields.map(([, field]) => [field, encryptionContext])),
        parent: tenantName,
        requests: z
          .array(z.unknown())
          .min(1, 'must have at least one item')
          .max(MAX_ITEMS, `must have at most ${MAX_ITEMS} items`),
      })
      .transform(({ parent, requests, ...shared }) => ({
        parent,
        items: requests.map(itemOf(shared as Contexts)),
        answerSizes: sizesOf(requests.map((item) => answerBytes(item as Item))),
      })),
    large: {
      maxBytes: MAX_BYTES,
      addressee: z
        .object({ parent: tenantName })
        .transform(({ parent }) => ({ parent, items: [], answerSizes: sizesOf([]) })),
    },
    message: (results, { answerSizes }, call) => {
      const shortens = wholeBytes(results, answerSizes.items, call) > MAX_ANSWER_BYTES;
      return {
        results: results.map((result) =>
          'error' in result
            ? {
                error: toStatus(shortens ? shortened(result.error) : result.error, { id: call.id }),
              }
            : { response: single.message(result.answer, result.request, call) },
        ),
      };
    },
  };
}

/**
 * Returns an item's context: the batch's, and what the item adds. The same one for each item that
 * adds nothing, so that what is made of it can be made once. Throws INVALID_FIELD.
 */
function joined(
  field: string,
  shared: EncryptionContext | undefined,
  own: EncryptionContext,
): EncryptionContext {
  if (shared === undefined || shared.size === 0) return own;
  if (own.size === 0) return shared;
  const whole = new Map(shared);
  for (const [key, value] of own) {
    const given = shared.get(key);
    if (given !== undefined && given !== value)
      throw invalidField(
        protoName(field),
        `must not give ${JSON.stringify(key)} another value than the batch does`,
      );
    whole.set(key, value);
  }
  const problem = findContextProblem(whole);
  if (problem !== undefined)
    throw invalidField(protoName(field), `${problem}, with what the batch has`);
  return whole;
}

/** Returns what an item's message wants opened, if it has that field. */
function ciphertextOf(item: unknown): Buffer | undefined {
  const { ciphertext } = item as { readonly ciphertext?: unknown };
  return Buffer.isBuffer(ciphertext) ? ciphertext : undefined;
}

function sizesOf(items: readonly number[]): BatchRequest<unknown>['answerSizes'] {
  const whole = items.reduce(
    (sum, bytes) => sum + resultBytes(Math.max(bytes, SHORT_ERROR_BYTES)),
    0,
  );
  return { items, whole, limit: MAX_ANSWER_BYTES };
}

/** Returns how many bytes the answer has at most, with all that there is to say of each error. */
function wholeBytes(
  results: readonly ItemResult<unknown, unknown>[],
  answerBytes: readonly number[],
  { id }: { readonly id: string },
): number {
  return results.reduce((sum, result, index) => {
    const bytes =
      'error' in result
        ? serialize('google.rpc.Status', toStatus(result.error, { id })).length
        : (answerBytes[index] ?? 0);
    return sum + resultBytes(bytes);
  }, 0);
}

/**
 * Returns what an item's result takes of the answer whose `response` or `error` has so many bytes.
 */
function resultBytes(bytes: number): number {
  return fieldBytes(fieldBytes(bytes));
}

/** Returns the error with nothing but its reason, and when to try again. */
export function shortened({ reason, retryAfterMs }: KeywardError): KeywardError {
  return new KeywardError(reason, retryAfterMs === undefined ? {} : { retryAfterMs });
}
