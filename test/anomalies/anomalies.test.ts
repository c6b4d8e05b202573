/**
 * Callers that are watched, over the wire: what they do is counted, and an unusual hour raises an
 * alert that names them and says why.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { eventually, reasonOf, sharedService } from '../support/kit.ts';
import { sql } from '../support/reconciling.ts';
import { TESTER } from '../support/tester.ts';

const PARENT = 'tenants/acme';
const KEY = `${PARENT}/keys/k`;
const shared = sharedService(
  async (client) => {
    await client.createTenant({ tenantId: 'acme' });
    await client.createKey({ parent: PARENT, keyId: 'k' });
  },
  { KEYWARD_ANOMALIES: 'true' },
);

/** As if the caller had encrypted and decrypted at all hours for so many days. */
const HISTORY = `INSERT INTO caller_hours
  SELECT $1, date_trunc('hour', now(), 'UTC') - h * interval '1 hour', 100, 100, 0, 2, 0
  FROM generate_series(1, 20 * 24) AS h`;

test('more failures than ever raise one alert, which names the caller and both numbers', async () => {
  const { service, environment, keyward } = shared;
  await sql(environment, HISTORY, [TESTER]);
  const { ciphertext } = await keyward.encrypt({ name: KEY, plaintext: Buffer.from('p') });
  const wrong = { parent: PARENT, ciphertext, encryptionContext: { another: 'one' } };
  // More than twice as many as are enough: the hour may end among them.
  for (let n = 0; n < 45; n += 1)
    assert.equal(await reasonOf(keyward.decrypt(wrong)), 'DECRYPTION_FAILED');
  const line = await service.logged(({ alert }) => alert === 'caller-unusual');
  assert.equal(line['caller'], TESTER);
  assert.equal(line['feature'], 'failures');
  assert.equal(line['usual'], 2);
  assert.ok(Number(line['observed']) > 20);
  assert.match(String(line['explanation']), /^\d+ calls that failed in an hour, of which /);
});

test('each item of a batch counts, and a key is new once', async () => {
  const { environment, keyward } = shared;
  const caller = [TESTER];
  const present = `SELECT sum(encrypts)::int AS encrypts, sum(new_keys)::int AS new_keys
    FROM caller_hours WHERE caller = $1`;
  await sql(environment, "DELETE FROM caller_hours WHERE hour < date_trunc('hour', now(), 'UTC')");
  const request = { name: KEY, plaintext: Buffer.from('p') };
  await keyward.batchEncrypt({ parent: PARENT, requests: Array(50).fill(request) });
  await eventually(async () => {
    const [row] = await sql<{ encrypts: number; new_keys: number }>(environment, present, caller);
    assert.equal(row?.new_keys, 1);
    assert.ok((row?.encrypts ?? 0) >= 51);
  });
});
