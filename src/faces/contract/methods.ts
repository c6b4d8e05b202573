/**
 * The methods of keyward.v1 as faces serve them: by name, from a request's bytes to an answer's.
 *
 * Invariant: a request that is larger than most is looked at, and its caller decided on, before it
 * is decoded. Knows no transport.
 */
import type { MethodDefinition } from '@grpc/grpc-js';
import type { AdmittedCall } from '../../calls/arrivals.ts';
import type { Exchange } from '../../calls/serve-call.ts';
import { KeywardError } from '../../errors.ts';
import { canonicalAnswer, canonicalRequest } from './canonical.ts';
import { validate } from './fields.ts';
import { requestName, serviceDefinition } from './proto.ts';
import { RequestScanner } from './request-scan.ts';
import type { Rpc } from './rpc.ts';
import { RPCS } from './rpcs.ts';

/** A method of the contract, and how its messages look on the wire. */
export interface ServedMethod {
  /** As `keyward.v1.KeyService/CreateKey`. */
  readonly name: string;
  readonly rpc: Rpc;
  readonly decode: (bytes: Buffer) => object;
  /**
   * Looks at requests before they are decoded, where they may be larger than {@link
   * DEFAULT_REQUEST_BYTES}.
   */
  readonly scanner?: Pick<RequestScanner, 'addresseeOf'> | undefined;
  readonly encode: (message: object) => Buffer;
}

/**
 * The largest request of a method that has no limit of its own: 64 KiB of payload, two contexts and
 * names, with room. Decoding a map takes 100 times as long as its bytes take to arrive, so no
 * method takes more than it needs.
 */
export const DEFAULT_REQUEST_BYTES = 131_072;

/** Returns the methods of a service, by their names within it. Throws for one without a proto. */
export function methodsOf(service: string): Readonly<Record<string, ServedMethod>> {
  const definition = serviceDefinition(service);
  const methods = Object.entries(RPCS[service] ?? {}).map(([name, rpc]) => {
    const method = definition[name] as MethodDefinition<object, object> | undefined;
    if (method === undefined) throw new Error(`proto/ has no method ${name}`);
    const { requestDeserialize: decode, responseSerialize: encode } = method;
    const scanner = rpc.large && new RequestScanner(requestName(service, name), 'parent');
    return [name, { name: `${service}/${name}`, rpc, decode, scanner, encode }] as const;
  });
  return Object.fromEntries(methods);
}

/** The part of an exchange that is the same whatever its messages travel by. */
export type MessageExchange = Pick<
  Exchange<unknown, unknown>,
  | 'admitted'
  | 'method'
  | 'operation'
  | 'read'
  | 'encode'
  | 'keep'
  | 'fromKept'
  | 'canonical'
  | 'describe'
  | 'wipe'
>;

/** Returns how one call's messages are read and written. `bytes` is overwritten at the end. */
export function messageExchange(
  { name, rpc, decode, scanner, encode }: ServedMethod,
  admitted: AdmittedCall,
  bytes: Buffer,
): MessageExchange {
  const decoded = () => {
    try {
      return admitted.decode(bytes.length, () => decode(bytes));
    } catch (error) {
      throw error instanceof KeywardError ? error : new KeywardError('MALFORMED_REQUEST');
    }
  };
  const read = () => validate(rpc.request, decoded());
  /** Refuses a large request for what it is, or because its caller has no right to it. */
  const readLarge = async (authorize: (about: unknown) => Promise<void>) => {
    const limit = rpc.large?.maxBytes ?? DEFAULT_REQUEST_BYTES;
    if (rpc.large === undefined || scanner === undefined || bytes.length > limit)
      throw new KeywardError('MESSAGE_TOO_LARGE', { metadata: { limit: String(limit) } });
    await authorize(validate(rpc.large.addressee, { parent: scanner.addresseeOf(bytes) }));
    return read();
  };
  const inBytes = (answer: unknown, request: unknown) =>
    encode(rpc.message(answer, request, admitted));
  return {
    admitted,
    method: name,
    operation: rpc.operation,
    read: (authorize) => (bytes.length > DEFAULT_REQUEST_BYTES ? readLarge(authorize) : read()),
    encode: (answer, request) => admitted.answers(inBytes(answer, request)),
    keep: inBytes,
    fromKept: (kept) => kept,
    canonical: () => canonicalRequest(name, bytes),
    describe: (answer, request) => canonicalAnswer(name, inBytes(answer, request)),
    wipe: () => bytes.fill(0),
  };
}
