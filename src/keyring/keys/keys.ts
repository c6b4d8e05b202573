/**
 * Keys and their versions: made, looked at, described, switched off and on.
 *
 * Invariants: a key is inserted together with its first version, which its agent has proven, and
 * with the seal of its state; whatever changes a key is announced to all replicas in the same
 * transaction; what is answered of its state was verified; nothing brings back what is scheduled
 * for destruction but restoring it (`destruction.ts`). Rotation is in `rotation.ts`. Knows no gRPC
 * and no SQL.
 */
import type { Call } from '../../call.ts';
import { invalidField } from '../../errors.ts';
import type { Agents } from '../../hsm/token-router.ts';
import { type KeyId, newId } from '../../ids.ts';
import {
  formatKeyName,
  formatKeyVersionName,
  type KeyName,
  type KeyVersionName,
  type TenantName,
} from '../../names.ts';
import { keyChanged } from '../../store/keys/key-content.ts';
import type { DerivationEpochRecord } from '../../store/keys/key-states.ts';
import {
  type KeyVersionRecord,
  listVersions,
  setVersionState,
} from '../../store/keys/key-versions.ts';
import {
  insertKey,
  type KeyChanges,
  type KeyRecord,
  type KeySettings,
  listKeys,
  newKeyState,
  timeOfFirstRotation,
  updateKey,
} from '../../store/keys/keys.ts';
import type { StateTx } from '../../store/keys/state-draft.ts';
import { findTotalUsage, findUsage, type UsageRecord } from '../../store/keys/usage.ts';
import type { Store } from '../../store/store.ts';
import { requireEtag } from '../own-calls.ts';
import { BY_NAME, BY_VERSION, type ListRequest, type Page, readPage } from '../pages.ts';
import type { KeyCache } from './key-cache.ts';
import { type KeyStates, readVerified } from './key-states.ts';
import { type CurrentKeySource, makeKeyVersion } from './key-versions.ts';
import {
  changeKey,
  expectKey,
  expectVersion,
  identify,
  keyMutation,
  requireKept,
} from './mutations.ts';
import { findEnabledTenant, type QuotaLimits } from './usable.ts';

const LONGEST_PERIOD_SECONDS = 10 * 366 * 86_400;
/** How long agents keep the key of an epoch, unless it is given. */
const EPOCH_SECONDS = 300;

/** What callers set of a key. */
export interface GivenKeySettings extends Omit<KeySettings, 'derivationEpoch'> {
  /** Null: it has no derivation epochs. */
  readonly epochMaxMessages: number | null;
  /** Null: as long as it is unless it is given. */
  readonly epochMaxAgeSeconds: number | null;
}

/** A version and how it was used. */
export interface UsedKeyVersion {
  readonly version: KeyVersionRecord;
  readonly usage: UsageRecord;
}

/** What {@link Keys} stands on. */
export interface KeysParts {
  readonly store: Store;
  readonly cache: KeyCache;
  readonly states: KeyStates;
  readonly agents: Agents;
  /** The token's objects, as this replica knows them. */
  readonly tokenObjects: CurrentKeySource;
  readonly quotas: QuotaLimits;
  /** The shortest rotation period that is taken. */
  readonly shortestRotationPeriodSeconds: number;
}

/** Creates, reads, updates, disables and enables keys and their versions. */
export class Keys {
  readonly #parts: KeysParts;

  constructor(parts: KeysParts) {
    this.#parts = parts;
  }

  /**
   * Creates a key with its version 1. Throws RESOURCE_NOT_FOUND for the tenant, RESOURCE_EXISTS for
   * the key, QUOTA_EXCEEDED.
   */
  async create(call: Call, name: KeyName, given: GivenKeySettings): Promise<KeyRecord> {
    const settings = { ...settingsOf(given), derivationEpoch: epochOf(given, null) };
    this.#checkSchedule(settings);
    if (settings.nextRotationAt !== null && settings.rotationPeriodSeconds === null)
      throw invalidField('next_rotation_time', 'must come with a rotation_period');
    const { store, cache, states, agents, tokenObjects, quotas } = this.#parts;
    const tenant = await findEnabledTenant(cache, name.tenant);
    const { tenantId } = tenant;
    const identity = { tenantId, keyId: newId<KeyId>() };
    const scheduled = { ...settings, nextRotationAt: await this.#firstRotation(call, settings) };
    return tokenObjects.withCurrent(tenantId, async (current) => {
      const version = await makeKeyVersion(agents, call, { ...identity, ...current }, 1);
      const key = { name: name.key, settings: scheduled, version };
      const [stateSeal] = await states.seal([newKeyState(key)], version.sealKeyId, call.deadline);
      if (stateSeal === undefined) throw new Error('an agent sealed nothing');
      return store.mutate(call, keyMutation(formatKeyName(name), identity), async (tx) => {
        const made = await insertKey(tx, { ...key, stateSeal }, quotas.of(tenant, 'keys'));
        tx.changed(keyChanged(undefined, made));
        return made;
      });
    });
  }

  /** Throws RESOURCE_NOT_FOUND, KEY_STATE_CORRUPT, HSM_UNAVAILABLE. */
  async get(name: KeyName): Promise<KeyRecord> {
    return (await this.#parts.cache.named(name)).record;
  }

  /**
   * A tenant's keys by name. One that doesn't verify fails the page. Throws KEY_STATE_CORRUPT,
   * HSM_UNAVAILABLE.
   */
  async list(call: Call, parent: TenantName, request: ListRequest): Promise<Page<KeyRecord>> {
    const { store, cache, states } = this.#parts;
    const { tenantId } = await cache.tenant(parent.tenant);
    const positions = { ...BY_NAME, bytesOf };
    return readPage(`keys ${parent.tenant}`, request, positions, async (page) => {
      const readAfter = states.now();
      const keys = await store.read(call, tenantId, (tx) => listKeys(tx, tenantId, page));
      const sealed = keys.map((key) => key.sealed);
      await states.verify(sealed, { readAfter, deadline: call.deadline });
      return keys;
    });
  }

  /**
   * Changes what is given of a key's description, labels, schedule and derivation epochs. Throws
   * RESOURCE_NOT_FOUND, ETAG_MISMATCH, DESTRUCTION_UNDER_WAY, and INVALID_FIELD for a schedule or
   * epochs that can't be.
   */
  update(
    call: Call,
    name: KeyName,
    etag: string,
    given: Partial<GivenKeySettings>,
  ): Promise<KeyRecord> {
    const changes = settingsOf(given);
    this.#checkSchedule(changes);
    return this.#change(call, name, etag, (tx, key) => {
      const { rotationPeriodSeconds = key.rotationPeriodSeconds, nextRotationAt } = changes;
      if (nextRotationAt != null && rotationPeriodSeconds === null)
        throw invalidField('next_rotation_time', 'must come with a rotation_period');
      if (nextRotationAt === null && rotationPeriodSeconds !== null)
        throw invalidField(
          'next_rotation_time',
          'must be given as long as there is a rotation_period',
        );
      const { derivationEpoch } = key.sealed;
      return updateKey(tx, key.tenantId, key.keyId, {
        ...changes,
        ...(changesEpoch(given) && { derivationEpoch: epochOf(given, derivationEpoch) }),
      });
    });
  }

  /**
   * Throws RESOURCE_NOT_FOUND, ETAG_MISMATCH, DESTRUCTION_UNDER_WAY. Setting the state that it has
   * changes nothing.
   */
  setState(
    call: Call,
    name: KeyName,
    etag: string,
    state: 'ENABLED' | 'DISABLED',
  ): Promise<KeyRecord> {
    return this.#change(call, name, etag, (tx, key) =>
      key.state === state
        ? Promise.resolve(key)
        : updateKey(tx, key.tenantId, key.keyId, { state }),
    );
  }

  /** One version and its use. Throws RESOURCE_NOT_FOUND, KEY_STATE_CORRUPT, HSM_UNAVAILABLE. */
  async getVersion(call: Call, name: KeyVersionName): Promise<UsedKeyVersion> {
    const identity = await identify(this.#parts.cache, call, name);
    const { tenantId, keyId } = identity;
    return readVerified(this.#parts, call, tenantId, async (tx) => {
      const key = await expectKey(tx, identity);
      const version = await expectVersion(tx, identity, name.version);
      const usage = await findTotalUsage(tx, tenantId, keyId, name.version);
      return { key, versions: [version], version, usage };
    });
  }

  /**
   * A key's versions and their use, newest first. Throws RESOURCE_NOT_FOUND, KEY_STATE_CORRUPT,
   * HSM_UNAVAILABLE.
   */
  async listVersions(
    call: Call,
    name: KeyName,
    request: ListRequest,
  ): Promise<Page<UsedKeyVersion>> {
    const identity = await identify(this.#parts.cache, call, name);
    const { tenantId, keyId } = identity;
    const positions = {
      ...BY_VERSION,
      positionOf: ({ version }: UsedKeyVersion) => BY_VERSION.positionOf(version),
    };
    return readPage(
      `versions ${formatKeyName(name)}`,
      request,
      positions,
      async ({ after, ...page }) => {
        const { versions, usageOf } = await readVerified(
          this.#parts,
          call,
          tenantId,
          async (tx) => {
            const before = after === undefined ? {} : { before: Number(after) };
            return {
              key: await expectKey(tx, identity),
              versions: await listVersions(tx, tenantId, keyId, { ...page, ...before }),
              usageOf: await findUsage(tx, tenantId, keyId),
            };
          },
        );
        return versions.map((version) => ({ version, usage: usageOf(version.version) }));
      },
    );
  }

  /**
   * Throws RESOURCE_NOT_FOUND, ETAG_MISMATCH, DESTRUCTION_UNDER_WAY. Setting the state that it has
   * changes nothing.
   */
  setVersionState(
    call: Call,
    name: KeyVersionName,
    etag: string,
    state: 'ENABLED' | 'DISABLED',
  ): Promise<KeyVersionRecord> {
    return changeKey(this.#parts, call, {
      name,
      resource: formatKeyVersionName(name, name.version),
      apply: async (tx, key, identity) => {
        const version = await expectVersion(tx, identity, name.version);
        requireEtag(etag, version.revision);
        requireKept(key);
        requireKept(version);
        return version.state === state ? version : setVersionState(tx, version, state);
      },
    });
  }

  /** One change to a key of which the etag is known. */
  #change(
    call: Call,
    name: KeyName,
    etag: string,
    apply: (tx: StateTx, key: KeyRecord) => Promise<KeyRecord>,
  ): Promise<KeyRecord> {
    return changeKey(this.#parts, call, {
      name,
      resource: formatKeyName(name),
      apply: (tx, key) => {
        requireEtag(etag, key.revision);
        requireKept(key);
        return apply(tx, key);
      },
    });
  }

  /** When a new key is first rotated; null: never. */
  async #firstRotation(
    call: Call,
    { rotationPeriodSeconds, nextRotationAt }: KeySettings,
  ): Promise<Date | null> {
    if (rotationPeriodSeconds === null || nextRotationAt !== null) return nextRotationAt;
    return timeOfFirstRotation(this.#parts.store, call, rotationPeriodSeconds);
  }

  #checkSchedule({
    rotationPeriodSeconds: period,
  }: Pick<KeyChanges, 'rotationPeriodSeconds'>): void {
    const shortest = this.#parts.shortestRotationPeriodSeconds;
    if (period == null || (period >= shortest && period <= LONGEST_PERIOD_SECONDS)) return;
    throw invalidField('rotation_period', `must be ${shortest} seconds to ten years`);
  }
}

/**
 * How many bytes a key takes of an answer at most: its text, an entry around each label, and all
 * that is of a bounded length.
 */
function bytesOf({ description, labels }: KeyRecord): number {
  const text = [description, ...Object.entries(labels).flat()];
  return text.reduce((bytes, each) => bytes + Buffer.byteLength(each) + 6, 1_024);
}

/** Returns what is given but for the epochs. */
function settingsOf<Given extends Partial<GivenKeySettings>>({
  epochMaxMessages: _,
  epochMaxAgeSeconds: __,
  ...settings
}: Given): Omit<Given, 'epochMaxMessages' | 'epochMaxAgeSeconds'> {
  return settings;
}

function changesEpoch({ epochMaxMessages, epochMaxAgeSeconds }: Partial<GivenKeySettings>) {
  return epochMaxMessages !== undefined || epochMaxAgeSeconds !== undefined;
}

/** Throws INVALID_FIELD for an age without messages. */
function epochOf(
  given: Partial<GivenKeySettings>,
  before: DerivationEpochRecord | null,
): DerivationEpochRecord | null {
  const { epochMaxMessages: maxMessages = before?.maxMessages ?? null, epochMaxAgeSeconds } = given;
  if (maxMessages === null) {
    if (epochMaxAgeSeconds != null)
      throw invalidField('epoch_max_age', 'must come with epoch_max_messages');
    return null;
  }
  const age = epochMaxAgeSeconds === undefined ? before?.maxAgeSeconds : epochMaxAgeSeconds;
  return { maxMessages, maxAgeSeconds: age ?? EPOCH_SECONDS };
}
