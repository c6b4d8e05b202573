/**
 * Bundles the `keyward` command: one file of CommonJS that needs nothing but Node 20, and the
 * licences of what is in it.
 *
 * - The package, the image and the executable have this same file.
 * - The contract is in it as data, in place of the proto files.
 *
 * Plain JavaScript for Node 20.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { build } from 'esbuild';
import { ROOT } from './node-modules.js';

const ENTRY = 'cli/src/main.ts';

/**
 * Returns the program's bytes, and the text of the licences of all packages that are in it.
 *
 * @param {string} client the built client's folder, inside of the clone
 */
export async function bundleCommand(client) {
  const { outputFiles, metafile } = await build({
    absWorkingDir: ROOT,
    entryPoints: [ENTRY],
    bundle: true,
    platform: 'node',
    format: 'cjs',
    target: 'node20',
    // For who reads it: names as they are, no comments of licences, which have a file of their own.
    legalComments: 'none',
    metafile: true,
    write: false,
    logLevel: 'error',
    plugins: [await contractAsData(client)],
  });
  const [program] = outputFiles;
  if (program === undefined) throw new Error(`cannot bundle ${ENTRY}: nothing came of it`);
  return { program: Buffer.from(program.contents), licences: licencesOf(metafile) };
}

/**
 * What stands in for `client/src/proto-files.ts`: what that returns, as the built client has it.
 *
 * @param {string} client
 * @returns {Promise<import('esbuild').Plugin>}
 */
async function contractAsData(client) {
  const { loadContract } = await import(pathToFileURL(join(client, 'lib', 'proto-files.js')).href);
  const contents =
    "import protobuf from 'protobufjs';\n" +
    `const contract = ${JSON.stringify(loadContract().toJSON())};\n` +
    'export const loadContract = () => protobuf.Root.fromJSON(contract);\n';
  return {
    name: 'contract as data',
    setup: ({ onLoad }) =>
      onLoad({ filter: /\/client\/src\/proto-files\.ts$/ }, () => ({
        contents,
        loader: 'js',
        resolveDir: join(ROOT, 'client', 'src'),
      })),
  };
}

/**
 * The licences of the packages that the bundle has anything of, by their names.
 *
 * @param {import('esbuild').Metafile} metafile
 */
function licencesOf({ inputs }) {
  const folders = Object.keys(inputs).flatMap((file) => packageOf(file) ?? []);
  return [...new Set(folders)]
    .sort()
    .map((folder) => {
      const { name, version, license } = readManifest(folder);
      return `${name} ${version} (${license})\n\n${licenceIn(folder)}\n`;
    })
    .join(`\n${'-'.repeat(72)}\n\n`);
}

/**
 * The folder of the package of node_modules that a file belongs to.
 *
 * @param {string} file
 */
function packageOf(file) {
  return /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(file)?.[1];
}

/** @param {string} folder */
function licenceIn(folder) {
  const path = join(ROOT, folder);
  const name = readdirSync(path).find((each) => /^(licen[cs]e|copying)/i.test(each));
  if (name !== undefined) return readFileSync(join(path, name), 'utf8').trim();
  const parent = packageOf(dirname(folder));
  if (parent !== undefined && existsSync(join(ROOT, parent))) return licenceIn(parent);
  throw new Error(`cannot bundle ${folder}: the package has no file with its licence`);
}

/** @param {string} folder */
function readManifest(folder) {
  return JSON.parse(readFileSync(join(ROOT, folder, 'package.json'), 'utf8'));
}
