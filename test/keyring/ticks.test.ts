/**
 * What is due while the server's clock is set: back, so that all that waits for a moment of it
 * waits, and ahead, so that moments are passed over.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { eventually, newEnvironment, startService } from '../support/kit.ts';
import { QUICK, sql } from '../support/reconciling.ts';

const CLOCK = join(import.meta.dirname, '..', 'faults', 'clock.ts');
const HOUR_MS = 3_600_000;

for (const [how, ahead] of [
  ['back', -HOUR_MS],
  ['ahead', HOUR_MS],
] as const) {
  test(`a server whose clock is set ${how} by an hour rotates as before, and logs JSON`, async () => {
    await using environment = await newEnvironment();
    await using service = await startService(environment, {
      ...QUICK,
      NODE_OPTIONS: `--import=${CLOCK}`,
      CLOCK_AHEAD_MS: String(ahead),
    });
    const keyward = service.client();
    await keyward.createTenant({ tenantId: 'acme' });
    const key = { parent: 'tenants/acme', keyId: 'k', rotationPeriodSeconds: 10 };
    await keyward.createKey(key);
    process.kill(service.pid, 'SIGUSR2');
    await eventually(async () => {
      const [row] = await sql<{ versions: number }>(
        environment,
        'SELECT count(*)::int AS versions FROM key_versions',
      );
      // One rotation may have been under way.
      assert.ok(Number(row?.versions) >= 3, `${row?.versions} versions`);
    });
    const [other] = service.log.filter((line) => 'text' in line);
    assert.equal(other, undefined, 'a line is no JSON');
  });
}
