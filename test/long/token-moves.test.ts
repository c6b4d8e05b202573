/**
 * A move to another token that is cut off at every step, and what the token remembers of the audit
 * log, alone and beside a file. Every `npm test` has some steps, and one of the two.
 */
process.env['KEYWARD_TEST_WHOLE'] = '1';
await import('../running/migration.test.ts');
await import('../audit/token-checkpoint.test.ts');
