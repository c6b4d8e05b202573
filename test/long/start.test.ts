/**
 * The README's two commands in one clone, at once, as `test/dev/start.test.ts` has the first of
 * them.
 */
process.env['KEYWARD_TEST_MEANWHILE'] = 'yes';
await import('../dev/start.test.ts');
