/**
 * The agents' lives: how they start, hang, end and are replaced, whatever the PKCS#11 library does
 * to them.
 *
 * Speaks to `HsmAgents` as the server does, over a token of its own and `test/faults/pkcs11.c`.
 * What callers see of all this over the wire is `faults.test.ts`.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { createSoftHsmToken } from '../../softhsm/token.ts';
import { monotonicNow } from '../../src/call.ts';
import type { TokenSettings } from '../../src/hsm/agent-given.ts';
import { AgentProcess } from '../../src/hsm/agent-process.ts';
import { childAgents } from '../../src/hsm/agent-starter.ts';
import { HsmAgents, type HsmAgentsOptions } from '../../src/hsm/agents.ts';
import { NO_SUBJECT, PURPOSE } from '../../src/hsm/ciphertext.ts';
import { encode } from '../../src/hsm/codec.ts';
import { ALGORITHM, type SealedKeyVersion, sealedKeyVersion } from '../../src/hsm/key-version.ts';
import {
  decodeReply,
  encodeRequest,
  type ReplyOf,
  type ServeSettings,
} from '../../src/hsm/protocol.ts';
import { initializeToken } from '../../src/hsm/token-commands.ts';
import {
  type AnyId,
  type EnvironmentId,
  type KeyId,
  newId,
  type RootKeyId,
  type SealKeyId,
  type TenantId,
} from '../../src/ids.ts';
import { CKR, faultsFor, type Pkcs11Faults } from '../faults/pkcs11.ts';
import { alertsTo, NO_ALERTS } from '../support/alerts.ts';
import { testTokenVariables } from '../support/compiled.ts';
import { eventually } from '../support/kit.ts';

/** Long enough to see something happen that must not; nothing is waited for. */
const LOOK_MS = 700;

interface Line {
  readonly message: string;
  readonly [field: string]: unknown;
}

describe('the HSM agents', () => {
  let directory: string;
  let faults: Pkcs11Faults;
  let opening: TokenSettings;
  let settings: Omit<ServeSettings, 'despiteFailedTry'>;
  let version: SealedKeyVersion;
  let running: HsmAgents | undefined;
  let log: Line[] = [];

  before(async () => {
    const parent = process.env['KEYWARD_TEST_DIRECTORY'];
    assert.ok(parent);
    directory = mkdtempSync(join(parent, 'agents-'));
    const token = await createSoftHsmToken({
      directory: join(directory, 'token'),
      label: 'agents',
    });
    faults = faultsFor(join(directory, 'faults'), testTokenVariables(token));
    opening = {
      module: faults.variables['KEYWARD_HSM_MODULE'] ?? '',
      token: token.label,
      pinFile: token.pinFile,
      waivers: [],
    };
    const environmentId = newId<EnvironmentId>();
    const made = await initializeToken({ environmentId }, agentsOver(faults));
    settings = { environmentId, ...made, keyCacheSize: 10 };
    const agents = await start();
    const objectId = <Id extends AnyId>(role: string) =>
      made.objects.find((object) => object.role === role)?.objectId as Id;
    version = await agents.call(
      'createKeyVersion',
      {
        tenantId: newId<TenantId>(),
        keyId: newId<KeyId>(),
        version: 1,
        algorithm: ALGORITHM.hmacSha512Aes256Gcm,
        rootKeyId: objectId<RootKeyId>('root'),
        sealKeyId: objectId<SealKeyId>('seal'),
      },
      soon(),
    );
    await agents.stop();
  });
  after(() => rmSync(directory, { recursive: true, force: true }));
  afterEach(async () => {
    faults.set();
    await running?.stop();
    running = undefined;
  });

  const environmentOf = ({ variables }: Pkcs11Faults) =>
    Object.fromEntries(
      (variables['KEYWARD_HSM_ENVIRONMENT'] ?? '')
        .split(',')
        .map((name) => [name, variables[name] ?? '']),
    );
  const agentsOver = (faults: Pkcs11Faults, token = opening) =>
    childAgents(token, environmentOf(faults));
  const soon = () => monotonicNow() + 120_000;

  function create(options: Partial<HsmAgentsOptions> = {}): HsmAgents {
    log = [];
    const write = (fields: object, message: string) => log.push({ ...fields, message });
    running = new HsmAgents({
      starter: agentsOver(faults),
      settings,
      count: 1,
      callTimeoutMs: 30_000,
      maxCalls: 1_000,
      maxBytes: 1 << 24,
      log: { info: write, warn: write, error: write },
      alerts: alertsTo(write),
      ...options,
    });
    return running;
  }

  /** Agents that are all ready. */
  async function start(options: Partial<HsmAgentsOptions> = {}): Promise<HsmAgents> {
    const agents = create(options);
    await agents.start();
    await eventually(() => assert.equal(agents.pids.length, options.count ?? 1));
    return agents;
  }

  const seal = (agents: HsmAgents) =>
    agents.call(
      'seal',
      {
        keyVersion: encode(sealedKeyVersion, version),
        purpose: PURPOSE.payload,
        subject: NO_SUBJECT,
        contextDigest: Buffer.alloc(32),
        plaintext: Buffer.from('x'),
      },
      soon(),
    );
  const logged = (message: string) => log.filter((line) => line.message === message);

  test('one that hangs while it starts is killed, and the next one serves', async () => {
    faults.set('C_Initialize hang times 1');
    const agents = create({ startTimeoutMs: 1_500 });
    await agents.start();
    assert.equal(faults.met(), 1);
    await seal(agents);
  });

  test('one that hangs while it starts is not waited for once another has been ready', async () => {
    const agents = await start({ callTimeoutMs: 500, startTimeoutMs: 600_000 });
    faults.set('C_Initialize hang times 1');
    const [pid] = agents.pids;
    assert.ok(pid);
    process.kill(pid, 'SIGKILL');
    await eventually(() => assert.equal(faults.met(), 1));
    await eventually(() => seal(agents));
    assert.equal(agents.pids.length, 1);
  });

  test('one that takes longer to start than starts may is given more time, and serves', async () => {
    faults.set('C_Initialize delay 1500');
    const agents = create({ startTimeoutMs: 200 });
    await agents.start();
    await seal(agents);
  });

  test('one that is slow to start is left to it, however short the time-out of calls', async () => {
    faults.set('C_Login delay 1000');
    const agents = create({ callTimeoutMs: 100 });
    await agents.start();
    assert.equal(faults.met(), 1);
  });

  test('one that can not even exit is ended, and its successor serves', async () => {
    const agents = await start();
    faults.set('C_Sign stay times 1', 'C_Sign return 0x30 times 1');
    await assert.rejects(seal(agents), { reason: 'HSM_UNAVAILABLE' });
    faults.set();
    await eventually(() => seal(agents));
  });

  test('one that can not exit after a start that failed is ended, and its successor serves', async () => {
    faults.set('C_OpenSession stay times 1', 'C_OpenSession return 0x30 times 1');
    const agents = create();
    await agents.start();
    await seal(agents);
  });

  test('one whose library has left a process behind that holds its pipes is replaced', async () => {
    faults.set('C_Initialize fork times 1');
    const agents = await start();
    const [pid] = agents.pids;
    assert.ok(pid);
    process.kill(pid, 'SIGKILL');
    await eventually(() => assert.ok(agents.pids[0] !== undefined && agents.pids[0] !== pid));
    await seal(agents);
  });

  test('one whose library writes to the stream costs itself, not the server', async () => {
    const agents = await start();
    faults.set('C_Sign garbage times 1');
    await assert.rejects(seal(agents), { reason: 'HSM_UNAVAILABLE' });
    await eventually(() => seal(agents));
  });

  test('what a library prints is in the log', async () => {
    faults.set('C_Initialize print hello-from-the-library times 1');
    await start();
    await eventually(() =>
      assert.match(JSON.stringify(logged('HSM agent printed')), /hello-from-the-library/),
    );
  });

  test('one that is slow but works is not taken for one that hangs', async () => {
    const agents = await start({ callTimeoutMs: 2_000 });
    await seal(agents);
    faults.set('C_Sign delay 50');
    const [pid] = agents.pids;
    // Three seconds of work in one piece of the stream, of which no call takes long.
    await Promise.all(Array.from({ length: 60 }, () => seal(agents)));
    assert.equal(agents.pids[0], pid);
  });

  test('answers leave one by one where calls are slow', async () => {
    const agents = await start();
    await seal(agents);
    faults.set('C_Sign delay 5 times 1', 'C_Sign hang after 1');
    const first = seal(agents);
    const second = seal(agents);
    await first;
    faults.set();
    await second;
  });

  test('a server that was frozen does not take its agents for hung', async () => {
    const agents = await start({ callTimeoutMs: 2_000 });
    const [pid] = agents.pids;
    const sealed = seal(agents);
    await new Promise((resolve) => setImmediate(resolve));
    // Nothing of this process runs meanwhile, as when it is stopped and continued.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 3_000);
    await sealed;
    await sleep(LOOK_MS);
    assert.equal(agents.pids[0], pid);
  });

  test('a token on which nothing succeeds is left alone longer and longer, though agents can log in', async () => {
    const agents = await start();
    faults.set('C_Login', 'C_UnwrapKey return 0x30');
    const end = monotonicNow() + 3_000;
    while (monotonicNow() < end) {
      await seal(agents).catch(() => {});
      await sleep(5);
    }
    const logins = faults.met();
    assert.ok(logins <= 8, `${logins} logins in 3 s`);
    faults.set();
    await eventually(() => seal(agents));
  });

  test('a token on which nothing can be signed makes no agent ready', async () => {
    faults.set('C_Sign return 0x30');
    const agents = create();
    const started = agents.start();
    await eventually(() => assert.ok(logged('cannot start an HSM agent').length >= 2));
    assert.equal(agents.ready, false);
    faults.set();
    await started;
    await seal(agents);
  });

  test('a token that can not be read when an agent starts is not taken for another, and waited for', async () => {
    const tokens = join(directory, 'token', 'tokens');
    renameSync(tokens, `${tokens}.away`);
    mkdirSync(tokens);
    const agents = create();
    const started = agents.start();
    await eventually(() => assert.ok(logged('cannot start an HSM agent').length >= 2));
    rmSync(tokens, { recursive: true });
    renameSync(`${tokens}.away`, tokens);
    await started;
    await seal(agents);
  });

  test('case 65: of many agents that end at once, one logs in before the others do', async () => {
    const agents = await start({ count: 4 });
    const [kept, ...killed] = agents.pids;
    // Of those that start together one may come when another's login has SoftHSM write the token's
    // file, and be started again.
    log = [];
    faults.set(`C_Login return ${CKR.PIN_INCORRECT}`);
    for (const pid of killed) process.kill(pid, 'SIGKILL');
    await eventually(() => assert.equal(logged('cannot start an HSM agent').length, 1));
    await sleep(LOOK_MS);
    assert.equal(faults.met(), 1);
    assert.deepEqual(agents.pids, [kept]);
    await seal(agents);
  });

  test('after a refusal at the first start none is started again', async () => {
    faults.set('C_Initialize', 'C_GetAttributeValue report 0x162 1');
    const agents = create();
    await assert.rejects(agents.start(), /extractable: violated/);
    await sleep(LOOK_MS);
    assert.equal(faults.met(), 1);
    await assert.rejects(seal(agents), { reason: 'HSM_UNAVAILABLE' });
  });

  test('one that crashes whenever it loads the module does not take the server with it', async () => {
    faults.set('C_Initialize crash times 3');
    const agents = create();
    await agents.start();
    assert.equal(faults.met(), 3);
    await seal(agents);
  });

  test('stop ends one that hangs, and what it had fails', async () => {
    const agents = await start({ callTimeoutMs: 2_000 });
    const [pid] = agents.pids;
    faults.set('C_Sign hang times 1');
    const hanging = assert.rejects(seal(agents), { reason: 'HSM_UNAVAILABLE' });
    await eventually(() => assert.equal(faults.met(), 1));
    await agents.stop();
    await hanging;
    await eventually(() => assert.ok(pid && !isAlive(pid)));
  });

  test('stop ends one that hangs while it starts', async () => {
    faults.set('C_Initialize hang');
    const agents = create({ callTimeoutMs: 500 });
    agents.start().catch(() => {});
    await eventually(() => assert.equal(faults.met(), 1));
    await agents.stop();
  });

  test('what waits for an agent that does not come fails as unavailable, and says why', async () => {
    faults.set('C_OpenSession return 0x30');
    const agents = create();
    agents.start().catch(() => {});
    // Before the first agent has tried, there is no reason yet.
    await eventually(async () => {
      const failure = await seal(agents).then(
        () => assert.fail('there is no agent'),
        (error: Error) => error,
      );
      assert.match(String(failure.cause), /no agent is ready: .*CKR_DEVICE_ERROR/);
    });
  });

  test('a request that can not be sent fails alone', async () => {
    const agents = await start({ callTimeoutMs: 2_000 });
    const [pid] = agents.pids;
    const request = {
      keyVersion: encode(sealedKeyVersion, version),
      purpose: 4_096,
      subject: NO_SUBJECT,
      contextDigest: Buffer.alloc(32),
      plaintext: Buffer.from('x'),
    };
    await assert.rejects(agents.call('seal', request, soon()));
    // Were it taken for sent, the agent would be taken for hung.
    await sleep(2_000 + LOOK_MS);
    await seal(agents);
    assert.equal(agents.pids[0], pid);
  });

  test('one that creates token objects is not killed, whatever its time', async () => {
    const fresh = await createSoftHsmToken({ directory: join(directory, 'fresh'), label: 'fresh' });
    const over = faultsFor(join(directory, 'fresh-faults'), testTokenVariables(fresh));
    over.set('C_GenerateKey hang times 1');
    const token = {
      module: over.variables['KEYWARD_HSM_MODULE'] ?? '',
      token: fresh.label,
      pinFile: fresh.pinFile,
      waivers: [],
    };
    const request = { environmentId: newId<EnvironmentId>() };
    const { promise, resolve, reject } = Promise.withResolvers<ReplyOf<'initializeToken'>>();
    const agent = new AgentProcess({
      starter: agentsOver(over, token),
      use: 'command',
      onOutput: () => {},
      onExit: ({ how }) => reject(new Error(how)),
    });
    agent.send({
      name: 'initializeToken',
      encode: (requestId) =>
        encodeRequest(requestId, 'initializeToken', Number.POSITIVE_INFINITY, request),
      attempts: 0,
      startedAfter: 0,
      settle: (frame) => {
        const outcome = decodeReply('initializeToken', frame);
        if ('reply' in outcome) resolve(outcome.reply);
        else reject(new Error(outcome.failure.detail));
      },
      fail: reject,
    });
    await eventually(() => assert.equal(over.met(), 1));
    assert.equal(agent.workingFor, 0);
    agent.kill();
    over.set();
    assert.equal((await promise).objects.length, 4);
    agent.end();
  });

  test('where the system would not even start one the server lives, and calls fail as unavailable', async () => {
    // Longer than the system takes, which Node throws where it emits most other failures.
    const environment = { ...environmentOf(faults), LONG: 'x'.repeat(200_000) };
    const agents = new HsmAgents({
      starter: childAgents(opening, environment),
      settings,
      count: 2,
      callTimeoutMs: 5_000,
      maxCalls: 10,
      maxBytes: 1 << 20,
      log: { info() {}, warn() {}, error() {} },
      alerts: NO_ALERTS,
    });
    void agents.start();
    const random = agents.call('random', { length: 32 }, soon());
    await assert.rejects(random, { reason: 'HSM_UNAVAILABLE' });
    await agents.stop();
  });

  test('without a descriptor to spare the server lives, and agents come back once there is', async () => {
    const program = join(import.meta.dirname, '..', 'faults', 'without-descriptors.ts');
    const { stdout } = await promisify(execFile)('/bin/sh', [
      '-c',
      'ulimit -n 128; exec "$0" "$@"',
      process.execPath,
      program,
      JSON.stringify({ token: opening, settings, environment: environmentOf(faults) }),
    ]);
    assert.match(stdout, /^came back$/m);
  });
});

function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}
