/**
 * Many keys in little time: sealed by a process of this one's (`key-sealer.ts`), and inserted in
 * bulk.
 *
 * Each verifies as any other does, and has a schedule by which it isn't due for weeks. Knows the
 * database's tables.
 */
import { fork } from 'node:child_process';
import { join } from 'node:path';
import type pg from 'pg';
import { monotonicNow } from '../src/call.ts';
import { read } from '../src/config.ts';
import { agentVariables } from '../src/hsm/agent-given.ts';
import { childAgents } from '../src/hsm/agent-starter.ts';
import { HsmAgents } from '../src/hsm/agents.ts';
import { ALGORITHM } from '../src/hsm/key-version.ts';
import type { TokenProfile } from '../src/hsm/token-profile.ts';
import { type KeyId, newId, type RootKeyId, type SealKeyId, type TenantId } from '../src/ids.ts';
import { tokenObjectsOf } from '../src/keyring/hsm-token/token-objects.ts';
import { withOwnerConnection } from '../src/store/core/owner.ts';
import { type EnvironmentRecord, readEnvironmentAsOwner } from '../src/store/environment.ts';
import type { Environment } from './environment.ts';
import type { Ground, KeyToSeal, SealedKey } from './key-sealer.ts';
import { TENANT } from './workloads.ts';

const AGENTS = 2;
/** Inserted at a time. */
const CHUNK = 5_000;
const CALL_MS = 5_000;
const ROTATION_MS = 90 * 86_400_000;

const TOKEN_SETTINGS = [
  'KEYWARD_HSM_MODULE',
  'KEYWARD_HSM_TOKEN',
  'KEYWARD_HSM_PIN_FILE',
  'KEYWARD_HSM_WAIVERS',
  'KEYWARD_HSM_ENVIRONMENT',
] as const;

/** Which keys are made, and whose they are. */
export interface ManyKeys {
  readonly count: number;
  /** The last parts of their tenants' names: so many keys of the first, as many of the next, … */
  readonly tenants?: readonly string[];
  readonly perTenant?: number;
  /** How many there are already. */
  readonly from?: number;
}

/** Keys with one version each, called many-1, many-2, … */
export async function makeKeys(
  environment: Environment,
  owner: pg.Client,
  { count, tenants = [TENANT], perTenant = Number.POSITIVE_INFINITY, from = 0 }: ManyKeys,
): Promise<void> {
  const tenantIds = await tenantIdsOf(owner, tenants);
  const ground = await groundOf(environment, tenantIds[0] as TenantId);
  using sealer = startSealer(environment, ground);
  let inserting: Promise<void> | undefined;
  for (let before = from; before < from + count; before += CHUNK) {
    const size = Math.min(CHUNK, from + count - before);
    const keys = Array.from({ length: size }, (_, index): KeyToSeal => {
      const tenantId = tenantIds[Math.floor((before + index) / perTenant)] as TenantId;
      return { tenantId, keyId: newId<KeyId>(), name: manyKeyId(before + index + 1) };
    });
    const sealed = await sealer.seal(keys);
    // While the next ones are sealed.
    await inserting;
    inserting = insert(owner, ground, keys, sealed);
  }
  await inserting;
}

async function tenantIdsOf(owner: pg.Client, names: readonly string[]): Promise<TenantId[]> {
  const { rows } = await owner.query<{ tenant_id: TenantId }>(
    'SELECT tenant_id FROM tenants WHERE name = ANY ($1) ORDER BY array_position($1, name)',
    [names],
  );
  if (rows.length < names.length)
    throw new Error(`there are ${rows.length} of the ${names.length} tenants`);
  return rows.map((row) => row.tenant_id);
}

/** The name of the key of that number, from 1 on. */
export const manyKeyId = (number: number) => `many-${number}`;

/** What keys are sealed by, and the material of all of them, made by an agent. */
async function groundOf(environment: Environment, tenantId: TenantId): Promise<Ground> {
  const recorded = await readRecorded(environment);
  const algorithm = ALGORITHM.hmacSha512Aes256Gcm;
  let made: Pick<Ground, 'rootKeyId' | 'sealKeyId' | 'wrapped'> | undefined;
  await withAgents(environment, async (agents, tokenKeys) => {
    const identity = { tenantId, keyId: newId<KeyId>(), version: 1, algorithm };
    const deadline = monotonicNow() + CALL_MS;
    const { wrapped } = await agents.call(
      'createKeyVersion',
      { ...tokenKeys, ...identity },
      deadline,
    );
    made = { ...tokenKeys, wrapped: Buffer.from(wrapped) };
  });
  if (made === undefined) throw new Error('no agent made a key');
  return {
    environmentId: recorded.environmentId,
    profile: recorded.tokenProfile as TokenProfile,
    objects: tokenObjectsOf(recorded.tokenObjects),
    rotationMs: ROTATION_MS,
    ...made,
  };
}

/** A process of `key-sealer.ts`; it ends when it is disposed of. */
function startSealer({ variables }: Environment, ground: Ground) {
  const { token, passed } = tokenSettings(variables);
  const child = fork(join(import.meta.dirname, 'key-sealer.ts'), {
    env: agentVariables({ token }, passed),
    serialization: 'advanced',
  });
  child.send(ground);
  return {
    /** One call at a time. */
    seal: (keys: readonly KeyToSeal[]) =>
      new Promise<readonly SealedKey[]>((resolve, reject) => {
        const fail = (code: number | null) => reject(new Error(`keys were not sealed: ${code}`));
        child.once('exit', fail);
        child.once('message', (sealed) => {
          child.off('exit', fail);
          resolve(sealed as readonly SealedKey[]);
        });
        child.send(keys);
      }),
    [Symbol.dispose]: () => void child.kill(),
  };
}

/** Runs `work` with agents of this process's own, and the keys that new things are made under. */
export async function withAgents(
  environment: Environment,
  work: (agents: HsmAgents, keys: ReturnType<typeof currentKeys>) => Promise<void>,
): Promise<void> {
  const recorded = await readRecorded(environment);
  const agents = agentsOn(environment.variables, recorded);
  try {
    await agents.start();
    await work(agents, currentKeys(recorded));
  } finally {
    await agents.stop();
  }
}

function readRecorded({ variables }: Environment): Promise<EnvironmentRecord> {
  const url = variables['MIGRATION_DATABASE_URL'] ?? '';
  return withOwnerConnection(url, undefined, readEnvironmentAsOwner);
}

function currentKeys({ tokenObjects, systemTenantId }: EnvironmentRecord) {
  const current = (role: 'root' | 'seal') =>
    tokenObjects.find(
      (each) => each.tenantId === systemTenantId && each.role === role && each.state === 'CURRENT',
    )?.objectId;
  return { rootKeyId: current('root') as RootKeyId, sealKeyId: current('seal') as SealKeyId };
}

/** The token, and the variables that its library reads. */
function tokenSettings(variables: Environment['variables']) {
  const settings = read(TOKEN_SETTINGS, variables);
  const passed = settings.KEYWARD_HSM_ENVIRONMENT.map((name) => [name, variables[name] ?? '']);
  return {
    token: {
      module: settings.KEYWARD_HSM_MODULE,
      token: settings.KEYWARD_HSM_TOKEN,
      pinFile: settings.KEYWARD_HSM_PIN_FILE,
      waivers: settings.KEYWARD_HSM_WAIVERS,
    },
    passed: Object.fromEntries(passed) as Record<string, string>,
  };
}

function agentsOn(variables: Environment['variables'], recorded: EnvironmentRecord): HsmAgents {
  const warn = (fields: object, message: string) => console.error(message, fields);
  const { token, passed } = tokenSettings(variables);
  return new HsmAgents({
    starter: childAgents(token, passed),
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
  ground: Ground,
  keys: readonly KeyToSeal[],
  sealed: readonly SealedKey[],
): Promise<void> {
  await owner.query(
    `WITH made AS (
       SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::bytea[],
           $6::bytea[], $7::bytea[])
         AS m (tenant_id, key_id, name, next_rotation_at, state_seal, check_value, seal)
     ), inserted AS (
       INSERT INTO keys (tenant_id, key_id, name, primary_version, rotation_period_seconds,
         next_rotation_at, state_seal_key_id, state_seal)
       SELECT tenant_id, key_id, name, 1, $8, next_rotation_at, $9::uuid, state_seal FROM made
     )
     INSERT INTO key_versions (tenant_id, key_id, version, state, wrapped, check_value, seal,
       algorithm, root_key_id, wrap, seal_key_id)
     SELECT tenant_id, key_id, 1, 'ENABLED', $10, check_value, seal, $11, $12, $13, $9
     FROM made`,
    [
      keys.map(({ tenantId }) => tenantId),
      keys.map(({ keyId }) => keyId),
      keys.map(({ name }) => name),
      sealed.map(({ nextRotationAt }) => nextRotationAt.toISOString()),
      sealed.map(({ stateSeal }) => stateSeal),
      sealed.map(({ checkValue }) => checkValue),
      sealed.map(({ seal }) => seal),
      ROTATION_MS / 1_000,
      ground.sealKeyId,
      ground.wrapped,
      ALGORITHM.hmacSha512Aes256Gcm,
      ground.rootKeyId,
      ground.profile.wrap,
    ],
  );
}
