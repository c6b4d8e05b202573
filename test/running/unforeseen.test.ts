/**
 * What nobody foresaw: an exception that is not caught, or a rejection that is not awaited, ends
 * one process, in order.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { programFrom } from '../support/compiled.ts';
import {
  eventually,
  type LogLine,
  newEnvironment,
  type Service,
  startService,
} from '../support/kit.ts';

/** The exit status after a failure that nobody foresaw. */
const FAILED = 70;
const KEY = 'tenants/acme/keys/k';
const SECRET = randomBytes(32).toString('hex');
const MAIN = programFrom('src/main.ts');
const PRELOAD = join(import.meta.dirname, '..', 'faults', 'unforeseen.ts');

/**
 * A service in which something fails on SIGUSR2, and a call under way that its only agent is
 * stopped in.
 */
interface Scene {
  readonly service: Service;
  readonly underWay: Promise<unknown>;
  /** Lets the agent go on. */
  readonly letGo: () => void;
}

async function withScene(
  variables: Readonly<Record<string, string>>,
  work: (scene: Scene) => Promise<void>,
): Promise<void> {
  await using environment = await newEnvironment();
  await using service = await startService(environment, {
    NODE_OPTIONS: `--import=${PRELOAD}`,
    UNFORESEEN_SECRET: SECRET,
    ...variables,
  });
  const keyward = service.client();
  await keyward.createTenant({ tenantId: 'acme' });
  await keyward.createKey({ parent: 'tenants/acme', keyId: 'k' });
  await keyward.encrypt({ name: KEY, plaintext: Buffer.from('x') });
  const [agent] = service.agentPids;
  assert.ok(agent);
  process.kill(agent, 'SIGSTOP');
  const letGo = () => process.kill(agent, 'SIGCONT');
  try {
    const underWay = keyward.encrypt({ name: KEY, plaintext: Buffer.from('x') });
    underWay.catch(() => {}); // Each test says what becomes of it.
    // By the same connection and so after it: what is answered here needs no agent.
    await keyward.getCaller();
    await work({ service, underWay, letGo });
  } finally {
    try {
      letGo();
    } catch {
      // It has ended.
    }
  }
  assert.ok(!JSON.stringify(service.log).includes(SECRET), 'a secret is in the log');
}

function failures({ log }: Service): LogLine[] {
  return log.filter(({ alert }) => alert === 'process-failed');
}

/** Whether the service takes a new connection. */
async function accepts({ port }: Service): Promise<boolean> {
  const socket = connect(port, '127.0.0.1');
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

describe('what nobody foresaw', () => {
  for (const kind of ['exception', 'rejection', 'value'] as const)
    test(`${kind}: it ends the process, calls under way are answered and new ones are not taken`, () =>
      withScene({ UNFORESEEN: kind }, async ({ service, underWay, letGo }) => {
        process.kill(service.pid, 'SIGUSR2');
        await service.logged(({ alert }) => alert === 'process-failed');
        await eventually(async () => assert.ok(!(await accepts(service)), 'it takes connections'));
        await service.logged(({ msg }) => msg === 'not serving');
        letGo();
        assert.ok(await underWay, 'the call under way is answered');
        assert.equal(await service.ended, FAILED);
        const [line, ...others] = failures(service);
        assert.deepEqual(others, []);
        assert.equal(line?.['level'], 'fatal');
        assert.equal(
          line?.['origin'],
          kind === 'exception' ? 'uncaughtException' : 'unhandledRejection',
        );
        if (kind === 'value') {
          assert.match(String(line?.['stack']), /^a value of type string/);
          return;
        }
        assert.match(
          String(line?.['stack']),
          /^TypeError: nobody foresaw this\n +at .*unforeseen\.ts:/,
        );
        assert.match(String(line?.['stack']), /\ncaused by: RangeError: what it came of\n +at /);
      }));

  test('a second failure while the process ends, ends it at once', () =>
    withScene({ UNFORESEEN: 'exception' }, async ({ service, underWay }) => {
      process.kill(service.pid, 'SIGUSR2');
      await service.logged(({ alert }) => alert === 'process-failed');
      process.kill(service.pid, 'SIGUSR2');
      assert.equal(await service.ended, FAILED);
      await assert.rejects(underWay);
      assert.equal(failures(service).length, 2);
    }));

  test('a failure while the process ends for a signal is not passed off as an end in order', () =>
    withScene({ UNFORESEEN: 'exception' }, async ({ service, underWay }) => {
      process.kill(service.pid, 'SIGTERM');
      await service.logged(({ msg }) => msg === 'ending');
      process.kill(service.pid, 'SIGUSR2');
      assert.equal(await service.ended, FAILED);
      await assert.rejects(underWay);
    }));

  test('an end after a failure is over in time, whatever holds it up', () => {
    const patient = { KEYWARD_DRAIN_MS: '300', KEYWARD_HSM_CALL_TIMEOUT_MS: '600000' };
    return withScene({ UNFORESEEN: 'exception', ...patient }, async ({ service, underWay }) => {
      process.kill(service.pid, 'SIGUSR2');
      assert.equal(await service.ended, FAILED);
      await assert.rejects(underWay);
      assert.ok(service.log.some(({ msg }) => msg === 'cannot end in time'));
    });
  });
});

test('an agent in which something fails that nobody foresaw is replaced, and says where it failed', async () => {
  await using environment = await newEnvironment();
  await using service = await startService(environment, {
    // The agents' own environment has only what is named.
    KEYWARD_HSM_ENVIRONMENT: 'SOFTHSM2_CONF,NODE_OPTIONS,UNFORESEEN,UNFORESEEN_SECRET',
    NODE_OPTIONS: `--import=${PRELOAD}`,
    UNFORESEEN_SECRET: SECRET,
  });
  const keyward = service.client();
  await keyward.createTenant({ tenantId: 'acme' });
  await keyward.createKey({ parent: 'tenants/acme', keyId: 'k' });
  const [agent] = service.agentPids;
  assert.ok(agent);
  process.kill(agent, 'SIGUSR2');
  const ended = await service.logged(({ msg, pid }) => msg === 'HSM agent ended' && pid === agent);
  assert.equal(ended['how'], `exit code ${FAILED}`);
  const printed = await service.logged(
    ({ msg, pid }) => msg === 'HSM agent printed' && pid === agent,
  );
  assert.match(
    String(printed['output']),
    /^TypeError: nobody foresaw this\n +at .*unforeseen\.ts:/,
  );
  await eventually(() => keyward.encrypt({ name: KEY, plaintext: Buffer.from('x') }));
  assert.ok(!JSON.stringify(service.log).includes(SECRET), 'a secret is in the log');
});

test('a command whose output nobody reads does what it was asked for', async () => {
  await using environment = await newEnvironment();
  const child = spawn(process.execPath, [MAIN, 'token', 'status'], {
    env: { ...environment.variables, KEYWARD_MODE: environment.mode },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  child.stdout.destroy();
  let errors = '';
  child.stderr.on('data', (chunk: Buffer) => {
    errors += chunk.toString();
  });
  const [code] = await once(child, 'close');
  assert.equal(code, 0, errors);
});

test('a command whose output finds no room does what it was asked for, and says that', async () => {
  await using environment = await newEnvironment();
  const full = openSync('/dev/full', 'w');
  const child = spawn(process.execPath, [MAIN, 'token', 'status'], {
    env: { ...environment.variables, KEYWARD_MODE: environment.mode },
    stdio: ['ignore', full, 'pipe'],
  });
  closeSync(full);
  let errors = '';
  child.stderr?.on('data', (chunk: Buffer) => {
    errors += chunk.toString();
  });
  const [code] = await once(child, 'close');
  assert.equal(code, 1);
  assert.match(errors, /^keyward-server: cannot write the output: ENOSPC: no space left/);
});
