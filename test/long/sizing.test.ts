/**
 * What the limits of docs/sizing.md cost in memory: each is filled as far as a test can, and what a
 * piece costs is printed, and at most what the document says.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { openSession } from '../faults/http2.ts';
import { HostileService, KEY, PARENT } from '../hostile/service.ts';
import { eventually, newEnvironment, startService } from '../support/kit.ts';

const DOCUMENT = readFileSync(join(import.meta.dirname, '..', '..', 'docs', 'sizing.md'), 'utf8');
const MEMORY = new URL('../hostile/memory.ts', import.meta.url).href;
const CONNECTIONS = 400;
const KEYS = 400;
const CALLS = 500;

let hostile: HostileService;

before(async () => {
  const environment = await newEnvironment();
  const service = await startService(environment, {
    NODE_OPTIONS: `--import=${MEMORY}`,
    KEYWARD_MAX_CONNECTIONS: '2000',
    KEYWARD_HSM_CALL_TIMEOUT_MS: '600000',
    KEYWARD_DEADLINE_MS: '600000',
  });
  hostile = new HostileService(environment, service);
  await hostile.keyward.createTenant({ tenantId: 'acme' });
  await hostile.keyward.createKey({ parent: PARENT, keyId: 'k' });
  await encrypt(KEY);
});
after(async () => {
  await hostile?.service.stop();
  await hostile?.environment[Symbol.asyncDispose]();
});

const encrypt = (name: string, bytes = 10) =>
  hostile.keyward.encrypt({ name, plaintext: Buffer.alloc(bytes) });

/** Asserts that a piece costs no more kB than the document's row has, and prints what it does. */
function assertCost(row: string, bytes: number): void {
  const [, documented] = new RegExp(`^\\| ${row} \\| ([\\d.]+) kB`, 'm').exec(DOCUMENT) ?? [];
  console.log(`${row}: ${(bytes / 1_000).toFixed(1)} kB`);
  assert.ok(bytes / 1_000 <= Number(documented), `${row}: ${bytes} bytes`);
}

test('a connection', async () => {
  await hostile.heldBytes();
  // What OpenSSL keeps is in no heap of V8's.
  const before = hostile.residentBytes();
  const sessions = Array.from({ length: CONNECTIONS }, () => openSession(hostile.peer));
  try {
    await eventually(() => assert.ok(hostile.openSockets() >= CONNECTIONS));
    await encrypt(KEY);
    await hostile.heldBytes();
    assertCost('a connection', (hostile.residentBytes() - before) / CONNECTIONS);
  } finally {
    for (const session of sessions) session[Symbol.dispose]();
  }
});

test('a key in the server’s memory, and a version in an agent’s', async () => {
  const agentBytes = () => {
    const [pid] = hostile.service.agentPids;
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024;
  };
  const [before, agentBefore] = [await hostile.heldBytes(), agentBytes()];
  const names: string[] = [];
  for (let key = 0; key < KEYS; key++)
    names.push((await hostile.keyward.createKey({ parent: PARENT, keyId: `k${key}` })).name);
  for (const name of names) await encrypt(name);
  assertCost('a key', ((await hostile.heldBytes()) - before) / KEYS);
  assertCost('a key version in an agent', (agentBytes() - agentBefore) / KEYS);
});

test('a call under way, beside its bytes', async () => {
  const [agent] = hostile.service.agentPids;
  assert.ok(agent);
  const before = await hostile.heldBytes();
  process.kill(agent, 'SIGSTOP');
  const calls = Array.from({ length: CALLS }, () => encrypt(KEY, 1_000));
  try {
    let held = 0;
    await eventually(async () => {
      const now = await hostile.heldBytes();
      const grows = now > held;
      held = now;
      assert.ok(!grows, 'more arrive');
    });
    assertCost('a call under way', (held - before) / CALLS - 2_000);
  } finally {
    process.kill(agent, 'SIGCONT');
  }
  await Promise.all(calls);
});
