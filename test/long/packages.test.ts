/**
 * What the documents show of the client, on every release of Node. Every `npm test` has the oldest
 * and one other.
 */
process.env['KEYWARD_TEST_RELEASES'] = 'all';
await import('../packages/documents.test.ts');
