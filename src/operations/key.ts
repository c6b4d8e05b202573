/**
 * Keys and their versions: an operation for each method of KeyService.
 */
import type { Permission } from '../access/permissions.ts';
import { ofName, ofParent, operation } from '../calls/operation.ts';
import type { GivenKeySettings } from '../keyring/keys/keys.ts';
import {
  formatKeyName,
  formatKeyVersionName,
  formatTenantName,
  type KeyName,
  type KeyVersionName,
  type TenantName,
} from '../names.ts';
import { previewDestruction } from './previews.ts';
import type { ListIn, Named, NamedChange, NamedDestruction, Repeatable } from './requests.ts';

/** A key to be made. */
export interface NewKey extends Omit<GivenKeySettings, 'maintenancePaused'>, Repeatable {
  readonly parent: TenantName;
  /** The last part of its name. */
  readonly keyId: string;
}

/** What is to be changed of a key. */
export interface KeyUpdate extends NamedChange<KeyName> {
  readonly changes: Partial<GivenKeySettings>;
}

const setKeyState = (permission: Permission, state: 'ENABLED' | 'DISABLED') =>
  operation({
    isSensitive: true,
    permission,
    target: ofName,
    resource: ({ name }: NamedChange<KeyName>) => formatKeyName(name),
    handle: ({ keys }, call, { name, etag }) => keys.setState(call, name, etag, state),
  });

const setKeyVersionState = (permission: Permission, state: 'ENABLED' | 'DISABLED') =>
  operation({
    isSensitive: true,
    permission,
    target: ofName,
    resource: ({ name }: NamedChange<KeyVersionName>) => formatKeyVersionName(name, name.version),
    handle: ({ keys }, call, { name, etag }) => keys.setVersionState(call, name, etag, state),
  });

/** What of a key says when it is rotated. */
const SCHEDULE: readonly (keyof GivenKeySettings)[] = [
  'rotationPeriodSeconds',
  'nextRotationAt',
  'rotationUsageLimit',
  'maintenancePaused',
];

/** What says how the keys of its messages are derived. */
const DERIVATION: readonly (keyof GivenKeySettings)[] = ['epochMaxMessages', 'epochMaxAgeSeconds'];

export const keyOperations = {
  CreateKey: operation({
    permission: 'keys.create',
    target: ({ parent, keyId }) => ({ ...parent, key: keyId }),
    resource: ({ parent, keyId }: NewKey) => formatKeyName({ ...parent, key: keyId }),
    handle: ({ keys }, call, { parent, keyId, requestId: _, ...settings }) =>
      keys.create(call, { ...parent, key: keyId }, { ...settings, maintenancePaused: false }),
  }),
  GetKey: operation({
    permission: 'keys.get',
    target: ofName,
    resource: ({ name }: Named<KeyName>) => formatKeyName(name),
    handle: async ({ keys }, { audit }, { name }) => {
      const key = await keys.get(name);
      if (audit !== undefined) audit.keyId = key.keyId;
      return key;
    },
  }),
  ListKeys: operation({
    permission: 'keys.list',
    target: ofParent,
    resource: ({ parent }: ListIn<TenantName>) => formatTenantName(parent),
    handle: ({ keys }, call, { parent, ...page }) => keys.list(call, parent, page),
  }),
  ListKeyVersions: operation({
    permission: 'keyVersions.list',
    target: ofParent,
    resource: ({ parent }: ListIn<KeyName>) => formatKeyName(parent),
    handle: ({ keys }, call, { parent, ...page }) => keys.listVersions(call, parent, page),
  }),
  RotateKey: operation({
    permission: 'keys.rotate',
    target: ofName,
    resource: ({ name }: NamedChange<KeyName>) => formatKeyName(name),
    handle: ({ rotation }, call, { name, etag }) => rotation.rotate(call, name, etag),
  }),
  UpdateKey: operation({
    permission: 'keys.update',
    target: ofName,
    resource: ({ name }: KeyUpdate) => formatKeyName(name),
    handle: async ({ keys }, call, { name, etag, changes }) => {
      // A caller who may not rotate it cannot have it rotated, or not, by the schedule.
      if (SCHEDULE.some((setting) => setting in changes))
        call.rights.require('keys.rotate', ofName({ name }), formatKeyName(name));
      // Who makes a key says how its messages' keys are derived.
      if (DERIVATION.some((setting) => setting in changes))
        call.rights.require('keys.create', ofName({ name }), formatKeyName(name));
      return keys.update(call, name, etag, changes);
    },
  }),
  DisableKey: setKeyState('keys.disable', 'DISABLED'),
  EnableKey: setKeyState('keys.enable', 'ENABLED'),
  GetKeyVersion: operation({
    permission: 'keyVersions.get',
    target: ofName,
    resource: ({ name }: Named<KeyVersionName>) => formatKeyVersionName(name, name.version),
    handle: ({ keys }, call, { name }) => keys.getVersion(call, name),
  }),
  DisableKeyVersion: setKeyVersionState('keyVersions.disable', 'DISABLED'),
  EnableKeyVersion: setKeyVersionState('keyVersions.enable', 'ENABLED'),
  ScheduleKeyVersionDestruction: operation({
    isSensitive: true,
    permission: 'keyVersions.destroy',
    target: ofName,
    resource: ({ name }: NamedDestruction<KeyVersionName>) =>
      formatKeyVersionName(name, name.version),
    handle: ({ destruction }, call, { name, ...request }) =>
      destruction.scheduleVersion(call, name, request),
    preview: ({ destruction }, call, { name, ...request }) =>
      previewDestruction(request, (looking) => destruction.scheduleVersion(call, name, looking)),
  }),
  RestoreKeyVersion: operation({
    permission: 'keyVersions.restore',
    target: ofName,
    resource: ({ name }: NamedChange<KeyVersionName>) => formatKeyVersionName(name, name.version),
    handle: ({ destruction }, call, { name, etag }) => destruction.restoreVersion(call, name, etag),
  }),
  ScheduleKeyDestruction: operation({
    isSensitive: true,
    permission: 'keys.destroy',
    target: ofName,
    resource: ({ name }: NamedDestruction<KeyName>) => formatKeyName(name),
    handle: ({ destruction }, call, { name, ...request }) =>
      destruction.scheduleKey(call, name, request),
    preview: ({ destruction }, call, { name, ...request }) =>
      previewDestruction(request, (looking) => destruction.scheduleKey(call, name, looking)),
  }),
  RestoreKey: operation({
    permission: 'keys.restore',
    target: ofName,
    resource: ({ name }: NamedChange<KeyName>) => formatKeyName(name),
    handle: ({ destruction }, call, { name, etag }) => destruction.restoreKey(call, name, etag),
  }),
};
