/**
 * The README's two commands in one clone, at once: in a folder with a space in its name, where
 * NODE_ENV says production, and while another program takes the port that the start has chosen.
 * Every `npm test` has what a start is made of, each alone (`test/dev/`).
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { basename, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { readIfThere } from '../../dev/files.ts';
import { Reader, signingIn } from '../cli/browser.ts';
import { eventually } from '../support/kit.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const LEFT_OUT = new Set(['node_modules', '.git', '.keyward', 'dist']);

const directory = mkdtempSync(join(process.env['KEYWARD_TEST_DIRECTORY'] ?? '/tmp', 'start-'));
const clone = join(directory, 'a clone');
const home = join(directory, 'home');
const compiled = join(directory, 'compiled');
let start: ChildProcess | undefined;
let output = '';

/**
 * As a user's shell has it: without what this run of the tests has set, but that each process finds
 * what those before it have compiled.
 */
function environment(): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(([name]) => !/^(KEYWARD_|NODE_|npm_)/.test(name));
  return { ...Object.fromEntries(kept), HOME: home, NODE_COMPILE_CACHE: compiled };
}

function run(args: readonly string[], env: NodeJS.ProcessEnv = {}): ChildProcess {
  return spawn(process.execPath, args, {
    cwd: clone,
    env: { ...environment(), ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

async function outcome(child: ChildProcess): Promise<{ code: number | null; said: string }> {
  const ended = once(child, 'close');
  assert.ok(child.stdout !== null && child.stderr !== null);
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)]);
  const [code] = await ended;
  return { code, said: `${stdout}${stderr}` };
}

const keyward = (args: string, env: NodeJS.ProcessEnv = {}) =>
  outcome(run(['cli/src/main.ts', ...args.split(' ')], env));

/** Listens on a port as soon as nobody does; nothing once `signal` says that it is too late. */
async function grab(port: number, signal: AbortSignal): Promise<Server | undefined> {
  while (!signal.aborted) {
    const server = createServer((socket) => socket.destroy());
    const isMine = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false));
      server.listen(port, '127.0.0.1', () => resolve(true));
    });
    if (isMine) return server;
    await sleep(1);
  }
  return undefined;
}

/** The port that the start has chosen first. */
async function chosenPort(signal: AbortSignal): Promise<number> {
  const file = join(clone, '.keyward', 'environment');
  for (;;) {
    const [, port] = /^KEYWARD_LISTEN="\S+:(\d+)"$/m.exec(readIfThere(file) ?? '') ?? [];
    if (port !== undefined) return Number(port);
    assert.ok(!signal.aborted, output);
    await sleep(5);
  }
}

before(() => {
  mkdirSync(home);
  const isCopied = (source: string) => !LEFT_OUT.has(basename(source));
  for (const name of readdirSync(ROOT).filter(isCopied))
    cpSync(join(ROOT, name), join(clone, name), { recursive: true, filter: isCopied });
  symlinkSync(join(ROOT, 'node_modules'), join(clone, 'node_modules'));
});

after(async () => {
  if (start?.exitCode === null && start.signalCode === null) {
    start.kill('SIGTERM');
    await once(start, 'exit');
  }
  rmSync(directory, { recursive: true, force: true });
});

test('npm start serves, on another port if a program takes the one that it has chosen', async () => {
  start = run(['scripts/start.js'], { NODE_ENV: 'production' });
  const serving = new AbortController();
  for (const stream of [start.stdout, start.stderr])
    stream?.on('data', (chunk: Buffer) => {
      output += chunk;
      if (/\nServing on /.test(output)) serving.abort();
    });
  start.on('exit', () => serving.abort());
  const chosen = await chosenPort(serving.signal);
  const taken = await grab(chosen, serving.signal);
  if (!serving.signal.aborted) await once(serving.signal, 'abort');
  taken?.close();
  const [, address, port] = /\nServing on (127\.0\.0\.1:(\d+)), process/.exec(output) ?? [];
  assert.ok(address !== undefined, output);
  if (taken !== undefined) assert.notEqual(Number(port), chosen, output);
  if (Number(port) !== 7443) assert.match(output, new RegExp(`is in use; using ${port}\\.\n`));
  const metrics = await eventually(() => {
    const [, url] = /\nMetrics are at (http:\/\/127\.0\.0\.1:\d+\/metrics) /.exec(output) ?? [];
    return url ?? assert.fail(output);
  });
  assert.match(await (await fetch(metrics)).text(), /^keyward_ready 1$/m);
  assert.match(output, /\nAllowed the command keyward to use \.keyward\/profiles\.json/);
  assert.match(output, /\n {2}npx keyward --profile alice login\n/);
});

test('its profiles are the command’s for the user who started it, and for nobody else', async () => {
  const { code, said } = await keyward('whoami');
  assert.deepEqual([code, /development\/admin/.test(said)], [0, true], said);
  assert.equal((await keyward('--profile auditor whoami')).code, 0);
  const stranger = await keyward('whoami', { HOME: directory });
  assert.deepEqual([stranger.code, /have not allowed it/.test(stranger.said)], [2, true]);
});

test('people sign in at its provider', async () => {
  const login = run(['cli/src/main.ts', '--profile', 'alice', 'login', '--no-browser']);
  const reader = new Reader(signingIn({ person: 'alice' }));
  let heard = '';
  login.stderr?.on('data', (chunk: Buffer) => {
    heard += chunk;
    reader.heard(heard);
  });
  const { code, said } = await outcome(login);
  await reader.done();
  assert.deepEqual([code, /Signed in as jwt:dev-sign-in\/alice/.test(said)], [0, true], said);
  assert.equal((await keyward('--profile alice keys list tenants/demo')).code, 0);
});

test('npm test passes meanwhile', async () => {
  const named = '--test-name-pattern=opens what was encrypted before';
  const { code, said } = await outcome(run(['scripts/test.js', named, 'test/cli/service.test.ts']));
  assert.equal(code, 0, said);
  assert.match(said, /1 passed, 0 failed/);
});

test('Ctrl-C ends it', async () => {
  assert.ok(start !== undefined && start.exitCode === null, output);
  start.kill('SIGINT');
  const [code] = await once(start, 'exit');
  assert.equal(code, 0, output);
  assert.match(output, /Stopped\. The next start continues with the same data\.\n/);
});
