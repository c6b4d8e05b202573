/**
 * What the command writes: files that no other user had a hand in, text that commands no terminal,
 * and a result or a failure.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmod,
  chown,
  mkdir,
  readdir,
  readFile,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { beforeEach, describe, it } from 'node:test';
import { wireKey } from '../client/fake-service.ts';
import { programFrom } from '../support/compiled.ts';
import { CIPHERTEXT, DATA_KEY, KEY, profilesFile, TENANT, useFakeService } from './fake.ts';

const MAIN = programFrom('cli/src/main.ts');
const fake = useFakeService();
const { keyward } = fake;

describe('an output file', () => {
  /** Each command that writes one, whose name is to follow, and whether it is secret. */
  const WRITING: readonly (readonly [args: string, secret: boolean])[] = [
    [`encrypt ${KEY} --out`, false],
    ['decrypt --tenant acme --out', true],
    [`re-encrypt ${KEY} --out`, false],
    ['random 4 --tenant acme --out', true],
    [`data-key ${KEY} --plaintext-out`, true],
    [`data-key ${KEY} --wrapped-out`, false],
    [`stored-data-keys create ${KEY} --plaintext-out`, true],
    [`stored-data-keys get ${DATA_KEY} --plaintext-out`, true],
  ];
  let folder: string;
  let file: string;

  beforeEach(async () => {
    folder = join(fake.folder, 'outputs');
    file = join(folder, 'output');
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder);
  });

  it('that exists is replaced only with --force, and nothing is asked of the service before', async () => {
    for (const [args, secret] of WRITING) {
      await writeFile(file, 'older, and longer than what comes');
      await chmod(file, 0o644);
      fake.seen = {};
      const refused = await keyward(`${args} ${file}`, { input: CIPHERTEXT });
      assert.deepEqual([refused.code, fake.seen], [2, {}], args);
      assert.match(refused.stderr, /already exists; give --force to replace it/);
      assert.match(await readFile(file, 'utf8'), /^older/);
      const forced = await keyward(`${args} ${file} --force`, { input: CIPHERTEXT });
      assert.equal(forced.code, 0, forced.stderr);
      assert.doesNotMatch(await readFile(file, 'latin1'), /older|longer/);
      if (secret) assert.equal((await stat(file)).mode & 0o777, 0o600, args);
      assert.deepEqual(await readdir(folder), ['output'], args);
    }
  });

  it('of another user is replaced by one of our own, never written into', async (t) => {
    if (process.getuid?.() !== 0) return t.skip('only root can make a file of another user');
    for (const [args] of WRITING) {
      await writeFile(file, 'theirs');
      await chown(file, 12_345, 12_345);
      const { ino } = await stat(file);
      assert.equal((await keyward(`${args} ${file} --force`, { input: CIPHERTEXT })).code, 0);
      const now = await stat(file);
      assert.deepEqual([now.uid, now.ino === ino], [0, false], args);
    }
  });

  it('is not written through a link, not even with --force', async () => {
    const target = join(folder, 'target');
    for (const [args] of WRITING.slice(0, 2))
      for (const exists of [false, true]) {
        if (exists) await writeFile(target, 'kept');
        await symlink(target, file);
        const { code, stderr } = await keyward(`${args} ${file} --force`, { input: CIPHERTEXT });
        assert.equal(code, 2, args);
        assert.match(stderr, /it is a link; name the file itself/);
        assert.equal(exists ? await readFile(target, 'utf8') : 'kept', 'kept');
        await rm(target, { force: true });
        await rm(file);
      }
  });

  it('may be a device or a pipe, which bytes only pass through', async () => {
    const args = [
      '-c',
      '"$0" "$1" decrypt --tenant acme --out /dev/fd/3 3>&1 >/dev/null | od -An -tx1',
    ];
    assert.equal(await inShell(args, CIPHERTEXT), ' 00 ff 0a 0d\n');
    const nowhere = await keyward('decrypt --tenant acme --out /dev/null', { input: CIPHERTEXT });
    assert.equal(nowhere.code, 0, nowhere.stderr);
    assert.ok((await stat('/dev/null')).isCharacterDevice());
  });

  it('that cannot be written is named, and nothing of it is left', async () => {
    const { code, stderr } = await keyward(`encrypt ${KEY} --out ${folder}`);
    assert.deepEqual([code, stderr], [2, `keyward: cannot write ${folder}: it is a directory\n`]);
    assert.deepEqual(await readdir(folder), []);
  });
});

/** Runs a shell that runs the command as `"$0" "$1" …`, with the fake's profile. */
async function inShell(args: readonly string[], input: Uint8Array): Promise<string> {
  const child = spawn('/bin/sh', [...args, process.execPath, MAIN], {
    env: {
      PATH: process.env['PATH'],
      KEYWARD_PROFILES: profilesFile(fake.folder),
    },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  child.stdin.end(input);
  const [stdout] = await Promise.all([text(child.stdout), once(child, 'close')]);
  return stdout;
}

/** Runs the command on a terminal of its own, and returns what that shows and the exit code. */
async function onTerminal(args: string, input: string): Promise<string> {
  const command = `"${process.execPath}" "${MAIN}" ${args} < "${input}"; echo "exit $?"`;
  const child = spawn('script', ['-qec', command, '/dev/null'], {
    env: {
      PATH: process.env['PATH'],
      KEYWARD_PROFILES: profilesFile(fake.folder),
      SHELL: '/bin/sh',
      TERM: 'xterm',
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [stdout] = await Promise.all([text(child.stdout), once(child, 'close')]);
  return stdout.replaceAll('\r\n', '\n');
}

describe('a terminal', () => {
  it('gets bytes that are no text only where - asks for them', async () => {
    const input = join(fake.folder, 'ciphertext');
    await writeFile(input, CIPHERTEXT);
    for (const args of ['decrypt --tenant acme', `encrypt ${KEY} --raw`]) {
      const refused = await onTerminal(args, input);
      assert.match(refused, /^keyward: cannot write the result to the terminal: it is not plain/);
      assert.match(refused, /give --out <file>, or give "--out -" to write it anyway\nexit 2\n$/);
    }
    assert.match(await onTerminal('decrypt --tenant acme --out -', input), /\0\xff|\0\ufffd/);
    fake.handlers['Decrypt'] = () => ({ plaintext: Buffer.from('für\tdich\n'), keyVersion: '' });
    assert.equal(await onTerminal('decrypt --tenant acme', input), 'für\tdich\nexit 0\n');
    fake.handlers['Decrypt'] = () => ({ plaintext: Buffer.from('a\u001b[2J'), keyVersion: '' });
    assert.match(await onTerminal('decrypt --tenant acme', input), /it is not plain text/);
  });
});

describe('a standard output that is closed', () => {
  it('fails a command that has a result to give, and /dev/null does not', async () => {
    for (const [args, output, code] of [
      ['decrypt --tenant acme', '>&-', '1'],
      [`encrypt ${KEY}`, '>&-', '1'],
      [`data-key ${KEY} --show-plaintext`, '>&-', '1'],
      ['decrypt --tenant acme', '>/dev/null', '0'],
    ]) {
      const command = `exec 4>&1; "$0" "$1" ${args} ${output} 2>/dev/null; echo $? >&4`;
      assert.equal(await inShell(['-c', command], CIPHERTEXT), `${code}\n`, `${args} ${output}`);
    }
  });
});

describe('text that others have written', () => {
  const HOSTILE = 'a\u202eb\u2066c\u200fd\u061ce\u2028f\u009bg\u001b[2Jh\nFORGED';

  it('commands no terminal, in a table or in JSON, which means it exactly', async () => {
    fake.handlers['GetKey'] = () => ({ ...wireKey(KEY), description: HOSTILE });
    const shown = (await keyward(`keys get ${KEY}`)).stdout;
    assert.match(shown, / a\?b\?c\?d\?e f\?g\?\[2Jh FORGED\n$/);
    const json = (await keyward(`keys get ${KEY} --output json`)).stdout;
    assert.match(json, /^[\n\x20-\x7e]+$/);
    assert.equal(JSON.parse(json).description, HOSTILE);
  });

  it('commands no terminal in a preview or in an error', async () => {
    fake.handlers['ListDataKeys'] = () => ({
      dataKeys: [{ name: DATA_KEY, keyVersion: HOSTILE, createTime: TENANT.createTime, etag: 'd' }],
    });
    const { stdout } = await keyward(`stored-data-keys delete ${DATA_KEY}`);
    assert.match(stdout, /wrapped under +a\?b\?c\?d\?e f\?g\?\[2Jh FORGED\n/);
    const { stderr } = await keyward(['keys', 'get', `${KEY}\u202e`]);
    assert.doesNotMatch(stderr, /\p{Bidi_Control}/u);
  });
});
