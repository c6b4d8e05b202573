/** How the command speaks: formats, tables on a terminal, errors, help, suggestions, tenants. */
import assert from 'node:assert/strict';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { status } from '@grpc/grpc-js';
import { parse, parseAllDocuments } from 'yaml';
import { tableText } from '../../cli/src/output/table.ts';
import { wireKey } from '../client/fake-service.ts';
import { KEY, TENANT, useFakeService } from './fake.ts';

const fake = useFakeService();
const { keyward, refuse } = fake;

/** What YAML 1.1 takes for something else than text, and what commands a terminal. */
const DESCRIPTION = 'no\u001b[2J\u202eb';

describe('--output', () => {
  it('json, jsonl and yaml have the same of a list, and commands no terminal', async () => {
    fake.handlers['ListKeys'] = () => ({
      keys: [
        { ...wireKey(KEY), description: DESCRIPTION },
        { ...wireKey(KEY), description: 'no' },
      ],
    });
    const outputs = new Map<string, string>();
    for (const format of ['json', 'jsonl', 'yaml']) {
      const { code, stdout } = await keyward(`keys list acme -o ${format}`);
      assert.equal(code, 0);
      assert.match(stdout, /^[\n\x20-\x7e]+$/, format);
      outputs.set(format, stdout);
    }
    const json = JSON.parse(outputs.get('json') ?? '');
    assert.deepEqual(
      json.map((each: { description: string }) => each.description),
      [DESCRIPTION, 'no'],
    );
    const lines = (outputs.get('jsonl') ?? '').trim().split('\n');
    assert.deepEqual(
      lines.map((line) => JSON.parse(line)),
      json,
    );
    assert.deepEqual(parse(outputs.get('yaml') ?? ''), json);
    assert.deepEqual(parse(outputs.get('yaml') ?? '', { version: '1.1' })[1].description, 'no');
    const one = parseAllDocuments((await keyward(`keys get ${KEY} -o yaml`)).stdout);
    assert.equal(one.length, 1);
  });

  it('says on standard error that a list is empty, and leaves standard output to what there is', async () => {
    fake.handlers['ListKeys'] = () => ({ keys: [] });
    for (const format of ['table', 'wide']) {
      const { code, stdout, stderr } = await keyward(`keys list acme -o ${format}`);
      assert.deepEqual([code, stdout, stderr], [0, '', 'keyward: no keys\n'], format);
    }
    for (const [format, printed] of Object.entries({
      json: '[]\n',
      jsonl: '',
      yaml: '[]\n',
      name: '',
    })) {
      const { code, stdout, stderr } = await keyward(`keys list acme -o ${format}`);
      assert.deepEqual([code, stdout, stderr], [0, printed, ''], format);
    }
  });

  it('names in a refusal the tenant that --tenant has, where nothing else was named', async () => {
    refuse('ListKeys', { code: status.NOT_FOUND, reason: 'RESOURCE_NOT_FOUND' });
    const { code, stderr } = await keyward('keys list --tenant nowhere');
    assert.equal(code, 1);
    assert.match(stderr, /cannot find nowhere: it does not exist, or you may not see it/);
  });

  it('name has a name on each line, wide more columns than table, and --no-headers no head', async () => {
    assert.equal((await keyward('keys list acme -o name')).stdout, `${KEY}\n`);
    assert.equal((await keyward('maintenance status -o name')).stdout, 'ON\n');
    const table = (await keyward('keys list acme')).stdout;
    const wide = (await keyward('keys list acme --output wide')).stdout;
    assert.deepEqual([/ UID /.test(table), / UID /.test(wide)], [false, true]);
    const [, row] = table.split('\n');
    assert.equal(
      (await keyward('keys list acme --no-headers')).stdout.replace(/ +/g, ' '),
      `${row}\n`.replace(/ +/g, ' '),
    );
  });

  it('ends with --limit of a list, and asks for no more pages than that takes', async () => {
    let pages = 0;
    fake.handlers['ListTenants'] = () => {
      pages += 1;
      return { tenants: [TENANT, TENANT], nextPageToken: 'more' };
    };
    for (const format of ['name', 'jsonl', 'table --no-headers']) {
      pages = 0;
      const { stdout } = await keyward(`tenants list --limit 3 -o ${format}`);
      assert.deepEqual([stdout.trim().split('\n').length, pages], [3, 2], format);
    }
  });
});

describe('a table on a terminal', () => {
  const head = ['NAME', 'CREATED', 'DESCRIPTION'];
  const created = '2027-01-31T12:00:00.000Z';
  const rows = [
    ['tenants/acme/keys/orders', created, 'for the orders of the shop, and of nobody else'],
    ['tenants/acme/keys/a', created, '漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字'],
  ];

  it('is cut to its width, but for names and times, in characters as wide as they are', () => {
    const lines = tableText(head, rows, { width: 70, colours: false }).trimEnd().split('\n');
    assert.equal(lines[1], `tenants/acme/keys/orders  ${created}  for the orders of…`);
    assert.equal(lines[2], `tenants/acme/keys/a       ${created}  漢字漢字漢字漢字…`);
    const whole = tableText(head, rows, { width: undefined, colours: false });
    assert.match(whole, /of nobody else\n/);
  });

  it('has a line for each field where even that does not fit', () => {
    const text = tableText(head, rows.slice(0, 1), { width: 40, colours: false });
    assert.equal(
      text,
      `NAME         tenants/acme/keys/orders\nCREATED      ${created}\n` +
        'DESCRIPTION  for the orders of the shop, and of nobody else\n',
    );
  });

  it('has colours where it may, and none of them in what is counted', () => {
    const look = { width: 80, colours: true };
    const text = tableText(['NAME', 'STATE', 'X'], [['a', 'DISABLED', 'b']], look);
    assert.equal(
      text,
      '\u001b[1mNAME\u001b[0m  \u001b[1mSTATE\u001b[0m     \u001b[1mX\u001b[0m\n' +
        'a     \u001b[33mDISABLED\u001b[0m  b\n',
    );
  });
});

describe('an error', () => {
  it('is one JSON object on standard error for programs', async () => {
    const fieldViolations = [{ field: 'key_id', description: 'is too long' }];
    refuse('CreateKey', {
      code: status.INVALID_ARGUMENT,
      reason: 'INVALID_FIELD',
      fieldViolations,
    });
    for (const format of ['json', 'jsonl', 'yaml']) {
      const { code, stdout, stderr } = await keyward(`keys create ${KEY} -o ${format}`);
      assert.deepEqual([code, stdout], [1, ''], format);
      const { error } = JSON.parse(stderr);
      const { reason, field, retryable, exitCode } = error;
      assert.deepEqual(
        { reason, field, retryable, exitCode },
        { reason: 'INVALID_FIELD', field: 'key_id', retryable: false, exitCode: 1 },
      );
      assert.match(error.message, /INVALID_FIELD: tenants\/acme\/keys\/orders: is too long/);
    }
    const usage = JSON.parse((await keyward('keys get orders -o json')).stderr);
    assert.equal(usage.error.exitCode, 2);
    const unknown = JSON.parse((await keyward('delete key -o json')).stderr);
    assert.match(unknown.error.message, /there is no such command; did you mean/);
  });

  it('repeats the name of what cannot be found', async () => {
    refuse('GetKey', { code: status.NOT_FOUND, reason: 'RESOURCE_NOT_FOUND', message: 'No.' });
    const { stderr } = await keyward(`keys get ${KEY}`);
    const said = `cannot find ${KEY}: it does not exist, or you may not see it`;
    assert.equal(stderr, `keyward: RESOURCE_NOT_FOUND: ${said}\n`);
  });
});

describe('help', () => {
  it('is shown for a command, a group and no command, on standard output, with exit code 0', async () => {
    for (const args of [
      'help',
      'help keys',
      'help keys list',
      'keys',
      'keys list --help',
      'jobs',
    ]) {
      const { code, stdout, stderr } = await keyward(args);
      assert.deepEqual([code, stderr], [0, ''], args);
      assert.match(stdout, /^Usage: keyward/, args);
    }
    assert.match((await keyward('help keys list')).stdout, /^Usage: keyward keys list /);
    const none = await keyward([]);
    assert.deepEqual([none.code, none.stderr], [0, '']);
    assert.equal((await keyward('help frobnicate')).code, 2);
  });

  it('shows what can be run first, then its options, then those of every command', async () => {
    const { stdout } = await keyward('keys --help');
    const heads = stdout.split('\n').filter((line) => /^[A-Z][\w ]*:/.test(line));
    assert.deepEqual(
      heads.map((head) => head.replace(/:.*/, '')),
      ['Usage', 'Commands', 'Options', 'Global Options'],
    );
  });

  it('of what is no command says so, and is not that of its group', async () => {
    for (const args of ['frobnicate --help', 'keys frobnicate --help', 'profiles frobnicate -h']) {
      const { code, stdout, stderr } = await keyward(args);
      assert.deepEqual([code, stdout], [2, ''], args);
      assert.match(stderr, /frobnicate": there is no such command/, args);
    }
  });
});

describe('words that are no command', () => {
  it('suggest the one that was meant, which is not run', async () => {
    const cases: [args: string, meant: string][] = [
      ['delete key orders', 'keys destroy'],
      ['describe key orders', 'keys get'],
      ['list keys', 'keys list'],
      ['get keys', 'keys list'],
      ['rm tenant acme', 'tenants shred'],
      ['keys delete orders', 'keys destroy'],
      ['keys ls', 'keys list'],
      ['keys lst', 'keys list'],
      ['encryt', 'encrypt'],
      ['create tenant acme', 'tenants create'],
      ['revoke binding', 'access unbind'],
      ['versions list orders', 'keys versions'],
      ['data-keys list orders', 'stored-data-keys list'],
      ['rotations orders', 'keys history'],
      ['canary', 'canaries'],
      ['profiles rm work', 'profiles remove'],
      ['profiles get work', 'profiles show'],
      ['approvals get x', 'approvals show'],
      ['suspend acme jwt:corp/eve', 'suspensions add'],
    ];
    for (const [args, meant] of cases) {
      const { code, stdout, stderr } = await keyward(args);
      assert.deepEqual([code, stdout], [2, ''], args);
      assert.match(stderr, new RegExp(`did you mean .*"keyward ${meant}"`), args);
    }
    assert.match(
      (await keyward('frobnicate')).stderr,
      /there is no such command; see "keyward --help"/,
    );
    assert.deepEqual(fake.seen, {});
  });
});

describe('the tenant of names that are not full', () => {
  it('is that of --tenant, else of KEYWARD_TENANT, else of the profile', async () => {
    const home = join(fake.folder, 'home');
    const folder = join(home, '.config', 'keyward');
    await mkdir(folder, { recursive: true });
    const certificates = join(fake.folder, '.keyward');
    const profile = {
      address: fake.service.address,
      caFile: join(certificates, 'ca.pem'),
      certFile: join(certificates, 'cert.pem'),
      keyFile: join(certificates, 'key.pem'),
      tenant: 'acme',
    };
    const text = JSON.stringify({ default: 'work', profiles: { work: profile } });
    await writeFile(join(folder, 'profiles.json'), text, { mode: 0o600 });
    const cases: [args: string, variable: string, name: string][] = [
      ['keys get orders', '', KEY],
      ['keys get orders', 'other', 'tenants/other/keys/orders'],
      ['keys get orders --tenant third', 'other', 'tenants/third/keys/orders'],
      ['keys get tenants/fourth/keys/orders', 'other', 'tenants/fourth/keys/orders'],
    ];
    for (const [args, variable, name] of cases) {
      const outcome = await keyward(args, { cwd: home, env: { KEYWARD_TENANT: variable } });
      assert.equal(outcome.stderr, '', args);
      assert.deepEqual(fake.seen['GetKey'], { name }, args);
    }
    await keyward('keys list', { cwd: home });
    assert.equal(fake.seen['ListKeys']?.['parent'], 'tenants/acme');
    await keyward('keys list fifth', { cwd: home });
    assert.equal(fake.seen['ListKeys']?.['parent'], 'tenants/fifth');
    await keyward('access bind --principal spiffe://a --role decrypter', { cwd: home });
    assert.equal(fake.seen['CreateRoleBinding']?.['parent'], 'tenants/acme');
    await rm(home, { recursive: true });
  });
});

describe('a tenant that is the argument elsewhere', () => {
  it('may be given by --tenant', async () => {
    const unbound = 'unbind --principal spiffe://a --role decrypter';
    const cases = [
      ['access bind --principal spiffe://a --role decrypter', 'CreateRoleBinding', 'parent'],
      [`access ${unbound}`, 'ListRoleBindings', 'parent'],
      ['approval-rules get', 'GetApprovalRules', 'name'],
      ['suspensions add jwt:corp/eve', 'CreateSuspension', 'parent'],
    ] as const;
    for (const [args, method, field] of cases) {
      await keyward(`${args} --tenant sixth`);
      assert.match(String(fake.seen[method]?.[field]), /^tenants\/sixth/, args);
      const { code, stderr } = await keyward(args);
      assert.deepEqual(
        [code, /no tenant|none is named|name a tenant/.test(stderr)],
        [2, true],
        args,
      );
    }
  });

  it('is not the word list after a command that lists', async () => {
    for (const args of ['access bindings list', 'access roles list --tenant acme']) {
      const { code, stderr } = await keyward(args);
      assert.equal(code, 2);
      assert.match(
        stderr,
        /cannot use list: it is not a tenant, .*; leave it out, or write tenants\/list/,
      );
    }
    assert.deepEqual(fake.seen, {});
  });
});

describe('durations', () => {
  it('are written alike everywhere, and may stand for times', async () => {
    assert.equal((await keyward('tenants list --timeout 1m30s')).code, 0);
    await keyward(`keys create ${KEY} --rotation-period 1d12h`);
    assert.deepEqual(fake.seen['CreateKey']?.['rotationPeriod'], { seconds: 129_600, nanos: 0 });
    const around = (method: string, field: string) => {
      const time = fake.seen[method]?.[field] as { readonly seconds: number } | undefined;
      return Number(time?.seconds) - Date.now() / 1000;
    };
    await keyward(`keys create ${KEY} --rotation-period 30d --next-rotation 2d`);
    assert.ok(Math.abs(around('CreateKey', 'nextRotationTime') - 172_800) < 3_600);
    fake.handlers['ListEntries'] = () => ({ entries: [] });
    await keyward('audit list acme --since 2d');
    assert.ok(Math.abs(around('ListEntries', 'startTime') + 172_800) < 3_600);
  });
});
