/**
 * AdminService as messages.
 */
import { z } from 'zod';
import { adminOperations } from '../../../operations/admin.ts';
import * as field from '../fields.ts';
import type { AdminServiceHandlers } from '../generated/keyward/v1/AdminService.ts';
import { tokenStatusMessage } from '../hsm-token-messages.ts';
import { maintenanceMessage, shredImpactMessage, tenantMessage } from '../messages.ts';
import { type RpcsOf, rpc } from '../rpc.ts';
import { serviceStatusMessage } from '../service-status-message.ts';

const tenantChange = z.object({ name: field.tenantName, ...field.change });
const pause = z.object({ requestId: field.requestId });

export const adminService = {
  CreateTenant: rpc(adminOperations.CreateTenant, {
    request: z.object({
      tenantId: field.newTenantId,
      dedicatedRootKey: z.boolean(),
      requestId: field.requestId,
    }),
    message: tenantMessage,
  }),
  GetTenant: rpc(adminOperations.GetTenant, {
    request: z.object({ name: field.tenantName }),
    message: tenantMessage,
  }),
  ListTenants: rpc(adminOperations.ListTenants, {
    request: z
      .object(field.page({ state: field.valuesOf('TenantState') }))
      .transform(field.filtered),
    message: ({ items, nextPageToken }) => ({ tenants: items.map(tenantMessage), nextPageToken }),
  }),
  UpdateTenant: rpc(adminOperations.UpdateTenant, {
    request: z
      .object({
        tenant: field.tenantToUpdate,
        updateMask: field.tenantMask,
        requestId: field.requestId,
      })
      .transform(({ tenant: { name, etag, quotas }, updateMask, requestId }) => {
        const settings = {
          quotas,
          'quotas.calls_per_second': { callsPerSecond: quotas.callsPerSecond },
          'quotas.keys': { keys: quotas.keys },
          'quotas.stored_data_keys': { storedDataKeys: quotas.storedDataKeys },
        };
        const changes = Object.assign({}, ...updateMask.map((path) => settings[path]));
        return { name, etag, requestId, quotas: changes };
      }),
    message: tenantMessage,
  }),
  DisableTenant: rpc(adminOperations.DisableTenant, {
    request: tenantChange,
    message: tenantMessage,
  }),
  EnableTenant: rpc(adminOperations.EnableTenant, {
    request: tenantChange,
    message: tenantMessage,
  }),
  ShredTenant: rpc(adminOperations.ShredTenant, {
    request: z.object({ name: field.tenantName, ...field.destruction }),
    message: ({ tenant, impact }) => ({
      tenant: tenantMessage(tenant),
      impact: shredImpactMessage(impact),
    }),
  }),
  RestoreTenant: rpc(adminOperations.RestoreTenant, {
    request: tenantChange,
    message: tenantMessage,
  }),
  GetMaintenance: rpc(adminOperations.GetMaintenance, {
    request: z.object({}),
    message: maintenanceMessage,
  }),
  PauseMaintenance: rpc(adminOperations.PauseMaintenance, {
    request: pause,
    message: maintenanceMessage,
  }),
  ResumeMaintenance: rpc(adminOperations.ResumeMaintenance, {
    request: pause,
    message: maintenanceMessage,
  }),
  GetServiceStatus: rpc(adminOperations.GetServiceStatus, {
    request: z.object({}),
    message: serviceStatusMessage,
  }),
  GetTokenStatus: rpc(adminOperations.GetTokenStatus, {
    request: z.object({}),
    message: tokenStatusMessage,
  }),
} satisfies RpcsOf<AdminServiceHandlers>;
