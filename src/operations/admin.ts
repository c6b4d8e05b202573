/**
 * Tenants, maintenance and the token's status: an operation for each method of AdminService.
 */
import type { Permission } from '../access/permissions.ts';
import { ofName, ofSystem, operation } from '../calls/operation.ts';
import type { ListRequest } from '../keyring/pages.ts';
import { formatTenantName, type TenantName } from '../names.ts';
import type { Quotas } from '../store/tenants/tenants.ts';
import { previewDestruction } from './previews.ts';
import type { Named, NamedChange, NamedDestruction, Repeatable } from './requests.ts';

/** A tenant to be made. */
export interface NewTenant extends Repeatable {
  /** The last part of its name. */
  readonly tenantId: string;
  readonly dedicatedRootKey: boolean;
}

/** What is to be changed of a tenant. */
export interface TenantUpdate extends NamedChange<TenantName> {
  readonly quotas: Partial<Quotas>;
}

const setTenantState = (permission: Permission, state: 'ENABLED' | 'DISABLED') =>
  operation({
    isSensitive: true,
    permission,
    target: ofName,
    resource: ({ name }: NamedChange<TenantName>) => formatTenantName(name),
    handle: ({ tenants }, call, { name, etag }) => tenants.setState(call, name, etag, state),
  });

const setPaused = (permission: Permission, paused: boolean) =>
  operation({
    isSensitive: true,
    permission,
    target: ofSystem,
    resource: (_: Repeatable) => 'maintenance',
    handle: ({ maintenance }, call) => maintenance.setPaused(call, paused),
  });

export const adminOperations = {
  CreateTenant: operation({
    agentNeed: ({ dedicatedRootKey }) => (dedicatedRootKey ? 'tokenKeys' : undefined),
    permission: 'tenants.create',
    target: ofSystem,
    resource: ({ tenantId }: NewTenant) => formatTenantName({ tenant: tenantId }),
    handle: ({ tenants }, call, { tenantId, dedicatedRootKey }) =>
      tenants.create(call, { tenant: tenantId }, { dedicatedRootKey }),
    again: ({ tenants }, call, { tenantId, dedicatedRootKey }, made) =>
      tenants.createAgain(call, { tenant: tenantId }, made, { dedicatedRootKey }),
  }),
  GetTenant: operation({
    permission: 'tenants.get',
    target: ofName,
    resource: ({ name }: Named<TenantName>) => formatTenantName(name),
    handle: ({ tenants }, call, { name }) => tenants.get(call, name),
  }),
  ListTenants: operation({
    permission: 'tenants.list',
    target: ofSystem,
    resource: (_: ListRequest) => 'tenants',
    handle: ({ tenants }, call, page) => tenants.list(call, page),
  }),
  UpdateTenant: operation({
    isSensitive: true,
    permission: 'tenants.update',
    target: ofName,
    resource: ({ name }: TenantUpdate) => formatTenantName(name),
    handle: ({ tenants }, call, { name, etag, quotas }) =>
      tenants.setQuotas(call, name, etag, quotas),
  }),
  DisableTenant: setTenantState('tenants.disable', 'DISABLED'),
  EnableTenant: setTenantState('tenants.enable', 'ENABLED'),
  ShredTenant: operation({
    isSensitive: true,
    permission: 'tenants.shred',
    target: ofName,
    resource: ({ name }: NamedDestruction<TenantName>) => formatTenantName(name),
    handle: ({ shredding }, call, { name, ...request }) => shredding.schedule(call, name, request),
    preview: ({ shredding }, call, { name, ...request }) =>
      previewDestruction(request, (looking) => shredding.schedule(call, name, looking)),
  }),
  RestoreTenant: operation({
    permission: 'tenants.restore',
    target: ofName,
    resource: ({ name }: NamedChange<TenantName>) => formatTenantName(name),
    handle: ({ shredding }, call, { name, etag }) => shredding.restore(call, name, etag),
  }),
  GetMaintenance: operation({
    permission: 'maintenance.get',
    target: ofSystem,
    resource: (_: object) => 'maintenance',
    handle: ({ maintenance }, call) => maintenance.get(call),
  }),
  PauseMaintenance: setPaused('maintenance.pause', true),
  ResumeMaintenance: setPaused('maintenance.resume', false),
  GetServiceStatus: operation({
    permission: 'service.get',
    target: ofSystem,
    resource: (_: object) => 'serviceStatus',
    handle: ({ serviceStatus }, call) => serviceStatus.get(call),
  }),
  GetTokenStatus: operation({
    permission: 'tokenStatus.get',
    target: ofSystem,
    resource: (_: object) => 'tokenStatus',
    handle: ({ tokenStatus }, call) => tokenStatus.get(call),
  }),
};
