/**
 * What `npm run pack` makes, packed again by a new clone, and for the other processor. Every
 * `npm test` has the rest of it.
 */
process.env['KEYWARD_TEST_PACK'] = 'whole';
await import('../packages/pack.test.ts');
