/**
 * Canaries and suspended callers: an operation for each method of CanaryService.
 */
import { ofName, ofParent, operation } from '../calls/operation.ts';
import type { NewCanary } from '../keyring/canaries/canary-changes.ts';
import {
  type CanaryName,
  formatCanaryName,
  formatKeyName,
  formatSuspensionName,
  formatTenantName,
  type SuspensionName,
  type TenantName,
} from '../names.ts';
import type { In, ListIn, Named, NamedChange, Repeatable } from './requests.ts';

/** A caller to be suspended. */
export interface NewSuspensionRequest extends In<TenantName>, Repeatable {
  /** As audit entries name it. */
  readonly caller: string;
  readonly description: string;
}

export const canaryOperations = {
  CreateCanary: operation({
    permission: 'canaries.create',
    target: ofParent,
    resource: ({ parent, id }: NewCanary) =>
      id === '' ? formatKeyName(parent) : formatCanaryName(parent, id),
    handle: ({ canaryChanges }, call, request) => canaryChanges.create(call, request),
  }),
  GetCanary: operation({
    permission: 'canaries.get',
    target: ofName,
    resource: ({ name }: Named<CanaryName>) => formatCanaryName(name, name.canary),
    handle: async ({ canaryChanges }, _, { name }) => canaryChanges.get(name),
  }),
  ListCanaries: operation({
    permission: 'canaries.list',
    target: ofParent,
    resource: ({ parent }: ListIn<TenantName>) => formatTenantName(parent),
    handle: ({ canaryChanges }, _, { parent, ...page }) => canaryChanges.list(parent, page),
  }),
  DeleteCanary: operation({
    isSensitive: true,
    permission: 'canaries.delete',
    target: ofName,
    resource: ({ name }: NamedChange<CanaryName>) => formatCanaryName(name, name.canary),
    handle: ({ canaryChanges }, call, { name, etag }) => canaryChanges.delete(call, name, etag),
  }),
  CreateSuspension: operation({
    isSensitive: true,
    permission: 'suspensions.create',
    target: ofParent,
    resource: ({ parent }: NewSuspensionRequest) => formatTenantName(parent),
    handle: ({ canaryChanges }, call, { parent, ...asked }) =>
      canaryChanges.suspend(call, parent, asked),
  }),
  ListSuspensions: operation({
    permission: 'suspensions.list',
    target: ofParent,
    resource: ({ parent }: ListIn<TenantName>) => formatTenantName(parent),
    handle: ({ canaryChanges }, _, { parent, ...page }) =>
      canaryChanges.listSuspensions(parent, page),
  }),
  DeleteSuspension: operation({
    isSensitive: true,
    permission: 'suspensions.delete',
    target: ofName,
    resource: ({ name }: Named<SuspensionName> & Repeatable) =>
      formatSuspensionName(name, name.suspension),
    handle: ({ canaryChanges }, call, { name }) => canaryChanges.lift(call, name),
  }),
};
