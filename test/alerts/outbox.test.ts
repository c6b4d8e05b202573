/**
 * What becomes of an alert when replicas end, receivers do not take it, the database is away, or an
 * administrator does not want to hear of it.
 */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import type { KeywardClient } from 'keyward-client';
import { runSql } from '../store/database.ts';
import { startProxy } from '../store/proxy.ts';
import {
  DEFAULT_WAITS,
  type Environment,
  eventually,
  newEnvironment,
  reasonOf,
  type Service,
  startService,
} from '../support/kit.ts';
import { hook, receiversIn, tamper, Webhook } from './rig.ts';

const CONDITION = 'maintenance-corrupt';
const SUBJECT = 'maintenance';

let environment: Environment;
let webhook: Webhook;

before(async () => {
  environment = await newEnvironment();
});

after(() => environment?.[Symbol.asyncDispose]());

beforeEach(async () => {
  webhook = await Webhook.start();
});

afterEach(async () => {
  await webhook?.[Symbol.asyncDispose]();
  await runSql(environment.urls.superuser, 'DELETE FROM alerts');
});

const start = (receivers: readonly object[], more: Readonly<Record<string, string>> = {}) =>
  startService(environment, { ...receiversIn(environment, receivers), ...more });

const raised = (alert: string) => `raised ${alert}`;
const resolved = (alert: string) => `resolved ${alert}`;

/** What a webhook was told: `raised maintenance-corrupt`, in the order in which it came. */
const told = ({ bodies }: Webhook) =>
  bodies.map((body) => {
    const { event, alert } = body['data'] as Record<string, string>;
    return `${event} ${alert}`;
  });

const deliveries = () =>
  runSql<{ receiver: string; event: string; state: string }>(
    environment.urls.superuser,
    'SELECT receiver, event, state FROM alert_deliveries ORDER BY receiver, event',
  );

/** As if the time that a replica has to deliver what it has taken up were over. */
const letGo = () =>
  runSql(environment.urls.superuser, 'UPDATE alert_deliveries SET next_attempt_at = now()');

test('an alert is delivered though the replica that found it is killed before it was', async () => {
  webhook.status = () => undefined;
  const receivers = [hook('hook', webhook)];
  const victim = await start(receivers);
  try {
    await tamper(environment, victim.client());
    await eventually(() => assert.equal(webhook.told.length, 1));
  } finally {
    await victim.kill();
  }
  webhook.status = () => 200;
  await letGo();
  await using service = await start(receivers);
  await eventually(() => assert.equal(webhook.told.length, 2));
  const ids = webhook.told.map(({ headers }) => headers['webhook-id']);
  assert.equal(ids[0], ids[1]);
  // Another replica finds that it has ended.
  await tamper(environment, service.client());
  await eventually(() => assert.deepEqual(told(webhook).slice(2), [resolved(CONDITION)]));
});

describe('with two replicas', () => {
  let one: Service;
  let other: Service;
  let keyward: KeywardClient;
  let second: Webhook;

  beforeEach(async () => {
    second = await Webhook.start();
    const receivers = [hook('hook', webhook), hook('second', second, { giveUpAfterSeconds: 5 })];
    [one, other] = await Promise.all([start(receivers), start(receivers)]);
    keyward = one.client();
  });

  afterEach(async () => {
    await Promise.all([one, other].map((service) => service?.[Symbol.asyncDispose]()));
    await second?.[Symbol.asyncDispose]();
  });

  test('what both find is one alert, delivered once, and one that does not take it is an alert', async () => {
    second.status = () => 503;
    await tamper(environment, keyward);
    for (let count = 0; count < 5; count++)
      await Promise.all([keyward, other.client()].map((client) => client.getMaintenance()));
    // Given up, of which the other receiver hears.
    await eventually(() =>
      assert.deepEqual(told(webhook), [raised(CONDITION), raised('alert-undelivered')]),
    );
    assert.ok(second.told.length > 1);
    assert.deepEqual(await deliveries(), [
      { receiver: 'hook', event: 'raised', state: 'DELIVERED' },
      { receiver: 'hook', event: 'raised', state: 'DELIVERED' },
      { receiver: 'second', event: 'raised', state: 'DEAD' },
    ]);
    const { alerts } = await keyward.listAlerts({ filter: `alert = ${CONDITION}` });
    assert.equal(alerts.length, 1);
    const [failure] = alerts[0]?.deliveryFailures ?? [];
    assert.equal(failure?.receiver, 'second');
    assert.equal(failure?.givenUp, true);
    assert.equal(failure?.failure, 'it answers with status 503');
    // It takes the next one, so it is well again.
    second.status = () => 200;
    await tamper(environment, keyward);
    await eventually(() =>
      assert.deepEqual(told(webhook).slice(2).sort(), [
        resolved('alert-undelivered'),
        resolved(CONDITION),
      ]),
    );
  });

  test('what is silenced is not delivered, until the silence ends', async () => {
    const expireTime = new Date(Date.now() + 3_600_000);
    const { name, creator } = await keyward.silenceAlert({
      alert: CONDITION,
      expireTime,
      reason: 'a drill',
    });
    assert.match(creator, /tester/);
    // On the other replica too, once it has heard of it: of one that is delivered nowhere.
    await runSql(
      environment.urls.superuser,
      `INSERT INTO alerts (tenant_id, alert_id, condition, subject, severity, count, replica, fields,
         raised_is_planned)
       SELECT tenant_id, gen_random_uuid(), $1, 'another', 'critical', 1, 'r', '{}', true FROM maintenance`,
      [CONDITION],
    );
    await eventually(async () => {
      const { alerts } = await other.client().listAlerts();
      assert.ok(alerts.find(({ subject }) => subject === 'another')?.silenced);
    });
    await eventually(async () => {
      const { alertSilences } = await other.client().listAlertSilences();
      assert.deepEqual(
        alertSilences.map((each) => [each.name, each.reason]),
        [[name, 'a drill']],
      );
    });
    await tamper(environment, keyward);
    await eventually(async () => {
      const { alerts } = await keyward.listAlerts({ filter: `subject = ${SUBJECT}` });
      assert.deepEqual(
        alerts.map(({ alert, silenced }) => [alert, silenced]),
        [[CONDITION, true]],
      );
    });
    // Another kind is delivered, after which this one would have been.
    await runSql(
      environment.urls.superuser,
      `INSERT INTO alerts (tenant_id, alert_id, condition, subject, severity, count, replica, fields)
       SELECT tenant_id, gen_random_uuid(), 'token-object', 'x', 'critical', 1, 'r', '{}' FROM maintenance`,
    );
    await eventually(() => assert.deepEqual(told(webhook), [raised('token-object')]));
    await keyward.deleteAlertSilence({ name });
    assert.equal(await reasonOf(keyward.deleteAlertSilence({ name })), 'RESOURCE_NOT_FOUND');
    await eventually(() => assert.deepEqual(told(webhook).slice(1), [raised(CONDITION)]));
    await tamper(environment, keyward);
    await eventually(() => assert.deepEqual(told(webhook).slice(2), [resolved(CONDITION)]));
  });

  test('of one kind of alert a hundred are delivered within an hour, and then what that means', async () => {
    await runSql(
      environment.urls.superuser,
      `INSERT INTO alerts (tenant_id, alert_id, condition, subject, severity, count, replica, fields, state,
         resolved_at, raised_is_planned, resolved_is_planned)
       SELECT tenant_id, gen_random_uuid(), $1, 's' || n, 'critical', 1, 'r', '{}', 'RESOLVED', now(), true, true
       FROM maintenance, generate_series(1, 100) n`,
      [CONDITION],
    );
    await tamper(environment, keyward);
    await eventually(() => assert.deepEqual(told(webhook), [raised('alerts-too-many')]));
    await tamper(environment, keyward);
    await eventually(async () => {
      const { alerts } = await keyward.listAlerts({
        filter: `alert = ${CONDITION} AND subject = maintenance`,
      });
      assert.equal(alerts[0]?.state, 'RESOLVED');
    });
    assert.deepEqual(told(webhook), [raised('alerts-too-many')]);
  });

  test('a writer of the database silences nothing', async () => {
    const silence = {
      ...{ silenceId: '0190a0a0-0000-4000-8000-000000000000', condition: CONDITION, subject: '' },
      ...{ until: '2999-01-01T00:00:00Z', createdAt: '2020-01-01T00:00:00Z', reason: '' },
      creator: 'intruder',
    };
    await keyward.silenceAlert({
      alert: 'token-object',
      expireTime: new Date(Date.now() + 3_600_000),
    });
    await runSql(
      environment.urls.superuser,
      'UPDATE alert_silences SET content = $1, revision = revision + 1',
      [JSON.stringify([silence])],
    );
    await eventually(() => assert.ok(told(webhook).includes(raised('silences-corrupt'))));
    assert.equal(await reasonOf(keyward.listAlertSilences()), 'ALERT_SILENCES_CORRUPT');
    await tamper(environment, keyward);
    await eventually(() => assert.ok(told(webhook).includes(raised(CONDITION))));
    await tamper(environment, keyward);
    // Setting one seals the list again: with that one alone.
    const { name } = await keyward.silenceAlert({
      alert: 'token-object',
      expireTime: new Date(Date.now() + 3_600_000),
    });
    const { alertSilences } = await keyward.listAlertSilences();
    assert.deepEqual(
      alertSilences.map((each) => each.name),
      [name],
    );
    await keyward.deleteAlertSilence({ name });
  });
});

/** As if another replica found that `hook` takes nothing, just when this one begins to deliver. */
const FOUND_MEANWHILE = `
  CREATE FUNCTION found_meanwhile() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
  BEGIN
    INSERT INTO alerts (tenant_id, replica, alert_id, condition, subject, severity, count, fields,
      first_at, raised_is_planned)
    SELECT tenant_id, 'another', gen_random_uuid(), 'alert-undelivered', 'hook', 'critical', 1, '{}',
      clock_timestamp(), true FROM maintenance;
    RETURN NEW;
  END $$;
  CREATE TRIGGER found_meanwhile AFTER UPDATE OF attempts ON alert_deliveries
    FOR EACH ROW EXECUTE FUNCTION found_meanwhile()`;

test('a receiver that takes an alert is well, though another replica has only just found that it is not', async () => {
  const asOwner = (statement: string) =>
    runSql<{ state: string }>(environment.urls.superuser, statement);
  await using service = await start([hook('hook', webhook)]);
  await asOwner(FOUND_MEANWHILE);
  try {
    await tamper(environment, service.client());
    await eventually(() => assert.deepEqual(told(webhook), [raised(CONDITION)]));
  } finally {
    await asOwner('DROP FUNCTION found_meanwhile CASCADE');
  }
  await eventually(async () => {
    const found = await asOwner("SELECT state FROM alerts WHERE condition = 'alert-undelivered'");
    assert.deepEqual(found, [{ state: 'RESOLVED' }]);
  });
  await tamper(environment, service.client());
});

test('while the database is away an alert is delivered all the same, and recorded afterwards', async () => {
  await using proxy = await startProxy(environment.urls.service);
  const receivers = [hook('hook', webhook, { alerts: ['database-away'] })];
  await using service = await start(receivers, {
    ...DEFAULT_WAITS,
    DATABASE_URL: proxy.through(environment.urls.service),
  });
  proxy.accept('refuse');
  proxy.cutAll();
  await eventually(() =>
    assert.ok(told(webhook).includes(raised('database-away')), told(webhook).join()),
  );
  proxy.accept('pass');
  await eventually(() => assert.ok(told(webhook).includes(resolved('database-away'))));
  // The receiver has it a moment before the database knows.
  await eventually(async () => {
    const rows = (await deliveries()).filter(({ receiver }) => receiver === 'hook');
    assert.ok(rows.every(({ state }) => state === 'DELIVERED'));
  });
  const first = webhook.bodies.filter(({ data }) =>
    JSON.stringify(data).includes('"alert":"database-away","event":"raised"'),
  );
  assert.equal(first.length, 1);
  assert.equal(service.log.filter(({ alert }) => alert === 'database-away').length, 1);
});

test('another file of receivers holds once it was written whole; one with a mistake does not', async () => {
  await using service = await start([hook('hook', webhook)]);
  await using other = await Webhook.start();
  const path = join(environment.directory, 'receivers.json');
  writeFileSync(path, '{"receivers":[{"name":"hook","type":"webhook"}]}');
  await service.logged(({ msg }) => /^cannot read the receivers of alerts/.test(String(msg)));
  const [tested] = (await service.client().testAlert()).tests;
  assert.equal(tested?.receiver, 'hook');
  writeFileSync(path, JSON.stringify({ receivers: [hook('another', other)] }));
  await service.logged(({ msg }) => msg === 'read the receivers of alerts again');
  const { tests } = await service.client().testAlert();
  assert.deepEqual(tests, [{ receiver: 'another', delivered: true, answer: 'status 200' }]);
});
