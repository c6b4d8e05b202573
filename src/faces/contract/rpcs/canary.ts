/**
 * CanaryService as messages.
 */
import { z } from 'zod';
import { MAX_PLAINTEXT_BYTES } from '../../../hsm/ciphertext.ts';
import type { Canary } from '../../../keyring/canaries/canaries.ts';
import type { CanaryKind } from '../../../keyring/canaries/canary-record.ts';
import {
  formatCanaryName,
  formatDataKeyName,
  formatKeyName,
  formatSuspensionName,
  type TenantName,
} from '../../../names.ts';
import { canaryOperations } from '../../../operations/canary.ts';
import type { SuspensionRow } from '../../../store/canaries/canaries.ts';
import * as accessField from '../access-fields.ts';
import * as field from '../fields.ts';
import type { Canary as CanaryMessage } from '../generated/keyward/v1/Canary.ts';
import type { CanaryKind as KindMessage } from '../generated/keyward/v1/CanaryKind.ts';
import type { CanaryServiceHandlers } from '../generated/keyward/v1/CanaryService.ts';
import type { Suspension as SuspensionMessage } from '../generated/keyward/v1/Suspension.ts';
import { nothing, type RpcsOf, rpc } from '../rpc.ts';
import { timestamp } from '../times.ts';

const KINDS = {
  payload: 'CANARY_KIND_CIPHERTEXT',
  dataKey: 'CANARY_KIND_WRAPPED_DATA_KEY',
  storedDataKey: 'CANARY_KIND_STORED_DATA_KEY',
} as const satisfies Readonly<Record<CanaryKind, KindMessage>>;

const kind = z.custom<KindMessage>().transform((given, context) => {
  const known = Object.entries(KINDS).find(([, name]) => name === given);
  if (known !== undefined) return known[0] as CanaryKind;
  context.addIssue({ code: 'custom', message: 'must be a known kind' });
  return z.NEVER;
});
const lengths: Readonly<Record<CanaryKind, z.ZodType<number, number>>> = {
  payload: z
    .number()
    .refine(
      (length) => length >= 0 && length <= MAX_PLAINTEXT_BYTES,
      `must be 0 to ${MAX_PLAINTEXT_BYTES}`,
    ),
  dataKey: field.dataKeyLength,
  storedDataKey: field.dataKeyLength,
};

const newCanary = z
  .object({
    parent: field.keyName,
    canaryId: z.union([z.literal(''), field.newId]),
    kind,
    length: z.number(),
    dataKeyId: z.union([z.literal(''), field.newId]),
    suspendCaller: z.boolean(),
    description: field.description,
  })
  .transform(({ canaryId: id, suspendCaller: suspends, ...rest }, context) => {
    const length = lengths[rest.kind].safeParse(rest.length);
    for (const { message } of length.error?.issues ?? [])
      context.addIssue({ code: 'custom', path: ['length'], message });
    if (rest.dataKeyId !== '' && rest.kind !== 'storedDataKey')
      context.addIssue({
        code: 'custom',
        path: ['dataKeyId'],
        message: 'must be empty unless the canary is a stored data key',
      });
    return { ...rest, id, suspends, length: length.data ?? 0 };
  });

function canaryMessage({ row, name, tenant, key, content }: Canary): CanaryMessage {
  const known = content && {
    key: formatKeyName({ tenant, key }),
    kind: KINDS[content.kind],
    dataKey:
      content.dataKey === undefined ? '' : formatDataKeyName({ tenant, key }, content.dataKey.name),
    suspendsCaller: content.suspends,
    description: content.description,
    createTime: timestamp(new Date(content.createdAt)),
    creator: content.creator,
  };
  // It never changes but by being deleted and made anew.
  return { name, uid: row.uid, etag: row.uid, ...known };
}

function suspensionMessage(parent: TenantName, suspension: SuspensionRow): SuspensionMessage {
  return {
    name: formatSuspensionName(parent, suspension.suspensionId),
    caller: suspension.caller,
    canary: suspension.canaryId === '' ? '' : formatCanaryName(parent, suspension.canaryId),
    callId: suspension.requestId,
    description: suspension.description,
    createTime: timestamp(suspension.createdAt),
    creator: suspension.creator,
  };
}

const page = z
  .object({ parent: field.tenantName, ...field.pageOnly })
  .transform((request) => ({ ...request, conditions: [] }));

export const canaryService = {
  CreateCanary: rpc(canaryOperations.CreateCanary, {
    request: newCanary,
    message: ({ canary, ciphertext }) => ({ canary: canaryMessage(canary), ciphertext }),
  }),
  GetCanary: rpc(canaryOperations.GetCanary, {
    request: z.object({ name: field.canaryName }),
    message: canaryMessage,
  }),
  ListCanaries: rpc(canaryOperations.ListCanaries, {
    request: page,
    message: ({ items, nextPageToken }) => ({
      canaries: items.map(canaryMessage),
      nextPageToken,
    }),
  }),
  DeleteCanary: rpc(canaryOperations.DeleteCanary, {
    request: z.object({ name: field.canaryName, ...field.change }),
    message: nothing,
  }),
  CreateSuspension: rpc(canaryOperations.CreateSuspension, {
    request: z.object({
      parent: field.tenantName,
      caller: accessField.principal,
      description: field.description,
      requestId: field.requestId,
    }),
    message: (suspension, { parent }) => suspensionMessage(parent, suspension),
  }),
  ListSuspensions: rpc(canaryOperations.ListSuspensions, {
    request: page,
    message: ({ items, nextPageToken }, { parent }) => ({
      suspensions: items.map((suspension) => suspensionMessage(parent, suspension)),
      nextPageToken,
    }),
  }),
  DeleteSuspension: rpc(canaryOperations.DeleteSuspension, {
    request: z.object({ name: field.suspensionName, requestId: field.requestId }),
    message: nothing,
  }),
} satisfies RpcsOf<CanaryServiceHandlers>;
