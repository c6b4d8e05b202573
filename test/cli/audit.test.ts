import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, beforeEach, describe, it } from 'node:test';
import { status } from '@grpc/grpc-js';
import { fakeLog } from '../audit/fake-log.ts';
import {
  checkpointOver,
  ENVIRONMENT,
  entryLine,
  entryLines,
  newLogKey,
  newWitness,
} from '../audit/log.ts';
import { useFakeService } from './fake.ts';

const fake = useFakeService();
const { keyward, refuse } = fake;
const key = newLogKey();
const lines = entryLines(300).with(
  299,
  entryLine(299, {
    outcome: 'PERMISSION_DENIED',
    decision: 'denied',
    count: 12,
    caller: '\u001b[31mred',
  }),
);

/** Where the command runs. */
const inFolder = (name: string) => join(fake.folder, 'below', name);

beforeEach(() => {
  fake.handlers = { ...fake.handlers, ...fakeLog(lines, key) };
});

describe('keyward audit', () => {
  it('asks for what its words say', async () => {
    const page = { pageSize: 100, pageToken: '', filter: '', startTime: null, endTime: null };
    const read = { treeSize: 0, filter: '' };
    const cases: [args: string, method: string, request: object][] = [
      ['audit list acme', 'ListEntries', { parent: 'tenants/acme', ...page }],
      ['audit list -', 'ListEntries', { parent: 'tenants/-', ...page }],
      [
        'audit list --tenant acme --filter outcome!=OK --since 2027-01-31T12:00:00Z --until 2027-02-01T00:00:00.5Z --limit 7',
        'ListEntries',
        {
          parent: 'tenants/acme',
          pageSize: 7,
          pageToken: '',
          filter: 'outcome!=OK',
          startTime: { seconds: 1_801_396_800, nanos: 0 },
          endTime: { seconds: 1_801_440_000, nanos: 500_000_000 },
        },
      ],
      ['audit tail acme', 'ReadEntries', { parent: 'tenants/acme', firstLeafIndex: 300, ...read }],
      [
        'audit tail - --from 290 --filter decision=denied',
        'ReadEntries',
        { parent: 'tenants/-', firstLeafIndex: 290, treeSize: 0, filter: 'decision=denied' },
      ],
    ];
    for (const [args, method, request] of cases) {
      const { code, stderr } = await keyward(args);
      assert.deepEqual([code, stderr, fake.seen[method]], [0, '', request], args);
    }
  });

  it('lists as many as are wanted, newest first, as a table or as JSON', async () => {
    const table = (await keyward('audit list acme --limit 2')).stdout.split('\n');
    assert.match(
      table[0] ?? '',
      /^ENTRY +TIME +TENANT +CALLER +METHOD +RESOURCE +DECISION +OUTCOME$/,
    );
    assert.match(
      table[1] ?? '',
      /^299 +2027-\S+Z +acme +\?\[31mred .* denied +PERMISSION_DENIED \(12 times\)$/,
    );
    assert.match(table[2] ?? '', /^298 .* allowed +OK$/);
    assert.deepEqual(table.slice(3), ['']);
    const json = JSON.parse((await keyward('audit list acme --limit 250 --output json')).stdout);
    assert.equal(json.length, 250);
    assert.deepEqual(json[0], { leafIndex: 299, ...JSON.parse(lines[299] ?? '') });
    assert.equal((await keyward('audit list acme --limit 0')).code, 2);
  });

  it('follows entries as they come, one line each: words that command no terminal, or the entry as it is', async () => {
    const { stdout } = await keyward('audit tail - --from 298');
    assert.match(
      stdout,
      /^298 {2}2027\S+ {2}acme {2}spiffe:\/\/\S+ .*allowed {2}OK\n299 .*\?\[31mred.*\n$/,
    );
    const json = await keyward('audit tail - --from 298 --output json');
    assert.equal(json.stdout, `${lines[298]}\n${lines[299]}\n`);
  });

  it('follows for as long as is wanted, which is no failure while the service answers', async () => {
    fake.handlers['ReadEntries'] = async function* () {
      await new Promise(() => {});
    };
    const ended = await keyward('audit tail - --timeout 0.5');
    assert.deepEqual([ended.code, ended.stdout, ended.stderr], [0, '', '']);
    fake.handlers['GetCaller'] = () => new Promise(() => {});
    assert.equal((await keyward('audit tail - --timeout 0.5')).code, 3);
  });

  it('follows a log that has signed nothing yet from its beginning', async () => {
    refuse('GetCheckpoint', { code: status.NOT_FOUND, reason: 'RESOURCE_NOT_FOUND' });
    assert.equal((await keyward('audit tail -')).code, 0);
    assert.equal(fake.seen['ReadEntries']?.['firstLeafIndex'], 0);
  });

  it('shows the checkpoint and the key, and hands cosignatures over', async () => {
    const note = checkpointOver(lines, key);
    fake.handlers['GetCheckpoint'] = () => ({
      ...(fakeLog(lines, key)['GetCheckpoint']?.({}, never) as object),
      note,
    });
    assert.equal((await keyward('audit checkpoint')).stdout, note);
    assert.equal(fake.seen['GetCheckpoint']?.['cosigned'], false);
    assert.equal((await keyward('audit checkpoint --cosigned')).stdout, note);
    assert.equal(fake.seen['GetCheckpoint']?.['cosigned'], true);
    const json = JSON.parse((await keyward('audit checkpoint --output json')).stdout);
    assert.deepEqual([json.note, json.treeSize, json.environmentId], [note, 300, ENVIRONMENT]);
    assert.equal(json.rootHash, note.split('\n')[2]);
    const printed = await keyward('audit public-key');
    assert.equal(printed.stdout, key.publicPem);
    assert.match(printed.stderr, /^keyward: .* was not compared with the HSM token’s;.*\n$/);
    const cosigned = note + newWitness('w').cosign(note.split('\n\n')[0] ?? '', 1);
    assert.equal((await keyward('audit cosign -', { input: cosigned })).stdout, cosigned);
    assert.deepEqual(fake.seen['AddCosignatures'], { note: cosigned });
  });

  it('refuses what it can not use, before it asks', async () => {
    const cases: [args: string, message: RegExp][] = [
      ['audit list', /cannot list entries: no tenant is named; write keyward audit list acme/],
      ['audit list acme --tenant other', /cannot use both acme and --tenant other/],
      ['audit list acme --since yesterday', /or RFC 3339/],
      ['audit tail - --from x', /Write a whole number/],
      ['audit verify nowhere', /no key is given; give --public-key/],
      ['audit verify nowhere --public-key nowhere.pem', /nowhere.pem: it does not exist/],
    ];
    for (const [args, message] of cases) {
      const { code, stderr } = await keyward(args);
      assert.equal(code, 2, args);
      assert.match(stderr, message);
    }
    assert.deepEqual(fake.seen, {});
  });
});

describe('keyward audit export and verify', () => {
  const KNOWN = 'known';

  before(() => {
    writeFileSync(inFolder('log.pem'), key.publicPem);
    writeFileSync(inFolder('other.pem'), newLogKey().publicPem);
    writeFileSync(inFolder(KNOWN), checkpointOver(lines.slice(0, 100), key));
    writeFileSync(inFolder('fork'), checkpointOver(lines.slice(1, 101), key));
  });

  it('write what is verified without the service, and say what it is', async () => {
    const exported = await keyward('audit export one');
    assert.deepEqual([exported.code, exported.stderr], [0, '']);
    assert.match(exported.stdout, /^FOLDER +ENTRIES +FROM +LOG SIZE\none +300 +0 +300\n$/);
    const env = { KEYWARD_ADDRESS: '127.0.0.1:1' };
    const args = `audit verify one --public-key other.pem --public-key log.pem --known ${KNOWN}`;
    const verified = await keyward(args, { env });
    assert.deepEqual([verified.code, verified.stderr], [0, '']);
    assert.match(
      verified.stdout,
      new RegExp(`^LOG .*\nkeyward/${ENVIRONMENT} +300 +0 +300 +\\S{44}\n$`),
    );
    const json = JSON.parse((await keyward(`${args} --output json`, { env })).stdout);
    assert.deepEqual(json, {
      origin: `keyward/${ENVIRONMENT}`,
      treeSize: 300,
      rootHash: checkpointOver(lines, key).split('\n')[2],
      firstLeafIndex: 0,
      entries: 300,
      resumptions: [],
      approvals: { decisions: 0, operations: 0, begunBefore: [] },
      cosignatures: [],
    });
  });

  it('leave out what is wanted, and never write over what is there', async () => {
    assert.match((await keyward('audit export late --from 256')).stdout, /\nlate +44 +256 +300\n$/);
    assert.match(
      (await keyward('audit verify late --public-key log.pem')).stdout,
      / 44 +256 +300 /,
    );
    const again = await keyward('audit export late');
    assert.deepEqual(
      [again.code, again.stderr],
      [2, 'keyward: cannot export to late: it is not empty; name another folder, or a new one\n'],
    );
    const inTile = await keyward('audit export other --from 5');
    assert.deepEqual([inTile.code, inTile.stdout], [2, '']);
    assert.match(
      inTile.stderr,
      /an export begins with a multiple of 256, up to 300, and not with 5/,
    );
  });

  it('name the first entry that is wrong, and what else is, on one line and with the exit code 1', async () => {
    await keyward('audit export damaged');
    const entries = inFolder('damaged/entries/0.jsonl');
    const good = readFileSync(entries, 'utf8');
    const cases: [what: string, text: string, args: string, message: RegExp][] = [
      [
        'changed',
        good.replace('"requestId":"r17"', '"requestId":"r71"'),
        '',
        /^keyward: ENTRY: entry 17: .*\n$/,
      ],
      ['none', good, '--known fork', /^keyward: FORK: .*\n$/],
      [
        'none',
        good,
        `--witness ${newWitness('w').verifierKey}`,
        /^keyward: CHECKPOINT: .* w has not cosigned it\n$/,
      ],
    ];
    for (const [, text, more, message] of cases) {
      writeFileSync(entries, text);
      const args = `audit verify damaged --public-key log.pem ${more}`.trim();
      const { code, stdout, stderr } = await keyward(args);
      assert.deepEqual([code, stdout], [1, ''], args);
      assert.match(stderr, message);
    }
    const other = await keyward('audit verify damaged --public-key other.pem');
    assert.match(
      other.stderr,
      /^keyward: CHECKPOINT: checkpoint: it is not signed by the log’s key\n$/,
    );
    const noWitness = await keyward('audit verify damaged --public-key log.pem --witness w');
    assert.equal(noWitness.code, 2);
    rmSync(inFolder('damaged/export.json'));
    assert.match(
      (await keyward('audit verify damaged --public-key log.pem')).stderr,
      /^keyward: EXPORT: /,
    );
    mkdirSync(inFolder('none'));
    assert.match(
      (await keyward('audit verify none --public-key log.pem')).stderr,
      /^keyward: EXPORT: /,
    );
  });
});

/** The fake doesn't look at the call. */
const never = undefined as never;
