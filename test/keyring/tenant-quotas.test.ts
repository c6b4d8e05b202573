/**
 * What a tenant may use, over the wire: calls per second, keys, stored data keys; set, enforced on
 * every replica, explained.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { connect, type KeywardClient, KeywardError } from 'keyward-client';
import {
  eventually,
  failureOf,
  reasonOf,
  type Service,
  sharedService,
  startService,
} from '../support/kit.ts';
import { newId, QUICK, resealStates, sql } from '../support/reconciling.ts';

const plaintext = Buffer.from('something');
/** What becomes known within two seconds is waited for no longer. */
const HEARD_MS = 2_000;

let keyward: KeywardClient;
const shared = sharedService(async (client) => {
  keyward = client;
}, QUICK);

/** A tenant with a key, and these quotas. */
async function newTenant(
  quotas: { callsPerSecond?: number; keys?: number; storedDataKeys?: number } = {},
) {
  const tenantId = newId('t');
  const parent = `tenants/${tenantId}`;
  await keyward.createTenant({ tenantId });
  const { name } = await keyward.createKey({ parent, keyId: 'k' });
  if (Object.keys(quotas).length > 0)
    await keyward.updateTenant({ tenant: { name: parent, quotas } });
  return { parent, name };
}

/** What the error says of the quota. */
function quotaOf({ code, reason, metadata }: KeywardError) {
  return { code, reason, quota: metadata.get('quota'), limit: metadata.get('limit') };
}

/** What became of calls that were made at the same time, or as fast as one after another goes. */
interface Outcome {
  readonly answered: number;
  readonly refused: readonly KeywardError[];
}

/** Counts what is answered, and what is refused because of a quota; anything else is thrown. */
async function outcomeOf(calls: readonly Promise<unknown>[]): Promise<Outcome> {
  const settled = await Promise.allSettled(calls);
  const refused = settled.flatMap((each) => (each.status === 'rejected' ? [each.reason] : []));
  for (const error of refused)
    if (!(error instanceof KeywardError) || error.reason !== 'QUOTA_EXCEEDED') throw error;
  return { answered: calls.length - refused.length, refused };
}

const encryptOnce = (client: KeywardClient, name: string) => client.encrypt({ name, plaintext });

/** Calls that overlap, `width` at a time, until so many milliseconds are over. */
async function hammer(
  clients: readonly KeywardClient[],
  name: string,
  width: number,
  milliseconds: number,
) {
  const began = performance.now();
  let [answered, refused] = [0, 0];
  const work = async (client: KeywardClient) => {
    while (performance.now() - began < milliseconds) {
      const outcome = await outcomeOf([encryptOnce(client, name)]);
      answered += outcome.answered;
      refused += outcome.refused.length;
    }
  };
  await Promise.all(clients.flatMap((client) => Array.from({ length: width }, () => work(client))));
  return { answered, refused, seconds: (performance.now() - began) / 1000 };
}

/** Waits until so many replicas run and each has looked how many since they do. */
async function replicasKnow(count: number): Promise<void> {
  const seen = () =>
    sql<{ replica_id: string; seen_at: Date }>(
      shared.environment,
      `SELECT replica_id, seen_at FROM replicas WHERE seen_at > now() - interval '10 s' ORDER BY replica_id`,
    );
  const first = await eventually(async () => {
    const rows = await seen();
    assert.equal(rows.length, count);
    return rows;
  });
  await eventually(async () => {
    for (const [index, { seen_at }] of (await seen()).entries())
      assert.ok(Number(seen_at) > Number(first[index]?.seen_at));
  });
}

describe('quotas', () => {
  test('are set together or one by one, under an etag, and GetTenant shows them', async () => {
    const { parent } = await newTenant();
    const { quotas, etag } = await keyward.getTenant({ name: parent });
    assert.deepEqual(quotas, { callsPerSecond: 0, keys: 0, storedDataKeys: 0 });
    const all = { callsPerSecond: 1_000, keys: 2, storedDataKeys: 3 };
    const set = await keyward.updateTenant({ tenant: { name: parent, quotas: all, etag } });
    assert.deepEqual(set.quotas, all);
    const one = await keyward.updateTenant({ tenant: { name: parent, quotas: { keys: 7 } } });
    assert.deepEqual(one.quotas, { ...all, keys: 7 });
    assert.deepEqual(await keyward.getTenant({ name: parent }), one);
    assert.equal(
      await reasonOf(
        keyward.updateTenant({ tenant: { name: parent, quotas: all, etag: set.etag } }),
      ),
      'ETAG_MISMATCH',
    );
    const none = await keyward.updateTenant({ tenant: { name: parent }, updateMask: ['quotas'] });
    assert.deepEqual(none.quotas, quotas);
    for await (const tenant of keyward.tenants())
      if (tenant.name === parent) assert.deepEqual(tenant, none);
  });

  test('are set once by a request that is sent again, and its answer tells how they are', async () => {
    const { parent: name } = await newTenant();
    const request = { tenant: { name, quotas: { keys: 5 } }, requestId: randomUUID() };
    const first = await keyward.updateTenant(request);
    assert.deepEqual(await keyward.updateTenant(request), first);
    const other = { ...request, tenant: { name, quotas: { keys: 6 } } };
    assert.equal(await reasonOf(keyward.updateTenant(other)), 'REQUEST_ID_REUSED');
  });

  test('that can not be are refused, and nothing is changed', async () => {
    const { parent } = await newTenant();
    const before = await keyward.getTenant({ name: parent });
    const cases: [violated: string, request: Parameters<KeywardClient['updateTenant']>[0]][] = [
      ['tenant', { tenant: { name: parent, quotas: { keys: -1 } } }],
      ['update_mask', { tenant: { name: parent } }],
      ['update_mask', { tenant: { name: parent }, updateMask: ['state'] }],
      [
        'update_mask',
        { tenant: { name: parent, quotas: { keys: 1 } }, updateMask: ['quotas.keys', 'quotas.x'] },
      ],
      ['tenant', { tenant: { name: 'acme', quotas: { keys: 1 } } }],
      ['tenant', { tenant: { name: 'tenants/system', quotas: { callsPerSecond: 1 } } }],
    ];
    for (const [violated, request] of cases) {
      const { reason, fieldViolations } = await failureOf(keyward.updateTenant(request));
      assert.deepEqual(
        [reason, fieldViolations.map(({ field }) => field)],
        ['INVALID_FIELD', [violated]],
      );
    }
    const absent = { tenant: { name: 'tenants/nobody', quotas: { keys: 1 } } };
    assert.equal(await reasonOf(keyward.updateTenant(absent)), 'RESOURCE_NOT_FOUND');
    assert.deepEqual(await keyward.getTenant({ name: parent }), before);
  });

  test('of a tenant that has none of its own are those of the settings', async () => {
    await using service = await startService(shared.environment, {
      KEYWARD_TENANT_CALLS_PER_SECOND: '20',
      KEYWARD_TENANT_KEYS: '2',
      KEYWARD_TENANT_DATA_KEYS: '1',
    });
    const limited = service.client();
    const { parent, name } = await newTenant();
    const own = await newTenant({ callsPerSecond: 1_000, keys: 3, storedDataKeys: 2 });
    await limited.createKey({ parent, keyId: 'second' });
    await limited.createDataKey({ parent: name, dataKeyId: 'first' });
    const keys = await failureOf(limited.createKey({ parent, keyId: 'third' }));
    assert.deepEqual(quotaOf(keys), {
      code: 'RESOURCE_EXHAUSTED',
      reason: 'QUOTA_EXCEEDED',
      quota: 'keys',
      limit: '2',
    });
    const dataKeys = await failureOf(limited.createDataKey({ parent: name, dataKeyId: 'second' }));
    assert.equal(quotaOf(dataKeys).limit, '1');
    const { refused } = await outcomeOf(
      Array.from({ length: 100 }, () => encryptOnce(limited, name)),
    );
    assert.ok(refused.length > 0);
    for (const keyId of ['second', 'third']) await limited.createKey({ parent: own.parent, keyId });
    for (const dataKeyId of ['first', 'second'])
      await limited.createDataKey({ parent: own.name, dataKeyId });
  });
});

describe('the quota of keys', () => {
  test('keeps more from being made, says so, and leaves those that there are alone', async () => {
    const { parent, name } = await newTenant({ keys: 2 });
    const request = { parent, keyId: 'second', requestId: randomUUID() };
    const second = await keyward.createKey(request);
    const error = await failureOf(keyward.createKey({ parent, keyId: 'third' }));
    assert.deepEqual(quotaOf(error), {
      code: 'RESOURCE_EXHAUSTED',
      reason: 'QUOTA_EXCEEDED',
      quota: 'keys',
      limit: '2',
    });
    assert.equal(error.retryDelayMs, undefined);
    assert.equal(
      await reasonOf(keyward.getKey({ name: `${parent}/keys/third` })),
      'RESOURCE_NOT_FOUND',
    );
    assert.deepEqual(await keyward.createKey(request), second);
    assert.equal(await reasonOf(keyward.createKey({ parent, keyId: 'second' })), 'RESOURCE_EXISTS');
    await keyward.rotateKey({ name });
    await encryptOnce(keyward, name);
    await keyward.updateTenant({ tenant: { name: parent, quotas: { keys: 1 } } });
    await encryptOnce(keyward, name);
    assert.equal(
      quotaOf(await failureOf(keyward.createKey({ parent, keyId: 'third' }))).limit,
      '1',
    );
  });

  test('has room again when a key has been destroyed, and not before', async () => {
    const { parent, name } = await newTenant({ keys: 1 });
    const { impact } = await keyward.scheduleKeyDestruction({ name, validateOnly: true });
    await keyward.scheduleKeyDestruction({ name, etag: impact.etag, windowDays: 7 });
    assert.equal(await reasonOf(keyward.createKey({ parent, keyId: 'next' })), 'QUOTA_EXCEEDED');
    const { uid } = await keyward.getKey({ name });
    await sql(
      shared.environment,
      `UPDATE keys SET destroy_at = now() - interval '1 s' WHERE key_id = $1`,
      [uid],
    );
    await resealStates(shared.environment, 'k.key_id = $1', [uid]);
    await eventually(async () => assert.equal((await keyward.getKey({ name })).state, 'DESTROYED'));
    await keyward.createKey({ parent, keyId: 'next' });
  });
});

describe('the quota of stored data keys', () => {
  test('counts those of all keys, and has room again when one is deleted', async () => {
    const { parent, name } = await newTenant({ storedDataKeys: 2 });
    const { name: other } = await keyward.createKey({ parent, keyId: 'other' });
    const { dataKey } = await keyward.createDataKey({ parent: name, dataKeyId: 'a' });
    await keyward.createDataKey({ parent: other, dataKeyId: 'a' });
    const error = await failureOf(keyward.createDataKey({ parent: other, dataKeyId: 'b' }));
    assert.deepEqual(quotaOf(error), {
      code: 'RESOURCE_EXHAUSTED',
      reason: 'QUOTA_EXCEEDED',
      quota: 'stored_data_keys',
      limit: '2',
    });
    assert.equal(error.retryDelayMs, undefined);
    await keyward.generateDataKey({ name: other });
    await keyward.rotateKey({ name });
    await keyward.deleteDataKey({ name: dataKey.name });
    await keyward.createDataKey({ parent: other, dataKeyId: 'b' });
    assert.equal(
      await reasonOf(keyward.createDataKey({ parent: name, dataKeyId: 'c' })),
      'QUOTA_EXCEEDED',
    );
  });
});

describe('the quota of calls', () => {
  before(() => replicasKnow(1));

  test('lets one second’s through at once, and says of others when there is room', async () => {
    const { name } = await newTenant({ callsPerSecond: 10 });
    const { answered, refused } = await outcomeOf(
      Array.from({ length: 60 }, () => encryptOnce(keyward, name)),
    );
    assert.ok(answered >= 10, `${answered}`);
    const [error] = refused;
    assert.ok(error);
    assert.deepEqual(quotaOf(error), {
      code: 'RESOURCE_EXHAUSTED',
      reason: 'QUOTA_EXCEEDED',
      quota: 'calls_per_second',
      limit: '10',
    });
    assert.ok(
      error.retryDelayMs !== undefined && error.retryDelayMs > 0 && error.retryDelayMs <= 100,
    );
    // Nobody else is there to take it.
    await new Promise((resolve) => setTimeout(resolve, 100));
    await encryptOnce(keyward, name);
  });

  test('is kept to by a client that waits as it is told, and fails nobody then', async () => {
    const { name } = await newTenant({ callsPerSecond: 20 });
    const patient = shared.service.client({ retries: 20 });
    await Promise.all(Array.from({ length: 25 }, () => encryptOnce(patient, name)));
  });

  test('counts every item of a batch, lets one through that is larger, and makes what follows pay for that', async () => {
    const { parent, name } = await newTenant({ callsPerSecond: 2 });
    const batchOf = (items: number) =>
      keyward.batchEncrypt({
        parent,
        requests: Array.from({ length: items }, () => ({ name, plaintext })),
      });
    const results = await batchOf(100);
    assert.equal(results.length, 100);
    assert.ok(results.every((result) => 'response' in result));
    for (const call of [encryptOnce(keyward, name), batchOf(2)]) {
      const error = await failureOf(call);
      assert.equal(quotaOf(error).quota, 'calls_per_second');
      assert.ok((error.retryDelayMs ?? 0) > 20_000, `${error.retryDelayMs}`);
    }
  });

  test('is not used up by callers who may not call', async () => {
    const quota = 10;
    const { name } = await newTenant({ callsPerSecond: quota });
    const { ca } = shared.environment;
    const uris = ['spiffe://keyward.test/stranger'];
    using stranger = connect({
      ...shared.service.connectOptions(ca.issue({ subject: 'stranger', usage: 'client', uris })),
      retries: 0,
    });
    for (let round = 0; round < 5 * quota; round++)
      assert.equal(await reasonOf(encryptOnce(stranger, name)), 'RESOURCE_NOT_FOUND');
    const { refused } = await outcomeOf(
      Array.from({ length: quota }, () => encryptOnce(keyward, name)),
    );
    assert.equal(refused.length, 0);
  });

  test('is no obstacle to raising it', async () => {
    const { parent, name } = await newTenant({ callsPerSecond: 1 });
    const { refused } = await outcomeOf(
      Array.from({ length: 30 }, () => encryptOnce(keyward, name)),
    );
    assert.ok(refused.length > 0);
    await keyward.updateTenant({ tenant: { name: parent, quotas: { callsPerSecond: 10_000 } } });
    await eventually(async () => {
      const outcome = await outcomeOf(Array.from({ length: 30 }, () => encryptOnce(keyward, name)));
      assert.equal(outcome.refused.length, 0);
    });
  });

  test('case 102: a tenant at ten times its quota is refused, while another’s calls all succeed', async () => {
    const quota = 20;
    const loud = await newTenant({ callsPerSecond: quota });
    const quiet = await newTenant();
    const noise = hammer([keyward], loud.name, 10 * quota, 1_500);
    let others = 0;
    let isOver = false;
    const calling = (async () => {
      for (; !isOver; others++) await encryptOnce(keyward, quiet.name);
    })();
    const { answered, refused, seconds } = await noise;
    isOver = true;
    await calling;
    assert.ok(others > 0);
    assert.ok(answered <= quota * (1 + seconds) + 1, `${answered} in ${seconds} s`);
    assert.ok(refused > answered, `${refused} refused, ${answered} answered`);
  });
});

describe('two replicas', () => {
  let service: Service;
  let second: KeywardClient;

  before(async () => {
    service = await startService(shared.environment, QUICK);
    second = service.client();
    await replicasKnow(2);
  });

  after(async () => {
    await service?.stop();
  });

  test('let as many calls through together as one would, each its share', async () => {
    const quota = 40;
    const { name } = await newTenant({ callsPerSecond: quota });
    await Promise.all([keyward, second].map((client) => outcomeOf([encryptOnce(client, name)])));
    const { answered, refused, seconds } = await hammer([keyward, second], name, 4, 3_000);
    assert.ok(refused > 0);
    assert.ok(answered <= quota * (1 + seconds), `${answered} in ${seconds} s`);
    assert.ok(answered >= (quota * seconds) / 2, `${answered} in ${seconds} s`);
    const alone = await hammer([second], name, 4, 1_000);
    assert.ok(
      alone.answered <= (quota / 2) * (1 + alone.seconds),
      `${alone.answered} in ${alone.seconds} s`,
    );
  });

  test('both hear of a raised quota within two seconds', async () => {
    const { parent, name } = await newTenant({ keys: 1, storedDataKeys: 1, callsPerSecond: 1 });
    await eventually(async () => {
      for (const client of [keyward, second]) {
        const { refused } = await outcomeOf(
          Array.from({ length: 20 }, () => encryptOnce(client, name)),
        );
        assert.ok(refused.length > 0);
      }
    });
    const quotas = { keys: 100, storedDataKeys: 100, callsPerSecond: 10_000 };
    await keyward.updateTenant({ tenant: { name: parent, quotas } });
    await new Promise((resolve) => setTimeout(resolve, HEARD_MS));
    for (const [index, client] of [keyward, second].entries()) {
      await client.createKey({ parent, keyId: `more-${index}` });
      await client.createDataKey({ parent: name, dataKeyId: `more-${index}` });
      const { refused } = await outcomeOf(
        Array.from({ length: 20 }, () => encryptOnce(client, name)),
      );
      assert.equal(refused.length, 0);
    }
  });

  test('make no more keys than the quota together, but for those under way at once', async () => {
    const { parent } = await newTenant({ keys: 10 });
    const width = 3;
    let refused = 0;
    const work = async (client: KeywardClient) => {
      for (let index = 0; index < 10; index++) {
        const outcome = await outcomeOf([client.createKey({ parent, keyId: newId('k') })]);
        refused += outcome.refused.length;
      }
    };
    await Promise.all(
      [keyward, second].flatMap((client) => Array.from({ length: width }, () => work(client))),
    );
    let keys = 0;
    for await (const _ of keyward.keys(parent)) keys += 1;
    assert.ok(keys >= 10 && keys < 10 + 2 * width, `${keys} keys`);
    assert.equal(keys + refused, 1 + 2 * width * 10);
    assert.equal(await reasonOf(second.createKey({ parent, keyId: 'last' })), 'QUOTA_EXCEEDED');
  });
});
