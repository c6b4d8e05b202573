/**
 * AccessService as messages.
 */
import { z } from 'zod';
import { accessOperations } from '../../../operations/access.ts';
import * as accessField from '../access-fields.ts';
import {
  callerMessage,
  explanationMessage,
  predefinedRoleMessages,
  roleBindingMessage,
  roleMessage,
} from '../access-messages.ts';
import * as field from '../fields.ts';
import type { AccessServiceHandlers } from '../generated/keyward/v1/AccessService.ts';
import { nothing, type RpcsOf, rpc } from '../rpc.ts';

export const accessService = {
  CreateRoleBinding: rpc(accessOperations.CreateRoleBinding, {
    request: z.object({
      parent: field.tenantName,
      roleBindingId: z.union([z.literal(''), field.newId]),
      roleBinding: accessField.newRoleBinding,
      requestId: field.requestId,
    }),
    message: (binding, { parent }) => roleBindingMessage(parent, binding),
  }),
  GetRoleBinding: rpc(accessOperations.GetRoleBinding, {
    request: z.object({ name: field.roleBindingName }),
    message: (binding, { name }) => roleBindingMessage(name, binding),
  }),
  ListRoleBindings: rpc(accessOperations.ListRoleBindings, {
    request: z
      .object({
        parent: field.tenantName,
        ...field.page({ principal: field.ANY_TEXT, group: field.ANY_TEXT, role: field.ANY_TEXT }),
      })
      .transform(field.filtered),
    message: ({ items, nextPageToken }, { parent }) => ({
      roleBindings: items.map((binding) => roleBindingMessage(parent, binding)),
      nextPageToken,
    }),
  }),
  DeleteRoleBinding: rpc(accessOperations.DeleteRoleBinding, {
    request: z.object({ name: field.roleBindingName, requestId: field.requestId }),
    message: nothing,
  }),
  CreateRole: rpc(accessOperations.CreateRole, {
    request: z.object({
      parent: field.tenantName,
      roleId: field.newId,
      role: accessField.newRole,
      requestId: field.requestId,
    }),
    message: (role, { parent }) => roleMessage(parent, role),
  }),
  GetRole: rpc(accessOperations.GetRole, {
    request: z.object({ name: field.roleName }),
    message: (role, { name }) => roleMessage(name, role),
  }),
  ListRoles: rpc(accessOperations.ListRoles, {
    request: z.object({ parent: field.tenantName }),
    message: (roles, { parent }) => ({
      roles: [...predefinedRoleMessages(), ...roles.map((role) => roleMessage(parent, role))],
    }),
  }),
  DeleteRole: rpc(accessOperations.DeleteRole, {
    request: z.object({ name: field.roleName, requestId: field.requestId }),
    message: nothing,
  }),
  TestPermissions: rpc(accessOperations.TestPermissions, {
    request: z
      .object({
        resource: accessField.resource,
        permissions: accessField.permissions,
        encryptionContext: field.encryptionContext,
      })
      .transform(field.withContext),
    message: (permissions) => ({ permissions }),
  }),
  ExplainAccess: rpc(accessOperations.ExplainAccess, {
    request: z
      .object({
        resource: accessField.resource,
        permission: accessField.permission,
        encryptionContext: field.encryptionContext,
        ...accessField.askedCaller,
      })
      .superRefine(accessField.requireOneProof)
      .transform(({ resource, permission, encryptionContext: context, ...caller }) => ({
        resource,
        permission,
        caller: accessField.callerAskedAbout(caller),
        context,
      })),
    message: explanationMessage,
  }),
  GetCaller: rpc(accessOperations.GetCaller, {
    request: z.object({}),
    message: ({ caller, isFirstAdministrator }) => callerMessage(caller, isFirstAdministrator),
  }),
} satisfies RpcsOf<AccessServiceHandlers>;
