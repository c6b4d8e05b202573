/**
 * Starting: what the service refuses to start with, and that it says what to do about it.
 */
import assert from 'node:assert/strict';
import { chmodSync, copyFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { runSql } from '../store/database.ts';
import {
  type Environment,
  newEnvironment,
  runCommand,
  setMode,
  startService,
  startServiceWithoutWaiting,
} from '../support/kit.ts';

let environment: Environment;

before(async () => {
  environment = await newEnvironment();
});

after(() => environment?.[Symbol.asyncDispose]());

/** What the service says when it refuses to start. */
async function refusal(variables: Record<string, string>): Promise<string> {
  const { code, output } = await runCommand(environment, ['serve'], variables);
  assert.equal(code, 1, output);
  return output;
}

test('a Node that is too old is told which one is needed', async () => {
  const older = 'Object.defineProperty(process.versions, "node", { value: "20.20.2" })';
  const { code, output } = await runCommand(environment, ['--version'], {
    NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(older)}`,
  });
  assert.equal(code, 1);
  assert.match(output, /^keyward-server: cannot run on Node 20\.20\.2: it needs Node 24/);
});

describe('configuration', () => {
  test('every mistake is named at once, with its variable', async () => {
    const output = await refusal({
      KEYWARD_LISTEN: 'nowhere',
      KEYWARD_TLS_CERT_FILE: '/does/not/exist',
      KEYWARD_HSM_AGENTS: '0',
      KEYWARD_HSM_TOKEN: '',
      DATABASE_URL: 'mysql://x',
    });
    for (const name of [
      'KEYWARD_LISTEN',
      'KEYWARD_TLS_CERT_FILE',
      'KEYWARD_HSM_AGENTS',
      'KEYWARD_HSM_TOKEN is not set',
      'DATABASE_URL',
    ]) {
      assert.ok(output.includes(name), `${name} in:\n${output}`);
    }
  });

  test('case 104: a private key that others may read is refused', async () => {
    const loose = join(environment.directory, 'loose-key.pem');
    copyFileSync(environment.variables['KEYWARD_TLS_KEY_FILE'] ?? '', loose);
    chmodSync(loose, 0o640);
    assert.match(
      await refusal({ KEYWARD_TLS_KEY_FILE: loose }),
      /KEYWARD_TLS_KEY_FILE .*chmod 600/,
    );
  });

  test('case 104: a PIN file that others may read is refused', async () => {
    const loose = join(environment.directory, 'loose-pin');
    writeFileSync(loose, 'secret-pin');
    chmodSync(loose, 0o604);
    const output = await refusal({ KEYWARD_HSM_PIN_FILE: loose });
    assert.match(output, /KEYWARD_HSM_PIN_FILE .*chmod 600/);
    assert.doesNotMatch(output, /secret-pin/);
  });

  test('a token URI may not carry a PIN', async () => {
    assert.match(
      await refusal({ KEYWARD_HSM_TOKEN: 'pkcs11:token=x;pin-value=1234' }),
      /KEYWARD_HSM_TOKEN/,
    );
  });
});

describe('the token', () => {
  test('may be named by an RFC 7512 URI, and is logged in to once by a start with one agent', async () => {
    const label = environment.token.label;
    await using service = await startService(environment, {
      KEYWARD_HSM_TOKEN: `pkcs11:token=${label};model=SoftHSM%20v2`,
      KEYWARD_HSM_AGENTS: '1',
      // A start that takes longer than this has another one begun beside it.
      KEYWARD_HSM_START_TIMEOUT_MS: '120000',
    });
    await service.client().listTenants();
    const agents = service.log.filter(({ msg }) => `${msg}`.startsWith('HSM agent '));
    assert.deepEqual(
      agents.map(({ msg }) => msg),
      ['HSM agent is ready'],
    );
  });

  test('that is not there is named, with those that are', async () => {
    const output = await refusal({ KEYWARD_HSM_TOKEN: 'another' });
    assert.match(output, /cannot choose the token another: no token matches/);
    assert.ok(output.includes(environment.token.label));
  });

  test('case 73: a module that is no PKCS#11 module is refused by its path', async () => {
    const output = await refusal({ KEYWARD_HSM_MODULE: '/etc/hostname' });
    assert.match(
      output,
      /cannot load \/etc\/hostname: it is not a loadable PKCS#11 module \(.*too short/,
    );
  });

  test('case 65: a wrong PIN is tried once, and is not tried at the next start either', async () => {
    await using other = await newEnvironment();
    writeFileSync(other.token.pinFile, 'wrong-pin-1234');
    for (const said of [/CKR_PIN_INCORRECT/, /a wrong user PIN was tried before/]) {
      await using service = startServiceWithoutWaiting(other);
      const { detail } = await service.logged(({ msg }) => msg === 'cannot start an HSM agent');
      assert.match(String(detail), said);
      assert.doesNotMatch(JSON.stringify(service.log), /wrong-pin-1234/);
    }
    assert.match((await runCommand(other, ['token', 'check'])).output, /CKR_PIN_INCORRECT/);
  });

  test('is initialised once: doing it again changes nothing', async () => {
    const { code, output } = await runCommand(environment, ['token', 'init']);
    assert.equal(code, 0, output);
    assert.match(output, /is already initialised/);
  });

  test('token check reports that every attribute is enforced', async () => {
    const { code, output } = await runCommand(environment, ['token', 'check']);
    assert.equal(code, 0, output);
    assert.match(output, /every other required attribute of every object is enforced/);
  });

  test('case 107: the token of another environment is refused', async () => {
    await using other = await newEnvironment();
    const { default: pg } = await import('pg');
    const client = new pg.Client({ connectionString: other.urls.superuser });
    await client.connect();
    await client.query('UPDATE environment SET environment_id = gen_random_uuid()');
    await client.end();
    const { code, output } = await runCommand(other, ['serve']);
    assert.equal(code, 1);
    assert.match(output, /of another environment/);
    assert.match((await runCommand(other, ['token', 'init'])).output, /of another environment/);
  });
});

describe('the mode', () => {
  const UUID = '6f1f9d5e-0a52-4a6b-8e1c-2d3a8f5b7c90';
  const CHANGING = [
    ['migrate'],
    ['token', 'init'],
    ['token', 'destroy-key', UUID],
    ['token', 'record', UUID],
    ['token', 'shred', 'acme'],
    ['token', 'migrate'],
    ['token', 'migrate', '--dry-run'],
  ];

  /** What the commands say that change something, and that none did. */
  async function refusals(own: Environment, mode: string): Promise<string[]> {
    const given = own.variables;
    const variables = {
      KEYWARD_MODE: mode,
      KEYWARD_NEXT_HSM_MODULE: given['KEYWARD_HSM_MODULE'] ?? '',
      KEYWARD_NEXT_HSM_TOKEN: given['KEYWARD_HSM_TOKEN'] ?? '',
      KEYWARD_NEXT_HSM_PIN_FILE: given['KEYWARD_HSM_PIN_FILE'] ?? '',
    };
    const said: string[] = [];
    for (const args of [['serve'], ...CHANGING]) {
      const { code, output } = await runCommand(own, args, variables);
      assert.equal(code, 1, `${args.join(' ')}: ${output}`);
      said.push(output);
    }
    return said;
  }

  test('case 106: nothing is served or changed with development settings on a database for production', async () => {
    for (const output of await refusals(environment, 'development')) {
      assert.match(output, /environment is for production, .* and KEYWARD_MODE is development/);
      assert.match(
        output,
        /DATABASE_URL and MIGRATION_DATABASE_URL name the database that you mean/,
      );
    }
    const { code, output } = await runCommand(environment, ['token', 'status'], {
      KEYWARD_MODE: 'development',
    });
    assert.equal(code, 0, `looking is no change: ${output}`);
  });

  test('case 106: nor with production settings on a database for development', async () => {
    await using own = await newEnvironment();
    await setMode(own, 'development');
    for (const output of await refusals(own, 'production'))
      assert.match(output, /environment is for development, .* and KEYWARD_MODE is production/);
  });

  test('case 106: a database that an earlier release made counts as production until token init says otherwise', async () => {
    await using own = await newEnvironment();
    await setMode(own, null);
    const development = { KEYWARD_MODE: 'development' };
    const refused = await runCommand(own, ['serve'], development);
    assert.equal(refused.code, 1);
    assert.match(
      refused.output,
      /counts as production, .*run `keyward-server token init` with KEYWARD_MODE/,
    );
    assert.equal((await runCommand(own, ['token', 'record', UUID], development)).code, 1);
    const { code, output } = await runCommand(own, ['token', 'init'], development);
    assert.equal(code, 0, output);
    assert.match((await runCommand(own, ['serve'])).output, /environment is for development/);
    const production = await runCommand(own, ['token', 'init'], { KEYWARD_MODE: 'production' });
    assert.match(
      production.output,
      /environment is for development, .* and KEYWARD_MODE is production/,
    );
  });

  test('case 106: a database without a recorded mode serves in production as it did', async () => {
    await using own = await newEnvironment();
    await setMode(own, null);
    await using service = startServiceWithoutWaiting(own);
    await service.logged(({ msg }) => msg === 'serving');
  });
});

describe('the schema', () => {
  test('is asked for by every command of its owner that comes before migrate', async () => {
    await using empty = await newEnvironment();
    await runSql(
      empty.urls.superuser,
      `DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION keyward_owner;
       GRANT USAGE ON SCHEMA public TO PUBLIC`,
    );
    for (const args of [
      ['token', 'init'],
      ['token', 'check'],
      ['audit', 'resume'],
    ]) {
      const { code, output } = await runCommand(empty, args, {
        KEYWARD_AUDIT_TOKEN_CHECKPOINT_MINUTES: '60',
      });
      assert.equal(code, 1);
      assert.match(output, /run `keyward-server migrate`/, args.join(' '));
    }
  });

  test('is up to date after migrate, and migrate may be run again', async () => {
    const { code, output } = await runCommand(environment, ['migrate']);
    assert.equal(code, 0, output);
    assert.match(output, /up to date/);
  });

  test('case 35: the role that owns the schema may not serve', async () => {
    assert.match(await refusal({ DATABASE_URL: environment.urls.owner }), /own/);
  });
});
