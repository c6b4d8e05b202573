/**
 * Re-wrap jobs over the wire: how they go on and end, by hand and by rotation, what they can't
 * open, and what stops them.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { describe, test } from 'node:test';
import type { KeywardClient, RewrapJob } from 'keyward-client';
import { encodePageToken } from '../../src/keyring/pages.ts';
import { eventually, failureOf, reasonOf, sharedService } from '../support/kit.ts';
import {
  assertOpen,
  corrupt,
  corruptVersion,
  endOf,
  expireLeases,
  idsOf,
  jobOf,
  leaveBehind,
  newId,
  QUICK,
  resume,
  sql,
  versionsInUse,
} from '../support/reconciling.ts';
import { TESTER } from '../support/tester.ts';

const PARENT = 'tenants/acme';
let keyward: KeywardClient;
const shared = sharedService(async (client) => {
  keyward = client;
  for (const tenantId of ['acme', 'globex']) await keyward.createTenant({ tenantId });
}, QUICK);

const newKey = async (parent = PARENT) =>
  (await keyward.createKey({ parent, keyId: newId('k') })).name;
const stateOf = async (name: string) => (await keyward.getRewrapJob({ name })).state;

describe('a job', () => {
  test('tells how far it is, and in the end that nothing is left', async () => {
    const name = await newKey();
    const { plaintexts, job } = await leaveBehind(keyward, name, 100);
    const waiting = await keyward.getRewrapJob({ name: job });
    assert.deepEqual(
      [
        waiting.state,
        waiting.scope,
        waiting.cause,
        waiting.caller,
        waiting.endTime,
        waiting.paused,
      ],
      ['RUNNING', name, 'REQUEST', TESTER, undefined, true],
    );
    await eventually(async () => {
      const { totalIsFinal, total, done, left, timeLeftSeconds } = await keyward.getRewrapJob({
        name: job,
      });
      assert.deepEqual(
        [totalIsFinal, total, done, left, timeLeftSeconds],
        [true, 100, 0, 100, undefined],
      );
    });
    await assertOpen(keyward, plaintexts);
    assert.deepEqual(await versionsInUse(keyward, name), [1]);
    await resume(keyward, name);
    const ended = await endOf(keyward, job);
    assert.deepEqual(
      [
        ended.state,
        ended.total,
        ended.done,
        ended.left,
        ended.failed,
        ended.totalIsFinal,
        ended.paused,
      ],
      ['SUCCEEDED', 100, 100, 0, 0, true, false],
    );
    assert.ok(ended.endTime !== undefined && ended.endTime > ended.createTime);
    assert.ok(ended.rate > 0);
    assert.deepEqual([ended.failures, ended.timeLeftSeconds], [[], undefined]);
    assert.deepEqual(await versionsInUse(keyward, name), [2]);
    await assertOpen(keyward, plaintexts);
  });

  test('of a key without data keys ends at once, and its end is in the audit log', async () => {
    const name = await newKey();
    await keyward.rotateKey({ name });
    const { name: job, ...ended } = await endOf(keyward, await jobOf(keyward, name));
    assert.deepEqual([ended.state, ended.total, ended.done], ['SUCCEEDED', 0, 0]);
    const entries = await sql(
      shared.environment,
      'SELECT method, caller FROM audit_entries WHERE resource = $1 AND entry_id IS NOT NULL',
      [job],
    );
    assert.deepEqual(entries, [
      { method: 'keyward.v1.Maintenance/EndRewrapJob', caller: 'keyward' },
    ]);
  });

  test('of a key that is disabled or paused stands still and says so, and goes on when it is not', async () => {
    for (const [stop, go] of [
      [
        (name: string) => keyward.disableKey({ name }),
        (name: string) => keyward.enableKey({ name }),
      ],
      [
        (name: string) => keyward.updateKey({ key: { name, maintenancePaused: true } }),
        (name: string) => keyward.updateKey({ key: { name, maintenancePaused: false } }),
      ],
    ] as const) {
      const name = await newKey();
      const { job } = await leaveBehind(keyward, name, 3);
      await stop(name);
      await resume(keyward, name);
      await stop(name);
      await settled();
      const { state, paused } = await keyward.getRewrapJob({ name: job });
      assert.deepEqual([state, paused], ['RUNNING', true]);
      await go(name);
      assert.equal((await endOf(keyward, job)).state, 'SUCCEEDED');
    }
  });

  test('leaves alone what is deleted meanwhile, and does not bring it back', async () => {
    const name = await newKey();
    const { plaintexts, job } = await leaveBehind(keyward, name, 20);
    await eventually(async () =>
      assert.ok((await keyward.getRewrapJob({ name: job })).totalIsFinal),
    );
    const [deleted = '', ...kept] = [...plaintexts.keys()];
    await keyward.deleteDataKey({ name: deleted });
    plaintexts.delete(deleted);
    await resume(keyward, name);
    const ended = await endOf(keyward, job);
    assert.deepEqual(
      [ended.state, ended.total, ended.done, ended.failed],
      ['SUCCEEDED', 20, 20, 0],
    );
    assert.equal((await keyward.listDataKeys({ parent: name })).dataKeys.length, kept.length);
    await assertOpen(keyward, plaintexts);
  });

  test('that a second rotation makes pointless is superseded, and the second’s brings everything along', async () => {
    const name = await newKey();
    const { plaintexts, job: first } = await leaveBehind(keyward, name, 30);
    await storeOneMore(name, plaintexts);
    await keyward.rotateKey({ name });
    const second = await jobOf(keyward, name);
    const superseded = await keyward.getRewrapJob({ name: first });
    assert.deepEqual([superseded.state, superseded.left], ['SUPERSEDED', 0]);
    assert.notEqual(superseded.endTime, undefined);
    await resume(keyward, name);
    const ended = await endOf(keyward, second);
    assert.deepEqual([ended.state, ended.done], ['SUCCEEDED', 31]);
    assert.deepEqual(await versionsInUse(keyward, name), [3]);
    await assertOpen(keyward, plaintexts);
    assert.equal(await stateOf(first), 'SUPERSEDED');
    const history = (await keyward.listRotations({ parent: name })).rotations;
    assert.deepEqual(
      history.map(({ rewrapState, rewrapped, left }) => [rewrapState, rewrapped, left]),
      [
        ['SUCCEEDED', 31, 0],
        ['SUPERSEDED', 0, 0],
      ],
    );
  });

  test('that is cancelled leaves the rest to the next one', async () => {
    const name = await newKey();
    const { plaintexts, job } = await leaveBehind(keyward, name, 10);
    const request = { name: job, requestId: randomUUID() };
    const cancelled = await keyward.cancelRewrapJob(request);
    assert.deepEqual([cancelled.state, cancelled.left, cancelled.done], ['CANCELLED', 0, 0]);
    assert.deepEqual(await keyward.cancelRewrapJob(request), cancelled);
    assert.deepEqual(await keyward.cancelRewrapJob({ name: job }), cancelled);
    assert.equal(
      await reasonOf(
        keyward.cancelRewrapJob({ ...request, name: `${PARENT}/rewrapJobs/${randomUUID()}` }),
      ),
      'REQUEST_ID_REUSED',
    );
    await resume(keyward, name);
    await settled();
    assert.deepEqual(await versionsInUse(keyward, name), [1]);
    const next = await keyward.createRewrapJob({ scope: name });
    assert.notEqual(next.name, job);
    const ended = await endOf(keyward, next.name);
    assert.deepEqual([ended.state, ended.done], ['SUCCEEDED', 10]);
    await assertOpen(keyward, plaintexts);
    assert.deepEqual(await keyward.cancelRewrapJob({ name: next.name }), ended);
  });
});

describe('jobs by hand', () => {
  test('are for a key, a tenant or all tenants, and those for all belong to the tenant system', async () => {
    const names = [await newKey(), await newKey(), await newKey('tenants/globex')] as const;
    const [first] = names;
    for (const name of names) {
      const { job } = await leaveBehind(keyward, name, 3);
      await keyward.cancelRewrapJob({ name: job });
      await resume(keyward, name);
    }
    const under = () => Promise.all(names.map((name) => versionsInUse(keyward, name)));
    const ofKey = await keyward.createRewrapJob({ scope: first });
    assert.match(ofKey.name, /^tenants\/acme\/rewrapJobs\//);
    assert.equal((await endOf(keyward, ofKey.name)).done, 3);
    assert.deepEqual(await under(), [[2], [1], [1]]);
    const ofTenant = await keyward.createRewrapJob({ scope: PARENT });
    assert.equal(ofTenant.scope, PARENT);
    assert.match(ofTenant.name, /^tenants\/acme\/rewrapJobs\//);
    assert.equal((await endOf(keyward, ofTenant.name)).state, 'SUCCEEDED');
    assert.deepEqual(await under(), [[2], [2], [1]]);
    const ofAll = await keyward.createRewrapJob({ scope: 'tenants/-' });
    assert.equal(ofAll.scope, 'tenants/-');
    assert.match(ofAll.name, /^tenants\/system\/rewrapJobs\//);
    assert.equal((await endOf(keyward, ofAll.name)).state, 'SUCCEEDED');
    assert.deepEqual(await under(), [[2], [2], [2]]);
    const { rewrapJobs } = await keyward.listRewrapJobs({ parent: 'tenants/system' });
    assert.deepEqual(
      rewrapJobs.map(({ name }) => name),
      [ofAll.name],
    );
  });

  test('of one scope are one while it is under way, also for several who ask at once', async () => {
    const name = await newKey();
    const { job } = await leaveBehind(keyward, name, 2);
    assert.equal((await keyward.createRewrapJob({ scope: name })).name, job);
    await keyward.cancelRewrapJob({ name: job });
    const asked = await Promise.all(
      Array.from({ length: 8 }, () => keyward.createRewrapJob({ scope: name })),
    );
    assert.equal(new Set(asked.map((each) => each.name)).size, 1);
    await resume(keyward, name);
    assert.equal((await endOf(keyward, asked[0]?.name ?? '')).state, 'SUCCEEDED');
    assert.notEqual((await keyward.createRewrapJob({ scope: name })).name, asked[0]?.name);
  });

  test('case 89: of one request id are one, with one answer', async () => {
    const name = await newKey();
    const request = { scope: name, requestId: randomUUID() };
    const first = await keyward.createRewrapJob(request);
    await endOf(keyward, first.name);
    assert.equal((await keyward.createRewrapJob(request)).name, first.name);
    assert.equal(
      await reasonOf(keyward.createRewrapJob({ ...request, scope: await newKey() })),
      'REQUEST_ID_REUSED',
    );
  });

  test('of what is not there, or is to be destroyed, are refused', async () => {
    const name = await newKey();
    const { impact } = await keyward.scheduleKeyDestruction({ name, validateOnly: true });
    await keyward.scheduleKeyDestruction({ name, etag: impact.etag });
    assert.equal(await reasonOf(keyward.createRewrapJob({ scope: name })), 'DESTRUCTION_UNDER_WAY');
    for (const scope of [`${name}-not`, 'tenants/nobody', name.replace('acme', 'globex')])
      assert.equal(await reasonOf(keyward.createRewrapJob({ scope })), 'RESOURCE_NOT_FOUND');
    for (const scope of [
      '',
      '-',
      'tenants/',
      'tenants/-/keys/k',
      `${name}/versions/1`,
      'tenants/*',
    ]) {
      const error = await failureOf(keyward.createRewrapJob({ scope }));
      assert.deepEqual([error.reason, error.fieldViolations[0]?.field], ['INVALID_FIELD', 'scope']);
    }
  });
});

describe('a list of jobs', () => {
  test('is read page by page, newest first, by state, and of the tenant alone', async () => {
    await keyward.createTenant({ tenantId: 'listed' });
    const jobs: string[] = [];
    for (let count = 0; count < 4; count++) {
      const name = await newKey('tenants/listed');
      const { job } = await leaveBehind(keyward, name, 1);
      jobs.unshift(job);
    }
    await keyward.cancelRewrapJob({ name: jobs[1] ?? '' });
    const found = async (filter: string) => {
      const names: string[] = [];
      for await (const job of keyward.rewrapJobs('tenants/listed', { filter, pageSize: 2 }))
        names.push(job.name);
      return names;
    };
    assert.deepEqual(await found(''), jobs);
    assert.deepEqual(await found('state = CANCELLED'), [jobs[1]]);
    assert.deepEqual(await found('state != CANCELLED'), [jobs[0], jobs[2], jobs[3]]);
    assert.deepEqual(
      await found('state != CANCELLED AND state != RUNNING AND state != SUCCEEDED'),
      [],
    );
    const { nextPageToken } = await keyward.listRewrapJobs({
      parent: 'tenants/listed',
      pageSize: 2,
    });
    const misuses = [
      { parent: PARENT, pageToken: nextPageToken },
      { parent: 'tenants/listed', pageToken: encodePageToken('jobs tenants/listed []', 'no-uuid') },
    ];
    for (const misuse of misuses) {
      const error = await failureOf(keyward.listRewrapJobs(misuse));
      assert.equal(error.fieldViolations[0]?.field, 'page_token');
    }
    const error = await failureOf(keyward.listRewrapJobs({ parent: PARENT, filter: 'scope = x' }));
    assert.equal(error.fieldViolations[0]?.field, 'filter');
  });

  test('case 28: another tenant’s job is not there, byte for byte as one that never was', async () => {
    const name = await newKey();
    await keyward.rotateKey({ name });
    const foreign = (await jobOf(keyward, name)).replace('acme', 'globex');
    const absent = `tenants/globex/rewrapJobs/${randomUUID()}`;
    const calls = [
      (job: string) => keyward.getRewrapJob({ name: job }),
      (job: string) => keyward.cancelRewrapJob({ name: job }),
      (job: string) => firstOf(keyward.watchRewrapJob({ name: job })),
    ];
    for (const attempt of calls) {
      const [seen, none] = await Promise.all(
        [foreign, absent].map((job) => failureOf(attempt(job))),
      );
      assert.deepEqual([seen?.code, seen?.reason], ['NOT_FOUND', 'RESOURCE_NOT_FOUND']);
      assert.equal(seen?.message, none?.message);
    }
    for (const bad of [
      '',
      PARENT,
      `${PARENT}/rewrapJobs/`,
      `${PARENT}/rewrapJobs/x`,
      `${name}/rewrapJobs/1`,
    ]) {
      for (const attempt of calls)
        assert.equal((await failureOf(attempt(bad))).fieldViolations[0]?.field, 'name', bad);
    }
  });
});

describe('what does not open', { concurrency: true }, () => {
  test('case 90: one corrupt row is named, the others are done, and its version is not to be destroyed', async () => {
    const name = await newKey();
    const { plaintexts, job } = await leaveBehind(keyward, name, 40);
    await corrupt(shared.environment, name, 'dk-0017');
    plaintexts.delete(`${name}/dataKeys/dk-0017`);
    await resume(keyward, name);
    const ended = await endOf(keyward, job);
    assert.deepEqual([ended.state, ended.total, ended.done, ended.failed], ['PARTIAL', 40, 39, 1]);
    await shared.service.logged((line) => line['alert'] === 'job-partial' && line['job'] === job);
    assert.deepEqual(
      ended.failures.map(({ resource, reason }) => [resource, reason]),
      [[`${name}/dataKeys/dk-0017`, 'DECRYPTION_FAILED']],
    );
    assert.ok(Number(ended.failures[0]?.time) >= Number(ended.createTime));
    const [rotation] = (await keyward.listRotations({ parent: name })).rotations;
    assert.deepEqual(
      [rotation?.rewrapState, rotation?.rewrapped, rotation?.failed],
      ['PARTIAL', 39, 1],
    );
    assert.deepEqual(await versionsInUse(keyward, name), [1, 2]);
    await assertOpen(keyward, plaintexts);
    for (const validateOnly of [true, false]) {
      const { etag } = await keyward.getKeyVersion({ name: `${name}/versions/1` });
      const request = { name: `${name}/versions/1`, etag, validateOnly };
      const error = await failureOf(keyward.scheduleKeyVersionDestruction(request));
      assert.deepEqual([error.code, error.reason], ['FAILED_PRECONDITION', 'KEY_VERSION_IN_USE']);
      assert.equal(error.metadata.get('stored_data_keys'), '1');
    }
    const partial = await keyward.listRewrapJobs({ parent: PARENT, filter: 'state = PARTIAL' });
    const listed = partial.rewrapJobs.filter(({ name: each }) => each === job);
    assert.deepEqual(
      listed.map(({ failures }) => failures),
      [[]],
    );
    await corrupt(shared.environment, name, 'dk-0017');
    const repaired = await endOf(keyward, (await keyward.createRewrapJob({ scope: name })).name);
    assert.deepEqual([repaired.state, repaired.total, repaired.done], ['SUCCEEDED', 1, 1]);
    assert.deepEqual(await versionsInUse(keyward, name), [2]);
  });

  test('of many corrupt rows the first hundred are named, and all are counted', async () => {
    const name = await newKey();
    const { job } = await leaveBehind(keyward, name, 130);
    const { keyId } = await idsOf(shared.environment, name);
    await sql(
      shared.environment,
      `UPDATE data_keys SET ciphertext = set_byte(ciphertext, 70, get_byte(ciphertext, 70) # 1)
       WHERE key_id = $1 AND name < 'dk-0120'`,
      [keyId],
    );
    await resume(keyward, name);
    const ended = await endOf(keyward, job);
    assert.deepEqual(
      [ended.state, ended.done, ended.failed, ended.failures.length],
      ['PARTIAL', 10, 120, 100],
    );
  });

  test('under a disabled version says so, and is done once that is enabled', async () => {
    const name = await newKey();
    const { plaintexts, job } = await leaveBehind(keyward, name, 5);
    await keyward.disableKeyVersion({ name: `${name}/versions/1` });
    await resume(keyward, name);
    const ended = await endOf(keyward, job);
    assert.deepEqual([ended.state, ended.done, ended.failed], ['PARTIAL', 0, 5]);
    assert.deepEqual(
      [...new Set(ended.failures.map(({ reason }) => reason))],
      ['KEY_VERSION_NOT_ENABLED'],
    );
    await keyward.enableKeyVersion({ name: `${name}/versions/1` });
    const again = await endOf(keyward, (await keyward.createRewrapJob({ scope: name })).name);
    assert.deepEqual([again.state, again.done], ['SUCCEEDED', 5]);
    await assertOpen(keyward, plaintexts);
  });

  test('case 36: since its version’s row does not verify says so, and is done once that is put right', async () => {
    const name = await newKey();
    const { plaintexts, job } = await leaveBehind(keyward, name, 5);
    await corruptVersion(shared.environment, name, 1);
    const from = shared.service.log.length;
    await resume(keyward, name);
    const ended = await endOf(keyward, job);
    assert.deepEqual([ended.state, ended.done, ended.failed], ['PARTIAL', 0, 5]);
    assert.deepEqual(
      [...new Set(ended.failures.map(({ reason }) => reason))],
      ['STORED_ROW_CORRUPT'],
    );
    await shared.service.logged(
      ({ alert, resource }) => alert === 'stored-row-corrupt' && resource === `${name}/versions/1`,
      from,
    );
    await corruptVersion(shared.environment, name, 1);
    const again = await endOf(keyward, (await keyward.createRewrapJob({ scope: name })).name);
    assert.deepEqual([again.state, again.done], ['SUCCEEDED', 5]);
    await assertOpen(keyward, plaintexts);
  });

  test('since the primary’s row does not verify waits for it, and keeps no other job from ending', async () => {
    const [broken, sound] = [await newKey(), await newKey()];
    const { plaintexts, job } = await leaveBehind(keyward, broken, 5);
    const { job: other } = await leaveBehind(keyward, sound, 5);
    await corruptVersion(shared.environment, broken, 2);
    const from = shared.service.log.length;
    await resume(keyward, broken);
    await shared.service.logged(({ msg }) => /re-wrapping failed/.test(String(msg)), from);
    await resume(keyward, sound);
    assert.equal((await endOf(keyward, other)).state, 'SUCCEEDED');
    assert.equal(await stateOf(job), 'RUNNING');
    await assertOpen(keyward, plaintexts);
    await corruptVersion(shared.environment, broken, 2);
    await expireLeases(shared.environment);
    assert.deepEqual((await endOf(keyward, job)).done, 5);
    // Has the service read the row anew, which nobody has told it of.
    await keyward.updateKey({ key: { name: broken, description: 'put right' } });
    await assertOpen(keyward, plaintexts);
  });
});

/** Waits until a job that was started just now has been worked on to its end. */
async function settled(): Promise<void> {
  const name = await newKey();
  await keyward.rotateKey({ name });
  await endOf(keyward, await jobOf(keyward, name));
}

async function storeOneMore(parent: string, plaintexts: Map<string, Buffer>): Promise<void> {
  const { dataKey, plaintext } = await keyward.createDataKey({
    parent,
    dataKeyId: 'more',
    returnPlaintext: true,
  });
  plaintexts.set(dataKey.name, plaintext);
}

async function firstOf(stream: AsyncIterable<RewrapJob>): Promise<RewrapJob | undefined> {
  for await (const job of stream) return job;
  return undefined;
}
