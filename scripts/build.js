/**
 * `npm run build`: JavaScript and types out of the TypeScript sources, for what is handed to
 * others.
 *
 * Makes `dist/`, the server, which stands where `src/` stands and so finds `proto/`, `migrations/`
 * and `package.json` by the same paths; and `client/dist/` and `cli/dist/`, each a whole package
 * (`packages.js`). Replaces what an earlier build left. Installs nothing when the compiler is
 * there, so that an image can be built without SoftHSM. Plain JavaScript for Node 20.
 */
import { chmodSync, cpSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { COMPILER, compile } from './compile.js';
import { DESCRIPTOR_SET, generateRunnable, generateTypes } from './generate.js';
import { ROOT } from './node-modules.js';
import { makeClient, makeCommand } from './packages.js';
import { say } from './progress.js';
import { afterSetUp, explained } from './setup.js';

/** Goes to browsers as it is. */
const SIGN_OFF_PAGE = join('faces', 'http', 'sign-off');

/** In this order: the command is bundled with what the built client has of the contract. */
const PARTS = {
  dist: makeServer,
  'client/dist': makeClient,
  'cli/dist': (/** @type {string} */ folder) => makeCommand(folder, join(ROOT, 'client', 'dist')),
};

async function build() {
  generateTypes();
  generateRunnable();
  for (const [output, make] of Object.entries(PARTS)) {
    const started = performance.now();
    await make(join(ROOT, output));
    say(`✓ ${output}/ (${((performance.now() - started) / 1000).toFixed(1)} s)`);
  }
  return 0;
}

/** @param {string} folder */
function makeServer(folder) {
  compile('tsconfig.build.json', folder);
  for (const name of [DESCRIPTOR_SET, SIGN_OFF_PAGE])
    cpSync(join(ROOT, 'src', name), join(folder, name), { recursive: true });
  chmodSync(join(folder, 'main.js'), 0o755);
}

await (existsSync(COMPILER) ? explained : afterSetUp)(build);
