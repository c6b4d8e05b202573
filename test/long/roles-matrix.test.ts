/**
 * Case 30 at length: every method, asked for by callers of each role, by both faces each time.
 * Every `npm test` has some roles, by either face.
 */
process.env['KEYWARD_TEST_WHOLE'] = '1';
await import('../access/roles-matrix.test.ts');
