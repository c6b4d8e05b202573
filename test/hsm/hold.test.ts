/**
 * Agents that are told of other token objects while they serve: what they hold then, how they are
 * replaced for it under calls, and what may happen meanwhile.
 *
 * On SoftHSM, over `test/faults/pkcs11.c`. What every module must do is `token-keys.ts`; ends at
 * all moments are `test/long/hsm-hold.test.ts`'s.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { copyToken, createSoftHsmToken, type SoftHsmToken } from '../../softhsm/token.ts';
import { monotonicNow } from '../../src/call.ts';
import type { HsmAgents } from '../../src/hsm/agents.ts';
import type { SealedKeyVersion } from '../../src/hsm/key-version.ts';
import type { TokenObject } from '../../src/hsm/token-profile.ts';
import { newId } from '../../src/ids.ts';
import { CKR, faultsFor, type Pkcs11Faults } from '../faults/pkcs11.ts';
import { tamperWith } from '../faults/tampering.ts';
import { testTokenVariables } from '../support/compiled.ts';
import { eventually } from '../support/kit.ts';
import { drawHere, SEED } from '../support/random.ts';
import { createVersion, keysOf, open, seal, TokenKeysRig } from './token-keys-rig.ts';

/** Long enough to see something happen that must not; nothing is waited for. */
const LOOK_MS = 700;
const IN_FLIGHT = 8;
/** So that callers leave the processor to the agents that start. */
const BETWEEN_CALLS_MS = 20;
/** After so many failures there is no more to learn, and nobody left who says when to stop. */
const MOST_FAILURES = 100;
const LABEL = 'hold';

/** A token, the faults over it, and the environment in it. */
interface Bench {
  readonly softHsm: SoftHsmToken;
  readonly faults: Pkcs11Faults;
  readonly rig: TokenKeysRig;
}

let parent: string;
let empty: string;
let bench: Bench;

before(async () => {
  const tests = process.env['KEYWARD_TEST_DIRECTORY'];
  assert.ok(tests);
  parent = mkdtempSync(join(tests, 'hold-'));
  empty = join(parent, 'empty');
  await createSoftHsmToken({ directory: empty, label: LABEL });
  bench = await newBench('shared');
});
after(() => rmSync(parent, { recursive: true, force: true }));
afterEach(async () => {
  bench.faults.set();
  await bench.rig.stopAll();
});

async function newBench(name: string): Promise<Bench> {
  const softHsm = copyToken(empty, join(parent, name), LABEL);
  const faults = faultsFor(join(parent, `${name}-faults`), testTokenVariables(softHsm));
  const { variables } = faults;
  const passed = (variables['KEYWARD_HSM_ENVIRONMENT'] ?? '').split(',');
  const rig = await TokenKeysRig.open({
    settings: {
      module: variables['KEYWARD_HSM_MODULE'] ?? '',
      token: LABEL,
      pinFile: softHsm.pinFile,
      waivers: [],
    },
    environment: Object.fromEntries(passed.map((each) => [each, variables[each] ?? ''])),
    dispose: () => {},
  });
  return { softHsm, faults, rig };
}

/**
 * Calls under way all the time, until the function that is returned is called; that resolves to how
 * they went.
 */
function keepCalling(agents: HsmAgents, version: SealedKeyVersion) {
  const outcome = { done: 0, failures: [] as unknown[], fewestAgents: Number.POSITIVE_INFINITY };
  let stopped = false;
  const random = { length: 16 };
  const caller = async (_: unknown, index: number) => {
    while (!stopped && outcome.failures.length < MOST_FAILURES) {
      const call: Promise<unknown> =
        index % 2 === 0
          ? seal(agents, version, 'x')
          : agents.call('random', random, monotonicNow() + 120_000);
      await call.then(
        () => {
          outcome.done += 1;
        },
        (error: unknown) => outcome.failures.push(error),
      );
      outcome.fewestAgents = Math.min(outcome.fewestAgents, agents.pids.length);
      await sleep(BETWEEN_CALLS_MS);
    }
  };
  const callers = Array.from({ length: IN_FLIGHT }, caller);
  const more = async (count: number) => {
    const until = outcome.done + count;
    await eventually(() => assert.ok(outcome.done >= until));
  };
  const stop = async () => {
    stopped = true;
    await Promise.all(callers);
    return outcome;
  };
  return { more, stop };
}

const holds = (agents: HsmAgents, { objectId }: TokenObject) => agents.held.includes(objectId);
const isUnavailable = { reason: 'HSM_UNAVAILABLE' };

/** Whether each of these processes has ended. */
function haveEnded(pids: readonly number[]): boolean {
  return pids.every((pid) => {
    try {
      return /^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
    } catch {
      return true;
    }
  });
}

/** That so many agents are ready and stay so, none of them among `before`. */
async function settled(agents: HsmAgents, count: number, before: readonly number[]): Promise<void> {
  await eventually(() => assert.equal(agents.pids.length, count));
  const { pids } = agents;
  await sleep(LOOK_MS);
  assert.deepEqual(agents.pids, pids);
  assert.deepEqual(
    pids.filter((pid) => before.includes(pid)),
    [],
  );
}

describe('under calls', () => {
  for (const count of drawHere([1, 2])) {
    const which = count === 1 ? 'the only agent' : `all ${count} agents`;
    test(`an object that is to be held no more replaces ${which}, and no call fails`, async () => {
      const { rig } = bench;
      const extra = await rig.make('root');
      const agents = await rig.start({ count });
      const version = await createVersion(agents, rig.keys);
      const calls = keepCalling(agents, version);
      for (let round = 0; round < 2; round++) {
        await calls.more(20);
        const before = agents.pids;
        await agents.hold(rig.recorded('possible', extra));
        assert.ok(!holds(agents, extra));
        assert.ok(haveEnded(before), 'nobody has it any more');
        await calls.more(20);
        const since = agents.pids;
        assert.equal(since.length, count);
        await agents.hold(rig.objects);
        assert.ok(holds(agents, extra));
        assert.deepEqual(agents.pids, since, 'what is seen needs nobody replaced');
      }
      const { failures, fewestAgents } = await calls.stop();
      assert.deepEqual(failures, []);
      assert.equal(fewestAgents, count, 'another was ready each time');
      await settled(agents, count, []);
      assert.deepEqual(
        rig.log.filter(({ level }) => level !== 'info'),
        [],
      );
    });
  }

  test('being told the same again changes nothing, nor does what is not to be held', async () => {
    const { rig } = bench;
    const extra = await rig.make('seal');
    const agents = await rig.start();
    const { pids, held } = agents;
    await agents.hold([...rig.objects]);
    await agents.hold([...rig.objects, { role: 'root', objectId: newId(), presence: 'possible' }]);
    await agents.hold([...rig.objects, { role: 'root', objectId: newId(), presence: 'gone' }]);
    await agents.hold(rig.objects);
    assert.deepEqual([agents.pids, agents.held], [pids, held]);
    await agents.hold(rig.recorded('gone', extra));
    const since = agents.pids;
    await agents.hold(rig.recorded('gone', extra));
    assert.deepEqual(agents.pids, since);
  });
});

describe('an object that running agents do not see', () => {
  test('is held by all once each of them is replaced, which fails no call', async () => {
    const own = await newBench('snapshot');
    const agents = await own.rig.start({ count: 3 });
    const before = agents.pids;
    const version = await createVersion(agents, own.rig.keys);
    // The library knows the token where it was when it was loaded.
    const moved = copyToken(join(parent, 'snapshot'), join(parent, 'snapshot-moved'), LABEL);
    writeFileSync(own.softHsm.confFile, readFileSync(moved.confFile));
    const object = await own.rig.make('root');
    const calls = keepCalling(agents, version);
    await agents.hold(own.rig.objects);
    assert.ok(holds(agents, object));
    await calls.more(50);
    assert.deepEqual((await calls.stop()).failures, []);
    await settled(agents, 3, before);
    const under = await createVersion(agents, keysOf(object, own.rig.first('seal')));
    assert.equal(await open(agents, under, await seal(agents, under, 'x')), 'x');
    await own.rig.stopAll();
  });

  test('is in no token: each agent is replaced for it once, and never again', async () => {
    const { rig } = bench;
    const agents = await rig.start();
    const before = agents.pids;
    const missing: TokenObject = { role: 'root', objectId: newId(), presence: 'expected' };
    await agents.hold([...rig.objects, missing]);
    await settled(agents, 2, before);
    const { pids } = agents;
    await agents.hold([...rig.objects, missing]);
    await agents.hold([...rig.objects]);
    await agents.hold([...rig.objects, missing]);
    assert.deepEqual(agents.pids, pids);
    assert.ok(!holds(agents, missing));
    await rig.make('root', missing.objectId);
    await agents.hold([...rig.objects]);
    assert.ok(holds(agents, missing), 'it is looked for all the same');
  });
});

describe('an agent that ends meanwhile', () => {
  test(`holds nobody up, whenever it ends (seed ${SEED})`, async () => {
    const { rig } = bench;
    const extra = await rig.make('root');
    const agents = await rig.start();
    const version = await createVersion(agents, rig.keys);
    const lists = [rig.recorded('possible', extra), rig.objects];
    const pauses = drawHere([0, 30, 60, 90, 120, 150, 180, 240, 300, 400], 4);
    for (const [round, afterMs] of pauses.entries()) {
      await eventually(() => assert.equal(agents.pids.length, 2));
      const victim = agents.pids[round % 2] ?? 0;
      const list = lists[round % 2] ?? [];
      const holding = agents.hold(list);
      await sleep(afterMs);
      if (!haveEnded([victim])) process.kill(victim, 'SIGKILL');
      await holding;
      await eventually(() => assert.ok(agents.pids.length === 2 && !agents.pids.includes(victim)));
      assert.equal(holds(agents, extra), list === rig.objects);
      await seal(agents, version, 'x');
    }
    await settled(agents, 2, []);
  });

  test('just when another is ready in its place, is replaced by that one and by no more', async () => {
    const { rig } = bench;
    const extra = await rig.make('root');
    const agents = await rig.start();
    const before = agents.pids;
    // One that has done something is restarted at once.
    await Promise.all(
      Array.from({ length: IN_FLIGHT }, () =>
        agents.call('random', { length: 8 }, monotonicNow() + 120_000),
      ),
    );
    const victims = [...before];
    rig.onLine = ({ message }) => {
      const victim = message === 'HSM agent is ready' ? victims.shift() : undefined;
      if (victim !== undefined) process.kill(victim, 'SIGKILL');
    };
    await agents.hold(rig.recorded('possible', extra));
    await settled(agents, 2, before);
    assert.ok(!holds(agents, extra));
  });

  test('while the one before it is replaced, is not waited for', async () => {
    const { rig } = bench;
    const extra = await rig.make('root');
    const agents = await rig.start();
    const before = agents.pids;
    let victim = before[1];
    rig.onLine = ({ message }) => {
      if (message !== 'HSM agent is ready' || victim === undefined) return;
      process.kill(victim, 'SIGKILL');
      victim = undefined;
    };
    await agents.hold(rig.recorded('possible', extra));
    await settled(agents, 2, before);
    assert.ok(!holds(agents, extra));
  });

  test('because it hangs when it is told, is killed and replaced', async () => {
    const { rig, faults } = bench;
    const agents = await rig.start({ callTimeoutMs: 2_000 });
    const before = agents.pids;
    const extra = await rig.make('root');
    faults.set('C_FindObjectsInit hang times 1');
    await agents.hold(rig.objects);
    faults.set();
    await eventually(() => assert.ok(holds(agents, extra)));
    await eventually(() => assert.equal(agents.pids.length, 2));
    assert.equal(agents.pids.filter((pid) => before.includes(pid)).length, 1);
  });

  test('because its token fails when it is told, is replaced', async () => {
    const { rig, faults } = bench;
    const agents = await rig.start({ count: 1 });
    const before = agents.pids;
    const extra = await rig.make('root');
    // It can't even exit.
    faults.set('C_FindObjectsInit stay times 1', 'C_FindObjectsInit return 0x30 times 1');
    await agents.hold(rig.objects);
    assert.equal(faults.met(1), 1);
    await settled(agents, 1, before);
    assert.ok(holds(agents, extra));
  });
});

describe('an agent that starts meanwhile', () => {
  for (const presence of drawHere(['expected', 'possible'] as const)) {
    test(`and began with an older record holds what is recorded now: an object that is ${presence}`, async () => {
      const { rig, faults } = bench;
      const extra = await rig.make('root');
      const older = rig.recorded(presence === 'expected' ? 'possible' : 'expected', extra);
      const newer = rig.recorded(presence, extra);
      const agents = await rig.start({ count: 1, objects: older });
      const [pid = 0] = agents.pids;
      faults.set('C_Login hang times 1');
      process.kill(pid, 'SIGKILL');
      await eventually(() => assert.equal(faults.met(), 1));
      await agents.hold(newer);
      assert.ok(!holds(agents, extra));
      faults.set();
      await eventually(() => assert.ok(agents.ready));
      assert.equal(holds(agents, extra), presence === 'expected');
      await settled(agents, 1, [pid]);
      assert.equal(holds(agents, extra), presence === 'expected');
    });
  }

  test('with an equal record is not started again', async () => {
    const { rig, faults } = bench;
    const agents = await rig.start({ count: 1 });
    const [pid = 0] = agents.pids;
    faults.set('C_Login hang times 1', 'C_Login');
    process.kill(pid, 'SIGKILL');
    await eventually(() => assert.equal(faults.met(), 1));
    await agents.hold(structuredClone(rig.objects));
    faults.set('C_Login');
    await eventually(() => assert.ok(agents.ready));
    assert.equal(faults.met(), 0);
  });
});

describe('where no agent can start', () => {
  test('holding fails as unavailable, the agents serve on and are said to hold what they hold, until it is done', async () => {
    const { rig, faults } = bench;
    const extra = await rig.make('root');
    const agents = await rig.start({ startTimeoutMs: 3_000 });
    const before = agents.pids;
    const version = await createVersion(agents, keysOf(extra, rig.first('seal')));
    const list = rig.recorded('possible', extra);
    faults.set(`C_Login return ${CKR.DEVICE_ERROR}`);
    await assert.rejects(agents.hold(list), isUnavailable);
    assert.deepEqual(agents.pids, before);
    assert.ok(holds(agents, extra));
    await seal(agents, version, 'x');
    faults.set();
    await eventually(() => agents.hold(list));
    await settled(agents, 2, before);
    assert.ok(!holds(agents, extra));
    await assert.rejects(seal(agents, version, 'x'), isUnavailable);
  });

  test('one that comes too late takes the place that it was started for', async () => {
    const { rig, faults } = bench;
    const extra = await rig.make('root');
    const agents = await rig.start({ startTimeoutMs: 3_000 });
    const before = agents.pids;
    faults.set(`C_Login return ${CKR.DEVICE_ERROR} times 4`, 'C_Login delay 2600 after 4 times 1');
    const list = rig.recorded('possible', extra);
    await eventually(() => agents.hold(list));
    await settled(agents, 2, before);
    assert.ok(!holds(agents, extra));
  });
});

describe('an agent that is replaced', () => {
  test('is said to hold what it holds until it has ended', async () => {
    const { rig, faults } = bench;
    const extra = await rig.make('root');
    const agents = await rig.start();
    const before = agents.pids;
    // What is done last is slow.
    faults.set('C_GenerateRandom delay 100');
    const calls = Promise.all(
      Array.from({ length: IN_FLIGHT }, () =>
        agents.call('random', { length: 8 }, monotonicNow() + 120_000),
      ),
    );
    let isDone = false;
    const holding = agents.hold(rig.recorded('possible', extra)).finally(() => {
      isDone = true;
    });
    while (!isDone) {
      const ended = haveEnded(before);
      assert.ok(ended || holds(agents, extra), 'one that runs has it');
      await sleep(5);
    }
    await Promise.all([holding, calls]);
    assert.ok(haveEnded(before));
    assert.ok(!holds(agents, extra));
  });

  test('and hangs in its last call is killed; that call fails, and those behind it go to another', async () => {
    const { rig, faults } = bench;
    const extra = await rig.make('root');
    const agents = await rig.start({ count: 1, callTimeoutMs: 3_000 });
    const before = agents.pids;
    const version = await createVersion(agents, rig.keys);
    faults.set('C_Sign hang times 1');
    const hanging = assert.rejects(seal(agents, version, 'x'), isUnavailable);
    await eventually(() => assert.equal(faults.met(), 1));
    const behind = [seal(agents, version, 'x'), seal(agents, version, 'x')];
    await agents.hold(rig.recorded('possible', extra));
    await hanging;
    await Promise.all(behind);
    await eventually(() => assert.ok(haveEnded(before)));
    assert.equal(agents.pids.length, 1);
  });

  test('is ended by stop too', async () => {
    const { rig, faults } = bench;
    const extra = await rig.make('root');
    const agents = await rig.start({ count: 1, callTimeoutMs: 3_000 });
    const before = agents.pids;
    const version = await createVersion(agents, rig.keys);
    faults.set('C_Sign hang times 1');
    const hanging = assert.rejects(seal(agents, version, 'x'), isUnavailable);
    await eventually(() => assert.equal(faults.met(), 1));
    const holding = agents.hold(rig.recorded('possible', extra));
    await eventually(() => assert.ok(!agents.pids.includes(before[0] ?? 0)));
    let isOver = false;
    const over = hanging.finally(() => {
      isOver = true;
    });
    await agents.stop();
    await new Promise((resolve) => setImmediate(resolve));
    assert.ok(isOver, 'what it was doing is over');
    await eventually(() => assert.ok(haveEnded(before)));
    await over;
    await holding;
  });
});

describe('an object that is there and is not what it must be', () => {
  test(`is a problem where it is expected, and a refusal where it must be there (seed ${SEED})`, async () => {
    const spoiled = [
      { change: { replace: true, attributes: { copyable: true } }, problem: /copyable: violated/ },
      { change: { replace: false }, problem: /the token has 2 objects with the id/ },
    ];
    for (const [index, { change, problem }] of drawHere(spoiled).entries()) {
      const { rig, softHsm } = await newBench(`spoiled-${index}`);
      await tamperWith(softHsm, { role: 'mask', ...change });
      const mask = rig.first('mask');
      const { agents, report } = await rig.startReporting({
        objects: rig.recorded('expected', mask),
      });
      assert.equal(report.problems.length, 1);
      assert.match(report.problems[0] ?? '', problem);
      assert.ok(rig.log.some(({ alert, level }) => alert === 'token-object' && level === 'error'));
      assert.ok(!report.held.includes(mask.objectId));
      const version = await createVersion(agents, rig.keys);
      await seal(agents, version, 'x');
      await agents.stop();
      await assert.rejects(rig.agents().start(), problem);
      await rig.stopAll();
    }
  });

  test('is not destroyed where it has somebody else’s label', async () => {
    const { rig, softHsm } = await newBench('theirs');
    const attributes = { label: 'theirs' } as unknown as Record<string, boolean>;
    await tamperWith(softHsm, { role: 'mask', replace: true, attributes });
    const [mask, root] = [rig.first('mask'), rig.first('root')];
    await assert.rejects(rig.destroy(root, mask), /"theirs" has one of their ids/);
    const conditions = (await rig.inspect()).objects.map(({ role, condition }) => [
      role,
      condition,
    ]);
    assert.deepEqual(Object.fromEntries(conditions), {
      root: 'found',
      seal: 'found',
      mask: 'mislabelled',
      'audit-signing': 'found',
    });
  });
});
