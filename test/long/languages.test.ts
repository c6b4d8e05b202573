/**
 * A client in every language of docs/other-languages.md. Every `npm test` has one of those that are
 * built already.
 */
import { LANGUAGES } from '../languages/languages.ts';
import { testLanguage } from '../languages/rig.ts';

for (const language of LANGUAGES) testLanguage(language);
