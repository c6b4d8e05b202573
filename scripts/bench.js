/** `npm run bench`: installs what is missing, then measures (bench/main.ts) on Node 24. */
import { nodeForSources } from './node-modules.js';
import { run } from './run.js';
import { afterSetUp } from './setup.js';

await afterSetUp(() => run(nodeForSources(), ['bench/main.ts', ...process.argv.slice(2)]));
