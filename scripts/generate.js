/**
 * Generates the TypeScript types of the contract (proto/keyward/v1) for the server and for the client.
 *
 * The types are erased when the sources run, so only `tsc` needs them. Does nothing when neither the contract nor the
 * generator has changed. Plain JavaScript for Node 20.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { ROOT } from './node-modules.js';
import { afterSetUp } from './setup.js';

const CONTRACT = 'keyward/v1';
const OUTPUTS = ['src/rpc/generated', 'client/src/generated'];
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
/** In each output: the hash of what it was made from. */
const STAMP = '.stamp';

/** Generates what is out of date; throws with the generator's own words when it fails. */
export function generateTypes() {
  const files = readdirSync(join(ROOT, 'proto', CONTRACT))
    .filter((name) => name.endsWith('.proto'))
    .sort();
  const stamp = stampOf(files);
  for (const output of OUTPUTS) {
    const folder = join(ROOT, output);
    const stampFile = join(folder, STAMP);
    if (existsSync(stampFile) && readFileSync(stampFile, 'utf8') === stamp) continue;
    rmSync(folder, { recursive: true, force: true });
    const args = [...OPTIONS, '--outDir', output, ...files.map((name) => `${CONTRACT}/${name}`)];
    const result = spawnSync(
      process.execPath,
      [join(ROOT, 'node_modules/.bin/proto-loader-gen-types'), ...args],
      { cwd: ROOT, encoding: 'utf8' },
    );
    if (result.status !== 0)
      throw new Error(`proto-loader-gen-types failed:\n${result.stdout}${result.stderr}`);
    writeFileSync(stampFile, stamp);
  }
}

/** @param {readonly string[]} files */
function stampOf(files) {
  const hash = createHash('sha256').update(OPTIONS.join(' '));
  hash.update(readFileSync(join(ROOT, 'node_modules/@grpc/proto-loader/package.json')));
  for (const name of files) hash.update(name).update(readFileSync(join(ROOT, 'proto', CONTRACT, name)));
  return hash.digest('hex');
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  await afterSetUp(async () => {
    generateTypes();
    return 0;
  });
}
