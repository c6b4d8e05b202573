/**
 * Loads tenants' policies, verifies them, and keeps them in memory, as `tenant-records.ts` says.
 *
 * What a policy allows is decided in `policy.ts`.
 */

import { policyContent } from '../hsm/policy-record.ts';
import { RECORD } from '../hsm/record-seal.ts';
import { findPolicy, type PolicyRecord } from '../store/access/policies.ts';
import { Policy } from './policy.ts';
import { type TenantRecordKind, TenantRecords, type TenantRecordsParts } from './tenant-records.ts';

const POLICY: TenantRecordKind<PolicyRecord, Policy> = {
  kind: 'access',
  record: RECORD.policy,
  alert: 'policy-corrupt',
  corrupt: 'POLICY_CORRUPT',
  find: findPolicy,
  isEmpty: ({ bindings, roles }) => bindings.length === 0 && roles.length === 0,
  leastRevision: () => 0n,
  contentOf: policyContent,
  valueOf: ({ name: tenant }, revision, { bindings, roles }) =>
    new Policy({ tenant, revision, bindings, roles }),
};

/** Loads tenants' policies, verifies them, and keeps them in memory. */
export class Policies extends TenantRecords<PolicyRecord, Policy> {
  constructor(parts: TenantRecordsParts) {
    super(parts, POLICY);
  }
}
