/**
 * Makes the two packages, each a whole folder for `npm pack`: the client, compiled, with the
 * contract; and the command, bundled with all that it needs.
 *
 * Plain JavaScript for Node 20.
 */
import { chmodSync, cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { compile } from './compile.js';
import { ROOT } from './node-modules.js';

/** Where the client's built files are, inside of its package. */
const LIBRARY = 'lib';
/** The command, and the licences of what is bundled with it, inside of its package. */
const PROGRAM = 'keyward.cjs';
const LICENCES = 'LICENSES-OF-OTHERS.txt';

/**
 * Makes the client's package in a folder, in place of what was there.
 *
 * @param {string} folder
 */
export function makeClient(folder) {
  rmSync(folder, { recursive: true, force: true });
  compile('tsconfig.build-client.json', join(folder, LIBRARY));
  cpSync(join(ROOT, 'proto'), join(folder, LIBRARY, 'proto'), {
    recursive: true,
    filter: (file) => !file.endsWith('.binpb'),
  });
  const { exports: entries, ...rest } = readManifest('client');
  const built = (/** @type {string} */ entry, /** @type {string} */ extension) =>
    entry.replace(/^\.\/src\/(.*)\.ts$/, `./${LIBRARY}/$1${extension}`);
  const exported = Object.entries(entries).map(([name, entry]) => [
    name,
    { types: built(entry, '.d.ts'), default: built(entry, '.js') },
  ]);
  describe('client', folder, {
    ...rest,
    exports: Object.fromEntries(exported),
    files: [LIBRARY],
  });
}

/**
 * Makes the command's package in a folder, in place of what was there. It depends on nothing: what
 * it needs is in it.
 *
 * @param {string} folder
 * @param {string} client the client's package, inside of the clone
 */
export async function makeCommand(folder, client) {
  const { bundleCommand } = await import('./bundle.js');
  const { program, licences } = await bundleCommand(client);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, PROGRAM), program);
  chmodSync(join(folder, PROGRAM), 0o755);
  writeFileSync(join(folder, LICENCES), licences);
  const { bin: _, dependencies: __, type: ___, ...rest } = readManifest('cli');
  describe('cli', folder, {
    ...rest,
    bin: { keyward: PROGRAM },
    files: [PROGRAM, LICENCES],
  });
}

/**
 * Gives a package its description, its licence and what there is to read.
 *
 * @param {string} workspace
 * @param {string} folder
 * @param {object} manifest
 */
function describe(workspace, folder, manifest) {
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(manifest, undefined, 2)}\n`);
  cpSync(join(ROOT, 'LICENSE'), join(folder, 'LICENSE'));
  cpSync(join(ROOT, workspace, 'README.md'), join(folder, 'README.md'));
}

/** @param {string} workspace */
function readManifest(workspace) {
  return JSON.parse(readFileSync(join(ROOT, workspace, 'package.json'), 'utf8'));
}
