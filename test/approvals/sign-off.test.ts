/**
 * People and their passkeys as they meet them: the `keyward` command in processes of its own, the
 * sign-off page in real Chromium with virtual authenticators, and the real service.
 */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { AccessRig } from '../access/access-rig.ts';
import { type Outcome, run, writeUsersProfiles } from '../cli/run.ts';
import { Chromium, type Page, WITHOUT_CHROMIUM } from '../support/chromium.ts';
import { TESTER } from '../support/grants.ts';

const HOST = 'keyward.example.com';
const ROLES = {
  bob: ['approver'],
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

  /** Whether the person touches an authenticator that wants it. */
  const touches = (authenticatorId: string, enabled: boolean) =>
    page.send('WebAuthn.setAutomaticPresenceSimulation', { authenticatorId, enabled });

  test('a passkey is registered, and a second one by the first', async () => {
    const first = await begin('bob', 'passkeys register acme --display-name laptop');
    await page.load(first.url);
    await page.text(new RegExp(nameOf('bob')));
    await page.press(/Make a passkey/);
    const made = await first.outcome;
    assert.equal(made.code, 0, made.stderr);
    assert.match(made.stdout, /passkeys\/\S+ +spiffe:\/\/keyward\.test\/bob +laptop +ES256/);

    await page.addAuthenticator({ isUserVerified: true, transport: 'usb' });
    // Asked as well, it would answer that it has a passkey already.
    await touches(builtIn, false);
    const second = await begin('bob', 'passkeys register acme --display-name key');
    await page.load(second.url);
    await page.press(/Make a passkey/);
    await page.text(/confirm the new passkey with one that you have/);
    await touches(builtIn, true);
    await page.press(/Confirm with a passkey/);
    const added = await second.outcome;
    assert.equal(added.code, 0, added.stderr);
    const { stdout } = await keyward('bob', '--output json passkeys list');
    const names = JSON.parse(stdout).map(({ displayName }: { displayName: string }) => displayName);
    assert.deepEqual(names.sort(), ['key', 'laptop']);
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
