/**
 * Re-wrap jobs while they are under way: watching them, using their keys, and stopping and killing
 * the servers that work on them.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { KeywardClient, RewrapJob } from 'keyward-client';
import { call, grpcFrame, openSession } from '../faults/http2.ts';
import {
  eventually,
  failureOf,
  newEnvironment,
  sharedService,
  startService,
} from '../support/kit.ts';
import {
  assertOpen,
  corrupt,
  endOf,
  expireLeases,
  jobOf,
  leaveBehind,
  newId,
  QUICK,
  resume,
  sql,
  storeDataKeys,
  versionsInUse,
} from '../support/reconciling.ts';

const PARENT = 'tenants/acme';
let keyward: KeywardClient;
const shared = sharedService(async (client) => {
  keyward = client;
  await keyward.createTenant({ tenantId: 'acme' });
}, QUICK);

const newKey = async () => (await keyward.createKey({ parent: PARENT, keyId: newId('k') })).name;

describe('watching', { concurrency: true }, () => {
  test('tells what there is, then each step, and ends with the last state', async () => {
    const name = await newKey();
    const { job } = await leaveBehind(keyward, name, 50);
    const seen: RewrapJob[] = [];
    for await (const each of keyward.watchRewrapJob({ name: job })) {
      seen.push(each);
      if (seen.length === 1) await resume(keyward, name);
    }
    assert.equal(seen[0]?.state, 'RUNNING');
    assert.deepEqual([seen.at(-1)?.state, seen.at(-1)?.done], ['SUCCEEDED', 50]);
    for (const [index, { done }] of seen.entries()) assert.ok(done >= (seen[index - 1]?.done ?? 0));
    const told = seen.map(({ rate: _, ...facts }) => JSON.stringify(facts));
    assert.equal(new Set(told).size, told.length, 'nothing is told twice');
  });

  test('a job that has ended is told of once, with what it could not open', async () => {
    const name = await newKey();
    const { job } = await leaveBehind(keyward, name, 3);
    await corrupt(shared.environment, name, 'dk-0001');
    await resume(keyward, name);
    await endOf(keyward, job);
    const seen = await Array.fromAsync(keyward.watchRewrapJob({ name: job }));
    assert.deepEqual(
      seen.map(({ state, failures }) => [state, failures.length]),
      [['PARTIAL', 1]],
    );
  });

  test('ends when its caller leaves, and leaves nothing behind', async () => {
    const name = await newKey();
    const { job } = await leaveBehind(keyward, name, 1);
    const from = shared.service.log.length;
    for await (const _ of keyward.watchRewrapJob({ name: job })) break;
    const line = await shared.service.logged(
      ({ method, resource }) =>
        method === 'keyward.v1.RotationService/WatchRewrapJob' && resource === job,
      from,
    );
    assert.equal(line['outcome'], 'CALL_CANCELLED');
  });

  test('ends at its deadline, be it longer than that of calls or shorter', async () => {
    const name = await newKey();
    const { job } = await leaveBehind(keyward, name, 1);
    await using hasty = await startService(shared.environment, {
      ...QUICK,
      KEYWARD_DEADLINE_MS: '300',
    });
    const client = hasty.client();
    for (const timeoutMs of [150, 1_500]) {
      const seen: RewrapJob[] = [];
      const before = performance.now();
      const error = await failureOf(
        collect(client.watchRewrapJob({ name: job }, { timeoutMs }), seen),
      );
      assert.equal(error.code, 'DEADLINE_EXCEEDED');
      assert.ok(performance.now() - before >= timeoutMs - 20, 'not before its time');
      // The job stands still: there is one thing to tell, if there was time to.
      assert.ok(seen.length <= 1);
    }
  });

  test('ends as soon as the server is told to stop, with a reason to try another', async () => {
    const name = await newKey();
    const { job } = await leaveBehind(keyward, name, 1);
    await using service = await startService(shared.environment, {
      ...QUICK,
      KEYWARD_DRAIN_MS: '600000',
    });
    const watching = [1, 2, 3].map(async () => {
      const stream = service.client({ retries: 0 }).watchRewrapJob({ name: job });
      assert.equal((await stream.next()).value?.state, 'RUNNING');
      return stream;
    });
    const streams = await Promise.all(watching);
    const ends = streams.map((stream) => failureOf(stream.next()));
    process.kill(service.pid, 'SIGTERM');
    const toldToStop = performance.now();
    for (const error of await Promise.all(ends))
      assert.deepEqual([error.code, error.reason], ['UNAVAILABLE', 'SERVER_STOPPING']);
    assert.ok(performance.now() - toldToStop < 60_000, 'not only when it has drained');
    assert.equal(await service.ended, 0);
  });

  test('a request that is none is refused as for any other call', async () => {
    const { ca, cert, key } = shared.service.connectOptions();
    const peer = {
      port: shared.service.port,
      ca: String(ca),
      cert: String(cert),
      key: String(key),
    };
    using session = openSession(peer);
    const path = '/keyward.v1.RotationService/WatchRewrapJob';
    const none = grpcFrame(Buffer.alloc(0));
    const refusals = [
      { body: [grpcFrame(Buffer.from('ff', 'hex'))], refusal: [3, 'MALFORMED_REQUEST'] },
      { body: [grpcFrame(Buffer.from('0aff', 'hex'))], refusal: [3, 'MALFORMED_REQUEST'] },
      { body: [], refusal: [12, 'MESSAGE_COUNT_WRONG'] },
      { body: [none, none], refusal: [12, 'MESSAGE_COUNT_WRONG'] },
    ];
    for (const { body, refusal } of refusals) {
      const { status, reason } = await call(session, { path, body });
      assert.deepEqual([status, reason], refusal);
    }
    const { reason, fields } = await call(session, { path, body: [grpcFrame(Buffer.alloc(0))] });
    assert.deepEqual([reason, fields], ['INVALID_FIELD', ['name']]);
    const large = await call(session, { path, body: [grpcFrame(Buffer.alloc(200_000))] });
    assert.equal(large.reason, 'MESSAGE_TOO_LARGE');
  });

  test('a hundred who watch hinder no call, and are told the end', async () => {
    const name = await newKey();
    const { job } = await leaveBehind(keyward, name, 20);
    const other = await newKey();
    const streams = Array.from({ length: 100 }, () =>
      keyward.watchRewrapJob({ name: job }, { timeoutMs: 600_000 }),
    );
    for (const stream of streams) assert.equal((await stream.next()).value?.state, 'RUNNING');
    for (let round = 0; round < 20; round++) {
      const { ciphertext } = await keyward.encrypt({ name: other, plaintext: Buffer.from('p') });
      await keyward.decrypt({ parent: PARENT, ciphertext });
      if (round % 5 === 0) await keyward.createDataKey({ parent: other });
    }
    await resume(keyward, name);
    const last = await Promise.all(
      streams.map(async (stream) => (await Array.fromAsync(stream)).at(-1)?.state),
    );
    assert.deepEqual([...new Set(last)], ['SUCCEEDED']);
  });

  async function collect(stream: AsyncIterable<RewrapJob>, into: RewrapJob[]): Promise<void> {
    for await (const each of stream) into.push(each);
  }
});

describe('while jobs run', () => {
  test('case 88: reading and decrypting never fail', async () => {
    const name = await newKey();
    const plaintexts = await storeDataKeys(keyward, name, 50);
    const names = [...plaintexts.keys()];
    const { ciphertext } = await keyward.encrypt({ name, plaintext: Buffer.from('p') });
    let ended = false;
    let reads = 0;
    const read = async (_: unknown, reader: number) => {
      for (let index = reader; !ended; index++) {
        const wanted = names[index % names.length] ?? '';
        assert.deepEqual(
          (await keyward.getDataKey({ name: wanted })).plaintext,
          plaintexts.get(wanted),
        );
        assert.equal(
          (await keyward.decrypt({ parent: PARENT, ciphertext })).plaintext.toString(),
          'p',
        );
        reads += 1;
      }
    };
    const reading = Promise.all(Array.from({ length: 3 }, read));
    reading.catch(() => {});
    try {
      for (let rotation = 0; rotation < 2; rotation++) {
        await keyward.rotateKey({ name });
        await endOf(keyward, await jobOf(keyward, name));
      }
    } finally {
      ended = true;
      await reading;
    }
    assert.ok(reads > 20);
    assert.deepEqual(await versionsInUse(keyward, name), [3]);
  });

  test('a server that is killed in the middle of one loses nothing, and the next goes on with it', async () => {
    await using environment = await newEnvironment();
    const slow = { ...QUICK, KEYWARD_REWRAP_SHARE: '8' };
    await using first = await startService(environment, slow);
    const client = first.client();
    await client.createTenant({ tenantId: 'acme' });
    const { name } = await client.createKey({ parent: PARENT, keyId: 'k' });
    const plaintexts = await storeDataKeys(client, name, 600);
    await client.rotateKey({ name });
    const job = await jobOf(client, name);
    await eventually(async () =>
      assert.notDeepEqual(
        await sql(environment, 'SELECT 1 FROM rewrap_ranges WHERE leased_until > now()'),
        [],
      ),
    );
    await first.kill();
    await expireLeases(environment);
    await using second = await startService(environment, slow);
    await eventually(async () =>
      assert.ok((await second.client().getRewrapJob({ name: job })).done > 0),
    );
    await second.kill();
    const [row] = await sql<{ state: string }>(environment, 'SELECT state FROM rewrap_jobs');
    assert.equal(row?.state, 'RUNNING');
    await expireLeases(environment);
    await using third = await startService(environment, QUICK);
    const ended = await endOf(third.client(), job);
    assert.deepEqual(
      [ended.state, ended.total, ended.done, ended.failed],
      ['SUCCEEDED', 600, 600, 0],
    );
    assert.deepEqual(await versionsInUse(third.client(), name), [2]);
    await assertOpen(third.client(), plaintexts);
  });

  test('a server that is told to stop in the middle of one gives it back, so that the next goes on at once', async () => {
    await using environment = await newEnvironment();
    await using first = await startService(environment, { ...QUICK, KEYWARD_REWRAP_SHARE: '8' });
    const client = first.client();
    await client.createTenant({ tenantId: 'acme' });
    const { name } = await client.createKey({ parent: PARENT, keyId: 'k' });
    await storeDataKeys(client, name, 120);
    await client.rotateKey({ name });
    const job = await jobOf(client, name);
    await eventually(async () =>
      assert.notDeepEqual(
        await sql(environment, 'SELECT 1 FROM rewrap_ranges WHERE leased_until > now()'),
        [],
      ),
    );
    assert.equal(await first.stop(), 0);
    const leased = await sql(
      environment,
      'SELECT 1 FROM rewrap_ranges WHERE NOT finished AND leased_until > now()',
    );
    assert.deepEqual(leased, []);
    await using second = await startService(environment, QUICK);
    const ended = await endOf(second.client(), job);
    assert.deepEqual([ended.state, ended.done], ['SUCCEEDED', 120]);
  });
});
