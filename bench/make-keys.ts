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
import { encodeKeyState } from '../src/hsm/key-state.ts';
import { ALGORITHM } from '../src/hsm/key-version.ts';
import type { ReplyOf } from '../src/hsm/protocol.ts';
import { RECORD } from '../src/hsm/record-seal.ts';
import type { TokenProfile } from '../src/hsm/token-profile.ts';
import { type KeyId, newId, type RootKeyId, type SealKeyId, type TenantId } from '../src/ids.ts';
import { tokenObjectsOf } from '../src/keyring/hsm-token/token-objects.ts';
import { withOwnerConnection } from '../src/store/core/owner.ts';
import { type EnvironmentRecord, readEnvironmentAsOwner } from '../src/store/environment.ts';
import { newKeyState } from '../src/store/keys/keys.ts';
import type { Environment } from './environment.ts';
import { TENANT } from './workloads.ts';

const AGENTS = 2;
/** Inserted at a time. */
const CHUNK = 1_000;
const CHUNK_MS = 60_000;
const CALL_MS = 5_000;
/** As the service's own. */
const SEALED_AT_ONCE = 100;
const ROTATION_MS = 90 * 86_400_000;

const TOKEN_SETTINGS = [
  'KEYWARD_HSM_MODULE',
  'KEYWARD_HSM_TOKEN',
  'KEYWARD_HSM_PIN_FILE',
  'KEYWARD_HSM_WAIVERS',
  'KEYWARD_HSM_ENVIRONMENT',
] as const;

/** A key, and what was made of it by agents. */
interface MadeKey {
  readonly version: ReplyOf<'createKeyVersion'>;
  readonly name: string;
  readonly nextRotationAt: Date;
  readonly stateSeal: Buffer;
}

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
  await withAgents(environment, async (agents, tokenKeys) => {
    let inserting: Promise<void> | undefined;
    for (let before = from; before < from + count; before += CHUNK) {
      const size = Math.min(CHUNK, from + count - before);
      const made = await makeChunk(agents, tokenKeys, { before, size, tenantIds, perTenant });
      // While the next ones are made.
      await inserting;
      inserting = insert(owner, made);
    }
    await inserting;
  });
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

async function makeChunk(
  agents: HsmAgents,
  tokenKeys: ReturnType<typeof currentKeys>,
  chunk: {
    readonly before: number;
    readonly size: number;
    readonly tenantIds: readonly TenantId[];
    readonly perTenant: number;
  },
): Promise<MadeKey[]> {
  const deadline = monotonicNow() + CHUNK_MS;
  const numbers = Array.from({ length: chunk.size }, (_, index) => chunk.before + index);
  const versions = await Promise.all(
    numbers.map((number) => {
      const tenantId = chunk.tenantIds[Math.floor(number / chunk.perTenant)] as TenantId;
      const algorithm = ALGORITHM.hmacSha512Aes256Gcm;
      const identity = { tenantId, keyId: newId<KeyId>(), version: 1, algorithm };
      return agents.call('createKeyVersion', { ...tokenKeys, ...identity }, deadline);
    }),
  );
  const states = versions.map((version, index) => {
    const settings = scheduled();
    const name = manyKeyId(1 + (numbers[index] as number));
    const state = newKeyState({ name, settings, version: { ...version, state: 'ENABLED' } });
    return {
      version,
      name,
      nextRotationAt: settings.nextRotationAt,
      content: encodeKeyState(state),
    };
  });
  const { sealKeyId } = tokenKeys;
  const sealed = await Promise.all(
    Array.from({ length: Math.ceil(states.length / SEALED_AT_ONCE) }, (_, index) => {
      const some = states.slice(index * SEALED_AT_ONCE, (index + 1) * SEALED_AT_ONCE);
      const contents = some.map(({ content }) => content);
      return agents.call('sealRecords', { sealKeyId, kind: RECORD.keyState, contents }, deadline);
    }),
  );
  const seals = sealed.flatMap((reply) => reply.seals);
  return states.map((state, index) => ({ ...state, stateSeal: seals[index] as Buffer }));
}

/** Settings of a key that is rotated every 90 days, next in 45 to 90. */
function scheduled() {
  const nextRotationAt = new Date(Date.now() + ROTATION_MS * (1 - Math.random() / 2));
  return {
    ...{ description: '', labels: {}, rotationUsageLimit: null, maintenancePaused: false },
    derivationEpoch: null,
    ...{ rotationPeriodSeconds: ROTATION_MS / 1_000, nextRotationAt },
  };
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

async function insert(owner: pg.Client, made: readonly MadeKey[]): Promise<void> {
  const [first] = made;
  await owner.query(
    `WITH made AS (
       SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::bytea[],
           $6::bytea[], $7::bytea[], $8::bytea[])
         AS m (tenant_id, key_id, name, next_rotation_at, state_seal, wrapped, check_value, seal)
     ), inserted AS (
       INSERT INTO keys (tenant_id, key_id, name, primary_version, rotation_period_seconds,
         next_rotation_at, state_seal_key_id, state_seal)
       SELECT tenant_id, key_id, name, 1, $9, next_rotation_at, $10::uuid, state_seal FROM made
     )
     INSERT INTO key_versions (tenant_id, key_id, version, state, wrapped, check_value, seal,
       algorithm, root_key_id, wrap, seal_key_id)
     SELECT tenant_id, key_id, 1, 'ENABLED', wrapped, check_value, seal, $11, $12, $13, $10
     FROM made`,
    [
      made.map(({ version }) => version.tenantId),
      made.map(({ version }) => version.keyId),
      made.map(({ name }) => name),
      made.map(({ nextRotationAt }) => nextRotationAt.toISOString()),
      made.map(({ stateSeal }) => stateSeal),
      made.map(({ version }) => version.wrapped),
      made.map(({ version }) => version.checkValue),
      made.map(({ version }) => version.seal),
      ROTATION_MS / 1_000,
      first?.version.sealKeyId,
      first?.version.algorithm,
      first?.version.rootKeyId,
      first?.version.wrap,
    ],
  );
}
