/**
 * Canonical requests: the one text that a request of a method has, whichever face it came in by.
 * It is what approvers are shown and sign, and what is performed once enough have.
 *
 * - The text is RFC 8785 (JCS) over protobuf's JSON mapping of the request's message, without
 *   `request_id` and `validate_only`, which say how it is sent and not what it asks for.
 * - Requests that mean the same have the same text; fields that the contract does not have are in
 *   no text, so nothing is performed that was not shown.
 * - Knows the contract's descriptors, and no method's meaning.
 */
import './base64.ts';
import {
  clearField,
  type DescField,
  type DescMessage,
  fromBinary,
  fromJson,
  type JsonValue,
  toBinary,
  toJson,
} from '@bufbuild/protobuf';
import { reflect } from '@bufbuild/protobuf/reflect';
import { KeywardError } from '../../errors.ts';
import { canonicalJson } from '../../hsm/canonical-json.ts';
import { contractRegistry } from './registry.ts';

/** A canonical request has at most so many bytes. */
export const MAX_CANONICAL_BYTES = 65_536;

const REQUEST_ID = 'request_id';
/** How a request is sent, and not what it asks for. */
const LEFT_OUT: readonly string[] = [REQUEST_ID, 'validate_only'];

/**
 * Returns the canonical form of a method's request, by the method's name,
 * `keyward.v1.KeyService/CreateKey`, and the message's bytes. Throws MESSAGE_TOO_LARGE.
 */
export function canonicalRequest(method: string, bytes: Uint8Array): Buffer {
  const { input } = methodOf(method);
  const message = fromBinary(input, bytes);
  for (const field of input.fields) if (LEFT_OUT.includes(field.name)) clearField(message, field);
  const canonical = Buffer.from(canonicalJson(toJson(input, message)));
  if (canonical.length > MAX_CANONICAL_BYTES)
    throw new KeywardError('MESSAGE_TOO_LARGE', {
      metadata: { limit: String(MAX_CANONICAL_BYTES) },
    });
  return canonical;
}

/**
 * Returns the bytes of the message that a canonical request stands for, with this request id where
 * the method's requests have one. Throws Error for what is no canonical request of the method.
 */
export function requestFromCanonical(method: string, canonical: Buffer, requestId: string): Buffer {
  const { input } = methodOf(method);
  const message = fromJson(input, JSON.parse(canonical.toString()) as JsonValue);
  if (!Buffer.from(canonicalJson(toJson(input, message))).equals(canonical))
    throw new Error('a request that is not in its canonical form');
  const field = input.fields.find(({ name }) => name === REQUEST_ID);
  if (field !== undefined) setText(input, message, field, requestId);
  return Buffer.from(toBinary(input, message));
}

/** Returns a method's answer as JSON in the same form, by the message's bytes. */
export function canonicalAnswer(method: string, bytes: Uint8Array): Buffer {
  const { output } = methodOf(method);
  return Buffer.from(canonicalJson(toJson(output, fromBinary(output, bytes))));
}

function methodOf(name: string): { readonly input: DescMessage; readonly output: DescMessage } {
  const [service = '', own] = name.split('/');
  const found = contractRegistry()
    .getService(service)
    ?.methods.find((each) => each.name === own);
  if (found === undefined) throw new Error(`the descriptors have no ${name}`);
  return found;
}

function setText(
  input: DescMessage,
  message: ReturnType<typeof fromJson>,
  field: DescField,
  text: string,
): void {
  if (field.fieldKind === 'scalar') reflect(input, message).set(field, text);
}
