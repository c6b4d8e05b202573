/**
 * No acknowledged call is without its entry, whatever is killed under load, and how often: ten
 * rounds in which two servers, the database's connections and agents are killed.
 */
process.env['KEYWARD_TEST_ROUNDS'] = '10';
await import('../audit/failures.test.ts');
