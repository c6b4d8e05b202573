/**
 * DataKeyService, a row for each method.
 */
import { z } from 'zod';
import { mutation, ofName, ofParent, type RowsOf, row } from '../calls/operation.ts';
import * as field from '../faces/contract/fields.ts';
import type { DataKeyServiceHandlers } from '../faces/contract/generated/keyward/v1/DataKeyService.ts';
import { dataKeyMessage } from '../faces/contract/messages.ts';
import { formatDataKeyName, formatKeyName } from '../names.ts';
import { crc32c } from './crc32c.ts';

export const dataKeyService = {
  CreateDataKey: row({
    permission: 'dataKeys.create',
    target: ({ parent, encryptionContext: context }) => ({ ...parent, context }),
    request: z.object({
      parent: field.keyName,
      dataKeyId: z.union([z.literal(''), field.newId]),
      encryptionContext: field.encryptionContext,
      length: field.dataKeyLength,
      returnPlaintext: z.boolean(),
      requestId: field.requestId,
    }),
    resource: ({ parent, dataKeyId }) =>
      dataKeyId === '' ? formatKeyName(parent) : formatDataKeyName(parent, dataKeyId),
    handle: async (
      { dataKeys },
      call,
      { parent, dataKeyId: id, encryptionContext: context, ...request },
    ) => {
      const { length, returnPlaintext: reveal } = request;
      // As whoever has it issued and not stored.
      if (reveal)
        call.rights.require('dataKeys.generate', { ...parent, context }, formatKeyName(parent));
      const { record, plaintext } = await dataKeys.create(call, {
        parent,
        id,
        context,
        length,
        reveal,
      });
      return {
        dataKey: dataKeyMessage(parent, record),
        plaintext,
        plaintextCrc32c: crc32c(plaintext),
      };
    },
  }),
  GetDataKey: row({
    permission: 'dataKeys.get',
    target: ({ name, encryptionContext: context }) => ({ ...ofName({ name }), context }),
    request: z.object({ name: field.dataKeyName, encryptionContext: field.encryptionContext }),
    resource: ({ name }) => formatDataKeyName(name, name.dataKey),
    handle: async ({ dataKeys }, call, { name, encryptionContext: context }) => {
      const { record, plaintext } = await dataKeys.get(call, name, context);
      return {
        dataKey: dataKeyMessage(name, record),
        plaintext,
        plaintextCrc32c: crc32c(plaintext),
      };
    },
  }),
  ListDataKeys: row({
    permission: 'dataKeys.list',
    target: ofParent,
    request: z.object({ parent: field.keyName, ...field.page(['version']) }),
    resource: ({ parent }) => formatKeyName(parent),
    handle: async ({ dataKeys }, call, { parent, filter: conditions, ...page }) => {
      const { items, nextPageToken } = await dataKeys.list(call, parent, { ...page, conditions });
      return { dataKeys: items.map((dataKey) => dataKeyMessage(parent, dataKey)), nextPageToken };
    },
  }),
  DeleteDataKey: row({
    permission: 'dataKeys.delete',
    target: ofName,
    request: z.object({ name: field.dataKeyName, ...mutation }),
    resource: ({ name }) => formatDataKeyName(name, name.dataKey),
    handle: async ({ dataKeys }, call, { name, etag }) => {
      await dataKeys.delete(call, name, etag);
      return {};
    },
  }),
} satisfies RowsOf<DataKeyServiceHandlers>;
