/**
 * What the drill of docs/recovery.md stands on: backups, taken and put back, and commands that must
 * change nothing.
 *
 * A backup is a copy of a database that nobody is connected to, made by PostgreSQL itself (CREATE
 * DATABASE … TEMPLATE), and of the token's folder while nobody uses it. What the service says and
 * does on it is the same as on a dump that was restored. Knows no test.
 */
import assert from 'node:assert/strict';
import { createHash, randomUUID } from 'node:crypto';
import { cpSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before } from 'node:test';
import type { KeywardClient } from 'keyward-client';
import { createDatabase, dropDatabase } from '../../dev/postgres.ts';
import {
  type Environment,
  eventually,
  newEnvironment,
  runCommand,
  startService,
} from '../support/kit.ts';
import { jobOf, newId, QUICK, sql, storeDataKeys } from '../support/reconciling.ts';

export const PARENT = 'tenants/acme';
const PLAINTEXT = Buffer.from('kept before');
export interface Backup extends AsyncDisposable {
  readonly database: string;
  /** The copy of the token's folder. */
  readonly token: string;
}

export const folderOf = ({ token }: Environment) => join(token.confFile, '..');
export const clusterOf = ({ urls }: Environment) => ({
  superuserUrl: (database = 'postgres') => {
    const url = new URL(urls.superuser);
    url.pathname = `/${database}`;
    return url.href;
  },
});

/** The database first, then the token, of an environment that nobody serves from. */
export async function backUp(environment: Environment): Promise<Backup> {
  const name = new URL(environment.urls.superuser).pathname.slice(1);
  const database = `backup_${randomUUID().replaceAll('-', '')}`;
  const cluster = clusterOf(environment);
  // The last connections of a service that has ended go a moment after it.
  await eventually(() => createDatabase(cluster, database, name));
  const token = join(environment.directory, database);
  cpSync(folderOf(environment), token, { recursive: true });
  return {
    database,
    token,
    [Symbol.asyncDispose]: async () => {
      await dropDatabase(cluster, database);
      rmSync(token, { recursive: true });
    },
  };
}

export const encrypt = async (keyward: KeywardClient, name: string) =>
  (await keyward.encrypt({ name, plaintext: PLAINTEXT, encryptionContext: { order: '17' } }))
    .ciphertext;
export const decrypt = (keyward: KeywardClient, ciphertext: Buffer) =>
  keyward.decrypt({ parent: PARENT, ciphertext, encryptionContext: { order: '17' } });

export async function assertDecrypts(keyward: KeywardClient, ciphertext: Buffer): Promise<void> {
  assert.deepEqual((await decrypt(keyward, ciphertext)).plaintext, PLAINTEXT);
}

export async function newKey(keyward: KeywardClient): Promise<string> {
  return (await keyward.createKey({ parent: PARENT, keyId: newId('k') })).name;
}

/** The service on an environment, while `work` uses it. */
export async function serving<T>(
  environment: Environment,
  work: (keyward: KeywardClient) => Promise<T>,
): Promise<T> {
  await using service = await startService(environment, QUICK);
  return await work(service.client());
}

/** The environment with another database of the same cluster. */
export function inDatabase(environment: Environment, database: string): Environment {
  const at = (url: string) => Object.assign(new URL(url), { pathname: `/${database}` }).href;
  const { service, owner, superuser } = environment.urls;
  const urls = { service: at(service), owner: at(owner), superuser: at(superuser) };
  return {
    ...environment,
    urls,
    variables: { ...environment.variables, DATABASE_URL: urls.service },
  };
}

/** Replaces the token by the backup's copy, as an operator does under the same paths. */
export async function putBack(environment: Environment, backup: Backup): Promise<void> {
  const tokens = join(folderOf(environment), 'tokens');
  rmSync(tokens, { recursive: true });
  cpSync(join(backup.token, 'tokens'), tokens, { recursive: true });
}

/** A digest of every file of the token, and of every row that says what keys there are. */
async function fingerprint(environment: Environment): Promise<string> {
  const hash = createHash('sha256');
  const folder = join(folderOf(environment), 'tokens');
  for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort())
    if (name.endsWith('.object') && !name.endsWith('token.object'))
      hash.update(name).update(readFileSync(join(folder, name)));
  for (const table of [
    'environment',
    'token_objects',
    'tenants',
    'keys',
    'key_versions',
    'data_keys',
    'changes',
  ])
    hash.update(
      JSON.stringify(await sql(environment, `SELECT t::text FROM ${table} t ORDER BY 1`)),
    );
  return hash.digest('hex');
}

/** What a command says that must fail, and that it leaves everything as it was. */
export async function refusalOf(
  environment: Environment,
  args: readonly string[],
  variables: Readonly<Record<string, string>> = {},
): Promise<string> {
  const before = await fingerprint(environment);
  const { code, output } = await runCommand(environment, args, variables);
  assert.equal(code, 1, output);
  assert.equal(await fingerprint(environment), before, 'something was changed');
  return output;
}

export const rootOf = async (environment: Environment) => {
  const [row] = await sql<{ id: string }>(
    environment,
    "SELECT object_id AS id FROM token_objects WHERE role = 'root'",
  );
  return String(row?.id);
};

/** A key, ciphertexts, data keys kept and handed out, and a re-wrap job that stands still. */
export async function furnishBy(keyward: KeywardClient) {
  await keyward.createTenant({ tenantId: 'acme' });
  const name = await newKey(keyward);
  const first = await encrypt(keyward, name);
  const { plaintext, wrappedDataKey } = await keyward.generateDataKey({ name });
  const dataKey = Buffer.from(plaintext);
  const stored = await storeDataKeys(keyward, name, 5);
  await keyward.pauseMaintenance();
  await keyward.rotateKey({ name });
  const second = await encrypt(keyward, name);
  return {
    name,
    ciphertexts: [first, second],
    dataKey,
    wrappedDataKey,
    stored,
    job: await jobOf(keyward, name),
  };
}

/** An environment that was in use, what was made in it, and its backup: for all tests of a file. */
export function sharedBackup() {
  let made:
    | { source: Environment; things: Awaited<ReturnType<typeof furnishBy>>; backup: Backup }
    | undefined;
  before(async () => {
    const source = await newEnvironment();
    const things = await serving(source, furnishBy);
    made = { source, things, backup: await backUp(source) };
  });
  after(async () => {
    await made?.backup[Symbol.asyncDispose]();
    await made?.source[Symbol.asyncDispose]();
  });
  const get = () => {
    if (made === undefined) throw new Error('the backup is there only while tests run');
    return made;
  };
  return {
    get backup() {
      return get().backup;
    },
    get source() {
      return get().source;
    },
    get made() {
      return get().things;
    },
    /** Asserts that what was encrypted before the backup opens on an environment. */
    assertHealed: (environment: Environment) =>
      serving(environment, async (keyward) => {
        for (const ciphertext of get().things.ciphertexts)
          await assertDecrypts(keyward, ciphertext);
      }),
  };
}
