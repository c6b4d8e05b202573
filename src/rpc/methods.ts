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
import { formatKeyName, formatKeyVersionName, formatTenantName } from '../keyring/names.ts';
import * as field from './fields.ts';
import type { AdminServiceHandlers } from './generated/keyward/v1/AdminService.ts';
import type { EncryptionServiceHandlers } from './generated/keyward/v1/EncryptionService.ts';
import type { KeyServiceHandlers } from './generated/keyward/v1/KeyService.ts';
import { keyMessage, keyVersionMessage, tenantMessage } from './messages.ts';

/** One RPC. */
export interface MethodRow<Request, Response> {
  /** From the decoded message to what `handle` takes; must look at every field. */
  readonly request: z.ZodType<Request>;
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

const adminService = {
  CreateTenant: row({
    request: z.object({ tenantId: field.newTenantId }),
    resource: ({ tenantId }) => formatTenantName({ tenant: tenantId }),
    handle: async (keyring, call, { tenantId }) =>
      tenantMessage(await keyring.createTenant(call, { tenant: tenantId })),
  }),
  GetTenant: row({
    request: z.object({ name: field.tenantName }),
    resource: ({ name }) => formatTenantName(name),
    handle: async (keyring, call, { name }) => tenantMessage(await keyring.getTenant(call, name)),
  }),
  ListTenants: row({
    request: z.object(field.page),
    resource: () => 'tenants',
    handle: async (keyring, call, page) => {
      const { items, nextPageToken } = await keyring.listTenants(call, page);
      return { tenants: items.map(tenantMessage), nextPageToken };
    },
  }),
} satisfies RowsOf<AdminServiceHandlers>;

const keyService = {
  CreateKey: row({
    request: z.object({ parent: field.keyParent, keyId: field.newId }),
    resource: ({ parent, keyId }) => formatKeyName({ ...parent, key: keyId }),
    handle: async (keyring, call, { parent, keyId }) =>
      keyMessage(await keyring.createKey(call, { ...parent, key: keyId })),
  }),
  GetKey: row({
    request: z.object({ name: field.keyName }),
    resource: ({ name }) => formatKeyName(name),
    handle: async (keyring, call, { name }) => keyMessage(await keyring.getKey(call, name)),
  }),
  ListKeys: row({
    request: z.object({ parent: field.tenantName, ...field.page }),
    resource: ({ parent }) => formatTenantName(parent),
    handle: async (keyring, call, { parent, ...page }) => {
      const { items, nextPageToken } = await keyring.listKeys(call, parent, page);
      return { keys: items.map(keyMessage), nextPageToken };
    },
  }),
  ListKeyVersions: row({
    request: z.object({ parent: field.keyName, ...field.page }),
    resource: ({ parent }) => formatKeyName(parent),
    handle: async (keyring, call, { parent, ...page }) => {
      const { items, nextPageToken } = await keyring.listKeyVersions(call, parent, page);
      return { keyVersions: items.map((version) => keyVersionMessage(parent, version)), nextPageToken };
    },
  }),
  RotateKey: row({
    request: z.object({ name: field.keyName }),
    resource: ({ name }) => formatKeyName(name),
    handle: async (keyring, call, { name }) => keyMessage(await keyring.rotateKey(call, name)),
  }),
} satisfies RowsOf<KeyServiceHandlers>;

const encryptionService = {
  Encrypt: row({
    request: z.object({
      name: field.keyName,
      plaintext: field.plaintext,
      encryptionContext: field.encryptionContext,
    }),
    resource: ({ name }) => formatKeyName(name),
    handle: async (keyring, call, { name, plaintext, encryptionContext: context }) => {
      const { ciphertext, version } = await keyring.encrypt(call, { name, plaintext, context });
      return { ciphertext, keyVersion: formatKeyVersionName(name, version) };
    },
  }),
  Decrypt: row({
    request: z.object({
      parent: field.tenantName,
      ciphertext: field.ciphertext,
      encryptionContext: field.encryptionContext,
      key: field.optionalKeyName,
    }),
    resource: ({ parent }) => formatTenantName(parent),
    handle: async (keyring, call, { parent, ciphertext, encryptionContext: context, key: expectedKey }) => {
      if (expectedKey !== undefined && expectedKey.tenant !== parent.tenant) {
        throw invalidField('key', 'must be a key of the tenant that parent names');
      }
      const opened = await keyring.decrypt(call, { parent, ciphertext, context, expectedKey });
      return { plaintext: opened.plaintext, keyVersion: formatKeyVersionName(opened.key, opened.version) };
    },
  }),
  GenerateDataKey: row({
    request: z.object({
      name: field.keyName,
      encryptionContext: field.encryptionContext,
      length: field.dataKeyLength,
    }),
    resource: ({ name }) => formatKeyName(name),
    handle: async (keyring, call, { name, encryptionContext: context, length }) => {
      const issued = await keyring.generateDataKey(call, { name, context, length });
      const { plaintext, wrappedDataKey, version } = issued;
      return { plaintext, wrappedDataKey, keyVersion: formatKeyVersionName(name, version) };
    },
  }),
} satisfies RowsOf<EncryptionServiceHandlers>;

/** All methods, by service. */
export const METHODS: Readonly<Record<string, Readonly<Record<string, MethodRow<unknown, object>>>>> = {
  'keyward.v1.AdminService': adminService,
  'keyward.v1.KeyService': keyService,
  'keyward.v1.EncryptionService': encryptionService,
};
