/**
 * The sign-off page in real Chromium, with a virtual authenticator: what it shows is what is
 * signed, and it sends its answer to the command alone.
 */
import assert from 'node:assert/strict';
import { createHash, createPrivateKey, createPublicKey, randomUUID, verify } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type Answer, type Order, signOff } from '../../../cli/src/sign-off.ts';
import { challengeOf } from '../../../src/hsm/approval-records.ts';
import type { EnvironmentId, OperationId } from '../../../src/ids.ts';
import { AUDIENCE, ISSUER, signingKey } from '../../access/issuer.ts';
import { Chromium, type Page, WITHOUT_CHROMIUM } from '../../support/chromium.ts';
import { type Environment, newEnvironment, type Service, startService } from '../../support/kit.ts';
import { ask, HTTP_VERSIONS } from './client.ts';

const HOST = 'keyward.example.com';
/** Kept after the run, to be looked at. */
const PICTURES = join(import.meta.dirname, '..', '..', '..', '.keyward');

let environment: Environment;
let service: Service;
before(async () => {
  environment = await newEnvironment();
  // With it, callers need no certificate.
  const issuersFile = join(environment.directory, 'issuers.json');
  const jwksFile = join(environment.directory, 'jwks.json');
  writeFileSync(jwksFile, JSON.stringify({ keys: [signingKey('k').jwk] }));
  const issuer = { name: 'corp', issuer: ISSUER, audience: AUDIENCE, algorithms: ['ES256'] };
  writeFileSync(issuersFile, JSON.stringify({ issuers: [{ ...issuer, jwksFile }] }));
  service = await startService(environment, {
    KEYWARD_HTTP_LISTEN: '127.0.0.1:0',
    KEYWARD_ISSUERS_FILE: issuersFile,
    KEYWARD_RELYING_PARTY_ID: HOST,
  });
});
after(async () => {
  await service?.stop();
  await environment?.[Symbol.asyncDispose]();
});

const pageUrl = (host = HOST) => `https://${host}:${service.httpPort}/sign-off`;

/** A request as the service keeps it (RFC 8785). */
const REQUEST = { etag: 'abc', name: 'tenants/acme/keys/orders', window: '2592000s' };

const base64url = (text: string | Uint8Array) => Buffer.from(text).toString('base64url');

interface Decision {
  readonly decision?: 'approve' | 'reject';
  readonly request?: object | string;
  readonly method?: string;
  readonly requester?: string;
  readonly expireTime?: string;
  readonly credentialIds?: readonly string[];
}

/** Returns an order to decide on an operation. */
function decide({ request = REQUEST, ...given }: Decision = {}) {
  const text = typeof request === 'string' ? request : JSON.stringify(request);
  return {
    kind: 'decide',
    environmentId: randomUUID(),
    operation: {
      name: `tenants/acme/pendingOperations/${randomUUID()}`,
      method: given.method ?? 'keyward.v1.KeyService/DestroyKey',
      requester: given.requester ?? 'jwt:corp/alice',
      request: base64url(text),
      expireTime: given.expireTime ?? new Date(Date.now() + 86_400_000).toISOString(),
    },
    decision: given.decision ?? ('approve' as const),
    credentialIds: given.credentialIds ?? [],
    rpId: HOST,
  };
}

/** Returns an order to make a passkey. */
function register(excludeCredentials: readonly object[] = []) {
  const creationOptions = {
    rp: { id: HOST, name: 'Keyward' },
    user: { id: base64url('alice'), name: 'jwt:corp/alice', displayName: 'jwt:corp/alice' },
    challenge: base64url('a challenge of the service'),
    pubKeyCredParams: [-7, -257].map((alg) => ({ type: 'public-key', alg })),
    authenticatorSelection: { residentKey: 'required', userVerification: 'required' },
    excludeCredentials,
  };
  return { kind: 'register', creationOptions };
}

/** Returns the challenge that the service wants signed for a decision. */
function challengeFor({ environmentId, operation, decision }: ReturnType<typeof decide>): string {
  const { name, method, request, requester, expireTime } = operation;
  return challengeOf({
    environmentId: environmentId as EnvironmentId,
    operationId: (name.split('/')[3] ?? '') as OperationId,
    requestDigest: createHash('sha256').update(Buffer.from(request, 'base64url')).digest(),
    ...{ method, requester, decision },
    expiresAt: new Date(expireTime),
  }).toString('base64url');
}

/** Has the command wait for an answer to an order, and opens the page by the URL that it prints. */
async function show(page: Page, order: Order): Promise<{ readonly answer: Promise<Answer> }> {
  let answer: Promise<Answer> | undefined;
  const told = await new Promise<string>((tell) => {
    answer = signOff(pageUrl(), order, { browser: false, withinMs: 30_000, tell });
    // Not every test has it come to an answer.
    answer.catch(() => {});
  });
  await page.load(/https:\S+/.exec(told)?.[0] ?? '');
  if (answer === undefined) throw new Error('the command waits for nothing');
  return { answer };
}

/** Opens the page with a fragment that no command has made. */
const showRaw = (page: Page, order: object) =>
  page.load(`${pageUrl()}#${base64url(JSON.stringify(order))}`);

describe('the sign-off page', { skip: WITHOUT_CHROMIUM }, () => {
  let browser: Chromium | undefined;
  before(async () => {
    browser = await Chromium.start({
      directory: join(environment.directory, 'chromium'),
      certificate: readFileSync(environment.variables['KEYWARD_TLS_CERT_FILE'] ?? '', 'utf8'),
      hosts: [HOST, 'elsewhere.example'],
    });
  });
  after(() => browser?.[Symbol.asyncDispose]());

  async function newPage(isUserVerified = true): Promise<Page & { authenticator: string }> {
    if (browser === undefined) throw new Error('the browser is there only while tests run');
    const page = await browser.open();
    return Object.assign(page, { authenticator: await page.addAuthenticator({ isUserVerified }) });
  }

  /** Makes a passkey by the page; returns the command's answer. */
  async function made(page: Page): Promise<Answer> {
    const { answer } = await show(page, register());
    await page.text(/jwt:corp\/alice/);
    await page.press(/Make a passkey/);
    return answer;
  }

  test('a passkey is made, and signs exactly the decision that is shown', async () => {
    const page = await newPage();
    const registered = await made(page);
    await page.text(/The keyward command has your answer/);
    const credentialId = registered.get('credentialId') ?? '';
    const clientData = JSON.parse(
      String(Buffer.from(registered.get('clientDataJson') ?? '', 'base64url')),
    );
    assert.equal(clientData.type, 'webauthn.create');
    assert.equal(clientData.challenge, base64url('a challenge of the service'));
    assert.equal(registered.get('transports'), 'internal');
    assert.ok(registered.get('attestationObject'));

    for (const decision of ['approve', 'reject'] as const) {
      const order = decide({ decision, credentialIds: [credentialId] });
      const { answer } = await show(page, order);
      const text = await page.text(/tenants\/acme\/keys\/orders/);
      for (const shown of ['DestroyKey', 'jwt:corp/alice', '2592000s', order.environmentId])
        assert.ok(text.includes(shown), shown);
      mkdirSync(PICTURES, { recursive: true });
      await page.picture(join(PICTURES, `sign-off-${decision}.png`));
      await page.press(decision === 'approve' ? /^Approve with/ : /^Reject with/);
      await assertSigned(page, await answer, order);
    }
    assert.deepEqual(page.notes, []);
  });

  /** Verifies an assertion by the authenticator's own key. */
  async function assertSigned(
    page: Page & { authenticator: string },
    answer: Answer,
    order: ReturnType<typeof decide>,
  ): Promise<void> {
    const bytes = (field: string) => Buffer.from(answer.get(field) ?? '', 'base64url');
    const clientData = JSON.parse(String(bytes('clientDataJson')));
    assert.equal(clientData.type, 'webauthn.get');
    assert.equal(clientData.challenge, challengeFor(order));
    assert.equal(clientData.origin, new URL(pageUrl()).origin);
    const authenticatorData = bytes('authenticatorData');
    assert.equal((authenticatorData[32] ?? 0) & 0b101, 0b101, 'present and verified');
    const { credentials } = await page.send('WebAuthn.getCredentials', {
      authenticatorId: page.authenticator,
    });
    const [{ privateKey }] = credentials as [{ privateKey: string }];
    const key = createPrivateKey({
      key: Buffer.from(privateKey, 'base64'),
      format: 'der',
      type: 'pkcs8',
    });
    const digest = createHash('sha256').update(bytes('clientDataJson')).digest();
    const signed = Buffer.concat([authenticatorData, digest]);
    assert.ok(verify('sha256', signed, createPublicKey(key), bytes('signature')));
  }

  test('an authenticator that does not verify the person makes nothing', async () => {
    const page = await newPage(false);
    await show(page, register());
    await page.press(/Make a passkey/);
    await page.text(/could not verify that it is you/);
    await page.press(/Cancel/);
  });

  test('an authenticator that no longer verifies the person signs nothing', async () => {
    const page = await newPage();
    const registered = await made(page);
    await page.send('WebAuthn.setUserVerified', {
      authenticatorId: page.authenticator,
      isUserVerified: false,
    });
    await show(page, decide({ credentialIds: [registered.get('credentialId') ?? ''] }));
    await page.press(/^Approve with/);
    await page.text(/could not verify that it is you/);
    await page.press(/Cancel/);
  });

  test('cancelling tells the command', async () => {
    const page = await newPage();
    const { answer } = await show(page, decide());
    const failed = assert.rejects(answer, /you cancelled in the browser/);
    await page.press(/Cancel/);
    await failed;
  });

  test('markup in values is text, and what could mislead is shown as its code', async () => {
    const page = await newPage();
    const attack = '<img src=x onerror="document.title=1"><script>document.title=2</script>';
    await showRaw(page, {
      v: 1,
      ...decide({
        requester: `jwt:corp/${attack}`,
        request: {
          labels: { '<b>': 'y', 'a.b': 'x' },
          name: `tenants/acme\u202egnp.exe`,
          note: 'two\nlines\u200b\u00a0end ',
          tags: ['', attack],
        },
      }),
      returnTo: `http://127.0.0.1:9/${'a'.repeat(32)}`,
    });
    const text = await page.text(/pendingOperations|DestroyKey/);
    for (const shown of [attack, 'labels["a.b"]', 'labels["<b>"]', 'tags[1]', 'empty', 'space'])
      assert.ok(text.includes(shown), shown);
    for (const code of ['U+202E', 'U+000A', 'U+200B', 'U+00A0'])
      assert.ok(text.includes(code), code);
    assert.equal(await page.evaluate('document.title'), 'Keyward: Approve DestroyKey?');
    assert.equal(await page.evaluate('document.querySelectorAll("img, b, script").length'), 1);
    await page.picture(join(PICTURES, 'sign-off-attack.png'));
    assert.deepEqual(page.notes, []);
  });

  test('nothing runs, loads or connects that is not the page’s own', async () => {
    const page = await newPage();
    await showRaw(page, { v: 1, ...decide(), returnTo: `http://127.0.0.1:9/${'a'.repeat(32)}` });
    await page.text(/DestroyKey/);
    const stopped = await page.evaluate(`(async () => {
      const script = document.createElement('script');
      const outcomes = [];
      try { script.text = 'document.title = "run"'; } catch { outcomes.push('no script text'); }
      document.body.append(script);
      try { document.body.innerHTML = '<p>'; } catch { outcomes.push('no markup'); }
      await fetch('/sign-off').catch(() => outcomes.push('no fetch'));
      const image = new Image();
      await new Promise((resolve) => {
        image.onload = resolve;
        image.onerror = () => resolve(outcomes.push('no image'));
        image.src = '/favicon.ico';
      });
      const form = document.createElement('form');
      Object.assign(form, { action: 'https://elsewhere.example/', method: 'post' });
      document.body.append(form);
      addEventListener('securitypolicyviolation', ({ effectiveDirective }) =>
        outcomes.push(effectiveDirective));
      form.submit();
      await new Promise((resolve) => setTimeout(resolve, 0));
      while (!outcomes.includes('form-action')) await new Promise((go) => setTimeout(go, 10));
      return outcomes;
    })()`);
    const all = ['no script text', 'no markup', 'no fetch', 'no image', 'form-action'];
    assert.deepEqual(stopped, all);
    assert.notEqual(await page.evaluate('document.title'), 'run');
    const own = new URL(pageUrl()).origin;
    assert.ok(page.requested.every((url) => url.startsWith(own) || url === 'about:blank'));
  });

  for (const returnTo of [
    'https://elsewhere.example/a',
    'http://127.0.0.1.elsewhere.example:80/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',
    'http://127.0.0.1:80@elsewhere.example/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',
    'http://localhost:80/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',
    'javascript:alert(1)',
    undefined,
  ])
    test(`an answer is not sent to ${returnTo ?? 'nowhere'}`, async () => {
      const page = await newPage();
      await showRaw(page, { v: 1, ...decide(), returnTo });
      await page.text(/would send the answer elsewhere/);
      assert.equal(await page.evaluate("document.getElementById('content').hidden"), true);
    });

  for (const [what, request] of [
    ['has a field twice', '{"name":"tenants/acme/keys/a","name":"tenants/acme/keys/b"}'],
    ['has spaces', '{"name": "tenants/acme/keys/a"}'],
    ['has its fields in another order', '{"name":"a","etag":"b"}'],
    ['has escapes that are not needed', '{"name":"\\u0061"}'],
  ] as const)
    test(`a request that ${what} is not signed`, async () => {
      const page = await newPage();
      const returnTo = `http://127.0.0.1:9/${'a'.repeat(32)}`;
      await showRaw(page, { v: 1, ...decide({ request }), returnTo });
      await page.text(/not in its canonical form/);
    });

  test('what has expired is not signed', async () => {
    const page = await newPage();
    await show(page, decide({ expireTime: new Date(Date.now() - 1_000).toISOString() }));
    await page.press(/^Approve with/);
    await page.text(/It has expired/);
    await page.press(/Cancel/);
  });

  test('without a fragment, or with a damaged one, it tells where to begin', async () => {
    const page = await newPage();
    await page.load(pageUrl());
    await page.text(/by the link that the keyward command prints/);
    await page.load(`${pageUrl()}#${base64url('{')}`);
    await page.text(/The link to this page is damaged/);
  });
});

for (const version of HTTP_VERSIONS)
  describe(`GET /sign-off over ${version}`, () => {
    const peer = () => ({
      port: service.httpPort,
      ca: environment.ca.certPem,
    });

    test('is answered without a certificate, with a policy that allows nothing else', async () => {
      const get = { path: '/sign-off', method: 'GET' };
      const { status, headers, body } = await ask(peer(), version, get);
      assert.equal(status, 200);
      const policy = String(headers['content-security-policy']);
      assert.match(policy, /^default-src 'none'; script-src 'sha256-[^ ]+'; style-src 'sha256-/);
      assert.doesNotMatch(policy, /unsafe/);
      assert.equal(headers['referrer-policy'], 'no-referrer');
      assert.equal(headers['cache-control'], 'no-store');
      assert.equal(headers['set-cookie'], undefined);
      assert.match(String(body), /^<!doctype html>/);
    });

    test('is the only page, and takes no other method', async () => {
      for (const [method, path] of [
        ['POST', '/sign-off'],
        ['GET', '/sign-off/'],
        ['GET', '/sign-off?a=b'],
        ['GET', '/'],
      ] as const) {
        const { status } = await ask(peer(), version, { method, path, headers: {} });
        assert.equal(status, 404, `${method} ${path}`);
      }
    });
  });
