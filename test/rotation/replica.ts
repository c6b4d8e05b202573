/**
 * The service's parts put together in this process, as `src/main.ts` puts them together: replicas without a port.
 *
 * Owns which modules they are made of: the sources', or a copy of them with a mistake in it. Knows no test.
 */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { tokenVariables } from '../../softhsm/token.ts';
import { HsmAgents } from '../../src/hsm/agents.ts';
import type { ServeSettings } from '../../src/hsm/protocol.ts';
import type { TokenObject, TokenProfile } from '../../src/hsm/token-profile.ts';
import type { AnyId, RootKeyId, SealKeyId } from '../../src/ids.ts';
import type { Keyring, KeyringParts } from '../../src/keyring/keyring.ts';
import type { Reconciler } from '../../src/keyring/reconciler.ts';
import type { EnvironmentRecord } from '../../src/store/environment.ts';
import type { Store } from '../../src/store/store.ts';
import type { Environment } from '../kit.ts';
import { RELEASE } from '../store/database.ts';

const ROOT = join(import.meta.dirname, '..', '..');
/** So small that a handful of data keys makes several ranges, batches and calls. */
const SIZES = { range: 3, batch: 2, operation: 2 };
const CALL_TIMEOUT_MS = 30_000;

/** What replicas are made of. */
export interface Modules {
  readonly store: typeof import('../../src/store/store.ts');
  readonly cache: typeof import('../../src/keyring/key-cache.ts');
  readonly usage: typeof import('../../src/keyring/usage.ts');
  readonly keyring: typeof import('../../src/keyring/keyring.ts');
  readonly reconciler: typeof import('../../src/keyring/reconciler.ts');
  readonly errors: typeof import('../../src/errors.ts');
}

/** The modules of the repository, or of a copy of it. */
export async function loadModules(root = ROOT): Promise<Modules> {
  const load = (path: string) => import(pathToFileURL(join(root, 'src', path)).href);
  const [store, cache, usage, keyring, reconciler, errors] = await Promise.all([
    load('store/store.ts'),
    load('keyring/key-cache.ts'),
    load('keyring/usage.ts'),
    load('keyring/keyring.ts'),
    load('keyring/reconciler.ts'),
    load('errors.ts'),
  ]);
  return { store, cache, usage, keyring, reconciler, errors };
}

/** A replica, without a memory of earlier ones. */
export interface Replica {
  readonly keyring: Keyring;
  readonly reconciler: Reconciler;
  /** What the reconciler has warned of. */
  readonly warnings: readonly string[];
}

/** What a replica stands on; the store and the agents outlive it. */
export interface Ground {
  readonly modules: Modules;
  readonly store: Store;
  readonly agents: HsmAgents;
  readonly environment: EnvironmentRecord;
}

/** Puts a replica together: one worker, all of the time. */
export function newReplica({ modules, store, agents, environment }: Ground): Replica {
  const keyring = modules.keyring.createKeyring({
    store,
    agents,
    cache: new modules.cache.KeyCache(store, 100, () => true),
    usage: new modules.usage.UsageRecorder(store),
    current: currentKeys(environment),
    systemTenantId: environment.systemTenantId,
    shortestRotationPeriodSeconds: 10,
    rewrap: { share: 1, workers: 1, sizes: SIZES },
    wake: () => {},
  });
  const warnings: string[] = [];
  const warn = ({ err, resource }: { err?: unknown; resource?: string }, message: string) => {
    const cause = err instanceof Error && err.cause !== undefined ? ` (${err.cause})` : '';
    warnings.push(`${resource ?? ''} ${message}: ${err}${cause}`);
  };
  const log = { info: () => {}, warn };
  return { keyring, reconciler: new modules.reconciler.Reconciler({ store, keyring, log }), warnings };
}

/** Works as a tick makes a replica work: pass after pass, until there is nothing more. */
export async function tick({ reconciler }: Replica): Promise<void> {
  while (await reconciler.pass());
}

/** Opens a store through that URL. */
export function openStore({ store }: Modules, url: string): Promise<Store> {
  return store.Store.open({ url, poolSize: 4, release: RELEASE, onError: () => {} });
}

/** Starts agents for the environment. */
export async function startAgents(
  { token, variables }: Environment,
  { environmentId, tokenProfile, tokenObjects }: EnvironmentRecord,
): Promise<HsmAgents> {
  const settings: Omit<ServeSettings, 'despiteFailedTry'> = {
    module: token.modulePath,
    token: token.label,
    pinFile: token.pinFile,
    waivers: [],
    environmentId,
    profile: tokenProfile as TokenProfile,
    objects: tokenObjects.map(({ role, objectId }): TokenObject => ({ role, objectId: objectId as AnyId })),
    keyCacheSize: 200,
  };
  const named = (variables['KEYWARD_HSM_ENVIRONMENT'] ?? '').split(',');
  const agents = new HsmAgents({
    settings,
    count: 2,
    callTimeoutMs: CALL_TIMEOUT_MS,
    maxCalls: 1_000,
    maxBytes: 1 << 24,
    environment: Object.fromEntries(named.map((name) => [name, tokenVariables(token)[name] ?? ''])),
    log: { info() {}, warn() {}, error() {} },
  });
  await agents.start();
  return agents;
}

function currentKeys({ tokenObjects }: EnvironmentRecord): KeyringParts['current'] {
  const current = (role: string) => tokenObjects.find((each) => each.role === role && each.isCurrent);
  return {
    rootKeyId: current('root')?.objectId as RootKeyId,
    sealKeyId: current('seal')?.objectId as SealKeyId,
  };
}
