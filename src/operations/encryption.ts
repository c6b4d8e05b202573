/**
 * Encrypting, decrypting and data keys that are not stored: an operation for each method of
 * EncryptionService, and their batches.
 */
import type { Rights } from '../access/access.ts';
import { LATER, type Target } from '../access/policy.ts';
import { batchOf } from '../calls/batches.ts';
import { ofName, ofParent, operation } from '../calls/operation.ts';
import { invalidField } from '../errors.ts';
import type { Recogniser } from '../keyring/canaries/canaries.ts';
import type { Source } from '../keyring/keys/encryption.ts';
import type { EncryptionContext } from '../keyring/keys/encryption-context.ts';
import { formatKeyName, formatTenantName, type KeyName, type TenantName } from '../names.ts';
import { verifyChecksum } from './checksums.ts';
import type { In, Named } from './requests.ts';

/** Bytes to be encrypted. */
export interface EncryptRequest extends Named<KeyName> {
  readonly plaintext: Buffer;
  readonly context: EncryptionContext;
  /** CRC-32C. */
  readonly plaintextCrc32c?: number | undefined;
}

/** A ciphertext to be decrypted. */
export interface DecryptRequest extends In<TenantName> {
  readonly ciphertext: Buffer;
  readonly context: EncryptionContext;
  /** The key that it is expected to be under. */
  readonly key: KeyName | undefined;
  /** CRC-32C. */
  readonly ciphertextCrc32c?: number | undefined;
}

/** A data key to be issued. */
export interface GenerateRequest extends Named<KeyName> {
  readonly context: EncryptionContext;
  /** Bytes. */
  readonly length: number;
}

/** A ciphertext to be brought under another key or context. */
export interface ReEncryptRequest extends Named<KeyName> {
  readonly ciphertext: Buffer;
  readonly sourceContext: EncryptionContext;
  readonly context: EncryptionContext;
  /** The key that it is expected to be under now. */
  readonly sourceKey: KeyName | undefined;
  /** CRC-32C. */
  readonly ciphertextCrc32c?: number | undefined;
}

/** Random bytes to be drawn. */
export interface RandomRequest extends In<TenantName> {
  readonly length: number;
}

/** Returns a key, and the context that its use brings. */
const ofUse = ({ name, context }: Named<KeyName> & { readonly context: EncryptionContext }) => ({
  ...ofName({ name }),
  context,
});

/** Returns the canary that a ciphertext is, if it is one. */
const canaryAmong = (known: Recogniser, { ciphertext }: { readonly ciphertext: Buffer }) => {
  const found = known.ofCiphertext(ciphertext);
  return found === undefined ? [] : [found];
};

const onlyContext = ({ context }: { readonly context: EncryptionContext }) => ({ context });

/** Returns the key that a ciphertext is expected to be under; it is of the same tenant. */
function expectedOf(field: string, expected: KeyName | undefined, { tenant }: TenantName) {
  if (expected !== undefined && expected.tenant !== tenant)
    throw invalidField(field, 'must be a key of the same tenant');
  return expected;
}

/** Throws CHECKSUM_MISMATCH. */
function toEncrypt(_: Rights, request: EncryptRequest): EncryptRequest {
  verifyChecksum('plaintext_crc32c', request.plaintext, request.plaintextCrc32c);
  return request;
}

/** Returns what Decrypt opens. Throws INVALID_FIELD, CHECKSUM_MISMATCH. */
function toDecrypt(rights: Rights, request: DecryptRequest): Source {
  const { key, ciphertextCrc32c, parent, ciphertext, context } = request;
  const expectedKey = expectedOf('key', key, parent);
  verifyChecksum('ciphertext_crc32c', ciphertext, ciphertextCrc32c);
  const mayUse = (name: KeyName) =>
    rights.allows('data.decrypt', { ...ofName({ name }), context }, formatKeyName(name));
  return { parent, ciphertext, context, expectedKey, mayUse };
}

/**
 * Returns what ReEncrypt brings where. Throws INVALID_FIELD, CHECKSUM_MISMATCH, PERMISSION_MISSING.
 */
function toReEncrypt(rights: Rights, { name, context, ...request }: ReEncryptRequest) {
  const { ciphertext, sourceContext, sourceKey, ciphertextCrc32c } = request;
  const parent = { tenant: name.tenant };
  const expectedKey = expectedOf('source_key', sourceKey, parent);
  verifyChecksum('ciphertext_crc32c', ciphertext, ciphertextCrc32c);
  const target: Target = { key: expectedKey?.key ?? LATER, context: sourceContext };
  rights.require('data.reEncryptFrom', target, formatTenantName(parent));
  const mayUse = (key: KeyName) =>
    rights.allows(
      'data.reEncryptFrom',
      { ...ofName({ name: key }), context: sourceContext },
      formatKeyName(key),
    );
  const source: Source = { parent, ciphertext, context: sourceContext, expectedKey, mayUse };
  return { source, name, context };
}

const encrypt = operation({
  permission: 'data.encrypt',
  target: ofUse,
  resource: ({ name }: EncryptRequest) => formatKeyName(name),
  contexts: onlyContext,
  handle: async ({ encryption }, call, request) =>
    encryption.encrypt(call, toEncrypt(call.rights, request)),
});

const decrypt = operation({
  permission: 'data.decrypt',
  // Which key it is, the ciphertext says.
  target: ({ parent, key, context }) => ({
    tenant: parent.tenant,
    key: key?.key ?? LATER,
    context,
  }),
  resource: ({ parent }: DecryptRequest) => formatTenantName(parent),
  contexts: onlyContext,
  canaries: canaryAmong,
  handle: async ({ encryption }, call, request) =>
    encryption.decrypt(call, toDecrypt(call.rights, request)),
});

const generateDataKey = operation({
  permission: 'dataKeys.generate',
  target: ofUse,
  resource: ({ name }: GenerateRequest) => formatKeyName(name),
  contexts: onlyContext,
  handle: ({ encryption }, call, request) =>
    encryption.generateDataKey(call, { ...request, reveal: true }),
});

const reEncrypt = operation({
  permission: 'data.reEncryptTo',
  target: ofUse,
  resource: ({ name }: ReEncryptRequest) => formatKeyName(name),
  contexts: ({ context, sourceContext: source }) => ({ context, source }),
  canaries: canaryAmong,
  handle: async ({ encryption }, call, request) =>
    encryption.reEncrypt(call, toReEncrypt(call.rights, request)),
});

const tenantOfName = ({ name }: Named<TenantName>) => name;
const tenantOfParent = ({ parent }: In<TenantName>) => parent;

export const encryptionOperations = {
  Encrypt: encrypt,
  Decrypt: decrypt,
  GenerateDataKey: generateDataKey,
  GenerateDataKeyWithoutPlaintext: operation({
    permission: 'dataKeys.generateWithoutPlaintext',
    target: ofUse,
    resource: ({ name }: GenerateRequest) => formatKeyName(name),
    contexts: onlyContext,
    handle: ({ encryption }, call, request) =>
      encryption.generateDataKey(call, { ...request, reveal: false }),
  }),
  ReEncrypt: reEncrypt,
  GenerateRandomBytes: operation({
    permission: 'random.generate',
    target: ofParent,
    resource: ({ parent }: RandomRequest) => formatTenantName(parent),
    handle: ({ encryption }, call, { parent, length }) =>
      encryption.generateRandomBytes(call, parent, length),
  }),
  BatchEncrypt: batchOf(encrypt, {
    tenantOf: tenantOfName,
    prepare: toEncrypt,
    perform: ({ encryptionBatches }, call, items) => encryptionBatches.encrypt(call, items),
  }),
  BatchDecrypt: batchOf(decrypt, {
    tenantOf: tenantOfParent,
    prepare: toDecrypt,
    perform: ({ encryptionBatches }, call, items) => encryptionBatches.decrypt(call, items),
  }),
  BatchGenerateDataKey: batchOf(generateDataKey, {
    tenantOf: tenantOfName,
    prepare: (_, request) => request,
    perform: ({ encryptionBatches }, call, items) =>
      encryptionBatches.generateDataKeys(call, items),
  }),
  BatchReEncrypt: batchOf(reEncrypt, {
    tenantOf: tenantOfName,
    prepare: toReEncrypt,
    perform: ({ encryptionBatches }, call, items) => encryptionBatches.reEncrypt(call, items),
  }),
};
