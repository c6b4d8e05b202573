/**
 * What the documents show of the packages, on every release of Node. Every `npm test` has one
 * release, and of the command what the READMEs show.
 */
process.env['KEYWARD_TEST_RELEASES'] = 'all';
await import('../packages/documents.test.ts');
