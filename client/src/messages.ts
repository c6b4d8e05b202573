/**
 * The requests and responses of the public API, in friendly types.
 *
 * Owns their names and shapes only: field names are those of `proto/keyward/v1` in camel case,
 * whose comments say what each means and which limits it has; the limits are checked by the
 * service, in one place, and not here. Times are `Date`, durations numbers of seconds and named so;
 * what is absent in an answer is `undefined`. `wire.ts` converts, and its types check that nothing
 * here has drifted from the contract.
 */

export type * from './messages/access.ts';
export type * from './messages/administration.ts';
export type * from './messages/audit.ts';
export type * from './messages/data-keys.ts';
export type * from './messages/encryption.ts';
export type * from './messages/keys.ts';
export type * from './messages/rotation.ts';
export type { EncryptionContext, Strings } from './messages/shared.ts';
export type * from './messages/token-keys.ts';
export type * from './messages/token-status.ts';
