/**
 * Every alert of the table, from where it is raised to a web server, by way of a real database.
 * That each is raised is held by the tests that test/documents/alerts.test.ts names.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AlertOutbox } from '../../src/alerts/outbox.ts';
import { parseReceivers } from '../../src/alerts/receivers.ts';
import type { TenantId } from '../../src/ids.ts';
import { ALERTS, type AlertId, AlertSignals } from '../../src/signals/alerts.ts';
import { migratedDatabase } from '../store/database.ts';
import { eventually } from '../support/kit.ts';
import { hook, Webhook } from './rig.ts';

const IDS = Object.keys(ALERTS) as AlertId[];
const QUIET = { info: () => {}, warn: () => {}, error: () => {}, fatal: () => {} };

test('every alert that there is reaches a receiver, with its severity, its subject and what to do', async () => {
  await using database = await migratedDatabase();
  await using webhook = await Webhook.start();
  const store = await database.open();
  const [system] = await database.sql<{ tenant_id: TenantId }>('SELECT tenant_id FROM tenants');
  assert.ok(system);
  const more = { alerts: undefined, minimumSeverity: 'info' };
  const receivers = parseReceivers(JSON.stringify({ receivers: [hook('all', webhook, more)] }));
  const alerts = new AlertSignals(QUIET);
  const outbox = new AlertOutbox({
    ...{ store, systemTenantId: system.tenant_id, replica: 'a test', alerts, log: QUIET },
    environmentId: '018f0000-0000-4000-8000-000000000009',
    receivers: () => receivers,
    silences: { covers: () => false, follow: async () => {} },
  });
  alerts.listen(outbox);
  outbox.start();
  try {
    for (const id of IDS) alerts.raise(id, `what ${id} is about`, { seconds: 1 });
    const told = () =>
      webhook.bodies.map((body) => {
        const { alert, subject, severity, remedy } = body['data'] as Record<string, string>;
        return { alert, subject, severity, hasRemedy: (remedy ?? '') !== '' };
      });
    const expected = IDS.map((alert) => {
      const { severity } = ALERTS[alert];
      return { alert, subject: `what ${alert} is about`, severity, hasRemedy: true };
    });
    const byAlert = (a: { alert?: string | undefined }, b: { alert?: string | undefined }) =>
      String(a.alert) < String(b.alert) ? -1 : 1;
    await eventually(() => assert.equal(told().length, IDS.length));
    assert.deepEqual(told().sort(byAlert), expected.sort(byAlert));
  } finally {
    await outbox.stop();
    await store.close();
  }
});
