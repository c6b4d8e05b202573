/**
 * Each flood, by callers of one kind, as the run's seed draws. By callers of every kind it is
 * `test/long/floods.test.ts`.
 */
import { draw, randomBy, SEED } from '../support/random.ts';
import { testFloods } from './flooding.ts';

const random = randomBy(SEED);
console.log(`seed ${SEED}`);

testFloods((kinds) => [draw(kinds, random)]);
