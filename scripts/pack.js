/**
 * `npm run pack`: what others install, in `packages/`, or `npm run pack -- <folder>`; with
 * `--executables x64`, say, those of some processors only, and with an empty list none.
 *
 * - The client and the command as npm packages, the command also as executables, checksums of all,
 *   and a statement of what they were made from.
 * - The same commit gives the same bytes, by the same Node and npm.
 * - Files that aren't committed leave no statement: it would name a commit that they aren't of.
 *
 * Plain JavaScript for Node 20.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { gzipSync } from 'node:zlib';
import { makeExecutable, PROCESSORS } from './executable.js';
import { generateTypes } from './generate.js';
import { ROOT } from './node-modules.js';
import { makeClient, makeCommand } from './packages.js';
import { SetUpError, step } from './progress.js';
import { provenance } from './provenance.js';
import { afterSetUp, STATE_DIRECTORY } from './setup.js';

const SUMS = 'SHA256SUMS';
const STATEMENT = 'provenance.intoto.json';
/** As npm has it for all files of its packages: no time of the build is in them. */
const FILE_TIME = '1985-10-26T08:15:00Z';

/**
 * @param {string} to
 * @param {readonly string[]} processors
 */
async function pack(to, processors) {
  generateTypes();
  mkdirSync(to, { recursive: true });
  removeEarlier(to);
  // Inside of the clone, where the built client finds its packages.
  const work = mkdtempSync(join(STATE_DIRECTORY, 'pack-'));
  try {
    await step('Packing the client and the command', () => packPackages(work, to));
    for (const processor of processors)
      await step(`Packing the executable for linux-${processor}`, () =>
        packExecutable(work, processor, to),
      );
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  writeStatement(to);
  writeFileSync(join(to, SUMS), sumsOf(to));
  process.stdout.write(readFileSync(join(to, SUMS)));
  return 0;
}

/**
 * @param {string} work
 * @param {string} to
 */
async function packPackages(work, to) {
  const [client, command] = [join(work, 'client'), join(work, 'command')];
  makeClient(client);
  await makeCommand(command, client);
  for (const folder of [client, command]) {
    const args = ['pack', '--silent', '--ignore-scripts', '--pack-destination', to];
    execFileSync('npm', args, { cwd: folder });
  }
}

/**
 * @param {string} work
 * @param {string} processor
 * @param {string} to
 */
async function packExecutable(work, processor, to) {
  const command = join(work, 'command');
  const { version } = JSON.parse(readFileSync(join(command, 'package.json'), 'utf8'));
  const name = `keyward-${version}-linux-${processor}`;
  const folder = join(work, name);
  mkdirSync(folder);
  const licence = makeExecutable(join(command, 'keyward.cjs'), processor, join(folder, 'keyward'));
  for (const file of ['LICENSE', 'LICENSES-OF-OTHERS.txt', 'README.md'])
    cpSync(join(command, file), join(folder, file));
  writeFileSync(join(folder, 'LICENSE-OF-NODE.txt'), licence);
  const args = ['--sort=name', `--mtime=${FILE_TIME}`, '--owner=0', '--group=0', '--numeric-owner'];
  const archive = execFileSync(
    'tar',
    ['--format=ustar', '--mode=u+rw,go+r-w', ...args, '-cf', '-', '-C', work, name],
    { maxBuffer: 2 ** 30 },
  );
  writeFileSync(join(to, `${name}.tar.gz`), gzipSync(archive));
  rmSync(folder, { recursive: true });
}

/**
 * Removes what an earlier run left; throws where there is anything else, which is not ours.
 *
 * @param {string} folder
 */
function removeEarlier(folder) {
  const names = readdirSync(folder);
  const other = names.find((name) => !/^(keyward-.*gz|SHA256SUMS|provenance.*)$/.test(name));
  if (other !== undefined)
    throw new SetUpError(`cannot pack into ${folder}: it has ${other}; name a folder of its own`);
  for (const name of names) rmSync(join(folder, name));
}

/** @param {string} to */
function writeStatement(to) {
  const statement = provenance(digestsOf(to));
  if (statement === undefined)
    process.stdout.write('no provenance: there are changes that are not committed\n');
  else writeFileSync(join(to, STATEMENT), `${JSON.stringify(statement, undefined, 2)}\n`);
}

/** @param {string} folder */
function sumsOf(folder) {
  return Object.entries(digestsOf(folder))
    .map(([name, digest]) => `${digest}  ${name}\n`)
    .join('');
}

/**
 * SHA-256 of every file, in hexadecimal, by its name.
 *
 * @param {string} folder
 * @returns {Record<string, string>}
 */
function digestsOf(folder) {
  const sha256 = (/** @type {string} */ name) =>
    createHash('sha256')
      .update(readFileSync(join(folder, name)))
      .digest('hex');
  return Object.fromEntries(
    readdirSync(folder)
      .sort()
      .map((name) => [name, sha256(name)]),
  );
}

/** @param {string} list */
function processorsIn(list) {
  if (process.platform !== 'linux') return [];
  const named = list.split(',').filter((name) => name !== '');
  const unknown = named.find((name) => !PROCESSORS.includes(name));
  if (unknown !== undefined)
    throw new SetUpError(`cannot pack for ${unknown}: there is ${PROCESSORS.join(' and ')}`);
  return named;
}

await afterSetUp(async () => {
  const { values, positionals } = parseArgs({
    options: { executables: { type: 'string', default: PROCESSORS.join(',') } },
    allowPositionals: true,
  });
  const [to = 'packages', ...more] = positionals;
  if (more.length > 0) throw new SetUpError('cannot pack: more than one folder is named');
  return pack(resolve(ROOT, to), processorsIn(values.executables));
});
