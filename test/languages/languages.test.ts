/**
 * A client of another language: of those that are built already one, as the run's seed draws.
 * `test/long/languages.test.ts` builds and runs every one.
 */
import { test } from 'node:test';
import { draw, randomBy, SEED } from '../support/random.ts';
import { LANGUAGES } from './languages.ts';
import { hasTools, isBuilt, testLanguage } from './rig.ts';

const built = LANGUAGES.filter((language) => hasTools(language) && isBuilt(language));
const drawn = draw(built, randomBy(SEED));
const skip = `npm run test:long -- languages builds and runs all; seed ${SEED} has another`;

for (const language of LANGUAGES) {
  if (language === drawn) testLanguage(language);
  else test(`${language.name}, by what docs/other-languages.md has`, { skip }, () => {});
}
