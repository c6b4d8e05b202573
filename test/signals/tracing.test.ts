/**
 * Traces: which trace context counts, where a call carries it, and which spans there are where an
 * SDK is loaded into the server.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { connect, type KeywardClient, readAuditEntry, type TraceHeaders } from 'keyward-client';
import { readTraceContext } from '../../src/signals/trace-context.ts';
import { ask } from '../faces/http/client.ts';
import {
  type Environment,
  eventually,
  failureOf,
  newEnvironment,
  type Service,
  startService,
} from '../support/kit.ts';
import type { SpanLine } from './sdk-to-file.ts';

const KEY = 'tenants/acme/keys/mail';
const ENCRYPT = 'keyward.v1.EncryptionService/Encrypt';
const SERVER = 1;
const ERROR = 2;
let count = 0;

/** A trace of a caller's: its headers, and its ids. */
function newTrace() {
  count += 1;
  const traceId = `${count}`.padStart(32, 'a');
  const spanId = `${count}`.padStart(16, 'b');
  return { traceId, spanId, headers: { traceparent: `00-${traceId}-${spanId}-01` } };
}

/** Traces one after another: `trace` returns the headers of the one that calls are part of. */
function traces() {
  let current = newTrace();
  const next = () => {
    current = newTrace();
    return current;
  };
  return { trace: () => current.headers, next };
}

describe('a traceparent', () => {
  const trace = '0af7651916cd43dd8448eb211c80319c';
  const span = 'b7ad6b7169203331';
  const read = (traceparent: string) => readTraceContext({ traceparent });

  test('names trace, span and whether it is sampled', () => {
    const ids = { traceId: trace, spanId: span, state: undefined };
    assert.deepEqual(read(`00-${trace}-${span}-01`), { ...ids, isSampled: true });
    assert.deepEqual(read(`00-${trace}-${span}-02`), { ...ids, isSampled: false });
  });

  test('of a later version may have more after it', () => {
    assert.equal(read(`cc-${trace}-${span}-01`)?.traceId, trace);
    assert.equal(read(`cc-${trace}-${span}-01-what-the-future-brings`)?.traceId, trace);
  });

  for (const wrong of [
    '',
    `00-${trace}-${span}`,
    `00-${trace}-${span}-1`,
    `00-${trace}-${span}-01-more`,
    `00-${trace}-${span}-01, 00-${trace}-${span}-01`,
    ` 00-${trace}-${span}-01`,
    `00-${trace}-${span}-01\n`,
    `ff-${trace}-${span}-01`,
    `cc-${trace}-${span}-01more`,
    `00-${trace.toUpperCase()}-${span}-01`,
    `00-${'0'.repeat(32)}-${span}-01`,
    `00-${trace}-${'0'.repeat(16)}-01`,
    `00-${trace.slice(1)}-${span}-01`,
    `00-${trace}-${span}-0x`,
  ])
    test(`does not count that is ${JSON.stringify(wrong)}`, () => {
      assert.equal(read(wrong), undefined);
    });
});

describe('over the wire', () => {
  let environment: Environment;
  before(async () => {
    environment = await newEnvironment();
  });
  after(() => environment[Symbol.asyncDispose]());

  const serve = (variables: Record<string, string> = {}) =>
    startService(environment, { KEYWARD_HTTP_LISTEN: '127.0.0.1:0', ...variables });
  const clientOf = (service: Service, traceContext: () => TraceHeaders): KeywardClient =>
    connect({ ...service.connectOptions(), retries: 0, traceContext });
  const askHttp = (service: Service, path: string, headers: object, body: object) => {
    const { ca, cert, key } = service.connectOptions();
    const peer = { port: service.httpPort, ca: String(ca), cert: String(cert), key: String(key) };
    return ask(peer, 'HTTP/1.1', { path: `/${path}`, headers: { ...headers }, body });
  };
  const lineOf = (service: Service, traceId: string) =>
    service.logged((line) => line['traceId'] === traceId);

  test('a call’s lines, entries and errors name its caller’s trace, with no SDK', async () => {
    await using service = await serve();
    const { trace, next } = traces();
    using keyward = clientOf(service, trace);
    await keyward.createTenant({ tenantId: 'acme' });
    await keyward.createKey({ parent: 'tenants/acme', keyId: 'mail' });

    const encrypting = next();
    await keyward.encrypt({ name: KEY, plaintext: Buffer.from('plaintext') });
    const line = await lineOf(service, encrypting.traceId);
    assert.deepEqual([line['spanId'], line['method']], [encrypting.spanId, ENCRYPT]);

    const failing = next();
    const error = await failureOf(keyward.getKey({ name: 'tenants/acme/keys/none' }));
    assert.equal(error.traceId, failing.traceId);

    const byHttp = newTrace();
    const { json } = await askHttp(service, 'keyward.v1.KeyService/GetKey', byHttp.headers, {
      name: 'tenants/acme/keys/none',
    });
    assert.match(JSON.stringify(json), new RegExp(`"servingData":"${byHttp.traceId}"`));
    await lineOf(service, byHttp.traceId);

    // Refused before it is let in: there is no such method.
    const refused = newTrace();
    await askHttp(service, 'keyward.v1.KeyService/None', refused.headers, {});
    assert.equal((await lineOf(service, refused.traceId))['msg'], 'call refused');

    next();
    for (const { traceId } of [encrypting, failing]) {
      const filter = `trace_id = ${traceId}`;
      const entries = await eventually(async () => {
        const { entries: found } = await keyward.listAuditEntries({ parent: 'tenants/-', filter });
        assert.equal(found.length, 1);
        return found;
      });
      for (const entry of entries) assert.equal(readAuditEntry(entry).traceId, traceId);
    }

    const wrong = { traceparent: encrypting.headers.traceparent.toUpperCase() };
    const untraced = await askHttp(service, 'keyward.v1.KeyService/GetKey', wrong, { name: KEY });
    assert.equal(untraced.status, 200);
    const requestId = untraced.headers['keyward-request-id'];
    const plain = await service.logged((each) => each['requestId'] === requestId);
    assert.equal('traceId' in plain, false);
  });

  test('with an SDK, what a call waits for has spans below the call’s, by either face', async () => {
    const file = join(environment.directory, 'spans');
    await using service = await serve({
      NODE_OPTIONS: `--import ${join(import.meta.dirname, 'sdk-to-file.ts')}`,
      SPANS_FILE: file,
    });
    const { trace, next } = traces();
    const state = 'vendor=opaque,other=1';
    using keyward = clientOf(service, () => ({ ...trace(), tracestate: state }));
    const spans = () =>
      readFileSync(file, 'utf8')
        .split('\n')
        .filter(Boolean)
        .map((line) => JSON.parse(line) as SpanLine);
    /** The call's span, once it has ended, and those below it. */
    const spansOf = (traceId: string) =>
      eventually(() => {
        const found = spans().filter((span) => span.traceId === traceId);
        const root = found.find(({ kind }) => kind === SERVER);
        assert.ok(root !== undefined);
        return { root, below: found.filter(({ parentSpanId }) => parentSpanId === root.spanId) };
      });
    const namesOf = (below: readonly SpanLine[]) => new Set(below.map(({ name }) => name));

    const encrypting = next();
    const secret = { plaintext: 'a very private value', context: 'a private context' };
    const encryption = {
      plaintext: Buffer.from(secret.plaintext),
      encryptionContext: { order: secret.context },
    };
    await keyward.encrypt({ name: KEY, ...encryption });
    const { root, below } = await spansOf(encrypting.traceId);
    assert.equal(root.name, ENCRYPT);
    assert.deepEqual([root.parentSpanId, root.traceState], [encrypting.spanId, state]);
    const { 'keyward.request_id': requestId, ...attributes } = root.attributes;
    assert.deepEqual(attributes, {
      'rpc.system.name': 'grpc',
      'rpc.method': ENCRYPT,
      'rpc.response.status_code': 'OK',
      'keyward.caller': 'spiffe://keyward.test/tester',
      'keyward.resource': KEY,
    });
    // The key is read the first time.
    for (const name of ['hsm seal', 'store read', 'audit entry'])
      assert.ok(namesOf(below).has(name), `${name} in ${[...namesOf(below)]}`);
    const line = await lineOf(service, encrypting.traceId);
    assert.deepEqual([line['spanId'], line['requestId']], [root.spanId, requestId]);

    const entry = below.find(({ name }) => name === 'audit entry') as SpanLine;
    const group = await eventually(() => {
      const found = spans().find(({ links }) => links.includes(entry.spanId));
      assert.ok(found !== undefined);
      return found;
    });
    assert.deepEqual([group.name, group.parentSpanId], ['audit group', undefined]);
    const append = spans().find(({ parentSpanId }) => parentSpanId === group.spanId);
    assert.equal(append?.name, 'store append');

    const creating = newTrace();
    await askHttp(service, 'keyward.v1.KeyService/CreateKey', creating.headers, {
      parent: 'tenants/acme',
      keyId: 'traced',
    });
    const created = await spansOf(creating.traceId);
    assert.equal(created.root.attributes['rpc.system.name'], 'connectrpc');
    for (const name of ['hsm createKeyVersion', 'store mutate'])
      assert.ok(namesOf(created.below).has(name), `${name} in ${[...namesOf(created.below)]}`);

    // The caller's failure is no fault of the service.
    const failing = next();
    await failureOf(keyward.getKey({ name: 'tenants/acme/keys/none' }));
    const { root: failed } = await spansOf(failing.traceId);
    assert.equal(failed.attributes['rpc.response.status_code'], 'NOT_FOUND');
    assert.equal(failed.attributes['error.type'], 'RESOURCE_NOT_FOUND');
    assert.notEqual(failed.status, ERROR);

    // Of a call that brings no context the span's own trace is named.
    const own = await askHttp(service, 'keyward.v1.KeyService/GetKey', {}, { name: `${KEY}s` });
    const ofOwn = await service.logged(
      (each) => each['requestId'] === own.headers['keyward-request-id'],
    );
    assert.equal((await spansOf(String(ofOwn['traceId']))).root.spanId, ofOwn['spanId']);
    assert.match(JSON.stringify(own.json), new RegExp(`"servingData":"${ofOwn['traceId']}"`));

    // What its caller does not sample is named all the same, and has no spans.
    const unsampled = newTrace();
    const headers = { traceparent: unsampled.headers.traceparent.replace(/01$/, '00') };
    await askHttp(service, 'keyward.v1.KeyService/GetKey', headers, { name: KEY });
    await lineOf(service, unsampled.traceId);
    const last = next();
    await keyward.getKey({ name: KEY });
    await spansOf(last.traceId);

    const written = readFileSync(file, 'utf8');
    assert.ok(!written.includes(unsampled.traceId));
    for (const value of Object.values(secret)) assert.ok(!written.includes(value));
  });
});
