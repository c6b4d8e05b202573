/**
 * AdminService, a row for each method.
 */
import { z } from 'zod';
import type { Permission } from '../access/permissions.ts';
import { destruction, mutation, ofName, ofSystem, type RowsOf, row } from '../calls/operation.ts';
import * as field from '../faces/contract/fields.ts';
import type { AdminServiceHandlers } from '../faces/contract/generated/keyward/v1/AdminService.ts';
import { tokenStatusMessage } from '../faces/contract/hsm-token-messages.ts';
import {
  maintenanceMessage,
  shredImpactMessage,
  tenantMessage,
} from '../faces/contract/messages.ts';
import { formatTenantName } from '../names.ts';

const setTenantState = (permission: Permission, state: 'ENABLED' | 'DISABLED') =>
  row({
    permission,
    target: ofName,
    request: z.object({ name: field.tenantName, ...mutation }),
    resource: ({ name }) => formatTenantName(name),
    handle: async ({ tenants }, call, { name, etag }) =>
      tenantMessage(await tenants.setState(call, name, etag, state)),
  });

const setPaused = (permission: Permission, paused: boolean) =>
  row({
    permission,
    target: ofSystem,
    request: z.object({ requestId: field.requestId }),
    resource: () => 'maintenance',
    handle: async ({ maintenance }, call) =>
      maintenanceMessage(await maintenance.setPaused(call, paused)),
  });

export const adminService = {
  CreateTenant: row({
    permission: 'tenants.create',
    target: ofSystem,
    request: z.object({
      tenantId: field.newTenantId,
      dedicatedRootKey: z.boolean(),
      requestId: field.requestId,
    }),
    resource: ({ tenantId }) => formatTenantName({ tenant: tenantId }),
    handle: async ({ tenants }, call, { tenantId, dedicatedRootKey }) =>
      tenantMessage(await tenants.create(call, { tenant: tenantId }, { dedicatedRootKey })),
  }),
  GetTenant: row({
    permission: 'tenants.get',
    target: ofName,
    request: z.object({ name: field.tenantName }),
    resource: ({ name }) => formatTenantName(name),
    handle: async ({ tenants }, call, { name }) => tenantMessage(await tenants.get(call, name)),
  }),
  ListTenants: row({
    permission: 'tenants.list',
    target: ofSystem,
    request: z.object(field.page(['state'])),
    resource: () => 'tenants',
    handle: async ({ tenants }, call, { filter: conditions, ...page }) => {
      const { items, nextPageToken } = await tenants.list(call, { ...page, conditions });
      return { tenants: items.map(tenantMessage), nextPageToken };
    },
  }),
  UpdateTenant: row({
    permission: 'tenants.update',
    target: ({ tenant }) => ofName(tenant),
    request: z.object({
      tenant: field.tenantToUpdate,
      updateMask: field.tenantMask,
      requestId: field.requestId,
    }),
    resource: ({ tenant }) => formatTenantName(tenant.name),
    handle: async ({ tenants }, call, { tenant: { name, etag, quotas }, updateMask }) => {
      const settings = {
        quotas,
        'quotas.calls_per_second': { callsPerSecond: quotas.callsPerSecond },
        'quotas.keys': { keys: quotas.keys },
        'quotas.stored_data_keys': { storedDataKeys: quotas.storedDataKeys },
      };
      const changes = Object.assign({}, ...updateMask.map((path) => settings[path]));
      return tenantMessage(await tenants.setQuotas(call, name, etag, changes));
    },
  }),
  DisableTenant: setTenantState('tenants.disable', 'DISABLED'),
  EnableTenant: setTenantState('tenants.enable', 'ENABLED'),
  ShredTenant: row({
    permission: 'tenants.shred',
    target: ofName,
    request: z.object({ name: field.tenantName, ...destruction }),
    resource: ({ name }) => formatTenantName(name),
    handle: async ({ shredding }, call, { name, ...request }) => {
      const { tenant, impact } = await shredding.schedule(call, name, request);
      return { tenant: tenantMessage(tenant), impact: shredImpactMessage(impact) };
    },
  }),
  RestoreTenant: row({
    permission: 'tenants.restore',
    target: ofName,
    request: z.object({ name: field.tenantName, ...mutation }),
    resource: ({ name }) => formatTenantName(name),
    handle: async ({ shredding }, call, { name, etag }) =>
      tenantMessage(await shredding.restore(call, name, etag)),
  }),
  GetMaintenance: row({
    permission: 'maintenance.get',
    target: ofSystem,
    request: z.object({}),
    resource: () => 'maintenance',
    handle: async ({ maintenance }, call) => maintenanceMessage(await maintenance.get(call)),
  }),
  PauseMaintenance: setPaused('maintenance.pause', true),
  ResumeMaintenance: setPaused('maintenance.resume', false),
  GetTokenStatus: row({
    permission: 'tokenStatus.get',
    target: ofSystem,
    request: z.object({}),
    resource: () => 'tokenStatus',
    handle: async ({ tokenStatus }, call) => tokenStatusMessage(await tokenStatus.get(call)),
  }),
} satisfies RowsOf<AdminServiceHandlers>;
