/**
 * SoftHSM tokens for development: private, and never with the PIN where others can see it.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { copyToken, createSoftHsmToken, type SoftHsmToken } from '../../softhsm/token.ts';

const directory = mkdtempSync(join(tmpdir(), 'keyward-token-'));
after(() => rmSync(directory, { recursive: true }));

/**
 * Logs in from a process of its own, as SoftHSM reads its configuration once; the PIN is read
 * there.
 */
function login(token: SoftHsmToken): string {
  const program = `
    import { readFileSync } from 'node:fs';
    import { Module, SessionFlag } from 'graphene-pk11';
    const module = Module.load(${JSON.stringify(token.modulePath)});
    module.initialize();
    const slot = module.getSlots(0);
    const session = slot.open(SessionFlag.SERIAL_SESSION | SessionFlag.RW_SESSION);
    session.login(readFileSync(${JSON.stringify(token.pinFile)}, 'utf8'));
    console.log(slot.getToken().label.trim());
    module.finalize();
  `;
  const result = spawnSync(process.execPath, ['--input-type=module', '--eval', program], {
    cwd: import.meta.dirname,
    env: { SOFTHSM2_CONF: token.confFile },
    encoding: 'utf8',
  });
  return result.stdout.trim() || result.stderr;
}

/** Processes end while they are looked at. */
function readQuietly(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}

test('a token is made once, with a long PIN, and nobody else can read any of it', async () => {
  const options = { directory: join(directory, 'token'), label: 'keyward-test' };
  const token = await createSoftHsmToken(options);
  const pin = readFileSync(token.pinFile, 'utf8');
  assert.match(pin, /^[\w-]{24,}$/);
  for (const name of readdirSync(options.directory, { recursive: true, encoding: 'utf8' })) {
    assert.equal(statSync(join(options.directory, name)).mode & 0o077, 0, name);
  }
  assert.deepEqual(await createSoftHsmToken(options), token);
  assert.equal(readFileSync(token.pinFile, 'utf8'), pin);
  assert.equal(login(token), 'keyward-test');
});

test('while a token is made, its PIN is on no command line and in no environment', async () => {
  const seen = new Set<string>();
  const timer = setInterval(() => {
    for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
      for (const file of ['cmdline', 'environ'])
        seen.add(`${file} ${readQuietly(`/proc/${pid}/${file}`)}`);
    }
  }, 5);
  const token = await createSoftHsmToken({
    directory: join(directory, 'watched'),
    label: 'keyward-test',
  });
  clearInterval(timer);
  const pin = readFileSync(token.pinFile, 'utf8');
  assert.ok([...seen].some((text) => text.startsWith('cmdline') && text.includes('init-token.ts')));
  assert.ok([...seen].every((text) => !text.includes(pin)));
});

test('a copy of a token is a token with the same PIN', async () => {
  const original = join(directory, 'original');
  await createSoftHsmToken({ directory: original, label: 'keyward-test' });
  const copy = copyToken(original, join(directory, 'copy'), 'keyward-test');
  rmSync(original, { recursive: true });
  assert.equal(login(copy), 'keyward-test');
});
