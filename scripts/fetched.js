/**
 * Packages that are wanted seldom and not installed: fetched from npm's registry, compared with
 * their integrity, and kept under `.keyward/fetched/`.
 *
 * Plain JavaScript for Node 20.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from './node-modules.js';
import { SetUpError } from './progress.js';
import { STATE_DIRECTORY } from './setup.js';

/** @typedef {{ name: string, version: string, integrity: string }} Fetched */

/**
 * Returns the folder of a package, fetched unless it was before; throws a {@link SetUpError} where
 * it cannot be had, or is not the one that is wanted.
 *
 * @param {Fetched} wanted
 */
export function fetchPackage({ name, version, integrity }) {
  const kept = join(STATE_DIRECTORY, 'fetched');
  const folder = join(kept, `${name}-${version}`);
  if (existsSync(folder)) return folder;
  mkdirSync(kept, { recursive: true });
  const work = mkdtempSync(join(kept, '.new-'));
  try {
    const args = ['pack', '--silent', '--pack-destination', work, `${name}@${version}`];
    const { status, stdout, stderr } = spawnSync('npm', args, { cwd: work, encoding: 'utf8' });
    if (status !== 0) throw new SetUpError(`cannot fetch ${name} ${version}: ${stderr.trim()}`);
    const tarball = join(work, stdout.trim());
    const found = `sha512-${createHash('sha512').update(readFileSync(tarball)).digest('base64')}`;
    if (found !== integrity)
      throw new SetUpError(`cannot use ${name} ${version}: its integrity is ${found}`);
    spawnSync('tar', ['-xzf', tarball, '-C', work], { stdio: 'inherit' });
    // Whole, or not there; another process may have been first.
    if (!existsSync(folder)) renameSync(join(work, 'package'), folder);
    return folder;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/**
 * Returns the folder of a package that the lockfile has: installed, or fetched.
 *
 * @param {string} name
 */
export function lockedPackage(name) {
  const installed = join(ROOT, 'node_modules', name);
  if (existsSync(installed)) return installed;
  const { packages } = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8'));
  const { version, integrity } = packages[`node_modules/${name}`];
  return fetchPackage({ name, version, integrity });
}
