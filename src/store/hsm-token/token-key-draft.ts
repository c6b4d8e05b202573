/**
 * What a transaction means to make of token keys and tokens, in the terms that are sealed.
 *
 * Invariant: whoever changes a row of `tokens` or `token_objects` says so here as well, and gets
 * the transaction to do it in from `token-key-set.ts` alone. What is sealed is this.
 */
import type { AnyId, SealKeyId, TenantId, TokenId } from '../../ids.ts';
import type { Tx } from '../core/transaction.ts';
import type { TokenRecord } from './tokens.ts';

export type TokenObjectRole = 'root' | 'seal' | 'mask' | 'audit-signing';

/** The migration that makes the column says what each means. */
export type TokenObjectState =
  | 'CREATING'
  | 'CREATED'
  | 'CURRENT'
  | 'RETIRED'
  | 'ABANDONED'
  | 'DESTROYING'
  | 'DESTROYED';

/** What is sealed of a token. */
export type SealedToken = Pick<
  TokenRecord,
  'tokenId' | 'state' | 'label' | 'serialNumber' | 'profile'
>;

/** What is sealed of an object. */
export interface SealedTokenObject {
  readonly objectId: AnyId;
  readonly tenantId: TenantId;
  readonly tokenId: TokenId;
  readonly role: TokenObjectRole;
  readonly state: TokenObjectState;
  readonly isCurrent: boolean;
}

/** A transaction in which token keys and tokens may be changed, and what it has made of them. */
export type TokenKeysTx = Tx & { readonly keys: TokenKeyDraft };

/** The set as a transaction means to leave it. */
export class TokenKeyDraft {
  readonly #tokens: Map<TokenId, SealedToken>;
  readonly #objects: Map<AnyId, SealedTokenObject>;

  constructor({
    tokens,
    objects,
  }: {
    readonly tokens: readonly SealedToken[];
    readonly objects: readonly SealedTokenObject[];
  }) {
    this.#tokens = new Map(tokens.map((token) => [token.tokenId, token]));
    this.#objects = new Map(objects.map((object) => [object.objectId, object]));
  }

  get tokens(): readonly SealedToken[] {
    return [...this.#tokens.values()];
  }

  get objects(): readonly SealedTokenObject[] {
    return [...this.#objects.values()];
  }

  /** The token that serves. */
  get currentToken(): TokenId {
    const current = this.tokens.find(({ state }) => state === 'CURRENT');
    if (current === undefined) throw new Error('no token is current');
    return current.tokenId;
  }

  /** The tenant's current object of that role. */
  currentOf(tenantId: TenantId, role: TokenObjectRole): AnyId | undefined {
    return this.objects.find(
      (each) => each.isCurrent && each.tenantId === tenantId && each.role === role,
    )?.objectId;
  }

  /** The current seal key. */
  get sealKeyId(): SealKeyId {
    const current = this.objects.find(({ role, isCurrent }) => role === 'seal' && isCurrent);
    if (current === undefined) throw new Error('no seal key is current');
    return current.objectId as unknown as SealKeyId;
  }

  addObject(object: Omit<SealedTokenObject, 'isCurrent'>): void {
    this.#objects.set(object.objectId, { ...object, isCurrent: object.state === 'CURRENT' });
  }

  moveObject(objectId: AnyId, state: TokenObjectState): void {
    const object = this.#objects.get(objectId);
    if (object === undefined) throw new Error(`no token key ${objectId} is recorded`);
    this.addObject({ ...object, state });
  }

  /** Adds a token, or changes what is known of one. */
  putToken(token: SealedToken): void {
    this.#tokens.set(token.tokenId, token);
  }
}
