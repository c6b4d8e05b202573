/**
 * Case 93 at length: two hundred damages of each kind to an export, each found out by both
 * verifiers.
 */
process.env['KEYWARD_TEST_DAMAGES'] = '200';
await import('../audit/verify.test.ts');
