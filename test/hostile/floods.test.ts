/**
 * Half of the floods, each by callers of one kind, as the run's seed draws. All, by callers of
 * every kind, are `test/long/floods.test.ts`'s.
 */
import { draw, drawSome, randomBy, SEED } from '../support/random.ts';
import { testFloods } from './flooding.ts';

const random = randomBy(SEED);
console.log(`seed ${SEED}`);

testFloods({
  floods: (all) => drawSome(all, Math.ceil(all.length / 2), random),
  callers: (kinds) => [draw(kinds, random)],
});
