/**
 * When entries can't be written: nothing is answered but that. When everything is killed: no
 * acknowledged call is without its entry.
 */
import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect, type KeywardClient } from 'keyward-client';
import pg from 'pg';
import { monotonicNow } from '../../src/call.ts';
import {
  DEFAULT_WAITS,
  type Environment,
  eventually,
  failureOf,
  newEnvironment,
  reasonOf,
  type Service,
  sharedService,
  startService,
} from '../support/kit.ts';
import { sql } from '../support/reconciling.ts';
import { wholeLog } from './whole-log.ts';

const KEY = 'tenants/acme/keys/mail';
/** So often everything is killed under load; more in `test/long/audit-kills.test.ts`. */
const ROUNDS = Number(process.env['KEYWARD_TEST_ROUNDS'] ?? 1);
/** So that callers leave the processor to the servers that start. */
const BETWEEN_CALLS_MS = 20;
let keyward: KeywardClient;

async function prepare(client: KeywardClient): Promise<void> {
  await client.createTenant({ tenantId: 'acme' });
  await client.createKey({ parent: 'tenants/acme', keyId: 'mail' });
}

const encrypt = (client: KeywardClient, name = 'n') =>
  client.encrypt({ name: KEY, plaintext: Buffer.from('x'), encryptionContext: { [name]: '' } });

describe('case 96: entries that can not be written', () => {
  const shared = sharedService(async (client) => {
    keyward = client;
    await prepare(client);
    await encrypt(client);
  }, DEFAULT_WAITS);

  test('refused by the database: UNAVAILABLE, and nothing is handed out, until they can', async () => {
    const { ciphertext } = await encrypt(keyward);
    const revoke = 'REVOKE INSERT ON audit_inbox FROM keyward_service, keyward_reconciler';
    await sql(shared.environment, revoke);
    try {
      const opening = keyward.decrypt({
        parent: 'tenants/acme',
        ciphertext,
        encryptionContext: { n: '' },
      });
      const failure = await failureOf(opening);
      assert.equal(failure.reason, 'AUDIT_UNAVAILABLE');
      assert.equal(failure.code, 'UNAVAILABLE');
      assert.equal(await reasonOf(keyward.getKey({ name: KEY })), 'AUDIT_UNAVAILABLE');
    } finally {
      await sql(shared.environment, revoke.replace('REVOKE', 'GRANT').replace('FROM', 'TO'));
    }
    await encrypt(keyward);
  });

  test('by a database that hangs: the same within half a second, for each of many', async () => {
    const blocker = new pg.Client({ connectionString: shared.environment.urls.superuser });
    await blocker.connect();
    try {
      await blocker.query('BEGIN; LOCK TABLE audit_inbox IN ACCESS EXCLUSIVE MODE');
      await eventually(async () => {
        const waits = await Promise.all(
          Array.from({ length: 50 }, async (_, index) => {
            await sleep(index * 20);
            const began = monotonicNow();
            assert.equal(await reasonOf(encrypt(keyward)), 'AUDIT_UNAVAILABLE');
            return monotonicNow() - began;
          }),
        );
        // Half a second, and what two busy cores take to say so.
        assert.ok(Math.max(...waits) < 900, `${Math.max(...waits)} ms`);
      });
    } finally {
      await blocker.end();
    }
    await eventually(() => encrypt(keyward));
  });
});

describe('refusals', () => {
  let stranger: KeywardClient;
  const shared = sharedService(prepare);

  before(() => {
    const other = shared.environment.ca.issue({
      subject: 'stranger',
      usage: 'client',
      uris: ['spiffe://keyward.test/stranger'],
    });
    stranger = connect({
      ...shared.service.connectOptions(other),
      retries: 0,
      defaultTimeoutMs: 30_000,
    });
  });

  test('case 28: have an entry, as denied, with what is missing', async () => {
    assert.equal(await reasonOf(encrypt(stranger)), 'RESOURCE_NOT_FOUND');
    const entries = await sql<{ entry: Record<string, unknown> }>(
      shared.environment,
      "SELECT entry FROM audit_entries WHERE caller = 'spiffe://keyward.test/stranger'",
    );
    const [{ entry } = { entry: {} }] = entries;
    assert.equal(entries.length, 1);
    assert.deepEqual(
      [entry['tenant'], entry['decision'], entry['outcome'], entry['resource']],
      // Who has nothing in a tenant writes nothing in its log.
      ['system', 'denied', 'RESOURCE_NOT_FOUND', KEY],
    );
  });

  test('in floods become few entries, which say how many they were', async () => {
    const before = await countedOf(shared.environment);
    const calls = 600;
    await Promise.all(
      Array.from({ length: calls }, async () => {
        assert.equal(await reasonOf(encrypt(stranger)), 'RESOURCE_NOT_FOUND');
      }),
    );
    const { entries, calls: counted } = await countedOf(shared.environment);
    assert.equal(counted - before.calls, calls);
    assert.ok(entries - before.entries < calls / 3, `${entries - before.entries} entries`);
    stranger.close();
  });
});

async function countedOf(environment: Environment): Promise<{ entries: number; calls: number }> {
  const [row] = await sql<{ entries: number; calls: number }>(
    environment,
    `SELECT count(*)::int AS entries, coalesce(sum(coalesce((entry ->> 'count')::int, 1)), 0)::int AS calls
     FROM audit_entries WHERE caller = 'spiffe://keyward.test/stranger'`,
  );
  return row ?? { entries: 0, calls: 0 };
}

test('who is not known has an entry, too: anonymous, denied', async () => {
  await using environment = await newEnvironment();
  const { writeFileSync } = await import('node:fs');
  const { join } = await import('node:path');
  const { createHash, X509Certificate } = await import('node:crypto');
  const denied = environment.ca.issue({ subject: 'denied', usage: 'client' });
  const file = join(environment.directory, 'denied');
  writeFileSync(
    file,
    createHash('sha256').update(new X509Certificate(denied.certPem).raw).digest('hex'),
  );
  await using service = await startService(environment, { KEYWARD_CERTIFICATE_DENY_FILE: file });
  using client = connect({ ...service.connectOptions(denied), retries: 0 });
  assert.equal(await reasonOf(client.getKey({ name: KEY })), 'CERTIFICATE_DENIED');
  const [row] = await sql<{ entry: Record<string, unknown> }>(
    environment,
    "SELECT entry FROM audit_entries WHERE outcome = 'CERTIFICATE_DENIED'",
  );
  assert.equal(row?.entry['caller'], 'CN=denied');
  assert.equal(row?.entry['decision'], 'denied');
  assert.equal(row?.entry['method'], 'keyward.v1.KeyService/GetKey');
});

/** Calls one after another until told to stop; the names that were acknowledged. */
async function load(
  next: () => KeywardClient,
  prefix: string,
  until: AbortSignal,
): Promise<string[]> {
  const acknowledged: string[] = [];
  for (let index = 0; !until.aborted; index++) {
    const name = `${prefix}-${index}`;
    await encrypt(next(), name).then(
      () => acknowledged.push(name),
      () => {},
    );
    await sleep(BETWEEN_CALLS_MS);
  }
  return acknowledged;
}

test('no acknowledged call is without its entry, whatever is killed under load', async () => {
  await using environment = await newEnvironment();
  const start = () => startService(environment, { KEYWARD_HSM_AGENTS: '2' });
  const services: [Service, Service] = [await start(), await start()];
  const ever: Service[] = [...services];
  const clients = services.map((service) => service.client({ defaultTimeoutMs: 5_000 }));
  await prepare(clients[0] as KeywardClient);
  const stopping = new AbortController();
  const loads = Array.from({ length: 12 }, (_, index) =>
    load(() => clients[index % 2] as KeywardClient, `w${index}`, stopping.signal),
  );
  const pause = () => sleep(400 + Math.random() * 400);
  for (let round = 0; round < ROUNDS; round++) {
    for (const index of [0, 1] as const) {
      await pause();
      await services[index].kill();
      clients[index]?.close();
      services[index] = await start();
      ever.push(services[index]);
      clients[index] = services[index].client({ defaultTimeoutMs: 5_000 });
    }
    await pause();
    await sql(
      environment,
      'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()',
    );
    await pause();
    for (const pid of services[round % 2]?.agentPids ?? []) process.kill(pid, 'SIGKILL');
  }
  await pause();
  stopping.abort();
  const acknowledged = (await Promise.all(loads)).flat();
  await eventually(async () => {
    const [row] = await sql<{ n: number }>(
      environment,
      'SELECT count(*)::int AS n FROM audit_inbox',
    );
    assert.equal(row?.n, 0);
  });
  for (const service of services) await service.stop();
  const lines = await wholeLog(environment.urls.superuser);
  const logged = new Map<string, number>();
  const alerts = ever.flatMap(({ log }) => log.filter(({ alert }) => alert === 'audit-inbox'));
  assert.deepEqual(alerts, []);
  assert.deepEqual(
    lines.filter((line) => line.includes('VerifyAuditRows')),
    [],
    'no row is missed, doubled or doubted',
  );
  for (const line of lines) {
    const { context = {}, outcome } = JSON.parse(line) as { context?: object; outcome: string };
    if (outcome !== 'OK') continue;
    for (const name of Object.keys(context)) logged.set(name, (logged.get(name) ?? 0) + 1);
  }
  assert.ok(acknowledged.length > 50 * ROUNDS, `${acknowledged.length} calls`);
  assert.deepEqual(
    acknowledged.filter((name) => logged.get(name) !== 1),
    [],
  );
});
