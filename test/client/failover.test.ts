/** The client with several addresses, files that change, hooks, and a service that refuses. */
import assert from 'node:assert/strict';
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { status } from '@grpc/grpc-js';
import {
  type CallEnd,
  type ConnectionEvent,
  connect,
  type Hooks,
  KeywardError,
  type ReloadEvent,
  SettingsError,
} from '../../client/src/index.ts';
import { createCertificateAuthority } from '../../dev/certificates.ts';
import { eventually } from '../support/kit.ts';
import { refusal, SERVICES, startFakeService, wireJob, wireKey } from './fake-service.ts';

const KEY = 'tenants/acme/keys/orders';
const folder = mkdtempSync(join(tmpdir(), 'keyward-client-'));
after(() => rmSync(folder, { recursive: true }));

/** What hooks have heard. */
function listening() {
  const heard = {
    started: [] as string[],
    ended: [] as (CallEnd & { method: string })[],
    retries: [] as { attempt: number; address: string; delayMs: number }[],
    connections: [] as ConnectionEvent[],
    reloads: [] as ReloadEvent[],
  };
  const hooks: Hooks = {
    onCallStart: ({ method }) => {
      heard.started.push(method);
    },
    onCallEnd: ({ method }, end) => heard.ended.push({ ...end, method }),
    onRetry: (_call, retry) => heard.retries.push(retry),
    onConnection: (event) => heard.connections.push(event),
    onReload: (event) => heard.reloads.push(event),
  };
  return { ...heard, hooks };
}

const portOf = (address: string) => Number(address.split(':')[1]);
const ca = createCertificateAuthority('Fake CA');
const answering = { GetKey: () => wireKey(KEY) };

describe('several connections to an address', () => {
  it('are made as calls need them, and used in turn', async () => {
    await using service = await startFakeService(answering, { ca });
    const { connections, hooks } = listening();
    await using keyward = service.connect({ connections: 3, hooks });
    const { address } = service;
    const made = [{ address, state: 'connected' }];
    for (let calls = 0; calls < 2; calls += 1) await keyward.getKey({ name: KEY });
    await eventually(() => assert.deepEqual(connections, [...made, ...made]));
    for (let calls = 0; calls < 7; calls += 1) await keyward.getKey({ name: KEY });
    await eventually(() => assert.deepEqual(connections, [...made, ...made, ...made]));
  });

  it('are between 1 and 64', async () => {
    await using service = await startFakeService(answering, { ca });
    for (const connections of [0, 65, 1.5, Number.NaN])
      assert.throws(() => service.connect({ connections }), {
        name: 'TypeError',
        message: 'connections must be a whole number, 1 to 64',
      });
  });
});

describe('several addresses', () => {
  it('are used in their order: the next while one is away, and the first again after', async () => {
    const first = await startFakeService(answering, { ca });
    await using second = await startFakeService(answering, { ca });
    const { connections, ended, retries, hooks } = listening();
    const address = `${first.address}, ${second.address}`;
    await using keyward = first.connect({ address, hooks });
    await keyward.getKey({ name: KEY });
    assert.deepEqual([first.calls.get('GetKey'), second.calls.get('GetKey')], [1, undefined]);
    await first[Symbol.asyncDispose]();
    await keyward.getKey({ name: KEY });
    await keyward.getKey({ name: KEY });
    assert.equal(second.calls.get('GetKey'), 2);
    const avoided = connections.find(({ state }) => state === 'avoided');
    assert.equal(avoided?.address, first.address);
    assert.equal(avoided.error?.code, 'UNAVAILABLE');
    await using again = await startFakeService(answering, { ca, port: portOf(first.address) });
    await eventually(() => assert.ok(connections.some(({ state }) => state === 'restored')));
    await keyward.getKey({ name: KEY });
    assert.equal(again.calls.get('GetKey'), 1);
    assert.deepEqual(
      ended.map(({ outcome }) => outcome),
      ['OK', 'OK', 'OK', 'OK'],
    );
    assert.ok(retries.every(({ delayMs }) => delayMs === 0));
  });

  it('are all tried where one refuses as a replica may, and none where the call is refused', async () => {
    const refusing = (reason: string, code: status) => ({
      GetKey: () => {
        throw refusal({ code, reason, retryDelay: { seconds: 0, nanos: 1_000_000 } });
      },
    });
    await using stale = await startFakeService(refusing('REPLICA_STALE', status.UNAVAILABLE), {
      ca,
    });
    await using other = await startFakeService(answering, { ca });
    await using keyward = stale.connect({ address: `${stale.address},${other.address}` });
    assert.equal((await keyward.getKey({ name: KEY })).name, KEY);
    assert.deepEqual([stale.calls.get('GetKey'), other.calls.get('GetKey')], [1, 1]);
    await using missing = await startFakeService(refusing('RESOURCE_NOT_FOUND', status.NOT_FOUND), {
      ca,
    });
    await using careful = missing.connect({ address: `${missing.address},${other.address}` });
    await assert.rejects(careful.getKey({ name: KEY }), { reason: 'RESOURCE_NOT_FOUND' });
    assert.equal(other.calls.get('GetKey'), 1);
  });

  it('that take connections and never say a word are passed over', async () => {
    const sockets: Socket[] = [];
    const silent: Server = createServer((socket) => sockets.push(socket.on('error', () => {})));
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const { port } = silent.address() as { port: number };
    await using other = await startFakeService(answering, { ca });
    await using keyward = other.connect({ address: `127.0.0.1:${port},${other.address}` });
    assert.equal((await keyward.getKey({ name: KEY }, { timeoutMs: 60_000 })).name, KEY);
    for (const socket of sockets) socket.destroy();
    silent.close();
  });

  it('lose no answer of a stream that moves from one to the other', async () => {
    const job = (done: number) => wireJob('tenants/acme/rewrapJobs/j', { done });
    const ending = async function* () {
      yield job(2);
    };
    const retryDelay = { seconds: 0, nanos: 1_000_000 };
    const stopping = async function* () {
      yield job(1);
      throw refusal({ code: status.UNAVAILABLE, reason: 'SERVER_STOPPING', retryDelay });
    };
    await using first = await startFakeService({ WatchRewrapJob: stopping }, { ca });
    await using second = await startFakeService({ WatchRewrapJob: ending }, { ca });
    const { ended, hooks } = listening();
    await using keyward = first.connect({ address: `${first.address},${second.address}`, hooks });
    const seen = await Array.fromAsync(
      keyward.watchRewrapJob({ name: 'tenants/acme/rewrapJobs/j' }),
    );
    assert.deepEqual(
      seen.map(({ done }) => done),
      [1, 2],
    );
    assert.deepEqual(
      ended.map(({ attempts, address }) => [attempts, address]),
      [[2, second.address]],
    );
  });

  it('have to be some, each once', () => {
    const options = { ca: ca.certPem, token: 'a.b.c' };
    for (const [given, message] of [
      [{}, /address or addresses must be given/],
      [{ addresses: [] }, /must be a list/],
      [{ address: 'a:1', addresses: ['b:1'] }, /only one of them/],
      [{ addresses: ['a:1', 'b'] }, /must be host:port, not "b"/],
      [{ address: 'a:1,a:1' }, /must not have a:1 twice/],
    ] as const)
      assert.throws(() => connect({ ...options, ...given }), { name: 'TypeError', message });
  });
});

describe('what would be done twice', () => {
  it('is not sent again once it was, and is where no connection was there for it', async () => {
    const asked: string[] = [];
    const losing = {
      TestAlert: () => {
        asked.push('first');
        throw { code: status.UNAVAILABLE, details: 'Connection dropped' };
      },
    };
    await using first = await startFakeService(losing, { ca });
    await using second = await startFakeService({ TestAlert: () => ({ results: [] }) }, { ca });
    const addresses = [first.address, second.address];
    await using keyward = first.connect({ address: addresses.join(',') });
    await assert.rejects(keyward.testAlert({}), { code: 'UNAVAILABLE' });
    assert.deepEqual(asked, ['first']);
    await first[Symbol.asyncDispose]();
    await using fresh = second.connect({ address: addresses.join(',') });
    await fresh.testAlert({});
    assert.equal(second.calls.get('TestAlert'), 1);
  });

  it('is known: every other method reads, gives what is the caller’s, or has a request id', () => {
    const harmless =
      /^(Get|List|Read|Watch|Explain|TestPermissions|Encrypt|Decrypt|ReEncrypt|Generate|Batch)/;
    const others = SERVICES.flatMap(([, methods]) =>
      Object.entries(methods).flatMap(([name, { requestType }]) => {
        const { field } = requestType.type as { field: readonly { name: string }[] };
        return harmless.test(name) || field.some((each) => each.name === 'requestId') ? [] : name;
      }),
    );
    // Cosignatures are a set, to which one that is there adds nothing, and a registration that was
    // begun and not finished is none.
    assert.deepEqual(others.sort(), [
      ...['AddCosignatures', 'BeginPasskeyRegistration'],
      ...['CreateCanary', 'TestAlert'],
    ]);
  });
});

describe('a service that refuses nearly everything', () => {
  it('has some fifty calls more from a client than callers made, and all again once it serves', async () => {
    let isBusy = true;
    await using service = await startFakeService({
      GetKey: () => {
        if (!isBusy) return wireKey(KEY);
        const retryDelay = { seconds: 0, nanos: 1_000_000 };
        throw refusal({ code: status.RESOURCE_EXHAUSTED, reason: 'HSM_QUEUE_FULL', retryDelay });
      },
    });
    const { retries, ended, hooks } = listening();
    await using keyward = service.connect({ hooks, throttle: false });
    const call = () => keyward.getKey({ name: KEY }).catch((error: unknown) => error);
    for (const error of await Promise.all(Array.from({ length: 400 }, call)))
      assert.ok(error instanceof KeywardError && error.retryable);
    const asked = service.calls.get('GetKey') ?? 0;
    assert.equal(asked, 400 + retries.length);
    assert.ok(retries.length > 0 && retries.length <= 50, `${retries.length} retries`);
    isBusy = false;
    for (let made = 0; made < 600; made += 100)
      await Promise.all(Array.from({ length: 100 }, call));
    isBusy = true;
    await call();
    assert.equal(ended.at(-1)?.attempts, 5);
  });
});

describe('files of certificates', () => {
  const write = (name: string, content: string) => {
    const file = join(folder, name);
    // At once: the client may read it at any time.
    writeFileSync(`${file}.new`, content);
    renameSync(`${file}.new`, file);
    return file;
  };

  it('that change are used by new connections, and damaged ones are not', async (t) => {
    const subjects: string[] = [];
    await using service = await startFakeService(
      {
        GetKey: (_request, call) => {
          subjects.push(call.getAuthContext().sslPeerCertificate?.subject.CN as string);
          return wireKey(KEY);
        },
      },
      { ca },
    );
    const one = ca.issue({ subject: 'one', usage: 'client' });
    const two = ca.issue({ subject: 'two', usage: 'client' });
    const { reloads, connections, hooks } = listening();
    const files = {
      caFile: write('ca.pem', ca.certPem),
      certFile: write('cert.pem', one.certPem),
      keyFile: write('key.pem', one.keyPem),
    };
    await using keyward = connect({ address: service.address, ...files, hooks });
    // So that each call finds that the files may have changed.
    let now = performance.now();
    t.mock.method(performance, 'now', () => {
      now += 6_000;
      return now;
    });
    const callUntil = (condition: () => boolean) =>
      eventually(async () => {
        await keyward.getKey({ name: KEY });
        assert.ok(condition());
      });
    await keyward.getKey({ name: KEY });
    write('cert.pem', two.certPem);
    await callUntil(() => reloads.length > 0);
    assert.match(String(reloads[0]?.error), /the key file .* is not the key of the certificate/s);
    write('cert.pem', two.certPem.slice(0, 100));
    await callUntil(() => reloads.length > 1);
    assert.match(String(reloads[1]?.error), /the certificate file .*: a certificate in it is cut/);
    rmSync(files.certFile);
    await callUntil(() => reloads.length > 2);
    assert.match(String(reloads[2]?.error), /cannot read .*cert.pem: it does not exist/);
    assert.deepEqual([...new Set(subjects)], ['one']);
    assert.doesNotMatch(String(reloads.map(({ error }) => error)), /BEGIN/);
    write('cert.pem', two.certPem);
    write('key.pem', two.keyPem);
    await callUntil(() => subjects.at(-1) === 'two');
    const last = reloads.at(-1);
    assert.deepEqual([last?.error, last?.files], [undefined, Object.values(files)]);
    assert.equal(connections.filter(({ state }) => state === 'connected').length, 2);
  });

  it('are looked at before a call is given up that no connection could be made for', async () => {
    const old = createCertificateAuthority('Old CA');
    await using service = await startFakeService(answering, { ca });
    const { reloads, hooks } = listening();
    const caFile = write('service-ca.pem', old.certPem);
    const { certPem: cert, keyPem: key } = service.client;
    await using keyward = connect({ address: service.address, caFile, cert, key, hooks });
    await assert.rejects(keyward.getKey({ name: KEY }, { timeoutMs: 1_000 }), {
      code: 'UNAVAILABLE',
      message: /^cannot reach .*certificate/,
    });
    write('service-ca.pem', ca.certPem);
    assert.equal((await keyward.getKey({ name: KEY })).name, KEY);
    assert.deepEqual(
      reloads.map(({ error }) => error),
      [undefined],
    );
  });

  it('that cannot be used at first are named, with what is wrong', () => {
    const own = ca.issue({ subject: 'own', usage: 'client' });
    const good = {
      address: 'localhost:1',
      caFile: write('good-ca.pem', ca.certPem),
      certFile: write('good-cert.pem', own.certPem),
      keyFile: write('good-key.pem', own.keyPem),
    };
    using keyward = connect(good);
    assert.ok(keyward);
    for (const [setting, content, message] of [
      ['caFile', 'not PEM', /^cannot use the CA file .*bad.pem: it is not PEM with a certificate$/],
      ['certFile', own.keyPem, /the certificate file .*: it is not PEM with a certificate$/],
      ['certFile', own.certPem.replace(/\n.{64}\n/, '\n'), /its certificate 1 is damaged$/],
      ['keyFile', own.certPem, /the key file .*: it is not PEM with a private key$/],
      ['keyFile', ca.issue({ subject: 'x', usage: 'client' }).keyPem, /it is not the key of/],
    ] as const)
      assert.throws(
        () => connect({ ...good, [setting]: write('bad.pem', content) }),
        (error) => {
          assert.ok(error instanceof SettingsError);
          assert.match(error.message, message);
          return true;
        },
      );
    assert.throws(() => connect({ ...good, caFile: join(folder, 'none') }), {
      name: 'SettingsError',
      message: `cannot read ${join(folder, 'none')}: it does not exist`,
    });
  });
});

describe('hooks', () => {
  it('hear of every call once, whatever becomes of it, and fail none', async () => {
    await using service = await startFakeService({
      ...answering,
      GetTenant: () => {
        throw refusal({ code: status.NOT_FOUND, reason: 'RESOURCE_NOT_FOUND' });
      },
      ListTenants: () => new Promise(() => {}),
      WatchRewrapJob: async function* () {
        yield wireJob('tenants/acme/rewrapJobs/j');
        await new Promise(() => {});
      },
    });
    const { started, ended, hooks } = listening();
    const failing: Hooks = {
      onCallStart: () => {
        throw new Error('of the hook');
      },
    };
    const warned = new Promise<Error>((resolve) => process.once('warning', resolve));
    await using keyward = service.connect({ hooks: [failing, hooks] });
    await keyward.getKey({ name: KEY });
    await assert.rejects(keyward.getTenant({ name: 'tenants/acme' }), KeywardError);
    await assert.rejects(keyward.listTenants({}, { timeoutMs: 20 }), KeywardError);
    await assert.rejects(keyward.tenants({ signal: AbortSignal.abort() }).next(), KeywardError);
    await assert.rejects(keyward.getKey({ name: 7 as unknown as string }), TypeError);
    for await (const _job of keyward.watchRewrapJob({ name: 'tenants/acme/rewrapJobs/j' })) break;
    assert.match((await warned).message, /a hook of keyward-client has thrown: Error: of the hook/);
    assert.deepEqual(
      ended.map(({ method, outcome, attempts }) => [method.split('/')[1], outcome, attempts]),
      [
        ['GetKey', 'OK', 1],
        ['GetTenant', 'RESOURCE_NOT_FOUND', 1],
        ['ListTenants', 'DEADLINE_EXCEEDED', 1],
        ['ListTenants', 'CANCELLED', 0],
        ['WatchRewrapJob', 'OK', 1],
      ],
    );
    assert.deepEqual(
      started,
      ended.map(({ method }) => method),
    );
  });
});
