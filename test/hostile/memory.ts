/**
 * Has a process say what it holds when it gets SIGUSR2: the bytes that are reachable, as a line of
 * its log. Loaded before a server by `NODE_OPTIONS=--import`.
 *
 * Resident memory does not say it: V8 collects garbage when it needs to, and malloc keeps what was
 * freed in pieces. Knows no test.
 */
import { writeSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** What the line says, beside `bytes`. */
export const MEMORY_LINE = 'memory held';

/** Whether this is the process that is asked, and not the one that asks. */
if (process.env['NODE_OPTIONS']?.includes(import.meta.url)) {
  setFlagsFromString('--expose-gc');
  const collectGarbage = runInNewContext('gc') as () => void;
  process.on('SIGUSR2', () => {
    collectGarbage();
    const { heapUsed, external } = process.memoryUsage();
    writeSync(1, `${JSON.stringify({ msg: MEMORY_LINE, bytes: heapUsed + external })}\n`);
  });
}
