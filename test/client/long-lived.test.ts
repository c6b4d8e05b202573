/** A client that lives long, at two replicas that end, age, refuse and are rotated. */
import assert from 'node:assert/strict';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import * as api from '@opentelemetry/api';
import {
  InMemorySpanExporter,
  NodeTracerProvider,
  SimpleSpanProcessor,
} from '@opentelemetry/sdk-trace-node';
import {
  type CallEnd,
  connect,
  type Hooks,
  type KeywardClient,
  KeywardError,
  openTelemetryHooks,
} from '../../client/src/index.ts';
import { createCertificateAuthority } from '../../dev/certificates.ts';
import {
  type Environment,
  eventually,
  newEnvironment,
  type Service,
  startService,
} from '../support/kit.ts';
import { TESTER } from '../support/tester.ts';

const PARENT = 'tenants/acme';
const KEY = `${PARENT}/keys/orders`;

let environment: Environment;
let services: Service[];

const options = (hooks: Hooks = {}) => ({
  ...(services[0] as Service).connectOptions(),
  address: services.map(({ port }) => `127.0.0.1:${port}`).join(','),
  defaultTimeoutMs: 60_000,
  hooks,
});

before(async () => {
  environment = await newEnvironment();
  // So that every connection's age is over several times in each test.
  const variables = { KEYWARD_CONNECTION_AGE_MS: '1000' };
  services = [
    await startService(environment, variables),
    await startService(environment, variables),
  ];
  await using keyward = connect(options());
  await keyward.createTenant({ tenantId: 'acme' });
  await keyward.createKey({ parent: PARENT, keyId: 'orders' });
});

after(async () => {
  for (const service of services ?? []) await service[Symbol.asyncDispose]();
  await environment?.[Symbol.asyncDispose]();
});

/** Calls without a break from several callers at once, until it is ended; then how many. */
function load(keyward: KeywardClient, call: (keyward: KeywardClient) => Promise<unknown>) {
  let isOver = false;
  let made = 0;
  const caller = async () => {
    while (!isOver) {
      await call(keyward);
      made += 1;
    }
  };
  const all = Promise.all(Array.from({ length: 16 }, caller));
  // A caller that fails is reported by end(); until then nobody waits.
  all.catch(() => {});
  return {
    /** Resolves when so many more were made; rejects with what a caller got. */
    more: async (count: number) => {
      const goal = made + count;
      await Promise.race([eventually(() => assert.ok(made >= goal)), all]);
    },
    end: async () => {
      isOver = true;
      await all;
      return made;
    },
  };
}

const context = { order: '17' };
async function roundTrip(keyward: KeywardClient) {
  const plaintext = Buffer.from('four thousand');
  const { ciphertext } = await keyward.encrypt({
    name: KEY,
    plaintext,
    encryptionContext: context,
  });
  const opened = await keyward.decrypt({ parent: PARENT, ciphertext, encryptionContext: context });
  assert.deepEqual(opened.plaintext, plaintext);
}

describe('a client with two replicas', () => {
  it('has its connections closed for their age under load, and no caller notices', async () => {
    let closed = 0;
    await using keyward = connect(
      options({
        onConnection: ({ state }) => {
          if (state === 'closed') closed += 1;
        },
      }),
    );
    const calls = load(keyward, roundTrip);
    await Promise.race([eventually(() => assert.ok(closed >= 3)), calls.more(1e9)]);
    await calls.more(50);
    assert.ok((await calls.end()) > 50);
  });

  it('has one killed under a load of reads and changes: no caller notices, nothing is done twice', async () => {
    const [first] = services as [Service, Service];
    const ended: CallEnd[] = [];
    const { port } = first;
    {
      await using keyward = connect(options({ onCallEnd: (_call, end) => ended.push(end) }));
      let keys = 0;
      const change = async () => {
        await roundTrip(keyward);
        keys += 1;
        await keyward.createKey({ parent: PARENT, keyId: `k${keys}` });
      };
      const calls = load(keyward, change);
      await calls.more(30);
      await first.kill();
      await calls.more(60);
      const made = await calls.end();
      assert.equal(keys, made);
      const names = await Array.fromAsync(keyward.keys(PARENT), ({ name }) => name);
      assert.equal(names.length, made + 1);
      assert.deepEqual(
        ended.filter(({ error }) => error !== undefined),
        [],
      );
      const addresses = new Set(ended.map(({ address }) => address));
      assert.equal(addresses.size, 2, 'calls were made at both');
      // What is back is used again.
      const variables = { KEYWARD_LISTEN: `127.0.0.1:${port}`, KEYWARD_CONNECTION_AGE_MS: '1000' };
      services[0] = await startService(environment, variables);
      await eventually(async () => {
        await roundTrip(keyward);
        assert.equal(ended.at(-1)?.address, `127.0.0.1:${port}`);
      });
    }
  });

  it('keeps its retries within its budget where a tenant is over its quota', async () => {
    const retries: number[] = [];
    await using keyward = connect(
      options({ onRetry: (_call, { delayMs }) => retries.push(delayMs) }),
    );
    await keyward.createTenant({ tenantId: 'small' });
    const { name } = await keyward.createKey({ parent: 'tenants/small', keyId: 'a' });
    await keyward.updateTenant({
      tenant: { name: 'tenants/small', quotas: { callsPerSecond: 1 } },
    });
    const plaintext = Buffer.from('p');
    const encrypt = () => keyward.encrypt({ name, plaintext });
    const results = await Promise.allSettled(Array.from({ length: 300 }, encrypt));
    const refused = results.flatMap((each) => (each.status === 'rejected' ? [each.reason] : []));
    assert.ok(refused.length > 0);
    for (const error of refused) {
      assert.ok(error instanceof KeywardError);
      assert.deepEqual([error.reason, error.retryable], ['QUOTA_EXCEEDED', true]);
    }
    const invited = retries.filter((delayMs) => delayMs > 0);
    assert.ok(invited.length > 0 && invited.length <= 60, `${invited.length} retries`);
  });

  it('ends whatever a signal is aborted in the middle of, with the reason as the cause', async () => {
    await using keyward = connect(options());
    await keyward.updateKey({ key: { name: KEY, maintenancePaused: true } });
    await keyward.createDataKey({ parent: KEY });
    await keyward.rotateKey({ name: KEY });
    const { rotations } = await keyward.listRotations({ parent: KEY });
    const controller = new AbortController();
    const { signal } = controller;
    const reason = new Error('enough');
    const watch = keyward.watchRewrapJob({ name: rotations[0]?.rewrapJob ?? '' }, { signal });
    await watch.next();
    const list = keyward.keys(PARENT, { pageSize: 1, signal });
    await list.next();
    const box = keyward.envelope({ key: KEY, cache: { maxAgeMs: 60_000 } });
    const begun = [
      box.encrypt('one', { context, signal }),
      keyward.getKey({ name: KEY }, { signal }),
      keyward.encrypt({ name: KEY, plaintext: Buffer.from('p') }, { signal }),
      watch.next(),
    ];
    // Waits for the same data key, and for no signal.
    const another = box.encrypt('another', { context });
    const ended = Promise.allSettled(begun);
    controller.abort(reason);
    assert.equal(await box.decrypt(await another, { context }), 'another');
    for (const result of await ended) {
      assert.equal(result.status, 'rejected');
      assert.deepEqual([result.reason.code, result.reason.cause], ['CANCELLED', reason]);
    }
    await assert.rejects(list.next(), { code: 'CANCELLED', cause: reason });
    await keyward.updateKey({ key: { name: KEY, maintenancePaused: false } });
  });
});

describe('OpenTelemetry', () => {
  it('has a span for each call, between the caller’s and the service’s', async () => {
    const exporter = new InMemorySpanExporter();
    const provider = new NodeTracerProvider({
      spanProcessors: [new SimpleSpanProcessor(exporter)],
    });
    provider.register();
    await using keyward = connect(options(openTelemetryHooks(api)));
    const [from] = services.map(({ log }) => log.length) as [number];
    const outer = await api.trace.getTracer('test').startActiveSpan('outer', async (span) => {
      await keyward.getKey({ name: KEY });
      await assert.rejects(keyward.getKey({ name: `${PARENT}/keys/none` }));
      span.end();
      return span.spanContext();
    });
    const [found, missing] = exporter.getFinishedSpans();
    assert.ok(found && missing);
    for (const span of [found, missing]) {
      assert.equal(span.name, 'keyward.v1.KeyService/GetKey');
      assert.equal(span.kind, api.SpanKind.CLIENT);
      assert.equal(span.parentSpanContext?.spanId, outer.spanId);
    }
    assert.deepEqual(
      [found.attributes['rpc.response.status_code'], found.attributes['keyward.attempts']],
      ['OK', 1],
    );
    assert.equal(missing.attributes['error.type'], 'RESOURCE_NOT_FOUND');
    assert.equal(missing.status.code, api.SpanStatusCode.ERROR);
    assert.doesNotMatch(JSON.stringify(missing.attributes), /keys\/none/);
    const line = await (services[0] as Service).logged(
      ({ method, outcome }) => method === found.name && outcome === 'OK',
      from,
    );
    assert.deepEqual(
      [line['traceId'], line['spanId']],
      [outer.traceId, found.spanContext().spanId],
    );
    await provider.shutdown();
  });
});

describe('certificates that are rotated at both ends', () => {
  it('replace one another under load, and no caller notices', async () => {
    const next = createCertificateAuthority('the next CA');
    const { ca, variables, directory } = environment;
    const write = (name: string, content: string) => {
      const file = join(directory, name);
      writeFileSync(file, content, { mode: 0o600 });
      return file;
    };
    const issue = (authority: typeof ca, subject: string) =>
      authority.issue({ subject, usage: 'client', uris: [TESTER] });
    const both = ca.certPem + next.certPem;
    const old = issue(ca, 'old');
    const files = {
      caFile: write('client-ca.pem', both),
      certFile: write('client.pem', old.certPem),
      keyFile: write('client-key.pem', old.keyPem),
    };
    const reloads: (Error | undefined)[] = [];
    const hooks: Hooks = { onReload: ({ error }) => reloads.push(error) };
    const { address } = options();
    await using keyward = connect({ address, ...files, defaultTimeoutMs: 60_000, hooks });
    const calls = load(keyward, roundTrip);
    const reload = async () => {
      const lengths = services.map(({ log }) => log.length);
      for (const { pid } of services) process.kill(pid, 'SIGHUP');
      for (const [index, service] of services.entries())
        await service.logged(({ msg }) => msg === 'certificates reloaded', lengths[index]);
    };
    // The service trusts the next CA, then serves by it; the client has a certificate of it too.
    const server = next.issue({
      ...{ subject: 'keyward', usage: 'server' },
      ...{ dns: ['localhost'], ips: ['127.0.0.1'] },
    } as const);
    write('ca.pem', both);
    assert.equal(variables['KEYWARD_TLS_CLIENT_CA_FILE'], join(directory, 'ca.pem'));
    await reload();
    const own = issue(next, 'new');
    write('client-key.pem', own.keyPem);
    write('client.pem', own.certPem);
    await eventually(() => assert.ok(reloads.includes(undefined)));
    write('server-key.pem', server.keyPem);
    write('server.pem', server.certPem);
    write('ca.pem', next.certPem);
    await reload();
    // The old CA is trusted by nobody from here on.
    const before = reloads.length;
    write('client-ca.pem', next.certPem);
    await eventually(() => assert.ok(reloads.length > before));
    await calls.more(100);
    assert.ok((await calls.end()) > 100);
    rmSync(files.caFile);
    await roundTrip(keyward);
  });
});
