/**
 * Stored data keys: an operation for each method of DataKeyService.
 */
import { ofName, ofParent, operation } from '../calls/operation.ts';
import type { EncryptionContext } from '../keyring/keys/encryption-context.ts';
import { type DataKeyName, formatDataKeyName, formatKeyName, type KeyName } from '../names.ts';
import type { In, ListIn, Named, NamedChange, Repeatable } from './requests.ts';

/** A data key to be issued and kept. */
export interface NewDataKeyRequest extends In<KeyName>, Repeatable {
  /** The last part of its name; empty for one that is generated. */
  readonly dataKeyId: string;
  readonly context: EncryptionContext;
  /** Bytes. */
  readonly length: number;
  /** Whether the answer is to have the data key itself. */
  readonly returnPlaintext: boolean;
}

/** A data key to be opened. */
export interface DataKeyRequest extends Named<DataKeyName> {
  readonly context: EncryptionContext;
}

export const dataKeyOperations = {
  CreateDataKey: operation({
    permission: 'dataKeys.create',
    target: ({ parent, context }) => ({ ...parent, context }),
    resource: ({ parent, dataKeyId }: NewDataKeyRequest) =>
      dataKeyId === '' ? formatKeyName(parent) : formatDataKeyName(parent, dataKeyId),
    contexts: ({ context }) => ({ context }),
    handle: async ({ dataKeys }, call, { parent, dataKeyId: id, context, ...request }) => {
      const { length, returnPlaintext: reveal } = request;
      // As for one that is issued and not stored.
      if (reveal)
        call.rights.require('dataKeys.generate', { ...parent, context }, formatKeyName(parent));
      return dataKeys.create(call, { parent, id, context, length, reveal });
    },
    again: ({ dataKeys }, call, { parent, dataKeyId: id, context, ...request }, made) => {
      const { length, returnPlaintext: reveal } = request;
      call.rights.require('dataKeys.generate', { ...parent, context }, formatKeyName(parent));
      return dataKeys.createAgain(call, { parent, id, context, length, reveal }, made);
    },
  }),
  GetDataKey: operation({
    permission: 'dataKeys.get',
    target: ({ name, context }) => ({ ...ofName({ name }), context }),
    resource: ({ name }: DataKeyRequest) => formatDataKeyName(name, name.dataKey),
    contexts: ({ context }) => ({ context }),
    canaries: (known, { name }) => {
      const found = known.ofDataKey(name);
      return found === undefined ? [] : [found];
    },
    handle: ({ dataKeys }, call, { name, context }) => dataKeys.get(call, name, context),
  }),
  ListDataKeys: operation({
    permission: 'dataKeys.list',
    target: ofParent,
    resource: ({ parent }: ListIn<KeyName>) => formatKeyName(parent),
    handle: ({ dataKeys }, call, { parent, ...page }) => dataKeys.list(call, parent, page),
  }),
  DeleteDataKey: operation({
    isSensitive: true,
    permission: 'dataKeys.delete',
    target: ofName,
    resource: ({ name }: NamedChange<DataKeyName>) => formatDataKeyName(name, name.dataKey),
    handle: ({ dataKeys }, call, { name, etag }) => dataKeys.delete(call, name, etag),
  }),
};
