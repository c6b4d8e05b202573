/**
 * Several server processes behind one port: they share its connections, are watched, drained and
 * replaced one by one, and answer operators as one.
 */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { after, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { KeywardClient } from 'keyward-client';
import { getPage, scrape } from '../measures/scrape.ts';
import {
  eventually,
  type LogLine,
  newEnvironment,
  reasonOf,
  runCommand,
  type Service,
  sharedService,
  startService,
} from '../support/kit.ts';
import { childrenOf, isRunning, openPeer, SERVERS, SEVERAL, serverPids, serving } from './rig.ts';

const PARENT = 'tenants/acme';
const KEY = `${PARENT}/keys/k`;
const ENCRYPT = 'EncryptionService/Encrypt';
/** A client's connection goes to the next process, so that two clients meet both. */
const CLIENTS = 2 * SERVERS;
/** Of a load, so that the processor is left to what the test is about. */
const BETWEEN_CALLS_MS = 10;

/** Of the line of such a call. */
const isEncrypt = ({ method }: LogLine) => String(method).endsWith(ENCRYPT);

async function prepare(keyward: KeywardClient): Promise<void> {
  await keyward.createTenant({ tenantId: 'acme' });
  await keyward.createKey({ parent: PARENT, keyId: 'k' });
}

const encrypt = (keyward: KeywardClient) =>
  keyward.encrypt({ name: KEY, plaintext: Buffer.from('x') });

/** Clients that try again where that can help, each with a connection. */
function clientsOf(service: Service): KeywardClient[] {
  return Array.from({ length: CLIENTS }, () => service.client({ retries: 8 }));
}

describe('several server processes', () => {
  const shared = sharedService(prepare, { ...SEVERAL, KEYWARD_LOG_LEVEL: 'info' });

  test('share connections evenly, and metrics are those of all', async () => {
    const { service } = shared;
    await serving(service);
    const before = (await scrape(service.operatorsPort)).sum('keyward_calls_total', {
      method: ENCRYPT,
    });
    const from = service.log.length;
    const clients = clientsOf(service);
    for (const keyward of clients) await encrypt(keyward);
    const text = await scrape(service.operatorsPort);
    assert.equal(text.sum('keyward_calls_total', { method: ENCRYPT }) - before, CLIENTS);
    assert.equal(text.sum('keyward_servers', { state: 'ready' }), SERVERS);
    assert.equal(text.sum('keyward_ready'), 1);
    const processes = await eventually(() => {
      const lines = service.log.slice(from).filter(isEncrypt);
      assert.equal(lines.length, CLIENTS);
      return lines.map((line) => line['process']);
    });
    for (const number of [1, 2])
      assert.equal(processes.filter((name) => name === `server ${number}`).length, 2);
  });

  test('one client uses them all by several connections', async () => {
    const { service } = shared;
    const from = service.log.length;
    const keyward = service.client({ connections: SERVERS });
    for (let call = 0; call < 3 * SERVERS; call += 1) await encrypt(keyward);
    await eventually(() => {
      const lines = service.log.slice(from).filter(isEncrypt);
      const processes = lines.map((line) => line['process']).toSorted();
      const three = (name: string) => [name, name, name];
      assert.deepEqual(processes, [...three('server 1'), ...three('server 2')]);
    });
  });

  test('write no line into another’s: every line of all is one of JSON', async () => {
    const { service } = shared;
    const from = service.log.length;
    await Promise.all(
      clientsOf(service).map(async (keyward) => {
        for (let call = 0; call < 100; call += 1) await encrypt(keyward);
      }),
    );
    await eventually(() =>
      assert.equal(service.log.slice(from).filter(isEncrypt).length, CLIENTS * 100),
    );
    assert.deepEqual(
      service.log.filter((line) => 'text' in line),
      [],
    );
  });

  test('a tenant’s quota holds for all of them together', async () => {
    const { service } = shared;
    const quota = 20;
    const name = 'tenants/limited';
    await shared.keyward.createTenant({ tenantId: 'limited' });
    await shared.keyward.createKey({ parent: name, keyId: 'k' });
    await shared.keyward.updateTenant({ tenant: { name, quotas: { callsPerSecond: quota } } });
    const clients = Array.from({ length: CLIENTS }, () => service.client());
    const refused = () =>
      reasonOf(
        clients[0]?.encrypt({ name: `${name}/keys/k`, plaintext: Buffer.from('x') }) ??
          assert.fail(),
      );
    // It holds from the moment on when every process has heard of it.
    await eventually(async () => {
      const reasons = await Promise.allSettled(Array.from({ length: 3 * quota }, refused));
      assert.ok(
        reasons.some((each) => each.status === 'fulfilled' && each.value === 'QUOTA_EXCEEDED'),
      );
    });
    await new Promise((resolve) => setTimeout(resolve, 2_500));
    let served = 0;
    const began = performance.now();
    // A busy machine may take longer to serve as many; they are more than the quota all the same.
    const isOver = () => performance.now() - began > (served > quota ? 3_000 : 60_000);
    await Promise.all(
      clients.map(async (keyward) => {
        while (!isOver()) {
          const request = { name: `${name}/keys/k`, plaintext: Buffer.from('x') };
          const isServed = await keyward.encrypt(request).then(
            () => true,
            () => false,
          );
          if (isServed) served += 1;
          else await new Promise((resolve) => setTimeout(resolve, 20));
        }
      }),
    );
    const seconds = (performance.now() - began) / 1_000;
    assert.ok(served > quota, `${served} calls`);
    assert.ok(served <= quota * (seconds + 1) + SERVERS, `${served} calls in ${seconds} s`);
  });

  test('reload the certificate together, on SIGHUP', async () => {
    const { service, environment } = shared;
    const { KEYWARD_TLS_CERT_FILE: certFile = '', KEYWARD_TLS_KEY_FILE: keyFile = '' } =
      environment.variables;
    const fingerprints = async () => {
      const peers = Array.from({ length: CLIENTS }, () => openPeer(service));
      const found = await Promise.all(peers.map(({ fingerprint }) => fingerprint));
      for (const { session } of peers) session.destroy();
      return new Set(found);
    };
    const old = await fingerprints();
    assert.equal(old.size, 1);
    const names = { dns: ['localhost'], ips: ['127.0.0.1'] };
    const made = environment.ca.issue({ subject: 'keyward', usage: 'server', ...names });
    writeFileSync(keyFile, made.keyPem);
    writeFileSync(certFile, made.certPem);
    process.kill(service.pid, 'SIGHUP');
    await eventually(async () => {
      const now = await fingerprints();
      assert.equal(now.size, 1);
      assert.notDeepEqual(now, old);
    });
    const isReread = ({ msg }: LogLine) => /^reading the TLS files/.test(String(msg));
    await eventually(() => {
      const processes = service.log.filter(isReread).map((line) => line['process']);
      assert.deepEqual(processes.toSorted(), ['server 1', 'server 2']);
    });
  });

  test('one that is killed is started again, the other serves meanwhile, and an alert tells of it', async () => {
    const { service } = shared;
    const clients = clientsOf(service);
    for (const keyward of clients) await encrypt(keyward);
    const before = await scrape(service.operatorsPort);
    const calls = before.sum('keyward_calls_total', { method: ENCRYPT });
    const [first = 0] = serverPids(service);
    const from = service.log.length;
    process.kill(first, 'SIGKILL');
    for (const keyward of clients) await encrypt(keyward);
    const alert = await service.logged(({ alert }) => alert === 'server-process-ended', from);
    assert.equal(alert['how'], 'SIGKILL');
    assert.equal(alert['cause'], 'crashed');
    await service.logged(({ msg }) => msg === 'serving', from);
    assert.equal(serverPids(service).length, SERVERS);
    // What the one that is gone had counted until it was asked last counts on.
    const now = await eventually(async () => {
      const text = await scrape(service.operatorsPort);
      assert.equal(text.sum('keyward_servers', { state: 'ready' }), SERVERS);
      return text;
    });
    assert.ok(now.sum('keyward_calls_total', { method: ENCRYPT }) >= calls);
    assert.equal(now.sum('keyward_server_exits_total', { cause: 'crashed' }), 1);
  });

  test('one that hangs is killed and replaced, and the service stays ready', async () => {
    const { service } = shared;
    await eventually(() => assert.equal(serverPids(service).length, SERVERS));
    const [, second = 0] = serverPids(service);
    const from = service.log.length;
    process.kill(second, 'SIGSTOP');
    const alert = await service.logged(({ alert }) => alert === 'server-process-ended', from);
    assert.equal(alert['cause'], 'hung');
    const page = await getPage(service.operatorsPort, { path: '/readyz' });
    assert.equal(page.status, 200, page.text);
    assert.equal(isRunning(second), false);
    await service.logged(({ msg }) => msg === 'serving', from);
    for (const keyward of clientsOf(service)) await encrypt(keyward);
  });

  test('are replaced one by one on SIGUSR2, under load: no call fails, no connection is reset', async () => {
    const { service } = shared;
    const readyCount = async () => {
      const text = await scrape(service.operatorsPort);
      assert.equal(text.sum('keyward_servers', { state: 'ready' }), SERVERS);
    };
    await eventually(readyCount);
    const old = serverPids(service);
    const peers = Array.from({ length: CLIENTS }, () => openPeer(service));
    await Promise.all(peers.map(({ fingerprint }) => fingerprint));
    const from = service.log.length;
    let isOver = false;
    const load = clientsOf(service).map(async (keyward) => {
      let calls = 0;
      for (; !isOver; calls += 1) {
        await encrypt(keyward);
        await sleep(BETWEEN_CALLS_MS);
      }
      return calls;
    });
    process.kill(service.pid, 'SIGUSR2');
    await service.logged(({ msg }) => msg === 'all server processes are replaced', from);
    isOver = true;
    const calls = await Promise.all(load);
    assert.ok(calls.every((count) => count > 0));
    assert.deepEqual(
      await Promise.all(peers.map(({ closed }) => closed)),
      peers.map(() => undefined),
    );
    assert.deepEqual(old.filter(isRunning), []);
    assert.equal(serverPids(service).length, SERVERS);
    const isEnd = ({ alert }: LogLine) => alert === 'server-process-ended';
    assert.deepEqual(service.log.slice(from).filter(isEnd), []);
  });
});

describe('the supervisor', () => {
  const made = newEnvironment();
  after(async () => (await made)[Symbol.asyncDispose]());

  test('tell once that their certificate is near its end', async () => {
    const environment = await newEnvironment();
    try {
      const { KEYWARD_TLS_CERT_FILE: certFile = '', KEYWARD_TLS_KEY_FILE: keyFile = '' } =
        environment.variables;
      const day = 86_400_000;
      const { keyPem, certPem } = environment.ca.issue({
        ...{ subject: 'localhost', usage: 'server', ips: ['127.0.0.1'] },
        notBefore: new Date(Date.now() - 300 * day),
        notAfter: new Date(Date.now() + 13 * day),
      });
      writeFileSync(keyFile, keyPem);
      writeFileSync(certFile, certPem);
      const service = await startService(environment, SEVERAL);
      await serving(service);
      // Each has looked by its end, if it ever does.
      await service.stop();
      const raised = service.log.filter(({ alert }) => alert === 'certificate-expiring');
      assert.deepEqual(
        raised.map((line) => line['process']),
        ['server 1'],
      );
    } finally {
      await environment[Symbol.asyncDispose]();
    }
  });

  test('prints a wrong setting once, and ends with the same status as one process', async () => {
    const wrong = { ...SEVERAL, KEYWARD_LISTEN: 'nowhere' };
    const { code, output } = await runCommand(await made, ['serve'], wrong);
    assert.equal(code, 1);
    assert.equal(output.match(/KEYWARD_LISTEN/g)?.length, 1, output);
  });

  test('names its own setting beside all other mistakes', async () => {
    const wrong = { ...SEVERAL, KEYWARD_LISTEN: 'nowhere', KEYWARD_SERVERS: 'many' };
    const { code, output } = await runCommand(await made, ['serve'], wrong);
    assert.equal(code, 1);
    assert.match(output, /KEYWARD_SERVERS must be 1 to 256, or auto/);
    assert.match(output, /KEYWARD_LISTEN must be/);
  });

  test('that is killed leaves no server process and no agent', async () => {
    const service = await startService(await made, SEVERAL);
    await serving(service);
    const servers = serverPids(service);
    const all = servers.flatMap((pid) => [pid, ...childrenOf(pid)]);
    assert.ok(all.length >= 2 * SERVERS, `${all.length} processes`);
    await service.kill();
    await eventually(() => assert.deepEqual(all.filter(isRunning), []));
  });

  test('ends all in order on SIGTERM: calls under way are answered', async () => {
    const service = await startService(await made, SEVERAL);
    await serving(service);
    const keyward = service.client();
    await prepare(keyward);
    const clients = clientsOf(service);
    for (const each of clients) await encrypt(each);
    const servers = serverPids(service);
    const requests = Array.from({ length: 100 }, () => ({
      name: KEY,
      plaintext: Buffer.alloc(1_024),
    }));
    const underWay = clients.map((each) =>
      each.batchEncrypt({ parent: PARENT, requests }).then(
        () => 'answered',
        (error: Error) => error.message,
      ),
    );
    const ended = new Promise((resolve) => setTimeout(resolve, 5)).then(() => {
      process.kill(service.pid, 'SIGTERM');
      return service.ended;
    });
    for (const outcome of await Promise.all(underWay)) assert.equal(outcome, 'answered');
    for (const client of [keyward, ...clients]) client.close();
    assert.equal(await ended, 0);
    assert.deepEqual(servers.filter(isRunning), []);
  });
});
