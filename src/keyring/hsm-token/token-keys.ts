/**
 * Root keys and the seal key: replaced by request, step by step, and looked at.
 *
 * A replacement is recorded (CREATING), made in the token by an agent of its own (CREATED), and
 * made current when every agent of every replica holds it, in one transaction with its audit entry
 * and the job that brings key versions under it. Invariants: each step is a row's change from the
 * state before, so that it is done once, by whichever replica; a key whose making was cut off is
 * never used, and another is made in its place under an id of its own: two makers never make one
 * id; and each step is one of a set that verifies, whose seal follows. Destroying is an operator's
 * command (`token-destruction.ts`). Knows no gRPC and no PKCS#11.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { type Call, millisecondsLeft, type Reference, SELF, type Warrant } from '../../call.ts';
import { KeywardError } from '../../errors.ts';
import type { TokenObject } from '../../hsm/token-profile.ts';
import type { Agents } from '../../hsm/token-router.ts';
import { type AnyId, newId, type TenantId } from '../../ids.ts';
import {
  formatScope,
  formatTenantName,
  formatTokenKeyName,
  SYSTEM_TENANT,
  type TenantName,
  type TokenKeyName,
} from '../../names.ts';
import type { Changed, MutationTx } from '../../store/core/transaction.ts';
import type { TokenKeysTx } from '../../store/hsm-token/token-key-draft.ts';
import { changeTokenKeys } from '../../store/hsm-token/token-key-set.ts';
import {
  activateTokenObject,
  countUnderTokenKeys,
  type DueTokenKey,
  insertTokenObject,
  lockForActivation,
  moveTokenObject,
  type TokenObjectRecord,
  type UnderTokenKey,
} from '../../store/hsm-token/token-objects.ts';
import {
  findLatestJob,
  insertJob,
  newJobId,
  supersedeVersionJobs,
} from '../../store/lifecycle/rewrap-jobs.ts';
import type { KeptAnswer, Mutation, Store } from '../../store/store.ts';
import type { TenantRecord } from '../../store/tenants/tenants.ts';
import type { KeyCache } from '../keys/key-cache.ts';
import { ownCall } from '../own-calls.ts';
import type { TokenKeySeals } from './token-key-seals.ts';
import type { TokenObjects } from './token-objects.ts';

/** Within the time after which an attempt is another's to take up. */
const CREATE_MS = 60_000;
const STEP_MS = 10_000;
/** How often it is looked whether a new key is current. */
const LOOK_MS = 100;
/** The answer goes out so long before the caller's deadline. */
const ANSWER_MS = 1_000;

/** Why a step that was due isn't any more: another replica took it, or the tenant is shredded. */
const OVERTAKEN = ['CONFLICT', 'TOKEN_KEY_ROTATION_UNDER_WAY', 'RESOURCE_NOT_FOUND'] as const;

/** The roles that can be replaced. */
export type ReplaceableRole = 'root' | 'seal';

/** A root or seal key, and how much is under it. */
export interface UsedTokenKey extends UnderTokenKey {
  readonly record: TokenObjectRecord;
}

const NOTHING: UnderTokenKey = { keyVersions: 0, sealedRecords: 0 };

/** Which key, of whom. */
type TokenKey = Pick<TokenObjectRecord, 'tenantId' | 'tenant' | 'objectId'> & {
  readonly role: ReplaceableRole;
};

/** What {@link TokenKeys} stands on. */
export interface TokenKeysParts {
  readonly store: Store;
  readonly cache: KeyCache;
  /** The reserved tenant, whose audit entries say what is done for the whole service. */
  readonly systemTenantId: TenantId;
  /** The token's objects, as this replica knows them. */
  readonly tokenObjects: Pick<TokenObjects, 'refresh' | 'list'>;
  readonly tokenKeySeals: Pick<TokenKeySeals, 'sealer'>;
  /**
   * Makes a recorded root or seal key in the token. Rejects when it wasn't made, or that isn't
   * known.
   */
  readonly makeTokenKey: (key: TokenObject, warrant: Warrant | undefined) => Promise<void>;
  readonly agents: Pick<Agents, 'rule'>;
  /** Tells the reconciler that there is something to do. */
  readonly wake: () => void;
}

/** Replaces root keys and the seal key step by step, and lists them. */
export class TokenKeys {
  readonly #parts: TokenKeysParts;

  constructor(parts: TokenKeysParts) {
    this.#parts = parts;
  }

  /**
   * Replaces the current root key of the tenant (`system`: the one that tenants share), or the seal
   * key. Returns when the new one is current, or shortly before the call's deadline. Throws
   * RESOURCE_NOT_FOUND, TENANT_SHARES_ROOT_KEY, TOKEN_KEY_ROTATION_UNDER_WAY, HSM_UNAVAILABLE,
   * AGENT_RULE_NOT_MET.
   */
  async rotate(call: Call, parent: TenantName, role: ReplaceableRole): Promise<UsedTokenKey> {
    const { cache } = this.#parts;
    const { tenantId, dedicatedRootKey } = await cache.tenant(parent.tenant);
    if (parent.tenant !== SYSTEM_TENANT && !dedicatedRootKey)
      throw new KeywardError('TENANT_SHARES_ROOT_KEY');
    const key = { tenantId, tenant: parent.tenant, objectId: newKeyId(call), role };
    await this.#change(
      call,
      key,
      async (tx) => {
        await insertTokenObject(tx, { ...key, caller: call.caller }, 'next');
        tx.changed(tokenKeyChanged(key, 'CREATING'));
      },
      () => ({ reference: { objectId: key.objectId } }),
    );
    await this.create(key, call.warrant);
    return this.rotateAgain(call, key);
  }

  /**
   * Waits for the key of a rotation that was begun, as {@link TokenKeys.rotate} does, and returns
   * it as it is then.
   */
  async rotateAgain(call: Call, { objectId }: Reference): Promise<UsedTokenKey> {
    const isIt = (each: TokenObjectRecord) => each.objectId === objectId;
    await this.#whenCurrent(call, isIt);
    const [used] = await this.#withUse(call, isIt);
    if (used === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
    return used;
  }

  /**
   * Gives a new tenant its first root key; returns when that is current, or shortly before the
   * call's deadline. What fails of it, the reconciler does.
   */
  async add(
    call: Call,
    { tenantId, name: tenant }: Pick<TenantRecord, 'tenantId' | 'name'>,
  ): Promise<void> {
    const step = { due: 'add', tenantId, tenant } as const;
    await this.#advanceOne(step, call.warrant).catch(() => {});
    await this.#whenCurrent(call, (each) => each.tenantId === tenantId && each.role === 'root');
  }

  /** Throws RESOURCE_NOT_FOUND. */
  async get(call: Call, name: TokenKeyName): Promise<UsedTokenKey> {
    const { tenantId } = await this.#parts.cache.tenant(name.tenant);
    const [found] = await this.#withUse(
      call,
      (each) => each.tenantId === tenantId && each.objectId === name.tokenKey,
    );
    if (found === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
    return found;
  }

  /**
   * A tenant's root keys, for `system` with the seal keys, newest first. Throws RESOURCE_NOT_FOUND.
   */
  async list(call: Call, parent: TenantName): Promise<UsedTokenKey[]> {
    const { tenantId } = await this.#parts.cache.tenant(parent.tenant);
    return (await this.#withUse(call, (each) => each.tenantId === tenantId)).reverse();
  }

  /**
   * Makes a recorded key in the token, and sees to it that it becomes current. Throws
   * HSM_UNAVAILABLE and AGENT_RULE_NOT_MET, then it is abandoned.
   */
  async create(key: TokenKey, warrant?: Warrant): Promise<void> {
    const { makeTokenKey, wake } = this.#parts;
    const call = ownCall('CreateTokenKey', CREATE_MS);
    // Whoever records CREATED or ABANDONED first is right: the other finds no CREATING.
    const record = (to: 'CREATED' | 'ABANDONED') =>
      this.#change(call, key, async (tx) => {
        if (!(await moveTokenObject(tx, key.objectId, { from: 'CREATING', to })))
          throw new KeywardError('CONFLICT');
        tx.changed(tokenKeyChanged(key, to, 'CREATING'));
      });
    try {
      await makeTokenKey(key, warrant);
    } catch (cause) {
      await record('ABANDONED').catch(ignoreConflict);
      if (isReason(cause, 'AGENT_RULE_NOT_MET')) throw cause;
      throw new KeywardError('HSM_UNAVAILABLE', { cause });
    }
    await record('CREATED').catch(ignoreConflict);
    await this.#parts.tokenObjects.refresh().catch(() => {});
    wake();
  }

  /**
   * Takes each due step; `onError` hears of those that failed, which stay due. Returns which keys
   * it made, or made current.
   */
  async advance(
    due: readonly DueTokenKey[],
    onError: (error: unknown, resource: string) => void,
  ): Promise<{ readonly made: readonly string[]; readonly activated: readonly string[] }> {
    const made: string[] = [];
    const activated: string[] = [];
    for (const step of due) {
      const resource =
        step.due === 'add' ? formatTenantName(step) : formatTokenKeyName(step, step.objectId);
      await this.#advanceOne(step).then(
        (done) => {
          if (done) (step.due === 'activate' ? activated : made).push(resource);
        },
        (error: unknown) => onError(error, resource),
      );
    }
    return { made, activated };
  }

  /** Returns whether it was this that took the step. */
  async #advanceOne(step: DueTokenKey, warrant?: Warrant): Promise<boolean> {
    if (step.due === 'activate') return this.#activate(step);
    if (warrant === undefined && this.#wantApproval) return this.#leave(step);
    const { tenantId, tenant } = step;
    const role = step.due === 'create' ? (step.role as ReplaceableRole) : 'root';
    const key: TokenKey = { tenantId, tenant, objectId: newKeyId({ warrant }), role };
    const started = await this.#change(ownCall('CreateTokenKey', STEP_MS), key, async (tx) => {
      // The attempt that was cut off may yet make its object: another id, so that there are never
      // two of one.
      if (step.due === 'create') await this.#giveUp(tx, step.objectId);
      if (step.due === 'create')
        await insertTokenObject(tx, { ...key, caller: step.caller }, 'next');
      else await insertTokenObject(tx, { ...key, caller: SELF }, 'first');
      const givenUp = step.due === 'create' ? { insteadOf: step.objectId } : {};
      tx.changed(tokenKeyChanged({ ...key, ...givenUp }, 'CREATING'));
      return true;
    }).catch((error: unknown) => {
      if (OVERTAKEN.some((reason) => isReason(error, reason))) return false;
      throw error;
    });
    if (started) await this.create(key, warrant);
    return started;
  }

  /** Whether agents make no key that people have not approved. */
  get #wantApproval(): boolean {
    return (this.#parts.agents.rule?.approvals.tokenKeys ?? 0) > 0;
  }

  /** Gives up an attempt that was cut off, since what people have approved was for it alone. */
  async #leave(step: Exclude<DueTokenKey, { readonly due: 'activate' }>): Promise<false> {
    if (step.due === 'create')
      await this.#change(ownCall('CreateTokenKey', STEP_MS), step, async (tx) => {
        await this.#giveUp(tx, step.objectId);
        tx.changed(tokenKeyChanged(step, 'ABANDONED', 'CREATING'));
      }).catch(ignoreConflict);
    return false;
  }

  async #giveUp(tx: TokenKeysTx, objectId: AnyId): Promise<void> {
    if (!(await moveTokenObject(tx, objectId, { from: 'CREATING', to: 'ABANDONED' })))
      throw new KeywardError('CONFLICT');
  }

  /** Makes a key current, if every replica holds it by now. */
  async #activate({
    tenantId,
    tenant,
    objectId,
    role,
    caller,
  }: TokenObjectRecord): Promise<boolean> {
    const { systemTenantId } = this.#parts;
    const isShared = tenantId === systemTenantId;
    const scope = formatScope(isShared ? {} : { tenant });
    try {
      await this.#change(
        ownCall('ActivateTokenKey', STEP_MS),
        { tenantId, tenant, objectId },
        async (tx) => {
          const key = { tenantId, objectId, role };
          if (!(await lockForActivation(tx, key))) throw new KeywardError('CONFLICT');
          const jobId = await newJobId(tx);
          await findLatestJob(tx, tenantId, scope, 'key-versions');
          await supersedeVersionJobs(tx, tenantId, scope);
          await insertJob(
            tx,
            { caller },
            {
              tenantId,
              jobId,
              kind: 'key-versions',
              scope,
              scopeTenantId: isShared ? null : tenantId,
              scopeKeyId: null,
              cause: 'request',
            },
          );
          await activateTokenObject(tx, key, jobId);
          tx.changed(tokenKeyChanged(key, 'CURRENT', 'CREATED'));
        },
      );
    } catch (error) {
      if (isReason(error, 'CONFLICT')) return false;
      throw error;
    }
    await this.#parts.tokenObjects.refresh().catch(() => {});
    return true;
  }

  /** One change of token keys, all of which are verified before, and sealed after. */
  #change<T>(
    call: Call,
    key: Pick<TokenKey, 'tenantId' | 'tenant' | 'objectId'>,
    work: (tx: MutationTx & TokenKeysTx) => Promise<T>,
    keptOf?: (result: T) => KeptAnswer,
  ): Promise<T> {
    const { store, tokenKeySeals } = this.#parts;
    return store.mutate(
      call,
      mutationOf(key),
      (tx) => changeTokenKeys(tx, tokenKeySeals.sealer(call), work),
      keptOf,
    );
  }

  /** Waits while one of them is on its way, until shortly before the call's deadline. */
  async #whenCurrent(call: Call, fits: (record: TokenObjectRecord) => boolean): Promise<void> {
    const { tokenObjects, wake } = this.#parts;
    const isOnItsWay = ({ state, tokenState }: TokenObjectRecord) =>
      tokenState === 'CURRENT' && (state === 'CREATING' || state === 'CREATED');
    while (millisecondsLeft(call.deadline) > ANSWER_MS) {
      if (!(await tokenObjects.list(call)).filter(fits).some(isOnItsWay)) return;
      wake();
      await delay(LOOK_MS);
    }
  }

  async #withUse(
    call: Pick<Call, 'deadline'>,
    fits: (record: TokenObjectRecord) => boolean,
  ): Promise<UsedTokenKey[]> {
    const { store, tokenObjects } = this.#parts;
    const records = (await tokenObjects.list(call)).filter(
      (each) => (each.role === 'root' || each.role === 'seal') && fits(each),
    );
    if (records.length === 0) return [];
    const counts = await countUnderTokenKeys(store, call);
    return records.map((record) => ({ ...(counts.get(record.objectId) ?? NOTHING), record }));
  }
}

/** Returns a key's UUID; an approval is for the one of its own operation. */
function newKeyId({ warrant }: { readonly warrant?: Warrant | undefined }): AnyId {
  return warrant?.operationId ?? newId<AnyId>();
}

/** Every replica hears of each step: agents that start must know what the token has. */
function mutationOf({
  tenantId,
  tenant,
  objectId,
}: Pick<TokenObjectRecord, 'tenantId' | 'tenant' | 'objectId'>): Mutation {
  return {
    tenantId,
    resource: formatTokenKeyName({ tenant }, objectId),
    change: { kind: 'token', subjectId: objectId },
  };
}

/** What an audit entry says of a step; the key that a new current one replaces is retired by it. */
function tokenKeyChanged(
  {
    objectId,
    role,
    insteadOf,
  }: Pick<TokenObjectRecord, 'objectId' | 'role'> & { readonly insteadOf?: AnyId },
  state: TokenObjectRecord['state'],
  before?: TokenObjectRecord['state'],
): Changed {
  const key = { objectId, role };
  return {
    kind: 'tokenKey',
    before: before && { ...key, state: before },
    after: { ...key, state, insteadOf },
  };
}

function isReason(error: unknown, reason: KeywardError['reason']): boolean {
  return error instanceof KeywardError && error.reason === reason;
}

function ignoreConflict(error: unknown): void {
  if (!isReason(error, 'CONFLICT')) throw error;
}
