/**
 * Case 93 at length: two hundred damages of each kind to an export, and every one across files of a
 * log, each found out by both verifiers.
 */
process.env['KEYWARD_TEST_DAMAGES'] = '200';
process.env['KEYWARD_TEST_WHOLE'] = '1';
await import('../audit/verify.test.ts');
