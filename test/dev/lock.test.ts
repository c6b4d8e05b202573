/**
 * The lock between commands of one clone, and telling processes apart.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { lockHolder, takeLock, tryLock } from '../../scripts/lock.js';
import { endProcess, identify, isAlive, restOfSession } from '../../scripts/processes.js';

const directory = mkdtempSync(join(tmpdir(), 'keyward-lock-'));
after(() => rmSync(directory, { recursive: true }));
const lockModule = JSON.stringify(new URL('../../scripts/lock.js', import.meta.url).href);

/** Another process that holds the lock until it is killed. */
async function holder(file: string) {
  const program = `
    import { takeLock } from ${lockModule};
    await takeLock(${JSON.stringify(file)}, 'holds it for a test', console.log);
    console.log('held');
    setInterval(() => {}, 1000);
  `;
  const child = spawn(process.execPath, ['--input-type=module', '--eval', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(child.stdout, 'data');
  return child;
}

test('a lock has one holder, who is named to those that wait', async () => {
  const file = join(directory, 'one');
  const lock = await takeLock(file, 'tests locks', () => assert.fail('nobody holds it'));
  assert.equal(await tryLock(file, 'wants it too'), undefined);
  assert.match(lockHolder(file), new RegExp(`^process ${process.pid}, which tests locks since `));
  lock.release();
  const next = await tryLock(file, 'wants it too');
  assert.ok(next !== undefined);
  next.release();
});

test('a lock whose holder was killed with SIGKILL is given to who waits, who was told of the holder', async () => {
  const file = join(directory, 'killed');
  const child = await holder(file);
  const said: string[] = [];
  const waiting = takeLock(file, 'waits', (line) => {
    said.push(line);
    child.kill('SIGKILL');
  });
  const lock = await waiting;
  assert.equal(said.length, 1);
  assert.match(said[0] ?? '', new RegExp(`process ${child.pid}, which holds it for a test`));
  lock.release();
});

test('of many that ask at once one gets it, and all get it in turn', async () => {
  const file = join(directory, 'many');
  let holders = 0;
  const ask = async () => {
    const lock = await takeLock(file, 'asks', () => {});
    holders += 1;
    assert.equal(holders, 1);
    await new Promise((resolve) => setTimeout(resolve, 2));
    holders -= 1;
    lock.release();
  };
  await Promise.all(Array.from({ length: 12 }, ask));
});

test('another process under the same id is neither found alive nor ended', async () => {
  const child = spawn('sleep', ['60'], { detached: true });
  const identity = identify(child.pid ?? 0);
  assert.ok(identity !== undefined && isAlive(identity));
  const predecessor = { ...identity, startTime: identity.startTime - 1 };
  assert.ok(!isAlive(predecessor));
  assert.ok(await endProcess(predecessor, [['SIGKILL', 100]]));
  assert.ok(isAlive(identity));
  assert.ok(await endProcess(identity, [['SIGTERM', 2_000]]));
  assert.ok(!isAlive(identity));
});

test('what is left of a session is found after its leader was killed', async () => {
  const leader = spawn('sh', ['-c', 'sleep 60 & echo ready; wait'], {
    detached: true,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  await once(leader.stdout, 'data');
  const identity = identify(leader.pid ?? 0);
  assert.ok(identity !== undefined);
  leader.kill('SIGKILL');
  await once(leader, 'exit');
  const [left, ...more] = restOfSession(identity);
  assert.ok(left !== undefined && more.length === 0);
  assert.deepEqual(restOfSession({ ...identity, boot: 'another' }), []);
  await endProcess(left, [['SIGKILL', 1_000]]);
});
