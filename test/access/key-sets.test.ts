/**
 * Where issuers' keys come from: an endpoint that is asked, slow, down or hostile, and a file.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { createCertificateAuthority } from '../../dev/certificates.ts';
import { type KeySet, openKeySet } from '../../src/access/key-sets.ts';
import { readKeySet } from '../../src/access/public-keys.ts';
import { eventually } from '../support/kit.ts';
import { issuer, signingKey, startEndpoint, tokenBy } from './issuer.ts';
import { logInto, outcome, startVerifier } from './rig.ts';

const key = signingKey('key-1');
const next = signingKey('key-2');
const SECOND = 1_000;
const MINUTE = 60 * SECOND;

const down = (_: unknown, response: ServerResponse) => response.writeHead(503).end();

describe('an endpoint', () => {
  test('case 24: that is down makes the first call UNAVAILABLE, and is asked again a second later', async () => {
    await using rig = await startVerifier([key]);
    rig.endpoint.answer = down;
    assert.match(await rig.with({}), /^ISSUER_UNAVAILABLE/);
    for (let i = 0; i < 50; i += 1) assert.match(await rig.with({}), /^ISSUER_UNAVAILABLE/);
    assert.equal(rig.endpoint.requests, 1);
    rig.endpoint.answer = undefined;
    rig.ahead += SECOND;
    assert.equal(await rig.with({}), 'accepted');
  });

  test('case 24: that goes down leaves what was fetched in force, for ten minutes', async () => {
    await using rig = await startVerifier([key]);
    const token = tokenBy(key, { claims: { exp: Math.floor(Date.now() / 1000) + 3600 } });
    assert.equal(await rig.accept(token), 'accepted');
    rig.endpoint.answer = down;
    for (let minutes = 1; minutes < 10; minutes += 1) {
      rig.ahead += MINUTE - 1;
      assert.equal(await rig.accept(token), 'accepted', `${minutes} minutes`);
      assert.equal(
        await rig.with({ claims: { jti: `${minutes}` }, now: aheadOf(rig) }),
        'accepted',
      );
    }
    rig.ahead += MINUTE + SECOND;
    assert.match(await rig.accept(token), /^ISSUER_UNAVAILABLE/);
    rig.endpoint.answer = undefined;
    rig.ahead += SECOND;
    assert.equal(await rig.accept(token), 'accepted');
    assert.equal(rig.log.filter((line) => line.includes('cannot fetch')).length, 1);
  });

  test('case 25: that publishes a key no more has its tokens refused within 60 seconds, remembered or not', async () => {
    await using rig = await startVerifier([key, next]);
    const token = tokenBy(key);
    assert.equal(await rig.accept(token), 'accepted');
    rig.endpoint.keys = [next.jwk];
    rig.ahead += 29 * SECOND;
    assert.equal(await rig.accept(token), 'accepted');
    rig.ahead += 31 * SECOND;
    assert.match(await rig.accept(token), /names no key of its issuer/);
    assert.match(await rig.with({}), /names no key of its issuer/);
    assert.equal(await rig.accept(tokenBy(next)), 'accepted');
  });

  test('that publishes another key by the same kid has the old one’s tokens refused', async () => {
    await using rig = await startVerifier([key]);
    const token = tokenBy(key);
    assert.equal(await rig.accept(token), 'accepted');
    const other = signingKey('key-1');
    rig.endpoint.keys = [other.jwk];
    rig.ahead += MINUTE;
    assert.match(await rig.accept(token), /signature does not verify/);
    assert.equal(await rig.accept(tokenBy(other)), 'accepted');
  });

  test('that publishes a new key has it used as soon as a token names it, the cool-down aside', async () => {
    await using rig = await startVerifier([key]);
    assert.equal(await rig.with({}), 'accepted');
    rig.endpoint.keys = [key.jwk, next.jwk];
    assert.match(await rig.accept(tokenBy(next)), /names no key of its issuer/);
    rig.ahead += 5 * SECOND;
    assert.equal(await rig.accept(tokenBy(next)), 'accepted');
    assert.equal(rig.endpoint.requests, 2);
  });

  test('is asked in the background while it is used, so that nobody waits', async () => {
    await using rig = await startVerifier([key]);
    const token = tokenBy(key);
    await rig.accept(token);
    rig.ahead += 31 * SECOND;
    assert.ok(!(rig.verifier.accept(token) instanceof Promise));
    await eventually(() => assert.equal(rig.endpoint.requests, 2));
    assert.equal(rig.verified, 1);
  });

  test('case 26: is asked once for 200 keys that nobody knows, at once or one after another', async () => {
    await using rig = await startVerifier([key]);
    await rig.with({});
    rig.ahead += 6 * SECOND;
    const before = rig.endpoint.requests;
    const tokens = Array.from({ length: 200 }, (_, i) => tokenBy({ ...key, kid: `unknown-${i}` }));
    const outcomes = await Promise.all(tokens.slice(0, 100).map((token) => rig.accept(token)));
    for (const token of tokens.slice(100)) outcomes.push(await rig.accept(token));
    for (const each of outcomes) assert.match(each, /names no key of its issuer/);
    assert.equal(rig.endpoint.requests - before, 1);
    assert.equal(rig.verified, 1);
  });

  test('case 26: is asked once by 200 calls that find nothing known', async () => {
    await using rig = await startVerifier([key]);
    const tokens = Array.from({ length: 200 }, (_, i) => tokenBy({ ...key, kid: `unknown-${i}` }));
    await Promise.all(tokens.map((token) => rig.accept(token)));
    assert.equal(rig.endpoint.requests, 1);
  });

  test('that answers wrongly, too much, or sends one elsewhere has not answered', async () => {
    await using elsewhere = await startEndpoint([key]);
    const answers: ((response: ServerResponse) => void)[] = [
      (response) => response.end('<html>'),
      (response) => response.end('{"keys":{}}'),
      (response) => response.end('{"keys":[],"keys":[]}'),
      (response) => response.end(JSON.stringify({ keys: Array(101).fill(key.jwk) })),
      (response) => response.end(`{"keys":[${' '.repeat(300_000)}]}`),
      (response) => response.writeHead(302, { location: elsewhere.url }).end(),
      (response) => response.destroy(),
      (response) =>
        response.writeHead(200, { 'content-length': 1000 }).write('{') && response.destroy(),
    ];
    await using rig = await startVerifier([key]);
    for (const answer of answers) {
      rig.endpoint.answer = (_, response) => answer(response);
      rig.ahead += 2 * SECOND;
      assert.match(await rig.with({}), /^ISSUER_UNAVAILABLE/);
    }
    assert.equal(elsewhere.requests, 0);
  });

  test('that never ends its answer holds a call for a few seconds, and not for ever', async () => {
    await using rig = await startVerifier([key]);
    rig.endpoint.answer = (_, response) => void response.write('{');
    assert.match(await rig.with({}), /^ISSUER_UNAVAILABLE/);
  });

  test('by https has to have a certificate of the issuer’s CA', async () => {
    const ca = createCertificateAuthority('issuer CA');
    const credentials = ca.issue({ subject: 'issuer', usage: 'server', ips: ['127.0.0.1'] });
    await using endpoint = await startEndpoint([key], credentials);
    const find = (pem: string) => {
      const keys = openKeySet(
        issuer(endpoint.url, { keys: { url: endpoint.url, ca: pem } }),
        parts(),
      );
      return outcome(async () => (await keys.find('key-1')) as never);
    };
    assert.equal(await find(ca.certPem), 'accepted');
    assert.match(
      await find(createCertificateAuthority('issuer CA').certPem),
      /^ISSUER_UNAVAILABLE/,
    );
  });
});

describe('a file', () => {
  test('is read again when it changes, and stays as it was when it isn’t understood', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'keyward-keys-'));
    const path = join(directory, 'keys.json');
    const write = (...keys: object[]) => writeFileSync(path, JSON.stringify({ keys }));
    write(key.jwk);
    const log: string[] = [];
    const keys: KeySet = openKeySet(issuer('', { keys: { file: path } }), {
      ...parts(),
      log: logInto(log),
    });
    try {
      const before = await keys.find('key-1');
      assert.ok(before);
      write(key.jwk, next.jwk);
      await eventually(async () => assert.ok(await keys.find('key-2')));
      assert.equal(await keys.find('key-1'), before, 'what has not changed stays what it was');
      writeFileSync(path, '{');
      await eventually(() => assert.ok(log.some((line) => line.includes('the old ones stay'))));
      assert.ok(await keys.find('key-2'));
      write(next.jwk);
      await eventually(async () => assert.equal(await keys.find('key-1'), undefined));
    } finally {
      keys.stop();
      rmSync(directory, { recursive: true });
    }
  });
});

describe('a key set', () => {
  const read = (...keys: unknown[]) => [
    ...readKeySet(Buffer.from(JSON.stringify({ keys })), [
      'ES256',
      'RS256',
      'PS256',
      'EdDSA',
    ]).keys(),
  ];

  test('gives only keys for signatures, strong enough, well made and with a kid', () => {
    assert.deepEqual(read(key.jwk, 1, null, 'x', [], { kty: 'oct', k: 'AAAA', kid: 'o' }), [
      'key-1',
    ]);
    const weak = signingKey('weak', 'RS256', 1024).jwk;
    const secret = key.privateKey.export({ format: 'jwk' });
    const { x } = next.jwk;
    for (const jwk of [
      { ...key.jwk, kid: undefined },
      { ...key.jwk, use: 'enc' },
      { ...key.jwk, key_ops: ['encrypt'] },
      { ...key.jwk, alg: 'ES384' },
      { ...key.jwk, crv: 'P-384' },
      { ...key.jwk, x },
      { ...secret, kid: 'secret' },
      signingKey('p384', 'ES384').jwk,
      weak,
    ])
      assert.deepEqual(read(jwk), [], JSON.stringify(jwk));
  });

  test('takes no key whose kid is there twice', () => {
    assert.deepEqual(read(key.jwk, { ...next.jwk, kid: 'key-1' }, next.jwk), ['key-2']);
    assert.deepEqual(read(key.jwk, { ...next.jwk, kid: 'key-1', use: 'enc' }), ['key-1']);
  });
});

function parts() {
  return { log: logInto([]), now: () => performance.now() };
}

function aheadOf({ ahead }: { readonly ahead: number }): number {
  return Math.floor((Date.now() + ahead) / 1000);
}
