/**
 * Every change of a row while replicas run: whatever it is, no caller gets a wrong answer. Every
 * `npm test` has some, as its seed draws. Takes about a quarter of an hour.
 */
process.env['KEYWARD_TEST_CHANGES'] = 'all';
await import('../hostile/database-writer.test.ts');
