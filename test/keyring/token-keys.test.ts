/**
 * Root keys and the seal key over the wire: replaced under load, on several replicas, with a tenant
 * of its own; destroyed by an operator when nothing is under them.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import type { KeywardClient, TokenKey } from 'keyward-client';
import {
  type Environment,
  eventually,
  failureOf,
  newEnvironment,
  reasonOf,
  runCommand,
  type Service,
  sharedService,
  startService,
} from '../support/kit.ts';
import {
  corruptVersion,
  endOf,
  idsOf,
  newId,
  QUICK,
  resealTokenKeys,
  sql,
} from '../support/reconciling.ts';

const SYSTEM = 'tenants/system';
const payload = Buffer.from('kept');

/** The last part of its name. */
const uidOf = ({ name }: TokenKey) => name.split('/').at(-1) ?? '';

/** Every key version's root and seal key, each pair once, destroyed versions aside. */
async function keysInUse(environment: Environment, tenant?: string) {
  const rows = await sql<{ root: string; seal: string }>(
    environment,
    `SELECT DISTINCT v.root_key_id AS root, v.seal_key_id AS seal FROM key_versions v JOIN tenants t USING (tenant_id)
     WHERE v.state <> 'DESTROYED' AND ($1::text IS NULL OR t.name = $1) ORDER BY 1, 2`,
    [tenant ?? null],
  );
  return rows;
}

/** So many calls are made at least while something is done under load. */
const MANY = 20;
/** After so many failures there is no more to learn, and nobody left who says when to stop. */
const MOST_FAILURES = 100;

/** Calls one after another until told to stop; returns what failed. */
function keepCalling(work: () => Promise<unknown>) {
  let stopping = false;
  let calls = 0;
  const failures: unknown[] = [];
  const run = async () => {
    while (!stopping && failures.length < MOST_FAILURES) {
      await work().catch((error: unknown) => failures.push(error));
      calls += 1;
    }
  };
  const running = Array.from({ length: 4 }, run);
  return async () => {
    await eventually(() => assert.ok(calls > MANY, `${calls}`));
    stopping = true;
    await Promise.all(running);
    return failures;
  };
}

describe('two replicas', () => {
  let environment: Environment;
  let services: Service[];
  let clients: KeywardClient[];
  let keyward: KeywardClient;
  before(async () => {
    environment = await newEnvironment();
    services = [await startService(environment, { ...QUICK, KEYWARD_HSM_AGENTS: '2' })];
    services.push(await startService(environment, QUICK));
    clients = services.map((service) => service.client());
    keyward = clients[0] as KeywardClient;
    for (const tenantId of ['acme', 'globex']) await keyward.createTenant({ tenantId });
    await keyward.createTenant({ tenantId: 'sealed', dedicatedRootKey: true });
  });
  after(async () => {
    for (const service of services) await service.stop();
    await environment[Symbol.asyncDispose]();
  });

  /** Keys of two tenants, each with an older version, and a ciphertext of each version. */
  async function someKeys(parents = ['tenants/acme', 'tenants/globex']) {
    const kept: { name: string; ciphertext: Buffer }[] = [];
    for (const parent of parents) {
      for (let index = 0; index < 3; index++) {
        const { name } = await keyward.createKey({ parent, keyId: newId('k') });
        kept.push({
          name,
          ciphertext: (await keyward.encrypt({ name, plaintext: payload })).ciphertext,
        });
        await keyward.rotateKey({ name });
        kept.push({
          name,
          ciphertext: (await keyward.encrypt({ name, plaintext: payload })).ciphertext,
        });
      }
    }
    return kept;
  }

  async function assertAllOpen(
    kept: readonly { name: string; ciphertext: Buffer }[],
  ): Promise<void> {
    for (const client of clients) {
      for (const { name, ciphertext } of kept) {
        const parent = name.split('/').slice(0, 2).join('/');
        assert.deepEqual((await client.decrypt({ parent, ciphertext })).plaintext, payload);
      }
    }
  }

  for (const [what, rotate, column] of [
    ['the shared root key', () => keyward.rotateRootKey({ parent: SYSTEM }), 'root'],
    ['the seal key', () => keyward.rotateSealKey(), 'seal'],
  ] as const) {
    test(`${what} is replaced under load with no failed call, and every version comes under the new one`, async () => {
      const kept = await someKeys();
      let turn = 0;
      const stop = keepCalling(async () => {
        const client = clients[turn++ % 2] as KeywardClient;
        const { name, ciphertext } = kept[turn % kept.length] as (typeof kept)[number];
        const parent = name.split('/').slice(0, 2).join('/');
        await client.decrypt({ parent, ciphertext });
        await client.encrypt({ name, plaintext: payload });
        if (turn % 10 === 0) await client.rotateKey({ name });
        if (turn % 25 === 0) await client.createKey({ parent, keyId: newId('under-load') });
      });
      const fresh = await rotate();
      assert.equal(fresh.state, 'CURRENT');
      assert.equal((await endOf(keyward, fresh.rewrapJob)).state, 'SUCCEEDED');
      const failures = await stop();
      assert.deepEqual(failures, []);
      const shared = (await keysInUse(environment)).filter(
        ({ root }) => column === 'seal' || root === uidOf(fresh),
      );
      assert.ok(shared.length > 0 && shared.every((each) => each[column] === uidOf(fresh)));
      assert.equal((await keysInUse(environment, 'acme')).length, 1);
      await assertAllOpen(kept);
      const [newest, older] = (await keyward.listTokenKeys({ parent: SYSTEM })).tokenKeys.filter(
        ({ role }) => role.toLowerCase() === column,
      );
      assert.deepEqual(
        [newest?.name, newest?.state, older?.state],
        [fresh.name, 'CURRENT', 'RETIRED'],
      );
      assert.equal(older?.keyVersions, 0);
      assert.ok((newest?.keyVersions ?? 0) >= kept.length);
      assert.equal(newest?.caller, 'spiffe://keyward.test/tester');
      assert.ok(Number(newest?.activateTime) >= Number(newest?.createTime));
    });
  }

  test('a tenant’s own root key is replaced, and nobody else’s versions move', async () => {
    const kept = await someKeys(['tenants/sealed', 'tenants/acme']);
    const before = await keysInUse(environment, 'acme');
    const [own] = (await keyward.listTokenKeys({ parent: 'tenants/sealed' })).tokenKeys;
    assert.deepEqual(
      (await keysInUse(environment, 'sealed')).map(({ root }) => root),
      [own && uidOf(own)],
    );
    const fresh = await keyward.rotateRootKey({ parent: 'tenants/sealed' });
    const ended = await endOf(keyward, fresh.rewrapJob);
    assert.deepEqual(
      [ended.state, ended.scope, ended.kind, ended.total, ended.done],
      ['SUCCEEDED', 'tenants/sealed', 'KEY_VERSIONS', 6, 6],
    );
    assert.deepEqual(
      (await keysInUse(environment, 'sealed')).map(({ root }) => root),
      [uidOf(fresh)],
    );
    assert.deepEqual(await keysInUse(environment, 'acme'), before);
    await assertAllOpen(kept);
  });

  test('a replaced seal key is destroyed once records are sealed anew: states and policies that verify, no others', async () => {
    const { name } = await keyward.createKey({ parent: 'tenants/acme', keyId: newId('k') });
    const binding = { principal: 'spiffe://keyward.test/lost', role: 'roles/encrypter' };
    await keyward.createRoleBinding({
      parent: 'tenants/acme',
      roleBindingId: newId('b'),
      roleBinding: binding,
    });
    const before = (await keyward.listTokenKeys({ parent: SYSTEM })).tokenKeys.find(
      ({ role, state }) => role === 'SEAL' && state === 'CURRENT',
    );
    assert.ok(before);
    const used = async () => (await keyward.getTokenKey({ name: before.name })).sealedRecords;
    assert.ok((await used()) > 2, `${await used()}`);
    const flip = `set_byte(state_seal, 0, get_byte(state_seal, 0) # 255)`;
    const { keyId } = await idsOf(environment, name);
    await sql(environment, `UPDATE keys SET state_seal = ${flip} WHERE key_id = $1`, [keyId]);
    await endOf(keyward, (await keyward.rotateSealKey()).rewrapJob);
    await eventually(async () => assert.equal(await used(), 1));
    await eventually(() =>
      assert.ok(
        services.some(({ log }) =>
          log.some(({ alert, resource }) => alert === 'seal-corrupt' && resource === name),
        ),
      ),
    );
    const refused = await runCommand(environment, ['token', 'destroy-key', uidOf(before)]);
    assert.equal(refused.code, 1);
    assert.match(
      refused.output,
      /the states of 1 keys, the policies of 0 tenants, the rows of 0 tenants, 0 maintenance switches, 0 lists of canaries or silences, the approval rules of 0 tenants, 0 passkeys and 0 pending operations, or what was decided on them, are still sealed/,
    );
    assert.equal((await keyward.getTokenKey({ name: before.name })).state, 'RETIRED');
    await sql(environment, `UPDATE keys SET state_seal = ${flip} WHERE key_id = $1`, [keyId]);
    await eventually(async () => assert.equal(await used(), 0));
    const { code, output } = await runCommand(environment, ['token', 'destroy-key', uidOf(before)]);
    assert.equal(code, 0, output);
    await using another = await startService(environment, QUICK);
    const client = another.client();
    assert.ok((await client.listKeys({ parent: 'tenants/acme', pageSize: 1000 })).keys.length > 0);
    assert.ok((await client.listRoleBindings({ parent: 'tenants/acme' })).roleBindings.length > 0);
  });

  test('a replaced root key is destroyed once nothing is under it; everything opens, and a new server starts', async () => {
    const kept = await someKeys();
    const fresh = await keyward.rotateRootKey({ parent: SYSTEM });
    const current = await runCommand(environment, ['token', 'destroy-key', uidOf(fresh)]);
    assert.match(current.output, /it is CURRENT; rotate it first/);
    await endOf(keyward, fresh.rewrapJob);
    const retired = (await keyward.listTokenKeys({ parent: SYSTEM })).tokenKeys.find(
      ({ role, state }) => role === 'ROOT' && state === 'RETIRED',
    );
    assert.ok(retired);
    const stop = keepCalling(async () => {
      const { name, ciphertext } = kept[0] as (typeof kept)[number];
      for (const client of clients)
        await client.decrypt({ parent: name.split('/').slice(0, 2).join('/'), ciphertext });
    });
    const { code, output } = await runCommand(environment, [
      'token',
      'destroy-key',
      uidOf(retired),
    ]);
    assert.equal(code, 0, output);
    assert.match(output, /destroyed root \S+\n1 of 1 were in this token/);
    assert.deepEqual(await stop(), []);
    const gone = await keyward.getTokenKey({ name: retired.name });
    assert.deepEqual([gone.state, gone.destroyTime !== undefined], ['DESTROYED', true]);
    await assertAllOpen(kept);
    await using another = await startService(environment, QUICK);
    clients.push(another.client());
    await assertAllOpen(kept);
    clients.pop();
    const again = await runCommand(environment, ['token', 'destroy-key', uidOf(retired)]);
    assert.equal(again.code, 0, again.output);
    assert.match(again.output, /0 of 1 were in this token/);
  });

  test('one with key versions under it is not destroyed, and nothing has changed', async () => {
    const { name } = await keyward.createKey({ parent: 'tenants/acme', keyId: newId('k') });
    await corruptVersion(environment, name, 1);
    const fresh = await keyward.rotateRootKey({ parent: SYSTEM });
    const ended = await endOf(keyward, fresh.rewrapJob);
    assert.deepEqual([ended.state, ended.failed], ['PARTIAL', 1]);
    await eventually(() =>
      assert.ok(
        services.some(({ log }) =>
          log.some(
            ({ alert, resource }) =>
              alert === 'stored-row-corrupt' && resource === `${name}/versions/1`,
          ),
        ),
      ),
    );
    assert.deepEqual(
      ended.failures.map(({ resource, reason }) => [resource, reason]),
      [[`${name}/versions/1`, 'STORED_ROW_CORRUPT']],
    );
    const retired = (await keyward.listTokenKeys({ parent: SYSTEM })).tokenKeys.find(
      ({ role, state, keyVersions }) => role === 'ROOT' && state === 'RETIRED' && keyVersions > 0,
    );
    assert.ok(retired);
    const { code, output } = await runCommand(environment, [
      'token',
      'destroy-key',
      uidOf(retired),
    ]);
    assert.equal(code, 1);
    assert.match(output, /1 key versions are still under it/);
    assert.equal((await keyward.getTokenKey({ name: retired.name })).state, 'RETIRED');
    await corruptVersion(environment, name, 1);
    const job = await keyward.createRewrapJob({ scope: 'tenants/-', kind: 'KEY_VERSIONS' });
    assert.equal((await endOf(keyward, job.name)).state, 'SUCCEEDED');
    assert.equal((await keyward.getTokenKey({ name: retired.name })).keyVersions, 0);
  });
});

describe('a root key', () => {
  let keyward: KeywardClient;
  const shared = sharedService(async (client) => {
    keyward = client;
    await keyward.createTenant({ tenantId: 'acme' });
  }, QUICK);

  test('is not replaced where a tenant has none of its own, and not for a tenant that is not there', async () => {
    assert.equal(
      await reasonOf(keyward.rotateRootKey({ parent: 'tenants/acme' })),
      'TENANT_SHARES_ROOT_KEY',
    );
    assert.equal(
      await reasonOf(keyward.rotateRootKey({ parent: 'tenants/none' })),
      'RESOURCE_NOT_FOUND',
    );
    const error = await failureOf(
      keyward.getTokenKey({ name: `tenants/acme/tokenKeys/${randomUUID()}` }),
    );
    assert.equal(error.reason, 'RESOURCE_NOT_FOUND');
    assert.deepEqual((await keyward.listTokenKeys({ parent: 'tenants/acme' })).tokenKeys, []);
  });

  test('case 89: is replaced once for one request id, and of several at once one is', async () => {
    const requestId = randomUUID();
    const first = await keyward.rotateRootKey({ parent: SYSTEM, requestId });
    const again = await keyward.rotateRootKey({ parent: SYSTEM, requestId });
    assert.equal(again.name, first.name);
    const outcomes = await Promise.allSettled(
      Array.from({ length: 3 }, () => keyward.rotateRootKey({ parent: SYSTEM })),
    );
    assert.ok(outcomes.some(({ status }) => status === 'fulfilled'));
    const current = (await keyward.listTokenKeys({ parent: SYSTEM })).tokenKeys.filter(
      ({ role, state }) => role === 'ROOT' && state === 'CURRENT',
    );
    assert.equal(current.length, 1);
  });

  test('waits for a replica that does not see it, and no longer for one that has fallen silent', async (t) => {
    await sql(
      shared.environment,
      `INSERT INTO replicas (tenant_id, replica_id, seen_at, held)
       SELECT tenant_id, gen_random_uuid(), now(), '{}' FROM tenants, generate_series(1, 2)
       WHERE name = 'system'`,
    );
    const report = () =>
      sql(shared.environment, `UPDATE replicas SET seen_at = now() WHERE held = '{}'`);
    const reporting = setInterval(() => void report(), 500);
    t.after(() => clearInterval(reporting));
    const waiting = await keyward.rotateRootKey({ parent: SYSTEM }, { timeoutMs: 8_000 });
    assert.equal(waiting.state, 'CREATED');
    assert.equal(
      await reasonOf(keyward.rotateRootKey({ parent: SYSTEM })),
      'TOKEN_KEY_ROTATION_UNDER_WAY',
    );
    const { name } = await keyward.createKey({ parent: 'tenants/acme', keyId: newId('k') });
    const [under] = await sql<{ root_key_id: string }>(
      shared.environment,
      'SELECT root_key_id FROM key_versions v JOIN keys k USING (key_id) WHERE k.name = $1',
      [name.split('/').at(-1)],
    );
    assert.notEqual(under?.root_key_id, uidOf(waiting));
    clearInterval(reporting);
    await report();
    // The other was seen by a clock of the database's that was set back since.
    await sql(
      shared.environment,
      `UPDATE replicas SET seen_at = now() + CASE WHEN replica_id =
         (SELECT min(replica_id::text)::uuid FROM replicas WHERE held = '{}')
         THEN interval '-11 s' ELSE interval '1 hour' END WHERE held = '{}'`,
    );
    await eventually(async () =>
      assert.equal((await keyward.getTokenKey({ name: waiting.name })).state, 'CURRENT'),
    );
  });

  test('whose making was cut off is given up, and another is made in its place', async () => {
    const objectId = randomUUID();
    await sql(
      shared.environment,
      `INSERT INTO token_objects (tenant_id, object_id, role, is_current, state, caller, attempt_until)
       SELECT tenant_id, $1, 'root', false, 'CREATING', 'somebody', now() - interval '1 s'
       FROM tenants WHERE name = 'system'`,
      [objectId],
    );
    await resealTokenKeys(shared.environment);
    await eventually(async () => {
      const [newest, ...older] = (await keyward.listTokenKeys({ parent: SYSTEM })).tokenKeys.filter(
        ({ role }) => role === 'ROOT',
      );
      assert.deepEqual([newest?.state, newest?.caller], ['CURRENT', 'somebody']);
      assert.equal(older.find((each) => uidOf(each) === objectId)?.state, 'ABANDONED');
    });
    const status = await runCommand(shared.environment, ['token', 'status']);
    assert.equal(status.code, 0, status.output);
  });
});
