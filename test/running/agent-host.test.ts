/**
 * Agents that a host starts as another user than the server's: that everything works across it,
 * that the death of any of the three heals, and what the server's user cannot have.
 *
 * As root the host and the server run as two users who are neither root nor each other; else both
 * run as this one, and what is about users is skipped.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import type { KeywardClient } from 'keyward-client';
import {
  copyToken,
  createSoftHsmToken,
  type SoftHsmToken,
  tokenVariables,
} from '../../softhsm/token.ts';
import { AgentProcess } from '../../src/hsm/agent-process.ts';
import { HsmAgents } from '../../src/hsm/agents.ts';
import { CommandAgent } from '../../src/hsm/command-agent.ts';
import { hostedAgents } from '../../src/hsm/hosted-agents.ts';
import type { OperationName, RequestOf, ServeSettings } from '../../src/hsm/protocol.ts';
import type { TokenProfile } from '../../src/hsm/token-profile.ts';
import { newId } from '../../src/ids.ts';
import { tokenObjectsOf } from '../../src/keyring/hsm-token/token-objects.ts';
import { withOwnerConnection } from '../../src/store/core/owner.ts';
import { readEnvironmentAsOwner } from '../../src/store/environment.ts';
import { newApprover, ruleOf } from '../hsm/agent-rule/rig.ts';
import { NO_ALERTS } from '../support/alerts.ts';
import { readableServer } from '../support/compiled.ts';
import {
  type Environment,
  eventually,
  type LogLine,
  newEnvironment,
  reasonOf,
  runCommand,
  type Service,
  startService,
  startServiceWithoutWaiting,
} from '../support/kit.ts';

const MAIN = readableServer();
const MANIFEST = join(import.meta.dirname, '..', '..', 'package.json');
const LABEL = process.env['KEYWARD_TEST_TOKEN_LABEL'] ?? '';
/** No account of any system has these. */
const HOST = { uid: 64_001, gid: 64_001 };
/** Of the host's group, as an operator puts the server's user there. */
const SERVER = { uid: 64_002, gid: HOST.gid };
const KEY = 'tenants/acme/keys/k';
const LOOK_MS = 700;

const isRoot = process.getuid?.() === 0;
// What is not bundled is the clone's.
const READ = 'require("fs").readFileSync(process.argv[1])';
const canRun = !isRoot || runAs(SERVER, process.execPath, ['-e', READ, MANIFEST]).status === 0;
const skip = canRun ? false : 'another user cannot read the sources here';
const skipUsers = !isRoot ? 'only root runs programs as other users' : skip;

type Account = typeof HOST;

function runAs(account: Account, command: string, args: readonly string[]) {
  return spawnSync(command, args, {
    ...(isRoot ? account : {}),
    encoding: 'utf8',
    cwd: '/',
    env: {},
  });
}

/** What must not outlive this process. */
const running = new Set<ChildProcess>();
process.once('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/** A host of agents, and what it has logged. */
class Host {
  readonly log: LogLine[] = [];
  readonly ended: Promise<number | string | null>;
  readonly #child: ChildProcess;

  constructor(variables: Readonly<Record<string, string>>) {
    this.#child = spawn(process.execPath, [MAIN, 'agents'], {
      ...(isRoot ? HOST : {}),
      env: { ...variables },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    for (const output of [this.#child.stdout, this.#child.stderr])
      createInterface({ input: output as NodeJS.ReadableStream }).on('line', (line) =>
        this.log.push(line.startsWith('{') ? JSON.parse(line) : { text: line }),
      );
    running.add(this.#child);
    this.ended = new Promise((resolve) =>
      this.#child.once('close', (code, signal) => resolve(signal ?? code)),
    );
    this.#child.once('close', () => running.delete(this.#child));
  }

  /** Returns once it listens. */
  static async start(variables: Readonly<Record<string, string>>): Promise<Host> {
    const host = new Host(variables);
    await eventually(
      () => assert.ok(host.said(/^listening/).length > 0),
      () => JSON.stringify(host.log),
    );
    return host;
  }

  said(pattern: RegExp): LogLine[] {
    return this.log.filter(({ msg, text }) => pattern.test(String(msg ?? text)));
  }

  get pid(): number {
    assert.ok(this.#child.pid);
    return this.#child.pid;
  }

  /** Those that it has started and that have not ended. */
  get agentPids(): number[] {
    return this.said(/^started an HSM agent/)
      .map(({ pid }) => Number(pid))
      .filter(isAlive);
  }

  kill(signal: NodeJS.Signals): Promise<number | string | null> {
    this.#child.kill(signal);
    return this.ended;
  }
}

/** Folders that both users can get to, each with what is its own. */
interface Place {
  readonly folder: string;
  readonly socket: string;
  readonly token: SoftHsmToken;
  readonly hostVariables: Record<string, string>;
  readonly serverVariables: Record<string, string>;
}

function makePlace(environment: Environment, name: string, from = environment.token): Place {
  const folder = mkdtempSync(join(tmpdir(), `keyward-host-${name}-`));
  chmodSync(folder, 0o755);
  const token = copyToken(dirname(from.pinFile), join(folder, 'token'), LABEL);
  give(join(folder, 'token'), HOST);
  chmodSync(join(folder, 'token'), 0o700);
  const socket = join(folder, 'run', 'agents.socket');
  mkdirSync(dirname(socket), { mode: 0o750 });
  give(dirname(socket), HOST);
  const tls = join(folder, 'tls');
  mkdirSync(tls, { mode: 0o700 });
  const files = Object.entries(environment.variables).flatMap(([setting, path]) => {
    if (!setting.startsWith('KEYWARD_TLS_')) return [];
    const copy = join(tls, setting);
    copyFileSync(path, copy);
    chmodSync(copy, 0o600);
    return [[setting, copy] as const];
  });
  give(tls, SERVER);
  const unset = Object.fromEntries(
    Object.keys({ ...tokenVariables(token), NODE_COMPILE_CACHE: '' }).map((each) => [each, '']),
  );
  return {
    folder,
    socket,
    token,
    hostVariables: { ...tokenVariables(token), KEYWARD_AGENT_HOST_LISTEN: socket },
    serverVariables: { ...unset, ...Object.fromEntries(files), KEYWARD_AGENT_HOST: socket },
  };
}

/** Gives a folder with all that is in it to an account, if anything can be given. */
function give(folder: string, { uid, gid }: Account): void {
  if (!isRoot) return;
  chownSync(folder, uid, gid);
  for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' }))
    chownSync(join(folder, name), uid, gid);
}

function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

describe('agents of another user', { skip }, () => {
  let environment: Environment;
  let place: Place;
  let host: Host;
  let service: Service;
  let keyward: KeywardClient;
  /** What is recorded of the token. */
  let settings: Omit<ServeSettings, 'despiteFailedTry'>;
  const pools: HsmAgents[] = [];

  const startServer = (more: Readonly<Record<string, string>> = {}) =>
    startService(
      environment,
      {
        ...place.serverVariables,
        KEYWARD_HSM_AGENTS: '2',
        KEYWARD_HSM_CALL_TIMEOUT_MS: '2000',
        ...more,
      },
      isRoot ? { account: SERVER } : {},
    );
  /** Agents of this process, on a host. */
  const poolOn = (socket: string, count = 1) => {
    const quiet = { info() {}, warn() {}, error() {} };
    const pool = new HsmAgents({
      starter: hostedAgents(socket),
      settings,
      count,
      callTimeoutMs: 30_000,
      maxCalls: 100,
      maxBytes: 1 << 20,
      log: quiet,
      alerts: NO_ALERTS,
    });
    pools.push(pool);
    return pool;
  };
  const asHost = (args: readonly string[], variables: Readonly<Record<string, string>>) =>
    runCommand(environment, args, variables, isRoot ? { account: HOST } : {});
  const works = () =>
    eventually(async () => {
      const { ciphertext } = await keyward.encrypt({ name: KEY, plaintext: Buffer.from('text') });
      const { plaintext } = await keyward.decrypt({ parent: 'tenants/acme', ciphertext });
      assert.equal(plaintext.toString(), 'text');
    });
  const twoAgents = () =>
    eventually(() => {
      const { agentPids } = host;
      assert.equal(agentPids.length, 2);
      return agentPids;
    });

  before(async () => {
    environment = await newEnvironment();
    place = makePlace(environment, 'shared');
    host = await Host.start(place.hostVariables);
    service = await startServer();
    keyward = service.client();
    await keyward.createTenant({ tenantId: 'acme' });
    await keyward.createKey({ parent: 'tenants/acme', keyId: 'k' });
    // By a command in an agent of its own.
    await keyward.rotateRootKey({ parent: 'tenants/system' });
    settings = await withOwnerConnection(environment.urls.owner, undefined, async (owner) => {
      const record = await readEnvironmentAsOwner(owner);
      return {
        environmentId: record.environmentId,
        profile: record.tokenProfile as TokenProfile,
        objects: tokenObjectsOf(record.tokenObjects),
        keyCacheSize: 4,
      };
    });
  });
  after(async () => {
    await Promise.all(pools.map((pool) => pool.stop()));
    await service?.stop();
    await host?.kill('SIGKILL');
    await environment?.[Symbol.asyncDispose]();
    rmSync(place.folder, { recursive: true, force: true });
  });

  test('encrypt and decrypt, and make root keys, for a server that starts none', async () => {
    await works();
    await eventually(() => assert.ok(host.log.some(({ use }) => use === 'command')));
    await twoAgents();
    assert.deepEqual(service.agentPids, []);
  });

  test('are the host’s, and the server’s user can have nothing of theirs', {
    skip: skipUsers,
  }, async () => {
    const [agent = 0] = await twoAgents();
    const uidOf = (pid: number) => statSync(`/proc/${pid}`).uid;
    assert.deepEqual([uidOf(agent), uidOf(service.pid)], [HOST.uid, SERVER.uid]);
    const reads = (account: Account, path: string) =>
      runAs(account, process.execPath, [
        '-e',
        'const fs = require("fs"); const path = process.argv[1];' +
          'fs.statSync(path).isDirectory() ? fs.readdirSync(path) : fs.openSync(path, "r");',
        path,
      ]).status === 0;
    const tokenFolder = join(dirname(place.token.pinFile), 'tokens');
    const [tokenObjects = ''] = readdirSync(tokenFolder);
    for (const path of [
      place.token.pinFile,
      tokenFolder,
      join(tokenFolder, tokenObjects),
      ...['mem', 'environ', 'maps', 'fd', 'cwd/.'].map((name) => `/proc/${agent}/${name}`),
      ...['mem', 'environ'].map((name) => `/proc/${host.pid}/${name}`),
    ]) {
      assert.equal(reads(SERVER, path), false, `the server reads ${path}`);
      assert.equal(reads(HOST, path), true, `the host reads ${path}`);
    }
    const signals = (account: Account) =>
      runAs(account, process.execPath, ['-e', `process.kill(${agent}, 0)`]).status === 0;
    assert.deepEqual([signals(SERVER), signals(HOST)], [false, true]);
    const stranger = { uid: SERVER.uid + 1, gid: SERVER.gid + 1 };
    const connects = (account: Account) =>
      runAs(account, process.execPath, [
        '-e',
        'require("net").connect(process.argv[1], () => process.exit(0))',
        place.socket,
      ]).status === 0;
    assert.deepEqual([connects(SERVER), connects(stranger)], [true, false]);
  });

  test('do for a server what serving needs, and nothing that an operator’s command does', async () => {
    const token = {
      module: '/nonexistent.so',
      token: 'other',
      pinFile: '/nonexistent',
      waivers: [],
    };
    const asked = async <Name extends OperationName>(name: Name, request: RequestOf<Name>) => {
      using agent = new CommandAgent(hostedAgents(place.socket));
      return await agent.call(name, request);
    };
    const { keyCacheSize: _, ...opening } = settings;
    const offer = { modulus: 'c0'.repeat(384), hashes: ['SHA-1'], wrap: 1 } as const;
    const calls = [
      asked('openMoveSource', { ...opening, offer }),
      asked('initializeToken', opening),
      asked('destroyTokenKeys', { ...opening, objects: [] }),
    ];
    for (const outcome of await Promise.allSettled(calls))
      assert.match(
        outcome.status === 'rejected' ? String(outcome.reason) : 'done',
        /only a command of the agents’ own user/,
      );
    // What it would load and read is not heeded.
    const start = { ...settings, ...token, despiteFailedTry: false };
    assert.equal((await asked('start', start)).token, LABEL);
    const pool = poolOn(place.socket);
    await pool.start();
    await assert.rejects(
      pool.call(
        'createTokenKey',
        { ...opening, role: 'root', objectId: settings.environmentId },
        Infinity,
      ),
      ({ cause }: Error) => /this agent serves/.test(String(cause)),
    );
    await pool.stop();
  });

  test('are replaced when they are killed, and when they hang', async () => {
    const [killed = 0, hung = 0] = await twoAgents();
    process.kill(killed, 'SIGKILL');
    await works();
    await service.logged(({ msg, how }) => msg === 'HSM agent ended' && how === 'SIGKILL');
    process.kill(hung, 'SIGSTOP');
    await eventually(async () => {
      await keyward.encrypt({ name: KEY, plaintext: Buffer.from('text') }).catch(() => {});
      assert.equal(isAlive(hung), false);
    });
    await works();
    await twoAgents();
  });

  test('end with their server, also one that hangs, and the host serves the next', async () => {
    const former = await twoAgents();
    process.kill(former[0] ?? 0, 'SIGSTOP');
    await service.kill();
    await eventually(() => assert.deepEqual(former.filter(isAlive), []));
    await eventually(() => assert.ok(host.said(/hangs without a server/).length > 0));
    service = await startServer();
    keyward = service.client();
    await works();
  });

  test('come back after the host was killed, which is an alert while it lasts', async () => {
    const former = await twoAgents();
    await host.kill('SIGKILL');
    assert.ok(existsSync(place.socket), 'it leaves its socket behind');
    const raised = await service.logged(({ alert }) => alert === 'hsm-unavailable');
    assert.match(String(raised['failure']), new RegExp(`agent host at ${place.socket}`));
    assert.equal(
      await reasonOf(keyward.encrypt({ name: KEY, plaintext: Buffer.from('text') })),
      'HSM_UNAVAILABLE',
    );
    await eventually(() => assert.deepEqual(former.filter(isAlive), []));
    host = await Host.start(place.hostVariables);
    await works();
    await twoAgents();
  });

  test('end with the host when it is told to, and it waits for them', async () => {
    const former = await twoAgents();
    assert.equal(await host.kill('SIGTERM'), 0);
    assert.deepEqual(former.filter(isAlive), []);
    assert.ok(!existsSync(place.socket));
    host = await Host.start(place.hostVariables);
    await works();
  });

  test('share derivation epochs, and keep none of a key that was disabled', async () => {
    const { name } = await keyward.createKey({
      parent: 'tenants/acme',
      keyId: 'with-epochs',
      epochMaxMessages: 1_000,
    });
    const saltOf = async () =>
      (await keyward.encrypt({ name, plaintext: Buffer.from('p') })).ciphertext.toString(
        'hex',
        24,
        56,
      );
    const saltsOf = async () => new Set(await Promise.all(Array.from({ length: 8 }, saltOf)));
    // That the key was created agents may hear only now, and forget.
    const before = await eventually(async () => {
      const salts = await saltsOf();
      assert.ok(salts.size <= 2, 'each of two agents has one');
      return salts;
    });
    await keyward.disableKey({ name });
    await keyward.enableKey({ name });
    const after = await saltsOf();
    assert.ok(after.isDisjointFrom(before));
  });

  test('serve several processes of one service, each its own', async () => {
    const before = await twoAgents();
    const several = await startServer({ KEYWARD_SERVERS: '2', KEYWARD_HSM_AGENTS: '1' });
    try {
      await eventually(() => assert.equal(host.agentPids.length, before.length + 2));
      const client = several.client({ connections: 4 });
      for (let count = 0; count < 8; count += 1)
        await client.encrypt({ name: KEY, plaintext: Buffer.from('text') });
    } finally {
      await several.stop();
    }
    await eventually(() => assert.deepEqual(host.agentPids, before));
  });

  test('are no more than the host may have, of all servers together', async () => {
    // None is logging in then, which writes a file of the token anew.
    await twoAgents();
    const few = makePlace(environment, 'few', place.token);
    const limited = await Host.start({ ...few.hostVariables, KEYWARD_AGENT_HOST_AGENTS: '2' });
    try {
      const pool = poolOn(few.socket, 4);
      await pool.start();
      await eventually(() => assert.match(pool.lastFailure, /KEYWARD_AGENT_HOST_AGENTS allows no/));
      await eventually(() => assert.equal(limited.agentPids.length, 2));
      const another = poolOn(few.socket);
      void another.start();
      await eventually(() =>
        assert.match(another.lastFailure, /KEYWARD_AGENT_HOST_AGENTS allows no more than 2/),
      );
      await pool.stop();
      await eventually(() => assert.equal(another.pids.length, 1));
      await another.stop();
    } finally {
      await limited.kill('SIGKILL');
      rmSync(few.folder, { recursive: true, force: true });
    }
  });

  test('hold the rule that the host’s environment names, and none that a server does', async () => {
    await twoAgents();
    const ruled = makePlace(environment, 'ruled', place.token);
    const file = join(ruled.folder, 'rule.json');
    const people = [newApprover('bert'), newApprover('cora')];
    writeFileSync(file, JSON.stringify(ruleOf(people)), { mode: 0o644 });
    const holding = await Host.start({ ...ruled.hostVariables, KEYWARD_AGENT_RULE: file });
    try {
      const pool = poolOn(ruled.socket);
      await pool.start();
      assert.deepEqual(
        pool.rule?.approvers,
        people.map(({ name }) => name),
      );
      const { keyCacheSize: _, ...opening } = settings;
      using agent = new CommandAgent(hostedAgents(ruled.socket));
      await assert.rejects(
        agent.call('createTokenKey', { ...opening, role: 'root', objectId: newId() }),
        /by the agents’ rule: it wants 2 people to have approved it/,
      );
      await pool.stop();
    } finally {
      await holding.kill('SIGKILL');
      rmSync(ruled.folder, { recursive: true, force: true });
    }
  });

  test('try a wrong PIN once, whichever servers ask, until its file changes', async () => {
    await twoAgents();
    const wrong = makePlace(environment, 'wrong', place.token);
    const { pinFile } = wrong.token;
    const right = readFileSync(pinFile, 'utf8');
    writeFileSync(pinFile, 'not-the-pin');
    const trying = await Host.start(wrong.hostVariables);
    try {
      const asking = [poolOn(wrong.socket, 2), poolOn(wrong.socket, 2)];
      for (const pool of asking) void pool.start();
      for (const pool of asking)
        await eventually(() =>
          assert.match(pool.lastFailure, /does not accept the PIN in .* none is tried until/),
        );
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
      assert.equal(trying.said(/^started an HSM agent/).length, 1);
      assert.equal(trying.said(/^the token does not accept the PIN/).length, 1);
      writeFileSync(pinFile, right);
      for (const pool of asking) await eventually(() => assert.equal(pool.pids.length, 2));
      for (const pool of asking) await pool.stop();
    } finally {
      await trying.kill('SIGKILL');
      rmSync(wrong.folder, { recursive: true, force: true });
    }
  });

  test('are asked for in the host’s own words, and nothing else keeps a connection', async () => {
    const spoken = async (...lines: readonly string[]) => {
      const socket = connect(place.socket);
      for (const line of lines) socket.write(line);
      socket.on('error', () => {}).resume();
      await new Promise((resolve) => socket.once('close', resolve));
    };
    const ticket = 'ab'.repeat(16);
    await spoken('GET / HTTP/1.1\n');
    await spoken('x'.repeat(10_000));
    await spoken('null\n');
    await spoken(`{"start":{"ticket":"${ticket}","use":"operating"}}\n`);
    await spoken(`{"stream":"${ticket}"}\nand more`);
    await spoken(`{"stream":"../${ticket}"}\n`);
    // Alone, and after a time.
    await spoken(`{"stream":"${ticket}"}\n`);
    await spoken();
    await works();
  });

  test('are not begun for a server that takes back its wish', async () => {
    const ended = Promise.withResolvers<string>();
    const agent = new AgentProcess({
      starter: hostedAgents(place.socket),
      use: 'serving',
      onOutput() {},
      onExit: ({ cause }) => ended.resolve(cause),
    });
    agent.kill();
    assert.equal(await ended.promise, 'hung');
    await works();
    await twoAgents();
  });

  test('leave their settings to the host: the server’s are refused by name', async () => {
    const given = { KEYWARD_HSM_PIN_FILE: place.token.pinFile, KEYWARD_NEXT_HSM_TOKEN: 'next' };
    const refused = startServiceWithoutWaiting(environment, {
      ...place.serverVariables,
      ...given,
    });
    assert.equal(await refused.ended, 1);
    for (const name of Object.keys(given))
      assert.match(JSON.stringify(refused.log), new RegExp(`${name} must not be set where`));
    const { code, output } = await runCommand(environment, ['token', 'check'], {
      KEYWARD_AGENT_HOST: place.socket,
    });
    assert.equal(code, 1);
    assert.match(output, /KEYWARD_AGENT_HOST must not be set for a command that opens the token/);
  });

  test('let an operator’s commands run as the host’s user, beside the host', async () => {
    const { code, output } = await asHost(['token', 'check'], tokenVariables(place.token));
    assert.equal(code, 0, output);
  });

  test('are behind a socket that is the host’s alone', async () => {
    const file = join(dirname(place.socket), 'file');
    writeFileSync(file, 'kept');
    const open = join(place.folder, 'open');
    mkdirSync(open);
    give(open, HOST);
    chmodSync(open, 0o777);
    const refused = async (path: string, why: RegExp) => {
      const other = new Host({ ...place.hostVariables, KEYWARD_AGENT_HOST_LISTEN: path });
      assert.equal(await other.ended, 1);
      assert.match(JSON.stringify(other.log), why);
    };
    await Promise.all([
      refused(place.socket, /another agent host listens there/),
      refused(file, /something that is no socket of this user/),
      refused(join(open, 'socket'), /others can change its folder/),
      refused('run/socket', /must be an absolute path/),
    ]);
    assert.equal(readFileSync(file, 'utf8'), 'kept');
    await works();
  });

  test('of two hosts serve from both tokens while key versions move, and then from the other', async () => {
    const directory = join(place.folder, 'next');
    const next = await createSoftHsmToken({ directory, label: 'next' });
    const tokens = join(dirname(place.token.confFile), 'tokens');
    cpSync(join(directory, 'tokens'), tokens, { recursive: true });
    for (const folder of [directory, tokens]) give(folder, HOST);
    const socket = join(dirname(place.socket), 'next.socket');
    const of = { KEYWARD_HSM_TOKEN: next.label, KEYWARD_HSM_PIN_FILE: next.pinFile };
    const other = await Host.start({
      ...place.hostVariables,
      ...of,
      KEYWARD_AGENT_HOST_LISTEN: socket,
    });
    try {
      const { ciphertext } = await keyward.encrypt({ name: KEY, plaintext: Buffer.from('text') });
      const opens = () =>
        eventually(async () => {
          const opened = await keyward.decrypt({ parent: 'tenants/acme', ciphertext });
          assert.equal(opened.plaintext.toString(), 'text');
        });
      await service.stop();
      service = await startServer({ KEYWARD_NEXT_AGENT_HOST: socket });
      keyward = service.client();
      const { code, output } = await asHost(['token', 'migrate'], {
        ...tokenVariables(place.token),
        KEYWARD_NEXT_HSM_MODULE: next.modulePath,
        KEYWARD_NEXT_HSM_TOKEN: next.label,
        KEYWARD_NEXT_HSM_PIN_FILE: next.pinFile,
      });
      assert.equal(code, 0, output);
      await opens();
      await service.stop();
      await host.kill('SIGTERM');
      service = await startServer({ KEYWARD_AGENT_HOST: socket });
      keyward = service.client();
      await opens();
    } finally {
      await service.stop();
      await other.kill('SIGKILL');
    }
  });
});
