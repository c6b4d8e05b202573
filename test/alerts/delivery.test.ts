/**
 * Alerts as they reach those who are to hear of them: real web, mail and syslog servers, and the
 * service as a process.
 */
import assert from 'node:assert/strict';
import { createHmac, randomBytes } from 'node:crypto';
import { after, before, test } from 'node:test';
import type { KeywardClient } from 'keyward-client';
import {
  type Environment,
  eventually,
  newEnvironment,
  reasonOf,
  type Service,
  startService,
} from '../support/kit.ts';
import {
  Collector,
  DatagramCollector,
  hook,
  MailServer,
  receiversIn,
  secretIn,
  tamper,
  Webhook,
} from './rig.ts';

const CONDITION = 'maintenance-corrupt';
const ROUTING_KEY = 'R0123456789ABCDEF0123456789ABCDE';
const PASSWORD = 'correct horse';
const CHAT_PATH = '/services/T0/B0/secret-part';

const given = new AsyncDisposableStack();
let environment: Environment;
let service: Service;
let keyward: KeywardClient;
let chat: Webhook;
let pager: Webhook;
let manager: Webhook;
let events: Webhook;
let flaky: Webhook;
let mail: MailServer;
let tcp: Collector;
let tls: Collector;
let udp: DatagramCollector;
const signingKey = randomBytes(32);

before(async () => {
  environment = given.use(await newEnvironment());
  const credentials = environment.ca.issue({
    subject: 'receiver',
    usage: 'server',
    dns: ['localhost'],
  });
  [chat, pager, manager, events, flaky] = await Promise.all([
    Webhook.start(credentials),
    Webhook.start(),
    Webhook.start(),
    Webhook.start(),
    Webhook.start(),
  ]);
  mail = await MailServer.start(credentials, PASSWORD);
  tcp = await Collector.start();
  tls = await Collector.start(credentials);
  udp = given.use(await DatagramCollector.start());
  for (const server of [chat, pager, manager, events, flaky, mail, tcp, tls]) given.use(server);
  service = given.use(await startService(environment, receiversIn(environment, receivers())));
  keyward = service.client();
});

after(() => given.disposeAsync());

function receivers(): readonly object[] {
  const caFile = environment.variables['KEYWARD_TLS_CLIENT_CA_FILE'];
  const private_ = { allowPrivateNetwork: true, alerts: [CONDITION] };
  const chatUrl = `https://localhost:${chat.port}${CHAT_PATH}`;
  const signingKeyFile = secretIn(
    environment,
    'signing-key',
    `whsec_${signingKey.toString('base64')}\n`,
  );
  const syslog = { type: 'syslog', ...private_ };
  return [
    {
      ...{ name: 'chat', type: 'webhook', template: 'slack', ...private_, caFile },
      urlFile: secretIn(environment, 'chat-url', chatUrl),
    },
    hook('pager', pager, {
      template: 'pagerduty',
      routingKeyFile: secretIn(environment, 'routing-key', ROUTING_KEY),
    }),
    hook('manager', manager, {
      template: 'alertmanager',
      url: `http://127.0.0.1:${manager.port}/below`,
      authorizationFile: secretIn(environment, 'authorization', 'Bearer manager-token'),
    }),
    hook('events', events, { signingKeyFile }),
    hook('flaky', flaky, { alerts: [CONDITION] }),
    hook('unconcerned', events, { alerts: ['policy-corrupt'] }),
    {
      ...{ name: 'mail', type: 'email', host: 'localhost', port: mail.port, ...private_, caFile },
      ...{ from: 'keyward@example.com', to: ['operators@example.com'], username: 'keyward' },
      passwordFile: secretIn(environment, 'password', PASSWORD),
    },
    { name: 'log-tcp', transport: 'tcp', host: '127.0.0.1', port: tcp.port, ...syslog },
    { name: 'log-tls', transport: 'tls', host: 'localhost', port: tls.port, caFile, ...syslog },
    { name: 'log-udp', transport: 'udp', host: '127.0.0.1', port: udp.port, ...syslog },
    {
      ...{ name: 'inside', type: 'webhook', template: 'cloudevents', alerts: [] },
      url: `https://localhost:${chat.port}/`,
    },
    {
      ...{ name: 'metadata', type: 'webhook', template: 'cloudevents', alerts: [] },
      url: 'https://[::ffff:169.254.169.254]/latest',
    },
  ];
}

test('an alert reaches every kind of receiver in its form, and that it has ended does too', async () => {
  flaky.status = () => {
    if (flaky.told.length === 1) return 500;
    return flaky.told.length === 2 ? undefined : 200;
  };
  await tamper(environment, keyward);
  await eventually(() => {
    assert.equal(mail.mails.length, 1);
    for (const { told } of [chat, pager, manager, events]) assert.equal(told.length, 1);
    for (const { messages } of [tcp, tls, udp]) assert.equal(messages.length, 1);
  });
  await tamper(environment, keyward);
  await eventually(() => {
    assert.equal(mail.mails.length, 2);
    for (const { told } of [chat, pager, manager, events]) assert.equal(told.length, 2);
    for (const { messages } of [tcp, tls, udp]) assert.equal(messages.length, 2);
  });

  const [first, second] = chat.bodies;
  assert.match(String(first?.['text']), /^the maintenance switch failed verification/);
  assert.match(String(second?.['text']), /^ended: the maintenance switch/);
  assert.equal(chat.told[0]?.path, CHAT_PATH);

  const [trigger, resolve] = pager.bodies;
  assert.equal(trigger?.['event_action'], 'trigger');
  assert.equal(trigger?.['routing_key'], ROUTING_KEY);
  assert.match(JSON.stringify(trigger?.['payload']), /"severity":"critical"/);
  assert.deepEqual(
    [resolve?.['event_action'], resolve?.['dedup_key']],
    ['resolve', trigger?.['dedup_key']],
  );

  assert.deepEqual(
    manager.told.map(({ path, headers }) => [path, headers.authorization]),
    [1, 2].map(() => ['/below/api/v2/alerts', 'Bearer manager-token']),
  );
  type Managed = { labels: Record<string, string>; startsAt: string; endsAt: string };
  const [firing, ended] = manager.told.map(({ body }) => (JSON.parse(body) as Managed[])[0]);
  assert.equal(firing?.labels['alertname'], CONDITION);
  assert.deepEqual(ended?.labels, firing?.labels);
  assert.ok(Date.parse(firing?.endsAt ?? '') > Date.now());
  assert.ok(Date.parse(ended?.endsAt ?? '') <= Date.now() + 60_000);

  for (const { text, isSecure, user } of mail.mails) {
    assert.equal(isSecure, true);
    assert.equal(user, 'keyward');
    assert.match(text, /^To: operators@example\.com\r$/m);
  }
  assert.match(
    mail.mails[0]?.text ?? '',
    /^Subject: \[keyward\] critical: the maintenance switch/m,
  );

  for (const { messages } of [tcp, tls, udp])
    assert.deepEqual(
      messages.map(
        (message) => /^<\d+>1 \S+Z \S+ keyward \d+ [a-z-]+ - \ufeff/.exec(message)?.length,
      ),
      [1, 1],
    );
  assert.match(tcp.messages[0] ?? '', /^<34>1 /);
  assert.match(tcp.messages[1] ?? '', /^<37>1 .*ended: /);
});

test('a webhook is signed by Standard Webhooks, and each event has an id of its own', () => {
  for (const { headers, body } of events.told) {
    const { 'webhook-id': id, 'webhook-timestamp': timestamp } = headers;
    const expected = createHmac('sha256', signingKey).update(`${id}.${timestamp}.${body}`);
    assert.equal(headers['webhook-signature'], `v1,${expected.digest('base64')}`);
    assert.ok(Math.abs(Date.now() / 1_000 - Number(timestamp)) < 3_600);
  }
  assert.equal(new Set(events.told.map(({ headers }) => headers['webhook-id'])).size, 2);
  const [raised, resolved] = events.bodies;
  assert.equal(raised?.['type'], 'keyward.alert.raised');
  assert.equal(resolved?.['type'], 'keyward.alert.resolved');
  assert.match(JSON.stringify(raised), /"problem":"its seal does not match"/);
});

test('a receiver that fails or hangs is tried again, and holds up no other', async () => {
  await eventually(() => {
    const ids = flaky.told.map(({ headers }) => String(headers['webhook-id']));
    // 500, no answer, taken; then that it has ended.
    assert.equal(ids.length, 4);
    assert.equal(new Set(ids.slice(0, 3)).size, 1);
    assert.match(ids[3] ?? '', /-resolved$/);
  });
});

test('a host that leads into the machine’s own network is refused, by name and by address', async () => {
  for (const receiver of ['inside', 'metadata']) {
    const { tests } = await keyward.testAlert({ receiver });
    assert.equal(tests[0]?.delivered, false);
    assert.match(tests[0]?.answer ?? '', /which is not an address of the internet/);
  }
});

test('a test says what each receiver answered, and follows no redirect', async () => {
  const before = events.told.length;
  events.status = () => 302;
  const { tests } = await keyward.testAlert({ receiver: 'events' });
  assert.deepEqual(tests, [
    { receiver: 'events', delivered: false, answer: 'it answers with status 302' },
  ]);
  events.status = () => 200;
  assert.equal(events.told.length, before + 1);
  const { tests: all } = await keyward.testAlert();
  assert.equal(all.length, receivers().length);
  const taken = all.filter(({ delivered }) => delivered).map(({ receiver }) => receiver);
  assert.equal(taken.length, all.length - 2);
  const last = events.bodies.at(-1) as { data: { alert: string } };
  assert.equal(last.data.alert, 'test-alert');
  assert.equal(await reasonOf(keyward.testAlert({ receiver: 'none' })), 'RESOURCE_NOT_FOUND');
});

test('alerts are listed, each once, with how often it was found', async () => {
  const found: string[] = [];
  for await (const { alert, subject, state, resolveTime } of keyward.alerts())
    found.push(`${alert} ${subject} ${state} ${resolveTime !== undefined}`);
  const own = found.filter((each) => each.startsWith(CONDITION));
  assert.deepEqual(own, [`${CONDITION} maintenance RESOLVED true`]);
  const { alerts } = await keyward.listAlerts({ filter: 'state = ACTIVE AND severity = CRITICAL' });
  assert.deepEqual(alerts, []);
});

test('nothing secret is in the log, whatever a receiver answers', () => {
  const log = service.log.map((line) => JSON.stringify(line)).join('\n');
  for (const secret of [ROUTING_KEY, PASSWORD, CHAT_PATH, 'manager-token', 'whsec_'])
    assert.ok(!log.includes(secret), secret);
});
