/**
 * What requests of many operations have in common.
 */
import type { DestructionRequest } from '../keyring/keys/mutations.ts';
import type { ListRequest } from '../keyring/pages.ts';

/** About one thing. */
export interface Named<Name> {
  readonly name: Name;
}

/** About what is in one thing. */
export interface In<Name> {
  readonly parent: Name;
}

/** A change that may be sent again without a second effect. */
export interface Repeatable {
  /** A UUID of the caller's making; empty for none. */
  readonly requestId: string;
}

/** A change to something that is there. */
export interface Change extends Repeatable {
  /** What the caller knows it by; empty for whatever it is now. */
  readonly etag: string;
}

/** A change to one thing. */
export interface NamedChange<Name> extends Named<Name>, Change {}

/** The scheduling of one thing's destruction. */
export interface NamedDestruction<Name> extends Named<Name>, DestructionRequest, Repeatable {}

/** A page of what is in one thing. */
export interface ListIn<Name> extends In<Name>, ListRequest {}
