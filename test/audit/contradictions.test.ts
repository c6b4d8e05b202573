/**
 * A log that was rewritten behind the service's back, with everything in the database that could
 * tell: the agents remember what they have signed, and sign nothing that does not continue it.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { KeywardClient } from 'keyward-client';
import {
  type Environment,
  eventually,
  newEnvironment,
  type Service,
  startService,
} from '../support/kit.ts';
import { sql } from '../support/reconciling.ts';
import { rewriteLog } from './database-writer.ts';

const VARIABLES = { KEYWARD_AUDIT_CHECKPOINT_MS: '250', KEYWARD_HSM_AGENTS: '2' };
const LAST_TEN = `DELETE FROM audit_log WHERE leaf_index >= (SELECT max(leaf_index) - 9 FROM audit_log)`;
const ONE_ENTRY = `UPDATE audit_log SET leaf = replace(leaf, '"outcome":"OK"', '"outcome":"NO"')
  WHERE leaf_index = 5`;

const encrypt = async (client: KeywardClient, count: number) => {
  for (let index = 0; index < count; index++)
    await client.encrypt({ name: 'tenants/acme/keys/mail', plaintext: Buffer.from('x') });
};

async function signedOver(environment: Environment, size: number): Promise<void> {
  await eventually(async () => {
    const [row] = await sql<{ size: number }>(
      environment,
      'SELECT max(tree_size)::int AS size FROM audit_checkpoints',
    );
    assert.ok((row?.size ?? 0) > size, `${row?.size}`);
  });
}

/** Whoever would extend the log finds it contradicted again and again, and nothing is signed. */
async function assertUnsigned(service: Service, environment: Environment): Promise<void> {
  await service.logged(({ alert }) => alert === 'audit-log-contradicted');
  const turns = () =>
    sql<{ fence: number }>(environment, 'SELECT fence::int AS fence FROM audit_state');
  const [before] = await turns();
  await encrypt(service.client(), 30);
  await eventually(async () => {
    const [now] = await turns();
    assert.ok((now?.fence ?? 0) >= (before?.fence ?? 0) + 3);
  });
  const rows = await sql(environment, 'SELECT FROM audit_checkpoints');
  assert.equal(rows.length, 0, 'nothing was signed since');
}

describe('a log that was rewritten while the service runs', () => {
  for (const [what, change] of [
    ['cut by ten entries, and then longer than it was', LAST_TEN],
    ['with another entry in place of one', ONE_ENTRY],
  ] as const)
    test(`${what}: is not signed, which is an alert`, async () => {
      await using environment = await newEnvironment();
      await using service = await startService(environment, VARIABLES);
      const client = service.client();
      await client.createTenant({ tenantId: 'acme' });
      await client.createKey({ parent: 'tenants/acme', keyId: 'mail' });
      // So that each agent has signed some.
      for (let round = 1; round <= 4; round++) {
        await encrypt(client, 10);
        await signedOver(environment, round * 10);
      }
      await rewriteLog(environment, change);
      await encrypt(client, 40);
      await assertUnsigned(service, environment);
    });
});

test('a generation that no operator has begun is not signed, which is an alert', async () => {
  await using environment = await newEnvironment();
  await using service = await startService(environment, VARIABLES);
  const client = service.client();
  await client.createTenant({ tenantId: 'acme' });
  await client.createKey({ parent: 'tenants/acme', keyId: 'mail' });
  await encrypt(client, 5);
  await signedOver(environment, 5);
  const bump = 'UPDATE audit_state SET generation = generation + 1, fence = fence + 1';
  await sql(environment, bump);
  await sql(environment, 'DELETE FROM audit_checkpoints');
  await assertUnsigned(service, environment);
});
