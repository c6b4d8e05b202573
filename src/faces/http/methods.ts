/**
 * The contract's methods as this face serves them: by their paths, as bytes or as JSON.
 *
 * Invariant: a request of JSON that is larger than most is looked at, and its caller decided on,
 * before it is parsed.
 */
import type { AdmittedCall } from '../../calls/arrivals.ts';
import { KeywardError } from '../../errors.ts';
import { validate } from '../contract/fields.ts';
import {
  DEFAULT_REQUEST_BYTES,
  type MessageExchange,
  messageExchange,
  methodsOf,
  type ServedMethod,
} from '../contract/methods.ts';
import { RPCS, STREAM_PATHS } from '../contract/rpcs.ts';
import type { JsonCodec, MethodCodec } from './codec.ts';
import { addresseeOf } from './json-scan.ts';

/** A method, and how its messages are JSON. */
export interface HttpMethod {
  readonly served: ServedMethod;
  readonly codec: MethodCodec;
  readonly isStream: boolean;
  /** The largest request, in bytes as it is sent. */
  readonly maxBytes: number;
}

const NOTHING = Buffer.alloc(0);

/** Returns every method of the contract by its path, `/keyward.v1.KeyService/CreateKey`. */
export function httpMethods(codec: JsonCodec): ReadonlyMap<string, HttpMethod> {
  const methods = Object.keys(RPCS).flatMap((service) => Object.values(methodsOf(service)));
  return new Map(
    methods.map((served) => {
      const path = `/${served.name}`;
      const isStream = STREAM_PATHS.has(path);
      const maxBytes = served.rpc.large?.maxBytes ?? DEFAULT_REQUEST_BYTES;
      return [path, { served, codec: codec.method(served.name), isStream, maxBytes }];
    }),
  );
}

/** Returns how one call's messages are read and written. `body` is overwritten at the end. */
export function exchangeOf(
  method: HttpMethod,
  { admitted, body, isJson }: { admitted: AdmittedCall; body: Buffer; isJson: boolean },
): MessageExchange {
  return isJson
    ? jsonExchange(method, admitted, body)
    : messageExchange(method.served, admitted, body);
}

function jsonExchange(
  { served, codec, maxBytes }: HttpMethod,
  admitted: AdmittedCall,
  text: Buffer,
): MessageExchange {
  let bytes: Buffer = NOTHING;
  const inBytes = messageExchange(served, admitted, NOTHING);
  const read: MessageExchange['read'] = (authorize) => {
    bytes = admitted.decode(text.length, () => codec.fromText(text));
    return messageExchange(served, admitted, bytes).read(authorize);
  };
  const readLarge: MessageExchange['read'] = async (authorize) => {
    const { large } = served.rpc;
    if (large === undefined || text.length > maxBytes)
      throw new KeywardError('MESSAGE_TOO_LARGE', { metadata: { limit: String(maxBytes) } });
    await authorize(validate(large.addressee, { parent: addresseeOf(text, 'parent') }));
    return read(authorize);
  };
  return {
    ...inBytes,
    read: text.length > DEFAULT_REQUEST_BYTES ? readLarge : read,
    encode: (answer, request) => {
      const encoded = inBytes.encode(answer, request);
      const json = codec.toText(encoded);
      encoded.fill(0);
      return json;
    },
    fromKept: (kept) => codec.toText(kept),
    canonical: () => messageExchange(served, admitted, bytes).canonical(),
    wipe: () => {
      text.fill(0);
      bytes.fill(0);
    },
  };
}
