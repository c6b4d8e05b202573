/**
 * The running service and its database: connections that break, a server that restarts, one that is
 * away.
 */
import assert from 'node:assert/strict';
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import pg from 'pg';
import { createRoles, startPostgres } from '../../dev/postgres.ts';
import { copyToken, tokenVariables } from '../../softhsm/token.ts';
import { grantEverything, TESTER } from '../support/grants.ts';
import {
  type Environment,
  eventually,
  failureOf,
  newEnvironment,
  reasonOf,
  runCommand,
  type Service,
  startService,
} from '../support/kit.ts';

const PARENT = 'tenants/acme';
const KEY = `${PARENT}/keys/k`;

async function withKey(service: Service) {
  const keyward = service.client();
  await keyward.createTenant({ tenantId: 'acme' });
  await keyward.createKey({ parent: PARENT, keyId: 'k' });
  return keyward;
}

/** An environment on a PostgreSQL server of its own, which may be stopped. */
async function environmentWithServer() {
  const shared = await newEnvironment();
  const postgres = await startPostgres({
    directory: mkdtempSync(join(shared.directory, 'postgres-')),
    say: () => {},
  });
  await createRoles(postgres, 'keyward');
  const token = copyToken(
    String(process.env['KEYWARD_TEST_TOKEN_TEMPLATE']),
    join(shared.directory, 'own-token'),
    shared.token.label,
  );
  const urls = {
    service: postgres.serviceUrl('keyward'),
    owner: postgres.ownerUrl('keyward'),
    superuser: postgres.superuserUrl('keyward'),
  };
  const environment: Environment = {
    ...shared,
    token,
    urls,
    variables: { ...shared.variables, ...tokenVariables(token), DATABASE_URL: urls.service },
    [Symbol.asyncDispose]: async () => {
      await postgres.remove();
      await shared[Symbol.asyncDispose]();
    },
  };
  // The token belongs to the template's environment, and a new database would be another: it takes
  // over that one's rows.
  assert.equal((await runCommand(environment, ['migrate'])).code, 0);
  const [template] = await sql(shared.urls.superuser, 'SELECT environment_id FROM environment');
  await sql(urls.superuser, 'UPDATE environment SET environment_id = $1', [
    template?.['environment_id'],
  ]);
  const { code, output } = await runCommand(environment, ['token', 'init']);
  assert.equal(code, 0, output);
  await grantEverything(environment.variables, [TESTER]);
  return { environment, postgres };
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

describe('connections', () => {
  test('case 75: all backends terminated, idle and at work: the next call, or its retry, succeeds, and the process lives', async () => {
    await using environment = await newEnvironment();
    // A connection for each of the calls: none is shed for want of one.
    await using service = await startService(environment, { KEYWARD_DATABASE_POOL: '60' });
    const keyward = await withKey(service);
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

  test('case 77: a pool that is used up sheds calls instead of keeping them', async () => {
    await using environment = await newEnvironment();
    await using service = await startService(environment, { KEYWARD_DATABASE_POOL: '1' });
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
});

describe('the server', () => {
  test('that restarts is found again, and what was stored opens', async () => {
    const { environment, postgres } = await environmentWithServer();
    await using _environment = environment;
    await using service = await startService(environment);
    const keyward = await withKey(service);
    const { ciphertext } = await keyward.encrypt({ name: KEY, plaintext: Buffer.from('kept') });
    await postgres.restart();
    const opened = await eventually(() => keyward.decrypt({ parent: PARENT, ciphertext }));
    assert.equal(opened.plaintext.toString(), 'kept');
    await eventually(() => keyward.rotateKey({ name: KEY }));
  });

  test('that is away makes the replica answer UNAVAILABLE rather than from memory, and not serving', async () => {
    const { environment, postgres } = await environmentWithServer();
    await using _environment = environment;
    await using service = await startService(environment);
    const keyward = await withKey(service);
    await keyward.encrypt({ name: KEY, plaintext: Buffer.from('p') });
    const from = service.log.length;
    await postgres.stop();
    await service.logged(({ msg }) => msg === 'not serving', from);
    const error = await failureOf(keyward.encrypt({ name: KEY, plaintext: Buffer.from('p') }));
    assert.deepEqual([error.code, error.reason], ['UNAVAILABLE', 'REPLICA_STALE']);
    assert.equal(
      await reasonOf(keyward.getTenant({ name: PARENT })),
      'REPLICA_STALE',
      'nor who may do what',
    );
    await postgres.restart();
    await eventually(() => keyward.encrypt({ name: KEY, plaintext: Buffer.from('p') }));
  });
});
