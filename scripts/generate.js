/**
 * Generates what is made of the contract: the server's TypeScript types, the client's wire layer,
 * and the descriptors that the server's reflection answers with.
 *
 * - The server's types are erased when the sources run, so only `tsc` needs them. They are left
 *   alone when neither the contract nor the generator has changed.
 * - The client's wire layer and the descriptors are needed to run the sources, so they are made
 *   before; another process sees the old ones or the new ones, whole.
 *
 * Plain JavaScript for Node 20.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { generateClient } from './generate-client.js';
import { ROOT } from './node-modules.js';
import { afterSetUp, STATE_DIRECTORY } from './setup.js';

const CONTRACT = 'keyward/v1';
const OUTPUT = 'src/faces/contract/generated';
const OPTIONS = [
  '--longs',
  'Number',
  '--enums',
  'String',
  '--defaults',
  '--oneofs',
  '--includeDirs',
  'proto',
  '--grpcLib',
  '@grpc/grpc-js',
  '--importFileExtension',
  '.ts',
];
/** In the output: the hash of what it was made from. */
const STAMP = '.stamp';

/** Where `src/faces/contract/descriptor-set.ts` looks, and below `dist/` the built server. */
export const DESCRIPTOR_SET = 'faces/contract/generated/descriptors.binpb';
/**
 * gRPC's own services that the server has besides the contract's, by the names under which others
 * import their files.
 */
const GRPC_FILES = {
  'grpc/health/v1/health.proto': 'node_modules/grpc-health-check/proto/health/v1/health.proto',
  'grpc/reflection/v1/reflection.proto': 'src/faces/grpc/reflection/v1/reflection.proto',
  'grpc/reflection/v1alpha/reflection.proto': 'src/faces/grpc/reflection/v1alpha/reflection.proto',
};

/** Generates what the compiler needs and is out of date; throws with the generator's own words. */
export function generateTypes() {
  generateClient();
  const files = readdirSync(join(ROOT, 'proto', CONTRACT))
    .filter((name) => name.endsWith('.proto'))
    .sort();
  const stamp = stampOf(files);
  const folder = join(ROOT, OUTPUT);
  const stampFile = join(folder, STAMP);
  if (existsSync(stampFile) && readFileSync(stampFile, 'utf8') === stamp) return;
  removeTypes(folder);
  const args = [...OPTIONS, '--outDir', OUTPUT, ...files.map((name) => `${CONTRACT}/${name}`)];
  const result = spawnSync(
    process.execPath,
    [join(ROOT, 'node_modules/.bin/proto-loader-gen-types'), ...args],
    { cwd: ROOT, encoding: 'utf8' },
  );
  if (result.status !== 0)
    throw new Error(
      `cannot generate types: proto-loader-gen-types failed:\n${result.stdout}${result.stderr}`,
    );
  writeFileSync(stampFile, stamp);
}

/** @param {string} folder */
function removeTypes(folder) {
  for (const name of existsSync(folder) ? readdirSync(folder) : []) {
    if (name !== basename(DESCRIPTOR_SET)) rmSync(join(folder, name), { recursive: true });
  }
}

/** Generates what the sources need to run. */
export function generateRunnable() {
  generateClient();
  generateDescriptors();
}

/**
 * Compiles the contract, what it imports, and {@link GRPC_FILES} into one FileDescriptorSet,
 * comments included; throws with the compiler's own words when that fails. Takes half a second, so
 * it is done whether or not anything has changed.
 */
function generateDescriptors() {
  mkdirSync(STATE_DIRECTORY, { recursive: true, mode: 0o700 });
  const work = mkdtempSync(join(STATE_DIRECTORY, 'descriptors-'));
  try {
    for (const [name, file] of Object.entries(GRPC_FILES))
      cpSync(join(ROOT, file), join(work, name));
    const made = join(work, 'descriptors.binpb');
    // Messages one behind the other are one, with the fields of both.
    writeFileSync(made, Buffer.concat(['.', work].map(compileProto)));
    const target = join(ROOT, 'src', DESCRIPTOR_SET);
    mkdirSync(dirname(target), { recursive: true });
    renameSync(made, target);
  } finally {
    rmSync(work, { recursive: true });
  }
}

/** @param {string} input a folder of `.proto` files, or of a `buf.yaml` */
function compileProto(input) {
  const args = ['build', input, '--as-file-descriptor-set', '--output', '-#format=binpb'];
  const env = { ...process.env, BUF_CACHE_DIR: join(STATE_DIRECTORY, 'buf') };
  const { status, stdout, stderr, error } = spawnSync(join(ROOT, 'node_modules/.bin/buf'), args, {
    cwd: ROOT,
    env,
    maxBuffer: 64 * 1024 * 1024,
  });
  if (status !== 0)
    throw new Error(
      `cannot generate descriptors: buf build failed:\n${error?.message ?? ''}${stderr}`,
    );
  return stdout;
}

/** @param {readonly string[]} files */
function stampOf(files) {
  const hash = createHash('sha256').update(OPTIONS.join(' '));
  hash.update(readFileSync(join(ROOT, 'node_modules/@grpc/proto-loader/package.json')));
  for (const name of files)
    hash.update(name).update(readFileSync(join(ROOT, 'proto', CONTRACT, name)));
  return hash.digest('hex');
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  await afterSetUp(async () => {
    generateTypes();
    generateRunnable();
    return 0;
  });
}
