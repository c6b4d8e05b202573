/**
 * Previews of what approvers are asked for: what a destruction would take with it, as long as it is
 * of what its requester has seen.
 */
import { invalidField } from '../errors.ts';
import type { DestructionRequest } from '../keyring/keys/mutations.ts';
import { requireEtag } from '../keyring/own-calls.ts';

/**
 * Returns what `look` does for the request that changes nothing. Throws INVALID_FIELD and
 * ETAG_MISMATCH, as the request itself would, and what `look` throws.
 */
export async function previewDestruction<
  Request extends DestructionRequest,
  Answer extends { readonly impact: { readonly etag: string } },
>(request: Request, look: (request: Request) => Promise<Answer>): Promise<Answer> {
  if (request.etag === '')
    throw invalidField('etag', 'must be the etag of an answer to validate_only');
  const looked = await look({ ...request, validateOnly: true });
  requireEtag(request.etag, looked.impact.etag);
  return looked;
}
