/**
 * The data plane's requests and answers, to the wire and off it, with their checksums; alone and in
 * batches.
 *
 * Its invariant: a batch's item is treated as the same request alone would be, and its failure is
 * its own. Knows nothing of channels.
 */
import type { Checksums } from './checksums.ts';
import { errorOfStatus, KeywardClientError, type Status } from './errors.ts';
import { bytes, integer, items, strings, text } from './fields.ts';
import type { DecryptResponse__Output } from './generated/keyward/v1/DecryptResponse.ts';
import type { EncryptResponse__Output } from './generated/keyward/v1/EncryptResponse.ts';
import type { GenerateDataKeyResponse__Output } from './generated/keyward/v1/GenerateDataKeyResponse.ts';
import type { GenerateDataKeyWithoutPlaintextResponse__Output } from './generated/keyward/v1/GenerateDataKeyWithoutPlaintextResponse.ts';
import type { GenerateRandomBytesResponse__Output } from './generated/keyward/v1/GenerateRandomBytesResponse.ts';
import type { ReEncryptResponse__Output } from './generated/keyward/v1/ReEncryptResponse.ts';
import type * as m from './messages.ts';

export function encryptRequest(r: m.EncryptRequest, checksums: Checksums) {
  const plaintext = bytes('plaintext', r.plaintext);
  return {
    name: text('name', r.name),
    plaintext,
    encryptionContext: strings('encryptionContext', r.encryptionContext),
    ...checksums.field('plaintextCrc32c', plaintext, r.plaintextCrc32c),
  };
}

export function encryptResponse(
  a: EncryptResponse__Output,
  checksums: Checksums,
): m.EncryptResponse {
  checksums.requireVerified('plaintext', a.verifiedPlaintextCrc32c);
  checksums.verify('ciphertext', a.ciphertext, a.ciphertextCrc32c);
  return a;
}

export function decryptRequest(r: m.DecryptRequest, checksums: Checksums) {
  const ciphertext = bytes('ciphertext', r.ciphertext);
  return {
    parent: text('parent', r.parent),
    ciphertext,
    encryptionContext: strings('encryptionContext', r.encryptionContext),
    key: text('key', r.key ?? ''),
    ...checksums.field('ciphertextCrc32c', ciphertext, r.ciphertextCrc32c),
  };
}

export function decryptResponse(
  a: DecryptResponse__Output,
  checksums: Checksums,
): m.DecryptResponse {
  checksums.requireVerified('ciphertext', a.verifiedCiphertextCrc32c);
  checksums.verify('plaintext', a.plaintext, a.plaintextCrc32c);
  return a;
}

export function dataKeyRequest(r: m.GenerateDataKeyRequest) {
  return {
    name: text('name', r.name),
    encryptionContext: strings('encryptionContext', r.encryptionContext),
    length: integer('length', r.length ?? 0),
  };
}

export function dataKeyResponse(
  a: GenerateDataKeyResponse__Output,
  checksums: Checksums,
): m.GenerateDataKeyResponse {
  checksums.verify('plaintext', a.plaintext, a.plaintextCrc32c);
  checksums.verify('wrapped data key', a.wrappedDataKey, a.wrappedDataKeyCrc32c);
  return a;
}

export function wrappedDataKeyResponse(
  a: GenerateDataKeyWithoutPlaintextResponse__Output,
  checksums: Checksums,
): m.GenerateDataKeyWithoutPlaintextResponse {
  checksums.verify('wrapped data key', a.wrappedDataKey, a.wrappedDataKeyCrc32c);
  return a;
}

export function reEncryptRequest(r: m.ReEncryptRequest, checksums: Checksums) {
  const ciphertext = bytes('ciphertext', r.ciphertext);
  return {
    name: text('name', r.name),
    ciphertext,
    sourceEncryptionContext: strings('sourceEncryptionContext', r.sourceEncryptionContext),
    destinationEncryptionContext: strings(
      'destinationEncryptionContext',
      r.destinationEncryptionContext,
    ),
    sourceKey: text('sourceKey', r.sourceKey ?? ''),
    ...checksums.field('ciphertextCrc32c', ciphertext, r.ciphertextCrc32c),
  };
}

export function reEncryptResponse(
  a: ReEncryptResponse__Output,
  checksums: Checksums,
): m.ReEncryptResponse {
  checksums.requireVerified('ciphertext', a.verifiedCiphertextCrc32c);
  checksums.verify('ciphertext', a.ciphertext, a.ciphertextCrc32c);
  return a;
}

export function randomBytesResponse(
  a: GenerateRandomBytesResponse__Output,
  checksums: Checksums,
): m.GenerateRandomBytesResponse {
  checksums.verify('data', a.data, a.dataCrc32c);
  return a;
}

export function batchRequest<Item, Wire>(r: m.BatchRequest<Item>, convert: (item: Item) => Wire) {
  return { parent: text('parent', r.parent), requests: items('requests', r.requests, convert) };
}

/** What became of an item, as the wire has it. */
interface WireResult<Wire> {
  readonly response?: Wire | null;
  readonly error?: Status | null;
}

/** Throws when there isn't one result for each request: which belongs to which would be a guess. */
export function batchResults<Wire, Response>(
  results: readonly WireResult<Wire>[],
  { requests }: m.BatchRequest<unknown>,
  convert: (response: Wire) => Response,
): m.BatchResult<Response>[] {
  if (results.length !== requests.length)
    throw new Error(`the answer has ${results.length} results for ${requests.length} requests`);
  return results.map((result) => batchResult(result, convert));
}

function batchResult<Wire, Response>(
  { response, error }: WireResult<Wire>,
  convert: (response: Wire) => Response,
): m.BatchResult<Response> {
  if (error) return { error: errorOfStatus(error) };
  if (!response) {
    const message = 'The answer says nothing of this item.';
    return { error: new KeywardClientError({ code: 'INTERNAL', message }) };
  }
  try {
    return { response: convert(response) };
  } catch (thrown) {
    if (thrown instanceof KeywardClientError) return { error: thrown };
    throw thrown;
  }
}
