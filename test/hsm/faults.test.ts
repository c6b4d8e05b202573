/**
 * The running service on an HSM that fails: cases 61 to 74, over the wire.
 *
 * The faults are made by `test/faults/pkcs11.c` between agent and token. What holds after each of
 * them is checked by `FaultyService.well`. How agents live and die by themselves is
 * `agents.test.ts`.
 *
 * Of the failures of a kind the run's seed draws some; `test/long/hsm-faults.test.ts` has all.
 */
import assert from 'node:assert/strict';
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { copyToken } from '../../softhsm/token.ts';
import { killInTheMiddle, POINTS } from '../faults/kills.ts';
import { CKF, CKR, faultsFor } from '../faults/pkcs11.ts';
import {
  assertNoSecret,
  type FaultyService,
  healthOf,
  KEY,
  PARENT,
  PLAINTEXT,
  startFaultyService,
} from '../faults/service.ts';
import type { Change } from '../faults/tamper.ts';
import { tamperWith } from '../faults/tampering.ts';
import { testTokenVariables } from '../support/compiled.ts';
import {
  type Environment,
  eventually,
  failureOf,
  newEnvironment,
  reasonOf,
  runCommand,
  startServiceWithoutWaiting,
} from '../support/kit.ts';
import { draw, drawHere, randomBy, SEED } from '../support/random.ts';
import { newId } from '../support/reconciling.ts';

/** Long enough to see something happen that must not; nothing is waited for. */
const LOOK_MS = 700;
/** Of each operation; every point is `test/long/agent-kills.test.ts`'s. */
const SOME_POINTS = 2;
console.log(`seed ${SEED}`);
const hex = (returnValue: number) => `0x${returnValue.toString(16)}`;

describe('a token that fails', () => {
  let faulty: FaultyService;
  before(async () => {
    faulty = await startFaultyService({ variables: { KEYWARD_HSM_CALL_TIMEOUT_MS: '2000' } });
  });
  after(() => faulty?.[Symbol.asyncDispose]());
  afterEach(async () => {
    await faulty.well();
    await faulty.settled();
  });

  for (const name of drawHere([
    'DEVICE_ERROR',
    'DEVICE_REMOVED',
    'TOKEN_NOT_PRESENT',
    'GENERAL_ERROR',
  ] as const)) {
    test(`case 61: while every call ends with ${name}, callers are told UNAVAILABLE, and served once it is over`, async () => {
      faulty.faults.set(`* return ${hex(CKR[name])}`);
      const failure = await failureOf(faulty.encrypt());
      assert.equal(failure.code, 'UNAVAILABLE');
      assert.equal(failure.reason, 'HSM_UNAVAILABLE');
      assert.ok(failure.retryDelayMs);
      // An agent that isn't asked doesn't know: calls go on until both have been.
      await eventually(async () => {
        assert.equal(await reasonOf(faulty.encrypt()), 'HSM_UNAVAILABLE');
        assert.equal(await healthOf(faulty.service), 'NOT_SERVING');
      });
      await faulty.well();
      await eventually(async () => assert.equal(await healthOf(faulty.service), 'SERVING'));
    });

    test(`case 61: one ${name} costs the call that met it and no other`, async () => {
      let most = 0;
      // The service signs by itself now and then: it may be what met it.
      await eventually(async () => {
        faulty.faults.set(`C_Sign return ${hex(CKR[name])} times 1`);
        const calls = Array.from({ length: 20 }, () => faulty.encrypt());
        const outcomes = await Promise.allSettled(calls);
        const rejected = outcomes.filter(({ status }) => status === 'rejected').length;
        most = Math.max(most, rejected);
        assert.equal(rejected, 1);
      });
      assert.equal(most, 1);
    });
  }

  test('case 61: a return value of a vendor’s own is a failing token like any other', async () => {
    await eventually(async () => {
      faulty.faults.set(`C_Sign return ${hex(CKR.VENDOR_DEFINED)} times 1`);
      assert.equal(await reasonOf(faulty.encrypt()), 'HSM_UNAVAILABLE');
    });
  });

  for (const [theCase, names] of [
    ['case 62', ['SESSION_HANDLE_INVALID', 'SESSION_CLOSED']],
    ['case 63', ['USER_NOT_LOGGED_IN', 'OBJECT_HANDLE_INVALID', 'KEY_HANDLE_INVALID']],
    ['case 64', ['OPERATION_ACTIVE']],
  ] as const) {
    for (const name of drawHere<keyof typeof CKR>(names)) {
      test(`${theCase}: after ${name} the call is done once more, and succeeds`, async () => {
        faulty.faults.set(`C_SignInit return ${hex(CKR[name])} times 1`);
        const { ciphertext } = await faulty.encrypt();
        assert.equal(faulty.faults.met(), 1);
        await faulty.settled();
        faulty.faults.set(`C_SignInit return ${hex(CKR[name])} times 1`);
        assert.deepEqual((await faulty.decrypt(ciphertext)).plaintext, PLAINTEXT);
        await faulty.settled();
        faulty.faults.set(`C_WrapKey return ${hex(CKR[name])} times 1`);
        await faulty.keyward.rotateKey({ name: KEY });
        assert.equal(faulty.faults.met(), 1);
      });
    }
  }

  test('case 62: a call whose session the token has closed succeeds in another', async () => {
    faulty.faults.set('C_SignInit lose-session times 1');
    await faulty.encrypt();
    assert.equal(faulty.faults.met(), 1);
  });

  test('case 62: a call succeeds although the sessions of all agents were lost', async () => {
    // Only a new agent has others, and a busy machine may start none within a call's time.
    await eventually(async () => {
      await faulty.settled();
      faulty.faults.set('C_SignInit lose-session times 2');
      await faulty.encrypt();
      assert.equal(faulty.faults.met(), 2);
    });
  });

  for (const name of drawHere(['HOST_MEMORY', 'DEVICE_MEMORY'] as const)) {
    test(`case 66: ${name} while a key is loaded is UNAVAILABLE, and an agent with nothing loaded takes over`, async () => {
      await faulty.renewed();
      faulty.faults.set(`C_UnwrapKey return ${hex(CKR[name])} times 1`);
      assert.equal(await reasonOf(faulty.encrypt()), 'HSM_UNAVAILABLE');
      await faulty.encrypt();
    });
  }

  test('case 67: a call that hangs ends at its caller’s deadline, others are served meanwhile, and the agent is replaced', async () => {
    // The service signs by itself now and then: it may be what hangs.
    await eventually(async () => {
      const before = await faulty.settled();
      faulty.faults.set('C_Sign hang times 1');
      const hanging = failureOf(faulty.encrypt(800));
      hanging.catch(() => {}); // It may not be what hangs.
      await eventually(() => assert.equal(faulty.faults.met(), 1));
      await faulty.encrypt();
      assert.equal(await healthOf(faulty.service), 'SERVING');
      assert.equal((await hanging).code, 'DEADLINE_EXCEEDED');
      await faulty.service.logged(({ msg }) => msg === 'HSM agent hangs; replacing it');
      await eventually(() =>
        assert.equal(before.filter((pid) => faulty.service.agentPids.includes(pid)).length, 1),
      );
      await faulty.settled();
    });
  });

  test('case 67: what waited behind a call that hangs is done by another agent', async () => {
    await eventually(async () => {
      await faulty.settled();
      faulty.faults.set('C_Sign hang times 1');
      const outcomes = await Promise.allSettled(Array.from({ length: 20 }, () => faulty.encrypt()));
      const failed = outcomes.filter((outcome) => outcome.status === 'rejected');
      assert.equal(failed.length, 1);
      assert.equal(failed[0]?.reason.reason, 'HSM_UNAVAILABLE');
    });
  });

  test(`case 68: an agent killed in the middle of an operation costs that call alone (seed ${SEED})`, async () => {
    const from = Math.floor(randomBy(SEED)() * POINTS);
    await killInTheMiddle(faulty, { rounds: SOME_POINTS, from });
  });

  test('case 68: an agent that crashes is no other case', async () => {
    await eventually(async () => {
      // What the service does by itself may meet it first.
      await faulty.settled();
      faulty.faults.set('C_Sign crash times 1');
      assert.equal(await reasonOf(faulty.encrypt()), 'HSM_UNAVAILABLE');
    });
  });

  const wrongBytes = [
    'C_WrapKey flip',
    'C_WrapKey shorten 8',
    'C_Sign flip',
    'C_Sign flip after 1',
    'C_Sign flip after 2',
    'C_Sign flip after 3',
    'C_Sign shorten 1',
  ];
  for (const fault of drawHere(wrongBytes, 2)) {
    test(`case 71: a key version made with wrong bytes is not committed (${fault})`, async () => {
      // The service signs by itself now and then: it may be what met it, and the key is made.
      const keyId = await eventually(async () => {
        const made = newId('k');
        await faulty.settled();
        faulty.faults.set(`${fault} times 1`);
        const creating = faulty.keyward.createKey({ parent: PARENT, keyId: made });
        assert.equal(await reasonOf(creating), 'HSM_UNAVAILABLE');
        assert.equal(faulty.faults.met(), 1);
        return made;
      });
      await faulty.well();
      assert.equal(
        await reasonOf(faulty.keyward.getKey({ name: `${PARENT}/keys/${keyId}` })),
        'RESOURCE_NOT_FOUND',
      );
      await faulty.keyward.createKey({ parent: PARENT, keyId });

      const primary = await eventually(async () => {
        const before = await faulty.keyward.getKey({ name: KEY });
        await faulty.settled();
        faulty.faults.set(`${fault} times 1`);
        assert.equal(await reasonOf(faulty.keyward.rotateKey({ name: KEY })), 'HSM_UNAVAILABLE');
        return before.primary;
      });
      await faulty.well();
      assert.equal((await faulty.keyward.getKey({ name: KEY })).primary?.name, primary?.name);
    });
  }

  for (const [fault, step] of drawHere([
    ['C_Sign flip times 1', 'its row seal is verified'],
    ['C_Sign flip after 1 times 1', 'its check value is verified'],
    ['C_Sign flip after 2 times 1', 'the message’s key is derived'],
  ])) {
    test(`case 71: wrong bytes while ${step} are blamed on the token, neither on the row nor on the caller`, async () => {
      const { ciphertext } = await faulty.encrypt();
      await eventually(async () => {
        await faulty.renewed();
        faulty.faults.set(fault ?? '');
        assert.equal(await reasonOf(faulty.decrypt(ciphertext)), 'HSM_UNAVAILABLE');
        assert.equal(faulty.faults.met(), 1);
      });
      await faulty.well();
      assert.deepEqual((await faulty.decrypt(ciphertext)).plaintext, PLAINTEXT);
      assert.ok(!faulty.service.log.some((line) => line['alert'] === 'stored-row-corrupt'));
    });
  }
});

describe('logging in', () => {
  let faulty: FaultyService;
  let changes = 0;
  before(async () => {
    faulty = await startFaultyService({ agents: 3 });
  });
  after(() => faulty?.[Symbol.asyncDispose]());

  /** Kills the three agents while `rules` hold, until the first that came after has given up. */
  async function failAtLogin(rules: readonly string[]): Promise<void> {
    const pids = await faulty.settled();
    faulty.faults.set('C_Login', ...rules);
    const from = faulty.service.log.length;
    for (const pid of pids) process.kill(pid, 'SIGKILL');
    await faulty.service.logged(({ msg }) => msg === 'cannot start an HSM agent', from);
    await sleep(LOOK_MS);
  }

  const rewritePin = () => {
    changes += 1;
    utimesSync(faulty.environment.token.pinFile, changes, changes);
  };

  for (const name of drawHere(['PIN_INCORRECT', 'PIN_LOCKED'] as const)) {
    test(`case 65: after ${name} no agent tries again until the PIN file changes, then one does`, async () => {
      await failAtLogin([`C_Login return ${hex(CKR[name])}`]);
      const { service, faults } = faulty;
      assert.equal(faults.met(), 1, 'one try, not one per agent');
      assert.equal(await healthOf(service), 'NOT_SERVING');
      assert.equal(await reasonOf(faulty.encrypt()), 'HSM_UNAVAILABLE');
      assert.ok(faulty.logText().includes(`CKR_${name}`));

      rewritePin();
      await eventually(() => assert.equal(faults.met(), 2));
      await sleep(LOOK_MS);
      assert.equal(faults.met(), 2, 'one more try');

      faults.set('C_Login');
      await sleep(LOOK_MS);
      assert.equal(faults.met(), 0);
      rewritePin();
      await faulty.settled();
      await faulty.well();
    });
  }

  const warnings = ['USER_PIN_COUNT_LOW', 'USER_PIN_FINAL_TRY', 'USER_PIN_LOCKED'] as const;
  for (const flag of drawHere(warnings)) {
    test(`case 65: while the token says ${flag} no agent logs in; once it no longer does, they serve`, async () => {
      await failAtLogin([`C_GetTokenInfo flags ${hex(CKF[flag])}`]);
      assert.equal(faulty.faults.met(), 0);
      assert.equal(await healthOf(faulty.service), 'NOT_SERVING');
      faulty.faults.set('C_Login');
      await faulty.settled();
      assert.equal(faulty.faults.met(), 3);
      await faulty.well();
    });
  }

  test('case 65: with tries running out a changed PIN file is worth one try, but never the last', async () => {
    await failAtLogin([`C_GetTokenInfo flags ${hex(CKF.USER_PIN_FINAL_TRY)}`]);
    rewritePin();
    await sleep(LOOK_MS);
    assert.equal(faulty.faults.met(), 0);
    faulty.faults.set('C_Login', `C_GetTokenInfo flags ${hex(CKF.USER_PIN_COUNT_LOW)} times 1`);
    rewritePin();
    await faulty.settled();
    await faulty.well();
  });

  test('case 65: a service that starts with a wrong PIN tries it once, stays, is not ready, says so, and serves once it is mended', async () => {
    await using environment = await newEnvironment();
    const { pinFile } = environment.token;
    const faults = faultsFor(join(environment.directory, 'faults'), environment.variables);
    faults.set('C_Login');
    const right = readFileSync(pinFile, 'utf8');
    writeFileSync(pinFile, 'wrong-pin-9876');
    await using service = startServiceWithoutWaiting(environment, {
      ...faults.variables,
      KEYWARD_HSM_AGENTS: '3',
    });
    const said = await service.logged(({ msg }) => msg === 'cannot start an HSM agent');
    assert.match(String(said['detail']), /does not accept the PIN in .* \(CKR_PIN_INCORRECT\)/);
    service.port = Number((await service.logged(({ msg }) => msg === 'listening'))['port']);
    await sleep(LOOK_MS);
    assert.equal(faults.met(), 1);
    assert.equal(await healthOf(service), 'NOT_SERVING');
    // Who may do what can't be verified.
    assert.equal(
      await reasonOf(service.client().createTenant({ tenantId: 'acme' })),
      'HSM_UNAVAILABLE',
    );
    writeFileSync(pinFile, right);
    await service.logged(({ msg }) => msg === 'serving');
    await service.client().createTenant({ tenantId: 'acme' });
    await service.client().createKey({ parent: PARENT, keyId: 'k' });
    const text = service.log.map((line) => JSON.stringify(line)).join('\n');
    assert.ok(!text.includes('wrong-pin-9876'));
    assertNoSecret(text, environment);
  });

  test('case 66: with fewer sessions than agents, those that have one serve', async () => {
    const [one] = await faulty.settled();
    assert.ok(one);
    faulty.faults.set(`C_OpenSession return ${hex(CKR.SESSION_COUNT)}`);
    process.kill(one, 'SIGKILL');
    await eventually(() => assert.ok(faulty.faults.met() >= 2));
    assert.equal(await healthOf(faulty.service), 'SERVING');
    await faulty.encrypt();
    await faulty.well();
    await faulty.settled();
  });
});

describe('a token that goes away', () => {
  test('case 69: with the token’s directory gone nothing is created, and once it is back its keys open again', async () => {
    await using faulty = await startFaultyService();
    const { ciphertext } = await faulty.encrypt();
    const tokens = join(faulty.environment.token.confFile, '..', 'tokens');
    const files = () => readdirSync(tokens, { recursive: true }).sort();
    const there = files();
    for (const emptied of [false, true]) {
      renameSync(tokens, `${tokens}-away`);
      if (emptied) mkdirSync(tokens);
      const from = faulty.service.log.length;
      for (const pid of await faulty.settled()) process.kill(pid, 'SIGKILL');
      await faulty.service.logged(({ msg }) => msg === 'cannot start an HSM agent', from);
      await eventually(async () => assert.equal(await healthOf(faulty.service), 'NOT_SERVING'));
      const key = { parent: PARENT, keyId: `never-${emptied}` };
      assert.equal(await reasonOf(faulty.keyward.createKey(key)), 'HSM_UNAVAILABLE');
      assert.equal(await reasonOf(faulty.decrypt(ciphertext)), 'HSM_UNAVAILABLE');
      if (emptied) {
        assert.deepEqual(files(), []);
        rmdirSync(tokens);
      }
      renameSync(`${tokens}-away`, tokens);
      await faulty.well();
      assert.deepEqual((await faulty.decrypt(ciphertext)).plaintext, PLAINTEXT);
      assert.deepEqual(files(), there);
      await faulty.settled();
    }
  });

  test('case 69: under running agents too, a version is made whole or not at all', async () => {
    await using faulty = await startFaultyService();
    const tokens = join(faulty.environment.token.confFile, '..', 'tokens');
    renameSync(tokens, `${tokens}-away`);
    const made = await faulty.keyward.createKey({ parent: PARENT, keyId: 'meanwhile' }).then(
      () => true,
      (error) => {
        assert.equal(error.reason, 'HSM_UNAVAILABLE');
        return false;
      },
    );
    renameSync(`${tokens}-away`, tokens);
    await faulty.well();
    const name = `${PARENT}/keys/meanwhile`;
    if (made) {
      await faulty.renewed();
      await faulty.keyward.encrypt({ name, plaintext: PLAINTEXT });
    } else assert.equal(await reasonOf(faulty.keyward.getKey({ name })), 'RESOURCE_NOT_FOUND');
  });
});

describe('objects that are not what they must be', () => {
  let environment: Environment;
  let copies = 0;
  before(async () => {
    environment = await newEnvironment();
  });
  after(() => environment?.[Symbol.asyncDispose]());

  /** What the service says to a copy of the token to which `change` was done. */
  async function refusalAfter(change: Change): Promise<string> {
    const { token } = environment;
    const copy = copyToken(
      join(token.confFile, '..'),
      join(environment.directory, `token-${copies++}`),
      token.label,
    );
    await tamperWith(copy, change);
    const { code, output } = await runCommand(environment, ['serve'], testTokenVariables(copy));
    assert.equal(code, 1, output);
    return output;
  }

  test('case 70: two objects with one id are refused', async () => {
    for (const role of drawHere(['root', 'mask'] as const))
      assert.match(
        await refusalAfter({ role, replace: false }),
        /the token has 2 objects with the id /,
      );
  });

  test('case 70: two objects with one label are refused', async () => {
    assert.match(
      await refusalAfter({ role: 'seal', replace: false, otherId: true }),
      /the token has 2 objects labelled keyward seal /,
    );
  });

  /** Attributes that none of ours may have so, by roles. */
  const violations = {
    root: { extractable: true, modifiable: true, decrypt: true, encrypt: true },
    seal: { sensitive: false, private: false, derive: true, wrap: true },
    mask: { copyable: true, verify: true },
  } as const;
  const isNamed = (role: string, attribute: string) =>
    new RegExp(`${role} [0-9a-f-]{36} ${attribute}: violated`);

  for (const [role, attributes] of drawHere(
    Object.entries(violations) as [Change['role'], object][],
  ))
    test(`case 72: a ${role} key with attributes that it must not have is refused, each by name`, async () => {
      const output = await refusalAfter({ role, replace: true, attributes: { ...attributes } });
      for (const attribute of Object.keys(attributes))
        assert.match(output, isNamed(role, attribute));
    });

  test(`case 72: a key with one such attribute is refused (seed ${SEED})`, async () => {
    const all = Object.entries(violations).flatMap(([role, attributes]) =>
      Object.entries(attributes).map(([name, value]) => ({ role, name, value })),
    );
    const { role, name, value } = draw(all, randomBy(SEED));
    const attributes = { [name]: value };
    const output = await refusalAfter({ role: role as Change['role'], replace: true, attributes });
    assert.match(output, isNamed(role, name));
  });

  test('case 72: a root key that came from outside is refused', async () => {
    const output = await refusalAfter({ role: 'root', replace: true, imported: true });
    for (const attribute of ['local', 'alwaysSensitive', 'neverExtractable']) {
      assert.match(output, new RegExp(`${attribute}: violated`));
    }
  });

  test('case 72: a root key that is too short, or of another kind, is refused', async () => {
    for (const [role, valueLen] of drawHere([
      ['root', 16],
      ['seal', 32],
    ] as const))
      assert.match(
        await refusalAfter({ role, replace: true, attributes: { valueLen } }),
        /valueLen: violated/,
      );
  });

  test('case 69: a token without the objects is refused, and gets none', async () => {
    assert.match(
      await refusalAfter({ role: 'root', replace: true, only: 'destroy' }),
      /the token has no root key /,
    );
  });

  test('case 72: what a token reports is believed, also of keys that are well', async () => {
    const faults = faultsFor(join(environment.directory, 'faults'), environment.variables);
    faults.set('C_GetAttributeValue report 0x164 0', 'C_GetAttributeValue report 0x162 1');
    const { code, output } = await runCommand(environment, ['serve'], faults.variables);
    assert.equal(code, 1);
    assert.match(output, /extractable: violated/);
    assert.match(output, /neverExtractable: violated/);
  });
});

describe('modules', () => {
  let environment: Environment;
  before(async () => {
    environment = await newEnvironment();
  });
  after(() => environment?.[Symbol.asyncDispose]());

  const refusal = async (args: readonly string[], variables: Readonly<Record<string, string>>) => {
    const { code, output } = await runCommand(environment, args, variables);
    assert.equal(code, 1, output);
    assertNoSecret(output, environment);
    return output;
  };

  test('case 73: a module that is not there is named', async () => {
    const output = await refusal(['serve'], { KEYWARD_HSM_MODULE: '/nowhere/libhsm.so' });
    assert.match(output, /KEYWARD_HSM_MODULE must name a file that can be read/);
  });

  test('case 73: a library that is no PKCS#11 module is named', async () => {
    const library = join(
      import.meta.dirname,
      '../../node_modules/pkcs11js/build/Release/pkcs11.node',
    );
    const output = await refusal(['serve'], { KEYWARD_HSM_MODULE: library });
    assert.ok(output.includes(`${library}: it is not a loadable PKCS#11 module`), output);
  });

  for (const [name, numbers, said] of drawHere([
    ['CKM_SHA512_HMAC', [0x271], /the token lacks CKM_SHA512_HMAC/],
    ['CKM_GENERIC_SECRET_KEY_GEN', [0x350], /the token lacks CKM_GENERIC_SECRET_KEY_GEN/],
    ['AES key wrap', [0x2109, 0x210a, 0x210b], /the token lacks .*AES_KEY_WRAP/],
  ] as const)) {
    test(`case 73: a token without ${name} is refused by init and by serve, which name it`, async () => {
      const faults = faultsFor(
        join(environment.directory, `faults-${numbers[0]}`),
        environment.variables,
      );
      faults.set(...numbers.map((number) => `C_GetMechanismList hide ${hex(number)}`));
      assert.match(await refusal(['token', 'init'], faults.variables), said);
      assert.match(await refusal(['serve'], faults.variables), said);
    });
  }
});

test('case 74: with 5 ms for each call of the token, throughput grows with the agents', async () => {
  const CALLS = 90;
  const secondsWith = async (agents: number) => {
    await using faulty = await startFaultyService({ agents });
    await Promise.all(Array.from({ length: 30 }, () => faulty.encrypt()));
    faulty.faults.set('C_SignInit delay 5', 'C_Sign delay 5');
    const startedAt = performance.now();
    await Promise.all(Array.from({ length: CALLS }, () => faulty.encrypt()));
    const seconds = (performance.now() - startedAt) / 1000;
    assert.ok(faulty.faults.met() >= CALLS);
    await faulty.well();
    return seconds;
  };
  await eventually(async () => {
    const one = await secondsWith(1);
    const three = await secondsWith(3);
    assert.ok(one / three > 1.5, `one agent ${one} s, three ${three} s`);
  });
});
