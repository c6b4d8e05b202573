/** The issuers file: what it may say, and how its mistakes are named. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { createCertificateAuthority } from '../../dev/certificates.ts';
import { parseIssuers } from '../../src/access/issuers.ts';

const GOOD = {
  name: 'corp',
  issuer: 'https://login.example.com/',
  audience: 'keyward',
  algorithms: ['ES256'],
  jwksUrl: 'https://login.example.com/jwks',
};

const parse = (...issuers: object[]) => parseIssuers(JSON.stringify({ issuers }));

test('an issuer needs little, and is strict by default', () => {
  assert.deepEqual(parse(GOOD), [
    {
      name: 'corp',
      issuer: 'https://login.example.com/',
      audience: 'keyward',
      type: 'at+jwt',
      algorithms: ['ES256'],
      keys: { url: 'https://login.example.com/jwks', ca: undefined, tokenFile: undefined },
      maxLifetimeSeconds: 3600,
      vouchesForAuthentication: false,
      claims: { principal: ['sub'] },
    },
  ]);
});

test('case 105: every mistake is named at once, with where it is, an issuer or audience that is missing too', () => {
  const bad = {
    name: 'Corp',
    issuer: '',
    algorithms: ['HS256'],
    jwksUrl: 'http://login.example.com/jwks',
    maxLifetimeSeconds: 0,
    vouchesForAuthentication: 'mfa',
    maxLifetime: 5,
    claims: { tenant: 'x' },
  };
  assert.throws(
    () => parse(GOOD, bad),
    (error: Error) => {
      for (const where of [
        'name',
        'issuer',
        'audience',
        'algorithms.0',
        'jwksUrl',
        'maxLifetimeSeconds',
        'vouchesForAuthentication',
        'claims',
      ])
        assert.match(error.message, new RegExp(`^issuers\\.1\\.${where}: `, 'm'));
      assert.match(error.message, /"maxLifetime"/);
      return true;
    },
  );
});

test('keys come from one place, over what nobody on the way can change', (t) => {
  const where = (changes: object) => () => parse({ ...GOOD, ...changes });
  for (const jwksUrl of [
    'http://127.0.0.1:8080/jwks',
    'http://localhost/jwks',
    'http://[::1]/jwks',
  ])
    where({ jwksUrl })();
  for (const jwksUrl of [
    'http://127.0.0.1.example.com/',
    'http://localhost.example.com/',
    'file:///etc/jwks',
    'ftp://a.test/',
    'https://user:password@a.test/',
    'jwks',
  ])
    assert.throws(where({ jwksUrl }), /jwksUrl: must be https/);
  assert.throws(where({ jwksUrl: undefined }), /must have either jwksUrl or jwksFile/);
  assert.throws(where({ jwksFile: import.meta.filename }), /must have either jwksUrl or jwksFile/);
  assert.throws(
    where({ jwksUrl: undefined, jwksFile: '/nowhere' }),
    /must name a file that can be read/,
  );
  const jwksCaFile = join(mkdtempSync(join(tmpdir(), 'keyward-issuers-')), 'ca.pem');
  t.after(() => rmSync(dirname(jwksCaFile), { recursive: true }));
  writeFileSync(jwksCaFile, createCertificateAuthority('ca').certPem);
  where({ jwksCaFile })();
  assert.throws(where({ jwksUrl: 'http://localhost/', jwksCaFile }), /must come with a jwksUrl/);
  const jwksTokenFile = jwksCaFile;
  where({ jwksTokenFile })();
  assert.throws(
    where({ jwksUrl: 'http://localhost/', jwksTokenFile }),
    /jwksTokenFile must come with a jwksUrl that is https/,
  );
  assert.throws(where({ jwksTokenFile: '/nowhere' }), /must name a file that can be read/);
  writeFileSync(jwksCaFile, createCertificateAuthority('ca').certPem.slice(0, 200));
  assert.throws(where({ jwksCaFile }), /jwksCaFile: must name certificates of CAs in PEM/);
});

test('two issuers are told apart by name and by iss', () => {
  assert.throws(() => parse(GOOD, { ...GOOD, issuer: 'x' }), /must have distinct names/);
  assert.throws(() => parse(GOOD, { ...GOOD, name: 'x' }), /must have distinct issuers/);
  assert.throws(() => parse(), /issuers: /);
  assert.throws(
    () => parseIssuers('{"issuers":[],"issuers":[]}'),
    /must be JSON with each name once/,
  );
});

test('the example in docs/access.md is one', () => {
  const page = readFileSync(new URL('../../docs/access.md', import.meta.url), 'utf8');
  const [, example = ''] = /```json\n(.*?)```/s.exec(page) ?? [];
  const inPlace = example.replaceAll(
    /"\/etc\/keyward\/[^"]+"/g,
    JSON.stringify(import.meta.filename),
  );
  assert.equal(parseIssuers(inPlace).length, 2);
});
