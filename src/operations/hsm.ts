/**
 * HsmService, a row for each method.
 */
import { z } from 'zod';
import { ofName, ofParent, ofSystem, type RowsOf, row } from '../calls/operation.ts';
import * as field from '../faces/contract/fields.ts';
import type { HsmServiceHandlers } from '../faces/contract/generated/keyward/v1/HsmService.ts';
import { tokenKeyMessage } from '../faces/contract/hsm-token-messages.ts';
import { formatTenantName, formatTokenKeyName, SYSTEM_TENANT } from '../names.ts';

const SYSTEM = { tenant: SYSTEM_TENANT };

export const hsmService = {
  RotateRootKey: row({
    permission: 'tokenKeys.rotateRoot',
    target: ofParent,
    request: z.object({ parent: field.tenantName, requestId: field.requestId }),
    resource: ({ parent }) => formatTenantName(parent),
    handle: async ({ tokenKeys }, call, { parent }) =>
      tokenKeyMessage(await tokenKeys.rotate(call, parent, 'root')),
  }),
  RotateSealKey: row({
    permission: 'tokenKeys.rotateSeal',
    target: ofSystem,
    request: z.object({ requestId: field.requestId }),
    resource: () => formatTenantName(SYSTEM),
    handle: async ({ tokenKeys }, call) =>
      tokenKeyMessage(await tokenKeys.rotate(call, SYSTEM, 'seal')),
  }),
  GetTokenKey: row({
    permission: 'tokenKeys.get',
    target: ofName,
    request: z.object({ name: field.tokenKeyName }),
    resource: ({ name }) => formatTokenKeyName(name, name.tokenKey),
    handle: async ({ tokenKeys }, call, { name }) =>
      tokenKeyMessage(await tokenKeys.get(call, name)),
  }),
  ListTokenKeys: row({
    permission: 'tokenKeys.list',
    target: ofParent,
    request: z.object({ parent: field.tenantName }),
    resource: ({ parent }) => formatTenantName(parent),
    handle: async ({ tokenKeys }, call, { parent }) => ({
      tokenKeys: (await tokenKeys.list(call, parent)).map(tokenKeyMessage),
    }),
  }),
} satisfies RowsOf<HsmServiceHandlers>;
