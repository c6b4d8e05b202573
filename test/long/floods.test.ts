/**
 * Each flood, by callers of every kind. Every `npm test` has each by callers of one kind.
 */
import { testFloods } from '../hostile/flooding.ts';

testFloods((kinds) => kinds);
