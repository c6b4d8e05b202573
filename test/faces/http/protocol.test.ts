/**
 * keyward.v1 by Connect's protocol, as curl would speak it: over HTTP/1.1 and HTTP/2.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { RPCS } from '../../../src/faces/contract/rpcs.ts';
import type { Peer } from '../../faults/http2.ts';
import { runSql } from '../../store/database.ts';
import { eventually, sharedService } from '../../support/kit.ts';
import {
  ask,
  askRaw,
  failureIn,
  HTTP_VERSIONS,
  openHttp2,
  openRaw,
  requestText,
} from './client.ts';
import { envelopesIn, inEnvelope } from './envelopes.ts';

const shared = sharedService(
  async (keyward) => {
    await keyward.createTenant({ tenantId: 'acme' });
    await keyward.createKey({ parent: 'tenants/acme', keyId: 'k' });
  },
  { KEYWARD_HTTP_LISTEN: '127.0.0.1:0' },
);
const KEY = 'tenants/acme/keys/k';
const ENCRYPT = '/keyward.v1.EncryptionService/Encrypt';
const GET_KEY = '/keyward.v1.KeyService/GetKey';
const PLAINTEXT = Buffer.from('forty-two');

function peer(): Peer {
  const { ca, cert, key } = shared.service.connectOptions();
  return {
    port: shared.service.httpPort,
    ca: String(ca),
    cert: String(cert),
    key: String(key),
  };
}

for (const version of HTTP_VERSIONS) {
  describe(`over ${version}`, () => {
    const post = (path: string, body: object | string | Uint8Array, headers = {}) =>
      ask(peer(), version, { path, body, headers });

    test('what is encrypted as JSON decrypts, also by gRPC', async () => {
      const { status, headers, json } = await post(ENCRYPT, {
        name: KEY,
        plaintext: PLAINTEXT.toString('base64'),
        encryptionContext: { conversation: 'c-42' },
      });
      assert.equal(status, 200);
      assert.equal(headers['content-type'], 'application/json');
      assert.match(String(headers['keyward-request-id']), /^[0-9a-f-]{36}$/);
      assert.equal(json['keyVersion'], `${KEY}/versions/1`);
      const request = { parent: 'tenants/acme', ciphertext: json['ciphertext'] };
      const encryptionContext = { conversation: 'c-42' };
      const decrypted = await post('/keyward.v1.EncryptionService/Decrypt', {
        ...request,
        encryptionContext,
      });
      assert.equal(decrypted.json['plaintext'], PLAINTEXT.toString('base64'));
      const { plaintext } = await shared.keyward.decrypt({
        parent: 'tenants/acme',
        ciphertext: Buffer.from(String(json['ciphertext']), 'base64'),
        encryptionContext,
      });
      assert.deepEqual(plaintext, PLAINTEXT);
    });

    test('an error has the code, the message and the details that gRPC has', async () => {
      const { status, headers, json } = await post(GET_KEY, { name: 'nonsense' });
      assert.equal(status, 400);
      const { code, reason, fields } = failureIn(json);
      assert.deepEqual([code, reason, fields], ['invalid_argument', 'INVALID_FIELD', ['name']]);
      const debugged = json['details'] as { type: string; debug: Record<string, unknown> }[];
      assert.deepEqual(
        debugged.map(({ type }) => type),
        ['google.rpc.ErrorInfo', 'google.rpc.BadRequest', 'google.rpc.RequestInfo'],
      );
      assert.equal(debugged[0]?.debug['domain'], 'keyward');
      assert.equal(debugged[2]?.debug['requestId'], headers['keyward-request-id']);
    });

    test('an unknown field or a value of another type is refused, and the field named', async () => {
      for (const [body, field] of [
        [{ nonsense: 1 }, undefined],
        [{ name: 7 }, 'name'],
        ['{"name":"secret', undefined],
        ['', undefined],
        ['[]', undefined],
        ['null', undefined],
        [Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]), undefined],
        ['\ufeff{}', undefined],
        ['{"__proto__":{"name":"x"}}', undefined],
        [`{"name":"${KEY}","name":"${KEY}"}`, undefined],
      ] as const) {
        const { status, body: answer, json } = await post(GET_KEY, body);
        const { reason, fields } = failureIn(json);
        assert.deepEqual([status, reason], [400, 'MALFORMED_REQUEST'], String(body));
        assert.deepEqual(fields, field === undefined ? [] : [field]);
        assert.doesNotMatch(answer.toString(), /secret|nonsense/);
      }
    });

    test('both spellings of a field are taken, and null is for none', async () => {
      const request = { parent: 'tenants/acme', page_size: 1, filter: null };
      const { status, json } = await post('/keyward.v1.KeyService/ListKeys', request);
      assert.deepEqual([status, (json['keys'] as object[]).length], [200, 1]);
      const { status: other } = await post('/keyward.v1.KeyService/ListKeys', {
        parent: 'tenants/acme',
        pageSize: 1,
      });
      assert.equal(other, 200);
    });

    test('protobuf is taken and answered as well', async () => {
      const name = Buffer.from(KEY);
      const { status, headers, body } = await post(
        GET_KEY,
        Buffer.concat([Buffer.from([0x0a, name.length]), name]),
        { 'content-type': 'application/proto' },
      );
      assert.equal(status, 200);
      assert.equal(headers['content-type'], 'application/proto');
      assert.ok(body.includes(KEY));
    });

    test('what is no call says so by its HTTP status', async () => {
      const unknown = await post('/keyward.v1.KeyService/Nonsense', {});
      assert.deepEqual([unknown.status, unknown.json['code']], [404, 'unimplemented']);
      for (const path of [
        '/',
        '/__proto__',
        `${GET_KEY}?encoding=json`,
        '/keyward.v1.KeyService',
      ]) {
        assert.equal((await post(path, {})).status, 404, path);
      }
      const get = await ask(peer(), version, { path: GET_KEY, method: 'GET' });
      assert.deepEqual([get.status, get.headers['allow']], [405, 'POST']);
      const text = await post(GET_KEY, {}, { 'content-type': 'text/plain' });
      assert.deepEqual(
        [text.status, text.headers['accept-post']],
        [415, 'application/json, application/proto'],
      );
      const utf16 = { 'content-type': 'application/json; charset=utf-16' };
      assert.equal((await post(GET_KEY, {}, utf16)).status, 415);
      const utf8 = { 'content-type': 'application/json; charset=utf-8' };
      assert.equal((await post(GET_KEY, { name: KEY }, utf8)).status, 200);
    });

    test('headers of Connect that say what is not done here are refused', async () => {
      const reasonWith = async (headers: Readonly<Record<string, string>>) => {
        const { status, json } = await post(GET_KEY, { name: KEY }, headers);
        return `${status} ${failureIn(json).reason}`;
      };
      const malformed = '400 MALFORMED_REQUEST';
      assert.equal(
        await reasonWith({ 'content-encoding': 'gzip' }),
        '501 COMPRESSION_NOT_SUPPORTED',
      );
      assert.equal(await reasonWith({ 'connect-protocol-version': '2' }), malformed);
      for (const timeout of ['', '1e3', '-1', '12345678901', '1, 2'])
        assert.equal(await reasonWith({ 'connect-timeout-ms': timeout }), malformed, timeout);
      assert.equal(await reasonWith({ 'connect-timeout-ms': '0' }), '504 DEADLINE_EXCEEDED');
      assert.equal(await reasonWith({ 'x-large': 'a'.repeat(17_000) }), '431 MESSAGE_TOO_LARGE');
      const many = Object.fromEntries(Array.from({ length: 65 }, (_, at) => [`x-${at}`, '1']));
      assert.equal(await reasonWith(many), '431 MESSAGE_TOO_LARGE');
    });

    test('a request beyond its method’s limit is refused, as long as it may be', async () => {
      for (const length of [200_000, 6_000_000]) {
        const { status, json } = await post(ENCRYPT, { name: KEY, plaintext: 'A'.repeat(length) });
        const { reason, metadata } = failureIn(json);
        assert.deepEqual([status, reason], [429, 'MESSAGE_TOO_LARGE']);
        assert.equal(metadata['limit'], '131072');
      }
    });

    test('a batch of megabytes is taken, for callers with a right to it', async () => {
      const requests = Array.from({ length: 30 }, () => ({
        name: KEY,
        plaintext: Buffer.alloc(60_000).toString('base64'),
      }));
      const path = '/keyward.v1.EncryptionService/BatchEncrypt';
      const { status, json } = await post(path, { parent: 'tenants/acme', requests });
      assert.equal(status, 200);
      assert.equal((json['results'] as object[]).length, 30);
      const refused = await post(path, { parent: 'tenants/other', requests });
      assert.equal(failureIn(refused.json).reason, 'RESOURCE_NOT_FOUND');
    });

    test('an audit entry names the method as gRPC’s does, and the call’s id', async () => {
      const requestId = randomUUID();
      const request = { parent: 'tenants/acme', keyId: `audited-${version.slice(-1)}`, requestId };
      const { headers } = await post('/keyward.v1.KeyService/CreateKey', request);
      const [entry] = await runSql<{ method: string }>(
        shared.environment.urls.superuser,
        'SELECT method FROM audit_entries WHERE request_id = $1',
        [String(headers['keyward-request-id'])],
      );
      assert.equal(entry?.method, 'keyward.v1.KeyService/CreateKey');
    });

    test('a stream is answered in envelopes, the last of which says how it ended', async () => {
      const path = '/keyward.v1.AuditService/ReadEntries';
      const stream = { 'content-type': 'application/connect+json' };
      const tiles = inEnvelope(Buffer.from('{"treeSize":1}'));
      const { status, headers, body } = await eventually(async () => {
        const answer = await post('/keyward.v1.AuditService/ReadTiles', tiles, stream);
        // The log has no leaf yet.
        assert.equal(envelopesIn(answer.body).at(-1)?.json['error'], undefined);
        return answer;
      });
      assert.equal(status, 200);
      assert.equal(headers['content-type'], 'application/connect+json');
      const envelopes = envelopesIn(body);
      assert.ok(envelopes.length > 1);
      assert.deepEqual(envelopes.at(-1), { flags: 2, json: {} });
      const refused = await post(path, inEnvelope(Buffer.from('{"parent":"x"}')), stream);
      const [{ flags, json } = { flags: 0, json: {} }] = envelopesIn(refused.body);
      assert.deepEqual([refused.status, flags], [200, 2]);
      assert.equal(failureIn(json['error'] as HttpJson).reason, 'INVALID_FIELD');
      assert.equal((await post(path, {})).status, 415);
    });

    test('a stream takes one message that is not compressed', async () => {
      const path = '/keyward.v1.AuditService/ReadEntries';
      const stream = { 'content-type': 'application/connect+json' };
      const reasonOf = async (body: Buffer) => {
        const [last] = envelopesIn((await post(path, body, stream)).body);
        return failureIn(last?.json['error'] as HttpJson).reason;
      };
      const message = inEnvelope(Buffer.from('{"parent":"tenants/acme"}'));
      assert.equal(await reasonOf(Buffer.alloc(0)), 'MESSAGE_COUNT_WRONG');
      assert.equal(await reasonOf(Buffer.concat([message, message])), 'MESSAGE_COUNT_WRONG');
      assert.equal(await reasonOf(inEnvelope(Buffer.from('{}'), 1)), 'COMPRESSION_NOT_SUPPORTED');
      assert.equal(await reasonOf(inEnvelope(Buffer.from('{}'), 2)), 'MALFORMED_REQUEST');
    });
  });
}

type HttpJson = Readonly<Record<string, unknown>>;

test('two requests in turn go by one connection of HTTP/1.1', async () => {
  using socket = await openRaw(peer());
  const text = requestText(GET_KEY, JSON.stringify({ name: KEY }));
  for (const _ of ['first', 'second']) {
    socket.write(text);
    const [answer] = (await once(socket, 'data')) as [Buffer];
    assert.match(answer.toString(), /^HTTP\/1\.1 200 OK\r\n/);
    assert.doesNotMatch(answer.toString(), /connection: close/i);
  }
});

test('without ALPN HTTP/1.1 is spoken', async () => {
  const text = requestText(GET_KEY, JSON.stringify({ name: KEY }), ['Connection: close']);
  assert.match(await askRaw(peer(), text, { alpn: [] }), /^HTTP\/1\.1 200 OK\r\n/);
});

test('a client that asks whether to send its body is told before it does', async () => {
  const body = JSON.stringify({ name: KEY });
  const lines = ['Expect: 100-continue', 'Connection: close'];
  const taken = await askRaw(peer(), requestText(GET_KEY, body, lines));
  assert.match(taken, /^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200 OK\r\n/);
  const [head] = requestText(GET_KEY, body, ['Content-Length: 999999', ...lines]).split('{');
  const refused = await askRaw(peer(), String(head));
  assert.match(refused, /^HTTP\/1\.1 429 /);
  using session = openHttp2(peer());
  const stream = session.request({
    ':method': 'POST',
    ':path': GET_KEY,
    'content-type': 'application/json',
    expect: '100-continue',
  });
  await once(stream, 'continue');
  stream.end(body);
  const [headers] = (await once(stream, 'response')) as [Record<string, unknown>];
  assert.equal(headers[':status'], 200);
});

test('every method of the contract has a path', async () => {
  for (const [service, rpcs] of Object.entries(RPCS))
    for (const [name, { operation }] of Object.entries(rpcs)) {
      const type = 'stream' in operation ? 'connect+json' : 'json';
      const { status } = await ask(peer(), 'HTTP/2', {
        path: `/${service}/${name}`,
        headers: { 'content-type': `application/${type}`, 'connect-timeout-ms': '0' },
      });
      assert.equal(status, 'stream' in operation ? 200 : 504, name);
    }
});

test('certificates that are replaced are used by new connections', async () => {
  const { environment, service } = shared;
  const { certPem, keyPem } = environment.ca.issue({
    subject: 'keyward, renewed',
    usage: 'server',
    dns: ['localhost'],
    ips: ['127.0.0.1'],
  });
  writeFileSync(join(environment.directory, 'server-key.pem'), keyPem);
  writeFileSync(join(environment.directory, 'server.pem'), certPem);
  await service.logged(({ msg }) => msg === 'certificates of the HTTP listener reloaded');
  await eventually(async () =>
    assert.equal((await ask(peer(), 'HTTP/2', { path: GET_KEY, body: { name: KEY } })).status, 200),
  );
});
