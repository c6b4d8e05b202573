/**
 * Everything that reflection describes, by grpcurl, which is built where it is not there yet. Every
 * `npm test` has some of it.
 */
process.env['KEYWARD_TEST_GRPCURL'] = 'whole';
await import('../faces/grpc/grpcurl.test.ts');
