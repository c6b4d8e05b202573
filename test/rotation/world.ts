/**
 * A world to rotate in: a database and a token with a beginning that they can be put back to,
 * agents, and what is known of the beginning that no row tells, the plaintexts.
 *
 * Invariant: after {@link World.reset} every row of every table is what it was when the world was
 * made, and the token has what it had, and beside it at most some keys of earlier runs that no row
 * knows of, so that each run starts from the same. Makes the beginning through the keyring; knows
 * neither faults nor what has to hold.
 */
import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { monotonicNow } from '../../src/call.ts';
import type { HsmAgents } from '../../src/hsm/agents.ts';
import { encodeKeyState } from '../../src/hsm/key-state.ts';
import { RECORD } from '../../src/hsm/record-seal.ts';
import { encodeTenantState } from '../../src/hsm/tenant-state.ts';
import { createTokenKey, destroyTokenKeys } from '../../src/hsm/token-commands.ts';
import type { TokenObject } from '../../src/hsm/token-profile.ts';
import {
  type AnyId,
  type DataKeyId,
  type KeyId,
  newId,
  type SealKeyId,
  type TenantId,
} from '../../src/ids.ts';
import { tokenObjectsOf } from '../../src/keyring/hsm-token/token-objects.ts';
import type { GivenKeySettings } from '../../src/keyring/keys/keys.ts';
import { TenantSeals } from '../../src/keyring/keys/tenant-seals.ts';
import {
  formatKeyVersionName,
  formatTenantName,
  formatTokenKeyName,
  type KeyName,
} from '../../src/names.ts';
import { type EnvironmentRecord, readEnvironment } from '../../src/store/environment.ts';
import { changeTokenKeys } from '../../src/store/hsm-token/token-key-set.ts';
import { insertTokenObject } from '../../src/store/hsm-token/token-objects.ts';
import { fromStateRow, STATES, type StateRow } from '../../src/store/keys/key-states.ts';
import type { Store } from '../../src/store/store.ts';
import { createTenant } from '../../src/store/tenants/tenant-seals.ts';
import { findTenantByName } from '../../src/store/tenants/tenants.ts';
import { callOf } from '../store/database.ts';
import { NO_ALERTS } from '../support/alerts.ts';
import { type Environment, newEnvironment } from '../support/kit.ts';
import {
  agentsOn,
  loadModules,
  type Modules,
  newReplica,
  openStore,
  type Replica,
  startAgents,
  tokenSettings,
} from './replica.ts';

export const TENANT = 'acme';
/** Fewer keys of earlier runs than this the token may have. */
const MANY = 20;
/** What heartbeats change all the time: neither compared nor restored. */
const HEARTBEATS = 'replicas';
/** Where the beginning is kept, a table for each of the service's. */
export const BEGINNING = 'beginning';
const NO_CONTEXT = new Map<string, string>();
const SETTINGS: GivenKeySettings = {
  description: '',
  labels: {},
  rotationPeriodSeconds: null,
  nextRotationAt: null,
  rotationUsageLimit: null,
  maintenancePaused: false,
  epochMaxMessages: null,
  epochMaxAgeSeconds: null,
};

/** A stored data key and what is in it. */
export interface KnownDataKey {
  readonly keyId: KeyId;
  readonly name: string;
  readonly dataKeyId: DataKeyId;
  readonly plaintext: Buffer;
}

/** What a caller has encrypted and keeps. */
export interface KnownCiphertext {
  readonly keyId: KeyId;
  readonly version: number;
  readonly ciphertext: Buffer;
  readonly plaintext: Buffer;
}

/** A table and those of its columns that can be inserted. */
interface Table {
  readonly name: string;
  readonly columns: string;
}

/** See this file's first paragraph. */
export class World implements AsyncDisposable {
  readonly kit: Environment;
  /** As recorded at the beginning. */
  environment: EnvironmentRecord;
  /** {@link World.replica}'s, and those by which it is looked what holds. */
  readonly agents: HsmAgents;
  /** Of replicas that run beside that one. */
  readonly otherAgents: HsmAgents;
  /** The superuser's connection. */
  readonly superuser: pg.Client;
  /** A store straight to the database, for those that nothing happens to. */
  readonly store: Store;
  /** A replica that runs, makes the beginning, and acts for callers; another after each reset. */
  replica: Replica;
  /** By key and data key, as `daily/a`. */
  dataKeys = new Map<string, KnownDataKey>();
  ciphertexts: readonly KnownCiphertext[] = [];
  /** The row seals of versions that were made not to verify, by their names. */
  corrupted = new Map<string, Buffer>();
  readonly #modules: Modules;
  readonly #allAgents: HsmAgents[];
  /** What the token has been given since the beginning, in this run and in earlier ones. */
  #made: TokenObject[] = [];
  #madeEarlier: readonly TokenObject[] = [];
  #making = Promise.resolve();
  #dataKeysAtFirst = new Map<string, KnownDataKey>();
  #ciphertextsAtFirst: readonly KnownCiphertext[] = [];
  #corruptedAtFirst = new Map<string, Buffer>();
  #tables: readonly Table[] = [];

  constructor(
    modules: Modules,
    parts: Pick<World, 'kit' | 'environment' | 'agents' | 'otherAgents' | 'superuser' | 'store'>,
  ) {
    this.#modules = modules;
    this.kit = parts.kit;
    this.environment = parts.environment;
    this.#allAgents = [parts.agents, parts.otherAgents];
    this.agents = this.#holdingOn(parts.agents);
    this.otherAgents = this.#holdingOn(parts.otherAgents);
    this.superuser = parts.superuser;
    this.store = parts.store;
    this.replica = this.newReplica();
  }

  /** A replica to which nothing happens. */
  newReplica(modules = this.#modules, agents = this.agents): Replica {
    const { store, environment, makeTokenKey } = this;
    return newReplica({ modules, store, agents, environment, makeTokenKey });
  }

  /** Agents for another replica, from the beginning on; they end with the world. */
  async newAgents(): Promise<HsmAgents> {
    const agents = await startAgents(this.kit, this.environment);
    this.#allAgents.push(agents);
    return this.#holdingOn(agents);
  }

  /**
   * The agents as replicas have them: what earlier runs have made and the token still has, they go
   * on holding.
   */
  #holdingOn(agents: HsmAgents): HsmAgents {
    const holding = {
      call: agents.call.bind(agents),
      hold: (objects: readonly TokenObject[]) => agents.hold([...objects, ...this.#madeEarlier]),
      get held() {
        return agents.held;
      },
    };
    return holding as unknown as HsmAgents;
  }

  /**
   * Makes a root or seal key in the token, for any replica; one at a time, as two at once SoftHSM
   * fails at now and then.
   */
  readonly makeTokenKey = ({ role, objectId }: TokenObject): Promise<void> => {
    const { kit, environment } = this;
    const make = async () => {
      await createTokenKey({ ...tokenSettings(environment), role, objectId }, agentsOn(kit));
      this.#made.push({ role, objectId, presence: 'expected' });
    };
    const made = this.#making.then(make);
    this.#making = made.catch(() => {});
    return made;
  };

  /** Runs SQL as the superuser. */
  async sql<Row extends pg.QueryResultRow>(text: string, values: unknown[] = []): Promise<Row[]> {
    return (await this.superuser.query<Row>(text, values)).rows;
  }

  /** A tenant; one that is to have a root key of its own has none yet. */
  async createTenant(name: string, { dedicatedRootKey = false } = {}): Promise<void> {
    const { systemTenantId } = this.environment;
    const mutation = { tenantId: systemTenantId, resource: formatTenantName({ tenant: name }) };
    const tenant = { tenantId: newId<TenantId>(), name, dedicatedRootKey };
    const { store, agents } = this;
    const sealKeys = this.replica.tokenObjects;
    const seals = new TenantSeals({ store, agents, sealKeys, alerts: NO_ALERTS });
    await this.store.mutate(callOf(), mutation, (tx) =>
      createTenant(tx, tenant, seals.sealer(callOf())),
    );
  }

  async createKey(key: string, settings: Partial<GivenKeySettings> = {}): Promise<void> {
    const { keys } = this.replica.keyring;
    await keys.create(callOf(), nameOf(key), { ...SETTINGS, ...settings });
    await this.encrypt(key);
  }

  /** Makes a new primary, and something encrypted under it. */
  async rotate(key: string): Promise<void> {
    const call = { ...callOf(), method: 'keyward.v1.KeyService/RotateKey' };
    await this.replica.keyring.rotation.rotate(call, nameOf(key), '');
    await this.encrypt(key);
  }

  async encrypt(key: string): Promise<void> {
    const plaintext = Buffer.from(`of ${key} ${randomUUID()}`);
    const { keys, encryption } = this.replica.keyring;
    const name = nameOf(key);
    const request = { name, plaintext: Buffer.from(plaintext), context: NO_CONTEXT };
    const sealed = await encryption.encrypt(callOf(), request);
    const { keyId } = await keys.get(name);
    this.ciphertexts = [...this.ciphertexts, { ...sealed, keyId, plaintext }];
  }

  async createDataKeys(key: string, ...ids: string[]): Promise<void> {
    const { keys, dataKeys } = this.replica.keyring;
    const parent = nameOf(key);
    const { keyId } = await keys.get(parent);
    for (const id of ids) {
      const request = { parent, id, context: NO_CONTEXT, length: 32, reveal: true };
      const { record, plaintext } = await dataKeys.create(callOf(), request);
      this.dataKeys.set(`${key}/${id}`, {
        keyId,
        name: id,
        dataKeyId: record.dataKeyId,
        plaintext,
      });
    }
  }

  async deleteDataKey(key: string, dataKey: string): Promise<void> {
    await this.replica.keyring.dataKeys.delete(callOf(), { ...nameOf(key), dataKey }, '');
    this.dataKeys.delete(`${key}/${dataKey}`);
  }

  /** Schedules the whole key to be destroyed in a week. */
  async scheduleKey(key: string): Promise<void> {
    const { keys, destruction } = this.replica.keyring;
    const name = nameOf(key);
    const etag = (await keys.get(name)).revision;
    await destruction.scheduleKey(callOf(), name, { etag, windowDays: 7, validateOnly: false });
  }

  /** Somebody asks for a new root or seal key: it is recorded, and not made yet. */
  async requestTokenKey(role: 'root' | 'seal', tenant = 'system'): Promise<AnyId> {
    const [row] = await this.sql<{ tenant_id: TenantId }>(
      'SELECT tenant_id FROM tenants WHERE name = $1',
      [tenant],
    );
    if (row === undefined) throw new Error(`there is no tenant ${tenant}`);
    const { tenant_id: tenantId } = row;
    const objectId = newId<AnyId>();
    const action = role === 'root' ? 'RotateRootKey' : 'RotateSealKey';
    const call = { ...callOf(), method: `keyward.v1.HsmService/${action}` };
    await this.store.mutate(
      call,
      { tenantId, resource: formatTokenKeyName({ tenant }, objectId) },
      (tx) =>
        changeTokenKeys(tx, this.replica.tokenKeySeals.sealer(call), (keysTx) =>
          insertTokenObject(keysTx, { tenantId, objectId, role, caller: call.caller }, 'next'),
        ),
    );
    return objectId;
  }

  /** The same, and it is made: all it waits for is that all replicas hold it. */
  async createTokenKey(role: 'root' | 'seal'): Promise<AnyId> {
    const objectId = await this.requestTokenKey(role);
    const { systemTenantId: tenantId } = this.environment;
    await this.replica.keyring.tokenKeys.create({ tenantId, tenant: 'system', objectId, role });
    return objectId;
  }

  /** Seals how a key stands that was set behind the keyring's back, as time would have set it. */
  async sealState(key: string): Promise<void> {
    const { tenant, key: name } = nameOf(key);
    const [row] = await this.sql<StateRow>(
      `SELECT ${STATES} FROM keys k JOIN tenants t ON t.tenant_id = k.tenant_id WHERE t.name = $1 AND k.name = $2`,
      [tenant, name],
    );
    const [current] = await this.sql<{ id: SealKeyId }>(
      `SELECT object_id AS id FROM token_objects WHERE role = 'seal' AND is_current`,
    );
    if (row === undefined || current === undefined) throw new Error(`${key} can not be sealed`);
    const sealKeyId = current.id;
    const contents = [encodeKeyState(fromStateRow(row))];
    const request = { sealKeyId, kind: RECORD.keyState, contents };
    const { seals } = await this.agents.call('sealRecords', request, soon());
    await this.sql('UPDATE keys SET state_seal_key_id = $2, state_seal = $3 WHERE key_id = $1', [
      row.key_id,
      sealKeyId,
      seals[0],
    ]);
  }

  /** As {@link World.sealState}, of a tenant. */
  async sealTenant(name: string): Promise<void> {
    const stored = await findTenantByName(this.store, { deadline: soon() }, name);
    if (stored === undefined || stored.sealKeyId === null)
      throw new Error(`${name} can not be sealed`);
    const { claims, sealKeyId } = stored;
    const contents = [encodeTenantState(claims)];
    const request = { sealKeyId, kind: RECORD.tenant, contents };
    const { seals } = await this.agents.call('sealRecords', request, soon());
    await this.sql('UPDATE tenants SET seal = $2 WHERE tenant_id = $1', [
      claims.tenantId,
      seals[0],
    ]);
  }

  /** Has a version's row not verify any more, as a disk or an intruder does. */
  async corrupt(key: string, version: number): Promise<void> {
    const { tenant, key: name } = nameOf(key);
    const [row] = await this.sql<{ seal: Buffer }>(
      `UPDATE key_versions v SET seal = set_byte(v.seal, 0, get_byte(v.seal, 0) # 255)
       FROM keys k JOIN tenants t USING (tenant_id)
       WHERE t.name = $1 AND k.name = $2 AND v.key_id = k.key_id AND v.version = $3 RETURNING v.seal`,
      [tenant, name, version],
    );
    if (row === undefined) throw new Error(`there is no version ${version} of ${key}`);
    this.corrupted.set(formatKeyVersionName({ tenant, key: name }, version), row.seal);
  }

  /** Keeps what there is now as the beginning. */
  async keepBeginning(): Promise<void> {
    const tables = await this.sql<{ name: string; columns: string }>(
      `SELECT c.table_name AS name, string_agg(quote_ident(c.column_name), ', ') AS columns
       FROM information_schema.columns c JOIN information_schema.tables t USING (table_schema, table_name)
       WHERE table_schema = 'public' AND table_type = 'BASE TABLE' AND c.is_generated = 'NEVER'
         AND c.table_name <> $1
       GROUP BY 1 ORDER BY 1`,
      [HEARTBEATS],
    );
    this.environment = await readEnvironment(this.store);
    this.#made = [];
    this.#tables = tables;
    this.#dataKeysAtFirst = new Map(this.dataKeys);
    this.#ciphertextsAtFirst = this.ciphertexts;
    this.#corruptedAtFirst = new Map(this.corrupted);
    const copies = tables.map(
      ({ name }) => `CREATE TABLE ${BEGINNING}.${name} AS TABLE public.${name};`,
    );
    await this.superuser.query(`CREATE SCHEMA ${BEGINNING}; ${copies.join('\n')}`);
  }

  /**
   * Puts everything back to the beginning; nobody may be at work. Then nobody runs but
   * {@link World.replica}.
   */
  async reset(): Promise<void> {
    const restore = this.#tables.map(
      ({ name, columns }) => `DELETE FROM public.${name};
        INSERT INTO public.${name} (${columns}) OVERRIDING SYSTEM VALUE SELECT ${columns} FROM ${BEGINNING}.${name};`,
    );
    await this.superuser.query(
      `BEGIN; SET LOCAL session_replication_role = replica; DELETE FROM ${HEARTBEATS}; ${restore.join('\n')} COMMIT`,
    );
    await this.#destroyMade();
    this.dataKeys = new Map(this.#dataKeysAtFirst);
    this.ciphertexts = this.#ciphertextsAtFirst;
    this.corrupted = new Map(this.#corruptedAtFirst);
    this.replica = this.newReplica();
    await this.replica.tokenObjects.refresh();
  }

  /**
   * Destroys what runs have made in the token, once there is a number of it: each agent that holds
   * any is replaced for that, which took half of the time when it was done after each run.
   */
  async #destroyMade(): Promise<void> {
    this.#madeEarlier = [...this.#madeEarlier, ...this.#made.splice(0)];
    if (this.#madeEarlier.length < MANY) return;
    const { kit, environment } = this;
    const objects = this.#madeEarlier;
    this.#madeEarlier = [];
    await destroyTokenKeys({ ...tokenSettings(environment), objects }, agentsOn(kit));
    const recorded = tokenObjectsOf(environment.tokenObjects);
    await Promise.all(this.#allAgents.map((agents) => agents.hold(recorded)));
  }

  /**
   * Every row of every table, and which transaction wrote it: what writes nothing leaves this as it
   * is.
   */
  async dump(): Promise<readonly string[]> {
    const parts = this.#tables.map(
      ({ name }) =>
        `SELECT '${name} ' || t.xmin::text || ' ' || t::text AS row FROM public.${name} t`,
    );
    const rows = await this.sql<{ row: string }>(`${parts.join(' UNION ALL ')} ORDER BY 1`);
    return rows.map(({ row }) => row);
  }

  /** How often all replicas have been told to look for token objects. */
  async announcements(): Promise<string> {
    const [row] = await this.sql<{ count: string }>(
      `SELECT count(*) FROM changes WHERE kind IN ('token', 'shredded')`,
    );
    return row?.count ?? '';
  }

  /**
   * Has as much time pass by the database's clock as ends leases (15 s after the last batch),
   * attempts at making a key (2 minutes), and the waiting for replicas that are dead or frozen (10
   * s). {@link World.replica} runs on.
   */
  async passTime(): Promise<void> {
    await this.sql(`UPDATE rewrap_ranges SET leased_until = '-infinity'`);
    await this.sql(`UPDATE token_objects SET attempt_until = '-infinity' WHERE state = 'CREATING'`);
    await this.endReplicas();
    await this.replica.tokenObjects.report();
  }

  /** All replicas that ran have ended. */
  async endReplicas(): Promise<void> {
    await this.sql(`DELETE FROM ${HEARTBEATS}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const agents = this.#allAgents.map((each) => each.stop());
    await Promise.all([this.store.close(), this.superuser.end(), ...agents]);
    await this.kit[Symbol.asyncDispose]();
  }
}

/** The key `k`, of the tenant that most are of, or `tenant/k`. */
export function nameOf(key: string): KeyName {
  const [name = '', tenant = TENANT] = key.split('/').reverse();
  return { tenant, key: name };
}

/** Makes a world, with a tenant in which `begin` makes what there is at first. */
export async function newWorld(begin: (world: World) => Promise<void>): Promise<World> {
  await using stack = new AsyncDisposableStack();
  const kit = stack.use(await newEnvironment());
  const modules = await loadModules();
  const store = stack.adopt(await openStore(modules, kit.urls.service), (each) => each.close());
  const environment = await readEnvironment(store);
  // One that starts must not be left behind by another that doesn't.
  const start = async () => stack.adopt(await startAgents(kit, environment), (each) => each.stop());
  const starting = [start(), start()] as const;
  await Promise.allSettled(starting);
  const [agents, otherAgents] = await Promise.all(starting);
  const superuser = stack.adopt(new pg.Client({ connectionString: kit.urls.superuser }), (each) =>
    each.end(),
  );
  await superuser.connect();
  const world = new World(modules, { kit, environment, agents, otherAgents, superuser, store });
  await world.replica.tokenObjects.refresh();
  await world.createTenant(TENANT);
  await begin(world);
  await world.keepBeginning();
  // From here on the world ends them.
  stack.move();
  return world;
}

/** A deadline that no call of a test comes near. */
export function soon(): number {
  return monotonicNow() + 120_000;
}
