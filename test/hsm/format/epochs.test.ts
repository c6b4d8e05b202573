/**
 * Epochs that outlive an operation: their keys are HMAC-SHA-512 under E until they are wiped; their
 * messages open by the second implementation, and no two have one IV; and what an agent keeps of
 * them stays within its bounds, by a clock that the test moves.
 */
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { describe, it, mock } from 'node:test';
import fc from 'fast-check';
import { KeptEpochs } from '../../../src/hsm/agent/kept-epochs.ts';
import {
  beginEpoch,
  type Epoch,
  open,
  parseHeader,
  sealWithin,
} from '../../../src/hsm/ciphertext.ts';
import { EpochKey } from '../../../src/hsm/epoch-key.ts';
import { idFromBytes, type KeyId, newId, type TenantId } from '../../../src/ids.ts';
import * as again from '../../golden/recompute.ts';
import { bytes, bytesUpTo, hmacOf, message, PURPOSES } from './sealing.ts';

describe('the key of an epoch', () => {
  it('is HMAC-SHA-512 under what was derived, which is overwritten', () => {
    fc.assert(
      fc.property(bytes(64), bytesUpTo(300), (derived, input) => {
        const expected = createHmac('sha512', derived).update(input).digest();
        const key = new EpochKey(derived, input.length);
        assert.deepEqual(key.hmac(input), expected);
        assert.deepEqual(key.hmac(input), expected);
        assert.deepEqual(derived, Buffer.alloc(64));
        assert.throws(() => key.hmac(Buffer.concat([input, Buffer.alloc(1)])), RangeError);
        key.wipe();
        assert.throws(() => key.hmac(input), RangeError);
      }),
    );
    assert.throws(() => new EpochKey(Buffer.alloc(63), 10), RangeError);
  });
});

describe('a message within an epoch', () => {
  it('opens, by the second implementation too, and by nothing that is another', () => {
    fc.assert(
      fc.property(message, message, ({ header, binding, material, plaintext }, other) => {
        const hmac = hmacOf(material);
        const epoch = beginEpoch(header, binding, plaintext, hmac);
        const later = { ...binding, contextDigest: other.binding.contextDigest };
        const ciphertexts = [
          sealWithin(epoch, header, binding, plaintext),
          sealWithin(epoch, header, later, other.plaintext),
        ] as const;
        assert.deepEqual(open(ciphertexts[0], binding, hmac), plaintext);
        assert.deepEqual(open(ciphertexts[1], later, hmac), other.plaintext);
        for (const ciphertext of ciphertexts) {
          assert.deepEqual(parseHeader(ciphertext, PURPOSES), header);
          assert.deepEqual(ciphertext.subarray(24, 56), epoch.salt);
        }
        const [first] = ciphertexts;
        const head = first.subarray(0, 68);
        const tenant = idFromBytes(Buffer.from(binding.tenant));
        const e = again.deriveEpoch(material, head, tenant);
        const parts = [binding.tenant, binding.subject, binding.contextDigest];
        const derived = again.derive(e, head, Buffer.concat(parts));
        assert.deepEqual(derived.subarray(32), first.subarray(68, 100));
      }),
      { numRuns: 50 },
    );
  });

  it('has an IV that no other of its epoch has, whatever is the same', () => {
    const header = { purpose: 1, keyId: newId<KeyId>(), version: 1 } as const;
    const binding = {
      tenant: Buffer.alloc(16),
      subject: Buffer.alloc(16),
      contextDigest: Buffer.alloc(32),
    };
    const epoch = beginEpoch(header, binding, Buffer.alloc(0), hmacOf(Buffer.alloc(64)));
    const ivs = Array.from({ length: 10_000 }, () =>
      sealWithin(epoch, header, binding, Buffer.alloc(0)).toString('hex', 56, 68),
    );
    assert.equal(new Set(ivs).size, ivs.length);
  });
});

/** What is done with the epochs of two versions of two keys. */
type Step =
  | { readonly does: 'seal' | 'open'; readonly version: number; readonly salt: number }
  | { readonly does: 'wait'; readonly seconds: number }
  | { readonly does: 'forget'; readonly key: number | undefined };

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    does: fc.constantFrom('seal', 'seal', 'open'),
    version: fc.nat(1),
    salt: fc.nat(5),
  }),
  fc.record({ does: fc.constant('wait' as const), seconds: fc.constantFrom(1, 5, 11) }),
  fc.record({
    does: fc.constant('forget' as const),
    key: fc.option(fc.nat(1), { nil: undefined }),
  }),
);

describe('the epochs that an agent keeps', () => {
  const keys = [newId<KeyId>(), newId<KeyId>()];
  const tenantId = newId<TenantId>();
  const ownerOf = (version: number) => ({
    version: `v${version}`,
    tenantId,
    keyId: keys[version] as KeyId,
  });

  it('are used within their bounds, wiped at their ends, and no more than there may be', () => {
    fc.assert(
      fc.property(
        fc.array(step, { minLength: 20, maxLength: 120 }),
        fc.integer({ min: 1, max: 6 }),
        fc.integer({ min: 1, max: 4 }),
        (steps, maxMessages, limit) => {
          mock.timers.enable({ apis: ['setTimeout'] });
          try {
            play(steps, maxMessages, limit);
          } finally {
            mock.timers.reset();
          }
        },
      ),
    );
  });

  function play(steps: readonly Step[], maxMessages: number, limit: number): void {
    const bounds = { maxMessages, maxAgeSeconds: 10 };
    let now = 0;
    let made = 0;
    const kept = new KeptEpochs(limit, () => now * 1_000);
    const alive = new Map<EpochKey, { born: number; uses: number; key: KeyId; seals: boolean }>();
    const known = new Map<string, EpochKey>();
    const isWiped = (key: EpochKey) => {
      try {
        key.hmac(Buffer.alloc(1));
        return false;
      } catch {
        return true;
      }
    };
    const newKey = (key: KeyId, seals: boolean) => {
      const epochKey = new EpochKey(Buffer.alloc(64, ++made), 1);
      alive.set(epochKey, { born: now, uses: 0, key, seals });
      return epochKey;
    };
    const used = (epochKey: EpochKey) => {
      const entry = alive.get(epochKey);
      assert.ok(entry !== undefined && !isWiped(epochKey), 'it is there');
      assert.ok(now - entry.born < bounds.maxAgeSeconds, 'it is young enough');
      entry.uses += 1;
      assert.ok(entry.uses <= maxMessages, 'it is not used up');
      return entry;
    };
    for (const each of steps) {
      if (each.does === 'wait') {
        now += each.seconds;
        mock.timers.tick(each.seconds * 1_000);
      } else if (each.does === 'forget') {
        kept.forget(each.key === undefined ? undefined : keys[each.key]);
        for (const [key, { key: keyId }] of alive)
          if (each.key === undefined || keyId === keys[each.key]) assert.ok(isWiped(key));
      } else if (each.does === 'seal') {
        const owner = ownerOf(each.version);
        const begin = (): Epoch => ({
          salt: Buffer.alloc(32, 100 + made),
          key: newKey(owner.keyId, true),
        });
        kept.seal(owner, bounds, {
          begin,
          seal: ({ key }) => assert.ok(used(key).seals, 'what was opened never seals'),
        });
      } else {
        const owner = ownerOf(each.version);
        const salt = Buffer.alloc(32, each.salt).toString('latin1');
        kept.open(owner, salt, bounds, (epochs) => {
          const key = epochs.get(salt) ?? newKey(owner.keyId, false);
          epochs.set(salt, key);
          known.set(`${each.version} ${each.salt}`, key);
          used(key);
        });
      }
      for (const [key, { born, uses }] of alive)
        if (now - born >= bounds.maxAgeSeconds || uses >= maxMessages) assert.ok(isWiped(key));
      for (const key of alive.keys()) if (isWiped(key)) alive.delete(key);
      assert.equal(kept.size, alive.size, 'what is not wiped is kept');
      assert.ok(kept.size <= limit);
    }
  }

  it('obey narrower bounds from the message on that brings them', () => {
    const kept = new KeptEpochs();
    const owner = ownerOf(0);
    const wide = { maxMessages: 100, maxAgeSeconds: 3_600 };
    let begun = 0;
    const seal = (bounds: typeof wide) =>
      kept.seal(owner, bounds, {
        begin: () => ({ salt: Buffer.alloc(32, ++begun), key: new EpochKey(Buffer.alloc(64), 1) }),
        seal: () => begun,
      });
    assert.deepEqual([seal(wide), seal(wide), seal(wide)], [1, 1, 1]);
    assert.equal(seal({ ...wide, maxMessages: 3 }), 2);
    assert.equal(kept.size, 1);
    kept.forget();
  });

  it('have no key that opened nothing', () => {
    const kept = new KeptEpochs();
    const salt = Buffer.alloc(32).toString('latin1');
    const key = new EpochKey(Buffer.alloc(64), 1);
    assert.throws(
      () =>
        kept.open(ownerOf(0), salt, { maxMessages: 9, maxAgeSeconds: 9 }, (epochs) => {
          epochs.set(salt, key);
          throw new Error('it does not open');
        }),
      /does not open/,
    );
    assert.equal(kept.size, 0);
    assert.throws(() => key.hmac(Buffer.alloc(1)), RangeError);
  });
});
