/**
 * Cases 61 to 73 with every failure of the token. Every `npm test` has some of each case.
 */
process.env['KEYWARD_TEST_WHOLE'] = '1';
await import('../hsm/faults.test.ts');
await import('../hsm/token-key-faults.test.ts');
