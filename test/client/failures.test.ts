import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Metadata, status } from '@grpc/grpc-js';
import { connect, KeywardError } from '../../client/src/index.ts';
import { createCertificateAuthority } from '../../dev/certificates.ts';
import { eventually } from '../support/kit.ts';
import {
  type Refusal,
  refusal,
  startFakeService,
  wireDataKey,
  wireJob,
  wireKey,
  wireRoleBinding,
} from './fake-service.ts';

const KEY = 'tenants/acme/keys/orders';

async function failureOf(promise: Promise<unknown>): Promise<KeywardError> {
  const error = await promise.then(
    () => assert.fail('the call succeeded'),
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof KeywardError, String(error));
  return error;
}

function refusing(facts: Refusal) {
  return () => {
    throw refusal(facts);
  };
}

describe('an error', () => {
  it('carries everything that the service said', async () => {
    await using service = await startFakeService({
      GetKey: refusing({
        code: status.INVALID_ARGUMENT,
        message: 'name: is not a name',
        reason: 'INVALID_FIELD',
        metadata: { limit: '63', ['__proto__']: 'kept' },
        fieldViolations: [{ field: 'name', description: 'is not a name' }],
        retryDelay: { seconds: 1, nanos: 500_000_000 },
        requestId: 'request-1',
      }),
    });
    using keyward = service.connect();
    const error = await failureOf(keyward.getKey({ name: 'x' }));
    assert.equal(error.name, 'KeywardError');
    assert.equal(error.message, 'name: is not a name');
    assert.equal(error.code, 'INVALID_ARGUMENT');
    assert.equal(error.reason, 'INVALID_FIELD');
    assert.deepEqual(
      error.metadata,
      new Map([
        ['limit', '63'],
        ['__proto__', 'kept'],
      ]),
    );
    assert.deepEqual(error.fieldViolations, [{ field: 'name', description: 'is not a name' }]);
    assert.equal(error.retryDelayMs, 1500);
    assert.equal(error.requestId, 'request-1');
    assert.equal(error.cause, undefined);
    assert.equal(error.field, 'name');
    assert.equal(error.retryable, true);
  });

  it('without details has its status and message only', async () => {
    await using service = await startFakeService({
      GetKey: () => {
        throw { code: status.RESOURCE_EXHAUSTED, details: 'message too large' };
      },
    });
    using keyward = service.connect();
    const error = await failureOf(keyward.getKey({ name: KEY }));
    assert.equal(error.code, 'RESOURCE_EXHAUSTED');
    assert.equal(error.message, `cannot use what ${service.address} answered: message too large`);
    assert.equal(error.reason, undefined);
    assert.deepEqual(error.fieldViolations, []);
    assert.equal(error.retryDelayMs, undefined);
    assert.equal(service.calls.get('GetKey'), 1);
  });

  it('with details that do not parse is as one without', async () => {
    const trailer = new Metadata();
    trailer.set('grpc-status-details-bin', Buffer.from('ffffffffff', 'hex'));
    await using service = await startFakeService({
      GetKey: () => {
        throw { code: status.INTERNAL, details: 'broken', metadata: trailer };
      },
    });
    using keyward = service.connect();
    const error = await failureOf(keyward.getKey({ name: KEY }));
    assert.deepEqual([error.code, error.reason], ['INTERNAL', undefined]);
    assert.match(error.message, /^cannot use what .* answered: broken$/);
  });

  it('of another domain lends no reason', async () => {
    await using service = await startFakeService({
      GetKey: refusing({
        code: status.NOT_FOUND,
        reason: 'RESOURCE_NOT_FOUND',
        domain: 'proxy.example',
      }),
    });
    using keyward = service.connect();
    const error = await failureOf(keyward.getKey({ name: KEY }));
    assert.deepEqual([error.code, error.reason], ['NOT_FOUND', undefined]);
  });

  it('comes of an answer that is not whole', async () => {
    await using service = await startFakeService({ GetKey: () => ({ name: KEY }) });
    using keyward = service.connect();
    const error = await failureOf(keyward.getKey({ name: KEY }));
    assert.equal(error.code, 'INTERNAL');
    assert.match(error.message, /lacks Key\.primary/);
  });

  it('says which address did not answer, and why', async () => {
    const service = await startFakeService({});
    await service[Symbol.asyncDispose]();
    using keyward = service.connect({ retries: 0 });
    const error = await failureOf(keyward.getKey({ name: KEY }));
    assert.equal(error.code, 'UNAVAILABLE');
    assert.match(
      error.message,
      new RegExp(`^cannot reach ${service.address}: connect ECONNREFUSED ${service.address}`),
    );
    assert.doesNotMatch(error.message, /Resolution note|No connection established/);
  });
});

describe('retries', () => {
  const busy = { code: status.RESOURCE_EXHAUSTED, reason: 'HSM_QUEUE_FULL' };
  const soon = { seconds: 0, nanos: 5_000_000 };

  /** Fails `times` times, then answers. */
  function failing(times: number, facts: Refusal, answer: unknown) {
    let left = times;
    return () => {
      left -= 1;
      if (left >= 0) throw refusal(facts);
      return answer;
    };
  }

  for (const code of [status.RESOURCE_EXHAUSTED, status.UNAVAILABLE]) {
    it(`happen when the service invites them with ${status[code]}`, async () => {
      await using service = await startFakeService({
        GetKey: failing(2, { ...busy, code, retryDelay: soon }, wireKey(KEY)),
      });
      using keyward = service.connect();
      assert.equal((await keyward.getKey({ name: KEY })).name, KEY);
      assert.equal(service.calls.get('GetKey'), 3);
    });
  }

  it('end after the given number, with the last error', async () => {
    await using service = await startFakeService({
      GetKey: refusing({ ...busy, retryDelay: soon }),
    });
    for (const [retries, calls] of [
      [0, 1],
      [1, 3],
      [2, 6],
    ] as const) {
      using keyward = service.connect({ retries });
      assert.equal((await failureOf(keyward.getKey({ name: KEY }))).reason, 'HSM_QUEUE_FULL');
      assert.equal(service.calls.get('GetKey'), calls);
    }
  });

  it('never happen uninvited, nor for another status', async () => {
    const cases: Refusal[] = [
      busy,
      { ...busy, code: status.ABORTED, retryDelay: soon },
      { ...busy, code: status.INTERNAL, retryDelay: soon },
      { code: status.UNAVAILABLE, reason: 'HSM_UNAVAILABLE' },
    ];
    for (const facts of cases) {
      await using service = await startFakeService({ GetKey: refusing(facts) });
      using keyward = service.connect();
      await failureOf(keyward.getKey({ name: KEY }));
      assert.equal(service.calls.get('GetKey'), 1);
    }
  });

  it('of what changes something have the same request id, so that it is made once', async () => {
    const ids: Record<string, unknown[]> = {};
    const retryDelay = soon;
    const failingOnce = (method: string, answer: unknown) => {
      const respond = failing(
        1,
        { code: status.UNAVAILABLE, reason: 'HSM_UNAVAILABLE', retryDelay },
        answer,
      );
      return (request: Record<string, unknown>) => {
        ids[method] = [...(ids[method] ?? []), request['requestId']];
        return respond();
      };
    };
    const tenant = { name: 'tenants/acme', createTime: { seconds: 1, nanos: 0 } };
    const version = wireKey(KEY).primary;
    const dataKey = wireDataKey(`${KEY}/dataKeys/d`);
    const job = wireJob('tenants/acme/rewrapJobs/j');
    const binding = wireRoleBinding('tenants/acme/roleBindings/b');
    const impact = { usage: {}, destroyTime: { seconds: 1, nanos: 0 } };
    const changes: Record<string, unknown> = {
      CreateTenant: tenant,
      DisableTenant: tenant,
      EnableTenant: tenant,
      CreateKey: wireKey(KEY),
      RotateKey: wireKey(KEY),
      UpdateKey: wireKey(KEY),
      DisableKey: wireKey(KEY),
      EnableKey: wireKey(KEY),
      DisableKeyVersion: version,
      EnableKeyVersion: version,
      ScheduleKeyDestruction: { key: wireKey(KEY), impact },
      RestoreKey: wireKey(KEY),
      ScheduleKeyVersionDestruction: { keyVersion: version, impact },
      RestoreKeyVersion: version,
      CreateDataKey: { dataKey },
      DeleteDataKey: {},
      CreateRewrapJob: job,
      CancelRewrapJob: job,
      PauseMaintenance: {},
      ResumeMaintenance: {},
      CreateRoleBinding: binding,
      DeleteRoleBinding: {},
      CreateRole: { name: 'tenants/acme/roles/r' },
      DeleteRole: {},
    };
    await using service = await startFakeService(
      Object.fromEntries(
        Object.entries(changes).map(([name, answer]) => [name, failingOnce(name, answer)]),
      ),
    );
    using keyward = service.connect();
    await keyward.createTenant({ tenantId: 'acme' });
    await keyward.disableTenant({ name: 'tenants/acme' });
    await keyward.enableTenant({ name: 'tenants/acme' });
    await keyward.createKey({ parent: 'tenants/acme', keyId: 'orders' });
    await keyward.rotateKey({ name: KEY });
    await keyward.updateKey({ key: { name: KEY, description: '' } });
    await keyward.disableKey({ name: KEY });
    await keyward.enableKey({ name: KEY });
    await keyward.disableKeyVersion({ name: version.name });
    await keyward.enableKeyVersion({ name: version.name });
    await keyward.scheduleKeyDestruction({ name: KEY, etag: 'e' });
    await keyward.restoreKey({ name: KEY });
    await keyward.scheduleKeyVersionDestruction({ name: version.name, etag: 'e' });
    await keyward.restoreKeyVersion({ name: version.name });
    await keyward.createDataKey({ parent: KEY });
    await keyward.deleteDataKey({ name: dataKey.name });
    await keyward.createRewrapJob({ scope: KEY });
    await keyward.cancelRewrapJob({ name: job.name });
    await keyward.pauseMaintenance();
    await keyward.resumeMaintenance();
    const roleBinding = { principal: 'spiffe://acme/orders', role: 'roles/decrypter' };
    await keyward.createRoleBinding({ parent: 'tenants/acme', roleBinding });
    await keyward.deleteRoleBinding({ name: binding.name });
    await keyward.createRole({ parent: 'tenants/acme', roleId: 'r', role: { permissions: [] } });
    await keyward.deleteRole({ name: 'tenants/acme/roles/r' });
    assert.deepEqual(Object.keys(ids), Object.keys(changes));
    for (const [method, [first, second, ...others]] of Object.entries(ids)) {
      assert.match(String(first), /^[0-9a-f-]{36}$/, method);
      assert.equal(second, first, method);
      assert.deepEqual(others, [], method);
    }
  });

  it('wait at least as long as the service says, and no longer than the deadline allows', async () => {
    const retryDelay = { seconds: 0, nanos: 150_000_000 };
    await using service = await startFakeService({
      GetKey: failing(1, { ...busy, retryDelay }, wireKey(KEY)),
      GetTenant: refusing({ ...busy, retryDelay: { seconds: 60, nanos: 0 } }),
    });
    using keyward = service.connect();
    let begun = performance.now();
    await keyward.getKey({ name: KEY });
    assert.ok(performance.now() - begun >= 150);
    begun = performance.now();
    const error = await failureOf(keyward.getTenant({ name: 'tenants/acme' }));
    assert.ok(performance.now() - begun < 50_000);
    assert.equal(error.reason, 'HSM_QUEUE_FULL');
    assert.equal(service.calls.get('GetTenant'), 1);
  });

  it('find a service that has just come up', async () => {
    const ca = createCertificateAuthority('Fake CA');
    const first = await startFakeService({}, { ca });
    await first[Symbol.asyncDispose]();
    using keyward = first.connect();
    const call = keyward.getKey({ name: KEY });
    await sleep(100);
    const port = Number(first.address.split(':')[1]);
    await using _second = await startFakeService({ GetKey: () => wireKey(KEY) }, { ca, port });
    assert.equal((await call).name, KEY);
  });

  it('bring a lost connection back', async () => {
    const ca = createCertificateAuthority('Fake CA');
    const handlers = { GetKey: () => wireKey(KEY) };
    const first = await startFakeService(handlers, { ca });
    using keyward = first.connect();
    await keyward.getKey({ name: KEY });
    await first[Symbol.asyncDispose]();
    const port = Number(first.address.split(':')[1]);
    await using _second = await startFakeService(handlers, { ca, port });
    assert.equal((await keyward.getKey({ name: KEY })).name, KEY);
  });
});

describe('deadlines and cancelling', () => {
  const never = () => new Promise(() => {});

  it('every call has the client’s deadline, or its own', async () => {
    await using service = await startFakeService({ GetKey: never });
    using keyward = service.connect({ defaultTimeoutMs: 100 });
    let begun = performance.now();
    const error = await failureOf(keyward.getKey({ name: KEY }));
    assert.equal(error.code, 'DEADLINE_EXCEEDED');
    assert.equal(error.message, `no answer from ${service.address} by the deadline`);
    assert.ok(performance.now() - begun < 50_000);
    using patient = service.connect({ defaultTimeoutMs: 600_000 });
    begun = performance.now();
    assert.equal(
      (await failureOf(patient.getKey({ name: KEY }, { timeoutMs: 100 }))).code,
      'DEADLINE_EXCEEDED',
    );
    assert.ok(performance.now() - begun < 50_000);
  });

  it('a timeout that is none is refused', async () => {
    await using service = await startFakeService({ GetKey: never });
    using keyward = service.connect();
    for (const timeoutMs of [Number.NaN, Number.POSITIVE_INFINITY, -1]) {
      await assert.rejects(keyward.getKey({ name: KEY }, { timeoutMs }), TypeError);
    }
    assert.equal(service.calls.size, 0);
  });

  it('a signal cancels the call at the service too, and its reason is the cause', async () => {
    const cancelled = Promise.withResolvers<void>();
    await using service = await startFakeService({
      GetKey: (_request, call) => {
        call.on('cancelled', () => cancelled.resolve());
        return never();
      },
    });
    using keyward = service.connect();
    const controller = new AbortController();
    const call = keyward.getKey({ name: KEY }, { signal: controller.signal });
    while (service.calls.size === 0) await sleep(5);
    controller.abort(new Error('enough'));
    const error = await failureOf(call);
    assert.equal(error.code, 'CANCELLED');
    assert.equal((error.cause as Error).message, 'enough');
    await cancelled.promise;
  });

  it('a signal that is aborted already sends nothing, and one between retries ends the wait', async () => {
    await using service = await startFakeService({
      GetKey: refusing({
        code: status.UNAVAILABLE,
        reason: 'HSM_UNAVAILABLE',
        retryDelay: { seconds: 60, nanos: 0 },
      }),
    });
    using keyward = service.connect({ defaultTimeoutMs: 600_000 });
    const error = await failureOf(keyward.getKey({ name: KEY }, { signal: AbortSignal.abort() }));
    assert.equal(error.code, 'CANCELLED');
    assert.equal(service.calls.size, 0);
    const controller = new AbortController();
    const begun = performance.now();
    const call = keyward.getKey({ name: KEY }, { signal: controller.signal });
    while (service.calls.size === 0) await sleep(5);
    await sleep(50);
    controller.abort();
    assert.equal((await failureOf(call)).code, 'CANCELLED');
    assert.ok(performance.now() - begun < 50_000);
    assert.equal(service.calls.get('GetKey'), 1);
  });
});

describe('closing', () => {
  it('waits for the calls in flight, their retries too, and takes no others', async () => {
    const { promise: refused, resolve } = Promise.withResolvers<void>();
    await using service = await startFakeService({
      GetKey: () => {
        resolve();
        if (service.calls.get('GetKey') === 3) return wireKey(KEY);
        throw refusal({
          ...{ code: status.UNAVAILABLE, reason: 'HSM_UNAVAILABLE' },
          retryDelay: { seconds: 0, nanos: 20_000_000 },
        });
      },
    });
    const keyward = service.connect();
    const inFlight = keyward.getKey({ name: KEY });
    await refused;
    const closed = keyward.close();
    assert.equal((await failureOf(keyward.getKey({ name: KEY }))).message, 'The client is closed.');
    await Promise.all([closed, keyward.close(), keyward[Symbol.asyncDispose]()]);
    assert.equal((await inFlight).name, KEY);
    assert.equal(service.calls.get('GetKey'), 3);
  });

  it('at once ends the calls in flight, and later ones say that the client is closed', async () => {
    await using service = await startFakeService({ GetKey: () => new Promise(() => {}) });
    const keyward = service.connect();
    const inFlight = failureOf(keyward.getKey({ name: KEY }));
    while (service.calls.size === 0) await sleep(5);
    keyward[Symbol.dispose]();
    keyward[Symbol.dispose]();
    await keyward.close();
    for (const error of [await inFlight, await failureOf(keyward.getKey({ name: KEY }))]) {
      assert.deepEqual([error.code, error.message], ['CANCELLED', 'The client is closed.']);
    }
    await assert.rejects(keyward.tenants().next(), /The client is closed/);
    assert.equal(service.calls.get('GetKey'), 1);
  });

  it('leaves no connection, not even one to a service that never said a word', async () => {
    const { promise: connected, resolve } = Promise.withResolvers<Socket>();
    const silent = createServer(resolve);
    await once(silent.listen(0, '127.0.0.1'), 'listening');
    const { port } = silent.address() as AddressInfo;
    const ca = createCertificateAuthority('ca').certPem;
    const keyward = connect({ address: `127.0.0.1:${port}`, ca, token: 'a.b.c', retries: 0 });
    const call = failureOf(keyward.getKey({ name: KEY }, { timeoutMs: 1_000 }));
    const socket = await connected;
    let isClosed = false;
    socket.resume().on('close', () => {
      isClosed = true;
    });
    assert.equal((await call).code, 'DEADLINE_EXCEEDED');
    keyward.close();
    await eventually(() => assert.ok(isClosed));
    silent.close();
  });
});
