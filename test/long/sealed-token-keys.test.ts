/**
 * Every change that a writer of the database may make to the token keys.
 * Every `npm test` has some.
 */
process.env['KEYWARD_TEST_WHOLE'] = '1';
await import('../keyring/sealed-token-keys.test.ts');
