/**
 * Rights for tests: opens an environment's database and token in this process, as `serve` does, and
 * gives roles.
 *
 * So that a test's callers may do what it is about without the test's saying so; how rights are
 * given over the wire is tested where rights are. Knows no test.
 */
import { AccessAdministration } from '../../src/access/administration.ts';
import { PERMISSIONS } from '../../src/access/permissions.ts';
import { Policies } from '../../src/access/policies.ts';
import { identityOf, newReplicaId } from '../../src/audit/identity.ts';
import { monotonicNow } from '../../src/call.ts';
import { tokenSettings } from '../../src/commands/agents-opening.ts';
import { read, TOKEN_SETTINGS } from '../../src/config.ts';
import { childAgents } from '../../src/hsm/agent-starter.ts';
import { HsmAgents } from '../../src/hsm/agents.ts';
import type { TokenProfile } from '../../src/hsm/token-profile.ts';
import { newId, type SealKeyId, type TenantId } from '../../src/ids.ts';
import { tokenObjectsOf } from '../../src/keyring/hsm-token/token-objects.ts';
import { TenantSeals } from '../../src/keyring/keys/tenant-seals.ts';
import { SYSTEM_TENANT } from '../../src/names.ts';
import { readEnvironment } from '../../src/store/environment.ts';
import { Store } from '../../src/store/store.ts';
import {
  findTenant,
  findTenantByName,
  type StoredTenant,
  type TenantRecord,
} from '../../src/store/tenants/tenants.ts';
import { RELEASE } from '../store/database.ts';
import { NO_ALERTS } from './alerts.ts';

const PATIENCE_MS = 120_000;
const EVERYTHING = 'everything';
const QUIET = { info() {}, warn() {}, error() {} };

/**
 * Gives callers, by name, every permission in every tenant of the environment that the server's
 * settings mean.
 */
export async function grantEverything(
  variables: Readonly<Record<string, string>>,
  callers: readonly string[],
): Promise<void> {
  await withAdministration(variables, async (administration, system) => {
    const role = `tenants/${SYSTEM_TENANT}/roles/${EVERYTHING}`;
    const { roles } = await administration.policyOf(system);
    if (!roles.some(({ roleId }) => roleId === EVERYTHING)) {
      const permissions = Object.keys(PERMISSIONS);
      const role = { roleId: EVERYTHING, permissions, description: '' };
      await administration.createRole(setUpCall(), system, role, () => {});
    }
    for (const name of callers) {
      await administration.createBinding(
        setUpCall(),
        system,
        {
          bindingId: `b${newId().replaceAll('-', '')}`,
          member: { kind: 'principal', name },
          role,
          keyPattern: '',
          allTenants: true,
          expiresAt: null,
          conditions: [],
          overridesSeparation: true,
          description: '',
        },
        () => {},
      );
    }
  });
}

/** Runs `work` with what changes policies. */
export async function withAdministration<T>(
  variables: Readonly<Record<string, string>>,
  work: (administration: AccessAdministration, system: TenantRecord) => Promise<T>,
): Promise<T> {
  const url = variables['DATABASE_URL'] ?? '';
  const store = await Store.open({
    url,
    poolSize: 2,
    waitMs: 300,
    release: RELEASE,
    onError: () => {},
  });
  try {
    const environment = await readEnvironment(store);
    const agents = openAgents(variables, environment);
    try {
      await agents.start();
      store.streams.use(await identityOf(agents, newReplicaId()));
      const policies = new Policies({
        store,
        agents,
        isFresh: () => true,
        limit: 100,
        alerts: NO_ALERTS,
      });
      const sealKey = environment.tokenObjects.find(
        ({ role, state }) => role === 'seal' && state === 'CURRENT',
      );
      const currentSealKey = () => sealKey?.objectId as unknown as SealKeyId;
      const sealKeys = { currentSealKey, readCurrentSealKey: async () => currentSealKey() };
      const seals = new TenantSeals({ store, agents, sealKeys, alerts: NO_ALERTS });
      const call = { deadline: monotonicNow() + PATIENCE_MS };
      const verified = async (found: Promise<StoredTenant | undefined>) => {
        const stored = await found;
        if (stored === undefined) throw new Error('there is no such tenant');
        return seals.verifyOne(stored, { readAfter: seals.now(), ...call });
      };
      const tenantOf = (name: string) => verified(findTenantByName(store, call, name));
      const tenantById = (id: TenantId) => verified(findTenant(store, call, id));
      const system = await tenantOf(SYSTEM_TENANT);
      const parts = { store, agents, policies, tenantOf, tenantById, currentSealKey };
      return await work(new AccessAdministration(parts), system);
    } finally {
      await agents.stop();
    }
  } finally {
    await store.close();
  }
}

/** Agents on an environment’s token, not started. */
export function openAgents(
  variables: Readonly<Record<string, string>>,
  { environmentId, tokenProfile, tokenObjects }: Awaited<ReturnType<typeof readEnvironment>>,
): HsmAgents {
  const settings = read(TOKEN_SETTINGS, { ...variables });
  return new HsmAgents({
    starter: childAgents(
      tokenSettings(settings),
      Object.fromEntries(
        settings.KEYWARD_HSM_ENVIRONMENT.map((name) => [name, variables[name] ?? '']),
      ),
    ),
    settings: {
      environmentId,
      profile: tokenProfile as TokenProfile,
      objects: tokenObjectsOf(tokenObjects),
      keyCacheSize: 10,
    },
    count: 1,
    callTimeoutMs: PATIENCE_MS,
    maxCalls: 100,
    maxBytes: 1 << 20,
    log: QUIET,
    alerts: NO_ALERTS,
  });
}

function setUpCall() {
  return {
    id: newId(),
    method: 'test/SetUp',
    caller: 'test',
    deadline: monotonicNow() + PATIENCE_MS,
  };
}
