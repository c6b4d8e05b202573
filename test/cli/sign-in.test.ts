/**
 * `keyward login` and what comes after: the real command at the provider of `npm start`, on a real
 * service.
 */
import assert from 'node:assert/strict';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import type { KeptSignIn } from '../../cli/src/kept-sign-ins.ts';
import { openIssuers } from '../../dev/issuers.ts';
import { CLIENT_ID, RESOURCE } from '../../dev/people.ts';
import { type DevelopmentProvider, startProvider } from '../../dev/provider.ts';
import { type Environment, newEnvironment, type Service, startService } from '../support/kit.ts';
import { type Act, Reader, signingIn } from './browser.ts';
import { runHere } from './here.ts';
import { type Outcome, run } from './run.ts';

const ALICE = 'jwt:dev-sign-in/alice';

let environment: Environment;
let provider: DevelopmentProvider;
let service: Service;
/** Of a user who has signed in nowhere. */
let home: string;
let profile: Readonly<Record<string, string>>;

before(async () => {
  environment = await newEnvironment();
  const inside = (name: string) => join(environment.directory, name);
  provider = await startProvider({ folder: inside('provider'), port: 0 });
  const { file } = openIssuers(inside('issuers'), provider.issuer);
  service = await startService(environment, {
    KEYWARD_MODE: 'development',
    KEYWARD_ISSUERS_FILE: file,
  });
});

after(async () => {
  await service?.stop();
  await provider?.[Symbol.asyncDispose]();
  await environment?.[Symbol.asyncDispose]();
});

beforeEach(() => {
  home = mkdtempSync(join(environment.directory, 'home-'));
  profile = {
    address: `127.0.0.1:${service.port}`,
    caFile: join(environment.directory, 'ca.pem'),
    issuer: provider.issuer,
    clientId: CLIENT_ID,
    resource: RESOURCE,
  };
  writeProfile(profile);
});

function writeProfile(settings: object, folder = join(home, '.config', 'keyward')): void {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const content = { default: 'me', profiles: { me: settings } };
  writeFileSync(join(folder, 'profiles.json'), JSON.stringify(content), { mode: 0o600 });
}

const keyward = (...args: string[]) => runHere(args, { cwd: home });
/** Where connections that are kept open would matter, and for several at once. */
const asProcess = (...args: string[]) => run(args, { cwd: home });

/** Runs a command that asks somebody to sign in, while they do. */
async function meanwhile(args: readonly string[], act: Act): Promise<Outcome> {
  const reader = new Reader(act);
  const outcome = await run(args, { cwd: home, heard: reader.heard });
  await reader.done();
  return outcome;
}

const login = (...args: string[]) =>
  meanwhile(['login', '--no-browser', ...args], signingIn({ person: 'alice' }));

function signInFile(): string {
  const folder = join(home, '.config', 'keyward', 'sign-ins');
  const [name = '', ...others] = readdirSync(folder);
  assert.deepEqual(others, []);
  return join(folder, name);
}

const kept = (): KeptSignIn => JSON.parse(readFileSync(signInFile(), 'utf8'));

/** Changes what is kept as time or another program would. */
function change(changes: (before: KeptSignIn) => object): void {
  const before = kept();
  const text = JSON.stringify({ ...before, ...changes(before) });
  writeFileSync(signInFile(), text, { mode: 0o600 });
}

const expire = () =>
  change(({ token }) => ({ token: token && { ...token, expiresAt: Date.now() - 1 } }));

function claimsOf(token = ''): Readonly<Record<string, unknown>> {
  return JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString());
}

describe('keyward login', () => {
  it('signs in with a browser, and its profile needs no token file from then on', async () => {
    const before = await keyward('whoami');
    assert.equal(before.code, 2);
    assert.match(
      before.stderr,
      /you are not signed in with the profile me .* "keyward login --pro/,
    );
    const { code, stdout, stderr } = await login();
    assert.equal(code, 0, stderr);
    assert.match(stdout, new RegExp(`^Signed in as ${ALICE}\\.\n.* renewed after that\\.\n$`));
    assert.match(stderr, new RegExp(`^Signing in at ${provider.issuer}, to call 127\\.0\\.0\\.1`));
    const whoami = await keyward('whoami');
    assert.deepEqual([whoami.code, whoami.stderr], [0, '']);
    assert.match(whoami.stdout, new RegExp(ALICE));
    assert.match(whoami.stdout, /dev-sign-in\/administrators/);
  });

  it('keeps tokens for the user’s eyes only, and shows none', async () => {
    const { stdout, stderr } = await login('--output', 'json');
    assert.deepEqual(Object.keys(JSON.parse(stdout)), ['caller', 'expireTime']);
    assert.equal(statSync(signInFile()).mode & 0o777, 0o600);
    assert.equal(statSync(join(signInFile(), '..')).mode & 0o777, 0o700);
    const { token, refreshToken = '' } = kept();
    assert.ok(token !== undefined && refreshToken !== '');
    for (const secret of [token.text, refreshToken])
      assert.ok(!`${stdout}${stderr}`.includes(secret));
    chmodSync(signInFile(), 0o640);
    const refused = await keyward('whoami');
    assert.equal(refused.code, 2);
    assert.match(refused.stderr, /cannot use \S+sign-ins\S+: others can read it; chmod 600 it/);
  });

  it('gets a token for the service alone, with how the person signed in', async () => {
    await meanwhile(['login', '--no-browser'], signingIn({ person: 'bob', factors: 'two' }));
    const claims = claimsOf(kept().token?.text);
    assert.deepEqual(
      [claims['sub'], claims['aud'], claims['acr'], claims['amr'], claims['groups']],
      ['bob', 'keyward', 'multi-factor', ['pwd', 'otp', 'mfa'], ['administrators']],
    );
    const age = Date.now() / 1000 - Number(claims['auth_time']);
    assert.ok(age >= -5 && age < 600, String(age));
  });

  it('takes no answer but the one with its state', async () => {
    const answers: string[] = [];
    const { code, stderr } = await meanwhile(['login', '--no-browser'], async (url, browser) => {
      const answer = await browser.signIn(url, { person: 'alice' });
      const forged = ['', 'guessed'].map((state) => {
        const url = new URL(answer);
        url.searchParams.set('state', state);
        return url;
      });
      const elsewhere = new URL(answer.href.replace('/callback', '/favicon.ico'));
      const strays = [...forged, elsewhere, new URL(`${answer.origin}//`)];
      for (const response of await Promise.all(strays.map((stray) => fetch(stray))))
        answers.push(`${response.status} ${await response.text()}`);
      answers.push(String((await fetch(answer)).status));
    });
    assert.equal(code, 0, stderr);
    const refused = '400 This is not an answer that the keyward command waits for.\n';
    assert.deepEqual(answers, [refused, refused, refused, refused, '200']);
  });

  it('refuses the answer of another issuer, and keeps nothing', async () => {
    const { code, stderr } = await meanwhile(
      ['login', '--no-browser'],
      signingIn({ person: 'alice' }, (answer) => {
        answer.searchParams.set('iss', 'https://login.example.com');
        return answer;
      }),
    );
    assert.deepEqual([code, /unexpected "iss"/.test(stderr)], [1, true], stderr);
    assert.match((await keyward('whoami')).stderr, /you are not signed in/);
  });

  it('refuses an answer whose code another sign-in began', async () => {
    const { code, stderr } = await meanwhile(['login', '--no-browser'], async (url, browser) => {
      const other = new URL(url);
      other.searchParams.set('code_challenge', 'A'.repeat(43));
      await fetch(await browser.signIn(other.href, { person: 'alice' }));
    });
    assert.deepEqual([code, /refused: invalid_grant/.test(stderr)], [1, true], stderr);
  });

  it('reports that nobody signed in', async () => {
    const { code, stderr } = await meanwhile(['login', '--no-browser'], signingIn({ person: '' }));
    assert.equal(code, 1);
    assert.match(stderr, /\nkeyward: \S+ refused: access_denied: nobody signed in\n$/);
  });

  it('signs in by a code, in a browser on any machine', async () => {
    let shown = '';
    const { code, stderr } = await meanwhile(['login', '--device'], async (url, browser) => {
      const { html } = await browser.confirmDevice(url, { person: 'carol' });
      shown = html;
    });
    assert.equal(code, 0, stderr);
    assert.match(stderr, /where the code must be [A-Z]{4}-[A-Z]{4}:\n/);
    assert.match(shown, /Signed in/);
    assert.match((await keyward('whoami')).stdout, /jwt:dev-sign-in\/carol/);
    const { flow, token } = kept();
    assert.deepEqual([flow, claimsOf(token?.text)['aud']], ['device', 'keyward']);
  });

  it('wants a profile with an issuer that can be trusted on the way', async () => {
    const { issuer: _, clientId: __, resource: ___, ...without } = profile;
    writeProfile({ ...without, tokenFile: 'token' });
    writeFileSync(join(home, '.config', 'keyward', 'token'), 'a.b.c', { mode: 0o600 });
    assert.match((await keyward('login')).stderr, /the profile in use has no issuer/);
    const cases: [changes: object, refused: RegExp][] = [
      [{ issuer: 'http://login.example.com' }, /an issuer is https:\/\/, or http:\/\/ on a loop/],
      [{ issuer: 'login' }, /an issuer is https:\/\//],
      [{ redirectUri: 'http://example.com/' }, /redirectUri is http:\/\/ on localhost/],
      [{ clientId: undefined }, /it has issuer, but no clientId/],
      [{ tokenFile: 'token' }, /it has both issuer and tokenFile/],
      [{ scopes: 'offline_access' }, /its scopes must have openid/],
    ];
    for (const [changes, refused] of cases) {
      writeProfile({ ...profile, ...changes });
      const { code, stderr } = await keyward('login', '--no-browser');
      assert.deepEqual([code, refused.test(stderr)], [2, true], stderr);
    }
  });
});

describe('a sign-in', () => {
  it('is renewed when its token is about to expire', async () => {
    await login();
    const first = kept();
    expire();
    assert.equal((await keyward('whoami')).code, 0);
    const renewed = kept();
    assert.notEqual(renewed.token?.text, first.token?.text);
    assert.notEqual(renewed.refreshToken, first.refreshToken, 'the provider rotates them');
    assert.equal(
      claimsOf(renewed.token?.text)['auth_time'],
      claimsOf(first.token?.text)['auth_time'],
      'renewing is no signing in',
    );
    await keyward('whoami');
    assert.equal(kept().token?.text, renewed.token?.text, 'and used until then');
  });

  it('is renewed once by commands that run at once, and each goes on', async () => {
    await login();
    for (let round = 0; round < 2; round += 1) {
      expire();
      const runs = Array.from({ length: 3 }, () => asProcess('whoami'));
      const outcomes = await Promise.all(runs);
      // A refresh token that is used twice ends the whole sign-in at this provider.
      assert.deepEqual(
        outcomes.map(({ code, stderr }) => [code, stderr]),
        [0, 0, 0].map((code) => [code, '']),
      );
    }
  });

  it('is renewed in spite of a lock that a killed command left', async () => {
    await login();
    expire();
    const lock = `${signInFile()}.lock`;
    writeFileSync(lock, '');
    const longAgo = new Date(Date.now() - 3_600_000);
    utimesSync(lock, longAgo, longAgo);
    const { code, stderr } = await keyward('whoami');
    assert.deepEqual([code, existsSync(lock)], [0, false], stderr);
  });

  it('ends where the provider does not renew it: the command asks to sign in again', async () => {
    await login();
    expire();
    change(() => ({ refreshToken: 'withdrawn' }));
    const refused = await keyward('whoami');
    assert.equal(refused.code, 2);
    assert.match(
      refused.stderr,
      /cannot call as the profile me: \S+ refused: invalid_grant.*; sign in again with "keyward lo/,
    );
    assert.match((await keyward('whoami')).stderr, /you are not signed in/);
  });

  it('is forgotten and revoked by keyward logout', async () => {
    await login();
    const { refreshToken = '' } = kept();
    assert.equal(
      (await keyward('logout')).stdout,
      'Signed out; the provider has revoked the sign-in.\n',
    );
    assert.equal((await keyward('logout')).stdout, 'There was no sign-in.\n');
    assert.match((await keyward('whoami')).stderr, /you are not signed in/);
    const body = { grant_type: 'refresh_token', client_id: CLIENT_ID, refresh_token: refreshToken };
    const answer = await fetch(`${provider.issuer}/token`, {
      method: 'POST',
      body: new URLSearchParams(body),
    });
    assert.match(await answer.text(), /invalid_grant/);
  });

  it('is for the address, the CA and the issuer that it was made for', async () => {
    await login();
    const elsewhere = await keyward('whoami', '--address', 'localhost:1');
    assert.equal(elsewhere.code, 2);
    assert.match(
      elsewhere.stderr,
      /cannot call localhost:1: you are not signed in .* these settings/,
    );
    for (const changes of [
      { address: `localhost:${service.port}` },
      { serverName: 'localhost' },
      { issuer: 'https://login.example.com' },
      { clientId: 'another' },
    ]) {
      writeProfile({ ...profile, ...changes });
      const { code, stderr } = await keyward('whoami');
      assert.deepEqual([code, /you are not signed in/.test(stderr)], [2, true], stderr);
    }
    writeProfile(profile);
    assert.equal((await keyward('whoami')).code, 0);
  });

  it('gives way to a token or certificate that a flag names', async () => {
    await login();
    writeFileSync(join(home, 'token'), 'not.a.token', { mode: 0o600 });
    const { code, stderr } = await keyward('whoami', '--token-file', join(home, 'token'));
    assert.equal(code, 1);
    assert.match(stderr, /CREDENTIALS_INVALID/);
  });

  it('with a folder’s profile needs the folder to be allowed', async () => {
    const folder = mkdtempSync(join(environment.directory, 'clone-'));
    const user = mkdtempSync(join(environment.directory, 'home-'));
    writeProfile(profile, join(folder, '.keyward'));
    const inFolder = (...args: string[]) => runHere(args, { cwd: folder, env: { HOME: user } });
    const refused = await inFolder('login', '--no-browser');
    assert.deepEqual([refused.code, /have not allowed it/.test(refused.stderr)], [2, true]);
    await inFolder('profiles', 'allow');
    assert.match((await inFolder('whoami')).stderr, /you are not signed in/);
  });

  it('outlasts a new start of the provider', async () => {
    await login();
    const { port } = new URL(provider.issuer);
    await provider[Symbol.asyncDispose]();
    expire();
    const meanwhile = await asProcess('whoami');
    assert.deepEqual(
      [meanwhile.code, /cannot use http:\/\/\S+: connect ECONNREFUSED/.test(meanwhile.stderr)],
      [1, true],
      meanwhile.stderr,
    );
    const folder = join(environment.directory, 'provider');
    provider = await startProvider({ folder, port: Number(port) });
    const { code, stderr } = await asProcess('whoami');
    assert.equal(code, 0, stderr);
  });
});

// The last: it starts the service for production.
describe('a service in production', () => {
  it('refuses what the development provider gives, and the command keeps nothing', async () => {
    await service.stop();
    service = await startService(environment, {
      KEYWARD_ISSUERS_FILE: join(environment.directory, 'issuers', 'issuers.json'),
    });
    writeProfile({ ...profile, address: `127.0.0.1:${service.port}` });
    const { code, stderr } = await login();
    assert.equal(code, 1);
    assert.match(stderr, /cannot sign in: \S+ does not accept the provider's token \(CREDENTIALS_/);
    await service.logged(({ cause }) => /the token is for development/.test(String(cause)));
    assert.match((await keyward('whoami')).stderr, /you are not signed in/);
  });
});
