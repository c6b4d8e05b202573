/**
 * A call that wants a stronger sign-in: the real command at a terminal and without one, on a real
 * service whose rules want a second factor.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, beforeEach, test } from 'node:test';
import type { KeptSignIn } from '../../cli/src/kept-sign-ins.ts';
import { openIssuers } from '../../dev/issuers.ts';
import { CLIENT_ID, RESOURCE, SIGN_IN_ISSUER } from '../../dev/people.ts';
import { type DevelopmentProvider, startProvider } from '../../dev/provider.ts';
import { COMPILED, programFrom } from '../support/compiled.ts';
import { type Environment, newEnvironment, type Service, startService } from '../support/kit.ts';
import { TESTER } from '../support/tester.ts';
import { type Act, Reader, type SigningIn, signingIn } from './browser.ts';
import { runHere } from './here.ts';
import { run } from './run.ts';

const MAIN = programFrom('cli/src/main.ts');
const KEY = 'tenants/acme/keys/k';

let environment: Environment;
let provider: DevelopmentProvider;
let service: Service;
/** Of a person who has signed in with one factor. */
let home: string;

before(async () => {
  environment = await newEnvironment();
  const inside = (name: string) => join(environment.directory, name);
  provider = await startProvider({ folder: inside('provider'), port: 0 });
  const { file } = openIssuers(inside('issuers'), provider.issuer);
  service = await startService(environment, {
    KEYWARD_MODE: 'development',
    KEYWARD_ISSUERS_FILE: file,
  });
  const keyward = service.client();
  await keyward.createTenant({ tenantId: 'acme' });
  await keyward.createKey({ parent: 'tenants/acme', keyId: 'k' });
  await keyward.createRoleBinding({
    parent: 'tenants/acme',
    roleBindingId: 'administrators',
    roleBinding: { group: `${SIGN_IN_ISSUER}/administrators`, role: 'roles/keyAdmin' },
  });
  const rule = { permissions: ['keys.rotate'], acrValues: ['multi-factor'], amrValues: ['mfa'] };
  await keyward.updateApprovalRules({
    approvalRules: {
      name: 'tenants/acme/approvalRules',
      stepUpRules: [{ ...rule, maxAgeSeconds: 900, exemptPrincipals: [TESTER] }],
    },
  });
});

after(async () => {
  await service?.stop();
  await provider?.[Symbol.asyncDispose]();
  await environment?.[Symbol.asyncDispose]();
});

beforeEach(async () => {
  home = mkdtempSync(join(environment.directory, 'home-'));
  const folder = join(home, '.config', 'keyward');
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const me = {
    address: `127.0.0.1:${service.port}`,
    caFile: join(environment.directory, 'ca.pem'),
    issuer: provider.issuer,
    clientId: CLIENT_ID,
    resource: RESOURCE,
  };
  const content = { default: 'me', profiles: { me } };
  writeFileSync(join(folder, 'profiles.json'), JSON.stringify(content), { mode: 0o600 });
  await login([], { person: 'alice' });
});

const keyward = (...args: string[]) => runHere(args, { cwd: home });

async function login(args: readonly string[], by: SigningIn): Promise<void> {
  const reader = new Reader(signingIn(by));
  const { code, stderr } = await run(['login', '--no-browser', ...args], {
    cwd: home,
    heard: reader.heard,
  });
  await reader.done();
  assert.equal(code, 0, stderr);
}

/** Runs the command at a terminal, at which the person does what it asks. */
async function atTerminal(args: readonly string[], act: Act) {
  const reader = new Reader(act);
  const command = [process.execPath, MAIN, ...args].map((word) => `'${word}'`).join(' ');
  const child = spawn('script', ['-qefc', command, '/dev/null'], {
    cwd: home,
    env: { PATH: process.env['PATH'], HOME: home, ...COMPILED },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let shown = '';
  child.stdout.on('data', (chunk: Buffer) => {
    shown += chunk.toString().replaceAll('\r', '');
    reader.heard(shown);
  });
  const [code, trouble] = await Promise.all([
    new Promise<number | null>((resolve) => child.once('close', resolve)),
    text(child.stderr),
  ]);
  assert.equal(trouble, '');
  await reader.done();
  return { code, shown };
}

const primary = async () =>
  (await service.client().getKey({ name: KEY })).primary.name.split('/').at(-1);

/** What `work` adds to the number of the key's versions. */
async function versionsAddedBy(work: () => Promise<unknown>): Promise<number> {
  const before = Number(await primary());
  await work();
  return Number(await primary()) - before;
}

function signInFile(): string {
  const folder = join(home, '.config', 'keyward', 'sign-ins');
  const [name = ''] = readdirSync(folder);
  return join(folder, name);
}

const kept = (): KeptSignIn => JSON.parse(readFileSync(signInFile(), 'utf8'));

const claimsOf = (token = '') =>
  JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString());

test('the command signs in again by itself, and goes on with the call', async () => {
  const before = kept();
  const added = await versionsAddedBy(async () => {
    const { code, shown } = await atTerminal(
      ['keys', 'rotate', KEY],
      signingIn({ person: 'alice', factors: 'two' }),
    );
    assert.equal(code, 0, shown);
    assert.match(
      shown,
      /^The call wants a sign-in with acr multi-factor by mfa at most 15m old\.\nSigning in at /,
    );
    assert.match(shown, /acr_values=multi-factor\S*&max_age=900/);
  });
  assert.equal(added, 1);
  const { stronger, ...lasting } = kept();
  assert.equal(claimsOf(stronger?.text).acr, 'multi-factor');
  assert.deepEqual([lasting.token, lasting.refreshToken], [before.token, before.refreshToken]);
  assert.equal((await keyward('keys', 'rotate', KEY)).code, 0, 'without asking again');
});

test('a stronger sign-in ends with its token', async () => {
  await login(['--acr', 'multi-factor'], { person: 'alice', factors: 'two' });
  assert.equal((await keyward('keys', 'rotate', KEY)).code, 0);
  const { stronger, ...rest } = kept();
  const expired = { ...stronger, expiresAt: Date.now() - 1 };
  writeFileSync(signInFile(), JSON.stringify({ ...rest, stronger: expired }), { mode: 0o600 });
  const added = await versionsAddedBy(async () => {
    const { code, stderr } = await keyward('keys', 'rotate', KEY);
    assert.equal(code, 1);
    assert.match(stderr, /^keyward: STEP_UP_REQUIRED: /);
  });
  assert.equal(added, 0);
  assert.equal((await keyward('keys', 'get', KEY)).code, 0, 'the lasting sign-in goes on');
});

test('without a terminal the call fails, and the command reports how to sign in', async () => {
  const { code, stderr } = await keyward('keys', 'rotate', KEY);
  assert.equal(code, 1);
  const [, command = ''] = /sign in with "keyward (login [^"]+)", then repeat/.exec(stderr) ?? [];
  assert.equal(command, 'login --profile me --acr multi-factor --max-age 15m', stderr);
  await login(command.split(' ').slice(1), { person: 'alice', factors: 'two' });
  assert.equal(await versionsAddedBy(() => keyward('keys', 'rotate', KEY)), 1);
});

test('a sign-in that is too weak is refused, and not asked for twice', async () => {
  const added = await versionsAddedBy(async () => {
    const { code, shown } = await atTerminal(
      ['keys', 'rotate', KEY],
      signingIn({ person: 'alice', factors: 'one' }),
    );
    assert.equal(code, 1);
    assert.match(shown, /\nkeyward: STEP_UP_REQUIRED: /);
    assert.equal(shown.split('Signing in at').length, 2, shown);
  });
  assert.equal(added, 0);
});

test('another person cannot sign in for the call', async () => {
  const added = await versionsAddedBy(async () => {
    const { code, shown } = await atTerminal(
      ['keys', 'rotate', KEY],
      signingIn({ person: 'bob', factors: 'two' }),
    );
    assert.equal(code, 1);
    assert.match(shown, /cannot continue the call: it is alice's, and bob signed in\n/);
  });
  assert.equal(added, 0);
  assert.equal(kept().stronger, undefined);
});

test('whoami shows the factors and their age', async () => {
  await login(['--acr', 'multi-factor'], { person: 'alice', factors: 'two' });
  const { stdout } = await keyward('whoami');
  assert.match(stdout, /ACR +METHODS +SIGNED IN +AGE/);
  assert.match(stdout, /multi-factor +pwd, otp, mfa +\d{4}-\S+Z +(\d+m )?\d+s/);
});
