/**
 * Root's PostgreSQL where user namespaces are refused: that the account which it runs under gets
 * nothing of root's by it.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { startPostgres } from '../../dev/postgres.ts';

const skip = process.getuid?.() === 0 ? false : 'only root runs under another account';

function scratch(t: TestContext): string {
  const made = mkdtempSync(join(process.env['KEYWARD_TEST_DIRECTORY'] ?? '/tmp', 'outside-'));
  t.after(() => rmSync(made, { recursive: true, force: true }));
  return realpathSync(made);
}

const start = (directory: string) =>
  startPostgres({ directory, userNamespaces: false, say: () => {} });

test('the folders around the data are root’s, and nothing that somebody has put somewhere is used', {
  skip,
}, async (t) => {
  const directory = scratch(t);
  const victim = join(directory, 'victim');
  writeFileSync(victim, 'untouched', { mode: 0o600 });
  // Where an earlier release would have looked: a folder whose name follows from ours.
  const name = createHash('sha256').update(directory).digest('hex').slice(0, 16);
  const foreseen = `/var/tmp/keyward-${name}`;
  mkdirSync(foreseen);
  t.after(() => rmSync(foreseen, { recursive: true, force: true }));
  for (const file of ['initial-password', 'data.new', 'installation'])
    symlinkSync(victim, join(foreseen, file));
  const account = Number(spawnSync('id', ['-u', 'nobody'], { encoding: 'utf8' }).stdout);
  chownSync(foreseen, account, account);

  const postgres = await start(directory);
  const outside = dirname(postgres.dataDirectory);
  for (let folder = outside; folder !== '/'; folder = dirname(folder)) {
    const { uid, mode } = statSync(folder);
    assert.deepEqual([uid, mode & 0o022], [0, 0], folder);
  }
  assert.equal(statSync(postgres.dataDirectory).uid, account);
  assert.doesNotMatch(outside, new RegExp(name));
  assert.deepEqual([readFileSync(victim, 'utf8'), statSync(victim).uid], ['untouched', 0]);
  await postgres.stop();

  const again = await start(directory);
  assert.equal(again.dataDirectory, postgres.dataDirectory, 'the data is found again');
  await again.remove();
  assert.ok(!existsSync(outside));
});

test('a folder that others can change is not used', { skip }, async (t) => {
  const directory = scratch(t);
  const theirs = join(directory, 'theirs');
  mkdirSync(theirs);
  writeFileSync(join(directory, 'outside'), theirs);
  for (const make of [() => chownSync(theirs, 12_345, 12_345), () => linkTo(theirs, directory)]) {
    make();
    await assert.rejects(start(directory), /cannot use \S+theirs: others can change it/);
  }
});

/** Puts a link in the place of a folder. */
function linkTo(folder: string, target: string): void {
  rmSync(folder, { recursive: true });
  symlinkSync(target, folder);
}
