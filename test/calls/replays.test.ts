/**
 * Requests that come again: each is answered by what it did then, marked as a replay, and changes
 * nothing more, whatever has become of the resource since and whichever replica and face it comes
 * to.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import type { KeywardClient } from 'keyward-client';
import { serialize } from '../../src/faces/contract/proto.ts';
import { ask } from '../faces/http/client.ts';
import { call, grpcFrame, openSession } from '../faults/http2.ts';
import {
  type Environment,
  failureOf,
  newEnvironment,
  reasonOf,
  type Service,
  startService,
} from '../support/kit.ts';
import { newId, sql } from '../support/reconciling.ts';

const PARENT = 'tenants/acme';
const HTTP = { KEYWARD_HTTP_LISTEN: '127.0.0.1:0' };
let environment: Environment;
let service: Service;
let keyward: KeywardClient;
/** Another replica. */
let other: Service;
let elsewhere: KeywardClient;

before(async () => {
  environment = await newEnvironment();
  service = await startService(environment, HTTP);
  other = await startService(environment, HTTP);
  [keyward, elsewhere] = [service.client(), other.client()];
  await keyward.createTenant({ tenantId: 'acme' });
});

after(async () => {
  await Promise.all([service?.stop(), other?.stop()]);
  await environment?.[Symbol.asyncDispose]();
});

const newKey = async () => (await keyward.createKey({ parent: PARENT, keyId: newId('k') })).name;
const requestId = () => randomUUID();

function peerOf({ httpPort: port }: { readonly httpPort: number }) {
  const { ca, cert, key } = service.connectOptions();
  return { port, ca: String(ca), cert: String(cert), key: String(key) };
}

describe('an answer of then', () => {
  test('has the version, the state and the etag that the request made, not those of now', async () => {
    const name = await newKey();
    const first = { name, requestId: requestId() };
    const rotated = await keyward.rotateKey(first);
    await keyward.rotateKey({ name });
    const again = await keyward.rotateKey(first);
    assert.deepEqual(again, rotated);
    // Its caller has not seen version 3.
    const update = {
      key: { name, description: 'd', etag: again.etag },
      updateMask: ['description'],
    };
    assert.equal(await reasonOf(keyward.updateKey(update)), 'ETAG_MISMATCH');
  });

  test('is of a state that was left since, and leaves it alone', async () => {
    const name = await newKey();
    const request = { name, requestId: requestId() };
    const disabled = await keyward.disableKey(request);
    await keyward.enableKey({ name });
    assert.deepEqual(await elsewhere.disableKey(request), disabled);
    assert.equal(disabled.state, 'DISABLED');
    assert.equal((await keyward.getKey({ name })).state, 'ENABLED');
  });

  test('comes though what it made is gone, disabled, or in a tenant that is', async () => {
    const { name: tenant } = await keyward.createTenant({ tenantId: newId('t') });
    const ofKey = { parent: tenant, keyId: 'k', requestId: requestId() };
    const key = await keyward.createKey(ofKey);
    const ofDataKey = { parent: key.name, dataKeyId: 'dk', requestId: requestId() };
    const made = await keyward.createDataKey(ofDataKey);
    const ofRotation = { name: key.name, requestId: requestId() };
    const rotated = await keyward.rotateKey(ofRotation);
    await keyward.deleteDataKey({ name: made.dataKey.name });
    await keyward.disableKey({ name: key.name });
    await keyward.disableTenant({ name: tenant });
    assert.deepEqual(await keyward.createDataKey(ofDataKey), made);
    assert.deepEqual(await keyward.createKey(ofKey), key);
    assert.deepEqual(await keyward.rotateKey(ofRotation), rotated);
  });

  test('is the same by whichever face, and says in a header that it is of then', async () => {
    const [keyId, id] = [newId('k'), requestId()];
    const path = '/keyward.v1.KeyService/CreateKey';
    const body = { parent: PARENT, keyId, requestId: id };
    const first = await ask(peerOf(service), 'HTTP/2', { path, body });
    const again = await ask(peerOf(other), 'HTTP/1.1', { path, body });
    assert.equal(first.headers['keyward-replayed'], undefined);
    assert.equal(again.headers['keyward-replayed'], 'true');
    assert.deepEqual(again.json, first.json);
    using session = openSession({ ...peerOf(service), port: service.port });
    const message = serialize('keyward.v1.CreateKeyRequest', body);
    const byGrpc = await call(session, { path, body: [grpcFrame(message)] });
    assert.equal(byGrpc.headers['keyward-replayed'], 'true');
    const typed = await keyward.createKey(body);
    assert.deepEqual([typed.name, typed.uid], [first.json['name'], first.json['uid']]);
  });
});

describe('a plaintext', () => {
  test('comes again only while the key may be used, and the error names what was made', async () => {
    const parent = await newKey();
    const request = { parent, dataKeyId: 'dk', returnPlaintext: true, requestId: requestId() };
    const made = await keyward.createDataKey(request);
    assert.deepEqual(await elsewhere.createDataKey(request), made);
    await keyward.disableKey({ name: parent });
    const error = await failureOf(keyward.createDataKey(request));
    assert.equal(error.reason, 'KEY_NOT_ENABLED');
    assert.equal(error.metadata.get('made'), made.dataKey.name);
    assert.match(error.message, /the request has made tenants\/acme/);
    await keyward.enableKey({ name: parent });
    assert.deepEqual(await keyward.createDataKey(request), made);
  });

  test('is nowhere in what is kept', async () => {
    const parent = await newKey();
    const id = requestId();
    const request = { parent, returnPlaintext: true, requestId: id };
    const { plaintext } = await keyward.createDataKey(request);
    const rows = await sql(environment, 'SELECT * FROM request_ids WHERE request_id = $1', [id]);
    assert.equal(rows.length, 1);
    const text = JSON.stringify(rows);
    assert.ok(plaintext !== undefined && plaintext.length === 32);
    for (const form of ['base64', 'hex'] as const)
      assert.ok(!text.includes(plaintext.toString(form)));
  });
});

describe('a replica that is asked again', () => {
  test('uses what the request has made, before any change was announced to it', async () => {
    const name = await newKey();
    for (let version = 2; version < 12; version += 1) {
      await elsewhere.encrypt({ name, plaintext: Buffer.from('p') });
      const request = { name, requestId: requestId() };
      await keyward.rotateKey(request);
      await elsewhere.rotateKey(request);
      const { keyVersion } = await elsewhere.encrypt({ name, plaintext: Buffer.from('p') });
      assert.equal(keyVersion, `${name}/versions/${version}`);
    }
  });

  test('says of one that it cannot record that what it did before stands', async () => {
    const name = await newKey();
    const request = { name, requestId: requestId() };
    await keyward.disableKey(request);
    const revoke = 'REVOKE INSERT ON audit_inbox FROM keyward_service, keyward_reconciler';
    await sql(environment, revoke);
    try {
      const again = await failureOf(keyward.disableKey(request));
      assert.equal(again.reason, 'AUDIT_UNAVAILABLE');
      assert.match(again.message, /what its request did when it came before stands/);
      const first = await failureOf(keyward.enableKey({ name, requestId: requestId() }));
      assert.equal(first.reason, 'AUDIT_UNAVAILABLE');
      assert.match(first.message, /it was not performed/);
    } finally {
      await sql(environment, revoke.replace('REVOKE', 'GRANT').replace('FROM', 'TO'));
    }
    assert.equal((await keyward.getKey({ name })).state, 'DISABLED');
  });

  test('answers with what it verifies alone, and never does it a second time', async () => {
    const name = await newKey();
    const request = { name, requestId: requestId() };
    await keyward.disableKey(request);
    await keyward.enableKey({ name });
    const set = (assignment: string) =>
      sql(environment, `UPDATE request_ids SET ${assignment} WHERE request_id = $1`, [
        request.requestId,
      ]);
    const from = service.log.length;
    await set(`effect = replace(effect, '"answer"', '"other"')`);
    assert.equal(await reasonOf(keyward.disableKey(request)), 'STORED_ROW_CORRUPT');
    await service.logged(
      ({ alert, detail }) =>
        alert === 'stored-row-corrupt' && String(detail).includes(request.requestId),
      from,
    );
    // As an earlier release leaves it.
    await set('effect = NULL, mac = NULL, mask_key_id = NULL');
    assert.equal(await reasonOf(keyward.disableKey(request)), 'REPLAY_UNKNOWN');
    assert.equal((await keyward.getKey({ name })).state, 'ENABLED');
  });
});
