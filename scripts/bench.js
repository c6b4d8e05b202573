/**
 * `npm run bench`: installs what is missing, builds the server, then measures it (bench/main.ts) on
 * Node 24.
 */
import { nodeForSources } from './node-modules.js';
import { run } from './run.js';
import { afterSetUp } from './setup.js';

await afterSetUp(async () => {
  const built = await run(nodeForSources(), ['scripts/build.js']);
  return built || run(nodeForSources(), ['bench/main.ts', '--built', ...process.argv.slice(2)]);
});
