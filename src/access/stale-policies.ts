/**
 * Registers policies as a kind of record that is sealed again when the seal key is replaced.
 *
 * - It knows where policies are stored and what their seals cover; the keyring decides how and when
 *   they are sealed again.
 */

import { policyContent } from '../hsm/policy-record.ts';
import { RECORD } from '../hsm/record-seal.ts';
import type { SealKeyId } from '../ids.ts';
import { formatTenantName } from '../names.ts';
import {
  findFormerPolicyKeys,
  readStalePolicies,
  rewritePolicySeals,
  type StalePolicy,
} from '../store/access/policies.ts';
import type { Query } from '../store/core/transaction.ts';

/** Describes policies as a kind of record for `keyring/seals/reseal.ts`. */
export const POLICIES = {
  kind: RECORD.policy,
  findFormer: findFormerPolicyKeys,
  readStale: async (
    query: Query,
    former: SealKeyId,
    after: StalePolicy | undefined,
    size: number,
  ) =>
    (await readStalePolicies(query, former, after?.tenantId, size)).map((row) => {
      const { tenantId, tenant, policy, sealKeyId } = row;
      const { sealed } = policy;
      return {
        row,
        resource: `${formatTenantName({ tenant })}/policy`,
        content: sealed && policyContent(tenantId, sealed.revision, policy),
        seal: sealed?.seal ?? Buffer.alloc(0),
        sealKeyId,
      };
    }),
  write: rewritePolicySeals,
} as const;
