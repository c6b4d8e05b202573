/**
 * What the seal of token keys is computed over: everything that says which is current, of whom and
 * where; by a second implementation written from docs/ciphertext.md.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, it } from 'node:test';
import {
  encodeTokenKeySet,
  type TokenKeySetContent,
  type TokenKeyStanding,
  type TokenStanding,
} from '../../../src/hsm/token-key-set.ts';
import type { AnyId, TenantId, TokenId } from '../../../src/ids.ts';

const [A, B, C, D] = ['a', 'b', 'c', 'd'].map(
  (digit) => `${digit.repeat(8)}-0000-4000-8000-000000000000`,
) as [string, string, string, string];

const token: TokenStanding = {
  tokenId: A as TokenId,
  state: 'CURRENT',
  label: 'keys',
  serialNumber: null,
  profile: { wrap: 1, order: ['b', 'a'], also: { z: null, a: true } },
};
const former: TokenStanding = { ...token, tokenId: B as TokenId, state: 'FORMER', profile: null };
const root: TokenKeyStanding = {
  objectId: C as AnyId,
  tenantId: D as TenantId,
  tokenId: A as TokenId,
  role: 'root',
  state: 'CURRENT',
  isCurrent: true,
};
const left: TokenKeyStanding = {
  ...root,
  objectId: B as AnyId,
  tokenId: B as TokenId,
  role: 'seal',
  state: 'RETIRED',
  isCurrent: false,
};
const set: TokenKeySetContent = { revision: 7n, tokens: [token, former], objects: [root, left] };

const same = (changed: TokenKeySetContent) =>
  encodeTokenKeySet(changed).equals(encodeTokenKeySet(set));

describe('token keys, as bytes', () => {
  it('are what an implementation written from the page computes', () => {
    const hex = (...parts: string[]) => Buffer.from(parts.join('').replaceAll('-', ''), 'hex');
    const sha256 = (...parts: Buffer[]) =>
      createHash('sha256').update(Buffer.concat(parts)).digest();
    const profile = Buffer.from('{"also":{"a":true,"z":null},"order":["b","a"],"wrap":1}');
    const label = Buffer.concat([hex('010004'), Buffer.from('keys')]);
    const tokens = sha256(
      hex('00000002'),
      ...[hex(A, '01'), label, hex('000000'), sha256(profile)],
      ...[hex(B, '03'), label, hex('000000'), Buffer.alloc(32)],
    );
    const objects = sha256(
      hex('00000002'),
      hex(B, D, B, '02', '00', '00'),
      hex(C, D, A, '01', '03', '01'),
    );
    assert.deepEqual(
      encodeTokenKeySet(set),
      Buffer.concat([hex('0000000000000007'), tokens, objects]),
    );
  });

  it('are the same in another order, and whatever became of a former token’s keys', () => {
    assert.ok(same({ ...set, tokens: [former, token], objects: [left, root] }));
    for (const state of ['ABANDONED', 'DESTROYING', 'DESTROYED'])
      assert.ok(same({ ...set, objects: [root, { ...left, state }] }), state);
  });

  it('differ with everything else that differs', () => {
    const changes: readonly Partial<TokenKeySetContent>[] = [
      { revision: 8n },
      { tokens: [token] },
      { objects: [root] },
      { objects: [root, left, { ...left, objectId: D as AnyId }] },
      ...(['tokenId', 'state', 'label', 'serialNumber', 'profile'] as const).map((name) => {
        const other = { tokenId: C, state: 'NEXT', label: null, serialNumber: '1', profile: {} };
        return { tokens: [{ ...token, [name]: other[name] } as TokenStanding, former] };
      }),
      ...(['objectId', 'tenantId', 'tokenId', 'role', 'state', 'isCurrent'] as const).map(
        (name) => {
          const other = { objectId: D, tenantId: A, tokenId: B, role: 'mask', state: 'CREATED' };
          const changed = { ...other, isCurrent: false };
          return { objects: [{ ...root, [name]: changed[name] } as TokenKeyStanding, left] };
        },
      ),
    ];
    for (const change of changes)
      assert.ok(!same({ ...set, ...change }), JSON.stringify(change.objects));
  });

  it('are refused for what can be none', () => {
    for (const wrong of [
      { revision: -1n },
      { tokens: [{ ...token, state: 'current' }] },
      { objects: [{ ...root, role: 'constructor' }] },
      { objects: [{ ...root, state: '' }] },
    ])
      assert.throws(() => encodeTokenKeySet({ ...set, ...wrong }), RangeError);
  });
});
