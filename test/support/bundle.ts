/**
 * The programs that tests start, bundled from the sources once for a run: of what a short process
 * costs, most is finding and loading its modules, of which the server has a thousand.
 *
 * - What is bundled is the same code, with its packages; names stay as they are, for the log.
 * - Places stay as they are: what a source finds beside itself, the bundled one finds there too. A
 *   bundled server starts the bundled agent beside it, and so does a copy of both.
 * - With KEYWARD_TEST_SOURCES=1 the sources are started, for stacks and coverage by their lines.
 */
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { build, type Plugin, stop } from 'esbuild';
import { PROGRAMS } from './compiled.ts';

const ROOT = join(import.meta.dirname, '..', '..');
/** It looks for the agent's program beside itself. */
const AGENT_STARTER = join(ROOT, 'src', 'hsm', 'agent-starter.ts');
/** CommonJS in an ES module; what is not bundled is found from the clone, wherever this lies. */
const BANNER =
  "import { createRequire as requireFrom } from 'node:module'; " +
  `const require = requireFrom(${JSON.stringify(pathToFileURL(join(ROOT, 'package.json')).href)});`;

/** Bundles what `programFrom` names, into this folder. */
export async function bundlePrograms(folder: string): Promise<void> {
  const [server, command] = [PROGRAMS['src/main.ts'], PROGRAMS['cli/src/main.ts']];
  await Promise.all([
    bundle(folder, { [server]: 'src/main.ts', 'hsm/agent/main': 'src/hsm/agent/main.ts' }),
    bundle(folder, { [command]: 'cli/src/main.ts' }),
  ]);
  // Else esbuild's process stays for as long as this one.
  await stop();
}

async function bundle(outdir: string, entryPoints: Record<string, string>): Promise<void> {
  await build({
    absWorkingDir: ROOT,
    entryPoints,
    outdir,
    bundle: true,
    splitting: true,
    platform: 'node',
    format: 'esm',
    target: 'node24',
    keepNames: true,
    external: ['*.node', 'pkcs11js', 'pg-native'],
    banner: { js: BANNER },
    legalComments: 'none',
    logLevel: 'error',
    plugins: [PLACES],
  });
}

/** Writes into each module where it is, in place of how it asks for that. */
const PLACES: Plugin = {
  name: 'places',
  setup: ({ onLoad }) =>
    onLoad({ filter: /\.[jt]s$/ }, ({ path }) => {
      const text = readFileSync(path, 'utf8');
      if (!/import\.meta\.(url|dirname)|__dirname/.test(text)) return undefined;
      const url =
        path === AGENT_STARTER
          ? `new URL('./hsm/agent-starter.js', import.meta.url).href`
          : JSON.stringify(pathToFileURL(path).href);
      const contents = text
        .replaceAll('import.meta.url', url)
        .replaceAll(/import\.meta\.dirname|__dirname/g, JSON.stringify(dirname(path)));
      return { contents, loader: path.endsWith('.ts') ? 'ts' : 'js' };
    }),
};
