/**
 * A mistake in any setting: what the operator reads names the setting, the file where there is one,
 * and what is wrong, for all mistakes at once.
 */
import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { OWNER_SETTINGS, SETTINGS } from '../../src/config.ts';
import { type Environment, newEnvironment, runCommand } from '../support/kit.ts';

let environment: Environment;
before(async () => {
  environment = await newEnvironment();
});
after(() => environment?.[Symbol.asyncDispose]());

/** A value, or what a file is to hold whose name is the value; and what is read of it. */
type Mistake = readonly [given: string | { readonly holds: string }, says: RegExp];

const number: readonly Mistake[] = [
  ['many', /must be a whole number/],
  ['-1', /must be a whole number/],
  ['99999999999999999999', /must be \d+ to \d+/],
];
const listen: readonly Mistake[] = [
  ['7443', /must be host:port/],
  ['127.0.0.1:70000', /must have a port up to 65535/],
];
const file: readonly Mistake[] = [
  ['/does/not/exist', /must name a file that can be read: .*\/does\/not\/exist/],
  ['/etc', /must name a file that can be read: \/etc is not a file/],
];
const databaseUrl: readonly Mistake[] = [
  ['mysql://u@h/d', /must begin with postgresql:\/\//],
  ['postgresql://u:50%@localhost/d', /its password has a % that begins no escape/],
  ['postgresql://u@localhost/', /names no database/],
  ['postgresql://u@db.example/d?sslmode=disable', /sslmode disable does not protect/],
];
const token: readonly Mistake[] = [['pkcs11:token=x;pin-value=1', /without a PIN/]];
const list: readonly Mistake[] = [['copyable local', /must be separated by commas/]];
const flag: readonly Mistake[] = [['yes', /must be true or false/]];

/** Files of certificates that are damaged, where `good` is the text of one that is not. */
const certificates = (good: string): readonly Mistake[] => [
  ...file,
  [{ holds: '' }, /\/file is empty/],
  [{ holds: 'nothing of the kind\n' }, /\/file has no certificate/],
  [{ holds: good.slice(0, good.length / 2) }, /\/file is cut off: a CERTIFICATE has no end/],
  [{ holds: good + damaged(good) }, /\/file: certificate 2 of 2 is damaged/],
  [{ holds: good.replace('-----BEGIN', '----BEGIN') }, /\/file is damaged: a line “-----END/],
];
const damaged = (pem: string) => pem.replace(/\n[^-\n]{8}/, '\nAAAAAAAA');

/** Every setting's mistakes. */
function mistakes(): Readonly<Record<string, readonly Mistake[]>> {
  const { certPem: leaf, keyPem: key } = environment.ca.issue({ subject: 'x', usage: 'server' });
  const encrypted = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({
    format: 'pem',
    type: 'pkcs8',
    cipher: 'aes-256-cbc',
    passphrase: 'secret',
  });
  const authorities: readonly Mistake[] = [
    ...certificates(environment.ca.certPem),
    [{ holds: leaf }, /\/file: certificate 1 is not one of a CA/],
  ];
  return {
    KEYWARD_MODE: [['test', /must be production or development/]],
    KEYWARD_SERVERS: ['many', '0', '257'].map((each) => [each, /must be 1 to 256, or auto/]),
    KEYWARD_LISTEN: listen,
    KEYWARD_HTTP_LISTEN: listen,
    KEYWARD_HEALTH_LISTEN: listen,
    KEYWARD_METRICS_LISTEN: listen,
    KEYWARD_REFLECTION: flag,
    KEYWARD_ANOMALIES: flag,
    KEYWARD_APPROVAL_SECONDS: number,
    KEYWARD_LOG_LEVEL: [['loud', /must be debug, info, warn or error/]],
    KEYWARD_TLS_CERT_FILE: certificates(leaf),
    KEYWARD_TLS_KEY_FILE: [
      ...file,
      [{ holds: String(encrypted) }, /\/file is encrypted; decrypt it/],
      [{ holds: leaf }, /\/file has no private key/],
      [{ holds: damaged(key) }, /\/file: the private key is damaged/],
      [{ holds: key.slice(0, 100) }, /\/file is cut off/],
    ],
    KEYWARD_TLS_CLIENT_CA_FILE: authorities,
    KEYWARD_DATABASE_CA_FILE: authorities,
    KEYWARD_CERTIFICATE_PRINCIPAL: [['name', /must be one of /]],
    KEYWARD_CERTIFICATE_DENY_FILE: [
      ...file,
      [{ holds: '' }, /\/file: is empty/],
      [{ holds: 'abc' }, /\/file: line 1 must be a SHA-256/],
    ],
    KEYWARD_ISSUERS_FILE: [
      ...file,
      [{ holds: '' }, /\/file: must be JSON/],
      [{ holds: '{"issuers":[]}' }, /\/file: must be a list of issuers/],
    ],
    KEYWARD_RELYING_PARTY_ID: [
      ['example', /must be a domain/],
      ['https://keyward.example', /must be a domain/],
      ['Keyward.example', /must be a domain/],
      ['127.0.0.1', /must be a domain/],
    ],
    KEYWARD_SIGN_OFF_URL: [
      ['keyward.example', /must begin with https:\/\//],
      ['http://keyward.example/sign-off', /must begin with https:\/\//],
      ['https://keyward.example/sign-off#a', /must have no user, query or fragment/],
    ],
    KEYWARD_PASSKEYS_DEVICE_BOUND: [['yes', /must be true or false/]],
    KEYWARD_PASSKEY_ATTESTATION_ROOTS_FILE: authorities,
    KEYWARD_FIRST_ADMINISTRATOR: [[' name', /must be a caller’s name/]],
    DATABASE_URL: databaseUrl,
    MIGRATION_DATABASE_URL: databaseUrl,
    KEYWARD_HSM_MODULE: file,
    KEYWARD_HSM_TOKEN: token,
    KEYWARD_HSM_PIN_FILE: [...file, [{ holds: '' }, /\/file is empty/]],
    KEYWARD_HSM_ENVIRONMENT: [
      ['A B', /must be separated by commas/],
      ['A=1', /must be names of/],
    ],
    KEYWARD_HSM_WAIVERS: list,
    KEYWARD_AGENT_RULE: file,
    KEYWARD_NEXT_HSM_MODULE: file,
    KEYWARD_NEXT_HSM_TOKEN: token,
    KEYWARD_NEXT_HSM_PIN_FILE: [...file, [{ holds: '' }, /\/file is empty/]],
    KEYWARD_NEXT_HSM_WAIVERS: list,
    KEYWARD_MAINTENANCE_TICKS: [
      ['often', /must be a cron expression/],
      ['0 0 0 30 2 *', /must be a cron expression/],
    ],
    KEYWARD_AUDIT_KEPT_CHECKPOINT: [['ftp://x', /must be a file:, http: or https: URL/]],
    KEYWARD_AUDIT_WITNESSES_FILE: [
      ...file,
      [{ holds: '' }, /\/file: is empty/],
      [{ holds: 'witness' }, /\/file: line 1: /],
    ],
    KEYWARD_ALERTS_FILE: [
      ...file,
      [{ holds: '' }, /\/file: must be JSON/],
      [{ holds: '{"receivers":[{"name":"A"}]}' }, /\/file: must be a list of receivers/],
    ],
    // What is set beside them is another mistake then: agent-host.test.ts has both.
    KEYWARD_AGENT_HOST: [],
    KEYWARD_NEXT_AGENT_HOST: [],
    // Any text may be one.
    KEYWARD_HSM_MODULE_PARAMETERS: [],
    KEYWARD_NEXT_HSM_MODULE_PARAMETERS: [],
  };
}

test('every setting’s mistakes are named with the setting, the file and what is wrong', async () => {
  const known = mistakes();
  const isNumber = (name: string) => !(name in known);
  const names = [...Object.keys(SETTINGS), ...Object.keys(OWNER_SETTINGS)];
  const table = names.map((name) => [name, known[name] ?? number] as const);
  for (const name of names.filter(isNumber))
    assert.match(SETTINGS[name as keyof typeof SETTINGS].fallback ?? '', /^\d+$|^not kept there$/);
  const rounds = Math.max(...table.map(([, each]) => each.length));
  for (let round = 0; round < rounds; round++) {
    const given = table.flatMap(([name, each]) => {
      const mistake = each[round];
      return mistake === undefined
        ? []
        : [{ name, value: valueFor(name, mistake[0]), says: mistake[1] }];
    });
    const variables = Object.fromEntries(given.map(({ name, value }) => [name, value]));
    for (const command of ['serve', 'migrate']) {
      const expected = given.filter(({ name }) => (command === 'serve') === name in SETTINGS);
      if (expected.length === 0) continue;
      const { code, output } = await runCommand(environment, [command], variables);
      assert.equal(code, 1, output);
      const lines = output.split('keyward-server: ');
      for (const { name, says } of expected) {
        const line = lines.find((each) => each.startsWith(`${name} `));
        assert.ok(line !== undefined, `round ${round}: nothing of ${name} in:\n${output}`);
        assert.match(line, says);
      }
    }
  }
});

test('a key that is not the certificate’s is named with both files', async () => {
  const { keyPem } = environment.ca.issue({ subject: 'x', usage: 'server' });
  const path = valueFor('KEYWARD_TLS_KEY_FILE', { holds: keyPem });
  const { code, output } = await runCommand(environment, ['serve'], { KEYWARD_TLS_KEY_FILE: path });
  assert.equal(code, 1);
  assert.ok(
    output.includes(`KEYWARD_TLS_KEY_FILE must name the key of KEYWARD_TLS_CERT_FILE: ${path}`),
  );
  assert.ok(output.includes(environment.variables['KEYWARD_TLS_CERT_FILE'] ?? ''));
});

test('a message of a mistake in a URL has nothing of the URL', async () => {
  const { output } = await runCommand(environment, ['serve'], {
    DATABASE_URL: 'postgresql://u:hunter2%@localhost/d',
  });
  assert.match(output, /DATABASE_URL /);
  assert.doesNotMatch(output, /hunter2/);
});

test('spaces in a list are no part of its names', async () => {
  const { code, output } = await runCommand(environment, ['token', 'check'], {
    KEYWARD_HSM_ENVIRONMENT: ' SOFTHSM2_CONF , HOME ',
  });
  assert.equal(code, 0, output);
});

function valueFor(name: string, given: Mistake[0]): string {
  if (typeof given === 'string') return given;
  const directory = join(environment.directory, name);
  mkdirSync(directory, { recursive: true });
  const path = join(directory, 'file');
  writeFileSync(path, given.holds, { mode: 0o600 });
  return path;
}
