/**
 * EncryptionService, a row for each method.
 */
import { z } from 'zod';
import { LATER, type Target } from '../access/policy.ts';
import { batchOf } from '../calls/batches.ts';
import { ofName, ofParent, type RowsOf, row } from '../calls/operation.ts';
import { invalidField } from '../errors.ts';
import { FLAG_BYTES, fieldBytes, NUMBER_BYTES } from '../faces/contract/answer-size.ts';
import * as field from '../faces/contract/fields.ts';
import type { DecryptRequest__Output as DecryptRequest } from '../faces/contract/generated/keyward/v1/DecryptRequest.ts';
import type { EncryptionServiceHandlers } from '../faces/contract/generated/keyward/v1/EncryptionService.ts';
import type { EncryptRequest__Output as EncryptRequest } from '../faces/contract/generated/keyward/v1/EncryptRequest.ts';
import type { GenerateDataKeyRequest__Output as GenerateDataKeyRequest } from '../faces/contract/generated/keyward/v1/GenerateDataKeyRequest.ts';
import type { ReEncryptRequest__Output as ReEncryptRequest } from '../faces/contract/generated/keyward/v1/ReEncryptRequest.ts';
import { CIPHERTEXT_OVERHEAD } from '../hsm/ciphertext.ts';
import type { EncryptionContext } from '../keyring/keys/encryption-context.ts';
import {
  formatKeyName,
  formatKeyVersionName,
  formatTenantName,
  type KeyName,
  LONGEST_ID,
  LONGEST_KEY_NAME,
  MAX_VERSION,
  type TenantName,
} from '../names.ts';
import { crc32c } from './crc32c.ts';

/** The longest data key. */
const MAX_DATA_KEY_BYTES = Math.max(...field.DATA_KEY_LENGTHS);

/** The tenant of a request that names a key. */
const tenantOfName = ({ name }: { readonly name: TenantName }) => name;
const tenantOfParent = ({ parent }: { readonly parent: TenantName }) => parent;

/** A key, and the context that its use brings. */
const ofUse = ({
  name,
  encryptionContext: context,
}: {
  readonly name: KeyName;
  readonly encryptionContext: EncryptionContext;
}) => ({ ...ofName({ name }), context });

const encrypt = row({
  permission: 'data.encrypt',
  target: ofUse,
  request: z.object({
    name: field.keyName,
    plaintext: field.plaintext,
    encryptionContext: field.encryptionContext,
    plaintextCrc32c: field.checksum,
  }),
  resource: ({ name }) => formatKeyName(name),
  handle: async (
    { encryption },
    call,
    { name, plaintext, encryptionContext: context, plaintextCrc32c },
  ) => {
    field.verifyChecksum('plaintext_crc32c', plaintext, plaintextCrc32c);
    const { ciphertext, version } = await encryption.encrypt(call, { name, plaintext, context });
    return {
      ciphertext,
      keyVersion: formatKeyVersionName(name, version),
      ciphertextCrc32c: crc32c(ciphertext),
      verifiedPlaintextCrc32c: plaintextCrc32c !== undefined,
    };
  },
});

/** The key that a ciphertext is expected to be of; of the same tenant. */
function expectedOf<Key extends TenantName>(
  name: string,
  expected: Key | undefined,
  { tenant }: TenantName,
) {
  if (expected !== undefined && expected.tenant !== tenant)
    throw invalidField(name, 'must be a key of the same tenant');
  return expected;
}

const decrypt = row({
  permission: 'data.decrypt',
  // Which key it is, the ciphertext says.
  target: ({ parent, key, encryptionContext: context }) => ({
    tenant: parent.tenant,
    key: key?.key ?? LATER,
    context,
  }),
  request: z.object({
    parent: field.tenantName,
    ciphertext: field.ciphertext,
    encryptionContext: field.encryptionContext,
    key: field.optionalKeyName,
    ciphertextCrc32c: field.checksum,
  }),
  resource: ({ parent }) => formatTenantName(parent),
  handle: async (
    { encryption },
    call,
    { parent, ciphertext, encryptionContext: context, key, ciphertextCrc32c },
  ) => {
    const expectedKey = expectedOf('key', key, parent);
    field.verifyChecksum('ciphertext_crc32c', ciphertext, ciphertextCrc32c);
    const mayUse = (name: KeyName) =>
      call.rights.allows('data.decrypt', { ...ofName({ name }), context }, formatKeyName(name));
    const opened = await encryption.decrypt(call, {
      parent,
      ciphertext,
      context,
      expectedKey,
      mayUse,
    });
    return {
      plaintext: opened.plaintext,
      keyVersion: formatKeyVersionName(opened.key, opened.version),
      plaintextCrc32c: crc32c(opened.plaintext),
      verifiedCiphertextCrc32c: ciphertextCrc32c !== undefined,
    };
  },
});

const dataKeyRequest = z.object({
  name: field.keyName,
  encryptionContext: field.encryptionContext,
  length: field.dataKeyLength,
});

const generateDataKey = row({
  permission: 'dataKeys.generate',
  target: ofUse,
  request: dataKeyRequest,
  resource: ({ name }) => formatKeyName(name),
  handle: async ({ encryption }, call, { name, encryptionContext: context, length }) => {
    const request = { name, context, length, reveal: true };
    const { plaintext, ciphertext, version } = await encryption.generateDataKey(call, request);
    return {
      plaintext,
      wrappedDataKey: ciphertext,
      keyVersion: formatKeyVersionName(name, version),
      plaintextCrc32c: crc32c(plaintext),
      wrappedDataKeyCrc32c: crc32c(ciphertext),
    };
  },
});

const reEncrypt = row({
  permission: 'data.reEncryptTo',
  target: ({ name, destinationEncryptionContext: context }) => ({ ...ofName({ name }), context }),
  request: z.object({
    name: field.keyName,
    ciphertext: field.ciphertext,
    sourceEncryptionContext: field.encryptionContext,
    destinationEncryptionContext: field.encryptionContext,
    sourceKey: field.optionalKeyName,
    ciphertextCrc32c: field.checksum,
  }),
  resource: ({ name }) => formatKeyName(name),
  handle: async (
    { encryption },
    call,
    { name, ciphertext, sourceKey, ciphertextCrc32c, ...contexts },
  ) => {
    const parent = { tenant: name.tenant };
    const expectedKey = expectedOf('source_key', sourceKey, parent);
    field.verifyChecksum('ciphertext_crc32c', ciphertext, ciphertextCrc32c);
    const context = contexts.sourceEncryptionContext;
    const source: Target = { key: expectedKey?.key ?? LATER, context };
    call.rights.require('data.reEncryptFrom', source, formatTenantName(parent));
    const mayUse = (key: KeyName) =>
      call.rights.allows(
        'data.reEncryptFrom',
        { ...ofName({ name: key }), context },
        formatKeyName(key),
      );
    const done = await encryption.reEncrypt(call, {
      source: { parent, ciphertext, context, expectedKey, mayUse },
      name,
      context: contexts.destinationEncryptionContext,
    });
    return {
      ciphertext: done.ciphertext,
      sourceKeyVersion: formatKeyVersionName(done.sourceKey, done.sourceVersion),
      keyVersion: formatKeyVersionName(name, done.version),
      ciphertextCrc32c: crc32c(done.ciphertext),
      verifiedCiphertextCrc32c: ciphertextCrc32c !== undefined,
    };
  },
});

/**
 * Returns how many bytes the name of a key's version takes of an answer at most, if the key has a
 * valid name.
 */
function versionBytes(keyName: string): number {
  const length = Math.min(keyName.length, LONGEST_KEY_NAME.length);
  return fieldBytes(length + `/versions/${MAX_VERSION}`.length);
}

/** The same for a key that is only found out: the one that is expected, or any of the tenant. */
function sourceVersionBytes(expectedKey: string, tenant: string): number {
  return versionBytes(expectedKey || `${tenant}/keys/${LONGEST_ID}`);
}

export const encryptionService = {
  Encrypt: encrypt,
  Decrypt: decrypt,
  GenerateDataKey: generateDataKey,
  GenerateDataKeyWithoutPlaintext: row({
    permission: 'dataKeys.generateWithoutPlaintext',
    target: ofUse,
    request: dataKeyRequest,
    resource: ({ name }) => formatKeyName(name),
    handle: async ({ encryption }, call, { name, encryptionContext: context, length }) => {
      const request = { name, context, length, reveal: false };
      const { ciphertext, version } = await encryption.generateDataKey(call, request);
      return {
        wrappedDataKey: ciphertext,
        keyVersion: formatKeyVersionName(name, version),
        wrappedDataKeyCrc32c: crc32c(ciphertext),
      };
    },
  }),
  ReEncrypt: reEncrypt,
  GenerateRandomBytes: row({
    permission: 'random.generate',
    target: ofParent,
    request: z.object({ parent: field.keyParent, length: field.randomLength }),
    resource: ({ parent }) => formatTenantName(parent),
    handle: async ({ encryption }, call, { parent, length }) => {
      const data = await encryption.generateRandomBytes(call, parent, length);
      return { data, dataCrc32c: crc32c(data) };
    },
  }),
  BatchEncrypt: batchOf(encrypt, {
    tenantOf: tenantOfName,
    answerBytes: ({ name, plaintext }: EncryptRequest) =>
      fieldBytes(plaintext.length + CIPHERTEXT_OVERHEAD) +
      versionBytes(name) +
      NUMBER_BYTES +
      FLAG_BYTES,
  }),
  BatchDecrypt: batchOf(decrypt, {
    tenantOf: tenantOfParent,
    answerBytes: ({ parent, ciphertext, key }: DecryptRequest) =>
      fieldBytes(Math.max(0, ciphertext.length - CIPHERTEXT_OVERHEAD)) +
      sourceVersionBytes(key, parent) +
      NUMBER_BYTES +
      FLAG_BYTES,
  }),
  BatchGenerateDataKey: batchOf(generateDataKey, {
    tenantOf: tenantOfName,
    answerBytes: ({ name }: GenerateDataKeyRequest) =>
      fieldBytes(MAX_DATA_KEY_BYTES) +
      fieldBytes(MAX_DATA_KEY_BYTES + CIPHERTEXT_OVERHEAD) +
      versionBytes(name) +
      2 * NUMBER_BYTES,
  }),
  BatchReEncrypt: batchOf(reEncrypt, {
    tenantOf: tenantOfName,
    answerBytes: ({ name, ciphertext, sourceKey }: ReEncryptRequest) =>
      fieldBytes(ciphertext.length) +
      sourceVersionBytes(sourceKey, name.split('/keys/')[0] ?? '') +
      versionBytes(name) +
      NUMBER_BYTES +
      FLAG_BYTES,
  }),
} satisfies RowsOf<EncryptionServiceHandlers>;
