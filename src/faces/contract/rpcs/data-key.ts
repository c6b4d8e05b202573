/**
 * DataKeyService as messages.
 */
import { z } from 'zod';
import type { OpenedDataKey } from '../../../keyring/keys/data-keys.ts';
import type { KeyName } from '../../../names.ts';
import { crc32c } from '../../../operations/crc32c.ts';
import { dataKeyOperations } from '../../../operations/data-key.ts';
import * as field from '../fields.ts';
import type { DataKeyServiceHandlers } from '../generated/keyward/v1/DataKeyService.ts';
import { dataKeyMessage } from '../messages.ts';
import { nothing, type RpcsOf, rpc } from '../rpc.ts';

const openedMessage = (name: KeyName, { record, plaintext }: OpenedDataKey) => ({
  dataKey: dataKeyMessage(name, record),
  plaintext,
  plaintextCrc32c: crc32c(plaintext),
});

export const dataKeyService = {
  CreateDataKey: rpc(dataKeyOperations.CreateDataKey, {
    request: z
      .object({
        parent: field.keyName,
        dataKeyId: z.union([z.literal(''), field.newId]),
        encryptionContext: field.encryptionContext,
        length: field.dataKeyLength,
        returnPlaintext: z.boolean(),
        requestId: field.requestId,
      })
      .transform(field.withContext),
    message: (opened, { parent }) => openedMessage(parent, opened),
  }),
  GetDataKey: rpc(dataKeyOperations.GetDataKey, {
    request: z
      .object({ name: field.dataKeyName, encryptionContext: field.encryptionContext })
      .transform(field.withContext),
    message: (opened, { name }) => openedMessage(name, opened),
  }),
  ListDataKeys: rpc(dataKeyOperations.ListDataKeys, {
    request: z
      .object({ parent: field.keyName, ...field.page({ version: field.ANY_TEXT }) })
      .transform(field.filtered),
    message: ({ items, nextPageToken }, { parent }) => ({
      dataKeys: items.map((dataKey) => dataKeyMessage(parent, dataKey)),
      nextPageToken,
    }),
  }),
  DeleteDataKey: rpc(dataKeyOperations.DeleteDataKey, {
    request: z.object({ name: field.dataKeyName, ...field.change }),
    message: nothing,
  }),
} satisfies RpcsOf<DataKeyServiceHandlers>;
