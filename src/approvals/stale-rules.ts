/**
 * Registers approval rules as a kind of record that is sealed again when the seal key is replaced.
 *
 * - It knows where rules are stored and what their seals cover; the keyring decides how and when
 *   they are sealed again.
 */

import { rulesSealContent } from '../hsm/approval-rules.ts';
import { RECORD } from '../hsm/record-seal.ts';
import type { SealKeyId } from '../ids.ts';
import { formatApprovalRulesName } from '../names.ts';
import {
  findFormerApprovalRulesKeys,
  readStaleApprovalRules,
  rewriteApprovalRulesSeals,
  type StaleApprovalRules,
} from '../store/approvals/rules.ts';
import type { Query } from '../store/core/transaction.ts';

/** Describes approval rules as a kind of record for `keyring/seals/reseal.ts`. */
export const APPROVAL_RULES = {
  kind: RECORD.approvalRules,
  findFormer: findFormerApprovalRulesKeys,
  readStale: async (
    query: Query,
    former: SealKeyId,
    after: StaleApprovalRules | undefined,
    size: number,
  ) =>
    (await readStaleApprovalRules(query, former, after?.tenantId, size)).map((row) => {
      const { tenantId, tenant, content, sealed, sealKeyId } = row;
      return {
        row,
        resource: formatApprovalRulesName({ tenant }),
        content: rulesSealContent(tenantId, sealed.revision, content),
        seal: sealed.seal,
        sealKeyId,
      };
    }),
  write: rewriteApprovalRulesSeals,
} as const;
