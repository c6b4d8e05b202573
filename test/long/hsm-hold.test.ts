/**
 * Agents that are told of other token objects, in every state, and that end at every moment
 * meanwhile. Every `npm test` has some.
 */
process.env['KEYWARD_TEST_WHOLE'] = '1';
await import('../hsm/hold.test.ts');
