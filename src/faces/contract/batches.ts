/**
 * Batches as messages: items that are read one by one, and an answer that clients take whatever
 * becomes of each.
 */
import { z } from 'zod';
import type { BatchRequest, ItemResult } from '../../calls/batches.ts';
import type { Operation } from '../../calls/operation.ts';
import { KeywardError } from '../../errors.ts';
import { fieldBytes, MAX_ANSWER_BYTES } from './answer-size.ts';
import { tenantName, validate } from './fields.ts';
import { serialize } from './proto.ts';
import type { UnaryRpc } from './rpc.ts';
import { type Status, toStatus } from './status.ts';

const MAX_ITEMS = 1_000;
/** As many bytes as a message may have; KEYWARD_MAX_MESSAGE_BYTES can only make it less. */
const MAX_BYTES = Number.MAX_SAFE_INTEGER;
/** What is kept free for each item: an error in its reason's own words, with all of its details. */
export const SHORT_ERROR_BYTES = 400;

/** What a batch has to know of an item's message. */
export interface BatchMessages<Item> {
  /** Returns how many bytes the answer to an item has at most, whatever is in the item. */
  answerBytes(item: Item): number;
}

/** What became of an item, as a message. */
export type ResultMessage<Message> = { readonly response: Message } | { readonly error: Status };

/** Returns the batch of an RPC, whose items are decoded as `Item`. */
export function batchRpc<Request, Answer, Message, Item>(
  operation: Operation<BatchRequest<Request>, readonly ItemResult<Request, Answer>[]>,
  single: UnaryRpc<Request, Answer, Message>,
  { answerBytes }: BatchMessages<Item>,
): UnaryRpc<
  BatchRequest<Request>,
  readonly ItemResult<Request, Answer>[],
  { results: ResultMessage<Message>[] }
> {
  const itemOf = (item: unknown) => ({
    read: () => validate(single.request, item),
    ciphertext: ciphertextOf(item),
  });
  return {
    operation,
    request: z
      .object({
        parent: tenantName,
        requests: z
          .array(z.unknown())
          .min(1, 'must have at least one item')
          .max(MAX_ITEMS, `must have at most ${MAX_ITEMS} items`),
      })
      .transform(({ parent, requests }) => ({
        parent,
        items: requests.map(itemOf),
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
