/**
 * The dashboard and the rules before a real service with traffic, by Debian's Prometheus: every
 * panel shows data, every rule can be decided, and there is a picture of it.
 */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { WITHOUT_CHROMIUM } from '../support/chromium.ts';
import { eventually, newEnvironment, type Service, startService } from '../support/kit.ts';
import { picture, type ShownPanel } from './dashboard-page.ts';
import { panels } from './deployed.ts';
import { Prometheus, WITHOUT_PROMETHEUS } from './prometheus.ts';

/** Kept after the run, to be looked at. */
const PICTURES = join(import.meta.dirname, '..', '..', '.keyward');
const PNG = '89504e470d0a1a0a';
/** What shows nothing here: there is no witness. */
const EMPTY = ['keyward_audit_witness_cosigned_timestamp_seconds'];

interface Rule {
  readonly name: string;
  readonly health: string;
  readonly lastError?: string;
  readonly state: string;
}

/** Calls of several kinds, until it is told to end. */
async function traffic(service: Service, signal: AbortSignal): Promise<void> {
  const keyward = service.client();
  const name = 'tenants/acme/keys/payroll';
  await keyward.createTenant({ tenantId: 'acme' });
  await keyward.createKey({ parent: 'tenants/acme', keyId: 'payroll' });
  while (!signal.aborted) {
    const { ciphertext } = await keyward.encrypt({ name, plaintext: Buffer.from('text') });
    await keyward.decrypt({ parent: 'tenants/acme', ciphertext });
    await keyward.generateDataKey({ name });
    await keyward.getKey({ name: `${name}-missing` }).catch(() => {});
    await sleep(100, undefined, { signal }).catch(() => {});
  }
}

test('every panel shows data, every rule can be decided and none of them fires', {
  skip: WITHOUT_PROMETHEUS,
}, async (context) => {
  await using environment = await newEnvironment();
  await using service = await startService(environment, {
    KEYWARD_METRICS_LISTEN: '127.0.0.1:0',
    KEYWARD_MAINTENANCE_TICKS: '* * * * * *',
    KEYWARD_MAINTENANCE_JITTER_MS: '0',
  });
  const ending = new AbortController();
  const calls = traffic(service, ending.signal);
  try {
    await using prometheus = await Prometheus.start(environment.directory, service.operatorsPort);
    for (const { title, expressions } of panels())
      for (const expression of expressions) {
        if (EMPTY.some((name) => expression.includes(name))) await prometheus.graph(expression);
        else await hasData(prometheus, title, expression);
      }
    await decided(prometheus);
    if (WITHOUT_CHROMIUM) context.diagnostic(`no picture: ${WITHOUT_CHROMIUM}`);
    else await drawn(prometheus);
  } finally {
    ending.abort();
    await calls;
  }
});

/** Waits until an expression shows anything that is a number. */
function hasData(prometheus: Prometheus, title: string, expression: string): Promise<void> {
  return eventually(
    async () => {
      const series = await prometheus.graph(expression);
      const numbers = series.flatMap(({ values }) => values.map(([, value]) => Number(value)));
      assert.ok(numbers.some(Number.isFinite), 'it shows nothing');
    },
    () => `panel “${title}”: ${expression}`,
  );
}

async function decided(prometheus: Prometheus): Promise<void> {
  await eventually(async () => {
    const { groups } = await prometheus.ask<{
      readonly groups: readonly { readonly rules: readonly Rule[] }[];
    }>('rules');
    const rules = groups.flatMap((group) => group.rules);
    assert.ok(rules.length > 20);
    const undecided = rules.filter(({ health }) => health !== 'ok');
    assert.deepEqual(undecided, []);
    assert.deepEqual(
      rules.filter(({ state }) => state === 'firing').map((rule) => rule.name),
      [],
    );
  });
}

async function drawn(prometheus: Prometheus): Promise<void> {
  const shown: ShownPanel[] = [];
  for (const { title, expressions } of panels()) {
    const series = await Promise.all(expressions.map((each) => prometheus.graph(each)));
    shown.push({ title, series: series.flat() });
  }
  mkdirSync(PICTURES, { recursive: true });
  const bytes = readFileSync(await picture(PICTURES, shown));
  assert.equal(bytes.subarray(0, 8).toString('hex'), PNG);
  const [width, height] = [bytes.readUInt32BE(16), bytes.readUInt32BE(20)];
  assert.ok(width > 1_000 && height > 1_000, `${width} by ${height}`);
  // One without lines and words has a tenth of that.
  assert.ok(bytes.length > 60_000, `${bytes.length} bytes`);
}
