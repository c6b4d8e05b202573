/**
 * The running service and its database: connections that break, a server that restarts, one that is
 * away.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { KeywardClient } from 'keyward-client';
import pg from 'pg';
import { isServing } from '../faults/service.ts';
import {
  DEFAULT_WAITS,
  eventually,
  failureOf,
  newEnvironment,
  reasonOf,
  type Service,
  sharedService,
  startService,
} from '../support/kit.ts';
import { environmentWithServer } from './own-server.ts';

const PARENT = 'tenants/acme';
const KEY = `${PARENT}/keys/k`;

async function prepare(keyward: KeywardClient): Promise<void> {
  await keyward.createTenant({ tenantId: 'acme' });
  await keyward.createKey({ parent: PARENT, keyId: 'k' });
}

async function withKey(service: Service): Promise<KeywardClient> {
  const keyward = service.client();
  await prepare(keyward);
  return keyward;
}

async function sql(
  url: string,
  text: string,
  values: unknown[] = [],
): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(text, values)).rows;
  } finally {
    await client.end();
  }
}

test('case 77: a pool that is used up sheds calls instead of keeping them', async () => {
  await using environment = await newEnvironment();
  await using service = await startService(environment, {
    ...DEFAULT_WAITS,
    KEYWARD_DATABASE_POOL: '1',
  });
  const keyward = await withKey(service);
  const blocker = new pg.Client({ connectionString: environment.urls.superuser });
  blocker.on('error', () => {});
  await blocker.connect();
  await blocker.query('BEGIN; LOCK TABLE keys IN ACCESS EXCLUSIVE MODE');
  const waiting = keyward.listKeys({ parent: PARENT });
  waiting.catch(() => {});
  const shed = await failureOf(keyward.listKeys({ parent: PARENT }));
  assert.deepEqual([shed.code, shed.reason], ['RESOURCE_EXHAUSTED', 'DATABASE_POOL_EXHAUSTED']);
  assert.ok(shed.retryDelayMs);
  await blocker.query('ROLLBACK');
  await blocker.end();
  await waiting;
});

test('settings of the database for its sessions change nothing: keys are made, rotated and read', async () => {
  await using environment = await newEnvironment();
  const name = new URL(environment.urls.service).pathname.slice(1);
  const settings = {
    DateStyle: "'SQL, DMY'",
    TimeZone: "'Asia/Kathmandu'",
    IntervalStyle: "'sql_standard'",
    bytea_output: 'escape',
    extra_float_digits: '-15',
    default_transaction_isolation: "'serializable'",
    standard_conforming_strings: 'off',
    search_path: "'elsewhere'",
  };
  for (const [setting, value] of Object.entries(settings))
    await sql(
      environment.urls.superuser,
      `ALTER ROLE keyward_service IN DATABASE ${name} SET ${setting} = ${value}`,
    );
  await using service = await startService(environment);
  const keyward = await withKey(service);
  const sealed = await keyward.encrypt({ name: KEY, plaintext: Buffer.from('p') });
  await keyward.rotateKey({ name: KEY });
  const { plaintext } = await keyward.decrypt({
    parent: PARENT,
    ciphertext: sealed.ciphertext,
  });
  assert.equal(Buffer.from(plaintext).toString(), 'p');
  const key = await keyward.getKey({ name: KEY });
  const [row] = await sql(environment.urls.superuser, 'SELECT created_at FROM keys');
  assert.deepEqual(key.createTime, row?.['created_at']);
  assert.equal(key.primary?.name, `${KEY}/versions/2`);
});

describe('the server', () => {
  let own: Awaited<ReturnType<typeof environmentWithServer>>;
  let service: Service;
  let keyward: KeywardClient;
  before(async () => {
    own = await environmentWithServer();
    service = await startService(own.environment, DEFAULT_WAITS);
    keyward = await withKey(service);
  });
  after(async () => {
    await service?.stop();
    await own?.environment[Symbol.asyncDispose]();
  });

  test('that restarts is found again, and what was stored opens', async () => {
    const sealed = { name: KEY, plaintext: Buffer.from('kept') };
    const { ciphertext } = await eventually(() => keyward.encrypt(sealed));
    await own.postgres.restart();
    const opened = await eventually(() => keyward.decrypt({ parent: PARENT, ciphertext }));
    assert.equal(opened.plaintext.toString(), 'kept');
    await eventually(() => keyward.rotateKey({ name: KEY }));
  });

  test('that is away makes the replica answer UNAVAILABLE rather than from memory, and not serving', async () => {
    await eventually(() => keyward.encrypt({ name: KEY, plaintext: Buffer.from('p') }));
    await eventually(() => assert.ok(isServing(service)));
    const from = service.log.length;
    await own.postgres.stop();
    await service.logged(({ msg }) => msg === 'not serving', from);
    const error = await failureOf(keyward.encrypt({ name: KEY, plaintext: Buffer.from('p') }));
    assert.deepEqual([error.code, error.reason], ['UNAVAILABLE', 'REPLICA_STALE']);
    assert.equal(
      await reasonOf(keyward.getTenant({ name: PARENT })),
      'REPLICA_STALE',
      'nor who may do what',
    );
    await own.postgres.restart();
    await eventually(() => keyward.encrypt({ name: KEY, plaintext: Buffer.from('p') }));
  });
});

describe('a database', () => {
  // A connection for each of the calls: none is shed for want of one.
  const shared = sharedService(prepare, { KEYWARD_DATABASE_POOL: '60' });

  test('case 75: all backends terminated, idle and at work: the next call, or its retry, succeeds, and the process lives', async () => {
    const { environment, service, keyward } = shared;
    const load = Array.from({ length: 50 }, (_, index) =>
      keyward.createKey({ parent: PARENT, keyId: `load-${index}` }),
    );
    await sql(
      environment.urls.superuser,
      'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()',
    );
    const outcomes = await Promise.allSettled(load);
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') assert.equal(outcome.reason.code, 'UNAVAILABLE');
    }
    // An entry is sent once, since it isn't known what became of one that was cut off: who meets a
    // connection of the audit log that broke while idle is told to try again.
    const patient = service.client({ retries: 3 });
    // Told truly: what was said to be made is there.
    for (const outcome of outcomes) {
      if (outcome.status === 'fulfilled') await patient.getKey({ name: outcome.value.name });
    }
    await patient.createKey({ parent: PARENT, keyId: 'after' });
  });

  test('that takes no audit entries makes the replica not serve until it does, and log what the database said', async () => {
    const { environment, service, keyward } = shared;
    const from = service.log.length;
    const call = () => keyward.encrypt({ name: KEY, plaintext: Buffer.from('p') });
    const appending = 'EXECUTE ON FUNCTION append_audit_rows';
    await sql(environment.urls.superuser, `REVOKE ${appending} FROM keyward_service, PUBLIC`);
    assert.equal(await reasonOf(call()), 'AUDIT_UNAVAILABLE');
    await service.logged(({ msg }) => msg === 'not serving', from);
    const line = await service.logged(
      ({ msg }) => msg === 'cannot record calls in the audit log',
      from,
    );
    assert.match(JSON.stringify(line), /permission denied for function append_audit_rows/);
    await sql(environment.urls.superuser, `GRANT ${appending} TO keyward_service`);
    await service.logged(({ msg }) => msg === 'serving', from);
    await call();
  });
});
