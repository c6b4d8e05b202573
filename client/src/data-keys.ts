/**
 * Stored data keys, to the wire and off it, with their checksums.
 *
 * Its invariant: a plaintext that wasn't asked for is not given out, and one that was asked for is
 * there. Knows nothing of channels.
 */
import type { Checksums } from './checksums.ts';
import { flag, integer, named, requestId, strings, text } from './fields.ts';
import type { CreateDataKeyResponse__Output } from './generated/keyward/v1/CreateDataKeyResponse.ts';
import type { DataKey__Output } from './generated/keyward/v1/DataKey.ts';
import type { GetDataKeyResponse__Output } from './generated/keyward/v1/GetDataKeyResponse.ts';
import type * as m from './messages.ts';
import { date, dateIfAny } from './times.ts';

export function createRequest(r: m.CreateDataKeyRequest) {
  return {
    parent: text('parent', r.parent),
    dataKeyId: text('dataKeyId', r.dataKeyId ?? ''),
    encryptionContext: strings('encryptionContext', r.encryptionContext),
    length: integer('length', r.length ?? 0),
    returnPlaintext: flag('returnPlaintext', r.returnPlaintext ?? false),
    ...requestId(r.requestId),
  };
}

export function createResponse(
  a: CreateDataKeyResponse__Output,
  { returnPlaintext = false }: m.CreateDataKeyRequest,
  checksums: Checksums,
): m.CreateDataKeyResponse {
  if (returnPlaintext) return getResponse(a, checksums);
  return { dataKey: dataKey(a.dataKey), plaintext: undefined, plaintextCrc32c: undefined };
}

export function getRequest(r: m.GetDataKeyRequest) {
  return { ...named(r), encryptionContext: strings('encryptionContext', r.encryptionContext) };
}

export function getResponse(
  a: GetDataKeyResponse__Output,
  checksums: Checksums,
): m.GetDataKeyResponse {
  const { plaintext, plaintextCrc32c } = a;
  // An empty one would pass for a key with whoever takes keys of any length, HMAC for one.
  if (plaintext.length === 0) throw new Error('the answer lacks the plaintext');
  checksums.verify('plaintext', plaintext, plaintextCrc32c);
  return { dataKey: dataKey(a.dataKey), plaintext, plaintextCrc32c };
}

export function dataKey(wire: DataKey__Output | null): m.DataKey {
  if (wire === null) throw new Error('the answer lacks the data key');
  return {
    name: wire.name,
    uid: wire.uid,
    keyVersion: wire.keyVersion,
    length: wire.length,
    createTime: date(wire.createTime),
    rewrapTime: dateIfAny(wire.rewrapTime),
    etag: wire.etag,
  };
}
