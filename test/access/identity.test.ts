/**
 * Who is let in, over the wire: by certificate, by token, by both bound together, and by nothing
 * else; while files change and issuers fail.
 */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from 'keyward-client';
import { type Credentials, createCertificateAuthority } from '../../dev/certificates.ts';
import {
  type Answer,
  call,
  FLAG,
  FRAME,
  FrameClient,
  field,
  frame,
  grpcFrame,
  headerBlock,
  openSession,
  type Peer,
} from '../faults/http2.ts';
import { runSql } from '../store/database.ts';
import { grantEverything } from '../support/grants.ts';
import {
  type Environment,
  eventually,
  newEnvironment,
  reasonOf,
  runCommand,
  type Service,
  startService,
} from '../support/kit.ts';
import {
  AUDIENCE,
  type Endpoint,
  ISSUER,
  type SigningKey,
  signingKey,
  startEndpoint,
  type TokenChanges,
  tokenBy,
} from './issuer.ts';

const LIST = '/keyward.v1.AdminService/ListTenants';
const CREATE = '/keyward.v1.AdminService/CreateTenant';
const HEALTH = '/grpc.health.v1.Health/Check';

const key = signingKey('key-1');
const fileKey = signingKey('file-1', 'EdDSA');

let environment: Environment;
let service: Service;
let endpoint: Endpoint;
let batch: Credentials;

const path = (name: string) => join(environment.directory, name);

/** The issuers file: one whose keys are at the endpoint, and one whose keys are a file. */
function writeIssuers(changes: object = {}, file = 'issuers.json'): void {
  const common = { audience: AUDIENCE, algorithms: ['ES256', 'EdDSA'] };
  const issuers = [
    { name: 'corp', issuer: ISSUER, jwksUrl: endpoint.url, ...common, ...changes },
    { name: 'file', issuer: 'https://file.test/', jwksFile: path('jwks.json'), ...common },
  ];
  writeFileSync(path(file), JSON.stringify({ issuers }));
}

const writeKeys = (...keys: SigningKey[]) =>
  writeFileSync(path('jwks.json'), JSON.stringify({ keys: keys.map(({ jwk }) => jwk) }));

before(async () => {
  environment = await newEnvironment();
  const callers = [
    'jwt:corp/alice',
    'jwt:corp/auditor',
    'jwt:corp/bound one',
    'jwt:file/alice',
    'jwt:late/alice',
  ];
  await grantEverything(environment.variables, [
    ...callers,
    'spiffe://keyward.test/batch',
    'CN=revoked',
  ]);
  endpoint = await startEndpoint([key]);
  batch = environment.ca.issue({
    subject: 'batch',
    usage: 'client',
    uris: ['spiffe://keyward.test/batch'],
  });
  writeIssuers();
  writeKeys(fileKey);
  writeFileSync(path('deny'), '# nobody yet\n');
  service = await startService(environment, {
    KEYWARD_ISSUERS_FILE: path('issuers.json'),
    KEYWARD_CERTIFICATE_DENY_FILE: path('deny'),
    KEYWARD_MAX_CONNECTIONS: '20',
  });
});

after(async () => {
  await service?.stop();
  await endpoint?.[Symbol.asyncDispose]();
  await environment?.[Symbol.asyncDispose]();
});

function peer(credentials?: Credentials): Peer {
  const { certPem: cert, keyPem } = credentials ?? {};
  const own = cert === undefined || keyPem === undefined ? {} : { cert, key: keyPem };
  return { port: service.port, ca: environment.ca.certPem, ...own };
}

interface Request {
  readonly credentials?: Credentials;
  readonly token?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly to?: string;
  readonly message?: Buffer;
}

/** One call on a connection of its own. */
async function ask({
  credentials,
  token,
  headers,
  to = LIST,
  message = Buffer.alloc(0),
}: Request): Promise<Answer> {
  using session = openSession(peer(credentials));
  const authorization = token === undefined ? {} : { authorization: `Bearer ${token}` };
  return await call(session, {
    path: to,
    headers: { ...authorization, ...headers },
    body: [grpcFrame(message)],
  });
}

/** `OK`, or the reason; `closed` when the connection was. */
async function outcomeOf(request: Request): Promise<string> {
  const { status, reason } = await ask(request);
  return status === 0 ? 'OK' : (reason ?? 'closed');
}

function thumbprint({ certPem }: Credentials): string {
  return Buffer.from(
    new X509Certificate(certPem).fingerprint256.replaceAll(':', ''),
    'hex',
  ).toString('base64url');
}

const boundTo = (credentials: Credentials, changes: TokenChanges = {}) =>
  tokenBy(key, {
    ...changes,
    claims: { cnf: { 'x5t#S256': thumbprint(credentials) }, ...(changes.claims as object) },
  });

const fileToken = (claims: object = {}, signer = fileKey) =>
  tokenBy(signer, { claims: { iss: 'https://file.test/', ...claims } });

describe('a caller', () => {
  test('is let in by a certificate, by a token, or by both bound together', async () => {
    assert.equal(await outcomeOf({ credentials: batch }), 'OK');
    assert.equal(await outcomeOf({ token: tokenBy(key) }), 'OK');
    assert.equal(await outcomeOf({ credentials: batch, token: boundTo(batch) }), 'OK');
  });

  test('with nothing, or with anything but one Bearer token, is refused', async () => {
    assert.equal(await outcomeOf({}), 'CREDENTIALS_MISSING');
    const { status } = await ask({});
    assert.equal(status, 16);
    for (const authorization of [
      'Basic YTpi',
      'Bearer',
      tokenBy(key),
      `Bearer ${tokenBy(key)} x`,
      'DPoP x',
      '',
    ])
      assert.equal(
        await outcomeOf({ headers: { authorization } }),
        'CREDENTIALS_INVALID',
        authorization,
      );
    assert.equal(await outcomeOf({ headers: { authorization: `bearer ${tokenBy(key)}` } }), 'OK');
  });

  test('with two authorization headers is refused', async () => {
    const from = service.log.length;
    using client = await FrameClient.connect(peer(batch));
    client.begin();
    const block = headerBlock(LIST, [
      ['authorization', 'Bearer a.b.c'],
      ['authorization', 'Bearer a.b.c'],
    ]);
    client.send(frame(FRAME.headers, FLAG.endStream | FLAG.endHeaders, 1, block));
    await service.logged(
      ({ cause }) => cause === 'the call has more than one authorization header',
      from,
    );
  });

  test('with a certificate and a token that isn’t bound to it is refused, though each would do', async () => {
    assert.equal(await outcomeOf({ credentials: batch, token: tokenBy(key) }), 'TOKEN_NOT_BOUND');
  });

  test('case 21: with a token bound to another certificate, or to one that isn’t shown, is refused', async () => {
    const other = environment.ca.issue({ subject: 'other', usage: 'client' });
    const token = boundTo(batch);
    assert.equal(await outcomeOf({ credentials: batch, token }), 'OK');
    assert.equal(await outcomeOf({ credentials: other, token }), 'TOKEN_NOT_BOUND');
    assert.equal(await outcomeOf({ token }), 'TOKEN_NOT_BOUND');
    assert.equal(
      await outcomeOf({ credentials: batch, token }),
      'OK',
      'and still good where it belongs',
    );
    const byKey = tokenBy(key, { claims: { cnf: { jkt: thumbprint(batch) } } });
    assert.equal(await outcomeOf({ credentials: batch, token: byKey }), 'CREDENTIALS_INVALID');
    assert.equal(await outcomeOf({ token: byKey }), 'CREDENTIALS_INVALID');
  });

  test('case 2: with a certificate of another CA, expired or for servers is refused, token or not', async () => {
    const yesterday = new Date(Date.now() - 86_400_000);
    const bad = [
      createCertificateAuthority('keyward test CA').issue({ subject: 'x', usage: 'client' }),
      environment.ca.issue({ subject: 'x', usage: 'server' }),
      environment.ca.issue({
        subject: 'x',
        usage: 'client',
        notBefore: new Date(yesterday.getTime() - 86_400_000),
        notAfter: yesterday,
      }),
    ];
    for (const credentials of bad) {
      for (const request of [{}, { token: tokenBy(key) }, { token: boundTo(credentials) }]) {
        assert.equal(await outcomeOf({ credentials, ...request }), 'closed');
      }
    }
  });

  test('is told of a refused token what can be seen in it, and the log has the rest', async () => {
    const from = service.log.length;
    const now = Math.floor(Date.now() / 1000);
    const until = new Date((now - 400) * 1000).toISOString().replace('.000Z', 'Z');
    const log =
      'the token or certificate is not accepted; the server’s log shows the cause under this request id';
    const wrong: readonly (readonly [cause: string, token: string, told: string])[] = [
      [
        'the token has expired',
        tokenBy(key, { now: now - 1000 }),
        `the token expired at ${until}; get a new one`,
      ],
      [
        'the token was issued in the future',
        tokenBy(key, { claims: { nbf: Number.MAX_SAFE_INTEGER } }),
        'the token is not valid before +275760-09-13T00:00:00Z; check the clocks',
      ],
      [
        'the token is not for this audience alone',
        tokenBy(key, { claims: { aud: 'other' } }),
        'the token’s audience (aud) is not this service alone; get one that is for it',
      ],
      [
        'the token’s issuer is not configured',
        tokenBy(key, { claims: { iss: 'x' } }),
        'the token’s issuer (iss) is not one that the service trusts',
      ],
      [
        'the token’s signature does not verify (ERR_JWS_SIGNATURE_VERIFICATION_FAILED)',
        tokenBy(signingKey('key-1'), { now: now - 1000, claims: { aud: 'other' } }),
        log,
      ],
    ];
    for (const [cause, token, told] of wrong) {
      const { reason, message, metadata, headers } = await ask({ token });
      assert.equal(reason, 'CREDENTIALS_INVALID');
      assert.equal(message, `cannot authenticate the caller: ${told}`);
      assert.deepEqual(metadata, cause.endsWith('expired') ? { expire_time: until } : {});
      await service.logged((line) => line['cause'] === cause && line['outcome'] === reason, from);
      assert.ok(!JSON.stringify(headers).includes(token));
    }
  });

  test('with a token marked as for development is refused in production, and the log says why; let in in development', async () => {
    const from = service.log.length;
    const marked = { claims: { keyward_development: true } };
    const cause = 'the token is for development, and KEYWARD_MODE is production';
    for (const request of [
      { token: tokenBy(key, marked) },
      { credentials: batch, token: boundTo(batch, marked) },
    ]) {
      assert.equal(await outcomeOf(request), 'CREDENTIALS_INVALID');
      await service.logged((line) => line['cause'] === cause, from);
    }
    await using own = await newEnvironment();
    await grantEverything(own.variables, ['jwt:corp/alice']);
    await using development = await startService(own, {
      KEYWARD_MODE: 'development',
      KEYWARD_ISSUERS_FILE: path('issuers.json'),
    });
    const { ca, address } = development.connectOptions();
    using client = connect({ address, ca: ca ?? '', token: tokenBy(key, marked) });
    assert.ok((await client.listTenants()).tenants.length > 0);
  });

  test('is asked who he is whatever he calls: health, and what doesn’t exist, too', async () => {
    for (const to of [
      HEALTH,
      '/grpc.health.v1.Health/Watch',
      '/keyward.v1.KeyService/Nothing',
      CREATE,
    ])
      assert.equal(await outcomeOf({ to }), 'CREDENTIALS_MISSING', to);
    assert.equal(await outcomeOf({ to: HEALTH, token: tokenBy(key) }), 'OK');
    assert.equal(await outcomeOf({ to: HEALTH, credentials: batch }), 'OK');
  });

  test('is named in the log and in the audit entry, and his token in neither', async () => {
    const from = service.log.length;
    const token = tokenBy(key, { claims: { sub: 'auditor', jti: 'id-17' } });
    assert.equal(await outcomeOf({ token, to: CREATE, message: field(1, 'audited') }), 'OK');
    const line = await service.logged(({ caller }) => caller === 'jwt:corp/auditor', from);
    assert.deepEqual(line['token'], { issuer: 'corp', subject: 'auditor', id: 'id-17' });
    const entries = await runSql<{ caller: string }>(
      environment.urls.superuser,
      "SELECT * FROM audit_entries WHERE resource = 'tenants/audited'",
    );
    assert.equal(entries[0]?.caller, 'jwt:corp/auditor');
    assert.equal(await outcomeOf({ token: `${token}x` }), 'CREDENTIALS_INVALID');
    await service.logged(({ outcome }) => outcome === 'CREDENTIALS_INVALID', from);
    const written = JSON.stringify([service.log, entries]);
    for (const part of token.split('.'))
      assert.ok(!written.includes(part), 'a part of the token was written');
  });

  test('is known by the issuer’s mapping, and bound, by the token and not by the certificate', async () => {
    const from = service.log.length;
    await ask({ credentials: batch, token: boundTo(batch, { claims: { sub: 'bound one' } }) });
    await service.logged(
      ({ caller, msg }) => caller === 'jwt:corp/bound one' && msg === 'call',
      from,
    );
  });
});

describe('what changes while the service runs', () => {
  test('case 5: a certificate that is put on the deny list is refused on its open connection, and on a new one', async () => {
    const revoked = environment.ca.issue({ subject: 'revoked', usage: 'client' });
    using session = openSession(peer(revoked));
    const next = (headers = {}) =>
      call(session, { path: LIST, headers, body: [grpcFrame(Buffer.alloc(0))] });
    const bound = { authorization: `Bearer ${boundTo(revoked)}` };
    assert.equal((await next()).status, 0);
    assert.equal((await next(bound)).status, 0);
    const { fingerprint256, serialNumber } = new X509Certificate(revoked.certPem);
    for (const line of [fingerprint256, `${serialNumber}@CN=keyward test CA`]) {
      writeFileSync(path('deny'), `${line}  # lost\n`);
      await eventually(async () => assert.equal((await next()).reason, 'CERTIFICATE_DENIED'));
      assert.equal((await next(bound)).reason, 'CERTIFICATE_DENIED', 'nor does a token help');
      assert.equal(await outcomeOf({ credentials: revoked }), 'CERTIFICATE_DENIED');
      assert.equal(await outcomeOf({ credentials: revoked, to: HEALTH }), 'CERTIFICATE_DENIED');
      assert.equal(await outcomeOf({ credentials: batch }), 'OK');
      // The second is what is left of a file that a writer found no room for.
      for (const noList of [`${line}\nnonsense\n`, '']) {
        const from = service.log.length;
        writeFileSync(path('deny'), noList);
        await service.logged(
          ({ msg }) => String(msg).startsWith('cannot reload the deny list'),
          from,
        );
        assert.equal(
          (await next()).reason,
          'CERTIFICATE_DENIED',
          'a list that is no list changes nothing',
        );
      }
      writeFileSync(path('deny'), '# none\n');
      await eventually(async () => assert.equal((await next()).status, 0));
    }
  });

  test('case 25: a key that is removed from its set has its tokens refused, also those remembered', async () => {
    const next = signingKey('file-2', 'EdDSA');
    const token = fileToken();
    assert.equal(await outcomeOf({ token }), 'OK');
    writeKeys(next);
    await eventually(async () => assert.equal(await outcomeOf({ token }), 'CREDENTIALS_INVALID'));
    assert.equal(await outcomeOf({ token: fileToken({}, next) }), 'OK');
    writeKeys(fileKey);
    await eventually(async () => assert.equal(await outcomeOf({ token }), 'OK'));
  });

  test('an issuers file that changes holds for remembered tokens too; one that doesn’t load changes nothing', async () => {
    const token = tokenBy(key);
    assert.equal(await outcomeOf({ token }), 'OK');
    const requests = endpoint.requests;
    writeIssuers({ audience: 'another' });
    await eventually(async () => assert.equal(await outcomeOf({ token }), 'CREDENTIALS_INVALID'));
    assert.equal(await outcomeOf({ token: tokenBy(key, { claims: { aud: 'another' } }) }), 'OK');
    assert.equal(endpoint.requests, requests, 'the keys stay known');
    const from = service.log.length;
    writeFileSync(path('issuers.json'), '{"issuers":[{}]}');
    await service.logged(({ msg }) => String(msg).startsWith('cannot reload the issuers'), from);
    assert.equal(await outcomeOf({ token: tokenBy(key, { claims: { aud: 'another' } }) }), 'OK');
    writeIssuers();
    await eventually(async () => assert.equal(await outcomeOf({ token }), 'OK'));
  });

  test('case 24: an endpoint that is down makes callers nobody knows UNAVAILABLE, and leaves the others', async () => {
    await using own = await startEndpoint([key]);
    const at = (claims: object = {}) =>
      tokenBy(key, { claims: { iss: 'https://late.test/', ...claims } });
    own.answer = (_, response) => response.writeHead(503).end();
    writeIssuers({ issuer: 'https://late.test/', name: 'late', jwksUrl: own.url });
    await eventually(async () =>
      assert.equal(await outcomeOf({ token: at() }), 'ISSUER_UNAVAILABLE'),
    );
    const { status, retryAfterMs } = await ask({ token: at() });
    assert.deepEqual([status, retryAfterMs], [14, 1000]);
    assert.equal(await outcomeOf({ token: fileToken() }), 'OK');
    own.answer = undefined;
    await eventually(async () => assert.equal(await outcomeOf({ token: at() }), 'OK'));
    own.answer = (_, response) => response.destroy();
    assert.equal(await outcomeOf({ token: at({ jti: 'new' }) }), 'OK');
    writeIssuers();
    await eventually(async () => assert.equal(await outcomeOf({ token: tokenBy(key) }), 'OK'));
  });
});

describe('under attack', () => {
  test('case 26: 200 tokens of unknown keys ask the endpoint once at most', async () => {
    assert.equal(await outcomeOf({ token: tokenBy(key) }), 'OK');
    const before = endpoint.requests;
    using session = openSession(peer());
    // As many at once as one address may have under way.
    for (const from of [0, 100]) {
      const tokens = Array.from({ length: 100 }, (_, i) =>
        tokenBy({ ...key, kid: `unknown-${from + i}` }),
      );
      const answers = await Promise.all(
        tokens.map((token) =>
          call(session, { path: LIST, headers: { authorization: `Bearer ${token}` } }),
        ),
      );
      for (const { reason } of answers) assert.equal(reason, 'CREDENTIALS_INVALID');
    }
    assert.ok(endpoint.requests - before <= 1);
  });

  test('a flood of invalid tokens leaves honest calls unharmed', async () => {
    const stranger = signingKey('key-1');
    const flood = async () => {
      using session = openSession(peer());
      const answers: Answer[] = [];
      for (let round = 0; round < 5; round += 1) {
        const tokens = Array.from({ length: 100 }, (_, i) =>
          tokenBy(stranger, { claims: { jti: `${round}-${i}` } }),
        );
        const calls = tokens.map((token) => ({
          path: LIST,
          headers: { authorization: `Bearer ${token}` },
        }));
        answers.push(
          ...(await Promise.all(calls.map((each) => call(session, { ...each, unfinished: true })))),
        );
      }
      return answers;
    };
    const known = tokenBy(key);
    assert.equal(await outcomeOf({ token: known }), 'OK');
    let isOver = false;
    const attack = Promise.all([flood(), flood(), flood()]).finally(() => {
      isOver = true;
    });
    // Known before: a new one shares its address with the flood until it is verified.
    let honest = 0;
    do {
      for (const request of [{ token: known }, { credentials: batch }]) {
        assert.equal(await outcomeOf(request), 'OK');
        honest += 1;
      }
    } while (!isOver);
    const reasons = new Set((await attack).flat().map(({ reason }) => reason));
    assert.ok(reasons.delete('CREDENTIALS_INVALID'));
    reasons.delete('SERVER_BUSY'); // What is more than one address's share.
    assert.deepEqual([...reasons], []);
    assert.ok(honest >= 2);
  });

  test('connections that have shown nothing make way for others; one that has is left', async () => {
    using known = openSession(peer());
    const headers = { authorization: `Bearer ${tokenBy(key)}` };
    const again = () => call(known, { path: LIST, headers, body: [grpcFrame(Buffer.alloc(0))] });
    assert.equal((await again()).status, 0);
    const strangers = Array.from({ length: 40 }, () => openSession(peer()));
    try {
      await Promise.all(
        strangers.map(
          (each) => new Promise((resolve) => each.once('connect', resolve).once('close', resolve)),
        ),
      );
      assert.equal((await again()).status, 0);
      assert.equal(await outcomeOf({ credentials: batch }), 'OK');
      assert.equal(await outcomeOf({ token: tokenBy(key) }), 'OK');
    } finally {
      for (const each of strangers) each.destroy();
    }
  });
});

describe('a server with as many calls as it takes', () => {
  // Sixteen calls of administration, of which one address alone may have eight.
  const KEYWARD_MAX_CALLS = '4';

  test('lets those who have shown who they are have the places of those who have not, and not the reverse', async () => {
    await using own = await startEndpoint([key]);
    own.answer = () => {}; // So that whoever brings a token waits.
    writeIssuers({ jwksUrl: own.url }, 'busy.json');
    await using running = await startService(environment, {
      KEYWARD_ISSUERS_FILE: path('busy.json'),
      KEYWARD_MAX_CALLS,
    });
    using strangers = openSession({ ...peer(), port: running.port });
    using known = openSession({ ...peer(batch), port: running.port });
    const wait = () =>
      call(strangers, {
        path: LIST,
        headers: { authorization: `Bearer ${tokenBy(key)}` },
        unfinished: true,
      });
    const waiting = Array.from({ length: 8 }, wait);
    await eventually(() => assert.equal(own.requests, 1));
    const honest = () => call(known, { path: LIST, body: [grpcFrame(Buffer.alloc(0))] });
    assert.equal((await honest()).status, 0);
    // The strangers have had the time that each has to show who it is.
    await sleep(100);
    const arriving = Array.from({ length: 12 }, () =>
      call(known, { path: LIST, unfinished: true }),
    );
    for (const { reason } of await Promise.all(waiting)) assert.equal(reason, 'SERVER_BUSY');
    const more = Array.from({ length: 10 }, wait);
    assert.equal((await Promise.race(more)).reason, 'SERVER_BUSY');
    assert.equal(await Promise.race([...arriving, 'still arriving']), 'still arriving');
    // One of its own gives way in the end.
    await eventually(async () => assert.equal((await honest()).status, 0));
  });

  test('counts a call by a token that it knows as its caller’s, not as its address’s', async () => {
    await using running = await startService(environment, {
      KEYWARD_ISSUERS_FILE: path('issuers.json'),
      KEYWARD_MAX_CALLS,
    });
    using session = openSession({ ...peer(), port: running.port });
    const calls = (token: string, unfinished = false) =>
      call(session, {
        path: LIST,
        headers: { authorization: `Bearer ${token}` },
        ...(unfinished ? { unfinished } : { body: [grpcFrame(Buffer.alloc(0))] }),
      });
    const known = tokenBy(key);
    assert.equal((await calls(known)).status, 0);
    // All in one write, so that none of them is refused before the last has come.
    const stranger = signingKey('key-1');
    const strangers = Array.from({ length: 12 }, (_, index) =>
      calls(tokenBy(stranger, { claims: { jti: `stranger-${index}` } }), true),
    );
    const { status, reason } = await calls(known);
    assert.deepEqual([status, reason], [0, undefined]);
    const reasons = new Set((await Promise.all(strangers)).map((each) => each.reason));
    assert.deepEqual([...reasons].sort(), ['CREDENTIALS_INVALID', 'SERVER_BUSY']);
  });
});

describe('keyward-client', () => {
  test('calls with tokens alone, and bound to its certificate, and has a refused one replaced', async () => {
    const address = `127.0.0.1:${service.port}`;
    const ca = environment.ca.certPem;
    const now = Math.floor(Date.now() / 1000);
    const given = [tokenBy(key, { now: now - 1000 }), tokenBy(key)];
    using byToken = connect({ address, ca, token: () => given.shift() ?? '', retries: 0 });
    await byToken.listTenants();
    await byToken.listTenants();
    assert.deepEqual(given, []);
    const { certPem: cert, keyPem } = batch;
    using bound = connect({ address, ca, cert, key: keyPem, token: boundTo(batch), retries: 0 });
    await bound.listTenants();
    using unbound = connect({ address, ca, cert, key: keyPem, token: tokenBy(key), retries: 0 });
    assert.equal(await reasonOf(unbound.listTenants()), 'TOKEN_NOT_BOUND');
  });
});

describe('at start', () => {
  test('an issuers file, a key file or a deny list with mistakes is refused, every mistake named', async () => {
    writeFileSync(
      path('bad.json'),
      '{"issuers":[{"name":"A"},{"name":"b","jwksFile":"/nowhere"}]}',
    );
    writeFileSync(path('nokeys.json'), '{}');
    writeIssuers({ jwksUrl: undefined, jwksFile: path('nokeys.json') }, 'keyless.json');
    writeFileSync(path('bad-deny'), 'x\n\ny\n');
    const expected: [Record<string, string>, RegExp][] = [
      [
        { KEYWARD_ISSUERS_FILE: path('bad.json') },
        /issuers\.0\.name: .*issuers\.1\.jwksFile: must name a file/s,
      ],
      [{ KEYWARD_ISSUERS_FILE: path('keyless.json') }, /nokeys\.json: must be a JSON Web Key Set/],
      [
        { KEYWARD_CERTIFICATE_DENY_FILE: path('bad-deny') },
        /bad-deny: line 1 must be a SHA-256 .*line 3 must be a SHA-256/s,
      ],
      [
        { KEYWARD_CERTIFICATE_PRINCIPAL: 'email' },
        /KEYWARD_CERTIFICATE_PRINCIPAL must be one of spiffe-then-subject/,
      ],
    ];
    for (const [variables, message] of expected) {
      const { code, output } = await runCommand(environment, ['serve'], variables);
      assert.equal(code, 1);
      assert.match(output, message);
    }
  });
});

describe('without issuers', () => {
  test('a certificate is required, and a token beside it refused rather than passed over', async () => {
    await using own = await newEnvironment();
    await grantEverything(own.variables, ['spiffe://keyward.test/a']);
    await using running = await startService(own, { KEYWARD_CERTIFICATE_PRINCIPAL: 'spiffe' });
    const at = (credentials?: Credentials): Peer => ({
      ...peer(credentials),
      port: running.port,
      ca: own.ca.certPem,
    });
    const named = own.ca.issue({
      subject: 'a',
      usage: 'client',
      uris: ['spiffe://keyward.test/a'],
    });
    const unnamed = own.ca.issue({ subject: 'a', usage: 'client' });
    const reasonWith = async (credentials?: Credentials, headers = {}) => {
      using session = openSession(at(credentials));
      const { status, reason } = await call(session, {
        path: LIST,
        headers,
        body: [grpcFrame(Buffer.alloc(0))],
      });
      return status === 0 ? 'OK' : (reason ?? 'closed');
    };
    assert.equal(await reasonWith(named), 'OK');
    assert.equal(await reasonWith(), 'closed');
    assert.equal(await reasonWith(unnamed), 'CREDENTIALS_INVALID');
    assert.equal(
      await reasonWith(named, { authorization: `Bearer ${tokenBy(key)}` }),
      'CREDENTIALS_INVALID',
    );
  });
});
