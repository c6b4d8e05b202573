/**
 * What packages were made from, as an in-toto statement with SLSA's provenance (v1).
 *
 * It is not signed: it tells those who have the sources what to compare, and proves nothing alone.
 * Plain JavaScript for Node 20.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from './node-modules.js';

/**
 * Returns the statement about files with these SHA-256 digests, or undefined where what they were
 * made from is no commit.
 *
 * @param {Readonly<Record<string, string>>} digests
 */
export function provenance(digests) {
  if (git('status', '--porcelain') !== '') return undefined;
  const lockfile = readFileSync(join(ROOT, 'package-lock.json'));
  return {
    _type: 'https://in-toto.io/Statement/v1',
    subject: Object.entries(digests).map(([name, sha256]) => ({ name, digest: { sha256 } })),
    predicateType: 'https://slsa.dev/provenance/v1',
    predicate: {
      buildDefinition: {
        buildType: 'urn:keyward:npm-run-pack:1',
        externalParameters: { command: 'npm run pack' },
        internalParameters: {
          node: process.version,
          npm: execFileSync('npm', ['--version'], { encoding: 'utf8' }).trim(),
        },
        resolvedDependencies: [
          {
            name: 'sources',
            digest: {
              gitCommit: git('rev-parse', 'HEAD'),
              gitTree: git('rev-parse', 'HEAD^{tree}'),
            },
          },
          {
            name: 'package-lock.json',
            digest: { sha256: createHash('sha256').update(lockfile).digest('hex') },
          },
        ],
      },
      runDetails: { builder: { id: 'urn:keyward:builder:unattested' } },
    },
  };
}

/** @param {readonly string[]} args */
function git(...args) {
  return execFileSync('git', args, { cwd: ROOT, encoding: 'utf8' }).trim();
}
