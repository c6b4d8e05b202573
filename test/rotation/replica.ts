/**
 * The service's parts put together in this process, as `src/commands/composition.ts` does: replicas
 * without a port.
 *
 * Owns which modules they are made of: the sources', or a copy of them with a mistake in it. Knows
 * no test.
 */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type AgentStarter, childAgents } from '../../src/hsm/agent-starter.ts';
import { HsmAgents } from '../../src/hsm/agents.ts';
import type { TokenProfile } from '../../src/hsm/token-profile.ts';
import type { EnvironmentId } from '../../src/ids.ts';
import type { TokenKeySeals } from '../../src/keyring/hsm-token/token-key-seals.ts';
import {
  type TokenObjects,
  type TokenObjectsParts,
  tokenObjectsOf,
} from '../../src/keyring/hsm-token/token-objects.ts';
import type { Keyring, KeyringParts } from '../../src/keyring/keyring.ts';
import type { Reconciler } from '../../src/keyring/reconciler.ts';
import type { EnvironmentRecord } from '../../src/store/environment.ts';
import type { Store } from '../../src/store/store.ts';
import { RELEASE } from '../store/database.ts';
import { NO_ALERTS } from '../support/alerts.ts';
import type { Environment } from '../support/kit.ts';

const ROOT = join(import.meta.dirname, '..', '..');
/** So small that a handful of data keys makes several ranges, batches and calls. */
export const SIZES = { range: 3, batch: 2, operation: 2 };
const CALL_TIMEOUT_MS = 30_000;
const NO_QUOTAS = {
  callsPerSecond: Number.POSITIVE_INFINITY,
  keys: Number.POSITIVE_INFINITY,
  storedDataKeys: Number.POSITIVE_INFINITY,
};

/** What replicas are made of. */
export interface Modules {
  readonly store: typeof import('../../src/store/store.ts');
  readonly cache: typeof import('../../src/keyring/keys/key-cache.ts');
  readonly maintenanceSeal: typeof import('../../src/keyring/seals/maintenance-seal.ts');
  readonly reseal: typeof import('../../src/keyring/seals/reseal.ts');
  readonly canaries: typeof import('../../src/keyring/canaries/canaries.ts');
  readonly states: typeof import('../../src/keyring/keys/key-states.ts');
  readonly tenantSeals: typeof import('../../src/keyring/keys/tenant-seals.ts');
  readonly usage: typeof import('../../src/keyring/keys/usage.ts');
  readonly quotas: typeof import('../../src/keyring/tenants/quotas.ts');
  readonly keyring: typeof import('../../src/keyring/keyring.ts');
  readonly tokenKeySeals: typeof import('../../src/keyring/hsm-token/token-key-seals.ts');
  readonly tokenObjects: typeof import('../../src/keyring/hsm-token/token-objects.ts');
  readonly reconciler: typeof import('../../src/keyring/reconciler.ts');
  readonly errors: typeof import('../../src/errors.ts');
}

/** The modules of the repository, or of a copy of it. */
export async function loadModules(root = ROOT): Promise<Modules> {
  const load = (path: string) => import(pathToFileURL(join(root, 'src', path)).href);
  return {
    store: await load('store/store.ts'),
    cache: await load('keyring/keys/key-cache.ts'),
    maintenanceSeal: await load('keyring/seals/maintenance-seal.ts'),
    reseal: await load('keyring/seals/reseal.ts'),
    canaries: await load('keyring/canaries/canaries.ts'),
    states: await load('keyring/keys/key-states.ts'),
    tenantSeals: await load('keyring/keys/tenant-seals.ts'),
    usage: await load('keyring/keys/usage.ts'),
    quotas: await load('keyring/tenants/quotas.ts'),
    keyring: await load('keyring/keyring.ts'),
    tokenKeySeals: await load('keyring/hsm-token/token-key-seals.ts'),
    tokenObjects: await load('keyring/hsm-token/token-objects.ts'),
    reconciler: await load('keyring/reconciler.ts'),
    errors: await load('errors.ts'),
  };
}

/** A replica, without a memory of earlier ones. */
export interface Replica {
  readonly keyring: Keyring;
  readonly reconciler: Reconciler;
  readonly tokenKeySeals: TokenKeySeals;
  readonly tokenObjects: TokenObjects;
  /** What the reconciler has warned of, and what it could not hear. */
  readonly warnings: readonly string[];
  /** Adds to those. */
  readonly warn: (
    fields: { readonly err?: unknown; readonly resource?: string },
    message: string,
  ) => void;
}

/** What a replica stands on; all of it outlives it. */
export interface Ground {
  readonly modules: Modules;
  readonly store: Store;
  /** No other replica that runs has them. */
  readonly agents: HsmAgents;
  /** As read at its start. */
  readonly environment: EnvironmentRecord;
  readonly makeTokenKey: KeyringParts['makeTokenKey'];
}

/** Puts a replica together: one worker, all of the time. */
export function newReplica({ modules, store, agents, environment, makeTokenKey }: Ground): Replica {
  const { systemTenantId } = environment;
  const tokens: TokenObjectsParts['tokens'] = {
    agents,
    hold: (recorded) => agents.hold(tokenObjectsOf(recorded)),
  };
  const alerts = NO_ALERTS;
  const tokenKeySeals = new modules.tokenKeySeals.TokenKeySeals({ agents, alerts });
  const tokenObjects = new modules.tokenObjects.TokenObjects({
    store,
    tokens,
    seals: tokenKeySeals,
    describe: () => ({ ...{ name: '', release: '', agents: 1, agentsReady: 1 }, problems: [] }),
    systemTenantId,
  });
  const sealing = { store, agents, sealKeys: tokenObjects, alerts };
  const states = new modules.states.KeyStates(sealing);
  const tenantSeals = new modules.tenantSeals.TenantSeals(sealing);
  const cache = new modules.cache.KeyCache({
    store,
    states,
    tenantSeals,
    limit: 100,
    onForget: () => {},
    isFresh: () => true,
  });
  const keyring = modules.keyring.createKeyring({
    store,
    agents,
    cache,
    states,
    tenantSeals,
    canaries: new modules.canaries.Canaries({
      ...{ store, agents, cache, systemTenantId, alerts },
      maxStalenessMs: 1_500,
      log: { warn: () => {} },
    }),
    usage: new modules.usage.UsageRecorder(store),
    quotas: new modules.quotas.TenantQuotas({
      defaults: NO_QUOTAS,
      cache,
      replicas: () => 1,
      limit: 100,
    }),
    tokenKeySeals,
    tokenObjects,
    makeTokenKey,
    systemTenantId,
    shortestRotationPeriodSeconds: 10,
    sealedRecords: [
      modules.reseal.TENANTS,
      modules.reseal.KEY_STATES,
      modules.maintenanceSeal.MAINTENANCE,
    ],
    rewrap: { share: 1, workers: 1, sizes: SIZES },
    wake: () => {},
    alerts,
  });
  const warnings: string[] = [];
  const warn: Replica['warn'] = ({ err, resource }, message) => {
    const cause = err instanceof Error && err.cause !== undefined ? ` (${err.cause})` : '';
    warnings.push(`${resource ?? ''} ${message}: ${err}${cause}`);
  };
  const reconciler = new modules.reconciler.Reconciler({
    store,
    keyring,
    log: { info: () => {}, warn },
    alerts,
  });
  return { keyring, reconciler, tokenKeySeals, tokenObjects, warnings, warn };
}

/**
 * As a replica does that has heard of changes to token objects: looks for them, and says that it
 * runs and what it holds.
 */
export async function hear({ tokenObjects, warn }: Replica): Promise<void> {
  await tokenObjects
    .refresh()
    .catch((err: unknown) => warn({ err }, 'cannot look for token objects'));
}

/**
 * Works as a tick makes a replica work: pass after pass, until there is nothing more. Before each,
 * it and the others hear of what has changed.
 */
export async function tick(replica: Replica, others: readonly Replica[] = []): Promise<void> {
  let more = true;
  while (more) {
    for (const each of [...others, replica]) await hear(each);
    more = await replica.reconciler.pass();
  }
}

/** Opens a store through that URL. */
export function openStore({ store }: Modules, url: string): Promise<Store> {
  return store.Store.open({ url, poolSize: 4, waitMs: 300, release: RELEASE, onError: () => {} });
}

/** How an environment's token is spoken to, and as whose. */
export function tokenSettings({
  environmentId,
  tokenProfile,
}: Pick<EnvironmentRecord, 'environmentId' | 'tokenProfile'>): {
  readonly environmentId: EnvironmentId;
  readonly profile: TokenProfile;
} {
  return { environmentId, profile: tokenProfile as TokenProfile };
}

/** What starts agents on an environment's token. */
export function agentsOn({ token, variables }: Environment): AgentStarter {
  const named = (variables['KEYWARD_HSM_ENVIRONMENT'] ?? '').split(',');
  return childAgents(
    { module: token.modulePath, token: token.label, pinFile: token.pinFile, waivers: [] },
    Object.fromEntries(named.map((name) => [name, variables[name] ?? ''])),
  );
}

/** Starts an agent for the environment, as those of one replica. */
export async function startAgents(
  kit: Environment,
  environment: EnvironmentRecord,
): Promise<HsmAgents> {
  const agents = new HsmAgents({
    settings: {
      ...tokenSettings(environment),
      objects: tokenObjectsOf(environment.tokenObjects),
      keyCacheSize: 200,
    },
    count: 1,
    callTimeoutMs: CALL_TIMEOUT_MS,
    maxCalls: 1_000,
    maxBytes: 1 << 24,
    starter: agentsOn(kit),
    log: { info() {}, warn() {}, error() {} },
    alerts: NO_ALERTS,
  });
  await agents.start().catch(async (error: unknown) => {
    await agents.stop();
    throw error;
  });
  return agents;
}
