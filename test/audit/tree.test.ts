import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { EMPTY_ROOT, treeHash } from '../../client/src/audit/tree.ts';
import {
  auditLeafHash,
  type ConsistencyClaim,
  type InclusionClaim,
  verifyAuditConsistency,
  verifyAuditInclusion,
} from '../../client/src/index.ts';
import { consistencyPath, inclusionPath, leafHashOf, merkleTreeHash, sha256 } from './log.ts';

/** The leaves, roots and proofs that transparency-dev/merkle (Apache-2.0) tests itself with. */
const LEAVES = [
  '',
  '00',
  '10',
  '2021',
  '3031',
  '40414243',
  '5051525354555657',
  '606162636465666768696a6b6c6d6e6f',
];
const ROOTS = [
  '6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d',
  'fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125',
  'aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77',
  'd37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7',
  '4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4',
  '76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef',
  'ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c',
  '5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328',
];
const INCLUSION: [leafIndex: number, treeSize: number, hashes: string[]][] = [
  [0, 1, []],
  [
    0,
    8,
    [
      '96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7',
      '5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e',
      '6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4',
    ],
  ],
  [
    5,
    8,
    [
      'bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b',
      'ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0',
      'd37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7',
    ],
  ],
  [2, 3, ['fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125']],
  [
    1,
    5,
    [
      '6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d',
      '5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e',
      'bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b',
    ],
  ],
];
const CONSISTENCY: [fromSize: number, toSize: number, hashes: string[]][] = [
  [1, 1, []],
  [
    1,
    8,
    [
      '96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7',
      '5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e',
      '6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4',
    ],
  ],
  [
    6,
    8,
    [
      '0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a',
      'ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0',
      'd37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7',
    ],
  ],
  [
    2,
    5,
    [
      '5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e',
      'bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b',
    ],
  ],
  [
    6,
    7,
    [
      '0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a',
      'b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f',
      'd37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7',
    ],
  ],
];

const hex = (text: string | undefined) => Buffer.from(text ?? '', 'hex');
const SOME_HASH = sha256(Buffer.from('some'));

/** Proofs that aren't: the same in which one bit, one hash, one number is another. */
function wrongHashes(hashes: readonly Uint8Array[], root: Uint8Array): (readonly Uint8Array[])[] {
  return [
    [...hashes, Buffer.alloc(0)],
    [Buffer.alloc(0), ...hashes],
    [...hashes, root],
    [root, ...hashes],
    [...hashes, SOME_HASH],
    ...hashes.map((_, i) => hashes.toSpliced(i, 1)),
    ...hashes.map((hash, i) => hashes.with(i, Buffer.from(hash).fill((hash[0] ?? 0) ^ 8, 0, 1))),
    ...hashes.map((hash, i) => hashes.toSpliced(i, 0, hash)),
  ];
}

function wrongInclusions(claim: InclusionClaim): InclusionClaim[] {
  const { leafIndex, treeSize, hashes, rootHash } = claim;
  return [
    ...[leafIndex - 1, leafIndex + 1, leafIndex ^ 2, -1, 0.5, Number.NaN].map((other) => ({
      ...claim,
      leafIndex: other,
    })),
    ...[treeSize * 2, Math.floor(treeSize / 2), 0].map((other) => ({ ...claim, treeSize: other })),
    ...[SOME_HASH, EMPTY_ROOT, Buffer.alloc(0)].map((other) => ({ ...claim, leafHash: other })),
    ...[SOME_HASH, EMPTY_ROOT, Buffer.alloc(0)].map((other) => ({ ...claim, rootHash: other })),
    ...wrongHashes(hashes, rootHash).map((other) => ({ ...claim, hashes: other })),
  ];
}

function wrongConsistencies(claim: ConsistencyClaim): ConsistencyClaim[] {
  const { fromSize, toSize, fromRootHash, toRootHash, hashes } = claim;
  return [
    ...[fromSize - 1, fromSize + 1, fromSize ^ 2, -1, 0.5].map((other) => ({
      ...claim,
      fromSize: other,
    })),
    ...[toSize * 2, Math.floor(toSize / 2), Number.NaN].map((other) => ({
      ...claim,
      toSize: other,
    })),
    { ...claim, fromRootHash: toRootHash, toRootHash: fromRootHash },
    { ...claim, fromRootHash: SOME_HASH },
    { ...claim, toRootHash: SOME_HASH },
    { ...claim, toRootHash: Buffer.alloc(0) },
    { ...claim, hashes: [] },
    ...wrongHashes(hashes, fromRootHash).map((other) => ({ ...claim, hashes: other })),
    ...wrongHashes(hashes, toRootHash).map((other) => ({ ...claim, hashes: other })),
  ];
}

describe("transparency-dev/merkle's vectors", () => {
  it('have the roots that are computed here', () => {
    const hashes = LEAVES.map((leaf) => auditLeafHash(hex(leaf)));
    for (const [i, root] of ROOTS.entries()) {
      assert.equal(treeHash(Buffer.concat(hashes.slice(0, i + 1))).toString('hex'), root);
    }
  });

  it('prove inclusion, and no change of them does', () => {
    for (const [leafIndex, treeSize, hashes] of INCLUSION) {
      const claim = {
        leafHash: auditLeafHash(hex(LEAVES[leafIndex])),
        leafIndex,
        treeSize,
        rootHash: hex(ROOTS[treeSize - 1]),
        hashes: hashes.map(hex),
      };
      assert.ok(verifyAuditInclusion(claim), `${leafIndex} in ${treeSize}`);
      for (const wrong of wrongInclusions(claim))
        assert.ok(!verifyAuditInclusion(wrong), JSON.stringify(wrong));
    }
  });

  it('prove consistency, and no change of them does', () => {
    for (const [fromSize, toSize, hashes] of CONSISTENCY) {
      const claim = {
        fromSize,
        toSize,
        fromRootHash: hex(ROOTS[fromSize - 1]),
        toRootHash: hex(ROOTS[toSize - 1]),
        hashes: hashes.map(hex),
      };
      assert.ok(verifyAuditConsistency(claim), `${fromSize} to ${toSize}`);
      if (hashes.length === 0) continue;
      for (const wrong of wrongConsistencies(claim))
        assert.ok(!verifyAuditConsistency(wrong), JSON.stringify(wrong));
    }
  });
});

describe('trees of any size', () => {
  const hashes = Array.from({ length: 300 }, (_, i) => leafHashOf(`leaf ${i}`));
  const roots = Array.from({ length: 301 }, (_, size) => merkleTreeHash(hashes.slice(0, size)));
  const size = fc.integer({ min: 1, max: 300 });

  it('have the root of RFC 6962', () => {
    assert.deepEqual(EMPTY_ROOT, roots[0]);
    for (let n = 1; n <= 300; n += 1) {
      assert.deepEqual(treeHash(Buffer.concat(hashes.slice(0, n))), roots[n], String(n));
    }
  });

  it('prove each of their leaves by the path of RFC 6962, and by nothing else', () => {
    fc.assert(
      fc.property(size, fc.nat(), (treeSize, any) => {
        const leafIndex = any % treeSize;
        const path = inclusionPath(leafIndex, hashes.slice(0, treeSize));
        const rootHash = roots[treeSize] ?? EMPTY_ROOT;
        const claim = {
          leafHash: hashes[leafIndex] ?? EMPTY_ROOT,
          leafIndex,
          treeSize,
          rootHash,
          hashes: path,
        };
        assert.ok(verifyAuditInclusion(claim));
        for (const wrong of wrongInclusions(claim)) {
          // An index is proven by its turns alone: in a tree of another size they can be the same.
          const isSame = wrong.hashes === claim.hashes && wrong.treeSize !== treeSize;
          if (!isSame) assert.ok(!verifyAuditInclusion(wrong));
        }
      }),
    );
  });

  it('prove that they continue each smaller one by the proof of RFC 6962, and by nothing else', () => {
    fc.assert(
      fc.property(size, fc.nat(), (toSize, any) => {
        const fromSize = 1 + (any % toSize);
        const proof = consistencyPath(fromSize, hashes.slice(0, toSize));
        const [fromRootHash = EMPTY_ROOT, toRootHash = EMPTY_ROOT] = [
          roots[fromSize],
          roots[toSize],
        ];
        assert.ok(
          verifyAuditConsistency({ fromSize, toSize, fromRootHash, toRootHash, hashes: proof }),
        );
        const forged = { fromSize, toSize, fromRootHash: SOME_HASH, toRootHash, hashes: proof };
        assert.ok(!verifyAuditConsistency(forged));
        for (const hashes of wrongHashes(proof, toRootHash))
          assert.ok(
            !verifyAuditConsistency({ fromSize, toSize, fromRootHash, toRootHash, hashes }),
          );
      }),
    );
  });

  it('all continue the empty one, which continues none', () => {
    const claim = {
      fromSize: 0,
      fromRootHash: EMPTY_ROOT,
      toSize: 5,
      toRootHash: roots[5] ?? EMPTY_ROOT,
    };
    assert.ok(verifyAuditConsistency({ ...claim, hashes: [] }));
    assert.ok(!verifyAuditConsistency({ ...claim, hashes: [SOME_HASH] }));
    assert.ok(!verifyAuditConsistency({ ...claim, fromRootHash: SOME_HASH, hashes: [] }));
    assert.ok(!verifyAuditConsistency({ ...claim, fromSize: 5, toSize: 0, hashes: [] }));
  });
});
