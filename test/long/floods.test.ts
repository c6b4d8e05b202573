/**
 * Each flood, by callers of every kind. Every `npm test` has half of them, by callers of one kind.
 */
import { testFloods } from '../hostile/flooding.ts';

testFloods({ floods: (all) => all, callers: (kinds) => kinds });
