/**
 * Asking for what an operation's row says that its caller needs.
 *
 * Invariant: what needs a permission is done only after it was asked for, on exactly what the
 * request names. Knows no operation.
 */
import { type Access, Rights } from '../access/access.ts';
import type { Caller } from '../access/identity.ts';
import { ANY_CALLER, type AnyOperation } from './operation.ts';

const NO_STANDING = { isFirstAdministrator: false, isSuspended: false };

/**
 * Returns the caller's rights in the tenant that the request is about, whatever they are. Throws
 * what {@link Access.rightsOf} throws.
 */
export async function rightsAbout<Request>(
  access: Access,
  operation: AnyOperation<Request>,
  caller: Caller,
  request: Request,
): Promise<Rights> {
  if (operation.permission === ANY_CALLER) return new Rights(caller, { name: '' }, [], NO_STANDING);
  return access.rightsOf(caller, operation.target(request).tenant);
}

/** Throws as {@link Rights.require} where the caller lacks what the operation needs. */
export function requireRights<Request>(
  operation: AnyOperation<Request>,
  rights: Rights,
  request: Request,
): void {
  const { permission } = operation;
  if (permission === ANY_CALLER) return;
  rights.require(permission, operation.target(request), operation.resource(request));
}
