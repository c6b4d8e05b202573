/**
 * What `npm run pack` makes: the same bytes each time, with checksums of all, and executables that
 * run where nothing else is. What packs a second time, and what is for the other processor, only
 * `test/long/pack.test.ts` has.
 */
import assert from 'node:assert/strict';
import { execFile, execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { makeExecutable, PROCESSORS } from '../../scripts/executable.js';
import { TENANT } from '../cli/fake.ts';
import { startFakeService } from '../client/fake-service.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const { version } = JSON.parse(readFileSync(join(ROOT, 'cli', 'package.json'), 'utf8'));
const EXECUTABLE = `keyward-${version}-linux-${process.arch}`;
/** What the file of an executable says that it is for (e_machine of ELF). */
const MACHINES: Readonly<Record<string, number>> = { x64: 62, arm64: 183 };
const skip =
  process.env['KEYWARD_TEST_PACK'] === 'whole' ? false : 'npm run test:long -- pack has it';

let work: string;
let packed: string;

/** Packs what a clone has into a folder, and returns that. */
async function pack(name: string, clone: string): Promise<string> {
  const folder = join(work, name);
  const args = [join(clone, 'scripts', 'pack.js'), folder, '--executables', process.arch];
  await promisify(execFile)(process.execPath, args, { cwd: clone });
  return folder;
}

before(async () => {
  work = mkdtempSync(join(tmpdir(), 'keyward-pack-'));
  chmodSync(work, 0o755);
  packed = await pack('packed', ROOT);
});

after(() => rmSync(work, { recursive: true, force: true }));

const sumsOf = (folder: string) =>
  readFileSync(join(folder, 'SHA256SUMS'), 'utf8')
    .split('\n')
    .filter((line) => !line.includes('provenance'));

test('the checksums are those of what is packed', () => {
  const checked = execFileSync('sha256sum', ['--check', 'SHA256SUMS'], {
    cwd: packed,
    encoding: 'utf8',
  });
  for (const name of [
    `keyward-cli-${version}.tgz`,
    `keyward-client-${version}.tgz`,
    `${EXECUTABLE}.tar.gz`,
  ])
    assert.ok(checked.includes(`${name}: OK\n`), checked);
});

test('what is packed again, in a clone in which nothing was generated or built yet, is the same', {
  skip,
}, async () => {
  // Beside our own, so that the packages can be linked: they are not installed again.
  const clone = mkdtempSync(join(ROOT, '.keyward', 'clone-'));
  try {
    const options = { cwd: ROOT, encoding: 'utf8' } as const;
    const listed = execFileSync('git', ['ls-files', '-z', '-co', '--exclude-standard'], options);
    for (const name of listed.split('\0').filter((name) => name !== ''))
      cpSync(join(ROOT, name), join(clone, name));
    for (const folder of ['', 'client', 'cli']) {
      const installed = join(ROOT, folder, 'node_modules');
      if (existsSync(installed)) execFileSync('cp', ['-al', installed, join(clone, folder)]);
    }
    assert.deepEqual(sumsOf(await pack('by-clone', clone)), sumsOf(packed));
  } finally {
    rmSync(clone, { recursive: true, force: true });
  }
});

test('a statement says of a commit what was made from it, and there is none of changed files', () => {
  const git = (...args: string[]) =>
    execFileSync('git', args, { cwd: ROOT, encoding: 'utf8' }).trim();
  const isChanged = git('status', '--porcelain') !== '';
  const file = join(packed, 'provenance.intoto.json');
  if (isChanged) return assert.throws(() => statSync(file), /ENOENT/);
  const { subject, predicate } = JSON.parse(readFileSync(file, 'utf8'));
  const [sources] = predicate.buildDefinition.resolvedDependencies;
  assert.equal(sources.digest.gitCommit, git('rev-parse', 'HEAD'));
  const sums = subject.map(
    ({ name, digest }: { name: string; digest: { sha256: string } }) => `${digest.sha256}  ${name}`,
  );
  assert.deepEqual(
    sums,
    sumsOf(packed).filter((line) => line !== ''),
  );
});

test('the command’s package depends on nothing, and the licences of what is in it are there', () => {
  execFileSync('tar', ['-xzf', join(packed, `keyward-cli-${version}.tgz`), '-C', work]);
  const manifest = JSON.parse(readFileSync(join(work, 'package', 'package.json'), 'utf8'));
  assert.equal(manifest.dependencies, undefined);
  const licences = readFileSync(join(work, 'package', 'LICENSES-OF-OTHERS.txt'), 'utf8');
  for (const name of ['@grpc/grpc-js', 'protobufjs', 'commander', 'openid-client', 'jose'])
    assert.match(licences, new RegExp(`^${name} \\d+\\.\\d+\\.\\d+ \\(`, 'm'));
});

test('the executable runs without Node, and calls the service with no more than its libraries', async () => {
  execFileSync('tar', ['-xzf', join(packed, `${EXECUTABLE}.tar.gz`), '-C', work]);
  const folder = join(work, EXECUTABLE);
  const program = join(folder, 'keyward');
  assert.equal(readFileSync(program).readUInt16LE(18), MACHINES[process.arch]);
  for (const name of ['LICENSE', 'LICENSE-OF-NODE.txt', 'LICENSES-OF-OTHERS.txt', 'README.md'])
    assert.ok(statSync(join(folder, name)).size > 100, name);
  const account = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {};
  const run = (file: string, args: string[], options: object = {}) =>
    spawnSync(file, args, {
      env: { NODE_OPTIONS: '--no-such-option' },
      encoding: 'utf8',
      ...options,
    });
  const plain = run(program, ['--version'], account);
  assert.deepEqual([plain.stdout, plain.stderr], [`${version}\n`, '']);
  if (process.getuid?.() !== 0) return;
  // A root of its own: the program and what `ldd` lists, and no /proc, /etc or shell.
  const libraries =
    execFileSync('ldd', [program], { encoding: 'utf8' }).match(/\/\S+(?= \()/g) ?? [];
  for (const library of libraries) {
    mkdirSync(dirname(join(folder, library)), { recursive: true });
    copyFileSync(library, join(folder, library));
  }
  await using service = await startFakeService({ ListTenants: () => ({ tenants: [TENANT] }) });
  const { caPem, client, address } = service;
  writeFileSync(join(folder, 'ca.pem'), caPem);
  writeFileSync(join(folder, 'cert.pem'), client.certPem);
  writeFileSync(join(folder, 'key.pem'), client.keyPem, { mode: 0o600 });
  const alone = await promisify(execFile)('chroot', [folder, '/keyward', 'tenants', 'list'], {
    env: {
      ...{ PATH: process.env['PATH'], KEYWARD_ADDRESS: address, KEYWARD_CA_FILE: '/ca.pem' },
      ...{ KEYWARD_CERT_FILE: '/cert.pem', KEYWARD_KEY_FILE: '/key.pem' },
    },
  });
  assert.equal(alone.stderr, '');
  assert.match(alone.stdout, /^tenants\/acme +ENABLED/m);
});

test('the executable for the other processor is made here too', { skip }, (t) => {
  const [other = ''] = PROCESSORS.filter((processor) => processor !== process.arch);
  const file = join(work, `keyward-${other}`);
  try {
    makeExecutable(join(work, 'package', 'keyward.cjs'), other, file);
  } catch (error) {
    // Its Node comes from npm's registry.
    if (!/^cannot fetch /.test((error as Error).message)) throw error;
    return t.skip((error as Error).message);
  }
  const bytes = readFileSync(file);
  assert.equal(bytes.readUInt16LE(18), MACHINES[other]);
  assert.ok(bytes.includes('NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2:1'));
});

test('a folder that has other files is left alone', () => {
  const folder = join(work, 'own');
  mkdirSync(folder);
  writeFileSync(join(folder, 'thesis.txt'), 'mine');
  const args = [join(ROOT, 'scripts', 'pack.js'), folder];
  const { status, stderr } = spawnSync(process.execPath, args, { cwd: ROOT, encoding: 'utf8' });
  assert.equal(status, 1);
  assert.match(stderr, /^cannot pack into .*own: it has thesis\.txt; name a folder of its own\n/);
  assert.equal(readFileSync(join(folder, 'thesis.txt'), 'utf8'), 'mine');
});
