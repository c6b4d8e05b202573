/**
 * The page that shows how the service is doing, over the wire, and what the plaintext listener for
 * operators says of the replica that it belongs to.
 */
import assert from 'node:assert/strict';
import { renameSync } from 'node:fs';
import { test } from 'node:test';
import type { KeywardClient, ServiceStatus } from 'keyward-client';
import { eventually, sharedService, startService } from '../support/kit.ts';
import { sql } from '../support/reconciling.ts';

let keyward: KeywardClient;
const shared = sharedService(async (client) => {
  keyward = client;
});

/** The page, once it is as `expected` throws no more. */
const pageWhen = (expected: (page: ServiceStatus) => void): Promise<ServiceStatus> =>
  eventually(async () => {
    const page = await keyward.getServiceStatus();
    expected(page);
    return page;
  });
const noProblem = ({ problems }: ServiceStatus) => assert.deepEqual(problems, []);

test('shows each part of a service that is well, and no problem', async () => {
  const page = await pageWhen((shown) => {
    noProblem(shown);
    assert.ok(shown.auditLog.checkpointTreeSize > 0);
    // It reported itself first when it was starting.
    assert.deepEqual(shown.replicas[0]?.problems, []);
  });
  const { replica, release, environmentUid, replicas, token, database, maintenance } = page;
  assert.ok(page.conditions.every(({ holds, problem }) => holds && problem === ''));
  assert.deepEqual(
    page.conditions.map(({ name }) => name),
    ['started', 'hsm', 'database', 'changes', 'audit', 'serving'],
  );
  const [only, ...others] = replicas;
  assert.deepEqual(others, []);
  const { uid, startTime, seenTime, ...reported } = only as (typeof replicas)[number];
  assert.match(uid, /^[0-9a-f-]{36}$/);
  assert.ok(startTime !== undefined && startTime <= seenTime);
  const agents = { agents: 1, agentsReady: 1 };
  assert.deepEqual(reported, { name: replica, release, running: true, ...agents, problems: [] });
  assert.match(replica, new RegExp(`/${shared.service.pid}$`));
  const { environmentUid: ofToken, label } = await keyward.getTokenStatus();
  assert.deepEqual([token?.label, token?.objects, token?.objections], [label, 4, []]);
  assert.equal(environmentUid, ofToken);
  assert.match(database.version, /^\d+/);
  assert.match(database.migration, /^\d{4}_/);
  const { paused, runningJobs, dueRotations, dueDestructions } = maintenance;
  assert.deepEqual([paused, runningJobs, dueRotations, dueDestructions], [false, 0, 0, 0]);
  assert.equal(page.auditLog.generation, 1);
  assert.deepEqual(page.auditLog.witnesses, []);
});

test('shows that maintenance is paused, and as paused what does not verify', async () => {
  const isPaused = ({ maintenance, problems }: ServiceStatus) => {
    assert.equal(maintenance.paused, true);
    assert.deepEqual(problems, ['automatic maintenance is paused']);
  };
  await keyward.pauseMaintenance();
  isPaused(await keyward.getServiceStatus());
  await sql(shared.environment, 'UPDATE maintenance SET paused = false');
  isPaused(await keyward.getServiceStatus());
  await keyward.resumeMaintenance();
  noProblem(await keyward.getServiceStatus());
});

test('shows other replicas as they report themselves: one that cannot serve, and one that is silent', async () => {
  // Rows under no seal: a writer of the database can make them up.
  const [{ tenant_id: tenantId } = { tenant_id: '' }] = await sql<{ tenant_id: string }>(
    shared.environment,
    'SELECT tenant_id FROM replicas',
  );
  const insert = (name: string, age: string, problems: readonly string[]) =>
    sql(
      shared.environment,
      `INSERT INTO replicas (tenant_id, replica_id, seen_at, held, name, release, agents,
         agents_ready, problems)
       VALUES ($1, gen_random_uuid(), now() - $2::interval + interval '5 s', '{}', $3, '0.2.0', 2, 0, $4)`,
      [tenantId, age, name, problems],
    );
  await insert('other/1', '0 s', ['no HSM agent is ready']);
  await insert('gone/2', '10 minutes', ['no HSM agent is ready']);
  // Of a release that reports nothing of itself.
  await sql(
    shared.environment,
    `INSERT INTO replicas (tenant_id, replica_id, seen_at, held)
     VALUES ($1, gen_random_uuid(), now() - interval '20 minutes', '{}')`,
    [tenantId],
  );
  const { replicas, problems } = await keyward.getServiceStatus();
  assert.deepEqual(problems, ['replica other/1: no HSM agent is ready']);
  const rows = replicas.map(({ name, running, agentsReady }) => [name, running, agentsReady]);
  assert.deepEqual(new Map(rows.map(([name, ...rest]) => [name, rest])).get('gone/2'), [false, 0]);
  assert.deepEqual(new Set(rows.slice(2).map(([name]) => name)), new Set(['gone/2', '']));
  await sql(
    shared.environment,
    "DELETE FROM replicas WHERE name IS NULL OR name ~ '^(other|gone)'",
  );
});

test('reports a replica without agents, and shows the rest of the page', async () => {
  const { environment } = shared;
  await using second = await startService(environment, {
    KEYWARD_METRICS_LISTEN: '127.0.0.1:0',
  });
  const probe = async (path: string) => {
    const answer = await fetch(`http://127.0.0.1:${second.operatorsPort}${path}`);
    return { status: answer.status, ...((await answer.json()) as object) };
  };
  const live = { status: 200, live: true };
  const ok = {
    started: 'ok',
    hsm: 'ok',
    database: 'ok',
    changes: 'ok',
    audit: 'ok',
    serving: 'ok',
  };
  assert.deepEqual(await probe('/readyz'), { status: 200, ready: true, conditions: ok });
  assert.deepEqual(await probe('/livez'), live);
  const client = second.client();
  // The caller's rights are verified by an agent, once.
  await client.getServiceStatus();
  const pin = environment.token.pinFile;
  renameSync(pin, `${pin}.away`);
  try {
    for (const pid of second.agentPids) process.kill(pid, 'SIGKILL');
    const problem = 'no HSM agent is ready';
    const page = await eventually(async () => {
      const shown = await client.getServiceStatus();
      assert.equal(shown.conditions.find(({ name }) => name === 'hsm')?.holds, false);
      return shown;
    });
    assert.equal(page.token, undefined);
    assert.equal(page.database.migration, (await keyward.getServiceStatus()).database.migration);
    const hsm = page.conditions.find(({ name }) => name === 'hsm');
    assert.deepEqual(hsm, { name: 'hsm', holds: false, problem });
    assert.deepEqual(page.problems, [`replica ${page.replica}: ${problem}`]);
    assert.deepEqual(await probe('/readyz'), {
      ...{ status: 503, ready: false },
      conditions: { ...ok, hsm: problem },
    });
    assert.deepEqual(await probe('/livez'), live);
    // The other replica hears of it.
    const other = new RegExp(`^replica \\S+/${second.pid}: ${problem}$`);
    await pageWhen(({ problems }) => assert.match(problems.join('\n'), other));
  } finally {
    renameSync(`${pin}.away`, pin);
  }
  await second.stop();
  await pageWhen(noProblem);
});
