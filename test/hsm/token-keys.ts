/**
 * The life of a token key, as every PKCS#11 token must have it behind the agents: made, held, key
 * versions brought under it, no longer held, destroyed. One suite, run against each module that is
 * at hand.
 *
 * What agents do at their starts and ends meanwhile is `hold.test.ts`. Knows no module.
 */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import type { SealedKeyVersion } from '../../src/hsm/key-version.ts';
import { createTokenKey, destroyTokenKeys } from '../../src/hsm/token-commands.ts';
import type { TokenObject } from '../../src/hsm/token-profile.ts';
import { type AnyId, type EnvironmentId, newId, type TenantId } from '../../src/ids.ts';
import {
  createVersion,
  type FreshToken,
  keysOf,
  open,
  seal,
  TokenKeysRig,
  transfer,
} from './token-keys-rig.ts';

/** Runs the suite on a token that `makeToken` makes. */
export function tokenKeysConformance(
  name: string,
  options: { skip: string | false },
  makeToken: () => FreshToken,
): void {
  describe(`token keys in ${name}`, options, () => {
    let token: FreshToken;
    let rig: TokenKeysRig;

    before(async () => {
      token = makeToken();
      rig = await TokenKeysRig.open(token);
    });
    afterEach(() => rig?.stopAll());
    after(() => token?.dispose());

    making(() => rig);
    transferring(() => rig);
    destroying(() => rig);
    presences(() => rig);
  });
}

function making(rigOf: () => TokenKeysRig): void {
  for (const role of ['root', 'seal'] as const) {
    test(`a ${role} key that is made has every required attribute, enforced or waived`, async () => {
      const rig = rigOf();
      const { objectId } = await rig.make(role);
      const { objects, unrecorded } = await rig.inspect();
      const made = objects.find((object) => object.objectId === objectId);
      assert.ok(made);
      assert.deepEqual([made.role, made.condition], [role, 'found']);
      assert.ok(made.attributes.length >= 12);
      for (const { attribute, state } of made.attributes)
        assert.equal(
          state,
          rig.token.settings.waivers.includes(attribute) ? 'waived' : 'enforced',
          attribute,
        );
      assert.deepEqual(unrecorded, []);
    });
  }

  test('running agents hold a key once they are told of it, and make and open versions under it', async () => {
    const rig = rigOf();
    const agents = await rig.start();
    const under = keysOf(await rig.make('root'), await rig.make('seal'));
    const ids: AnyId[] = [under.rootKeyId, under.sealKeyId];
    assert.ok(ids.every((id) => !agents.held.includes(id)));
    await assert.rejects(createVersion(agents, under), { reason: 'HSM_UNAVAILABLE' });
    await agents.hold(rig.objects);
    assert.ok(ids.every((id) => agents.held.includes(id)));
    assert.equal(agents.pids.length, 2);
    const version = await createVersion(agents, under);
    const sealed = await Promise.all(
      Array.from({ length: 10 }, (_, index) => seal(agents, version, `${index}`)),
    );
    const opened = await Promise.all(sealed.map((ciphertext) => open(agents, version, ciphertext)));
    assert.deepEqual(opened, [...sealed.keys()].map(String));
  });

  test('agents that start later hold a key that was made', async () => {
    const rig = rigOf();
    const { objectId } = await rig.make('root');
    const { agents, report } = await rig.startReporting();
    assert.deepEqual([...report.held].sort(), [...agents.held].sort());
    assert.ok(agents.held.includes(objectId));
    assert.deepEqual(report.problems, []);
  });

  test('none is made under an id that the token has, of whichever role', async () => {
    const rig = rigOf();
    const { objectId } = await rig.make('root');
    const before = await rig.inspect();
    for (const role of ['root', 'seal'] as const)
      await assert.rejects(rig.make(role, objectId), /the token has an object with the id/);
    assert.deepEqual(await rig.inspect(), before);
  });

  test('none is made in a token that holds another environment', async () => {
    const rig = rigOf();
    const foreign = {
      ...rig.settings,
      environmentId: newId<EnvironmentId>(),
      objectId: newId<AnyId>(),
    };
    await assert.rejects(
      createTokenKey({ ...foreign, role: 'root' }, rig.starter),
      /of another environment/,
    );
    assert.deepEqual((await rig.inspect()).unrecorded, []);
  });
}

function transferring(rigOf: () => TokenKeysRig): void {
  test('versions brought under another root and seal key stay what they were', async () => {
    const rig = rigOf();
    const target = keysOf(await rig.make('root'), await rig.make('seal'));
    const agents = await rig.start({ count: 1 });
    const before = await Promise.all([1, 2, 3].map(() => createVersion(agents, rig.keys)));
    const sealed = await Promise.all(before.map((version) => seal(agents, version, version.keyId)));
    const after = await transfer(agents, before, target);
    for (const [index, version] of before.entries()) {
      const moved = after[index];
      const ciphertext = sealed[index];
      assert.ok(moved && ciphertext);
      const { wrapped, seal: rowSeal } = moved;
      assert.deepEqual(moved, { ...version, ...target, wrap: moved.wrap, wrapped, seal: rowSeal });
      assert.equal(wrapped.length, version.wrapped.length);
      assert.notDeepEqual(wrapped, version.wrapped);
      assert.notDeepEqual(rowSeal, version.seal);
      assert.equal(await open(agents, moved, ciphertext), version.keyId);
      assert.equal(await open(agents, version, await seal(agents, moved, 'since')), 'since');
    }
  });

  test('under another seal key and the same root, a version keeps its wrapped bytes', async () => {
    const rig = rigOf();
    const target = {
      ...rig.keys,
      sealKeyId: keysOf(rig.first('root'), await rig.make('seal')).sealKeyId,
    };
    const agents = await rig.start({ count: 1 });
    const version = await createVersion(agents, rig.keys);
    const [moved] = await transfer(agents, [version], target);
    assert.ok(moved);
    assert.deepEqual(moved, { ...version, sealKeyId: target.sealKeyId, seal: moved.seal });
    assert.notDeepEqual(moved.seal, version.seal);
    assert.equal(await open(agents, moved, await seal(agents, version, 'x')), 'x');
  });

  test('a version that is where it should be comes back as it is', async () => {
    const rig = rigOf();
    const agents = await rig.start({ count: 1 });
    const version = await createVersion(agents, rig.keys);
    assert.deepEqual(await transfer(agents, [version, version], rig.keys), [version, version]);
    assert.deepEqual(await transfer(agents, [], rig.keys), []);
  });

  test('case 36: of many versions those whose rows were changed come back empty, and the others are brought over', async () => {
    const rig = rigOf();
    const target = keysOf(await rig.make('root'), await rig.make('seal'));
    const agents = await rig.start({ count: 1 });
    const [first, second, last] = await Promise.all(
      [1, 2, 3].map(() => createVersion(agents, rig.keys)),
    );
    assert.ok(first && second && last);
    const changes: Partial<SealedKeyVersion>[] = [
      { wrapped: flipped(second.wrapped) },
      { checkValue: flipped(second.checkValue) },
      { seal: flipped(second.seal) },
      { seal: Buffer.alloc(0) },
      { tenantId: newId<TenantId>() },
      { version: 2 },
      { rootKeyId: target.rootKeyId },
      { sealKeyId: newId() },
    ];
    const { pids } = agents;
    const changed = changes.map((change) => ({ ...second, ...change }));
    const after = await transfer(agents, [first, ...changed, last], target);
    assert.deepEqual(
      after.map((moved) => moved?.keyId),
      [first.keyId, ...changes.map(() => undefined), last.keyId],
    );
    for (const moved of [after[0], after.at(-1)])
      assert.deepEqual([moved?.rootKeyId, moved?.sealKeyId], [target.rootKeyId, target.sealKeyId]);
    assert.deepEqual(agents.pids, pids);
  });

  test('none is brought under a key that the agents do not hold', async () => {
    const rig = rigOf();
    const agents = await rig.start({ count: 1 });
    const version = await createVersion(agents, rig.keys);
    const missing = [
      { ...rig.keys, rootKeyId: newId() },
      { ...rig.keys, sealKeyId: newId() },
    ] as (typeof rig.keys)[];
    for (const target of missing)
      await assert.rejects(transfer(agents, [version], target), isMissingObject);
    assert.equal(await open(agents, version, await seal(agents, version, 'x')), 'x');
  });
}

function destroying(rigOf: () => TokenKeysRig): void {
  test('keys are destroyed, once; what is under them is unavailable, and what is under others opens', async () => {
    const rig = rigOf();
    const doomed = await rig.make('root');
    const agents = await rig.start();
    const kept = await createVersion(agents, rig.keys);
    const lost = await createVersion(agents, keysOf(doomed, rig.first('seal')));
    const [ofKept, ofLost] = [await seal(agents, kept, 'kept'), await seal(agents, lost, 'lost')];
    assert.equal(await rig.destroy(doomed), 1);
    assert.equal(await rig.destroy(doomed), 0);
    assert.equal(await rig.destroy(), 0);
    const before = agents.pids;
    rig.record(rig.recorded('gone', doomed));
    await agents.hold(rig.objects);
    assert.equal(agents.pids.length, 2);
    assert.ok(
      agents.pids.every((pid) => !before.includes(pid)),
      'none has kept what it had unwrapped',
    );
    assert.ok(!agents.held.includes(doomed.objectId));
    // Each agent is asked.
    for (let round = 0; round < 4; round++) {
      await assert.rejects(open(agents, lost, ofLost), isMissingObject);
      assert.deepEqual(await transfer(agents, [kept, lost], rig.keys), [kept, undefined]);
      assert.equal(await open(agents, kept, ofKept), 'kept');
    }
    assert.deepEqual(
      rig.log.filter(({ level }) => level === 'error'),
      [],
    );
    const { objects } = await rig.inspect();
    assert.equal(
      objects.find(({ objectId }) => objectId === doomed.objectId)?.condition,
      'missing',
    );
  });

  test('several keys are destroyed at once, also when some are gone already', async () => {
    const rig = rigOf();
    const doomed = [
      await rig.make('root'),
      await rig.make('seal'),
      await rig.make('root'),
    ] as const;
    assert.equal(await rig.destroy(doomed[1]), 1);
    assert.equal(await rig.destroy(...doomed), 2);
    rig.record(rig.recorded('gone', ...doomed));
    await rig.start();
  });

  test('none is destroyed for another environment than the token’s', async () => {
    const rig = rigOf();
    const kept = await rig.make('root');
    const foreign = { ...rig.settings, environmentId: newId<EnvironmentId>(), objects: [kept] };
    await assert.rejects(destroyTokenKeys(foreign, rig.starter), /of another environment/);
    const agents = await rig.start();
    assert.ok(agents.held.includes(kept.objectId));
  });
}

function presences(rigOf: () => TokenKeysRig): void {
  const problemsIn = ({ log }: TokenKeysRig) =>
    log.filter(({ alert }) => alert === 'token-object').map(({ problem }) => problem);

  test('an expected key that is missing stops no agent, and is not held', async () => {
    const rig = rigOf();
    const missing: TokenObject[] = (['root', 'seal'] as const).map((role) => ({
      role,
      objectId: newId(),
      presence: 'expected',
    }));
    const { agents, report } = await rig.startReporting({ objects: [...rig.objects, ...missing] });
    assert.deepEqual([report.problems, problemsIn(rig)], [[], []]);
    for (const { objectId } of missing) {
      assert.ok(!report.held.includes(objectId));
      assert.ok(!agents.held.includes(objectId));
    }
    const version = await createVersion(agents, rig.keys);
    assert.equal(await open(agents, version, await seal(agents, version, 'x')), 'x');
  });

  test('a destroyed key that is there again is reported and logged, and not used', async () => {
    const rig = rigOf();
    const back = await rig.make('root');
    const { agents, report } = await rig.startReporting({
      objects: rig.recorded('gone', back),
      count: 1,
    });
    const problem = `the root key ${back.objectId} was destroyed and is in the token again`;
    assert.deepEqual([report.problems, problemsIn(rig)], [[problem], [problem]]);
    assert.ok(!report.held.includes(back.objectId));
    assert.ok(!agents.held.includes(back.objectId));
    await assert.rejects(createVersion(agents, keysOf(back, rig.first('seal'))), isMissingObject);
  });

  test('a possible key is not used, whether it is there or not, and nothing is said of it', async () => {
    const rig = rigOf();
    const there = await rig.make('root');
    const absent: TokenObject = { role: 'root', objectId: newId(), presence: 'possible' };
    const objects = [...rig.recorded('possible', there), absent];
    const { agents, report } = await rig.startReporting({ objects });
    assert.deepEqual([report.problems, problemsIn(rig)], [[], []]);
    for (const object of [there, absent]) {
      assert.ok(!report.held.includes(object.objectId));
      await assert.rejects(
        createVersion(agents, keysOf(object, rig.first('seal'))),
        isMissingObject,
      );
    }
    const { pids } = agents;
    await agents.hold(objects);
    assert.deepEqual(agents.pids, pids);
  });

  test('a key with our label that is not recorded is refused at the start', async () => {
    const rig = rigOf();
    for (const role of ['root', 'seal'] as const) {
      const unknown = await rig.make(role);
      const objects = rig.objects.filter(({ objectId }) => objectId !== unknown.objectId);
      await assert.rejects(
        rig.agents({ objects }).start(),
        new RegExp(`labelled keyward ${role} .*; the database does not know ${unknown.objectId}`),
      );
    }
  });
}

/** Fails as what needs a key does that isn't held. */
function isMissingObject(error: Error & { readonly reason?: string }): boolean {
  assert.equal(error.reason, 'HSM_UNAVAILABLE');
  assert.match(String(error.cause), /token-object-missing no (root|seal) key [0-9a-f-]{36} here/);
  return true;
}

function flipped(bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes);
  copy.writeUInt8(copy.readUInt8(0) ^ 0xff, 0);
  return copy;
}
