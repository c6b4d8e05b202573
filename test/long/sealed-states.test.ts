/**
 * Every change that a writer of the database may make to how a key stands.
 * Every `npm test` has some.
 */
process.env['KEYWARD_TEST_WHOLE'] = '1';
await import('../keyring/sealed-states.test.ts');
