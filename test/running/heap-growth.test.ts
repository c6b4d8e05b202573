/**
 * `KEYWARD_HEAP_GROWTH`: what the server's memory may grow to between garbage collections.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { newEnvironment, startService } from '../support/kit.ts';

const CALLS = 1_500;
const IN_FLIGHT = 32;
const PLAINTEXT = Buffer.alloc(4_096);

test('a server whose heap may grow less takes less memory for the same calls', async () => {
  await using environment = await newEnvironment();
  const grown = (percent: string) => memoryAfterCalls(environment, percent);
  const [much, little] = [await grown('300'), await grown('20')];
  assert.ok(little < much, `${little} bytes, and ${much} with growth`);
});

/** Returns the most memory that a server was resident with. */
async function memoryAfterCalls(
  environment: Awaited<ReturnType<typeof newEnvironment>>,
  percent: string,
): Promise<number> {
  await using service = await startService(environment, {
    NODE_OPTIONS: '--max-semi-space-size=8',
    KEYWARD_HEAP_GROWTH: percent,
  });
  const keyward = service.client();
  const tenantId = `grows-${percent}`;
  await keyward.createTenant({ tenantId });
  const { name } = await keyward.createKey({ parent: `tenants/${tenantId}`, keyId: 'k' });
  for (let call = 0; call < CALLS; call += IN_FLIGHT)
    await Promise.all(
      Array.from({ length: IN_FLIGHT }, () => keyward.encrypt({ name, plaintext: PLAINTEXT })),
    );
  const status = readFileSync(`/proc/${service.pid}/status`, 'utf8');
  return Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024;
}
