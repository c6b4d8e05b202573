/**
 * `encrypt-file` and `decrypt-file`, against the real service: what becomes of files and trees,
 * what is refused, and what a run that was ended leaves.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, it } from 'node:test';
import { COMPILED, programFrom } from '../support/compiled.ts';
import { eventually, sharedService } from '../support/kit.ts';
import { runHere } from './here.ts';
import { type Outcome, writeUsersProfiles } from './run.ts';

const MAIN = programFrom('cli/src/main.ts');
const KEY = '--key files --tenant acme';
/** Two chunks and a part of one. */
const CONTENT = Buffer.alloc(150_000, 'content ');

/** Where the command runs, empty but for its profile before each test. */
let folder: string;
const shared = sharedService(async (client) => {
  folder = join(shared.environment.directory, 'cli');
  mkdirSync(folder);
  await client.createTenant({ tenantId: 'acme' });
  for (const keyId of ['files', 'other']) await client.createKey({ parent: 'tenants/acme', keyId });
});

beforeEach(() => {
  for (const name of readdirSync(folder)) rmSync(join(folder, name), { recursive: true });
  writeUsersProfiles(folder, { cli: shared.service.connectOptions() });
});

const at = (...names: string[]) => join(folder, ...names);
const namesIn = (...names: string[]) => readdirSync(at(...names)).filter((n) => n !== '.config');

function keyward(args: string, input: string | Uint8Array = ''): Promise<Outcome> {
  return runHere(args.split(' '), { cwd: folder, input });
}

/** Runs what must succeed. */
async function done(args: string, input: string | Uint8Array = ''): Promise<Outcome> {
  const outcome = await keyward(args, input);
  assert.equal(outcome.code, 0, `${args}\n${outcome.stderr}`);
  return outcome;
}

/** Returns all files below a folder with their bytes. */
function treeOf(root: string): Record<string, string> {
  const names = readdirSync(at(root), { recursive: true, encoding: 'utf8' }).sort();
  const files = names.filter((name) => statSync(at(root, name)).isFile());
  return Object.fromEntries(files.map((name) => [name, readFileSync(at(root, name), 'latin1')]));
}

function makeTree(): void {
  mkdirSync(at('docs', 'in', 'deep'), { recursive: true });
  mkdirSync(at('docs', 'empty'));
  writeFileSync(at('docs', 'a.txt'), CONTENT);
  writeFileSync(at('docs', 'in', 'nothing'), '');
  writeFileSync(at('docs', 'in', 'deep', '-strange name\n'), 'odd');
}

describe('a file', () => {
  it('becomes another beside it, which becomes it again with its time and its bits', async () => {
    writeFileSync(at('tool.sh'), CONTENT);
    chmodSync(at('tool.sh'), 0o755);
    utimesSync(at('tool.sh'), 1_700_000_000.25, 1_700_000_000.25);
    const { stdout, stderr } = await done(`encrypt-file tool.sh ${KEY} --context a=b`);
    assert.deepEqual([stdout, stderr], ['', '']);
    assert.deepEqual(namesIn(), ['tool.sh', 'tool.sh.kwe']);
    const made = statSync(at('tool.sh.kwe'));
    assert.deepEqual([made.mode & 0o777, made.mtimeMs], [0o755, 1_700_000_000_250]);
    rmSync(at('tool.sh'));
    await done(`decrypt-file tool.sh.kwe ${KEY} --context a=b`);
    assert.deepEqual(readFileSync(at('tool.sh')), CONTENT);
    const again = statSync(at('tool.sh'));
    assert.deepEqual([again.mode & 0o777, again.mtimeMs], [0o700, 1_700_000_000_250]);
  });

  it('is not replaced unless --force is given, nor is anything made before that is known', async () => {
    for (const name of ['a', 'b']) writeFileSync(at(name), name);
    writeFileSync(at('b.kwe'), 'mine');
    const refused = await keyward(`encrypt-file a b ${KEY}`);
    assert.deepEqual(
      [refused.code, refused.stderr],
      [
        2,
        'keyward: cannot write b.kwe: it already exists; give --resume if an earlier run has made ' +
          'it, or --force to replace it\n',
      ],
    );
    assert.deepEqual(namesIn(), ['a', 'b', 'b.kwe']);
    await done(`encrypt-file a b ${KEY} --force`);
    assert.notEqual(readFileSync(at('b.kwe'), 'latin1'), 'mine');
  });

  it('that cannot be used is named, and nothing is made', async () => {
    mkdirSync(at('folder'));
    writeFileSync(at('plain'), 'x');
    for (const [args, words] of [
      [`encrypt-file absent ${KEY}`, 'cannot encrypt absent: it does not exist'],
      [`encrypt-file folder ${KEY}`, 'cannot encrypt folder: it is a directory; give --recursive'],
      [
        `decrypt-file plain ${KEY}`,
        'cannot decrypt plain: its name does not end in .kwe; name the output with --out',
      ],
      [
        `encrypt-file folder ${KEY} -r --out folder/in`,
        'cannot encrypt folder: --out is inside it; name another folder',
      ],
      [
        `encrypt-file plain folder/../plain ${KEY} --out out`,
        'cannot write out/plain.kwe: both plain and folder/../plain would become it',
      ],
      [
        `encrypt-file plain - ${KEY}`,
        'cannot take several paths with -: standard input or output is one',
      ],
    ] as const) {
      const { code, stderr } = await keyward(args);
      assert.deepEqual([code, stderr], [2, `keyward: ${words}\n`]);
    }
    assert.deepEqual(namesIn(), ['folder', 'plain']);
  });

  it('that was changed, cut, mixed or is of another context leaves nothing, and is named', async () => {
    for (const name of ['whole', 'other']) writeFileSync(at(name), CONTENT);
    await done(`encrypt-file whole other ${KEY}`);
    await done(`encrypt-file whole ${KEY} --context a=b --out context.kwe`);
    await done('encrypt-file whole --key other --tenant acme --out key.kwe');
    const [whole, other] = [readFileSync(at('whole.kwe')), readFileSync(at('other.kwe'))];
    const begin = whole.length - (150_000 + 3 * 16);
    const flipped = Buffer.from(whole);
    flipped[begin + 70_000] = (flipped[begin + 70_000] ?? 0) ^ 1;
    writeFileSync(at('flipped.kwe'), flipped);
    writeFileSync(at('cut.kwe'), whole.subarray(0, begin + 2 * 65_552));
    writeFileSync(at('header.kwe'), whole.subarray(0, 50));
    writeFileSync(
      at('mixed.kwe'),
      Buffer.concat([whole.subarray(0, begin + 65_552), other.subarray(begin + 65_552)]),
    );
    writeFileSync(at('longer.kwe'), Buffer.concat([whole, Buffer.of(0)]));
    writeFileSync(at('plain.kwe'), 'no envelope');
    const bad = ['context', 'cut', 'flipped', 'header', 'key', 'longer', 'mixed', 'plain'];
    const paths = [...bad, 'whole'].map((name) => `${name}.kwe`).join(' ');
    const { code, stderr } = await keyward(`decrypt-file ${paths} ${KEY} --out back`);
    assert.equal(code, 1);
    const named = [...stderr.matchAll(/cannot decrypt (\w+)\.kwe: /g)].map(([, name]) => name);
    assert.deepEqual(named.sort(), bad);
    assert.match(stderr, /cannot decrypt cut\.kwe: it was changed or cut/);
    assert.match(stderr, /cannot decrypt plain\.kwe: it is not an encrypted file/);
    assert.match(stderr, /cannot decrypt 8 files, named above/);
    assert.deepEqual(namesIn('back'), ['whole']);
    assert.deepEqual(readFileSync(at('back', 'whole')), CONTENT);
  });

  it('may come from standard input and go to standard output, or a device', async () => {
    const { bytes } = await done(`encrypt-file - ${KEY}`, CONTENT);
    assert.deepEqual((await done(`decrypt-file - ${KEY}`, bytes)).bytes, CONTENT);
    await done(`decrypt-file - ${KEY} --out plain`, bytes);
    assert.deepEqual(readFileSync(at('plain')), CONTENT);
    assert.equal(statSync(at('plain')).mode & 0o777, 0o600);
    const { bytes: other } = await done(`encrypt-file plain ${KEY} --out -`);
    assert.deepEqual((await done(`decrypt-file - ${KEY} --out -`, other)).bytes, CONTENT);
    await done(`encrypt-file plain ${KEY} --out /dev/null`);
    const cut = await keyward(`decrypt-file - ${KEY} --out cut`, bytes.subarray(0, -1));
    assert.deepEqual([cut.code, existsSync(at('cut'))], [1, false]);
    assert.match(cut.stderr, /cannot decrypt standard input: it was changed or cut/);
  });
});

describe('a tree', () => {
  it('becomes another of the same names, and comes back as it was', async () => {
    makeTree();
    const before = treeOf('docs');
    const { stdout, stderr } = await done(`encrypt-file -r docs ${KEY} --out sealed`);
    assert.deepEqual([stdout, stderr], ['', 'keyward: encrypted 3 files, 150 kB\n']);
    assert.deepEqual(
      Object.keys(treeOf('sealed')),
      Object.keys(before).map((name) => `${name}.kwe`),
    );
    await done(`decrypt-file --recursive sealed ${KEY} --out back`);
    assert.deepEqual(treeOf('back'), before);
    assert.deepEqual(namesIn('back'), ['a.txt', 'empty', 'in']);
  });

  it('is encrypted in its place, and what is no file is left and named', async () => {
    makeTree();
    const before = treeOf('docs');
    symlinkSync('a.txt', at('docs', 'link'));
    execFileSync('mkfifo', [at('docs', 'pipe')]);
    const { stderr } = await done(`encrypt-file -r docs ${KEY}`);
    assert.match(stderr, /left out docs\/link: it is a symbolic link\n/);
    assert.match(stderr, /left out docs\/pipe: it is not a regular file\n/);
    for (const name of Object.keys(before)) rmSync(at('docs', name));
    rmSync(at('docs', 'link'));
    rmSync(at('docs', 'pipe'));
    await done(`decrypt-file -r docs ${KEY}`);
    for (const [name, bytes] of Object.entries(before))
      assert.equal(readFileSync(at('docs', name), 'latin1'), bytes);
    const again = await done(`encrypt-file -r docs ${KEY} --force --output json`);
    assert.deepEqual(JSON.parse(again.stdout), {
      ...{ files: 3, bytes: 150_003, made: 0, left: 3, skipped: 0, failed: 0 },
    });
  });

  it('with -o json has a line of JSON on standard error for each file with something to tell', async () => {
    makeTree();
    symlinkSync('a.txt', at('docs', 'link'));
    await done(`encrypt-file -r docs ${KEY} --out sealed`);
    writeFileSync(at('sealed', 'bad.kwe'), 'no envelope');
    symlinkSync('bad.kwe', at('sealed', 'link.kwe'));
    const { code, stdout, stderr } = await keyward(`decrypt-file -r sealed ${KEY} --out b -o json`);
    assert.deepEqual([code, JSON.parse(stdout).failed], [1, 1]);
    const lines = stderr.trimEnd().split('\n');
    const told = lines.map((line) => JSON.parse(line));
    const about = (path: string) =>
      told.find(({ error, remark }) => (error ?? remark).path === path);
    assert.deepEqual(about('sealed/bad.kwe'), {
      error: {
        ...{ reason: 'MALFORMED', retryable: false, path: 'sealed/bad.kwe' },
        message: 'cannot decrypt sealed/bad.kwe: it is not an encrypted file, or is cut',
        exitCode: 1,
      },
    });
    assert.deepEqual(about('sealed/link.kwe'), {
      remark: {
        path: 'sealed/link.kwe',
        message: 'left out sealed/link.kwe: it is a symbolic link',
      },
    });
    assert.equal(told.at(-1)?.error.message, 'cannot decrypt 1 file, named above');
    assert.equal(told.length, 3);
  });

  it('has a data key for each file', async () => {
    makeTree();
    for (let i = 0; i < 40; i += 1) writeFileSync(at('docs', `small-${i}`), `${i}`);
    await done(`encrypt-file -r docs ${KEY} --out sealed`);
    const sealed = Object.values(treeOf('sealed')).map((text) => Buffer.from(text, 'latin1'));
    const wrapped = sealed.map((bytes) => bytes.toString('hex', 7, 7 + bytes.readUInt16BE(5)));
    assert.equal(new Set(wrapped).size, 43);
  });
});

describe('a run that was ended', () => {
  it('goes on with --resume: what it has made is left, and what has changed is not taken for it', async () => {
    makeTree();
    await done(`encrypt-file -r docs ${KEY} --out sealed`);
    const { ino } = statSync(at('sealed', 'a.txt.kwe'));
    rmSync(at('sealed', 'in', 'nothing.kwe'));
    writeFileSync(at('sealed', '.keyward-0123456789ab.new'), 'half');
    const resumed = await done(`encrypt-file -r docs ${KEY} --out sealed --resume --output json`);
    const { files, made } = JSON.parse(resumed.stdout);
    assert.deepEqual([files, made], [1, 2]);
    assert.equal(statSync(at('sealed', 'a.txt.kwe')).ino, ino);
    assert.ok(existsSync(at('sealed', 'in', 'nothing.kwe')));

    writeFileSync(at('docs', 'a.txt'), 'changed since');
    const refused = await keyward(`encrypt-file -r docs ${KEY} --out sealed --resume`);
    assert.equal(refused.code, 2);
    assert.match(refused.stderr, /sealed\/a\.txt\.kwe: it already exists and is not of the file/);
    await done(`encrypt-file -r docs ${KEY} --out sealed --resume --force`);
    await done(`decrypt-file sealed/a.txt.kwe ${KEY} --out now`);
    assert.equal(readFileSync(at('now'), 'utf8'), 'changed since');
  });

  it('under another key or encryption context is refused by --resume, and made again by --force', async () => {
    makeTree();
    await done(`encrypt-file -r docs ${KEY} --out sealed --context a=1`);
    await done(`encrypt-file docs/a.txt ${KEY} --out sealed/a.txt.kwe --force --context a=2`);
    const resumed = `encrypt-file -r docs --tenant acme --out sealed --resume --context a=1 --key`;
    for (const [key, words] of [
      ['files', 'sealed/a.txt.kwe: it already exists and does not open under this key'],
      ['other', 'sealed/a.txt.kwe: it already exists (and so do 2 more) and does not open under'],
    ] as const) {
      const { code, stderr } = await keyward(`${resumed} ${key}`);
      assert.equal(code, 2);
      assert.ok(stderr.startsWith(`keyward: cannot write ${words}`), stderr);
    }
    const again = await done(`${resumed} files --force -o json`);
    const { files, made } = JSON.parse(again.stdout);
    assert.deepEqual([files, made], [1, 2]);
    await done(`decrypt-file -r sealed ${KEY} --context a=1 --out back`);
    assert.deepEqual(treeOf('back'), treeOf('docs'));
  });

  it('by a signal leaves nothing, and by SIGKILL what --resume removes', async () => {
    for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
      const child = spawn(
        process.execPath,
        [MAIN, ...`encrypt-file - ${KEY} --out late`.split(' ')],
        { cwd: folder, env: { PATH: process.env['PATH'], HOME: folder, ...COMPILED } },
      );
      child.stdin.on('error', () => {});
      child.stdin.write(CONTENT);
      await eventually(async () => assert.equal(namesIn().length, 1));
      child.kill(signal);
      const [, by] = await once(child, 'close');
      assert.equal(by, signal);
      assert.equal(namesIn().length, signal === 'SIGTERM' ? 0 : 1);
    }
    writeFileSync(at('late'), 'in time');
    await done(`encrypt-file late ${KEY} --resume`);
    assert.deepEqual(namesIn(), ['late', 'late.kwe']);
  });
});
