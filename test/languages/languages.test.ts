/**
 * Clients of other languages: those that are built already, and one that is not, as the run's seed
 * draws. `test/long/languages.test.ts` builds and runs every one.
 */
import { test } from 'node:test';
import { draw, randomBy, SEED } from '../support/random.ts';
import { LANGUAGES } from './languages.ts';
import { hasTools, isBuilt, testLanguage } from './rig.ts';

const toBuild = LANGUAGES.filter((language) => hasTools(language) && !isBuilt(language));
const drawn = draw(toBuild, randomBy(SEED));
const skip = `not built yet: npm run test:long -- languages builds all; seed ${SEED} draws another`;

for (const language of LANGUAGES) {
  if (language === drawn || !toBuild.includes(language)) testLanguage(language);
  else test(`${language.name}, by what docs/other-languages.md has`, { skip }, () => {});
}
