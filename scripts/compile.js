/**
 * Compiles TypeScript for those who have no sources: JavaScript, declarations and source maps that
 * stand on their own.
 *
 * Plain JavaScript for Node 20.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { ROOT } from './node-modules.js';
import { SetUpError } from './progress.js';

/** The compiler's program. */
export const COMPILER = join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc');

/**
 * Compiles a project into a folder, in place of what was there; throws where it has errors, which
 * the compiler has shown.
 *
 * @param {string} project
 * @param {string} folder
 */
export function compile(project, folder) {
  rmSync(folder, { recursive: true, force: true });
  const args = [COMPILER, '--project', project, '--outDir', folder];
  const { status } = spawnSync(process.execPath, args, { cwd: ROOT, stdio: 'inherit' });
  if (status !== 0) throw new SetUpError(`cannot compile ${project}: it has errors`);
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' });
  for (const name of names) if (existsSync(join(folder, name))) finish(folder, name);
}

/**
 * What the compiler leaves to do: declarations that name their neighbours as they are now called,
 * since it rewrites `.ts` only in JavaScript; no code of what is generated as types only, of which
 * there is none; and source maps that are the same wherever they were made.
 *
 * @param {string} folder
 * @param {string} name
 */
function finish(folder, name) {
  const file = join(folder, name);
  if (name.endsWith('.d.ts')) {
    const text = readFileSync(file, 'utf8');
    writeFileSync(file, text.replaceAll(/(['"])(\.{1,2}\/[^'"]+)\.ts\1/g, '$1$2.js$1'));
  } else if (name.endsWith('.js.map')) {
    const source = join('src', name.replace(/\.js\.map$/, '.ts'));
    const map = JSON.parse(readFileSync(file, 'utf8'));
    const sources = [relative(join('lib', dirname(name)), source)];
    writeFileSync(file, JSON.stringify({ ...map, sources }));
  } else if (/(^|\/)generated\/.*\.js$/.test(name) && isEmpty(readFileSync(file, 'utf8'))) {
    rmSync(file);
    rmSync(`${file}.map`, { force: true });
  }
}

/** @param {string} code */
function isEmpty(code) {
  return code.replaceAll(/^\s*\/\/.*$/gm, '').trim() === 'export {};';
}
