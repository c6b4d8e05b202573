/**
 * KeyService as messages.
 */
import { z } from 'zod';
import { keyOperations } from '../../../operations/key.ts';
import * as field from '../fields.ts';
import type { KeyServiceHandlers } from '../generated/keyward/v1/KeyService.ts';
import { impactMessage, keyMessage, keyVersionMessage } from '../messages.ts';
import { type RpcsOf, rpc } from '../rpc.ts';

const keyChange = z.object({ name: field.keyName, ...field.change });
const versionChange = z.object({ name: field.keyVersionName, ...field.change });

export const keyService = {
  CreateKey: rpc(keyOperations.CreateKey, {
    request: z
      .object({
        parent: field.keyParent,
        keyId: field.newId,
        description: field.description,
        labels: field.labels,
        rotationPeriod: field.duration,
        nextRotationTime: field.time,
        rotationUsageLimit: field.limit,
        epochMaxMessages: field.epochMaxMessages,
        epochMaxAge: field.epochMaxAge,
        requestId: field.requestId,
      })
      .transform(({ rotationPeriod, nextRotationTime, epochMaxAge, ...rest }) => ({
        ...rest,
        rotationPeriodSeconds: rotationPeriod,
        nextRotationAt: nextRotationTime,
        epochMaxAgeSeconds: epochMaxAge,
      })),
    message: (key, { parent }) => keyMessage(parent, key),
  }),
  GetKey: rpc(keyOperations.GetKey, {
    request: z.object({ name: field.keyName }),
    message: (key, { name }) => keyMessage(name, key),
  }),
  ListKeys: rpc(keyOperations.ListKeys, {
    request: z
      .object({
        parent: field.tenantName,
        ...field.page({ state: field.valuesOf('KeyState'), 'labels.': field.ANY_TEXT }),
      })
      .transform(field.filtered),
    message: ({ items, nextPageToken }, { parent }) => ({
      keys: items.map((key) => keyMessage(parent, key)),
      nextPageToken,
    }),
  }),
  ListKeyVersions: rpc(keyOperations.ListKeyVersions, {
    request: z
      .object({
        parent: field.keyName,
        ...field.page({ state: field.valuesOf('KeyVersionState') }),
      })
      .transform(field.filtered),
    message: ({ items, nextPageToken }, { parent }) => ({
      keyVersions: items.map(({ version, usage }) => keyVersionMessage(parent, version, usage)),
      nextPageToken,
    }),
  }),
  RotateKey: rpc(keyOperations.RotateKey, {
    request: keyChange,
    message: (key, { name }) => keyMessage(name, key),
  }),
  UpdateKey: rpc(keyOperations.UpdateKey, {
    request: z
      .object({
        key: field.keyToUpdate,
        updateMask: field.keyMask,
        requestId: field.requestId,
      })
      .transform(({ key, updateMask, requestId }) => {
        const settings = {
          description: { description: key.description },
          labels: { labels: key.labels },
          rotation_period: { rotationPeriodSeconds: key.rotationPeriod },
          next_rotation_time: { nextRotationAt: key.nextRotationTime },
          rotation_usage_limit: { rotationUsageLimit: key.rotationUsageLimit },
          maintenance_paused: { maintenancePaused: key.maintenancePaused },
          epoch_max_messages: { epochMaxMessages: key.epochMaxMessages },
          epoch_max_age: { epochMaxAgeSeconds: key.epochMaxAge },
        };
        const changes = Object.assign({}, ...updateMask.map((path) => settings[path]));
        return { name: key.name, etag: key.etag, requestId, changes };
      }),
    message: (key, { name }) => keyMessage(name, key),
  }),
  DisableKey: rpc(keyOperations.DisableKey, {
    request: keyChange,
    message: (key, { name }) => keyMessage(name, key),
  }),
  EnableKey: rpc(keyOperations.EnableKey, {
    request: keyChange,
    message: (key, { name }) => keyMessage(name, key),
  }),
  GetKeyVersion: rpc(keyOperations.GetKeyVersion, {
    request: z.object({ name: field.keyVersionName }),
    message: ({ version, usage }, { name }) => keyVersionMessage(name, version, usage),
  }),
  DisableKeyVersion: rpc(keyOperations.DisableKeyVersion, {
    request: versionChange,
    message: (version, { name }) => keyVersionMessage(name, version),
  }),
  EnableKeyVersion: rpc(keyOperations.EnableKeyVersion, {
    request: versionChange,
    message: (version, { name }) => keyVersionMessage(name, version),
  }),
  ScheduleKeyVersionDestruction: rpc(keyOperations.ScheduleKeyVersionDestruction, {
    request: z.object({ name: field.keyVersionName, ...field.destruction }),
    message: ({ version, impact }, { name }) => ({
      keyVersion: keyVersionMessage(name, version),
      impact: impactMessage(impact),
    }),
  }),
  RestoreKeyVersion: rpc(keyOperations.RestoreKeyVersion, {
    request: versionChange,
    message: (version, { name }) => keyVersionMessage(name, version),
  }),
  ScheduleKeyDestruction: rpc(keyOperations.ScheduleKeyDestruction, {
    request: z.object({ name: field.keyName, ...field.destruction }),
    message: ({ key, impact }, { name }) => ({
      key: keyMessage(name, key),
      impact: impactMessage(impact),
    }),
  }),
  RestoreKey: rpc(keyOperations.RestoreKey, {
    request: keyChange,
    message: (key, { name }) => keyMessage(name, key),
  }),
} satisfies RpcsOf<KeyServiceHandlers>;
