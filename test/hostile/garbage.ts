/**
 * Has a process collect its garbage when it gets SIGUSR2, so that what it still holds after a flood can be told from what it
 * has not got round to. Loaded before a server by `NODE_OPTIONS=--import`. Knows no test.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;
process.on('SIGUSR2', () => collect());
