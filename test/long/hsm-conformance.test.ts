/**
 * Token keys on every PKCS#11 module at hand, and key versions moved from each to each. Every
 * `npm test` has one module and one pair.
 */
process.env['KEYWARD_TEST_WHOLE'] = '1';
await import('../hsm/conformance.test.ts');
