/**
 * KeyService, a row for each method.
 */
import { z } from 'zod';
import type { Permission } from '../access/permissions.ts';
import { destruction, mutation, ofName, ofParent, type RowsOf, row } from '../calls/operation.ts';
import * as field from '../faces/contract/fields.ts';
import type { KeyServiceHandlers } from '../faces/contract/generated/keyward/v1/KeyService.ts';
import { impactMessage, keyMessage, keyVersionMessage } from '../faces/contract/messages.ts';
import { formatKeyName, formatKeyVersionName, formatTenantName } from '../names.ts';

const setKeyState = (permission: Permission, state: 'ENABLED' | 'DISABLED') =>
  row({
    permission,
    target: ofName,
    request: z.object({ name: field.keyName, ...mutation }),
    resource: ({ name }) => formatKeyName(name),
    handle: async ({ keys }, call, { name, etag }) =>
      keyMessage(name, await keys.setState(call, name, etag, state)),
  });

const setKeyVersionState = (permission: Permission, state: 'ENABLED' | 'DISABLED') =>
  row({
    permission,
    target: ofName,
    request: z.object({ name: field.keyVersionName, ...mutation }),
    resource: ({ name }) => formatKeyVersionName(name, name.version),
    handle: async ({ keys }, call, { name, etag }) =>
      keyVersionMessage(name, await keys.setVersionState(call, name, etag, state)),
  });

/** What of a key says when it is rotated. */
const SCHEDULE: readonly string[] = [
  'rotation_period',
  'next_rotation_time',
  'rotation_usage_limit',
  'maintenance_paused',
];

export const keyService = {
  CreateKey: row({
    permission: 'keys.create',
    target: ({ parent, keyId }) => ({ ...parent, key: keyId }),
    request: z.object({
      parent: field.keyParent,
      keyId: field.newId,
      description: field.description,
      labels: field.labels,
      rotationPeriod: field.duration,
      nextRotationTime: field.time,
      rotationUsageLimit: field.limit,
      requestId: field.requestId,
    }),
    resource: ({ parent, keyId }) => formatKeyName({ ...parent, key: keyId }),
    handle: async ({ keys }, call, { parent, keyId, description, labels, ...schedule }) => {
      const settings = {
        description,
        labels,
        rotationPeriodSeconds: schedule.rotationPeriod,
        nextRotationAt: schedule.nextRotationTime,
        rotationUsageLimit: schedule.rotationUsageLimit,
        maintenancePaused: false,
      };
      return keyMessage(parent, await keys.create(call, { ...parent, key: keyId }, settings));
    },
  }),
  GetKey: row({
    permission: 'keys.get',
    target: ofName,
    request: z.object({ name: field.keyName }),
    resource: ({ name }) => formatKeyName(name),
    handle: async ({ keys }, _, { name }) => keyMessage(name, await keys.get(name)),
  }),
  ListKeys: row({
    permission: 'keys.list',
    target: ofParent,
    request: z.object({ parent: field.tenantName, ...field.page(['state', 'labels.']) }),
    resource: ({ parent }) => formatTenantName(parent),
    handle: async ({ keys }, call, { parent, filter: conditions, ...page }) => {
      const { items, nextPageToken } = await keys.list(call, parent, { ...page, conditions });
      return { keys: items.map((key) => keyMessage(parent, key)), nextPageToken };
    },
  }),
  ListKeyVersions: row({
    permission: 'keyVersions.list',
    target: ofParent,
    request: z.object({ parent: field.keyName, ...field.page(['state']) }),
    resource: ({ parent }) => formatKeyName(parent),
    handle: async ({ keys }, call, { parent, filter: conditions, ...page }) => {
      const { items, nextPageToken } = await keys.listVersions(call, parent, {
        ...page,
        conditions,
      });
      return {
        keyVersions: items.map(({ version, usage }) => keyVersionMessage(parent, version, usage)),
        nextPageToken,
      };
    },
  }),
  RotateKey: row({
    permission: 'keys.rotate',
    target: ofName,
    request: z.object({ name: field.keyName, ...mutation }),
    resource: ({ name }) => formatKeyName(name),
    handle: async ({ rotation }, call, { name, etag }) =>
      keyMessage(name, await rotation.rotate(call, name, etag)),
  }),
  UpdateKey: row({
    permission: 'keys.update',
    target: ({ key }) => ofName(key),
    request: z.object({
      key: field.keyToUpdate,
      updateMask: field.keyMask,
      requestId: field.requestId,
    }),
    resource: ({ key }) => formatKeyName(key.name),
    handle: async ({ keys }, call, { key, updateMask }) => {
      // Whoever may not rotate it can't have it rotated, or not, by the schedule.
      if (updateMask.some((path) => SCHEDULE.includes(path)))
        call.rights.require('keys.rotate', ofName(key), formatKeyName(key.name));
      const settings = {
        description: { description: key.description },
        labels: { labels: key.labels },
        rotation_period: { rotationPeriodSeconds: key.rotationPeriod },
        next_rotation_time: { nextRotationAt: key.nextRotationTime },
        rotation_usage_limit: { rotationUsageLimit: key.rotationUsageLimit },
        maintenance_paused: { maintenancePaused: key.maintenancePaused },
      };
      const changes = Object.assign({}, ...updateMask.map((path) => settings[path]));
      return keyMessage(key.name, await keys.update(call, key.name, key.etag, changes));
    },
  }),
  DisableKey: setKeyState('keys.disable', 'DISABLED'),
  EnableKey: setKeyState('keys.enable', 'ENABLED'),
  GetKeyVersion: row({
    permission: 'keyVersions.get',
    target: ofName,
    request: z.object({ name: field.keyVersionName }),
    resource: ({ name }) => formatKeyVersionName(name, name.version),
    handle: async ({ keys }, call, { name }) => {
      const { version, usage } = await keys.getVersion(call, name);
      return keyVersionMessage(name, version, usage);
    },
  }),
  DisableKeyVersion: setKeyVersionState('keyVersions.disable', 'DISABLED'),
  EnableKeyVersion: setKeyVersionState('keyVersions.enable', 'ENABLED'),
  ScheduleKeyVersionDestruction: row({
    permission: 'keyVersions.destroy',
    target: ofName,
    request: z.object({ name: field.keyVersionName, ...destruction }),
    resource: ({ name }) => formatKeyVersionName(name, name.version),
    handle: async (keyring, call, { name, ...request }) => {
      const { version, impact } = await keyring.destruction.scheduleVersion(call, name, request);
      return { keyVersion: keyVersionMessage(name, version), impact: impactMessage(impact) };
    },
  }),
  RestoreKeyVersion: row({
    permission: 'keyVersions.restore',
    target: ofName,
    request: z.object({ name: field.keyVersionName, ...mutation }),
    resource: ({ name }) => formatKeyVersionName(name, name.version),
    handle: async (keyring, call, { name, etag }) =>
      keyVersionMessage(name, await keyring.destruction.restoreVersion(call, name, etag)),
  }),
  ScheduleKeyDestruction: row({
    permission: 'keys.destroy',
    target: ofName,
    request: z.object({ name: field.keyName, ...destruction }),
    resource: ({ name }) => formatKeyName(name),
    handle: async (keyring, call, { name, ...request }) => {
      const { key, impact } = await keyring.destruction.scheduleKey(call, name, request);
      return { key: keyMessage(name, key), impact: impactMessage(impact) };
    },
  }),
  RestoreKey: row({
    permission: 'keys.restore',
    target: ofName,
    request: z.object({ name: field.keyName, ...mutation }),
    resource: ({ name }) => formatKeyName(name),
    handle: async (keyring, call, { name, etag }) =>
      keyMessage(name, await keyring.destruction.restoreKey(call, name, etag)),
  }),
} satisfies RowsOf<KeyServiceHandlers>;
