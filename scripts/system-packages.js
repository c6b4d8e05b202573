/**
 * What has to come from the operating system: SoftHSM, and a compiler, make and Python to build the
 * PKCS#11 binding.
 *
 * Owns where each is looked for and what provides it. Installs only by apt-get, only what is
 * missing, and says so; on other systems it says what to install. Plain JavaScript for Node 20.
 */
import { spawnSync } from 'node:child_process';
import { accessSync, constants, statSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { runLogged, SetUpError, say, step } from './progress.js';

const SOFTHSM_PLACES = [
  '/usr/lib/softhsm',
  '/usr/lib/x86_64-linux-gnu/softhsm',
  '/usr/lib/aarch64-linux-gnu/softhsm',
  '/usr/lib64/softhsm',
  '/usr/lib64/pkcs11',
  '/usr/local/lib/softhsm',
];

/**
 * Each need: what it is called, whether it is met, the Debian package that meets it, and whether
 * only building needs it.
 */
const NEEDS = [
  {
    name: 'SoftHSM 2 (libsofthsm2.so)',
    met: () => findSoftHsm() !== undefined,
    debian: 'softhsm2',
    building: false,
  },
  { name: 'g++', met: () => findCommand('g++') !== undefined, debian: 'g++', building: true },
  { name: 'make', met: () => findCommand('make') !== undefined, debian: 'make', building: true },
  {
    name: 'python3',
    met: () => findCommand('python3') !== undefined,
    debian: 'python3',
    building: true,
  },
];

/**
 * The SoftHSM library, where systems' packages put it.
 *
 * @returns {string | undefined}
 */
export function findSoftHsm() {
  return SOFTHSM_PLACES.map((place) => join(place, 'libsofthsm2.so')).find(isFile);
}

/**
 * A command's path, as a shell would find it.
 *
 * @param {string} name
 * @returns {string | undefined}
 */
export function findCommand(name) {
  const places = (process.env['PATH'] ?? '').split(delimiter).filter((place) => place !== '');
  return places
    .map((place) => join(place, name))
    .find((file) => isFile(file) && isExecutable(file));
}

/**
 * What the system lacks; empty when everything is there.
 *
 * @param {boolean} building whether packages are yet to be built
 */
export function missingFromSystem(building) {
  return NEEDS.filter((need) => (building || !need.building) && !need.met());
}

/**
 * Installs what the system lacks.
 *
 * @param {boolean} building whether packages are yet to be built
 * @param {{ log: string, keepOpen: number }} options the log file, and a lock's descriptor for
 * children to hold
 */
export async function installSystemPackages(building, { log, keepOpen }) {
  const missing = missingFromSystem(building);
  if (missing.length === 0) return;
  const names = missing.map((need) => need.name).join(', ');
  const packages = missing.map((need) => need.debian);
  if (findCommand('apt-get') === undefined) {
    throw new SetUpError(
      `cannot continue without ${names}: install it ` +
        `(Debian packages: ${packages.join(' ')}), then try again`,
    );
  }
  const become = becomeRoot(packages);
  const install = aptGet(become, ['install', '--yes', '--no-install-recommends', ...packages], {
    log,
    keepOpen,
  });
  const update = aptGet(become, ['update'], { log, keepOpen });
  await step(`Installing ${packages.join(', ')} by apt-get`, async () => {
    // On a machine with no package lists, or stale ones, the first try fails at once or at the
    // download.
    if ((await install()).ok) return;
    const updated = await update();
    const again = await install();
    if (again.ok) return;
    const output = updated.ok ? again.tail : `${updated.tail}\n${again.tail}`;
    throw new SetUpError(`cannot install ${packages.join(' ')} by apt-get:\n${output}`);
  });
  const still = missingFromSystem(building).map((need) => need.name);
  if (still.length > 0)
    throw new SetUpError(
      `cannot continue without ${still.join(', ')}: missing even after apt-get; its log is ${log}`,
    );
}

/**
 * How to run a command as root.
 *
 * @param {readonly string[]} packages
 * @returns {readonly string[]} what to put before it
 */
function becomeRoot(packages) {
  if (process.getuid?.() === 0) return [];
  const byHand = `Run as root: apt-get install ${packages.join(' ')}`;
  if (findCommand('sudo') === undefined)
    throw new SetUpError(`cannot install ${packages.join(', ')}: there is no sudo. ${byHand}`);
  say(`Installing ${packages.join(', ')} needs sudo, which may ask for your password.`);
  const allowed = spawnSync('sudo', process.stdin.isTTY ? ['-v'] : ['-n', 'true'], {
    stdio: 'inherit',
  });
  if (allowed.status !== 0)
    throw new SetUpError(`cannot install ${packages.join(', ')}: sudo refused. ${byHand}`);
  return ['sudo', '-n'];
}

/**
 * @param {readonly string[]} become
 * @param {readonly string[]} args
 * @param {{ log: string, keepOpen: number }} options
 */
function aptGet(become, args, options) {
  const command = [
    ...become,
    'env',
    'DEBIAN_FRONTEND=noninteractive',
    'apt-get',
    '-o',
    'DPkg::Lock::Timeout=300',
    ...args,
  ];
  return () => runLogged(command[0] ?? '', command.slice(1), options);
}

/** @param {string} file */
function isFile(file) {
  try {
    return statSync(file).isFile();
  } catch {
    // Also in a folder of PATH that is closed to us.
    return false;
  }
}

/** @param {string} file */
function isExecutable(file) {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
