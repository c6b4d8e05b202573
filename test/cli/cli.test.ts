import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { status } from '@grpc/grpc-js';
import { refusal, wireKey } from '../client/fake-service.ts';
import { CIPHERTEXT, KEY, profilesFile, TENANT, useFakeService } from './fake.ts';

const REQUEST_ID = 'f0000000-0000-4000-8000-000000000000';

const NO_QUOTAS = { callsPerSecond: 0, keys: 0, storedDataKeys: 0 };
/** The fields of a tenant that no request sets. */
const UNSET_TENANT = {
  uid: '',
  createTime: null,
  state: 'TENANT_STATE_UNSPECIFIED',
  dedicatedRootKey: false,
  shredTime: null,
};

const fake = useFakeService();
const { keyward, refuse } = fake;

describe('tenants and keys', () => {
  it('are named in full or by their ids', async () => {
    const parent = 'tenants/acme';
    const page = { pageSize: 100, pageToken: '', filter: '' };
    const unscheduled = {
      rotationPeriod: null,
      nextRotationTime: null,
      rotationUsageLimit: 0,
      epochMaxMessages: 0,
      epochMaxAge: null,
    };
    const created = { parent, keyId: 'orders', description: '', labels: {}, ...unscheduled };
    const version = `${KEY}/versions/3`;
    const cases: [args: string, method: string, request: object][] = [
      ['tenants create acme', 'CreateTenant', { tenantId: 'acme', dedicatedRootKey: false }],
      [
        'tenants create tenants/acme --dedicated-root-key',
        'CreateTenant',
        { tenantId: 'acme', dedicatedRootKey: true },
      ],
      ['tenants get acme', 'GetTenant', { name: parent }],
      ['tenants list', 'ListTenants', page],
      [
        'tenants list --filter state=DISABLED',
        'ListTenants',
        { ...page, filter: 'state=DISABLED' },
      ],
      [
        'tenants update acme --keys 7 --calls-per-second 0 --etag t1',
        'UpdateTenant',
        {
          tenant: { ...UNSET_TENANT, name: parent, etag: 't1', quotas: { ...NO_QUOTAS, keys: 7 } },
          updateMask: { paths: ['quotas.calls_per_second', 'quotas.keys'] },
        },
      ],
      ['tenants disable acme', 'DisableTenant', { name: parent, etag: '' }],
      ['tenants enable tenants/acme --etag t1', 'EnableTenant', { name: parent, etag: 't1' }],
      [`keys create ${KEY}`, 'CreateKey', created],
      [
        'keys create --tenant acme orders --label a=b --label c=d=e --description text',
        'CreateKey',
        { ...created, description: 'text', labels: { a: 'b', c: 'd=e' } },
      ],
      ['keys list acme', 'ListKeys', { parent, ...page }],
      [
        'keys list --tenant tenants/acme --filter labels.a=b',
        'ListKeys',
        { parent, ...page, filter: 'labels.a=b' },
      ],
      ['keys get orders --tenant tenants/acme', 'GetKey', { name: KEY }],
      [`keys get ${KEY} --tenant acme`, 'GetKey', { name: KEY }],
      [`keys rotate ${KEY} --etag k1`, 'RotateKey', { name: KEY, etag: 'k1' }],
      ['keys disable orders --tenant acme', 'DisableKey', { name: KEY, etag: '' }],
      [`keys enable ${KEY} --etag k1`, 'EnableKey', { name: KEY, etag: 'k1' }],
      [
        `keys versions ${KEY} --filter state!=ENABLED`,
        'ListKeyVersions',
        { parent: KEY, ...page, filter: 'state!=ENABLED' },
      ],
      [`keys version get ${version}`, 'GetKeyVersion', { name: version }],
      [
        'keys version disable orders/versions/3 --tenant acme',
        'DisableKeyVersion',
        { name: version, etag: '' },
      ],
      [
        `keys version enable ${version} --etag v1`,
        'EnableKeyVersion',
        { name: version, etag: 'v1' },
      ],
    ];
    for (const [args, method, request] of cases) {
      const { code, stderr } = await keyward(args);
      const { requestId, ...rest } = fake.seen[method] ?? {};
      assert.deepEqual([code, stderr, rest], [0, '', request], args);
      assert.equal(typeof requestId, /^(Get|List)/.test(method) ? 'undefined' : 'string', args);
    }
  });

  it('are changed under the request id that is given', async () => {
    const cases: [args: string, method: string][] = [
      ['tenants create acme', 'CreateTenant'],
      ['tenants disable acme', 'DisableTenant'],
      ['tenants update acme --stored-data-keys 1', 'UpdateTenant'],
      [`keys create ${KEY}`, 'CreateKey'],
      [`keys rotate ${KEY}`, 'RotateKey'],
      [`keys update ${KEY} --description x`, 'UpdateKey'],
      [`keys update ${KEY} --label a=b`, 'UpdateKey'],
      [`keys version enable ${KEY}/versions/1`, 'EnableKeyVersion'],
    ];
    for (const [args, method] of cases) {
      fake.seen = {};
      assert.equal((await keyward(`${args} --request-id ${REQUEST_ID}`)).code, 0, args);
      assert.equal(fake.seen[method]?.['requestId'], REQUEST_ID, args);
    }
  });

  it('print as a table, or as JSON', async () => {
    assert.equal(
      (await keyward('tenants list -o wide')).stdout,
      [
        'NAME          STATE     UID                                   CREATED                   ROOT KEY  QUOTAS',
        'tenants/acme  ENABLED   018f0000-0000-4000-8000-000000000000  2023-11-14T22:13:20.000Z  shared    default',
        'tenants/a     DISABLED  018f0000-0000-4000-8000-000000000000  2023-11-14T22:13:20.000Z  shared    default',
        '',
      ].join('\n'),
    );
    const listed = JSON.parse((await keyward('--output json tenants list')).stdout);
    assert.deepEqual(listed[1], {
      name: 'tenants/a',
      uid: TENANT.uid,
      createTime: '2023-11-14T22:13:20.000Z',
      state: 'DISABLED',
      etag: 't1',
      dedicatedRootKey: false,
      quotas: NO_QUOTAS,
    });
    const shredTime = { seconds: 1_702_592_000, nanos: 0 };
    const state = 'TENANT_STATE_SHRED_SCHEDULED';
    const quotas = { callsPerSecond: 50, keys: 0, storedDataKeys: 7 };
    fake.handlers['GetTenant'] = () => ({
      ...TENANT,
      state,
      dedicatedRootKey: true,
      shredTime,
      quotas,
    });
    const { stdout } = await keyward('tenants get acme -o wide');
    assert.match(
      stdout,
      / SHRED_SCHEDULED \(2023-12-14T22:13:20\.000Z\) [^\n]+ dedicated +50 calls\/s, 7 data keys\n$/,
    );
  });

  it('print what a key is', async () => {
    const rotated = JSON.parse((await keyward(`keys rotate ${KEY} --output json`)).stdout);
    assert.equal(rotated.primary.name, `${KEY}/versions/2`);
    const { state, description, labels, etag } = rotated;
    assert.deepEqual(
      { state, description, labels, etag },
      { state: 'ENABLED', description: 'for orders', labels: { team: 'payments' }, etag: 'k1' },
    );
    assert.match(
      (await keyward(`keys get ${KEY} -o wide`)).stdout,
      /^NAME +PRIMARY +STATE +UID +CREATED +NEXT ROTATION +EPOCH MESSAGES +EPOCH AGE +LABELS +DESCRIPTION\n\S+ +1 +ENABLED .* never +none +none +team=payments +for orders\n$/,
    );
    assert.match((await keyward(`keys disable ${KEY}`)).stdout, / 1 +DISABLED /);
  });

  it('show why a key does not encrypt, and whole descriptions where no terminal is', async () => {
    const key = wireKey(KEY);
    fake.handlers['GetKey'] = () => ({
      ...key,
      primary: { ...key.primary, state: 'KEY_VERSION_STATE_DISABLED' },
      labels: { team: 'payments', env: 'prod' },
      description: `${'€'.repeat(99)}\u001b[2J`,
    });
    const { stdout } = await keyward(`keys get ${KEY}`);
    assert.match(stdout, / 1 \(DISABLED\) +ENABLED /);
    assert.match(stdout, / env=prod,team=payments +€{99}\?\[2J\n$/);
  });

  it('never let the service command the terminal', async () => {
    fake.handlers['GetTenant'] = () => ({ ...TENANT, name: 'tenants/\u001b[2Jx' });
    const { stdout } = await keyward('tenants get acme');
    assert.match(stdout, /tenants\/\?\[2Jx/);
    refuse('GetKey', { code: status.NOT_FOUND, message: 'a\nb\u001b]0;x' });
    const { stderr } = await keyward(`keys get ${KEY}`);
    assert.equal(stderr, 'keyward: NOT_FOUND: a b?]0;x\n');
  });

  it('that are not named as they must be end with code 2, and nothing is sent', async () => {
    const cases: [string, RegExp][] = [
      ['keys get orders', /cannot find the key orders: its tenant is missing/],
      ['keys get tenants/acme', /is not a key/],
      [`keys get ${KEY}/versions/1`, /is not a key/],
      [`keys version get ${KEY}`, /is not a version/],
      ['keys version get 3 --tenant acme', /is not a version/],
      ['keys version get orders/versions/3', /cannot find the key orders: its tenant is missing/],
      [`keys update ${KEY}`, /no change is named/],
      ['tenants update acme', /no change is named/],
      ['tenants update acme --keys many', /Write a whole number/],
      [`keys update ${KEY} --label a=b --remove-label a`, /--label and --remove-label both name a/],
      [`keys update ${KEY} --label a`, /Write key=value/],
      ['random many --tenant acme', /Write a whole number/],
      ['random 32', /cannot get random bytes/],
      [`data-key ${KEY} --without-plaintext --show-plaintext`, /cannot be used with option/],
      [`re-encrypt ${KEY} --new-context a=b --drop-context`, /cannot be used with option/],
      [`keys get ${KEY} --tenant other`, /is not a key of tenants\/other/],
      ['tenants get a/b', /is not a tenant/],
      ['keys list', /cannot list keys/],
      ['keys list a --tenant b', /name one tenant/],
      ['keys list acme --limit 0', /Write a whole number from 1 on/],
      ['keys get', /missing required argument 'key'; see "keyward keys get --help"\n$/],
      ['keys frobnicate', /cannot run "keyward keys frobnicate": there is no such command/],
      ['tenants list --output xml', /Allowed choices are table, wide, json, jsonl, yaml, name/],
      ['tenants list --timeout soon', /Write 90d, 12h, 30m, 45s or 1h30m/],
    ];
    const outcomes = await Promise.all(cases.map(([args]) => keyward(args)));
    for (const [i, outcome] of outcomes.entries()) {
      assert.equal(outcome.code, 2, cases[i]?.[0]);
      assert.match(outcome.stderr, cases[i]?.[1] ?? /^$/);
      assert.match(outcome.stderr, /^keyward: [^\n]+\n$/);
      assert.equal(outcome.stdout, '');
    }
    assert.deepEqual(fake.seen, {});
  });
});

describe('keys update', () => {
  /** The key that UpdateKey was given, and its mask. */
  function updated() {
    const { key, updateMask } = fake.seen['UpdateKey'] as Record<string, Record<string, unknown>>;
    const { name, description, labels, etag } = key ?? {};
    return { name, description, labels, etag, paths: updateMask?.['paths'] };
  }

  it('sends a description as it is, and reads nothing', async () => {
    const { code } = await keyward(`keys update ${KEY} --description new --etag k0`);
    assert.equal(code, 0);
    assert.deepEqual(updated(), {
      name: KEY,
      description: 'new',
      labels: {},
      etag: 'k0',
      paths: ['description'],
    });
    assert.equal(fake.seen['GetKey'], undefined);
    await keyward(['keys', 'update', KEY, '--description', '']);
    assert.deepEqual([updated().description, updated().paths], ['', ['description']]);
  });

  it('changes the labels that are named, under the etag that it has read', async () => {
    fake.handlers['GetKey'] = () => ({
      ...wireKey(KEY),
      labels: { team: 'payments', env: 'test', old: '1' },
    });
    const args = `keys update ${KEY} --label env=prod --label new= --remove-label old --remove-label absent`;
    assert.equal((await keyward(args)).code, 0);
    assert.deepEqual(updated(), {
      name: KEY,
      description: '',
      labels: { team: 'payments', env: 'prod', new: '' },
      etag: 'k1',
      paths: ['labels'],
    });
    assert.equal((await keyward(`${args} --description both`)).code, 0);
    assert.deepEqual(updated().paths, ['description', 'labels']);
  });

  it('reads again when another change came first, but not against an etag that was given', async () => {
    let etag = 0;
    fake.handlers['GetKey'] = () => {
      etag += 1;
      return { ...wireKey(KEY), labels: { [`l${etag}`]: '' }, etag: String(etag) };
    };
    fake.handlers['UpdateKey'] = () => {
      if (etag < 3) throw refusal({ code: status.ABORTED, reason: 'ETAG_MISMATCH' });
      return wireKey(KEY);
    };
    assert.equal((await keyward(`keys update ${KEY} --label a=b`)).code, 0);
    assert.deepEqual([updated().labels, updated().etag], [{ l3: '', a: 'b' }, '3']);
    etag = 0;
    const { code, stderr } = await keyward(`keys update ${KEY} --label a=b --etag 7`);
    assert.equal(code, 1);
    assert.match(stderr, /^keyward: ETAG_MISMATCH/);
    assert.deepEqual([updated().etag, etag], ['7', 1]);
  });
});

describe('encrypt', () => {
  it('reads standard input, sends the context, and prints base64', async () => {
    const args = `encrypt ${KEY} --context a=b=c --context __proto__=x --context empty=`;
    const { code, stdout, stderr } = await keyward(args, { input: 'secret\n' });
    assert.deepEqual([code, stderr], [0, '']);
    assert.equal(stdout, `${CIPHERTEXT.toString('base64')}\n`);
    const request = fake.seen['Encrypt'] ?? {};
    assert.deepEqual(request['plaintext'], Buffer.from('secret\n'));
    assert.deepEqual(
      new Map(Object.entries(request['encryptionContext'] as object)),
      new Map([
        ['a', 'b=c'],
        ['__proto__', 'x'],
        ['empty', ''],
      ]),
    );
  });

  it('reads and writes files, raw, and names the key version in JSON', async () => {
    await writeFile(join(fake.folder, 'plain'), 'from a file');
    const out = join(fake.folder, 'cipher');
    const toFile = await keyward(`encrypt ${KEY} --in ../plain --out ../cipher`);
    assert.deepEqual([toFile.code, toFile.stdout], [0, '']);
    assert.deepEqual(await readFile(out), CIPHERTEXT);
    assert.deepEqual(fake.seen['Encrypt']?.['plaintext'], Buffer.from('from a file'));
    assert.deepEqual((await keyward(`encrypt ${KEY} --raw`)).bytes, CIPHERTEXT);
    const json = await keyward(`encrypt ${KEY} --output json`);
    assert.deepEqual(JSON.parse(json.stdout), {
      ciphertext: CIPHERTEXT.toString('base64'),
      keyVersion: `${KEY}/versions/1`,
    });
    const both = await keyward(`encrypt ${KEY} --output json --out ../cipher --force`);
    assert.deepEqual(JSON.parse(both.stdout), { keyVersion: `${KEY}/versions/1` });
  });

  it('refuses a plaintext that is too long, a file that is not there, a context that is not one', async () => {
    const long = await keyward(`encrypt ${KEY}`, { input: Buffer.alloc(65_537) });
    assert.deepEqual([long.code, fake.seen], [2, {}]);
    assert.match(long.stderr, /longer than 64 KiB; "keyward encrypt-file" takes any size/);
    const absent = await keyward(`encrypt ${KEY} --in ./absent`);
    assert.deepEqual(
      [absent.code, absent.stderr],
      [2, 'keyward: cannot read ./absent: it does not exist\n'],
    );
    assert.match((await keyward(`encrypt ${KEY} --context a`)).stderr, /Write key=value/);
    assert.match(
      (await keyward(`encrypt ${KEY} --context a=1 --context a=2`)).stderr,
      /given twice/,
    );
    assert.equal((await keyward(`encrypt ${KEY}`, { input: Buffer.alloc(65_536) })).code, 0);
  });
});

describe('decrypt', () => {
  const plaintext = Buffer.from([0, 255, 10, 13]);

  it('takes raw bytes and base64, and writes the plaintext and nothing else', async () => {
    const base64 = CIPHERTEXT.toString('base64');
    const inputs = [
      CIPHERTEXT,
      base64,
      `${base64}\n`,
      base64.replace(/=+$/, ''),
      base64.replace(/.{76}/g, '$&\r\n'),
    ];
    for (const input of inputs) {
      fake.seen = {};
      const { code, bytes, stderr } = await keyward('decrypt --tenant acme --context a=b', {
        input,
      });
      assert.deepEqual([code, stderr], [0, '']);
      assert.deepEqual(bytes, plaintext);
      const { parent, ciphertext, encryptionContext, key } = fake.seen['Decrypt'] ?? {};
      assert.deepEqual(
        [parent, ciphertext, encryptionContext, key],
        ['tenants/acme', CIPHERTEXT, { a: 'b' }, ''],
      );
    }
  });

  it('names the tenant and the key that it expects', async () => {
    for (const args of [`--key ${KEY}`, '--key orders --tenant acme']) {
      await keyward(`decrypt ${args}`, { input: CIPHERTEXT });
      assert.deepEqual(
        [fake.seen['Decrypt']?.['parent'], fake.seen['Decrypt']?.['key']],
        ['tenants/acme', KEY],
      );
    }
    const neither = await keyward('decrypt', { input: CIPHERTEXT });
    assert.deepEqual([neither.code, /--tenant/.test(neither.stderr)], [2, true]);
  });

  it('refuses input that is no ciphertext, says what it is, unless told its form', async () => {
    const file = Buffer.concat([Buffer.from('KWE\u0001\u0003', 'latin1'), Buffer.alloc(300_000)]);
    const inputs: [input: string | Buffer, why: RegExp][] = [
      ['', /it is empty/],
      ...['hello', 'AQ==x', Buffer.from([2, 1, 1]), 'AgEB'].map(
        (input) =>
          [input, /it is not what "keyward encrypt" or "data-key" has made/] as [string, RegExp],
      ),
      [file.subarray(0, 200), /it is an encrypted file; "keyward decrypt-file" opens it/],
      [file, /it is an encrypted file; "keyward decrypt-file" opens it/],
      [Buffer.from('KWE\u0001\u0000value', 'latin1'), /it is an envelope; the client /],
      [Buffer.alloc(300_000, 1), /it is longer than any ciphertext/],
    ];
    for (const [input, why] of inputs) {
      const { code, stderr } = await keyward('decrypt --tenant acme', { input });
      assert.equal(code, 2);
      assert.match(stderr, /^keyward: cannot use standard input as a ciphertext: /);
      assert.match(stderr, why);
    }
    assert.deepEqual(fake.seen, {});
    await keyward('decrypt --tenant acme --raw', { input: 'AQ==' });
    assert.deepEqual(fake.seen['Decrypt']?.['ciphertext'], Buffer.from('AQ=='));
    await keyward('decrypt --tenant acme --base64', { input: 'AgEB' });
    assert.deepEqual(fake.seen['Decrypt']?.['ciphertext'], Buffer.from([2, 1, 1]));
    assert.equal((await keyward('decrypt --tenant acme --base64', { input: '%' })).code, 2);
    assert.equal((await keyward('decrypt --tenant acme --base64 --raw')).code, 2);
  });

  it('writes a file for its owner alone, or JSON', async () => {
    const out = join(fake.folder, 'opened');
    const toFile = await keyward('decrypt --tenant acme --out ../opened', { input: CIPHERTEXT });
    assert.deepEqual([toFile.code, toFile.stdout], [0, '']);
    assert.deepEqual(await readFile(out), plaintext);
    assert.equal((await stat(out)).mode & 0o777, 0o600);
    const json = await keyward('decrypt --tenant acme --output json', { input: CIPHERTEXT });
    assert.deepEqual(JSON.parse(json.stdout), {
      plaintext: 'AP8KDQ==',
      keyVersion: `${KEY}/versions/1`,
    });
  });
});

describe('data-key', () => {
  const wrapped = CIPHERTEXT.toString('base64');
  const plaintext = Buffer.alloc(32, 7);

  it('prints the wrapped key, and the plaintext only when asked', async () => {
    const without = await keyward(`data-key ${KEY} --context a=b --length 64`);
    assert.deepEqual(JSON.parse(without.stdout), {
      keyVersion: `${KEY}/versions/1`,
      wrappedDataKey: wrapped,
    });
    assert.deepEqual(fake.seen['GenerateDataKey'], {
      name: KEY,
      encryptionContext: { a: 'b' },
      length: 64,
    });
    const asked = await keyward(`data-key ${KEY} --show-plaintext`);
    assert.equal(JSON.parse(asked.stdout).plaintext, plaintext.toString('base64'));
    assert.equal(fake.seen['GenerateDataKey']?.['length'], 32);
  });

  it('writes files, the plaintext for its owner alone, and replaces none unasked', async () => {
    const args = `data-key ${KEY} --plaintext-out ../key.bin --wrapped-out ../key.wrapped`;
    const first = await keyward(args);
    assert.deepEqual(JSON.parse(first.stdout), { keyVersion: `${KEY}/versions/1` });
    assert.deepEqual(await readFile(join(fake.folder, 'key.bin')), plaintext);
    assert.deepEqual(await readFile(join(fake.folder, 'key.wrapped')), CIPHERTEXT);
    assert.equal((await stat(join(fake.folder, 'key.bin'))).mode & 0o777, 0o600);
    fake.seen = {};
    const second = await keyward(args);
    assert.deepEqual([second.code, fake.seen], [2, {}]);
    assert.match(second.stderr, /key\.wrapped: it already exists/);
    assert.equal((await keyward(`${args} --force`)).code, 0);
  });
});

describe('data-key --without-plaintext', () => {
  it('asks for none and has none', async () => {
    const args = `data-key ${KEY} --without-plaintext --context a=b --length 16`;
    const { code, stdout } = await keyward(args);
    assert.equal(code, 0);
    assert.deepEqual(JSON.parse(stdout), {
      keyVersion: `${KEY}/versions/1`,
      wrappedDataKey: CIPHERTEXT.toString('base64'),
    });
    assert.deepEqual(fake.seen, {
      GenerateDataKeyWithoutPlaintext: { name: KEY, encryptionContext: { a: 'b' }, length: 16 },
    });
    const both = await keyward(`${args} --plaintext-out ../never`);
    assert.equal(both.code, 2);
  });
});

describe('re-encrypt', () => {
  const base64 = CIPHERTEXT.toString('base64');

  it('keeps the context, or gives it another, or none', async () => {
    const cases: [args: string, destination: object][] = [
      ['', { a: 'b' }],
      [' --new-context c=d --new-context e=', { c: 'd', e: '' }],
      [' --drop-context', {}],
    ];
    for (const [args, destination] of cases) {
      const { code, stdout, stderr } = await keyward(`re-encrypt ${KEY} --context a=b${args}`, {
        input: base64,
      });
      assert.deepEqual([code, stdout, stderr], [0, `${base64}\n`, '']);
      const request = fake.seen['ReEncrypt'] ?? {};
      assert.deepEqual(request['ciphertext'], CIPHERTEXT);
      assert.deepEqual(request['sourceEncryptionContext'], { a: 'b' });
      assert.deepEqual(request['destinationEncryptionContext'], destination);
    }
  });

  it('takes and gives raw bytes and files, names both versions in JSON, and overwrites no input', async () => {
    await writeFile(join(fake.folder, 'old'), CIPHERTEXT);
    const options = `re-encrypt orders --tenant acme --source-key before`;
    assert.deepEqual((await keyward(`${options} --raw`, { input: CIPHERTEXT })).bytes, CIPHERTEXT);
    assert.equal(fake.seen['ReEncrypt']?.['sourceKey'], 'tenants/acme/keys/before');
    assert.equal((await keyward(`${options} --in ../old --out ../new`)).code, 0);
    assert.deepEqual(await readFile(join(fake.folder, 'new')), CIPHERTEXT);
    const json = await keyward(`${options} --output json`, { input: base64 });
    const versions = { sourceKeyVersion: `${KEY}/versions/1`, keyVersion: `${KEY}/versions/1` };
    assert.deepEqual(JSON.parse(json.stdout), { ciphertext: base64, ...versions });
    fake.seen = {};
    const inPlace = await keyward(`${options} --in ../old --out ../below/../old`);
    assert.deepEqual([inPlace.code, fake.seen], [2, {}]);
    assert.match(inPlace.stderr, /it already exists; give --force to replace it/);
    assert.equal((await keyward(options, { input: 'nothing' })).code, 2);
  });

  it('tells which of the two keys is not enabled', async () => {
    const cases = [
      ['KEY_NOT_ENABLED', 'the key', {}, 'the key before'],
      [
        'KEY_VERSION_NOT_ENABLED',
        'the key version',
        { version: '2' },
        'version 2 of the key before',
      ],
    ] as const;
    for (const [reason, what, more, told] of cases) {
      const message = `cannot use ${what}: it is not enabled; enable it`;
      const metadata = { key: 'before', state: 'DISABLED', ...more };
      refuse('ReEncrypt', { code: status.FAILED_PRECONDITION, reason, message, metadata });
      const { stderr } = await keyward(`re-encrypt ${KEY}`, { input: base64 });
      assert.equal(
        stderr,
        `keyward: ${reason}: cannot use ${told}: it is not enabled; enable it\n`,
      );
    }
  });
});

describe('random', () => {
  const data = Buffer.from([0, 255, 10, 13]);

  it('prints base64, raw bytes or JSON, or writes a file for its owner alone', async () => {
    const args = 'random 4 --tenant acme';
    assert.equal((await keyward(args)).stdout, `${data.toString('base64')}\n`);
    assert.deepEqual(fake.seen, { GenerateRandomBytes: { parent: 'tenants/acme', length: 4 } });
    assert.deepEqual((await keyward(`${args} --raw`)).bytes, data);
    const json = await keyward(`${args} --output json`);
    assert.deepEqual(JSON.parse(json.stdout), { data: data.toString('base64') });
    assert.equal((await keyward(`${args} --out ../random`)).stdout, '');
    assert.deepEqual(await readFile(join(fake.folder, 'random')), data);
    assert.equal((await stat(join(fake.folder, 'random'))).mode & 0o777, 0o600);
  });
});

describe('what the service says', () => {
  it('is one line, with the reason, the fields and the request, and code 1', async () => {
    refuse('CreateTenant', {
      code: status.INVALID_ARGUMENT,
      reason: 'INVALID_FIELD',
      message: 'tenant_id: is reserved',
      fieldViolations: [{ field: 'tenant_id', description: 'is reserved' }],
      requestId: 'r-1',
    });
    const field = await keyward('tenants create system');
    assert.deepEqual([field.code, field.stdout], [1, '']);
    assert.equal(field.stderr, 'keyward: INVALID_FIELD: system: is reserved (request r-1)\n');
    const metadata = { permission: 'data.decrypt', resource: KEY };
    refuse('Decrypt', { code: status.PERMISSION_DENIED, reason: 'PERMISSION_MISSING', metadata });
    const forbidden = await keyward('decrypt --tenant acme', { input: CIPHERTEXT });
    assert.deepEqual([forbidden.code, forbidden.stdout], [1, '']);
    assert.match(
      forbidden.stderr,
      /^keyward: PERMISSION_MISSING: cannot perform the call: permission data\.decrypt is missing on tenants\/acme\/keys\/orders; [^\n]* "keyward access explain tenants\/acme\/keys\/orders data\.decrypt --principal NAME", [^\n]*\n$/,
    );
    const abouts: [permission: string, resource: string, about: string][] = [
      ['keyVersions.get', `${KEY}/versions/3`, KEY],
      ['roleBindings.get', 'tenants/acme/roleBindings/b', 'tenants/acme'],
      ['tenants.list', 'tenants', 'tenants/system'],
      ['maintenance.pause', 'maintenance', 'tenants/system'],
      ['rewrapJobs.create', 'tenants/-', 'tenants/system'],
      ['tenants.create', 'tenants/new', 'tenants/system'],
    ];
    for (const [permission, resource, about] of abouts) {
      const facts = { reason: 'PERMISSION_MISSING', metadata: { permission, resource } };
      refuse('Decrypt', { code: status.PERMISSION_DENIED, ...facts });
      const { stderr } = await keyward('decrypt --tenant acme', { input: CIPHERTEXT });
      assert.ok(stderr.includes(`permission ${permission} is missing on ${resource};`), stderr);
      assert.ok(
        stderr.includes(`"keyward access explain ${about} ${permission} --principal`),
        stderr,
      );
    }
    refuse('Decrypt', {
      code: status.PERMISSION_DENIED,
      reason: 'PERMISSION_MISSING',
      message: 'No.',
    });
    const bare = await keyward('decrypt --tenant acme', { input: CIPHERTEXT });
    assert.equal(bare.stderr, 'keyward: PERMISSION_MISSING: No.\n');
    refuse('Decrypt', {
      code: status.INVALID_ARGUMENT,
      reason: 'DECRYPTION_FAILED',
      message: 'It does not open.',
    });
    const decrypt = await keyward('decrypt --tenant acme', { input: CIPHERTEXT });
    assert.deepEqual([decrypt.code, decrypt.stdout], [1, '']);
    assert.equal(decrypt.stderr, 'keyward: DECRYPTION_FAILED: It does not open.\n');
  });

  it('shows where an error came from with KEYWARD_DEBUG, and the plaintext not even then', async () => {
    refuse('Encrypt', { code: status.UNAVAILABLE, reason: 'HSM_UNAVAILABLE' });
    const options = { input: 'TOP-SECRET', env: { KEYWARD_DEBUG: '1' } };
    const { code, stderr } = await keyward(`encrypt ${KEY}`, options);
    assert.equal(code, 1);
    assert.match(stderr, /^keyward: HSM_UNAVAILABLE: Refused\.\n/);
    assert.match(stderr, /at errorOf/);
    assert.doesNotMatch(stderr, /TOP-SECRET/);
    assert.doesNotMatch(stderr, new RegExp(Buffer.from('TOP-SECRET').toString('hex'), 'i'));
  });
});

describe('the connection', () => {
  it('comes from flags, else from the environment', async () => {
    const file = (name: string) => join(fake.folder, '.keyward', name);
    const env = {
      KEYWARD_ADDRESS: fake.service.address,
      KEYWARD_CA_FILE: file('ca.pem'),
      KEYWARD_CERT_FILE: file('cert.pem'),
      KEYWARD_KEY_FILE: file('key.pem'),
    };
    assert.equal((await keyward('tenants list', { cwd: '/', env })).code, 0);
    const wrong = { ...env, KEYWARD_ADDRESS: '127.0.0.1:1' };
    assert.equal((await keyward('tenants list', { cwd: '/', env: wrong })).code, 3);
    const flags = `--address ${fake.service.address} --ca-file ${file('ca.pem')}`;
    assert.equal((await keyward(`tenants list ${flags}`, { cwd: '/', env: wrong })).code, 0);
    const nothing = await keyward('tenants list', { cwd: '/' });
    assert.equal(nothing.code, 2);
    assert.match(nothing.stderr, /no address is given; give --address, set KEYWARD_ADDRESS/);
  });

  it('brings the token of a file, not together with a profile’s certificate', async () => {
    const sent: unknown[] = [];
    fake.handlers['ListTenants'] = (_, call) => {
      sent.push(...call.metadata.get('authorization'));
      return { tenants: [] };
    };
    const token = join(fake.folder, 'token');
    await writeFile(token, 'first.good.token\n');
    const file = (name: string) => join(fake.folder, '.keyward', name);
    const certificate = `--cert-file ${file('cert.pem')} --key-file ${file('key.pem')}`;
    const alone = await keyward(`tenants list --token-file ${token}`);
    // The fake wants a certificate, so that it is seen that none was brought.
    assert.deepEqual([alone.code, sent], [3, []]);
    assert.equal((await keyward(`tenants list --token-file ${token} ${certificate}`)).code, 0);
    const env = { KEYWARD_TOKEN_FILE: token };
    assert.equal((await keyward(`tenants list ${certificate}`, { env })).code, 0);
    assert.deepEqual(sent, ['Bearer first.good.token', 'Bearer first.good.token']);
    const absent = await keyward('tenants list --token-file ./absent');
    assert.deepEqual(
      [absent.code, absent.stderr],
      [2, 'keyward: cannot read ./absent: it does not exist\n'],
    );
    await writeFile(token, 'not a token');
    const wrong = await keyward(`tenants list --token-file ${token}`);
    assert.equal(wrong.code, 1);
    assert.doesNotMatch(wrong.stderr, /must be a page token/);
  });

  it('that nobody answers ends with code 3', async () => {
    const { code, stderr } = await keyward('tenants list --address 127.0.0.1:1');
    assert.equal(code, 3);
    assert.match(
      stderr,
      /^keyward: UNAVAILABLE: nothing listens at 127\.0\.0\.1, port 1; "keyward doctor" shows more\n$/,
    );
    fake.handlers['GetTenant'] = () => new Promise(() => {});
    const late = await keyward('tenants get acme --timeout 0.2');
    assert.equal(late.code, 3);
    assert.match(late.stderr, /DEADLINE_EXCEEDED: no answer from .* by the deadline/);
  });

  it('that the network never answers ends before the network gives up', async () => {
    // Its queue of connections is full, and nothing takes from it.
    const script =
      "require('net').createServer().listen(0, '127.0.0.1', 1, function () {" +
      'console.log(this.address().port); process.kill(process.pid, "SIGSTOP"); })';
    const deaf = spawn(process.execPath, ['--eval', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [line] = await once(deaf.stdout, 'data');
    const before = Array.from({ length: 8 }, () => createConnection(Number(line), '127.0.0.1'));
    let hasGivenUp = false;
    for (const socket of before)
      socket.on('error', () => {
        hasGivenUp = true;
      });
    const address = `127.0.0.1:${Number(line)}`;
    const { code, stderr } = await keyward(`whoami --address ${address} --timeout 1`);
    assert.deepEqual([code, hasGivenUp], [3, false], stderr);
    assert.ok(
      before.some(({ connecting }) => connecting),
      'the network still tries',
    );
    for (const socket of before) socket.destroy();
    deaf.kill('SIGKILL');
  });

  it('with files that are not usable ends with code 2', async () => {
    const absent = await keyward('tenants list --cert-file ./absent.pem');
    assert.deepEqual(
      [absent.code, absent.stderr],
      [2, 'keyward: cannot read ./absent.pem: it does not exist\n'],
    );
    const broken = await keyward('tenants list --cert-file ../.keyward/fake.json');
    assert.equal(broken.code, 2);
    assert.match(broken.stderr, /^keyward: cannot use the (CA|certificate|key) file[^\n]*\n$/);
    for (const address of ['nonsense', 'localhost:0', 'localhost:99999'])
      assert.equal((await keyward(`tenants list --address ${address}`)).code, 2, address);
  });
});

it('from its sources, on a Node that is too old, says which one it needs', () => {
  const older = 'Object.defineProperty(process.versions, "node", { value: "20.20.2" })';
  const main = fileURLToPath(new URL('../../cli/bin/keyward.js', import.meta.url));
  const given = [`--import=data:text/javascript,${encodeURIComponent(older)}`, main, '--version'];
  const { status: code, stderr } = spawnSync(process.execPath, given, { encoding: 'utf8' });
  assert.equal(code, 1);
  assert.match(
    stderr,
    /^keyward: cannot run from its sources on Node 20\.20\.2: they need Node 24/,
  );
});

describe('in a pipe', () => {
  it('a reader that goes away is no error', async () => {
    fake.handlers['ListTenants'] = () => ({ tenants: Array(20_000).fill(TENANT) });
    const main = fileURLToPath(new URL('../../cli/src/main.ts', import.meta.url));
    const child = spawn(
      '/bin/sh',
      ['-c', '("$0" "$1" tenants list; echo "code $?" >&2) | head -1', process.execPath, main],
      {
        cwd: fake.folder,
        env: { ...process.env, KEYWARD_PROFILES: profilesFile(fake.folder) },
        stdio: ['ignore', 'pipe', 'pipe'],
      },
    );
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', (data) => {
      stdout += data;
    });
    child.stderr.on('data', (data) => {
      stderr += data;
    });
    await new Promise((resolve) => child.on('close', resolve));
    assert.match(stdout, /^NAME[^\n]*\n$/);
    assert.equal(stderr, 'code 0\n');
  });

  it('a result that can not be written ends with code 1', async () => {
    const { code, stderr } = await keyward(`encrypt ${KEY} --out /nowhere/at/all`);
    assert.deepEqual(
      [code, stderr],
      [1, 'keyward: cannot write /nowhere/at/all: it does not exist\n'],
    );
  });
});

describe('help', () => {
  it('names every command, the exit codes, and goes to standard output', async () => {
    const { code, stdout, stderr } = await keyward('--help');
    assert.deepEqual([code, stderr], [0, '']);
    for (const word of [
      'tenants',
      'keys',
      'encrypt',
      'decrypt',
      're-encrypt',
      'data-key',
      'random',
      'stored-data-keys',
      'jobs',
      'maintenance',
      'access',
      'whoami',
      'profiles',
      'Exit codes',
      'KEYWARD_ADDRESS',
    ]) {
      assert.ok(stdout.includes(word), word);
    }
    assert.match((await keyward('--version')).stdout, /^\d+\.\d+\.\d+\n$/);
  });
});
