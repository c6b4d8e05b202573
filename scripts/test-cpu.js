/**
 * Loaded into the process of each test file before it, by `npm test -- --slowest`: notes at its end
 * how much CPU time it has used, with every process that it has started and waited for.
 *
 * Doesn't know what the tests share: test/support/global-setup.ts notes that of PostgreSQL. Plain
 * JavaScript for Node 20.
 */
import { relative } from 'node:path';
import { isMainThread } from 'node:worker_threads';
import { noteCpu } from './slowest.js';

if (isMainThread)
  process.on('exit', () => noteCpu(relative(process.cwd(), process.argv[1] ?? ''), process.pid));
