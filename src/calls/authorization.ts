/**
 * Asking for what a method's row says that its caller needs.
 *
 * Invariant: what needs a permission is done only after it was asked for, on exactly what the
 * request names. Knows no method.
 */
import { type Access, Rights } from '../access/access.ts';
import type { Caller } from '../access/identity.ts';
import { ANY_CALLER, type AnyRow } from './operation.ts';

/**
 * The caller's rights in the tenant that the request is about, of which he has what the method
 * needs.
 *
 * Throws PERMISSION_MISSING and RESOURCE_NOT_FOUND as {@link Rights.require}, and what
 * {@link Access.rightsOf} throws.
 */
export async function authorize<Request>(
  access: Access,
  row: AnyRow<Request>,
  caller: Caller,
  request: Request,
): Promise<Rights> {
  if (row.permission === ANY_CALLER) return new Rights(caller, '', [], false);
  const rights = await access.rightsOf(caller, row.target(request).tenant);
  requireRights(row, rights, request);
  return rights;
}

/** Throws as {@link Rights.require} where the caller hasn't got what the method needs. */
export function requireRights<Request>(
  row: AnyRow<Request>,
  rights: Rights,
  request: Request,
): void {
  if (row.permission === ANY_CALLER) return;
  rights.require(row.permission, row.target(request), row.resource(request));
}
