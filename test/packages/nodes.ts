/**
 * Releases of Node that the packages promise to run on, from their npm packages.
 */
import { join } from 'node:path';
import { fetchPackage, lockedPackage } from '../../scripts/fetched.js';

/** The last of each older release, with the integrity of its package for each processor. */
const OLDER: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  '20.20.2': {
    x64: 'sha512-PeHQM8wAdmHtZA1mBocygZxs5LiUWtsJezQTkBd0iY987KpGrD1O2tVEydvMZiuXceRanxt7rjTnDEBwOPujoQ==',
    arm64:
      'sha512-LCXJnNTFiyGuYBw2gZSI5OBFMbkjAPt8sqD/NKrWoE2QmDgSubTqFng6GaNJ9EJ8HpxBMGcWWpbbcs4Vo+CnGg==',
  },
  '22.23.5': {
    x64: 'sha512-3jhC+wcoWxKZxcRqF2sUSl0c9HEXFnur/nuIPx6O6CWKV0jOUWQm7Htw5SuXqqlMCEhi0cJqybFPEb5hhcBiMw==',
    arm64:
      'sha512-e1LOUGKVruPGuLVutn8+Cgm5pI1APm4Kvh+zbb/qe/ZpD9s+TQby5iUgZOWmPpbSKpj0Td8DP1N0NEnXasHizg==',
  },
};

/** Returns the program of a release, by its first number; throws where it cannot be had. */
export function nodeOf(release: 20 | 22 | 24): string {
  const name = `node-linux-${process.arch}`;
  const version = Object.keys(OLDER).find((each) => each.startsWith(`${release}.`));
  const folder =
    version === undefined
      ? lockedPackage(name)
      : fetchPackage({ name, version, integrity: OLDER[version]?.[process.arch] ?? '' });
  return join(folder, 'bin', 'node');
}
