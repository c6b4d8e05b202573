/**
 * Every RPC as one row: what its request must be, which resource it is about, what it does.
 *
 * A method of the contract without a row here is a type error. What is the same for all (identity, deadline, logging,
 * errors) is in `serve-call.ts`, so that none can forget it. Knows messages and the keyring, no transport.
 */
import type { handleUnaryCall } from '@grpc/grpc-js';
import { z } from 'zod';
import type { Call } from '../call.ts';
import { invalidField } from '../errors.ts';
import type { Keyring } from '../keyring/keyring.ts';
import { formatKeyName, formatKeyVersionName, formatTenantName, type TenantName } from '../keyring/names.ts';
import type { KeyVersionState } from '../store/keys.ts';
import { batchOf } from './batch.ts';
import { crc32c } from './crc32c.ts';
import * as field from './fields.ts';
import type { AdminServiceHandlers } from './generated/keyward/v1/AdminService.ts';
import type { EncryptionServiceHandlers } from './generated/keyward/v1/EncryptionService.ts';
import type { KeyServiceHandlers } from './generated/keyward/v1/KeyService.ts';
import { keyMessage, keyVersionMessage, tenantMessage } from './messages.ts';

/** One RPC. */
export interface MethodRow<Request, Response> {
  /** From the decoded message to what `handle` takes; must look at every field. */
  readonly request: z.ZodType<Request>;
  /** The largest request, in bytes, where it isn't the usual. */
  readonly maxRequestBytes?: number;
  /** The resource that the call is about, for the log. */
  resource(request: Request): string;
  handle(keyring: Keyring, call: Call, request: Request): Promise<Response>;
}

/** The names of a service's methods, without the index signature that the generated type has. */
type MethodName<Handlers> = keyof { [Name in keyof Handlers as string extends Name ? never : Name]: true };
/** One row for each method of a service, answering with that method's message. */
type RowsOf<Handlers> = {
  readonly [Name in MethodName<Handlers> & keyof Handlers]: Handlers[Name] extends handleUnaryCall<
    infer _Request,
    infer Response
  >
    ? MethodRow<unknown, Response>
    : never;
};

const row = <Request, Response>(method: MethodRow<Request, Response>) => method;

/** What every request that changes something also has: the wrapper sees to the request id. */
const mutation = { etag: field.etag, requestId: field.requestId };

/** The tenant of a request that names a key. */
const tenantOfName = ({ name }: { readonly name: TenantName }) => name;
const tenantOfParent = ({ parent }: { readonly parent: TenantName }) => parent;

const setTenantState = (state: 'ENABLED' | 'DISABLED') =>
  row({
    request: z.object({ name: field.tenantName, ...mutation }),
    resource: ({ name }) => formatTenantName(name),
    handle: async ({ tenants }, call, { name, etag }) =>
      tenantMessage(await tenants.setState(call, name, etag, state)),
  });

const adminService = {
  CreateTenant: row({
    request: z.object({ tenantId: field.newTenantId, requestId: field.requestId }),
    resource: ({ tenantId }) => formatTenantName({ tenant: tenantId }),
    handle: async ({ tenants }, call, { tenantId }) =>
      tenantMessage(await tenants.create(call, { tenant: tenantId })),
  }),
  GetTenant: row({
    request: z.object({ name: field.tenantName }),
    resource: ({ name }) => formatTenantName(name),
    handle: async ({ tenants }, call, { name }) => tenantMessage(await tenants.get(call, name)),
  }),
  ListTenants: row({
    request: z.object(field.page(['state'])),
    resource: () => 'tenants',
    handle: async ({ tenants }, call, { filter: conditions, ...page }) => {
      const { items, nextPageToken } = await tenants.list(call, { ...page, conditions });
      return { tenants: items.map(tenantMessage), nextPageToken };
    },
  }),
  DisableTenant: setTenantState('DISABLED'),
  EnableTenant: setTenantState('ENABLED'),
} satisfies RowsOf<AdminServiceHandlers>;

const setKeyState = (state: 'ENABLED' | 'DISABLED') =>
  row({
    request: z.object({ name: field.keyName, ...mutation }),
    resource: ({ name }) => formatKeyName(name),
    handle: async ({ keys }, call, { name, etag }) =>
      keyMessage(name, await keys.setState(call, name, etag, state)),
  });

const setKeyVersionState = (state: KeyVersionState) =>
  row({
    request: z.object({ name: field.keyVersionName, ...mutation }),
    resource: ({ name }) => formatKeyVersionName(name, name.version),
    handle: async ({ keys }, call, { name, etag }) =>
      keyVersionMessage(name, await keys.setVersionState(call, name, etag, state)),
  });

const keyService = {
  CreateKey: row({
    request: z.object({
      parent: field.keyParent,
      keyId: field.newId,
      description: field.description,
      labels: field.labels,
      requestId: field.requestId,
    }),
    resource: ({ parent, keyId }) => formatKeyName({ ...parent, key: keyId }),
    handle: async ({ keys }, call, { parent, keyId, description, labels }) =>
      keyMessage(parent, await keys.create(call, { ...parent, key: keyId }, { description, labels })),
  }),
  GetKey: row({
    request: z.object({ name: field.keyName }),
    resource: ({ name }) => formatKeyName(name),
    handle: async ({ keys }, _, { name }) => keyMessage(name, await keys.get(name)),
  }),
  ListKeys: row({
    request: z.object({ parent: field.tenantName, ...field.page(['state', 'labels.']) }),
    resource: ({ parent }) => formatTenantName(parent),
    handle: async ({ keys }, call, { parent, filter: conditions, ...page }) => {
      const { items, nextPageToken } = await keys.list(call, parent, { ...page, conditions });
      return { keys: items.map((key) => keyMessage(parent, key)), nextPageToken };
    },
  }),
  ListKeyVersions: row({
    request: z.object({ parent: field.keyName, ...field.page(['state']) }),
    resource: ({ parent }) => formatKeyName(parent),
    handle: async ({ keys }, call, { parent, filter: conditions, ...page }) => {
      const { items, nextPageToken } = await keys.listVersions(call, parent, { ...page, conditions });
      return { keyVersions: items.map((version) => keyVersionMessage(parent, version)), nextPageToken };
    },
  }),
  RotateKey: row({
    request: z.object({ name: field.keyName, ...mutation }),
    resource: ({ name }) => formatKeyName(name),
    handle: async ({ keys }, call, { name, etag }) => keyMessage(name, await keys.rotate(call, name, etag)),
  }),
  UpdateKey: row({
    request: z.object({ key: field.keyToUpdate, updateMask: field.keyMask, requestId: field.requestId }),
    resource: ({ key }) => formatKeyName(key.name),
    handle: async ({ keys }, call, { key, updateMask }) => {
      const changes = Object.fromEntries(updateMask.map((path) => [path, key[path]]));
      return keyMessage(key.name, await keys.update(call, key.name, key.etag, changes));
    },
  }),
  DisableKey: setKeyState('DISABLED'),
  EnableKey: setKeyState('ENABLED'),
  GetKeyVersion: row({
    request: z.object({ name: field.keyVersionName }),
    resource: ({ name }) => formatKeyVersionName(name, name.version),
    handle: async ({ keys }, _, { name }) => keyVersionMessage(name, await keys.getVersion(name)),
  }),
  DisableKeyVersion: setKeyVersionState('DISABLED'),
  EnableKeyVersion: setKeyVersionState('ENABLED'),
} satisfies RowsOf<KeyServiceHandlers>;

const encrypt = row({
  request: z.object({
    name: field.keyName,
    plaintext: field.plaintext,
    encryptionContext: field.encryptionContext,
    plaintextCrc32c: field.checksum,
  }),
  resource: ({ name }) => formatKeyName(name),
  handle: async ({ encryption }, call, { name, plaintext, encryptionContext: context, plaintextCrc32c }) => {
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
function expectedOf<Key extends TenantName>(name: string, expected: Key | undefined, { tenant }: TenantName) {
  if (expected !== undefined && expected.tenant !== tenant)
    throw invalidField(name, 'must be a key of the same tenant');
  return expected;
}

const decrypt = row({
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
    const opened = await encryption.decrypt(call, { parent, ciphertext, context, expectedKey });
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
  request: z.object({
    name: field.keyName,
    ciphertext: field.ciphertext,
    sourceEncryptionContext: field.encryptionContext,
    destinationEncryptionContext: field.encryptionContext,
    sourceKey: field.optionalKeyName,
    ciphertextCrc32c: field.checksum,
  }),
  resource: ({ name }) => formatKeyName(name),
  handle: async ({ encryption }, call, { name, ciphertext, sourceKey, ciphertextCrc32c, ...contexts }) => {
    const parent = { tenant: name.tenant };
    const expectedKey = expectedOf('source_key', sourceKey, parent);
    field.verifyChecksum('ciphertext_crc32c', ciphertext, ciphertextCrc32c);
    const done = await encryption.reEncrypt(call, {
      source: { parent, ciphertext, context: contexts.sourceEncryptionContext, expectedKey },
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

const encryptionService = {
  Encrypt: encrypt,
  Decrypt: decrypt,
  GenerateDataKey: generateDataKey,
  GenerateDataKeyWithoutPlaintext: row({
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
    request: z.object({ parent: field.keyParent, length: field.randomLength }),
    resource: ({ parent }) => formatTenantName(parent),
    handle: async ({ encryption }, call, { parent, length }) => {
      const data = await encryption.generateRandomBytes(call, parent, length);
      return { data, dataCrc32c: crc32c(data) };
    },
  }),
  BatchEncrypt: batchOf(encrypt, tenantOfName),
  BatchDecrypt: batchOf(decrypt, tenantOfParent),
  BatchGenerateDataKey: batchOf(generateDataKey, tenantOfName),
  BatchReEncrypt: batchOf(reEncrypt, tenantOfName),
} satisfies RowsOf<EncryptionServiceHandlers>;

/** All methods, by service. */
export const METHODS: Readonly<Record<string, Readonly<Record<string, MethodRow<unknown, object>>>>> = {
  'keyward.v1.AdminService': adminService,
  'keyward.v1.KeyService': keyService,
  'keyward.v1.EncryptionService': encryptionService,
};
