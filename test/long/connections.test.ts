/**
 * Peers that reset their connection at every point of its beginning. Every `npm test` has some.
 */
process.env['KEYWARD_TEST_WHOLE'] = '1';
await import('../faces/grpc/connections.test.ts');
