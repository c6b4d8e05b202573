/**
 * That what others can make fail is always listened to: what looks for it does, and a service whose
 * agents and database connections are ended passes. The network's part is `floods.test.ts`, whose
 * service is looked at as well.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { describe, test } from 'node:test';
import { runSql } from '../store/database.ts';
import { eventually } from '../support/kit.ts';
import { NO_LISTENER, NO_LISTENER_EXIT, withListenersRequired } from './listeners.ts';
import { startHostile } from './service.ts';

/** How a process ends that is looked at while it does this, and what it says. */
function run(code: string): { readonly status: number | null; readonly output: string } {
  const source = `import { once } from 'node:events';
    import { spawn } from 'node:child_process';
    import { connect, createServer } from 'node:net';
    import { setTimeout as sleep } from 'node:timers/promises';
    ${code}
    await sleep(50);
    process.exit(0);`;
  const { status, stderr } = spawnSync(
    process.execPath,
    ['--input-type=module', '--eval', source],
    {
      env: { ...withListenersRequired({}) },
      encoding: 'utf8',
    },
  );
  return { status, output: stderr };
}

describe('a process that is looked at', () => {
  for (const [what, code, name] of [
    ['a server', "await once(createServer().listen(0), 'listening');", 'Server'],
    ['a child process', "spawn('sleep', ['1'], { stdio: 'ignore' });", 'ChildProcess'],
    ['a pipe of a child process', "spawn('sleep', ['1']).on('error', () => {});", 'Socket'],
    [
      'a socket that was accepted',
      "const server = createServer().on('error', () => {}).listen(0); await once(server, 'listening');" +
        "connect(server.address().port).on('error', () => {});",
      'Socket',
    ],
    [
      'a socket that was listened to',
      "const socket = connect(1).on('error', () => {}).on('connect', () => {});" +
        'await sleep(0); socket.removeAllListeners();',
      'Socket',
    ],
    ['what is listened to once', "connect(1).once('error', () => {});", 'Socket'],
  ] as const) {
    test(`ends where ${what} has no listener for errors, and tells where that was made`, () => {
      const { status, output } = run(code);
      assert.equal(status, NO_LISTENER_EXIT, output);
      assert.ok(output.startsWith(`${NO_LISTENER}${name}`), output);
      assert.match(output, /at .*\[eval1\]|at .*onconnection/, output);
    });
  }

  test('goes on where everything has one', () => {
    const { status, output } = run(
      "const server = createServer((socket) => socket.on('error', () => {})).on('error', () => {}).listen(0);" +
        "await once(server, 'listening'); connect(server.address().port).on('error', () => {});" +
        "const child = spawn('true').on('error', () => {});" +
        "for (const pipe of child.stdio) pipe.on('error', () => {});" +
        "await once(child, 'close'); server.close();",
    );
    assert.deepEqual([status, output], [0, '']);
  });
});

test('a service listens to its agents and its database, also to those that come after others were ended', async () => {
  await using hostile = await startHostile();
  const { service, environment } = hostile;
  for (let round = 0; round < 3; round++) {
    const agents = service.agentPids;
    assert.ok(agents.length > 0);
    for (const pid of agents) process.kill(pid, 'SIGKILL');
    await runSql(
      environment.urls.superuser,
      'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()',
    );
    await eventually(() => hostile.staysHonest(async () => {}));
  }
});
