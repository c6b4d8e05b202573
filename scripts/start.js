/**
 * `npm start`: installs what is missing, then runs the development environment (dev/start.ts) on
 * Node 24.
 */
import { generateRunnable } from './generate.js';
import { nodeForSources } from './node-modules.js';
import { run } from './run.js';
import { afterSetUp } from './setup.js';

await afterSetUp(() => {
  generateRunnable();
  return run(nodeForSources(), ['dev/start.ts', ...process.argv.slice(2)]);
});
