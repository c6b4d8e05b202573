/**
 * `npm run build`: JavaScript and types out of the TypeScript sources, for what is handed to
 * others.
 *
 * Makes `dist/`, the server, which stands where `src/` stands and so finds `proto/`, `migrations/`
 * and `package.json` by the same paths; and `client/dist/` and `cli/dist/`, each a whole package
 * for `npm pack` that no source and no workspace is needed to use. Replaces what an earlier build
 * left. Installs nothing when the compiler is there, so that an image can be built without SoftHSM.
 * Plain JavaScript for Node 20.
 */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { DESCRIPTOR_SET, generateRunnable, generateTypes } from './generate.js';
import { ROOT } from './node-modules.js';
import { say } from './progress.js';
import { afterSetUp } from './setup.js';

const COMPILER = join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc');

/** In this order: the command's types come from the built client. */
const PARTS = [
  { project: 'tsconfig.build.json', output: 'dist', program: 'main.js' },
  { project: 'tsconfig.build-client.json', output: 'client/dist', workspace: 'client' },
  {
    project: 'tsconfig.build-cli.json',
    output: 'cli/dist',
    workspace: 'cli',
    program: 'lib/main.js',
  },
];

/** Goes to browsers as it is. */
const SIGN_OFF_PAGE = join('faces', 'http', 'sign-off');

/** Where a package's built files are, inside of it. */
const LIBRARY = 'lib';

function build() {
  generateTypes();
  generateRunnable();
  for (const { project, output, workspace, program } of PARTS) {
    const started = performance.now();
    const folder = join(ROOT, output);
    rmSync(folder, { recursive: true, force: true });
    if (!compile(project)) return 1;
    finish(folder);
    if (workspace !== undefined) makePackage(workspace, folder);
    else
      for (const name of [DESCRIPTOR_SET, SIGN_OFF_PAGE])
        cpSync(join(ROOT, 'src', name), join(folder, name), { recursive: true });
    if (program !== undefined) chmodSync(join(folder, program), 0o755);
    say(`✓ ${output}/ (${((performance.now() - started) / 1000).toFixed(1)} s)`);
  }
  return 0;
}

/** @param {string} project */
function compile(project) {
  const args = [COMPILER, '--project', project];
  return spawnSync(process.execPath, args, { cwd: ROOT, stdio: 'inherit' }).status === 0;
}

/**
 * What the compiler leaves to do: declarations that name their neighbours as they are now called,
 * since it rewrites `.ts` only in JavaScript; and no code of what is generated as types only, of
 * which there is none.
 *
 * @param {string} folder
 */
function finish(folder) {
  for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
    const file = join(folder, name);
    if (name.endsWith('.d.ts')) {
      const text = readFileSync(file, 'utf8');
      writeFileSync(file, text.replaceAll(/(['"])(\.{1,2}\/[^'"]+)\.ts\1/g, '$1$2.js$1'));
    } else if (/(^|\/)generated\/.*\.js$/.test(name) && isEmpty(readFileSync(file, 'utf8')))
      rmSync(file);
  }
}

/** @param {string} code */
function isEmpty(code) {
  return code.replaceAll(/^\s*\/\/.*$/gm, '').trim() === 'export {};';
}

/**
 * Makes a package of the built files: its description, its licence, and for the client the
 * contract, where `client/src/contract.ts` looks for it first.
 *
 * @param {string} workspace
 * @param {string} folder
 */
function makePackage(workspace, folder) {
  const source = readManifest(workspace);
  checkNeighbours(source);
  const { exports: entry, bin, ...rest } = source;
  const manifest = {
    ...rest,
    ...(entry && {
      exports: { '.': { types: built(entry, '.d.ts'), default: built(entry, '.js') } },
    }),
    ...(bin && {
      bin: Object.fromEntries(
        Object.entries(bin).map(([name, file]) => [name, built(file, '.js')]),
      ),
    }),
    files: [LIBRARY],
  };
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(manifest, undefined, 2)}\n`);
  for (const file of [join(ROOT, 'LICENSE'), join(ROOT, workspace, 'README.md')]) {
    if (existsSync(file)) cpSync(file, join(folder, basename(file)));
  }
  if (workspace === 'client')
    cpSync(join(ROOT, 'proto'), join(folder, LIBRARY, 'proto'), { recursive: true });
}

/**
 * `./lib/index.js` of `./src/index.ts`.
 *
 * @param {string} path
 * @param {string} extension
 */
function built(path, extension) {
  return path.replace(/^\.\/src\/(.*)\.ts$/, `./${LIBRARY}/$1${extension}`);
}

/**
 * A package that wants another release of its neighbour than the one built here could not be
 * installed beside it.
 *
 * @param {{ name: string, dependencies: Record<string, string> }} manifest
 */
function checkNeighbours({ name, dependencies }) {
  const client = readManifest('client');
  const wanted = dependencies[client.name];
  if (wanted !== undefined && wanted !== client.version) {
    throw new Error(
      `cannot build ${name}: it requires ${client.name} ${wanted}, and this is ${client.version}`,
    );
  }
}

/** @param {string} workspace */
function readManifest(workspace) {
  return JSON.parse(readFileSync(join(ROOT, workspace, 'package.json'), 'utf8'));
}

if (existsSync(COMPILER)) process.exitCode = build();
else await afterSetUp(async () => build());
