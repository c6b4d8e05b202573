/**
 * A world to rotate in: a database with a beginning that it can be put back to, agents, and what is known of the
 * beginning that no row tells, the plaintexts.
 *
 * Invariant: after {@link World.reset} every row of every table is what it was when the world was made, so that each run
 * starts from the same. Makes the beginning through the keyring; knows neither faults nor what has to hold.
 */
import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { monotonicNow } from '../../src/call.ts';
import type { HsmAgents } from '../../src/hsm/agents.ts';
import type { DataKeyId, KeyId } from '../../src/ids.ts';
import { type EnvironmentRecord, readEnvironment } from '../../src/store/environment.ts';
import type { KeySettings } from '../../src/store/keys.ts';
import type { Store } from '../../src/store/store.ts';
import { type Environment, newEnvironment } from '../kit.ts';
import { callOf } from '../store/database.ts';
import { loadModules, type Modules, newReplica, openStore, type Replica, startAgents } from './replica.ts';

export const TENANT = 'acme';
/** Where the beginning is kept, a table for each of the service's. */
export const BEGINNING = 'beginning';
const NO_CONTEXT = new Map<string, string>();
const SETTINGS: KeySettings = {
  description: '',
  labels: {},
  rotationPeriodSeconds: null,
  nextRotationAt: null,
  rotationUsageLimit: null,
  maintenancePaused: false,
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
  readonly environment: EnvironmentRecord;
  readonly agents: HsmAgents;
  /** The superuser's connection. */
  readonly superuser: pg.Client;
  /** A store straight to the database, for those that nothing happens to. */
  readonly store: Store;
  /** A replica that makes the beginning, and acts for callers; another after each reset. */
  replica: Replica;
  /** By key name and data key name, as `daily/a`. */
  dataKeys = new Map<string, KnownDataKey>();
  ciphertexts: readonly KnownCiphertext[] = [];
  readonly #modules: Modules;
  #dataKeysAtFirst = new Map<string, KnownDataKey>();
  #ciphertextsAtFirst: readonly KnownCiphertext[] = [];
  #tables: readonly Table[] = [];

  constructor(
    modules: Modules,
    parts: Pick<World, 'kit' | 'environment' | 'agents' | 'superuser' | 'store'>,
  ) {
    this.#modules = modules;
    this.kit = parts.kit;
    this.environment = parts.environment;
    this.agents = parts.agents;
    this.superuser = parts.superuser;
    this.store = parts.store;
    this.replica = this.newReplica();
  }

  /** A replica to which nothing happens. */
  newReplica(modules = this.#modules): Replica {
    return newReplica({ modules, store: this.store, agents: this.agents, environment: this.environment });
  }

  /** Runs SQL as the superuser. */
  async sql<Row extends pg.QueryResultRow>(text: string, values: unknown[] = []): Promise<Row[]> {
    return (await this.superuser.query<Row>(text, values)).rows;
  }

  async createKey(key: string, settings: Partial<KeySettings> = {}): Promise<void> {
    const { keys } = this.replica.keyring;
    await keys.create(callOf(), { tenant: TENANT, key }, { ...SETTINGS, ...settings });
    await this.encrypt(key);
  }

  /** Makes a new primary, and something encrypted under it. */
  async rotate(key: string): Promise<void> {
    const call = { ...callOf(), method: 'keyward.v1.KeyService/RotateKey' };
    await this.replica.keyring.rotation.rotate(call, { tenant: TENANT, key }, '');
    await this.encrypt(key);
  }

  async encrypt(key: string): Promise<void> {
    const plaintext = Buffer.from(`of ${key} ${randomUUID()}`);
    const { keys, encryption } = this.replica.keyring;
    const name = { tenant: TENANT, key };
    const request = { name, plaintext: Buffer.from(plaintext), context: NO_CONTEXT };
    const sealed = await encryption.encrypt(callOf(), request);
    const { keyId } = await keys.get(name);
    this.ciphertexts = [...this.ciphertexts, { ...sealed, keyId, plaintext }];
  }

  async createDataKeys(key: string, ...ids: string[]): Promise<void> {
    const { keys, dataKeys } = this.replica.keyring;
    const parent = { tenant: TENANT, key };
    const { keyId } = await keys.get(parent);
    for (const id of ids) {
      const request = { parent, id, context: NO_CONTEXT, length: 32, reveal: true };
      const { record, plaintext } = await dataKeys.create(callOf(), request);
      this.dataKeys.set(`${key}/${id}`, { keyId, name: id, dataKeyId: record.dataKeyId, plaintext });
    }
  }

  async deleteDataKey(key: string, dataKey: string): Promise<void> {
    await this.replica.keyring.dataKeys.delete(callOf(), { tenant: TENANT, key, dataKey }, '');
    this.dataKeys.delete(`${key}/${dataKey}`);
  }

  /** Schedules the whole key to be destroyed in a week. */
  async scheduleKey(key: string): Promise<void> {
    const { keys, destruction } = this.replica.keyring;
    const name = { tenant: TENANT, key };
    const etag = (await keys.get(name)).revision;
    await destruction.scheduleKey(callOf(), name, { etag, windowDays: 7, validateOnly: false });
  }

  /** Keeps what there is now as the beginning. */
  async keepBeginning(): Promise<void> {
    const tables = await this.sql<{ name: string; columns: string }>(
      `SELECT c.table_name AS name, string_agg(quote_ident(c.column_name), ', ') AS columns
       FROM information_schema.columns c JOIN information_schema.tables t USING (table_schema, table_name)
       WHERE table_schema = 'public' AND table_type = 'BASE TABLE' AND c.is_generated = 'NEVER'
       GROUP BY 1 ORDER BY 1`,
    );
    this.#tables = tables;
    this.#dataKeysAtFirst = new Map(this.dataKeys);
    this.#ciphertextsAtFirst = this.ciphertexts;
    const copies = tables.map(({ name }) => `CREATE TABLE ${BEGINNING}.${name} AS TABLE public.${name};`);
    await this.superuser.query(`CREATE SCHEMA ${BEGINNING}; ${copies.join('\n')}`);
  }

  /** Puts everything back to the beginning; nobody may be at work. */
  async reset(): Promise<void> {
    const restore = this.#tables.map(
      ({ name, columns }) => `DELETE FROM public.${name};
        INSERT INTO public.${name} (${columns}) OVERRIDING SYSTEM VALUE SELECT ${columns} FROM ${BEGINNING}.${name};`,
    );
    await this.superuser.query(
      `BEGIN; SET LOCAL session_replication_role = replica; ${restore.join('\n')} COMMIT`,
    );
    this.dataKeys = new Map(this.#dataKeysAtFirst);
    this.ciphertexts = this.#ciphertextsAtFirst;
    this.replica = this.newReplica();
  }

  /** Every row of every table, and which transaction wrote it: what writes nothing leaves this as it is. */
  async dump(): Promise<readonly string[]> {
    const parts = this.#tables.map(
      ({ name }) => `SELECT '${name} ' || t.xmin::text || ' ' || t::text AS row FROM public.${name} t`,
    );
    const rows = await this.sql<{ row: string }>(`${parts.join(' UNION ALL ')} ORDER BY 1`);
    return rows.map(({ row }) => row);
  }

  /**
   * Ends all leases. They end by themselves, 15 s after the last batch by the database's clock, and no test is to wait
   * for that.
   */
  async expireLeases(): Promise<void> {
    await this.sql(`UPDATE rewrap_ranges SET leased_until = '-infinity'`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.store.close(), this.agents.stop(), this.superuser.end()]);
    await this.kit[Symbol.asyncDispose]();
  }
}

/** Makes a world, with a tenant in which `begin` makes what there is at first. */
export async function newWorld(begin: (world: World) => Promise<void>): Promise<World> {
  const kit = await newEnvironment();
  const modules = await loadModules();
  const store = await openStore(modules, kit.urls.service);
  const environment = await readEnvironment(store);
  const agents = await startAgents(kit, environment);
  const superuser = new pg.Client({ connectionString: kit.urls.superuser });
  await superuser.connect();
  const world = new World(modules, { kit, environment, agents, superuser, store });
  await world.replica.keyring.tenants.create(callOf(), { tenant: TENANT });
  await begin(world);
  await world.keepBeginning();
  return world;
}

/** A deadline that no call of a test comes near. */
export function soon(): number {
  return monotonicNow() + 30_000;
}
