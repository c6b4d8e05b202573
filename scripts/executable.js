/**
 * The command as an executable: Node of the lockfile with the bundled command in it (a single
 * executable application), which needs nothing of the system but its C and C++ libraries.
 *
 * - No code cache and no snapshot: so one machine makes it for others' processors.
 * - It takes no options of Node, by NODE_OPTIONS or otherwise.
 *
 * Plain JavaScript for Node 20.
 */
import { spawnSync } from 'node:child_process';
import { chmodSync, copyFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { lockedPackage } from './fetched.js';
import { ROOT } from './node-modules.js';
import { SetUpError } from './progress.js';

/** Processors that there is a Node for, as Node calls them. */
export const PROCESSORS = ['x64', 'arm64'];
/** Puts a resource into an executable. */
const POSTJECT = join(ROOT, 'node_modules', 'postject', 'dist', 'cli.js');
/** Where Node looks for a program, and how it knows that there is one. */
const RESOURCE = 'NODE_SEA_BLOB';
const FUSE = 'NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2';

/**
 * Writes the executable for a processor; returns the text of Node's own licences.
 *
 * @param {string} program the bundled command
 * @param {string} processor
 * @param {string} file
 */
export function makeExecutable(program, processor, file) {
  const node = lockedPackage(`node-linux-${processor}`);
  const [settings, blob] = [`${file}.json`, `${file}.blob`];
  const configuration = {
    // As it is from where Node runs: the path goes into the executable, and would differ each time.
    main: basename(program),
    output: blob,
    disableExperimentalSEAWarning: true,
    execArgvExtension: 'none',
  };
  writeFileSync(settings, JSON.stringify(configuration));
  copyFileSync(join(node, 'bin', 'node'), file);
  try {
    run(dirname(program), '--experimental-sea-config', settings);
    run(ROOT, POSTJECT, file, RESOURCE, blob, '--sentinel-fuse', FUSE);
  } finally {
    for (const each of [settings, blob]) rmSync(each, { force: true });
  }
  chmodSync(file, 0o755);
  return readFileSync(join(node, 'LICENSE'), 'utf8');
}

/**
 * Runs Node of the lockfile: the program that an executable takes is of the same release.
 *
 * @param {string} cwd
 * @param {readonly string[]} args
 */
function run(cwd, ...args) {
  const node = join(lockedPackage(`node-linux-${process.arch}`), 'bin', 'node');
  const { status, error, stderr } = spawnSync(node, args, { cwd, encoding: 'utf8' });
  if (status !== 0)
    throw new SetUpError(`cannot make the executable: ${error?.message ?? stderr.trim()}`);
}
