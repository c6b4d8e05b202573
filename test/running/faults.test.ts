/**
 * The running service against what happens to it: restarts, killed agents, a database that goes
 * away, other replicas.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import type { KeywardClient } from 'keyward-client';
import {
  type Environment,
  eventually,
  newEnvironment,
  reasonOf,
  type Service,
  sharedService,
  startService,
} from '../support/kit.ts';

const PARENT = 'tenants/acme';
const KEY = `${PARENT}/keys/k`;

async function withKey(service: Service) {
  const keyward = service.client();
  await keyward.createTenant({ tenantId: 'acme' });
  await keyward.createKey({ parent: PARENT, keyId: 'k' });
  return keyward;
}

/** A service on an environment of its own, which the tests of a group end and start again. */
function restartable(variables: Readonly<Record<string, string>>) {
  let environment: Environment;
  let service: Service | undefined;
  before(async () => {
    environment = await newEnvironment();
    await withKey(await start());
  });
  after(async () => {
    await service?.stop();
    await environment?.[Symbol.asyncDispose]();
  });
  const start = async () => {
    await service?.stop(); // Closes the clients of one that has ended.
    service = await startService(environment, variables);
    return service;
  };
  return {
    /** Starts it where the one before has ended. */
    start,
    /** The one that runs. */
    get service(): Service {
      return service ?? assert.fail();
    },
    get environment(): Environment {
      return environment;
    },
  };
}

describe('restart', () => {
  const own = restartable({ KEYWARD_HSM_AGENTS: '2' });

  test('SIGHUP, also to its agents, ends nothing, and has files read again', async () => {
    const { service, environment } = own;
    const agentPids = await twoAgents(service);
    for (const pid of [service.pid, ...agentPids]) process.kill(pid, 'SIGHUP');
    await service.logged(({ msg }) => String(msg).endsWith('SIGHUP'));
    await service.client().encrypt({ name: KEY, plaintext: Buffer.from('x') });
    const path = environment.variables['KEYWARD_TLS_CLIENT_CA_FILE'] ?? '';
    const content = readFileSync(path);
    const from = service.log.length;
    writeFileSync(path, '');
    process.kill(service.pid, 'SIGHUP');
    await service.logged(({ msg }) => String(msg).startsWith('cannot reload the cert'), from);
    writeFileSync(path, content);
    assert.deepEqual(service.agentPids, agentPids);
  });

  test('what was encrypted and issued before a restart opens after it', async () => {
    const keyward = own.service.client();
    const { ciphertext } = await keyward.encrypt({ name: KEY, plaintext: Buffer.from('kept') });
    const { plaintext, wrappedDataKey } = await keyward.generateDataKey({ name: KEY });
    assert.equal(await own.service.stop(), 0);
    const again = (await own.start()).client();
    assert.equal(
      (await again.decrypt({ parent: PARENT, ciphertext })).plaintext.toString(),
      'kept',
    );
    assert.deepEqual(
      (await again.decrypt({ parent: PARENT, ciphertext: wrappedDataKey })).plaintext,
      plaintext,
    );
  });

  test('keys acknowledged before a kill -9 open after it, and its agents end with it', async () => {
    const before = own.service;
    const keyward = before.client();
    const { name } = await keyward.createKey({ parent: PARENT, keyId: 'acknowledged' });
    const { ciphertext } = await keyward.encrypt({ name, plaintext: Buffer.from('kept') });
    const agents = await twoAgents(before);
    await before.kill();
    await eventually(() => assert.deepEqual(agents.filter(isAlive), []));
    const after = await own.start();
    assert.equal(
      (await after.client().decrypt({ parent: PARENT, ciphertext })).plaintext.toString(),
      'kept',
    );
  });

  for (const signal of ['SIGTERM', 'SIGINT'] as const)
    test(`case 108: on ${signal} every call under way is answered, and the process ends with 0`, async () => {
      const { service } = own;
      const keyward = service.client();
      const calls = Array.from({ length: 200 }, () =>
        keyward.encrypt({ name: KEY, plaintext: Buffer.alloc(1000) }),
      );
      await calls[0];
      process.kill(service.pid, signal);
      const outcomes = await Promise.allSettled(calls);
      assert.deepEqual(
        outcomes.filter(({ status }) => status === 'rejected'),
        [],
      );
      assert.equal(await service.ended, 0);
      keyward.close();
      await own.start();
    });

  test('an agent killed under load costs at most the call that it was doing, and is replaced', async () => {
    const { service } = own;
    const keyward = service.client();
    const ready = () => service.log.filter(({ msg }) => msg === 'HSM agent is ready').length;
    await eventually(() => assert.equal(ready(), 2));
    for (let round = 0; round < 3; round++) {
      const [victim] = service.agentPids;
      assert.ok(victim);
      const calls = Array.from({ length: 100 }, () =>
        keyward.encrypt({ name: KEY, plaintext: Buffer.from('x') }),
      );
      process.kill(victim, 'SIGKILL');
      const outcomes = await Promise.allSettled(calls);
      const failed = outcomes.filter((outcome) => outcome.status === 'rejected');
      assert.ok(failed.length <= 1, `${failed.length} calls failed: ${failed[0]?.reason}`);
      for (const { reason } of failed) assert.equal(reason.reason, 'HSM_UNAVAILABLE');
      await eventually(() =>
        assert.equal(service.agentPids.filter((pid) => pid !== victim).length, 2),
      );
      await eventually(() => assert.equal(ready(), round + 3));
      await keyward.encrypt({ name: KEY, plaintext: Buffer.from('x') });
    }
  });
});

describe('the HSM agents', () => {
  const own = restartable({
    KEYWARD_HSM_CALL_TIMEOUT_MS: '3000',
    UNRELATED_SECRET: 'must-not-be-inherited',
  });

  test('with its only agent killed a call waits for the next one', async () => {
    const { service } = own;
    const keyward = service.client();
    // A call waits for two seconds. On a busy machine an agent may take longer, but not each time.
    await eventually(async () => {
      const [only] = service.agentPids;
      assert.ok(only);
      process.kill(only, 'SIGKILL');
      // A call that is given to a dead agent, before its end is heard of, may be what it died of,
      // for all anybody knows.
      await service.logged(({ msg, pid }) => msg === 'HSM agent ended' && pid === only);
      await keyward.encrypt({ name: KEY, plaintext: Buffer.from('x') });
    });
  });

  test('a frozen agent is replaced, and the call that it held fails as unavailable', async () => {
    const { service } = own;
    const keyward = service.client();
    // The service signs automatically now and then: it may be what the agent holds.
    await eventually(async () => {
      const [frozen] = service.agentPids;
      assert.ok(frozen);
      process.kill(frozen, 'SIGSTOP');
      const outcome = await reasonOf(keyward.encrypt({ name: KEY, plaintext: Buffer.from('x') }));
      await eventually(() => keyward.encrypt({ name: KEY, plaintext: Buffer.from('x') }));
      assert.ok(!isAlive(frozen));
      assert.equal(outcome, 'HSM_UNAVAILABLE');
    });
  });

  test('only an agent has the PKCS#11 module mapped, and the server does not know the PIN', async () => {
    const { service, environment } = own;
    const [agent] = service.agentPids;
    assert.ok(agent);
    assert.match(maps(agent), /softhsm/);
    assert.doesNotMatch(maps(service.pid), /softhsm/);
    const pin = readFileSync(environment.token.pinFile, 'utf8').trim();
    assert.doesNotMatch(openFiles(service.pid), /pin/i);
    for (const pid of [service.pid, agent]) {
      assert.ok(!readFileSync(`/proc/${pid}/environ`, 'utf8').includes(pin));
      assert.ok(!readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(pin));
    }
    assert.ok(!JSON.stringify(service.log).includes(pin));
  });

  test('an agent has the variables that are named for it and no other, and leaves no core', async () => {
    const { service, environment } = own;
    const [agent] = service.agentPids;
    assert.ok(agent);
    const names = readFileSync(`/proc/${agent}/environ`, 'utf8')
      .split('\0')
      .flatMap((entry) => entry.split('=')[0] || []);
    const named = environment.variables['KEYWARD_HSM_ENVIRONMENT']?.split(',') ?? [];
    // And what the server gives it: where the token and its PIN's file are, and how to save memory.
    named.push('KEYWARD_AGENT_GIVEN', 'MALLOC_ARENA_MAX');
    assert.deepEqual(
      names.filter((name) => ![...named, 'PWD', 'OLDPWD', '_', 'SHLVL'].includes(name)),
      [],
    );
    assert.match(readFileSync(`/proc/${agent}/limits`, 'utf8'), /Max core file size\s+0\s/);
  });
});

describe('replicas', () => {
  const shared = sharedService(async () => {});
  let two: Service;
  let here: KeywardClient;
  let there: KeywardClient;
  before(async () => {
    two = await startService(shared.environment);
    here = await withKey(shared.service);
    there = two.client();
  });
  after(() => two?.stop());

  test('a rotation on one replica holds on another within 2 seconds, and both open both', async () => {
    const first = await there.encrypt({ name: KEY, plaintext: Buffer.from('1') });
    assert.equal(first.keyVersion, `${KEY}/versions/1`);
    await here.rotateKey({ name: KEY });
    const second = await eventually(async () => {
      const answer = await there.encrypt({ name: KEY, plaintext: Buffer.from('2') });
      assert.equal(answer.keyVersion, `${KEY}/versions/2`);
      return answer;
    });
    for (const client of [here, there]) {
      for (const { ciphertext } of [first, second])
        await client.decrypt({ parent: PARENT, ciphertext });
    }
  });

  test('rotations of one key on two replicas at once never make the same version', async () => {
    const outcomes = await Promise.allSettled(
      Array.from({ length: 6 }, (_, index) => (index % 2 ? here : there).rotateKey({ name: KEY })),
    );
    const primaries = outcomes.flatMap((each) =>
      each.status === 'fulfilled' ? each.value.primary?.name : [],
    );
    assert.equal(new Set(primaries).size, primaries.length);
    assert.ok(primaries.length > 0);
  });
});

/** Once both are there. */
function twoAgents(service: Service): Promise<number[]> {
  return eventually(() => {
    const { agentPids } = service;
    assert.equal(agentPids.length, 2);
    return agentPids;
  });
}

function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

function maps(pid: number): string {
  return readFileSync(`/proc/${pid}/maps`, 'utf8');
}

function openFiles(pid: number): string {
  return readdirSync(`/proc/${pid}/fd`)
    .map((descriptor) => {
      try {
        return readlinkSync(`/proc/${pid}/fd/${descriptor}`);
      } catch {
        return '';
      }
    })
    .join('\n');
}
