/**
 * `npm run check`: everything that can be said about the sources without running them.
 *
 * Every step runs and is shown with its result, whatever became of those before; any failure fails
 * the whole. Plain JavaScript for Node 20.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { generateTypes } from './generate.js';
import { nodeForSources, ROOT } from './node-modules.js';
import { say } from './progress.js';
import { afterSetUp, STATE_DIRECTORY } from './setup.js';

/** @typedef {{ title: string, command: string, args: readonly string[] }} Step */

/** @returns {Step[]} */
function steps() {
  const bin = (/** @type {string} */ name) => join(ROOT, 'node_modules', '.bin', name);
  /** @type {Step[]} */
  const all = [
    { title: 'format and lint', command: bin('biome'), args: ['ci', '.'] },
    { title: 'types', command: bin('tsc'), args: ['--noEmit'] },
    { title: 'proto lint', command: bin('buf'), args: ['lint'] },
    {
      title: 'proto breaking changes',
      command: bin('buf'),
      args: ['breaking', '--against', 'proto/baseline.binpb'],
    },
  ];
  for (const [title, file] of [
    ['import rules', 'imports.test.ts'],
    ['columns and words', 'words.test.ts'],
  ]) {
    const path = join('test', file);
    if (!existsSync(join(ROOT, path))) continue;
    const args = ['--test', '--test-reporter=dot', path];
    all.push({ title, command: nodeForSources(), args });
  }
  return all;
}

/** @param {Step} step */
function passes({ title, command, args }) {
  const started = performance.now();
  const env = { ...process.env, BUF_CACHE_DIR: join(STATE_DIRECTORY, 'buf') };
  const result = spawnSync(command, args, { cwd: ROOT, env, encoding: 'utf8' });
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  say(`${result.status === 0 ? '✓' : '✗'} ${title} (${seconds} s)`);
  if (result.status !== 0)
    say(`${result.error?.message ?? ''}${result.stdout}${result.stderr}`.trim());
  return result.status === 0;
}

await afterSetUp(async () => {
  generateTypes();
  say('✓ types generated from proto/');
  const results = steps().map(passes);
  return results.every(Boolean) ? 0 : 1;
});
