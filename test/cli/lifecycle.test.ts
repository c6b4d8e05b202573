import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { status } from '@grpc/grpc-js';
import { refusal, wireJob, wireKey } from '../client/fake-service.ts';
import {
  DATA_KEY,
  ENDED,
  IMPACT,
  JOB,
  KEY,
  SHRED_IMPACT,
  TENANT,
  USAGE,
  useFakeService,
  VERSION,
  wireRotation,
} from './fake.ts';

const PARENT = 'tenants/acme';
const REQUEST_ID = 'f0000000-0000-4000-8000-000000000000';

const fake = useFakeService();
const { keyward, refuse } = fake;

/** What UpdateKey was asked: the fields that its mask names. */
function updated() {
  const { key, updateMask } = fake.seen['UpdateKey'] as Record<string, Record<string, unknown>>;
  const paths = updateMask?.['paths'] as string[];
  const camelCase = (path: string) => path.replaceAll(/_(.)/g, (_, letter) => letter.toUpperCase());
  return {
    name: key?.['name'],
    etag: key?.['etag'],
    ...Object.fromEntries(paths.map((path) => [path, key?.[camelCase(path)]])),
  };
}

describe('commands about rotation, stored data keys and destruction', () => {
  it('name things in full or by their ids', async () => {
    const page = { pageSize: 100, pageToken: '' };
    const change = { name: KEY, etag: '' };
    const create = {
      parent: KEY,
      dataKeyId: '',
      encryptionContext: {},
      length: 32,
      returnPlaintext: false,
    };
    const destroy = { name: KEY, etag: '', windowDays: 0, validateOnly: true };
    const kind = 'REWRAP_JOB_KIND_UNSPECIFIED';
    const cases: [args: string, method: string, request: object][] = [
      ['keys history orders --tenant acme', 'ListRotations', { parent: KEY, ...page }],
      ['keys restore orders --tenant acme', 'RestoreKey', change],
      [`keys restore ${KEY} --etag k1`, 'RestoreKey', { name: KEY, etag: 'k1' }],
      [
        'keys version restore orders/versions/1 --tenant acme',
        'RestoreKeyVersion',
        { name: VERSION, etag: '' },
      ],
      ['tenants restore acme', 'RestoreTenant', { name: PARENT, etag: '' }],
      ['tenants restore tenants/acme --etag t1', 'RestoreTenant', { name: PARENT, etag: 't1' }],
      ['tenants shred acme', 'ShredTenant', { ...destroy, name: PARENT }],
      ['keys destroy orders --tenant acme', 'ScheduleKeyDestruction', destroy],
      [
        `keys version destroy ${VERSION}`,
        'ScheduleKeyVersionDestruction',
        { ...destroy, name: VERSION },
      ],
      [`stored-data-keys create ${KEY}`, 'CreateDataKey', create],
      [
        'stored-data-keys create orders --tenant acme --id db --context a=b --length 64',
        'CreateDataKey',
        { ...create, dataKeyId: 'db', encryptionContext: { a: 'b' }, length: 64 },
      ],
      [
        'stored-data-keys get orders/dataKeys/db --tenant acme --context a=b',
        'GetDataKey',
        { name: DATA_KEY, encryptionContext: { a: 'b' } },
      ],
      [
        `stored-data-keys list ${KEY} --filter version=1`,
        'ListDataKeys',
        { parent: KEY, ...page, filter: 'version=1' },
      ],
      [
        `stored-data-keys delete ${DATA_KEY} --confirm d1`,
        'DeleteDataKey',
        { name: DATA_KEY, etag: 'd1' },
      ],
      [`jobs create ${KEY}`, 'CreateRewrapJob', { scope: KEY, kind }],
      ['jobs create orders --tenant acme', 'CreateRewrapJob', { scope: KEY, kind }],
      ['jobs create acme', 'CreateRewrapJob', { scope: PARENT, kind }],
      ['jobs create -', 'CreateRewrapJob', { scope: 'tenants/-', kind }],
      [
        'jobs create - --key-versions',
        'CreateRewrapJob',
        { scope: 'tenants/-', kind: 'REWRAP_JOB_KIND_KEY_VERSIONS' },
      ],
      ['jobs list acme', 'ListRewrapJobs', { parent: PARENT, ...page, filter: '' }],
      [
        'jobs list --tenant system --filter state=RUNNING',
        'ListRewrapJobs',
        { parent: 'tenants/system', ...page, filter: 'state=RUNNING' },
      ],
      [`jobs get ${JOB}`, 'GetRewrapJob', { name: JOB }],
      [
        'jobs cancel 018f0000-0000-7000-8000-00000000000b --tenant acme',
        'CancelRewrapJob',
        { name: JOB },
      ],
      [`jobs watch ${JOB}`, 'WatchRewrapJob', { name: JOB }],
      ['maintenance status', 'GetMaintenance', {}],
      ['maintenance pause', 'PauseMaintenance', {}],
      ['maintenance resume', 'ResumeMaintenance', {}],
    ];
    for (const [args, method, request] of cases) {
      const { code, stderr } = await keyward(args);
      const { requestId, ...rest } = fake.seen[method] ?? {};
      assert.deepEqual([code, stderr, rest], [0, '', request], args);
      assert.equal(
        typeof requestId,
        /^(Get|List|Watch)/.test(method) ? 'undefined' : 'string',
        args,
      );
    }
  });

  it('change things under the request id that is given', async () => {
    const cases: [args: string, method: string][] = [
      [`keys schedule ${KEY} --no-period`, 'UpdateKey'],
      [`keys pause ${KEY}`, 'UpdateKey'],
      [`keys rotate ${KEY} --watch`, 'RotateKey'],
      ['tenants shred acme --confirm now', 'ShredTenant'],
      ['tenants restore acme', 'RestoreTenant'],
      [`keys destroy ${KEY} --confirm now`, 'ScheduleKeyDestruction'],
      [`keys version restore ${VERSION}`, 'RestoreKeyVersion'],
      [`stored-data-keys create ${KEY}`, 'CreateDataKey'],
      [`stored-data-keys delete ${DATA_KEY} --confirm d1`, 'DeleteDataKey'],
      [`jobs create ${KEY}`, 'CreateRewrapJob'],
      [`jobs cancel ${JOB}`, 'CancelRewrapJob'],
      ['maintenance pause', 'PauseMaintenance'],
    ];
    fake.handlers['ListRotations'] = () => ({ rotations: [wireRotation(2, JOB)] });
    for (const [args, method] of cases) {
      await keyward(`${args} --request-id ${REQUEST_ID}`);
      assert.equal(fake.seen[method]?.['requestId'], REQUEST_ID, args);
    }
  });

  it('refuse with code 2 what is not named as it must be, and send nothing', async () => {
    const cases: [string, RegExp][] = [
      [`keys create ${KEY} --rotation-period 90`, /Write 90d, 12h, 30m, 45s or 1h30m/],
      [`keys create ${KEY} --next-rotation tomorrow`, /or RFC 3339/],
      [`keys create ${KEY} --usage-limit many`, /Write a whole number/],
      [`keys schedule ${KEY}`, /no change is named/],
      [`keys schedule ${KEY} --next 2027-02-29T00:00:00Z`, /or RFC 3339/],
      [`keys destroy ${KEY} --window 30`, /Write days, as in 30d/],
      [`keys destroy ${KEY} --window 36h`, /Write days, as in 30d/],
      ['tenants shred acme --window 30', /Write days, as in 30d/],
      [`tenants shred ${KEY}`, /is not a tenant/],
      [`keys version destroy ${KEY}`, /is not a version/],
      [
        `stored-data-keys get ${KEY}`,
        /is not a stored data key; write tenants\/acme\/keys\/orders\/dataKeys/,
      ],
      ['stored-data-keys get orders/dataKeys/db', /the key orders: its tenant is missing/],
      ['jobs get 018f0000', /the job 018f0000: its tenant is missing/],
      [
        'jobs get nope --tenant acme',
        /is not a job, whose name ends in a UUID; "keyward jobs list" /,
      ],
      [`jobs get ${JOB} --tenant other`, /is not a job of tenants\/other/],
      ['jobs list', /cannot list jobs/],
      ['jobs create tenants/acme/rewrapJobs/x', /is not a tenant/],
    ];
    const outcomes = await Promise.all(cases.map(([args]) => keyward(args)));
    for (const [i, outcome] of outcomes.entries()) {
      assert.deepEqual([outcome.code, outcome.stdout], [2, ''], cases[i]?.[0]);
      assert.match(outcome.stderr, cases[i]?.[1] ?? /^$/);
      assert.match(outcome.stderr, /^keyward: [^\n]+\n$/);
    }
    assert.deepEqual(fake.seen, {});
  });
});

describe('a schedule', () => {
  const next = { seconds: 1_800_000_000, nanos: 0 };
  const scheduled = {
    ...wireKey(KEY),
    rotationPeriod: { seconds: 7_776_000, nanos: 0 },
    nextRotationTime: next,
    rotationUsageLimit: 1_000_000,
    maintenancePaused: true,
  };

  it('is given to a new key', async () => {
    fake.handlers['CreateKey'] = () => scheduled;
    const args = `keys create ${KEY} --rotation-period 90d --next-rotation 2027-01-15T08:00:00Z --usage-limit 1000000`;
    const { stdout } = await keyward(args);
    const { rotationPeriod, nextRotationTime, rotationUsageLimit } = fake.seen['CreateKey'] ?? {};
    assert.deepEqual(
      { rotationPeriod, nextRotationTime, rotationUsageLimit },
      {
        rotationPeriod: { seconds: 7_776_000, nanos: 0 },
        nextRotationTime: next,
        rotationUsageLimit: 1_000_000,
      },
    );
    assert.match(stdout, / 2027-01-15T08:00:00\.000Z \(PAUSED\) /);
  });

  it('is changed in what is named, and shown', async () => {
    fake.handlers['UpdateKey'] = () => scheduled;
    const cases: [args: string, fields: object][] = [
      ['--period 12h', { rotation_period: { seconds: 43_200, nanos: 0 } }],
      ['--no-period', { rotation_period: null }],
      ['--next 2027-01-15T09:00:00+01:00', { next_rotation_time: next }],
      ['--usage-limit 0', { rotation_usage_limit: 0 }],
    ];
    for (const [args, fields] of cases) {
      const { code, stdout } = await keyward(`keys schedule ${KEY} ${args} --etag k1`);
      assert.equal(code, 0);
      assert.deepEqual(updated(), { name: KEY, etag: 'k1', ...fields }, args);
      assert.match(stdout, /^NAME +STATE +PERIOD +NEXT ROTATION +USAGE LIMIT +MAINTENANCE\n/);
      assert.match(stdout, / ENABLED +90d +2027-01-15T08:00:00\.000Z +1000000 +PAUSED\n$/);
    }
    const { stdout } = await keyward(`keys schedule ${KEY} --no-period --output json`);
    const { rotationPeriodSeconds, nextRotationTime, rotationUsageLimit } = JSON.parse(stdout);
    assert.deepEqual(
      [rotationPeriodSeconds, nextRotationTime, rotationUsageLimit],
      [7_776_000, '2027-01-15T08:00:00.000Z', 1_000_000],
    );
  });

  it('has epochs beside it, which are given to a new key, changed in what is named, and shown', async () => {
    fake.handlers['CreateKey'] = () => scheduled;
    await keyward(`keys create ${KEY} --epoch-messages 1000 --epoch-age 5m`);
    const { epochMaxMessages, epochMaxAge } = fake.seen['CreateKey'] ?? {};
    assert.deepEqual([epochMaxMessages, epochMaxAge], [1_000, { seconds: 300, nanos: 0 }]);
    fake.handlers['UpdateKey'] = () => ({ ...scheduled, epochMaxMessages: 1_000, epochMaxAge });
    const cases: [args: string, fields: object][] = [
      ['--messages 1000', { epoch_max_messages: 1_000 }],
      ['--age 45s', { epoch_max_age: { seconds: 45, nanos: 0 } }],
      ['--messages 0', { epoch_max_messages: 0 }],
    ];
    for (const [args, fields] of cases) {
      const { code, stdout } = await keyward(`keys epochs ${KEY} ${args} --etag k1`);
      assert.equal(code, 0);
      assert.deepEqual(updated(), { name: KEY, etag: 'k1', ...fields }, args);
      assert.match(stdout, /^NAME +STATE +EPOCH MESSAGES +EPOCH AGE\n.* ENABLED +1000 +5m\n$/);
    }
    const { code, stderr } = await keyward(`keys epochs ${KEY}`);
    assert.equal(code, 2);
    assert.match(stderr, /no change is named; give --messages or --age/);
  });

  it('is paused and resumed for one key', async () => {
    for (const [word, maintenance_paused] of [
      ['pause', true],
      ['resume', false],
    ]) {
      const { stdout } = await keyward(`keys ${word} ${KEY}`);
      assert.deepEqual(updated(), { name: KEY, etag: '', maintenance_paused });
      assert.match(stdout, / none +never +none +ON\n$/);
    }
  });
});

describe('maintenance', () => {
  it('says whether it is paused, since when and by whom', async () => {
    assert.match(
      (await keyward('maintenance status')).stdout,
      /^MAINTENANCE +SINCE +CALLER\nON +never changed\n$/,
    );
    const { stdout } = await keyward('maintenance pause');
    assert.match(stdout, /\nPAUSED +2023-11-14T22:13:20\.000Z +spiffe:\/\/a\n$/);
    assert.deepEqual(JSON.parse((await keyward('maintenance resume --output json')).stdout), {
      paused: false,
      changeTime: '2023-11-14T22:13:20.000Z',
      caller: 'spiffe://a',
    });
  });
});

describe('history and versions', () => {
  it('show what each rotation was, and what its job has done', async () => {
    const { stdout } = await keyward(`keys history ${KEY} -o wide`);
    assert.match(
      stdout,
      /^ROTATED +FROM +TO +CAUSE +TOOK +RE-WRAP +DONE +LEFT +FAILED +JOB +CALLER\n2023[^ ]+ +2 +3 +SCHEDULE +42ms +RUNNING +500 +499 +1 +018f0000[-0-9a-f]*b-3 +keyward\n2023[^ ]+ +1 +2 [^\n]+\n$/,
    );
    const [newest] = JSON.parse((await keyward(`keys history ${KEY} --output json`)).stdout);
    assert.deepEqual([newest.durationSeconds, newest.rewrapJob], [0.0417, `${JOB}-3`]);
  });

  it('show how versions were used, and when they are destroyed', async () => {
    const version = wireKey(KEY).primary;
    const destroyTime = IMPACT.destroyTime;
    fake.handlers['ListKeyVersions'] = () => ({
      keyVersions: [
        { ...version, usage: USAGE },
        { ...version, state: 'KEY_VERSION_STATE_DESTROY_SCHEDULED', destroyTime },
        {
          ...version,
          state: 'KEY_VERSION_STATE_DESTROYED',
          destroyTime,
          destroyEventTime: destroyTime,
        },
      ],
    });
    const { stdout } = await keyward(`keys versions ${KEY}`);
    const [head, used, scheduled, destroyed] = stdout.split('\n');
    assert.match(head ?? '', /ENCRYPTIONS +LAST ENCRYPTION +DECRYPTIONS +LAST DECRYPTION$/);
    assert.match(used ?? '', / ENABLED .* 4000 +2023-11-14T22:15:00\.000Z +17 +never$/);
    assert.match(scheduled ?? '', / DESTROY_SCHEDULED \(2023-12-14T22:13:20\.000Z\) /);
    assert.match(destroyed ?? '', / DESTROYED \(2023-12-14T22:13:20\.000Z\) /);
    fake.handlers['GetKeyVersion'] = () => ({ ...version, usage: USAGE });
    const one = JSON.parse((await keyward(`keys version get ${VERSION} --output json`)).stdout);
    assert.deepEqual(
      [one.usage.encryptOperations, one.usage.completeTime],
      [4000, '2023-11-14T22:16:40.000Z'],
    );
  });
});

describe('destroy', () => {
  it('shows what would be lost and the command that does it, and changes nothing', async () => {
    fake.handlers['ScheduleKeyDestruction'] = () => ({
      key: wireKey(KEY),
      impact: { ...IMPACT, etag: "it's", notice: 'Backups\u001b[2J keep it.' },
    });
    const args = ['keys', 'destroy', 'orders', '--tenant', 'acme', '--window', '7d'];
    const { code, stdout, stderr } = await keyward([...args, '--request-id', REQUEST_ID]);
    assert.deepEqual([code, stderr], [0, '']);
    const { requestId, ...request } = fake.seen['ScheduleKeyDestruction'] ?? {};
    assert.deepEqual(request, { name: KEY, etag: '', windowDays: 7, validateOnly: true });
    assert.notEqual(requestId, REQUEST_ID, 'is for the command that does it');
    assert.equal(
      stdout,
      [
        `Nothing has changed yet. ${KEY} would be destroyed at 2023-12-14T22:13:20.000Z:`,
        '',
        '  key versions      3',
        '  stored data keys  120',
        '  encryptions       4000, the last at 2023-11-14T22:15:00.000Z',
        '  decryptions       17',
        '  counted up to     2023-11-14T22:16:40.000Z',
        '',
        'Backups?[2J keep it.',
        '',
        'To schedule it:',
        '',
        `  keyward ${args.join(' ')} --request-id ${REQUEST_ID} --confirm 'it'\\''s'`,
        '',
      ].join('\n'),
    );
    const command = stdout.trimEnd().split('\n').at(-1) ?? '';
    const words = execFileSync('/bin/sh', ['-c', `printf '%s\\n' ${command}`], {
      encoding: 'utf8',
    });
    assert.equal(words.split('\n').at(-2), "it's");
  });

  it('of a tenant shows what is out of reach, and what an operator has to see to', async () => {
    const { code, stdout, stderr } = await keyward('tenants shred acme --window 7d');
    assert.deepEqual([code, stderr], [0, '']);
    assert.equal(
      stdout,
      [
        'Nothing has changed yet. tenants/acme would be shredded at 2023-12-14T22:13:20.000Z:',
        '',
        '  keys              2',
        '  key versions      3',
        '  stored data keys  120',
        '  last use          2023-11-14T22:15:00.000Z',
        '  root key          tenants/acme/tokenKeys/b',
        '  root key          tenants/acme/tokenKeys/a',
        '',
        'The audit log keeps names.',
        '',
        'Its root keys must also be destroyed in each of these copies:',
        '- Backups of the token.',
        '- Other tokens of the cluster.',
        '',
        'To schedule it:',
        '',
        '  keyward tenants shred acme --window 7d --confirm now',
        '',
      ].join('\n'),
    );
    const shared = { ...SHRED_IMPACT, lastUseTime: null, rootKeys: [], checklist: [] };
    fake.handlers['ShredTenant'] = () => ({
      tenant: TENANT,
      impact: { ...shared, notice: 'a\u001b[2Jb' },
    });
    const words = (await keyward('tenants shred acme')).stdout;
    assert.match(words, / last use {10}never\n\na\?\[2Jb\n\nTo schedule it:\n/);
  });

  it('is done under the etag that was shown, and undone', async () => {
    const cases: [args: string, method: string, name: string][] = [
      [`keys destroy ${KEY}`, 'ScheduleKeyDestruction', KEY],
      [`keys version destroy ${VERSION}`, 'ScheduleKeyVersionDestruction', VERSION],
      ['tenants shred acme', 'ShredTenant', PARENT],
    ];
    for (const [args, method, name] of cases) {
      const { code, stdout } = await keyward(
        `${args} --window 7d --confirm now --request-id ${REQUEST_ID}`,
      );
      assert.equal(code, 0);
      const request = {
        name,
        etag: 'now',
        windowDays: 7,
        validateOnly: false,
        requestId: REQUEST_ID,
      };
      assert.deepEqual(fake.seen[method], request);
      assert.match(
        stdout,
        /^NAME[^\n]+\n[^\n]+ (DESTROY|SHRED)_SCHEDULED \(2023-12-14T22:13:20\.000Z\) [^\n]+\n$/,
      );
      const json = JSON.parse((await keyward(`${args} --output json`)).stdout);
      assert.deepEqual([json.impact.etag, json.impact.storedDataKeys], ['now', 120]);
      assert.match(
        (json.key ?? json.keyVersion ?? json.tenant).state,
        /^(DESTROY|SHRED)_SCHEDULED$/,
      );
    }
    assert.match((await keyward('tenants restore acme')).stdout, /^NAME[^\n]+\n\S+acme +DISABLED /);
    assert.match((await keyward(`keys restore ${KEY}`)).stdout, /^NAME[^\n]+\n\S+orders +1 /);
  });

  it('says why not', async () => {
    refuse('ScheduleKeyVersionDestruction', {
      code: status.FAILED_PRECONDITION,
      reason: 'KEY_VERSION_IS_PRIMARY',
      message: 'Rotate first.',
    });
    const { code, stdout, stderr } = await keyward(`keys version destroy ${VERSION}`);
    assert.deepEqual(
      [code, stdout, stderr],
      [1, '', 'keyward: KEY_VERSION_IS_PRIMARY: Rotate first.\n'],
    );
  });
});

describe('stored-data-keys', () => {
  const plaintext = Buffer.alloc(32, 7);

  it('show the plaintext only when asked, and ask for it only then', async () => {
    const create = `stored-data-keys create ${KEY}`;
    const get = `stored-data-keys get ${DATA_KEY}`;
    for (const [args, wanted] of [
      [create, undefined],
      [`${create} --show-plaintext`, plaintext.toString('base64')],
      [get, undefined],
      [`${get} --show-plaintext`, plaintext.toString('base64')],
    ]) {
      const json = JSON.parse((await keyward(`${args} --output json`)).stdout);
      assert.deepEqual([json.name, json.plaintext], [DATA_KEY, wanted], args);
      assert.equal(json.rewrapTime, '2023-11-14T22:14:20.000Z');
      const { stdout } = await keyward(`${args} -o wide`);
      assert.equal(stdout.includes(plaintext.toString('base64')), wanted !== undefined, args);
      assert.match(stdout, /^NAME +VERSION +LENGTH +UID +CREATED +RE-WRAPPED/);
    }
    await keyward(create);
    assert.equal(fake.seen['CreateDataKey']?.['returnPlaintext'], false);
  });

  it('write the plaintext for its owner alone, and overwrite no file unasked', async () => {
    const file = join(fake.folder, 'stored.bin');
    for (const args of [`create ${KEY}`, `get ${DATA_KEY}`]) {
      fake.seen = {};
      const command = `stored-data-keys ${args} --plaintext-out ../stored.bin`;
      const first = await keyward(`${command} --force --output json`);
      assert.equal(JSON.parse(first.stdout).plaintext, undefined);
      assert.deepEqual(await readFile(file), plaintext);
      assert.equal((await stat(file)).mode & 0o777, 0o600);
      fake.seen = {};
      const second = await keyward(command);
      assert.deepEqual([second.code, fake.seen], [2, {}]);
      assert.match(second.stderr, /stored\.bin: it already exists/);
    }
    const piped = await keyward(`stored-data-keys get ${DATA_KEY} --plaintext-out -`);
    assert.deepEqual(piped.bytes, plaintext);
  });

  it('are listed and deleted', async () => {
    const { stdout } = await keyward(`stored-data-keys list ${KEY} -o wide`);
    assert.match(
      stdout,
      /^NAME[^\n]+\n\S+dataKeys\/db +2 +32 +018f[^\n]+ +2023-11-14T22:14:20\.000Z\n$/,
    );
    const command = `stored-data-keys delete ${DATA_KEY} --confirm d1`;
    const deleted = await keyward(command);
    assert.deepEqual([deleted.code, deleted.stdout], [0, `Deleted ${DATA_KEY}.\n`]);
    assert.equal((await keyward(`${command} --output json`)).stdout, '{}\n');
  });

  it('are deleted only once it was shown what is lost', async () => {
    const { code, stdout } = await keyward(
      'stored-data-keys delete orders/dataKeys/db --tenant acme',
    );
    assert.deepEqual(
      [code, fake.seen['DeleteDataKey'], fake.seen['GetDataKey']],
      [0, undefined, undefined],
    );
    assert.match(
      stdout,
      /^Nothing has changed yet\. tenants\/acme\/keys\/orders\/dataKeys\/db would be deleted at once/,
    );
    assert.match(stdout, /\n {2}length +32 bytes\n/);
    assert.match(
      stdout,
      /\nTo delete it:\n\n {2}keyward stored-data-keys delete orders\/dataKeys\/db --tenant acme --confirm \S+\n$/,
    );
    const absent = await keyward(`stored-data-keys delete ${KEY}/dataKeys/other`);
    assert.deepEqual(
      [absent.code, absent.stderr],
      [1, `keyward: cannot delete ${KEY}/dataKeys/other: there is no such stored data key\n`],
    );
  });
});

describe('a job', () => {
  const failures = [
    { resource: DATA_KEY, reason: 'DECRYPTION_FAILED', time: { seconds: 1_700_000_005, nanos: 0 } },
  ];

  it('is shown with what it could not open', async () => {
    fake.handlers['GetRewrapJob'] = () =>
      wireJob(JOB, { failed: 1, failures, paused: true, totalIsFinal: false });
    const { stdout } = await keyward(`jobs get ${JOB} -o wide`);
    const [head, job, empty, ...rest] = stdout.split('\n');
    assert.match(
      head ?? '',
      /^NAME +SCOPE +KIND +STATE +CAUSE +TOTAL +DONE +LEFT +FAILED +STARTED +ENDED +CALLER$/,
    );
    assert.match(job ?? '', / DATA_KEYS +RUNNING \(PAUSED\) +REQUEST +1000\+ +500 +500 +1 +2023/);
    assert.equal(empty, '');
    assert.match(
      rest.join('\n'),
      /^RESOURCE +REASON +TIME\n\S+dataKeys\/db +DECRYPTION_FAILED +2023\S+Z\n$/,
    );
    const json = JSON.parse((await keyward(`jobs get ${JOB} --output json`)).stdout);
    assert.deepEqual([json.timeLeftSeconds, json.failures[0].reason], [8, 'DECRYPTION_FAILED']);
    assert.match(
      (await keyward('jobs list acme')).stdout,
      /^NAME[^\n]+\n\S+018f0000[-0-9a-f]* [^\n]+\n$/,
    );
  });

  it('is watched to its end, silently where there is no terminal, and then shown', async () => {
    const { code, stdout, stderr } = await keyward(`jobs watch ${JOB} -o wide`);
    assert.deepEqual([code, stderr], [0, '']);
    assert.match(
      stdout,
      /^NAME[^\n]+\n\S+018f0000[-0-9a-f]* [^\n]+ SUCCEEDED +REQUEST +1000 +1000 +0 +0 [^\n]+\n$/,
    );
    const json = await keyward(
      'jobs watch 018f0000-0000-7000-8000-00000000000b --tenant acme --output json',
    );
    assert.equal(JSON.parse(json.stdout).state, 'SUCCEEDED');
  });

  it('that ends with something left undone ends with code 1, once it is shown', async () => {
    const cases: [state: string, code: number, stderr: string, kind?: string][] = [
      ['SUCCEEDED', 0, ''],
      ['SUPERSEDED', 0, ''],
      ['PARTIAL', 1, 'keyward: the job ended PARTIAL: it could not open 1 stored data keys\n'],
      [
        'PARTIAL',
        1,
        'keyward: the job ended PARTIAL: it could not open 1 key versions\n',
        'KEY_VERSIONS',
      ],
      ['CANCELLED', 1, 'keyward: the job was cancelled\n'],
    ];
    for (const [state, code, stderr, kind = 'DATA_KEYS'] of cases) {
      const ended = { ...ENDED, state: `REWRAP_JOB_STATE_${state}`, failed: 1 };
      fake.handlers['WatchRewrapJob'] = () => [
        wireJob(JOB, { ...ended, kind: `REWRAP_JOB_KIND_${kind}` }),
      ];
      const outcome = await keyward(`jobs watch ${JOB}`);
      assert.deepEqual([outcome.code, outcome.stderr], [code, stderr]);
      assert.match(outcome.stdout, new RegExp(`^NAME.*\\n.* ${state} `));
    }
  });

  it('is watched on when the connection is lost, and given up when that is of no use', async () => {
    let calls = 0;
    fake.handlers['WatchRewrapJob'] = async function* () {
      calls += 1;
      yield wireJob(JOB, calls === 5 ? ENDED : {});
      const retryDelay = { seconds: 0, nanos: 1_000_000 };
      if (calls < 5)
        throw refusal({ code: status.UNAVAILABLE, reason: 'SERVER_STOPPING', retryDelay });
    };
    assert.equal((await keyward(`jobs watch ${JOB}`)).code, 0);
    assert.equal(calls, 5);
    refuse('WatchRewrapJob', { code: status.NOT_FOUND, reason: 'RESOURCE_NOT_FOUND' });
    const lost = await keyward(`jobs watch ${JOB}`);
    assert.deepEqual([lost.code, lost.stdout], [1, '']);
    assert.match(lost.stderr, /^keyward: RESOURCE_NOT_FOUND/);
  });

  it('is watched for as long as it takes, or as --timeout says', async () => {
    fake.handlers['WatchRewrapJob'] = async function* (_request, call) {
      assert.equal(call.getDeadline(), Number.POSITIVE_INFINITY);
      yield wireJob(JOB, ENDED);
    };
    assert.equal((await keyward(`jobs watch ${JOB}`)).code, 0);
    fake.handlers['WatchRewrapJob'] = async function* () {
      yield wireJob(JOB);
      await new Promise(() => {});
    };
    const late = await keyward(`jobs watch ${JOB} --timeout 0.5`);
    assert.deepEqual([late.code, late.stdout], [1, '']);
    assert.equal(late.stderr, `keyward: ${JOB} is still RUNNING\n`);
  });
});

describe('keys rotate --watch', () => {
  it('watches the job of this very rotation, and shows it as it ended', async () => {
    const { code, stdout, stderr } = await keyward(`keys rotate ${KEY} --watch`);
    assert.deepEqual([code, stderr], [0, '']);
    assert.deepEqual(fake.seen['WatchRewrapJob'], { name: JOB });
    assert.match(stdout, /^NAME +SCOPE[^\n]+\n\S+018f0000[-0-9a-f]* [^\n]+ SUCCEEDED [^\n]+\n$/);
    fake.handlers['WatchRewrapJob'] = () => [wireJob(JOB, { state: 'REWRAP_JOB_STATE_CANCELLED' })];
    const cancelled = await keyward(`keys rotate ${KEY} --watch --output json`);
    assert.equal(cancelled.code, 1);
    const { error } = JSON.parse(cancelled.stderr);
    assert.deepEqual(error, { retryable: false, message: 'the job was cancelled', exitCode: 1 });
    assert.equal(JSON.parse(cancelled.stdout).state, 'CANCELLED');
  });

  it('says that the key is rotated when what comes after fails', async () => {
    refuse('WatchRewrapJob', { code: status.INTERNAL, reason: 'INTERNAL', message: 'Bad.' });
    const { code, stderr } = await keyward(`keys rotate ${KEY} --watch`);
    assert.equal(code, 1);
    assert.equal(
      stderr,
      'keyward: rotated to version 2, but cannot watch its job:\nkeyward: INTERNAL: Bad.\n',
    );
    fake.handlers['ListRotations'] = () => ({ rotations: [] });
    const unknown = await keyward(`keys rotate ${KEY} --watch`);
    assert.match(unknown.stderr, /the service has no rotation to \S+versions\/2\n$/);
    refuse('RotateKey', { code: status.NOT_FOUND, reason: 'RESOURCE_NOT_FOUND' });
    assert.doesNotMatch((await keyward(`keys rotate ${KEY} --watch`)).stderr, /rotated/);
  });
});

describe('help of a group', () => {
  it('names its commands', async () => {
    const groups: Record<string, string[]> = {
      keys: [
        'rotate',
        'schedule',
        'pause',
        'resume',
        'history',
        'destroy',
        'restore',
        'versions',
        'version',
      ],
      'keys version': ['get', 'disable', 'enable', 'destroy', 'restore'],
      'stored-data-keys': ['create', 'get', 'list', 'delete'],
      tenants: ['create', 'list', 'get', 'disable', 'enable', 'shred', 'restore'],
      jobs: ['create', 'get', 'list', 'cancel', 'watch'],
      hsm: ['rotate-root', 'rotate-seal', 'keys', 'key'],
      maintenance: ['status', 'pause', 'resume'],
    };
    for (const [group, commands] of Object.entries(groups)) {
      const { stdout } = await keyward(`${group} --help`);
      for (const command of commands)
        assert.match(stdout, new RegExp(`^  ${command} `, 'm'), command);
    }
    assert.match(
      (await keyward('jobs watch --help')).stdout,
      /exit code is 1 if the job ends PARTIAL or CANCELLED/,
    );
  });
});
