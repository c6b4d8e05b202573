/**
 * EncryptionService as messages.
 */
import { z } from 'zod';
import { CIPHERTEXT_OVERHEAD } from '../../../hsm/ciphertext.ts';
import { formatKeyVersionName, LONGEST_ID, LONGEST_KEY_NAME, MAX_VERSION } from '../../../names.ts';
import { crc32c } from '../../../operations/crc32c.ts';
import { encryptionOperations as operations } from '../../../operations/encryption.ts';
import { FLAG_BYTES, fieldBytes, NUMBER_BYTES } from '../answer-size.ts';
import { batchRpc } from '../batches.ts';
import * as field from '../fields.ts';
import type { DecryptRequest__Output as DecryptRequest } from '../generated/keyward/v1/DecryptRequest.ts';
import type { EncryptionServiceHandlers } from '../generated/keyward/v1/EncryptionService.ts';
import type { EncryptRequest__Output as EncryptRequest } from '../generated/keyward/v1/EncryptRequest.ts';
import type { GenerateDataKeyRequest__Output as GenerateDataKeyRequest } from '../generated/keyward/v1/GenerateDataKeyRequest.ts';
import type { ReEncryptRequest__Output as ReEncryptRequest } from '../generated/keyward/v1/ReEncryptRequest.ts';
import { type RpcsOf, rpc } from '../rpc.ts';

/** The longest data key. */
const MAX_DATA_KEY_BYTES = Math.max(...field.DATA_KEY_LENGTHS);

const encrypt = rpc(operations.Encrypt, {
  request: z
    .object({
      name: field.keyName,
      plaintext: field.plaintext,
      encryptionContext: field.encryptionContext,
      plaintextCrc32c: field.checksum,
    })
    .transform(field.withContext),
  message: ({ ciphertext, version }, { name, plaintextCrc32c }) => ({
    ciphertext,
    keyVersion: formatKeyVersionName(name, version),
    ciphertextCrc32c: crc32c(ciphertext),
    verifiedPlaintextCrc32c: plaintextCrc32c !== undefined,
  }),
});

const decrypt = rpc(operations.Decrypt, {
  request: z
    .object({
      parent: field.tenantName,
      ciphertext: field.ciphertext,
      encryptionContext: field.encryptionContext,
      key: field.optionalKeyName,
      ciphertextCrc32c: field.checksum,
    })
    .transform(field.withContext),
  message: ({ plaintext, key, version }, { ciphertextCrc32c }) => ({
    plaintext,
    keyVersion: formatKeyVersionName(key, version),
    plaintextCrc32c: crc32c(plaintext),
    verifiedCiphertextCrc32c: ciphertextCrc32c !== undefined,
  }),
});

const dataKeyRequest = z
  .object({
    name: field.keyName,
    encryptionContext: field.encryptionContext,
    length: field.dataKeyLength,
  })
  .transform(field.withContext);

const generateDataKey = rpc(operations.GenerateDataKey, {
  request: dataKeyRequest,
  message: ({ plaintext, ciphertext, version }, { name }) => ({
    plaintext,
    wrappedDataKey: ciphertext,
    keyVersion: formatKeyVersionName(name, version),
    plaintextCrc32c: crc32c(plaintext),
    wrappedDataKeyCrc32c: crc32c(ciphertext),
  }),
});

const reEncrypt = rpc(operations.ReEncrypt, {
  request: z
    .object({
      name: field.keyName,
      ciphertext: field.ciphertext,
      sourceEncryptionContext: field.encryptionContext,
      destinationEncryptionContext: field.encryptionContext,
      sourceKey: field.optionalKeyName,
      ciphertextCrc32c: field.checksum,
    })
    .transform(
      ({
        sourceEncryptionContext: sourceContext,
        destinationEncryptionContext: context,
        ...rest
      }) => ({ ...rest, sourceContext, context }),
    ),
  message: (done, { name, ciphertextCrc32c }) => ({
    ciphertext: done.ciphertext,
    sourceKeyVersion: formatKeyVersionName(done.sourceKey, done.sourceVersion),
    keyVersion: formatKeyVersionName(name, done.version),
    ciphertextCrc32c: crc32c(done.ciphertext),
    verifiedCiphertextCrc32c: ciphertextCrc32c !== undefined,
  }),
});

/**
 * Returns how many bytes the name of a key's version takes of an answer at most, if the key has a
 * valid name.
 */
function versionBytes(keyName: string): number {
  const length = Math.min(keyName.length, LONGEST_KEY_NAME.length);
  return fieldBytes(length + `/versions/${MAX_VERSION}`.length);
}

/**
 * Returns the same for a key that is only found out: the one that is expected, or any of the
 * tenant.
 */
function sourceVersionBytes(expectedKey: string, tenant: string): number {
  return versionBytes(expectedKey || `${tenant}/keys/${LONGEST_ID}`);
}

export const encryptionService = {
  Encrypt: encrypt,
  Decrypt: decrypt,
  GenerateDataKey: generateDataKey,
  GenerateDataKeyWithoutPlaintext: rpc(operations.GenerateDataKeyWithoutPlaintext, {
    request: dataKeyRequest,
    message: ({ ciphertext, version }, { name }) => ({
      wrappedDataKey: ciphertext,
      keyVersion: formatKeyVersionName(name, version),
      wrappedDataKeyCrc32c: crc32c(ciphertext),
    }),
  }),
  ReEncrypt: reEncrypt,
  GenerateRandomBytes: rpc(operations.GenerateRandomBytes, {
    request: z.object({ parent: field.keyParent, length: field.randomLength }),
    message: (data) => ({ data, dataCrc32c: crc32c(data) }),
  }),
  BatchEncrypt: batchRpc(operations.BatchEncrypt, encrypt, {
    contexts: { context: 'encryptionContext' },
    answerBytes: ({ name, plaintext }: EncryptRequest) =>
      fieldBytes(plaintext.length + CIPHERTEXT_OVERHEAD) +
      versionBytes(name) +
      NUMBER_BYTES +
      FLAG_BYTES,
  }),
  BatchDecrypt: batchRpc(operations.BatchDecrypt, decrypt, {
    contexts: { context: 'encryptionContext' },
    answerBytes: ({ parent, ciphertext, key }: DecryptRequest) =>
      fieldBytes(Math.max(0, ciphertext.length - CIPHERTEXT_OVERHEAD)) +
      sourceVersionBytes(key, parent) +
      NUMBER_BYTES +
      FLAG_BYTES,
  }),
  BatchGenerateDataKey: batchRpc(operations.BatchGenerateDataKey, generateDataKey, {
    contexts: { context: 'encryptionContext' },
    answerBytes: ({ name }: GenerateDataKeyRequest) =>
      fieldBytes(MAX_DATA_KEY_BYTES) +
      fieldBytes(MAX_DATA_KEY_BYTES + CIPHERTEXT_OVERHEAD) +
      versionBytes(name) +
      2 * NUMBER_BYTES,
  }),
  BatchReEncrypt: batchRpc(operations.BatchReEncrypt, reEncrypt, {
    contexts: {
      sourceContext: 'sourceEncryptionContext',
      context: 'destinationEncryptionContext',
    },
    answerBytes: ({ name, ciphertext, sourceKey }: ReEncryptRequest) =>
      fieldBytes(ciphertext.length) +
      sourceVersionBytes(sourceKey, name.split('/keys/')[0] ?? '') +
      versionBytes(name) +
      NUMBER_BYTES +
      FLAG_BYTES,
  }),
} satisfies RpcsOf<EncryptionServiceHandlers>;
