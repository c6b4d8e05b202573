/**
 * Many large batches at once, of several callers, at the default limits: the memory that they take
 * is bounded by `KEYWARD_MAX_REQUEST_BYTES`, requests and answers together (docs/sizing.md).
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { connect } from 'keyward-client';
import { grantEverything } from '../support/grants.ts';
import { eventually, newEnvironment, reasonOf, startService } from '../support/kit.ts';

const BATCHES = 64;
const CALLERS = ['a', 'b', 'c', 'd'];
/** What a container may have, in which nothing but the server runs. */
const MEMORY_BYTES = 320 << 20;

test(`${BATCHES} batches of 3.5 MB at once are done or refused within 320 MiB`, async () => {
  await using environment = await newEnvironment();
  const names = CALLERS.map((name) => `spiffe://keyward.test/${name}`);
  await grantEverything(environment.variables, names);
  await using service = await startService(environment, {
    // As the image has it, and as Node would choose by itself in such a container.
    NODE_OPTIONS: '--max-semi-space-size=8 --max-old-space-size=160',
    MALLOC_ARENA_MAX: '2',
    KEYWARD_DEADLINE_MS: '600000',
    KEYWARD_HSM_CALL_TIMEOUT_MS: '600000',
  });
  const keyward = service.client();
  await keyward.createTenant({ tenantId: 'acme' });
  const { name } = await keyward.createKey({ parent: 'tenants/acme', keyId: 'k' });
  const requests = Array.from({ length: 100 }, () => ({ name, plaintext: Buffer.alloc(35_000) }));
  const clients = names.map((uri, index) => {
    const usage = 'client';
    const credentials = environment.ca.issue({ subject: CALLERS[index] ?? '', usage, uris: [uri] });
    return connect({
      ...service.connectOptions(credentials),
      retries: 0,
      defaultTimeoutMs: 600_000,
    });
  });
  const batches = Array.from({ length: BATCHES }, async (_, index) => {
    const batch = clients[index % clients.length]?.batchEncrypt({
      parent: 'tenants/acme',
      requests,
    });
    return batch?.then(
      () => 'OK',
      () => reasonOf(batch),
    );
  });
  const outcomes = await Promise.all(batches);
  for (const client of clients) client.close();
  const status = readFileSync(`/proc/${service.pid}/status`, 'utf8');
  const most = Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024;
  assert.ok(most <= MEMORY_BYTES, `it had ${most >> 20} MiB`);
  assert.ok(outcomes.includes('OK'));
  // The last one where the machine is too busy to record it in time.
  const expected = new Set(['OK', 'SERVER_BUSY', 'AUDIT_UNAVAILABLE']);
  assert.deepEqual(new Set(outcomes).difference(expected), new Set());
});

test('a request counts with its answer, and an answer with what it has', async () => {
  await using environment = await newEnvironment();
  await using service = await startService(environment, { KEYWARD_MAX_REQUEST_BYTES: '1048576' });
  const keyward = service.client();
  await keyward.createTenant({ tenantId: 'acme' });
  const { name } = await keyward.createKey({ parent: 'tenants/acme', keyId: 'k' });
  const batch = (bytes: number) =>
    keyward.batchEncrypt({
      parent: 'tenants/acme',
      requests: Array.from({ length: 10 }, () => ({ name, plaintext: Buffer.alloc(bytes) })),
    });
  await eventually(() => batch(20_000));
  // Alone it has room, being less than half.
  assert.equal(await reasonOf(batch(42_000)), 'SERVER_BUSY');
  for (let call = 0; call < 1_200; call += 20)
    await Promise.all(Array.from({ length: 20 }, () => keyward.listTenants()));
  const entries = (pageSize: number) => keyward.listAuditEntries({ parent: 'tenants/-', pageSize });
  assert.equal((await eventually(() => entries(100))).entries.length, 100);
  await eventually(async () =>
    assert.equal(await reasonOf(entries(1_000)), 'SERVER_BUSY', 'an answer of over half'),
  );
});
