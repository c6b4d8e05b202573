/**
 * Many keys in little time: made by agents of this process's own, ten times as fast as by
 * CreateKey, and inserted in bulk.
 *
 * Each verifies as any other does, and has a schedule by which it isn't due for weeks. Knows the
 * database's tables.
 */
import type pg from 'pg';
import { monotonicNow } from '../src/call.ts';
import { read } from '../src/config.ts';
import { childAgents } from '../src/hsm/agent-starter.ts';
import { HsmAgents } from '../src/hsm/agents.ts';
import { ALGORITHM } from '../src/hsm/key-version.ts';
import type { ReplyOf } from '../src/hsm/protocol.ts';
import type { TokenProfile } from '../src/hsm/token-profile.ts';
import { type KeyId, newId, type RootKeyId, type SealKeyId, type TenantId } from '../src/ids.ts';
import { tokenObjectsOf } from '../src/keyring/hsm-token/token-objects.ts';
import { withOwnerConnection } from '../src/store/core/owner.ts';
import { type EnvironmentRecord, readEnvironmentAsOwner } from '../src/store/environment.ts';
import type { Environment } from './environment.ts';
import { TENANT } from './workloads.ts';

const AGENTS = 2;
/** Inserted at a time. */
const CHUNK = 1_000;
const CHUNK_MS = 60_000;
const CALL_MS = 5_000;

const TOKEN_SETTINGS = [
  'KEYWARD_HSM_MODULE',
  'KEYWARD_HSM_TOKEN',
  'KEYWARD_HSM_PIN_FILE',
  'KEYWARD_HSM_WAIVERS',
  'KEYWARD_HSM_ENVIRONMENT',
] as const;

type KeyVersion = ReplyOf<'createKeyVersion'>;

/** So many keys with one version each, called many-1, many-2, … */
export async function makeKeys(
  environment: Environment,
  owner: pg.Client,
  count: number,
): Promise<void> {
  const { rows } = await owner.query<{ tenant_id: TenantId }>(
    'SELECT tenant_id FROM tenants WHERE name = $1',
    [TENANT],
  );
  const tenantId = rows[0]?.tenant_id;
  if (tenantId === undefined) throw new Error(`there is no tenant ${TENANT}`);
  await withAgents(environment, async (agents, keys) => {
    const under = { tenantId, ...keys };
    for (let done = 0; done < count; done += CHUNK) {
      const deadline = monotonicNow() + CHUNK_MS;
      const made = Array.from({ length: Math.min(CHUNK, count - done) }, () => {
        const identity = {
          keyId: newId<KeyId>(),
          version: 1,
          algorithm: ALGORITHM.hmacSha512Aes256Gcm,
        };
        return agents.call('createKeyVersion', { ...under, ...identity }, deadline);
      });
      await insert(owner, await Promise.all(made), done);
    }
  });
}

/** Runs `work` with agents of this process's own, and the keys that new things are made under. */
export async function withAgents(
  { variables }: Environment,
  work: (agents: HsmAgents, keys: ReturnType<typeof currentKeys>) => Promise<void>,
): Promise<void> {
  const recorded = await withOwnerConnection(
    variables['MIGRATION_DATABASE_URL'] ?? '',
    undefined,
    readEnvironmentAsOwner,
  );
  const agents = agentsOn(variables, recorded);
  try {
    await agents.start();
    await work(agents, currentKeys(recorded));
  } finally {
    await agents.stop();
  }
}

function currentKeys({ tokenObjects, systemTenantId }: EnvironmentRecord) {
  const current = (role: 'root' | 'seal') =>
    tokenObjects.find(
      (each) => each.tenantId === systemTenantId && each.role === role && each.state === 'CURRENT',
    )?.objectId;
  return { rootKeyId: current('root') as RootKeyId, sealKeyId: current('seal') as SealKeyId };
}

function agentsOn(variables: Environment['variables'], recorded: EnvironmentRecord): HsmAgents {
  const settings = read(TOKEN_SETTINGS, variables);
  const warn = (fields: object, message: string) => console.error(message, fields);
  return new HsmAgents({
    starter: childAgents(
      {
        module: settings.KEYWARD_HSM_MODULE,
        token: settings.KEYWARD_HSM_TOKEN,
        pinFile: settings.KEYWARD_HSM_PIN_FILE,
        waivers: settings.KEYWARD_HSM_WAIVERS,
      },
      Object.fromEntries(
        settings.KEYWARD_HSM_ENVIRONMENT.map((name) => [name, variables[name] ?? '']),
      ),
    ),
    settings: {
      environmentId: recorded.environmentId,
      profile: recorded.tokenProfile as TokenProfile,
      objects: tokenObjectsOf(recorded.tokenObjects),
      keyCacheSize: 1,
    },
    count: AGENTS,
    callTimeoutMs: CALL_MS,
    maxCalls: CHUNK,
    maxBytes: Number.POSITIVE_INFINITY,
    log: { info: () => {}, warn, error: warn },
    alerts: { raise: (id, _subject, fields) => warn(fields, id), clear: () => {} },
  });
}

async function insert(
  owner: pg.Client,
  made: readonly KeyVersion[],
  before: number,
): Promise<void> {
  const [first] = made;
  await owner.query(
    `WITH made AS (
       SELECT * FROM unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::bytea[])
         WITH ORDINALITY AS m (key_id, wrapped, check_value, seal, n)
     ), inserted AS (
       INSERT INTO keys (tenant_id, key_id, name, primary_version, rotation_period_seconds,
         next_rotation_at)
       SELECT $5::uuid, key_id, 'many-' || n + $6::integer, 1, 7776000,
         now() + interval '90 days' * (1 - random() / 2)
       FROM made
     )
     INSERT INTO key_versions (tenant_id, key_id, version, state, wrapped, check_value, seal,
       algorithm, root_key_id,
       wrap, seal_key_id)
     SELECT $5, key_id, 1, 'ENABLED', wrapped, check_value, seal, $7, $8, $9, $10 FROM made`,
    [
      made.map(({ keyId }) => keyId),
      made.map(({ wrapped }) => wrapped),
      made.map(({ checkValue }) => checkValue),
      made.map(({ seal }) => seal),
      first?.tenantId,
      before,
      first?.algorithm,
      first?.rootKeyId,
      first?.wrap,
      first?.sealKeyId,
    ],
  );
}
