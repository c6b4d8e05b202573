/**
 * Moving key versions from one token to another, as every two PKCS#11 tokens must do it behind
 * their agents; and that no agent that serves does any of it. One suite, run between the modules at
 * hand. Knows no module and no row.
 */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { monotonicNow } from '../../src/call.ts';
import { CommandAgent } from '../../src/hsm/command-agent.ts';
import { KeyMover, type MoveEnd } from '../../src/hsm/key-mover.ts';
import { type SealedKeyVersion, WRAP } from '../../src/hsm/key-version.ts';
import type { OperationName, RequestOf } from '../../src/hsm/protocol.ts';
import { initializeToken } from '../../src/hsm/token-commands.ts';
import { TokenRouter } from '../../src/hsm/token-router.ts';
import { newId, type RootKeyId, type TokenId } from '../../src/ids.ts';
import { eventually } from '../support/kit.ts';
import {
  agentsOn,
  createVersion,
  type FreshToken,
  open,
  seal,
  TokenKeysRig,
  transfer,
} from './token-keys-rig.ts';

const soon = () => monotonicNow() + 120_000;

/** Runs the suite between tokens that these make. */
export function movingConformance(
  name: string,
  options: { skip: string | false },
  makeSource: () => FreshToken,
  makeTarget: () => FreshToken,
): void {
  describe(`key versions moved from ${name}`, options, () => {
    let tokens: FreshToken[] = [];
    let rig: TokenKeysRig;
    /** The same environment, in the other token. */
    let other: TokenKeysRig;
    before(async () => {
      tokens = [makeSource(), makeTarget()];
      const [source, target] = tokens as [FreshToken, FreshToken];
      rig = await TokenKeysRig.open(source);
      const { environmentId } = rig.settings;
      const made = await initializeToken({ environmentId }, agentsOn(target));
      other = TokenKeysRig.over(target, {
        environmentId,
        ...made,
        keyCacheSize: 4,
      });
    });
    afterEach(async () => {
      await rig?.stopAll();
      await other?.stopAll();
    });
    after(() => {
      for (const token of tokens) token.dispose();
    });

    const move = async (versions: readonly SealedKeyVersion[], target = endOf(other)) => {
      using mover = await KeyMover.open(endOf(rig), target);
      const { rootKeyId, sealKeyId } = other.keys;
      const moves = versions.map((version) => ({ version, rootKeyId }));
      return { kind: mover.kind, moved: await mover.move(moves, sealKeyId) };
    };

    test('are what they were, and open under the other token alone', async () => {
      const [agents, others] = [await rig.start(), await other.start()];
      const versions = await Promise.all([1, 2, 3].map(() => createVersion(agents, rig.keys)));
      const sealed = await Promise.all(
        versions.map((version) => seal(agents, version, version.keyId)),
      );
      const { moved } = await move(versions);
      for (const [index, version] of versions.entries()) {
        const after = moved[index];
        const ciphertext = sealed[index];
        assert.ok(after && ciphertext);
        const { wrap, wrapped, seal: rowSeal } = after;
        assert.deepEqual(after, { ...version, ...other.keys, wrap, wrapped, seal: rowSeal });
        assert.notDeepEqual(wrapped, version.wrapped);
        assert.equal(await open(others, after, ciphertext), version.keyId);
        await assert.rejects(open(agents, after, ciphertext), { reason: 'STORED_ROW_CORRUPT' });
      }
    });

    test('are told apart from those whose rows were changed, which are not moved', async () => {
      const agents = await rig.start();
      const [first, second, third] = await Promise.all(
        [1, 2, 3].map(() => createVersion(agents, rig.keys)),
      );
      assert.ok(first && second && third);
      const swapped = {
        ...second,
        wrapped: first.wrapped,
        checkValue: first.checkValue,
        seal: first.seal,
      };
      const renumbered = { ...third, version: 2 };
      const { moved } = await move([swapped, first, renumbered, third]);
      assert.deepEqual(
        moved.map((each) => each !== undefined),
        [false, true, false, true],
      );
    });

    test('travel each by RSA-OAEP where the tokens wrap by two RFCs', async () => {
      const agents = await rig.start();
      const version = await createVersion(agents, rig.keys);
      const { profile } = other.settings;
      assert.equal((await move([version])).kind, 'aes-key-wrap');
      // Both modules have this number for RFC 5649, or don't have it at all.
      const padded = { ...profile, wrapMechanism: 0x210a, wrap: WRAP.rfc5649 };
      const target = endOf(other);
      const outcome = await move([version], {
        ...target,
        settings: { ...target.settings, profile: padded },
      }).catch((error: Error) => error);
      if (outcome instanceof Error) return assert.match(outcome.message, /the token lacks|verify/);
      assert.equal(outcome.kind, 'rsa-oaep');
      assert.equal(outcome.moved[0]?.wrap, WRAP.rfc5649);
    });

    test('are not moved by an agent that serves, and an agent that moves does not serve', async () => {
      const agents = await rig.start({ count: 1 });
      const { pids } = agents;
      const version = await createVersion(agents, rig.keys);
      const refused = <Name extends OperationName>(name: Name, request: RequestOf<Name>) =>
        assert.rejects(agents.call(name, request, soon()), { reason: 'INTERNAL' }, name);
      const { settings } = endOf(rig);
      const offer = { modulus: 'c0'.repeat(384), hashes: ['SHA-1'], wrap: WRAP.rfc3394 } as const;
      await refused('openMoveSource', { ...settings, offer });
      await refused('openMoveTarget', settings);
      await refused('acceptTransport', { kind: 'rsa-oaep', hash: 'SHA-1', wrapped: '' });
      await refused('exportKeyVersions', { keyVersions: [Buffer.alloc(8)] });
      await refused('importKeyVersions', { sealKeyId: rig.keys.sealKeyId, items: [] });
      assert.deepEqual(agents.pids, pids);
      assert.ok((await transfer(agents, [version], rig.keys))[0]);
      using mover = new CommandAgent(rig.starter);
      await mover.call('openMoveTarget', settings);
      await assert.rejects(mover.call('random', { length: 1 }), /before start/);
      const serving = { ...settings, keyCacheSize: 1, despiteFailedTry: false };
      await assert.rejects(mover.call('start', serving), /opened already/);
      await assert.rejects(
        mover.call('exportKeyVersions', { keyVersions: [] }),
        /no source of a move/,
      );
    });

    test('are each used in their own token behind a router, and those of two tokens never together', async () => {
      const agents = await rig.start({ count: 1 });
      const ids = [newId<TokenId>(), newId<TokenId>()] as const;
      const log = { info: () => {}, warn: () => {}, error: () => {} };
      let isOpen = false;
      const openNext = async () => (isOpen ? other.agents({ count: 1 }) : undefined);
      const router = new TokenRouter({ current: { tokenId: ids[0], agents }, openNext, log });
      const routed = (current: TokenId) => [
        { tokenId: ids[0], isCurrent: current === ids[0], objects: rig.objects },
        { tokenId: ids[1], isCurrent: current === ids[1], objects: other.objects },
      ];
      await router.hold(routed(ids[0]));
      const version = await createVersion(router, rig.keys);
      const [moved] = (await move([version])).moved;
      assert.ok(moved);
      const notReady = { reason: 'TOKEN_KEY_NOT_READY' };
      await assert.rejects(seal(router, moved, 'x'), notReady);
      isOpen = true;
      await router.hold(routed(ids[0]));
      await eventually(() =>
        assert.ok(other.objects.every(({ objectId }) => router.held.includes(objectId))),
      );
      assert.equal(await open(router, moved, await seal(router, version, 'x')), 'x');
      assert.equal(await open(router, version, await seal(router, moved, 'y')), 'y');
      await assert.rejects(transfer(router, [version], other.keys), notReady);
      await assert.rejects(transfer(router, [version, moved], rig.keys), notReady);
      const strange = { ...version, rootKeyId: newId<RootKeyId>() };
      await assert.rejects(seal(router, strange, 'x'), { reason: 'STORED_ROW_CORRUPT' });
      const elsewhere = { ...version, rootKeyId: other.keys.rootKeyId };
      await assert.rejects(seal(router, elsewhere, 'x'), { reason: 'STORED_ROW_CORRUPT' });
      await router.hold(routed(ids[1]));
      await rig.stopAll();
      assert.ok(router.ready);
      assert.equal(await open(router, moved, await seal(router, moved, 'z')), 'z');
      await createVersion(router, other.keys);
    });
  });
}

function endOf({ settings, objects, starter }: TokenKeysRig): MoveEnd {
  const { keyCacheSize: _, ...opening } = settings;
  return { settings: { ...opening, objects }, starter };
}
