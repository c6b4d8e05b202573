/**
 * People and their passkeys as they meet them: the `keyward` command in processes of its own, the
 * sign-off page in real Chromium with virtual authenticators, and the real service.
 */
import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { AccessRig } from '../access/access-rig.ts';
import { type Outcome, run, writeUsersProfiles } from '../cli/run.ts';
import { Chromium, type Page, WITHOUT_CHROMIUM } from '../support/chromium.ts';
import { eventually } from '../support/kit.ts';
import { TESTER } from '../support/tester.ts';
import { registerPasskeys } from './people.ts';

const HOST = 'keyward.example.com';
const ROLES = {
  alice: ['keyAdmin'],
  bob: ['approver'],
  carol: ['approver'],
} as const;

type Person = keyof typeof ROLES | 'root';

/** A command that waits for what the browser answers. */
interface Waiting {
  readonly url: string;
  readonly outcome: Promise<Outcome>;
}

describe('with a browser', { skip: WITHOUT_CHROMIUM }, () => {
  let rig: AccessRig;
  let browser: Chromium;
  let home: string;
  let page: Page;
  let builtIn: string;
  let keys = 0;

  before(async () => {
    rig = await AccessRig.start({ KEYWARD_RELYING_PARTY_ID: HOST });
    home = join(rig.environment.directory, 'people');
    mkdirSync(home);
    const address = `127.0.0.1:${rig.service.port}`;
    const profiles = [...Object.keys(ROLES), 'root'].map((person) => {
      const uris = [person === 'root' ? TESTER : nameOf(person)];
      const { certPem, keyPem } = rig.environment.ca.issue({
        subject: person,
        usage: 'client',
        uris,
      });
      return [person, { address, ca: rig.environment.ca.certPem, cert: certPem, key: keyPem }];
    });
    writeUsersProfiles(home, Object.fromEntries(profiles));
    for (const [person, roles] of Object.entries(ROLES))
      for (const role of roles) await rig.bind('acme', nameOf(person), role);
    const dave = { name: nameOf('dave'), caller: rig.certified(nameOf('dave')) };
    await registerPasskeys(rig, [dave], HOST);
    await rig.done('ApprovalService/UpdateApprovalRules', {
      approvalRules: {
        name: 'tenants/acme/approvalRules',
        approvalRules: [{ ruleId: 'two', permissions: ['keys.destroy'], approvals: 1 }],
      },
    });
    browser = await Chromium.start({
      directory: join(rig.environment.directory, 'chromium'),
      certificate: readFileSync(rig.environment.variables['KEYWARD_TLS_CERT_FILE'] ?? '', 'utf8'),
      hosts: [HOST],
    });
    page = await browser.open();
    builtIn = await page.addAuthenticator({ isUserVerified: true });
  });
  after(async () => {
    await browser?.[Symbol.asyncDispose]();
    await rig?.[Symbol.asyncDispose]();
  });

  const nameOf = (person: string) => `spiffe://keyward.test/${person}`;

  const keyward = (person: Person, args: string) =>
    run(['--profile', person, ...args.split(' ')], { cwd: home });

  /** Runs a command until it has printed the URL of the page. */
  function begin(person: Person, args: string): Promise<Waiting> {
    return new Promise((resolve, reject) => {
      const outcome = run(['--profile', person, ...args.split(' '), '--no-browser'], {
        cwd: home,
        heard: (stderr) => {
          const url = /https:\S+(?=\n)/.exec(stderr)?.[0];
          if (url !== undefined) resolve({ url, outcome });
        },
      });
      outcome.then((ended) => reject(new Error(JSON.stringify(ended))), reject);
    });
  }

  /** Alice asks for a key's destruction, which waits; returns the key and the operation. */
  async function asked(): Promise<{ readonly key: string; readonly operation: string }> {
    keys += 1;
    const key = `tenants/acme/keys/k${keys}`;
    await rig.done('KeyService/CreateKey', { parent: 'tenants/acme', keyId: `k${keys}` });
    const shown = await keyward('alice', `keys destroy ${key}`);
    const etag = /--confirm (\S+)/.exec(shown.stdout)?.[1];
    const { code, stderr } = await keyward('alice', `keys destroy ${key} --confirm ${etag}`);
    assert.equal(code, 4, stderr);
    const [operation] = /tenants\/acme\/pendingOperations\/[0-9a-f-]{36}/.exec(stderr) ?? [];
    assert.ok(operation, stderr);
    assert.match(stderr, /APPROVAL_REQUIRED: .*1 approval by others.*, until 20/);
    assert.ok(stderr.includes(`"keyward approvals show ${operation}" shows it`), stderr);
    return { key, operation };
  }

  const stateOf = async (operation: string): Promise<string> => {
    const { stdout } = await keyward('bob', `--output json approvals show ${operation}`);
    return JSON.parse(stdout).state;
  };

  const keyState = async (key: string): Promise<string> => {
    const { stdout } = await keyward('alice', `--output json keys get ${key}`);
    return JSON.parse(stdout).state;
  };

  test('a passkey is registered, and a second one by the first', async () => {
    const first = await begin('bob', 'passkeys register acme --display-name laptop');
    await page.load(first.url);
    await page.text(new RegExp(nameOf('bob')));
    await page.press(/Make a passkey/);
    const made = await first.outcome;
    assert.equal(made.code, 0, made.stderr);
    assert.match(made.stdout, /passkeys\/\S+ +spiffe:\/\/keyward\.test\/bob +laptop +ES256/);

    // It would answer that it has a passkey already.
    const credentials = await page.putAway(builtIn);
    const key = await page.addAuthenticator({ isUserVerified: true });
    const second = await begin('bob', 'passkeys register acme --display-name key');
    await page.load(second.url);
    await page.press(/Make a passkey/);
    await page.text(/confirm the new passkey with one that you have/);
    await page.putAway(key);
    await page.addAuthenticator({ isUserVerified: true, credentials });
    await page.press(/Confirm with a passkey/);
    const added = await second.outcome;
    assert.equal(added.code, 0, added.stderr);
    const { stdout } = await keyward('bob', '--output json passkeys list');
    const names = JSON.parse(stdout).map(({ displayName }: { displayName: string }) => displayName);
    assert.deepEqual(names.sort(), ['key', 'laptop']);
  });

  test('what one person asks for is shown to another, approved by a passkey, and performed', async () => {
    const { key, operation } = await asked();
    const { stdout } = await keyward('bob', 'approvals list acme');
    assert.match(stdout, new RegExp(`${operation} +PENDING +ScheduleKeyDestruction +${key}`));
    const waiting = await begin('bob', `approvals approve ${operation}`);
    await page.load(waiting.url);
    const shown = await page.text(/Approve ScheduleKeyDestruction\?/);
    for (const text of [key, nameOf('alice')]) assert.ok(shown.includes(text), text);
    await page.press(/^Approve with/);
    const { code, stderr, stdout: answer } = await waiting.outcome;
    assert.equal(code, 0, stderr);
    assert.match(stderr, new RegExp(`Asked for by +${nameOf('alice')}`));
    assert.match(answer, /(APPROVED|DONE) .* 1 of 1/);
    await eventually(async () => assert.equal(await stateOf(operation), 'DONE'));
    assert.equal(await keyState(key), 'DESTROY_SCHEDULED');
  });

  test('what is rejected is not performed, nor what its requester cancels', async () => {
    const rejected = await asked();
    const waiting = await begin('bob', `approvals reject ${rejected.operation}`);
    await page.load(waiting.url);
    await page.press(/^Reject with/);
    const { code, stdout, stderr } = await waiting.outcome;
    assert.equal(code, 0, stderr);
    assert.match(stdout, /REJECTED/);

    const cancelled = await asked();
    assert.equal((await keyward('bob', `approvals cancel ${cancelled.operation}`)).code, 1);
    const { stdout: ended } = await keyward('alice', `approvals cancel ${cancelled.operation}`);
    assert.match(ended, /CANCELLED/);
    for (const { key } of [rejected, cancelled]) assert.equal(await keyState(key), 'ENABLED');
    const late = await keyward('bob', `approvals approve ${cancelled.operation}`);
    assert.equal(late.code, 1);
    assert.match(late.stderr, /cannot approve .*: it is CANCELLED/);
  });

  test('a signature over another request than is stored approves nothing', async () => {
    const { key, operation } = await asked();
    const waiting = await begin('bob', `approvals approve ${operation}`);
    const [address, fragment = ''] = waiting.url.split('#');
    const order = JSON.parse(String(Buffer.from(fragment, 'base64url')));
    const request = JSON.parse(String(Buffer.from(order.operation.request, 'base64url')));
    assert.equal(request.name, key);
    request.name = 'tenants/acme/keys/harmless';
    order.operation.request = Buffer.from(JSON.stringify(request)).toString('base64url');
    await page.load(`${address}#${Buffer.from(JSON.stringify(order)).toString('base64url')}`);
    await page.text(/keys\/harmless/);
    await page.press(/^Approve with/);
    const { code, stderr } = await waiting.outcome;
    assert.equal(code, 1);
    assert.match(stderr, /ASSERTION_NOT_ACCEPTED/);
    assert.equal(await stateOf(operation), 'PENDING');
    assert.equal(await keyState(key), 'ENABLED');
  });

  test('a person without a passkey is told how to make one', async () => {
    const { operation } = await asked();
    const without = await keyward('carol', `approvals approve ${operation}`);
    assert.equal(without.code, 2);
    assert.match(without.stderr, /you have no passkey; make one by "keyward passkeys register"/);
  });

  test('the browser is opened by a file that only its user can read', async () => {
    const { operation } = await asked();
    const programs = join(home, 'bin');
    mkdirSync(programs);
    const record = join(home, 'opened');
    const opener = join(programs, 'xdg-open');
    writeFileSync(
      opener,
      `#!/bin/sh\nprintf %s "$1" > ${record}.new\nmv ${record}.new ${record}\n`,
    );
    chmodSync(opener, 0o755);
    const env = { PATH: `${programs}:${process.env['PATH']}`, DISPLAY: ':99' };
    const args = ['--profile', 'bob', 'approvals', 'approve', operation];
    const outcome = run(args, { cwd: home, env });
    const opened = await eventually(() => readFileSync(record, 'utf8'));
    const file = fileURLToPath(opened);
    assert.equal(statSync(file).mode & 0o777, 0o600);
    assert.equal(statSync(join(file, '..')).mode & 0o777, 0o700);
    await page.load(opened);
    await page.text(/Approve ScheduleKeyDestruction/);
    await page.press(/^Approve with/);
    assert.equal((await outcome).code, 0);
    assert.throws(() => statSync(file), /ENOENT/);
  });

  test('watching tells of what comes to wait, and of what becomes of it', async () => {
    let seen = '';
    const args = ['--profile', 'bob', 'approvals', 'watch', 'acme'];
    let cancelled = '';
    const watching = run(args, {
      cwd: home,
      until: (stdout) => {
        seen = stdout;
        return cancelled !== '' && stdout.includes(`${cancelled}  CANCELLED`);
      },
    });
    const { operation } = await asked();
    await eventually(() => assert.ok(seen.includes(`${operation}  PENDING`), seen));
    await keyward('alice', `approvals cancel ${operation}`);
    cancelled = operation;
    await watching;
    assert.match(seen, /CANCELLED/);
  });

  test('a passkey that an administrator removes is gone', async () => {
    const { stdout } = await keyward('bob', '--output json passkeys list');
    const [{ name }] = JSON.parse(stdout);
    assert.equal((await keyward('bob', `passkeys remove ${name}`)).code, 1);
    const { code, stderr } = await keyward('root', `passkeys remove ${name}`);
    assert.equal(code, 0, stderr);
    const { stdout: left } = await keyward('bob', 'passkeys list');
    assert.ok(!left.includes(name));
  });
});
