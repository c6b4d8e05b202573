/**
 * Calls of which anyone can make any number: they leave few entries, whatever text they hold, none
 * in the logs of others' tenants, and what was merged is counted.
 */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { connect, type KeywardClient, KeywardError } from 'keyward-client';
import { AUDIENCE, ISSUER, signingKey, startEndpoint } from '../access/issuer.ts';
import { call, openSession } from '../faults/http2.ts';
import {
  type Environment,
  eventually,
  newEnvironment,
  type Service,
  startService,
} from '../support/kit.ts';
import { sql } from '../support/reconciling.ts';

const CALLS = 800;
/** Of many callers: more than the ceiling lets through. */
const MOB_CALLS = 1_500;
const AT_ONCE = 50;
let environment: Environment;
let service: Service;
let keyward: KeywardClient;
let endpoint: Awaited<ReturnType<typeof startEndpoint>>;

before(async () => {
  environment = await newEnvironment();
  endpoint = await startEndpoint([signingKey('k')]);
  const file = join(environment.directory, 'issuers.json');
  const trusted = { issuer: ISSUER, audience: AUDIENCE, algorithms: ['ES256'] };
  const issuers = [{ name: 'corp', jwksUrl: endpoint.url, ...trusted }];
  writeFileSync(file, JSON.stringify({ issuers }));
  service = await startService(environment, { KEYWARD_ISSUERS_FILE: file });
  keyward = service.client();
  await keyward.createTenant({ tenantId: 'acme' });
  await keyward.createKey({ parent: 'tenants/acme', keyId: 'mail' });
});

after(async () => {
  await service?.stop();
  await endpoint?.[Symbol.asyncDispose]();
  await environment?.[Symbol.asyncDispose]();
});

/** Makes so many calls, some at a time; returns how often each outcome came, and the seconds. */
async function flood(
  attempt: (index: number) => Promise<string>,
  calls = CALLS,
): Promise<{ readonly outcomes: Record<string, number>; readonly seconds: number }> {
  const outcomes: Record<string, number> = {};
  const began = performance.now();
  let next = 0;
  const worker = async () => {
    for (let index = next++; index < calls; index = next++) {
      const outcome = await attempt(index);
      outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  return { outcomes, seconds: (performance.now() - began) / 1_000 };
}

/** Entries that a condition finds, waiting or in the log. */
function entriesWhere(condition: string) {
  return sql<{ tenant: string; entry: Record<string, unknown> }>(
    environment,
    `SELECT t.name AS tenant, entry FROM audit_entries JOIN tenants t USING (tenant_id)
     WHERE ${condition} ORDER BY at`,
  );
}

const standFor = (rows: readonly { readonly entry: Record<string, unknown> }[]) =>
  rows.reduce((sum, { entry }) => sum + Number(entry['count'] ?? 1), 0);

/** Twenty and some in each second that was begun, and one for each tenth of a second or so. */
const bound = (seconds: number) => (Math.ceil(seconds) + 1) * 45;

const outcomeOf = async (attempt: Promise<unknown>): Promise<string> => {
  try {
    await attempt;
    return 'OK';
  } catch (error) {
    if (error instanceof KeywardError) return error.reason ?? error.code;
    throw error;
  }
};

function stranger(name: string): KeywardClient {
  const uris = [`spiffe://keyward.test/${name}`];
  const issued = environment.ca.issue({ subject: name, usage: 'client', uris });
  return connect({ ...service.connectOptions(issued), retries: 0 });
}

describe('a flood leaves few entries, which count it', () => {
  test('of calls without credentials, whatever paths they make up', async () => {
    using session = openSession({ port: service.port, ca: environment.ca.certPem });
    const { outcomes, seconds } = await flood(async (index) => {
      const { status } = await call(session, { path: `/made.Up${index}/Method${index}` });
      return String(status);
    });
    assert.deepEqual(Object.keys(outcomes), ['16']);
    const rows = await entriesWhere("entry ->> 'caller' = 'anonymous'");
    assert.ok(rows.length <= bound(seconds), `${rows.length} entries in ${seconds} s`);
    assert.equal(standFor(rows), CALLS);
    assert.deepEqual(
      new Set(rows.map(({ tenant, entry }) => [tenant, entry['method']].join())),
      new Set(['system,unknown']),
    );
  });

  test('of a caller without bindings, whatever tenants are asked for; none is in the log of one that there is', async () => {
    using client = stranger('nobody');
    const { outcomes, seconds } = await flood((index) => {
      const tenant = index % 3 === 0 ? 'acme' : `made-up-${index}`;
      return outcomeOf(client.getKey({ name: `tenants/${tenant}/keys/k${index}` }));
    });
    assert.deepEqual(outcomes, { RESOURCE_NOT_FOUND: CALLS });
    const rows = await entriesWhere("entry ->> 'caller' = 'spiffe://keyward.test/nobody'");
    assert.ok(rows.length <= bound(seconds), `${rows.length} entries in ${seconds} s`);
    assert.equal(standFor(rows), CALLS);
    for (const { tenant, entry } of rows)
      assert.deepEqual(
        [tenant, entry['tenant'], entry['decision']],
        ['system', 'system', 'denied'],
      );
    const merged = rows.find(({ entry }) => Number(entry['count']) > 1) ?? assert.fail();
    const { resources } = merged.entry['detail'] as { resources: string[] };
    assert.ok(resources.length > 1 && resources.length <= 10);
  });

  test('of questions that need no permission: they are limited, are in system’s log, and spend no tenant’s quota', async () => {
    using client = stranger('curious');
    const { outcomes, seconds } = await flood((index) =>
      outcomeOf(
        client.testPermissions({
          resource: `tenants/acme/keys/k${index}`,
          permissions: ['data.encrypt'],
          encryptionContext: { guess: `${index}` },
        }),
      ),
    );
    assert.ok(Number(outcomes['QUOTA_EXCEEDED']) > 0, JSON.stringify(outcomes));
    assert.ok(Number(outcomes['OK']) <= (Math.ceil(seconds) + 1) * 100, JSON.stringify(outcomes));
    const rows = await entriesWhere("entry ->> 'caller' = 'spiffe://keyward.test/curious'");
    // Those that were answered, and those that were not.
    assert.ok(rows.length <= 2 * bound(seconds), `${rows.length} entries in ${seconds} s`);
    assert.equal(standFor(rows), CALLS);
    assert.deepEqual(new Set(rows.map(({ tenant }) => tenant)), new Set(['system']));
    assert.equal(
      await outcomeOf(keyward.encrypt({ name: 'tenants/acme/keys/mail', plaintext: Buffer.of(1) })),
      'OK',
    );
  });

  test('of calls that find nothing, in the log of the tenant that they are about', async () => {
    const { outcomes, seconds } = await flood((index) =>
      outcomeOf(keyward.getKey({ name: `tenants/acme/keys/none-${index}` })),
    );
    const rows = await entriesWhere("entry ->> 'resource' LIKE 'tenants/acme/keys/none-%'");
    assert.ok(rows.length <= 2 * bound(seconds), `${rows.length} entries in ${seconds} s`);
    assert.equal(standFor(rows), CALLS, JSON.stringify(outcomes));
    assert.deepEqual(new Set(rows.map(({ tenant }) => tenant)), new Set(['acme']));
  });

  test('of many callers without bindings at once: what is over the ceiling is counted', async () => {
    const clients = Array.from({ length: 30 }, (_, index) => stranger(`mob-${index}`));
    try {
      const { seconds } = await flood(
        (index) =>
          outcomeOf(
            (clients[index % clients.length] as KeywardClient).getKey({
              name: `tenants/x${index}/keys/k`,
            }),
          ),
        MOB_CALLS,
      );
      const own = await entriesWhere("entry ->> 'caller' LIKE 'spiffe://keyward.test/mob-%'");
      assert.ok(own.length <= (Math.ceil(seconds) + 1) * 100, `${own.length} in ${seconds} s`);
      const rest = await eventually(() =>
        entriesWhere("entry ->> 'method' = 'keyward.v1.Maintenance/CountRefusals'"),
      );
      assert.equal(standFor(own) + standFor(rest), MOB_CALLS);
      const { entry } = rest[0] ?? assert.fail('nothing was over the ceiling');
      const { outcomes } = entry['detail'] as { outcomes: Record<string, number> };
      assert.equal(outcomes['RESOURCE_NOT_FOUND'], entry['count']);
    } finally {
      for (const client of clients) client.close();
    }
  });
});
