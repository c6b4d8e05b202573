/**
 * Which tokens are accepted: the verifier with a real endpoint for an issuer's keys, and tokens
 * that are wrong in one way each.
 */
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import fc from 'fast-check';
import { AUDIENCE, ISSUER, type SigningKey, signingKey, tokenBy } from './issuer.ts';
import { startVerifier } from './rig.ts';

const key = signingKey('key-1');
const rsa = signingKey('rsa-1', 'RS256');
const ALGORITHMS = ['RS256', 'PS256', 'ES256', 'ES384', 'ES512', 'EdDSA'] as const;

let rig: Awaited<ReturnType<typeof startVerifier>>;
before(async () => {
  rig = await startVerifier([key, rsa], { changes: { algorithms: ['ES256', 'RS256'] } });
});
after(() => rig[Symbol.asyncDispose]());

/** Fails unless the token is refused as invalid, for a reason that matches. */
async function refused(token: string, why: RegExp): Promise<void> {
  const how = await rig.accept(token);
  assert.match(how, /^CREDENTIALS_INVALID: /);
  assert.match(how, why);
}

const refusedWith = (change: Parameters<typeof tokenBy>[1], why: RegExp) =>
  refused(tokenBy(key, change), why);
const now = () => Math.floor(Date.now() / 1000);

describe('a good token', () => {
  test('is accepted with every algorithm on its issuer’s list, and refused with one that isn’t', async () => {
    const keys = ALGORITHMS.map((algorithm) => signingKey(`kid-${algorithm}`, algorithm));
    await using all = await startVerifier(keys, { changes: { algorithms: ALGORITHMS } });
    for (const each of keys) assert.equal(await all.accept(tokenBy(each)), 'accepted', each.alg);
    await using few = await startVerifier(keys, { changes: { algorithms: ['EdDSA'] } });
    for (const each of keys) {
      const how = await few.accept(tokenBy(each));
      if (each.alg === 'EdDSA') assert.equal(how, 'accepted');
      else assert.match(how, /not on its issuer’s list/, each.alg);
    }
  });

  test('may write its audience as a list of one, and its typ with application/ and in capitals', async () => {
    assert.equal(await rig.with({ claims: { aud: [AUDIENCE] } }), 'accepted');
    assert.equal(await rig.with({ header: { typ: 'application/AT+JWT' } }), 'accepted');
  });

  test('says who its caller is by the issuer’s mapping, also within other claims', async () => {
    const claims = {
      principal: ['client_id'],
      tenants: ['https://a.test/tenants'],
      groups: ['realm', 'roles'],
    };
    await using mapped = await startVerifier([key], { changes: { claims } });
    const given = {
      client_id: 'batch',
      'https://a.test/tenants': 'acme',
      realm: { roles: ['a', 'b'] },
    };
    const accepted = await mapped.verifier.accept(tokenBy(key, { claims: given }));
    assert.equal(accepted.claims.principal, 'batch');
    assert.deepEqual(accepted.claims.tenants, ['acme']);
    assert.deepEqual(accepted.claims.groups, ['a', 'b']);
    assert.match(await mapped.accept(tokenBy(key)), /claim for principal is missing/);
    for (const realm of [{ roles: [1] }, { roles: { a: 1 } }, { roles: ['a\n'] }]) {
      assert.match(
        await mapped.with({ claims: { ...given, realm } }),
        /claim for groups is missing or not valid/,
      );
    }
    const inherited = tokenBy(key, { claims: { ...given, realm: 'text', client_id: undefined } });
    assert.match(await mapped.accept(inherited), /claim for principal/);
  });
});

describe('a signature', () => {
  test('case 6: of algorithm none, in any capitals, or empty, is refused', async () => {
    for (const alg of ['none', 'None', 'NONE', 'nOnE', '']) {
      const [head, payload] = tokenBy(key, { header: { alg } }).split('.');
      await refused(`${head}.${payload}.`, /not a signed JWT/);
      await refused(`${head}.${payload}.AAAA`, /not on its issuer’s list/);
    }
    const [head, payload] = tokenBy(key).split('.');
    await refused(`${head}.${payload}.`, /not a signed JWT/);
    await refused(`${head}.${payload}`, /not a signed JWT/);
  });

  test('case 7: of HS256 with the RSA public key as its secret is refused', async () => {
    const pem = rsa.privateKey.export({ format: 'pem', type: 'pkcs8' });
    for (const secret of [pem, JSON.stringify(rsa.jwk), String(rsa.jwk.n)]) {
      const [head, payload] = tokenBy(rsa, { header: { alg: 'HS256' } }).split('.');
      const mac = createHmac('sha256', secret).update(`${head}.${payload}`).digest('base64url');
      await refused(`${head}.${payload}.${mac}`, /not on its issuer’s list/);
    }
  });

  test('by another key, or of another token, is refused', async () => {
    await refused(tokenBy({ ...signingKey('key-1') }), /signature does not verify/);
    const [head, payload] = tokenBy(key).split('.');
    const other = tokenBy(key, { claims: { sub: 'mallory' } }).split('.');
    await refused(`${head}.${other[1]}.${tokenBy(key).split('.')[2]}`, /signature does not verify/);
    await refused(`${head}.${payload}.${other[2]}`, /signature does not verify/);
  });

  test('by a key of another kind than the algorithm wants is refused', async () => {
    await refused(tokenBy(rsa, { header: { alg: 'ES256' } }), /does not fit its key/);
    await refused(tokenBy(key, { header: { alg: 'RS256' } }), /does not fit its key/);
  });

  test('case 20: that is padded, or spelled otherwise in base64url, is refused', async () => {
    const token = tokenBy(key);
    for (const padded of [`${token}=`, `${token}==`, token.replace('.', '=.')]) {
      await refused(padded, /not a signed JWT/);
    }
    // 64 bytes are 86 characters, of the last of which only two bits count.
    const last = token.at(-1) ?? '';
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
    const other = alphabet[alphabet.indexOf(last) + 1] ?? '';
    await refused(token.slice(0, -1) + other, /canonical/);
    await refused(
      token.replaceAll('-', '+').replaceAll('_', '/').replace(/.$/, '+'),
      /not a signed JWT/,
    );
  });
});

describe('a header', () => {
  test('case 8: with jwk, jku, x5u or x5c is refused, and nothing is fetched', async () => {
    const asked = rig.endpoint.requests;
    const own = signingKey('own');
    const url = rig.endpoint.url;
    for (const header of [{ jwk: own.jwk }, { jku: url }, { x5u: url }, { x5c: ['AAAA'] }]) {
      await refused(tokenBy({ ...own, kid: 'key-1' }, { header }), /header has (jwk|jku|x5u|x5c)/);
      await refused(tokenBy(key, { header }), /header has (jwk|jku|x5u|x5c)/);
    }
    assert.equal(rig.endpoint.requests, asked);
  });

  test('case 9: with a kid of odd characters or of 100 KB is refused', async () => {
    const odd = [
      "' OR 1=1 --",
      'a b',
      'key\u00001',
      'schlüssel',
      '',
      'k'.repeat(257),
      'a\nb',
      '$(id)',
    ];
    for (const kid of odd) await refusedWith({ header: { kid } }, /no valid alg and kid/);
    for (const kid of [1, null, ['key-1'], { a: 1 }])
      await refusedWith({ header: { kid } }, /no valid alg and kid/);
    await refusedWith({ header: { kid: 'k'.repeat(100_000) } }, /too large/);
    for (const kid of ['../../../etc/passwd', '__proto__', 'constructor', 'KEY-1'])
      await refusedWith({ header: { kid } }, /names no key of its issuer/);
  });

  test('case 10: without a kid is refused, even when the issuer has one key', async () => {
    await using one = await startVerifier([key]);
    assert.match(await one.with({ header: { kid: undefined } }), /no valid alg and kid/);
  });

  test('case 17: whose typ isn’t the one configured is refused', async () => {
    for (const typ of [
      'JWT',
      'id+jwt',
      'at+jwt+x',
      'application/application/at+jwt',
      '',
      undefined,
      'at jwt',
    ])
      await refusedWith({ header: { typ } }, /another typ/);
    await using plain = await startVerifier([key], { changes: { type: 'jwt' } });
    assert.equal(await plain.with({ header: { typ: 'JWT' } }), 'accepted');
    assert.match(await plain.with({}), /another typ/);
  });

  test('case 17: without a typ is accepted where the issuer’s type is null, and with one is not', async () => {
    await using none = await startVerifier([key], { changes: { type: null } });
    assert.equal(await none.with({ header: { typ: undefined } }), 'accepted');
    for (const typ of ['at+jwt', 'JWT', 'null', ''])
      assert.match(await none.with({ header: { typ } }), /another typ/);
    assert.match(await none.with({ header: { typ: null } }), /no valid alg and kid/);
  });

  test('case 18: with crit, known or not, or with b64 is refused', async () => {
    await refusedWith({ header: { crit: ['exp'], exp: 1 } }, /header has crit/);
    await refusedWith({ header: { crit: ['b64'], b64: false } }, /header has crit/);
    await refusedWith({ header: { crit: [] } }, /header has crit/);
    await refusedWith({ header: { b64: false } }, /header has b64/);
    await refusedWith({ header: { b64: true } }, /header has b64/);
  });

  test('that is no JSON object is refused', async () => {
    for (const header of [
      '',
      'null',
      '[]',
      '"a"',
      '1',
      '{',
      '{}',
      `{"alg":"ES256","kid":"key-1","typ":"at+jwt"}x`,
    ])
      await refusedWith({ header }, /not a signed JWT|not JSON|no valid alg and kid/);
  });
});

describe('claims', () => {
  test('case 11: with iss or aud wrong, missing or a prefix are refused', async () => {
    for (const iss of [
      'https://other.test/',
      'https://issuer.test',
      `${ISSUER}x`,
      undefined,
      [ISSUER],
      null,
      '__proto__',
    ])
      await refusedWith({ claims: { iss } }, /is not configured/);
    for (const aud of [
      'other',
      'keywar',
      'keyward2',
      'KEYWARD',
      '',
      undefined,
      null,
      { 0: AUDIENCE, length: 1 },
    ])
      await refusedWith({ claims: { aud } }, /not for this audience alone/);
  });

  test('case 12: for further audiences too are refused', async () => {
    for (const aud of [
      [AUDIENCE, 'other'],
      ['other', AUDIENCE],
      [AUDIENCE, AUDIENCE],
      [],
      [[AUDIENCE]],
    ])
      await refusedWith({ claims: { aud } }, /not for this audience alone/);
  });

  test('case 13: that expired 31 seconds ago are refused, 29 seconds ago accepted, also when remembered', async () => {
    await using own = await startVerifier([key]);
    const exp = now() + 5;
    const token = tokenBy(key, { claims: { exp } });
    assert.equal(await own.accept(token), 'accepted');
    const setTo = (seconds: number) => {
      own.ahead = (exp + seconds) * 1000 - Date.now();
    };
    setTo(29);
    assert.equal(await own.accept(token), 'accepted');
    assert.equal(await own.with({ claims: { exp }, now: exp - 600 }), 'accepted');
    setTo(31);
    assert.match(await own.accept(token), /has expired/);
    assert.match(await own.with({ claims: { exp, jti: 'new' }, now: exp - 600 }), /has expired/);
  });

  test('case 14: without exp, or with one that is no number, are refused', async () => {
    for (const exp of [undefined, null, String(now() + 600), [now() + 600], true, -1, {}])
      await refusedWith({ claims: { exp } }, /claim exp is missing/);
    const huge = JSON.stringify({ iss: ISSUER, aud: AUDIENCE, sub: 'a', iat: now() });
    await refusedWith({ claims: huge.replace('}', ',"exp":1e400}') }, /claim exp is missing/);
  });

  test('case 15: that live longer than the cap are refused, for the cap’s length accepted', async () => {
    const iat = now();
    await refusedWith({ claims: { iat, exp: iat + 3601 } }, /lifetime is too long/);
    assert.equal(await rig.with({ claims: { iat, exp: iat + 3600 } }), 'accepted');
    await refusedWith({ claims: { iat, exp: 253_402_300_799 } }, /lifetime is too long/);
    await refusedWith({ claims: { iat: undefined } }, /claim iat is missing/);
    await refusedWith({ claims: { iat: iat + 5, exp: iat } }, /expires before/);
  });

  test('case 16: with nbf or iat in the future are refused, 30 seconds aside', async () => {
    await refusedWith({ claims: { nbf: now() + 60 } }, /issued in the future/);
    await refusedWith({ claims: { iat: now() + 60 } }, /issued in the future/);
    assert.equal(await rig.with({ claims: { nbf: now() + 20, iat: now() + 20 } }), 'accepted');
    await refusedWith({ claims: { nbf: 'now' } }, /claim nbf/);
  });

  test('case 19: with a name twice, in the header or within the payload, are refused', async () => {
    const header = `{"alg":"ES256","kid":"key-1","typ":"at+jwt"`;
    await refusedWith(
      { header: `${header},"kid":"key-1"}` },
      /header is not JSON with each name once/,
    );
    await refusedWith({ header: `${header},"k\\u0069d":"key-1"}` }, /header is not JSON/);
    const claims = JSON.stringify({
      iss: ISSUER,
      aud: AUDIENCE,
      sub: 'a',
      iat: now(),
      exp: now() + 60,
    });
    const plus = (more: string) => claims.replace(/}$/, `,${more}}`);
    assert.equal(await rig.with({ claims: plus('"a":[{"b":1},{"b":":,{"}]') }), 'accepted');
    await refusedWith({ claims: plus('"sub":"b"') }, /payload is not JSON/);
    await refusedWith({ claims: plus('"s\\u0075b":"b"') }, /payload is not JSON/);
    await refusedWith({ claims: plus('"a":[{"b":1,"c":[1],"b":2}]') }, /payload is not JSON/);
    await refusedWith({ claims: plus('"__proto__":1,"__proto__":2') }, /payload is not JSON/);
  });

  test('without a subject that reads as one name are refused', async () => {
    for (const sub of [undefined, '', 1, 'a\nb', ' a', 'a\u202eb', 'a\u200bb', 'x'.repeat(257)])
      await refusedWith({ claims: { sub } }, /claim sub is missing or not valid/);
    const inherited = JSON.stringify({ iss: ISSUER, aud: AUDIENCE, iat: now(), exp: now() + 60 });
    await refusedWith(
      { claims: inherited.replace('}', ',"__proto__":{"sub":"root"}}') },
      /claim sub/,
    );
  });

  test('that are no JSON object, or no UTF-8, are refused', async () => {
    for (const claims of ['null', '[]', '"a"', '1', 'x', ''])
      await refusedWith({ claims }, /not a signed JWT|not JSON|not an object|is not configured/);
    const invalid = Buffer.from(`{"iss":"${ISSUER}","sub":"\xff"}`, 'latin1');
    await refusedWith({ claims: invalid }, /not JSON/);
  });

  test('bound to anything but a certificate, or to something else too, are refused', async () => {
    const thumbprint = Buffer.alloc(32).toString('base64url');
    assert.equal(await rig.with({ claims: { cnf: { 'x5t#S256': thumbprint } } }), 'accepted');
    for (const cnf of [
      { jkt: thumbprint },
      { 'x5t#S256': thumbprint, jkt: thumbprint },
      { 'x5t#S256': thumbprint.slice(1) },
      { 'x5t#S256': `${thumbprint}=` },
      { 'x5t#S256': [thumbprint] },
      {},
      null,
      thumbprint,
    ])
      await refusedWith({ claims: { cnf } }, /claim cnf/);
  });
});

describe('memory', () => {
  test('makes a token that was accepted cost a hash, and no signature', async () => {
    await using own = await startVerifier([key]);
    const token = tokenBy(key);
    for (let i = 0; i < 1000; i += 1) await own.verifier.accept(token);
    assert.equal(own.verified, 1);
    assert.ok(!(own.verifier.accept(token) instanceof Promise), 'and is answered at once');
    assert.equal(own.endpoint.requests, 1);
  });

  test('is bounded, and no refused token takes part in it', async () => {
    await using own = await startVerifier([key], { memory: 2 });
    const [first, second, third] = ['a', 'b', 'c'].map((sub) =>
      tokenBy(key, { claims: { sub } }),
    ) as [string, string, string];
    for (const token of [first, second]) await own.accept(token);
    const stranger = signingKey('key-1');
    for (let i = 0; i < 10; i += 1)
      await own.accept(tokenBy(stranger, { claims: { jti: `bad-${i}` } }));
    own.verified = 0;
    for (const token of [first, second]) assert.equal(await own.accept(token), 'accepted');
    assert.equal(own.verified, 0);
    for (const token of [third, first, second]) assert.equal(await own.accept(token), 'accepted');
    assert.ok(own.verified >= 2);
  });

  test('says of each token once whom it was accepted for, and never the token', async () => {
    await using own = await startVerifier([key]);
    const token = tokenBy(key);
    await own.accept(token);
    await own.accept(token);
    await own.accept(`${token.slice(0, -8)}AAAAAAAA`);
    const accepted = own.log.filter((line) => line.includes('token accepted'));
    assert.equal(accepted.length, 1);
    assert.match(accepted[0] ?? '', /"subject":"alice".*"tokenId":"token-1"/);
    for (const part of token.split('.')) assert.ok(!own.log.join('\n').includes(part));
  });
});

test('a token that is marked as for development is refused, whatever the mark says, but in development', async () => {
  for (const mark of [true, false, null, '', 'no'])
    await refusedWith(
      { claims: { keyward_development: mark } },
      /the token is for development, and KEYWARD_MODE is production/,
    );
  assert.equal(await rig.with({ claims: { other: { keyward_development: true } } }), 'accepted');
  await using development = await startVerifier([key], { acceptsDevelopment: true });
  assert.equal(await development.with({ claims: { keyward_development: true } }), 'accepted');
  assert.equal(await development.with({}), 'accepted');
});

test('no change to a valid token verifies', async () => {
  const token = tokenBy(key);
  assert.equal(await rig.accept(token), 'accepted');
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ ';
  const position = fc.nat(token.length - 1);
  const change = fc.oneof(
    fc
      .record({ at: position, to: fc.constantFrom(...alphabet) })
      .map(({ at, to }) => token.slice(0, at) + to + token.slice(at + 1)),
    fc
      .record({ at: position, to: fc.constantFrom(...alphabet) })
      .map(({ at, to }) => token.slice(0, at) + to + token.slice(at)),
    position.map((at) => token.slice(0, at) + token.slice(at + 1)),
    position.map((at) => token.slice(0, at)),
    fc.constantFrom(
      `${token}\n`,
      ` ${token}`,
      `${token}.`,
      `.${token}`,
      token.toUpperCase(),
      token + token,
    ),
    fc.string().map((text) => `${token}.${text}`),
  );
  await fc.assert(
    fc.asyncProperty(change, async (changed) => {
      fc.pre(changed !== token);
      assert.match(await rig.accept(changed), /^CREDENTIALS_INVALID/);
    }),
    { numRuns: 1_000 },
  );
});

test('a token as large as is taken is looked at, and not one that is larger', async () => {
  const withPadding = (length: number) => tokenBy(key, { claims: { padding: 'x'.repeat(length) } });
  assert.equal(await rig.accept(withPadding(5_700)), 'accepted');
  await refused(withPadding(6_200), /too large/);
});

test('an issuer’s token is not another’s, though both are trusted', async () => {
  const other: SigningKey = signingKey('key-1');
  await using own = await startVerifier([other]);
  assert.match(await own.accept(tokenBy(key)), /signature does not verify/);
});
