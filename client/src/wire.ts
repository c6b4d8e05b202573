/**
 * Every method of the contract: where it is, and how its messages travel.
 *
 * - A method may be called again with the same bytes, because it reads, or what it makes is the
 *   caller's alone, or it has a request id; those that may not are marked as `once`.
 * - A plaintext that wasn't asked for is not given out, and one that was asked for is there.
 * - A batch's item is treated as the same request alone would be, and its failure is its own.
 *
 * Which methods there are is generated; `convert.ts` converts. Knows nothing of channels and
 * deadlines.
 */
import type { Checksums } from './checksums.ts';
import { messagesOf } from './contract.ts';
import { Converter, type Values } from './convert.ts';
import { errorOfStatus, KeywardError, type Status } from './errors.ts';
import { METHODS, type MethodName } from './generated/shapes.ts';
import type * as m from './messages.ts';

/** Where a method is, and which shapes its messages have. */
export interface MethodRow {
  readonly path: string;
  readonly request: string;
  /** None when nothing is answered. */
  readonly answer?: string;
  /** Where the answer is a list and nothing else: its field. */
  readonly list?: string;
  /** Whether each of that list is an answer or an error. */
  readonly batch?: true;
}

/**
 * One method: where it is, and how its messages travel; of a streaming method, each of its answers.
 * What it takes and returns is what the generated types say.
 */
export interface Method {
  readonly path: string;
  /** Throws a TypeError for what can't be sent as it is. */
  readonly serialize: (request: unknown) => Buffer;
  /** Throws for a message that isn't a whole answer; a KeywardError where it knows more. */
  readonly deserialize: (bytes: Buffer, request: unknown) => unknown;
  /** Whether a second call with the same bytes would have a second effect. */
  readonly once?: true;
  /** The request for what comes after an answer, where a stream that broke goes on from there. */
  readonly after?: (request: unknown, answer: unknown) => unknown;
}

/** Every method by its name. */
export type Methods = Readonly<Record<MethodName, Method>>;

/** Returns every method of all services. */
export function methods(checksums: Checksums): Methods {
  const converter = new Converter(checksums);
  const rows = Object.entries<MethodRow>(METHODS);
  const all = Object.fromEntries(rows.map(([name, row]) => [name, methodOf(row, converter)]));
  const { readAuditEntries, createDataKey, getDataKey, createCanary, testAlert } = all as Methods;
  return {
    ...(all as Methods),
    readAuditEntries: { ...readAuditEntries, after: readOn },
    createDataKey: withPlaintext(createDataKey, (r) => r.returnPlaintext === true),
    getDataKey: withPlaintext(getDataKey, () => true),
    createCanary: { ...createCanary, once: true },
    testAlert: { ...testAlert, once: true },
  };
}

function methodOf({ path, request, answer, list, batch }: MethodRow, converter: Converter): Method {
  const types = messagesOf(path);
  const one = (wire: unknown) =>
    answer === undefined ? undefined : converter.answer(answer, wire as Values);
  const answered = (wire: Values, given: unknown) => {
    if (list === undefined) return one(wire);
    const items = wire[list] as readonly unknown[];
    return batch ? batchResults(items, given as Batch, one) : items.map(one);
  };
  return {
    path,
    serialize: (given) =>
      types.request.encode(converter.request(request, given)).finish() as Buffer,
    deserialize: (bytes, given) => answered(types.answer.decode(bytes) as unknown as Values, given),
  };
}

/** The request for what comes after these entries. */
function readOn(request: unknown, entries: unknown): unknown {
  const last = (entries as readonly m.AuditEntry[]).at(-1);
  if (last === undefined) return request;
  return { ...(request as m.ReadAuditEntriesRequest), firstLeafIndex: last.leafIndex + 1 };
}

/** A method whose answer has a data key's plaintext where that is wanted, and only there. */
function withPlaintext(
  method: Method,
  isWanted: (request: m.CreateDataKeyRequest) => boolean,
): Method {
  return {
    ...method,
    deserialize: (bytes, request) => {
      const answer = method.deserialize(bytes, request) as m.GetDataKeyResponse;
      if (!isWanted(request as m.CreateDataKeyRequest))
        return { ...answer, plaintext: undefined, plaintextCrc32c: undefined };
      // An empty one would pass for a key with those who take keys of any length, HMAC for one.
      if (answer.plaintext.length === 0) throw new Error('the answer lacks the plaintext');
      return answer;
    },
  };
}

/** What every batch's request has. */
type Batch = Pick<m.BatchEncryptRequest, 'requests'>;

/** Throws when there isn't one result for each request: which belongs to which would be a guess. */
function batchResults(
  results: readonly unknown[],
  { requests }: Batch,
  convert: (wire: unknown) => unknown,
): m.BatchResult<unknown>[] {
  if (results.length !== requests.length)
    throw new Error(`the answer has ${results.length} results for ${requests.length} requests`);
  return results.map((result) => batchResult(result as WireResult, convert));
}

/** What became of an item, as the wire has it. */
interface WireResult {
  readonly response?: unknown;
  readonly error?: Status;
}

function batchResult(
  { response, error }: WireResult,
  convert: (wire: unknown) => unknown,
): m.BatchResult<unknown> {
  if (error) return { error: errorOfStatus(error) };
  if (!response) {
    const message = 'The answer says nothing of this item.';
    return { error: new KeywardError({ code: 'INTERNAL', message }) };
  }
  try {
    return { response: convert(response) };
  } catch (thrown) {
    if (thrown instanceof KeywardError) return { error: thrown };
    throw thrown;
  }
}
