/**
 * Case 30 at length: every method, asked for by callers of each role, by both faces each time.
 */
process.env['KEYWARD_TEST_BOTH_FACES'] = '1';
await import('../access/roles-matrix.test.ts');
