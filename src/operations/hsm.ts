/**
 * The token's root and seal keys: an operation for each method of HsmService.
 */
import { ofName, ofParent, ofSystem, operation } from '../calls/operation.ts';
import {
  formatTenantName,
  formatTokenKeyName,
  SYSTEM_TENANT,
  type TenantName,
  type TokenKeyName,
} from '../names.ts';
import type { In, Named, Repeatable } from './requests.ts';

const SYSTEM = { tenant: SYSTEM_TENANT };

export const hsmOperations = {
  RotateRootKey: operation({
    isSensitive: true,
    agentNeed: () => 'tokenKeys',
    permission: 'tokenKeys.rotateRoot',
    target: ofParent,
    resource: ({ parent }: In<TenantName> & Repeatable) => formatTenantName(parent),
    handle: ({ tokenKeys }, call, { parent }) => tokenKeys.rotate(call, parent, 'root'),
    again: ({ tokenKeys }, call, _, begun) => tokenKeys.rotateAgain(call, begun),
  }),
  RotateSealKey: operation({
    isSensitive: true,
    agentNeed: () => 'tokenKeys',
    permission: 'tokenKeys.rotateSeal',
    target: ofSystem,
    resource: (_: Repeatable) => formatTenantName(SYSTEM),
    handle: ({ tokenKeys }, call) => tokenKeys.rotate(call, SYSTEM, 'seal'),
    again: ({ tokenKeys }, call, _, begun) => tokenKeys.rotateAgain(call, begun),
  }),
  GetTokenKey: operation({
    permission: 'tokenKeys.get',
    target: ofName,
    resource: ({ name }: Named<TokenKeyName>) => formatTokenKeyName(name, name.tokenKey),
    handle: ({ tokenKeys }, call, { name }) => tokenKeys.get(call, name),
  }),
  ListTokenKeys: operation({
    permission: 'tokenKeys.list',
    target: ofParent,
    resource: ({ parent }: In<TenantName>) => formatTenantName(parent),
    handle: ({ tokenKeys }, call, { parent }) => tokenKeys.list(call, parent),
  }),
};
