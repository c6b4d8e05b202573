/**
 * Conditions that keep a replica from its work: each made to happen, delivered, and ended.
 */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { runSql } from '../store/database.ts';
import {
  DEFAULT_WAITS,
  type Environment,
  eventually,
  newEnvironment,
  type Service,
  startService,
} from '../support/kit.ts';
import { hook, receiversIn, Webhook } from './rig.ts';

const given = new AsyncDisposableStack();
let environment: Environment;
let webhook: Webhook;
let service: Service;

before(async () => {
  environment = given.use(await newEnvironment());
  webhook = given.use(await Webhook.start());
  const receivers = [hook('hook', webhook, { alerts: undefined })];
  const variables = { ...receiversIn(environment, receivers), ...DEFAULT_WAITS };
  service = given.use(
    await startService(environment, {
      ...variables,
      KEYWARD_FIRST_ADMINISTRATOR: 'spiffe://keyward.test/first',
    }),
  );
});

after(() => given.disposeAsync());

/** Waits until the webhook was told that of that alert. */
function told(event: 'raised' | 'resolved', alert: string): Promise<void> {
  return eventually(() =>
    assert.ok(
      webhook.bodies.some(({ data }) => {
        const { alert: id, event: what } = data as Record<string, unknown>;
        return id === alert && what === event;
      }),
    ),
  );
}

const asOwner = (statement: string) => runSql(environment.urls.superuser, statement);

test('what a setting allows and should not stay is an alert, in production', async () => {
  await told('raised', 'checkpoint-not-kept');
  await told('raised', 'first-administrator-stands');
});

test('a replica that does not hear of changes is an alert until it does', async () => {
  await asOwner('REVOKE SELECT ON changes FROM keyward_service');
  await told('raised', 'replica-stale');
  await asOwner('GRANT SELECT ON changes TO keyward_service');
  await told('resolved', 'replica-stale');
});

test('entries that cannot be written are an alert until they can', async () => {
  await asOwner('REVOKE EXECUTE ON FUNCTION append_audit_rows FROM keyward_service');
  await service
    .client()
    .getMaintenance()
    .catch(() => {});
  await told('raised', 'audit-unavailable');
  await asOwner('GRANT EXECUTE ON FUNCTION append_audit_rows TO keyward_service');
  await told('resolved', 'audit-unavailable');
});

test('a token that no agent can open is an alert, without the PIN, until one can', async () => {
  const file = environment.variables['KEYWARD_HSM_PIN_FILE'] ?? '';
  const pin = readFileSync(file, 'utf8');
  writeFileSync(file, '99999999');
  for (const pid of service.agentPids) process.kill(pid, 'SIGKILL');
  await told('raised', 'hsm-unavailable');
  writeFileSync(file, pin);
  await told('resolved', 'hsm-unavailable');
  assert.ok(!JSON.stringify(webhook.bodies).includes(pin.trim()));
});
