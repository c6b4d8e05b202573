/**
 * Rights that end, and policies that change, on several replicas: within 2 seconds everywhere, also
 * for streams that are open; all changes there and none by halves, whatever breaks.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { connect, readAuditEntry } from 'keyward-client';
import { startProxy } from '../store/proxy.ts';
import { eventually, failureOf, type Service } from '../support/kit.ts';
import { newId, resealTenants, sql } from '../support/reconciling.ts';
import { AccessRig, type BindingChanges, bindingOf, type Caller } from './access-rig.ts';

const CREATE = 'AccessService/CreateRoleBinding';
const WATCH = 'RotationService/WatchRewrapJob';
const KEY = 'tenants/acme/keys/k';
/** What is promised (docs/access.md). */
const EFFECTIVE_WITHIN_MS = 2_000;
/** A token is taken for so long after it has expired. */
const LEEWAY_SECONDS = 30;

let rig: AccessRig;
let other: Service;
/** A job that never ends, since maintenance is paused. */
let job: string;

before(async () => {
  rig = await AccessRig.start();
  other = await rig.addReplica();
  await rig.done('AdminService/PauseMaintenance', {});
  job = String((await rig.done('RotationService/CreateRewrapJob', { scope: KEY }))['name']);
});

after(() => rig?.[Symbol.asyncDispose]());

const uri = (name: string) => `spiffe://keyward.test/${name}`;

/** Somebody new with that role in acme, known to every replica. */
async function somebody(
  role: string,
  changes: BindingChanges = {},
): Promise<Caller & { readonly binding: string }> {
  const name = uri(newId('somebody'));
  const binding = await rig.bind('acme', name, role, changes);
  const caller = rig.certified(name);
  for (const service of rig.services)
    await eventually(async () =>
      assert.equal(
        (await rig.ask(caller, 'KeyService/GetKey', { name: KEY }, service)).reason,
        'OK',
      ),
    );
  return { ...caller, binding };
}

describe('case 32: a role that is taken away', () => {
  test('is worth nothing on any replica 2 seconds later, by itself or by group', () =>
    eventually(async () => {
      const byName = await somebody('keyViewer');
      const groups = { groups: [newId('group')] };
      const byGroup = rig.tokened(newId('member'), ['acme'], groups);
      const binding = await rig.bind('acme', '', 'keyViewer', {
        group: `corp/${groups.groups[0]}`,
      });
      for (const [caller, name] of [
        [byName, byName.binding] as const,
        [byGroup, binding] as const,
      ]) {
        const read = async (service: Service) =>
          (await rig.ask(caller, 'KeyService/GetKey', { name: KEY }, service)).reason;
        for (const service of rig.services)
          await eventually(async () => assert.equal(await read(service), 'OK'));
        await rig.done('AccessService/DeleteRoleBinding', { name });
        const deleted = performance.now();
        assert.equal(await read(rig.service), 'RESOURCE_NOT_FOUND', 'at once where it was done');
        const elsewhere = await eventually(async () => {
          assert.equal(await read(other), 'RESOURCE_NOT_FOUND');
          return performance.now() - deleted;
        });
        assert.ok(elsewhere < EFFECTIVE_WITHIN_MS, `${elsewhere} ms`);
        for (const service of [...rig.services, ...rig.services])
          assert.equal(await read(service), 'RESOURCE_NOT_FOUND');
      }
    }));

  test('ends a watched job, on every replica, and leaves an entry', async () => {
    const endsWatching = async (service: Service) => {
      const caller = await somebody('keyViewer');
      const name = String((await rig.done('AccessService/GetCaller', {}, caller))['name']);
      await rig.bind('acme', name, 'encrypter');
      const from = (await rig.audited()).length;
      const watched = rig.ask(caller, WATCH, { name: job }, service);
      assert.equal(
        await Promise.race([
          watched,
          rig.ask(caller, 'KeyService/GetKey', { name: KEY }, service).then(() => 'open'),
        ]),
        'open',
      );
      await rig.done('AccessService/DeleteRoleBinding', { name: caller.binding });
      const deleted = performance.now();
      const { reason, status, metadata } = await watched;
      assert.ok(performance.now() - deleted < EFFECTIVE_WITHIN_MS + 500);
      assert.deepEqual(
        [reason, status, metadata['permission']],
        ['PERMISSION_MISSING', 7, 'rewrapJobs.get'],
      );
      const entries = (await rig.audited(from)).filter(
        ({ method, caller: by }) => by === name && method.endsWith('/WatchRewrapJob'),
      );
      assert.deepEqual(
        entries.map(({ outcome, resource }) => [outcome, resource]),
        [['PERMISSION_MISSING', job]],
      );
    };
    for (const service of rig.services) await eventually(() => endsWatching(service));
  });

  test('lets an open stream give nothing more once a call of its own is refused', async () => {
    const name = 'tenants/acme/keys/none';
    let [marks, isOver] = [0, false];
    const marking = (async () => {
      while (!isOver) {
        marks += 1;
        await rig.ask(rig.tester, 'KeyService/GetKey', { name: `${name}-${marks}` });
      }
    })();
    // They begin at other moments of a second: none of them is lucky.
    const readers = [];
    for (let reader = 0; reader < 6; reader += 1) {
      const caller = await somebody('auditor');
      const seen = new Set<string>();
      const client = connect({ ...other.connectOptions(caller.credentials), retries: 0 });
      const read = async () => {
        const request = { parent: 'tenants/acme', firstLeafIndex: 0 };
        for await (const some of client.readAuditEntries(request))
          for (const entry of some) seen.add(String(readAuditEntry(entry).resource));
      };
      const failure = failureOf(read());
      await eventually(() => assert.ok(seen.size > 0));
      readers.push({ caller, seen, failure, client });
    }
    const list = (caller: Caller) =>
      rig.ask(caller, 'AuditService/ListEntries', { parent: 'tenants/acme' }, other);
    await Promise.all(
      readers.map(async ({ caller, seen, failure, client }) => {
        await rig.done('AccessService/DeleteRoleBinding', { name: caller.binding });
        await eventually(async () => assert.notEqual((await list(caller)).reason, 'OK'));
        const refused = marks;
        assert.equal((await failure).reason, 'RESOURCE_NOT_FOUND');
        client.close();
        for (const resource of seen) {
          const mark = Number(resource.split(`${name}-`)[1] ?? 0);
          assert.ok(mark <= refused, `${resource} came after ${name}-${refused}`);
        }
      }),
    ).finally(() => {
      isOver = true;
    });
    await marking;
  });

  test('ends a watched job as if there were none, where its caller has nothing left', async () => {
    const caller = await somebody('keyViewer');
    const watched = rig.ask(caller, WATCH, { name: job });
    await rig.done('AccessService/DeleteRoleBinding', { name: caller.binding });
    assert.equal((await watched).reason, 'RESOURCE_NOT_FOUND');
  });
});

describe('a watched job', () => {
  test('ends with its caller’s token, his certificate, or his binding’s time', async () => {
    const spent = Math.floor(Date.now() / 1000) - LEEWAY_SECONDS + 3;
    await rig.bind('acme', 'jwt:corp/watcher', 'keyViewer');
    const expiring = rig.tokened('watcher', ['acme'], { iat: spent - 60, exp: spent });
    assert.equal((await rig.ask(expiring, WATCH, { name: job })).reason, 'CREDENTIALS_INVALID');
    assert.equal(
      (await rig.ask(expiring, 'KeyService/GetKey', { name: KEY })).reason,
      'CREDENTIALS_INVALID',
    );

    const denied = await somebody('keyViewer');
    const watched = rig.ask(denied, WATCH, { name: job });
    rig.deny(denied);
    assert.equal((await watched).reason, 'CERTIFICATE_DENIED');
    rig.deny();

    const soon = { seconds: Math.floor(Date.now() / 1000) + 3 };
    const ending = await somebody('keyViewer', { expireTime: soon });
    assert.equal((await rig.ask(ending, WATCH, { name: job })).reason, 'RESOURCE_NOT_FOUND');
  });

  test('goes on for whoever keeps his rights, while others lose theirs', async () => {
    const caller = await somebody('keyViewer');
    const leaving = await somebody('keyViewer');
    const headers = { 'grpc-timeout': '4S' };
    const watched = rig.askByGrpc(caller, WATCH, { name: job }, { headers });
    const left = rig.ask(leaving, WATCH, { name: job });
    await rig.done('AccessService/DeleteRoleBinding', { name: leaving.binding });
    await left;
    const { reason, answer } = await watched;
    assert.equal(reason, 'DEADLINE_EXCEEDED');
    assert.equal(answer['name'], job);
  });
});

describe('a tenant’s policy', () => {
  /** A new tenant, and how often its policy was changed. */
  async function newTenant() {
    const tenantId = newId('t');
    await rig.done('AdminService/CreateTenant', { tenantId });
    const state = async () => {
      const [row] = await sql<{ revision: number | null; bindings: number }>(
        rig.environment,
        `SELECT (SELECT p.revision::integer FROM access_policies p JOIN tenants USING (tenant_id) WHERE name = $1) AS revision,
                (SELECT count(*)::integer FROM role_bindings JOIN tenants USING (tenant_id) WHERE name = $1) AS bindings`,
        [tenantId],
      );
      return row;
    };
    return { tenantId, parent: `tenants/${tenantId}`, state };
  }

  const listed = async (parent: string, service = rig.service) => {
    const { answer, reason } = await rig.ask(
      rig.tester,
      'AccessService/ListRoleBindings',
      { parent },
      service,
    );
    assert.equal(reason, 'OK');
    return (answer['roleBindings'] as { principal: string }[])
      .map(({ principal }) => principal)
      .sort();
  };

  test('has all of the bindings that two replicas make at once, each counted once', async () => {
    const { parent, state } = await newTenant();
    const names = Array.from({ length: 20 }, (_, index) =>
      uri(`at-once-${String(index).padStart(2, '0')}`),
    );
    const made = await Promise.all(
      names.map(async (name, index) => {
        const request = { parent, roleBinding: bindingOf(name, 'keyViewer') };
        return (await rig.ask(rig.tester, CREATE, request, rig.services[index % 2])).reason;
      }),
    );
    assert.deepEqual(
      made,
      names.map(() => 'OK'),
    );
    assert.deepEqual(await state(), { revision: 20, bindings: 20 });
    for (const service of rig.services)
      await eventually(async () => assert.deepEqual(await listed(parent, service), names));
  });

  test('and honest calls go on, while one caller changes it as fast as he can', async () => {
    const { parent } = await newTenant();
    const caller = await somebody('keyViewer');
    const storm = Promise.all(
      Array.from({ length: 60 }, (_, index) =>
        rig.ask(rig.tester, CREATE, {
          parent,
          roleBinding: bindingOf(uri(`storm-${index}`), 'keyViewer'),
        }),
      ),
    );
    let isOver = false;
    const outcomes = storm.finally(() => {
      isOver = true;
    });
    do {
      assert.equal((await rig.ask(caller, 'KeyService/GetKey', { name: KEY })).reason, 'OK');
      const change = { parent: 'tenants/beta/keys/k' };
      assert.equal(
        (await rig.ask(rig.tester, 'DataKeyService/CreateDataKey', change)).reason,
        'OK',
      );
    } while (!isOver);
    for (const { reason } of await outcomes) assert.equal(reason, 'OK');
  });

  test('case 76: is changed once or not at all when the connection breaks at COMMIT', async () => {
    await using proxy = await startProxy(rig.environment.urls.service);
    const behind = await rig.addReplica({
      DATABASE_URL: proxy.through(rig.environment.urls.service),
    });
    try {
      for (const cut of ['before', 'after', 'late'] as const) {
        const { parent, state } = await newTenant();
        const name = uri(`cut-${cut}`);
        const request = {
          parent,
          roleBinding: bindingOf(name, 'keyViewer'),
          requestId: randomUUID(),
        };
        await eventually(() =>
          rig.ask(rig.tester, 'AccessService/ListRoleBindings', { parent }, behind),
        );
        proxy.cutNext(cut);
        const { reason } = await rig.ask(rig.tester, CREATE, request, behind);
        const after = await state();
        if (reason === 'OK') assert.deepEqual(after, { revision: 1, bindings: 1 }, cut);
        else assert.equal(reason, 'DATABASE_UNAVAILABLE', cut);
        await eventually(async () =>
          assert.equal((await rig.ask(rig.tester, CREATE, request, behind)).reason, 'OK'),
        );
        assert.deepEqual(await state(), { revision: 1, bindings: 1 }, cut);
        for (const service of rig.services)
          await eventually(async () => assert.deepEqual(await listed(parent, service), [name]));
      }
    } finally {
      rig.services.splice(rig.services.indexOf(behind), 1);
      await behind.stop();
    }
  });

  test('verifies, with what was acknowledged and nothing by halves, when agents are killed while it is changed', async () => {
    const { parent, state } = await newTenant();
    const acknowledged: string[] = [];
    for (let round = 0; round < 5; round += 1) {
      const names = Array.from({ length: 4 }, (_, index) => uri(`killed-${round}-${index}`));
      const made = names.map(async (name) => {
        const { reason } = await rig.ask(
          rig.tester,
          CREATE,
          { parent, roleBinding: bindingOf(name, 'keyViewer') },
          other,
        );
        if (reason === 'OK') acknowledged.push(name);
        else assert.ok(['HSM_UNAVAILABLE', 'DATABASE_POOL_EXHAUSTED'].includes(reason), reason);
      });
      for (const pid of other.agentPids) process.kill(pid, 'SIGKILL');
      await Promise.all(made);
      await eventually(async () => assert.deepEqual(await listed(parent), acknowledged.toSorted()));
      assert.deepEqual(await state(), {
        revision: acknowledged.length === 0 ? null : acknowledged.length,
        bindings: acknowledged.length,
      });
    }
    await eventually(async () => {
      const request = { parent, roleBinding: bindingOf(uri('afterwards'), 'keyViewer') };
      assert.equal((await rig.ask(rig.tester, CREATE, request, other)).reason, 'OK');
    });
  });

  test('of a tenant that is disabled can be changed, and of one that is gone can’t be asked for', async () => {
    const { tenantId, parent } = await newTenant();
    await rig.done('AdminService/DisableTenant', { name: parent });
    const name = await rig.bind(tenantId, uri('of-disabled'), 'keyViewer');
    const caller = rig.certified(uri('of-disabled'));
    assert.equal((await rig.ask(caller, 'KeyService/ListKeys', { parent })).reason, 'OK');
    await rig.done('AccessService/DeleteRoleBinding', { name });
    await rig.bind(tenantId, uri('of-disabled'), 'keyViewer');
    await sql(
      rig.environment,
      "UPDATE tenants SET state = 'SHREDDED', shred_at = now(), shredded_at = now() WHERE name = $1",
      [tenantId],
    );
    await resealTenants(rig.environment, 't.name = $1', [tenantId]);
    await sql(
      rig.environment,
      "INSERT INTO changes (tenant_id, kind, subject_id) SELECT tenant_id, 'shredded', tenant_id FROM tenants WHERE name = $1",
      [tenantId],
    );
    await eventually(async () =>
      assert.equal(
        (await rig.ask(caller, 'KeyService/ListKeys', { parent })).reason,
        'RESOURCE_NOT_FOUND',
      ),
    );
    assert.equal(
      (await rig.ask(rig.tester, 'AdminService/CreateTenant', { tenantId })).reason,
      'RESOURCE_EXISTS',
    );
    assert.equal(
      (await rig.ask(caller, 'KeyService/ListKeys', { parent })).reason,
      'RESOURCE_NOT_FOUND',
    );
    const everywhere = await rig.ask(rig.tester, CREATE, {
      parent: 'tenants/system',
      roleBinding: bindingOf(uri('of-disabled'), 'keyViewer', { allTenants: true }),
    });
    assert.equal(everywhere.reason, 'OK', 'what a shredded tenant gave is no matter');
  });
});
