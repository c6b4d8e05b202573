/**
 * The tree that the image runs: `node scripts/image-tree.js <folder>` lays it out in a folder that
 * doesn't exist yet.
 *
 * Takes what `npm run build` made of the server and of the command, and what node_modules holds of
 * the server's dependencies, followed through package-lock.json from `dependencies` alone: so
 * nothing optional, nothing for development, no workspace, whatever else is installed. Of packages
 * it leaves out what only compiling, debugging or reading wants. The image (Dockerfile) and its
 * test lay the tree out by this very script. Needs nothing but Node 20; knows nothing of
 * containers.
 */
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';

const ROOT = dirname(import.meta.dirname);
const MODULES = 'node_modules';

/**
 * TypeScript and what maps back to it, what native code was made from, tests, prose. Licences stay.
 */
const LEFT_OUT = [
  /\.[cm]?ts$|\.map$|\.tsbuildinfo$/,
  /\.(c|cc|cpp|h|hpp|o|d|gyp|gypi|mk)$|(^|\.)Makefile$|^(\.deps|obj\.target)$/,
  /\.test\.[cm]?js$|^(tests?|__tests__)$/,
  /^(?!licen[cs]e|notice).*\.(md|markdown|html)$/i,
];
/** Folders of a package that are for its authors. */
const FOR_AUTHORS = /^(benchmarks?|docs|examples?|\.github|\.vscode)$/;
/** Types alone. */
const NO_CODE = /(^|\/)node_modules\/(@types\/[^/]+|undici-types)$/;

/** @typedef {{ version?: string, dependencies?: Record<string, string> }} Locked */

/**
 * Lays the tree out, and says of how many packages.
 *
 * @param {string} to
 */
function layOut(to) {
  if (!existsSync(join(ROOT, 'dist', 'main.js')))
    throw new Error('cannot lay out the image: there is no dist/; run `npm run build` first');
  mkdirSync(to);
  for (const name of ['dist', 'cli/dist', 'proto', 'migrations', 'LICENSE']) copy(name, to);
  const packages = packagesOfServer();
  for (const path of packages) copy(path, to);
  writeFileSync(join(to, 'package.json'), `${JSON.stringify(manifest(), undefined, 2)}\n`);
  setModes(to);
  return packages.length;
}

/** What remains of package.json: who this is and what it stands on. */
function manifest() {
  const { name, version, license, description, type, dependencies } = readJson('package.json');
  return { name, version, private: true, description, license, type, dependencies };
}

/**
 * The folders of every package that the server needs to run, as the lockfile names them; throws
 * when one isn't installed in the version that is locked.
 *
 * @returns {string[]}
 */
function packagesOfServer() {
  /** @type {Record<string, Locked>} */
  const locked = readJson('package-lock.json').packages;
  /** @type {Set<string>} */
  const found = new Set();
  const waiting = Object.keys(locked['']?.dependencies ?? {}).map((name) => ({ name, from: '' }));
  for (const { name, from } of waiting) {
    const path = resolve(name, from, locked);
    if (found.has(path)) continue;
    found.add(path);
    waiting.push(
      ...Object.keys(locked[path]?.dependencies ?? {}).map((next) => ({ name: next, from: path })),
    );
  }
  const paths = [...found].filter((path) => !NO_CODE.test(path)).sort();
  for (const path of paths) checkInstalled(path, locked[path]?.version);
  return paths;
}

/**
 * Where Node finds a package from within another: there, or in a folder above.
 *
 * @param {string} name
 * @param {string} from
 * @param {Record<string, Locked>} locked
 * @returns {string}
 */
function resolve(name, from, locked) {
  const path = join(from, MODULES, name);
  if (path in locked) return path;
  if (from === '') throw new Error(`cannot lay out the image: package-lock.json has no ${name}`);
  const above = from.lastIndexOf(`/${MODULES}/`);
  return resolve(name, above === -1 ? '' : from.slice(0, above), locked);
}

/**
 * @param {string} path
 * @param {string | undefined} version
 */
function checkInstalled(path, version) {
  const file = join(path, 'package.json');
  const present = existsSync(join(ROOT, file)) ? readJson(file).version : 'missing';
  if (present !== version)
    throw new Error(
      `cannot lay out the image: ${path} is ${present}, and package-lock.json has ${version}; ` +
        'run `npm ci`',
    );
}

/**
 * @param {string} path
 * @param {string} to
 */
function copy(path, to) {
  const from = join(ROOT, path);
  cpSync(from, join(to, path), {
    recursive: true,
    dereference: true,
    filter: (file) => file === from || isWanted(file, from),
  });
}

/**
 * @param {string} file
 * @param {string} from
 */
function isWanted(file, from) {
  const name = basename(file);
  // The packages inside of a package are rows of their own in the lockfile.
  if (name === MODULES || LEFT_OUT.some((expression) => expression.test(name))) return false;
  return dirname(file) !== from || !FOR_AUTHORS.test(name);
}

/**
 * Everybody may read and only the owner write, whatever the umask was that the sources were cloned
 * under.
 *
 * @param {string} to
 */
function setModes(to) {
  chmodSync(to, 0o755);
  for (const name of readdirSync(to, { recursive: true, encoding: 'utf8' })) {
    const path = join(to, name);
    chmodSync(path, statSync(path).isDirectory() ? 0o755 : 0o644);
  }
  for (const program of ['dist/main.js', 'cli/dist/keyward.cjs'])
    chmodSync(join(to, program), 0o755);
}

/** @param {string} path */
function readJson(path) {
  return JSON.parse(readFileSync(join(ROOT, path), 'utf8'));
}

const [to] = process.argv.slice(2);
if (to === undefined)
  throw new Error(
    'cannot lay out the image: no folder is named; run node scripts/image-tree.js <folder>',
  );
process.stdout.write(`${to}: the server, the command and ${layOut(to)} packages\n`);
