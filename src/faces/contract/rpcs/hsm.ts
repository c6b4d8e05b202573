/**
 * HsmService as messages.
 */
import { z } from 'zod';
import { hsmOperations } from '../../../operations/hsm.ts';
import * as field from '../fields.ts';
import type { HsmServiceHandlers } from '../generated/keyward/v1/HsmService.ts';
import { tokenKeyMessage } from '../hsm-token-messages.ts';
import { type RpcsOf, rpc } from '../rpc.ts';

export const hsmService = {
  RotateRootKey: rpc(hsmOperations.RotateRootKey, {
    request: z.object({ parent: field.tenantName, requestId: field.requestId }),
    message: tokenKeyMessage,
  }),
  RotateSealKey: rpc(hsmOperations.RotateSealKey, {
    request: z.object({ requestId: field.requestId }),
    message: tokenKeyMessage,
  }),
  GetTokenKey: rpc(hsmOperations.GetTokenKey, {
    request: z.object({ name: field.tokenKeyName }),
    message: tokenKeyMessage,
  }),
  ListTokenKeys: rpc(hsmOperations.ListTokenKeys, {
    request: z.object({ parent: field.tenantName }),
    message: (keys) => ({ tokenKeys: keys.map(tokenKeyMessage) }),
  }),
} satisfies RpcsOf<HsmServiceHandlers>;
