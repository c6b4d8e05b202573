/**
 * Knows the approval rules of every tenant, and which of them concern a call.
 *
 * - Rules of the tenant `system` hold in every tenant; a tenant's own can only add to them.
 * - Rules that fail verification, or are older than what this replica has applied, fail the calls
 *   that would ask for them: nothing goes through that rules might have stopped.
 * - Loaded, verified and remembered as policies are (`access/tenant-records.ts`).
 * - What a call shows, and who has approved it, is not known here.
 */
import { isDangerous, type Permission } from '../access/permissions.ts';
import {
  type TenantIdentity,
  type TenantRecordKind,
  TenantRecords,
  type TenantRecordsParts,
} from '../access/tenant-records.ts';
import { RECORD } from '../hsm/record-seal.ts';
import { SYSTEM_TENANT } from '../names.ts';
import { type ApprovalRulesRecord, findApprovalRules } from '../store/approvals/rules.ts';
import {
  type AnyRule,
  type ApprovalRule,
  type ApprovalRules,
  parseRules,
  rulesSealContent,
  type StepUpRule,
} from './rules.ts';

const NO_RULES: ApprovalRules = { revision: 0n, stepUp: [], approvals: [], updatedAt: null };

const RULES: TenantRecordKind<ApprovalRulesRecord, ApprovalRules> = {
  kind: 'approvalRules',
  record: RECORD.approvalRules,
  alert: 'approval-rules-corrupt',
  corrupt: 'APPROVAL_RULES_CORRUPT',
  find: findApprovalRules,
  isEmpty: ({ content }) => content === '',
  contentOf: (tenantId, revision, { content }) => rulesSealContent(tenantId, revision, content),
  valueOf: (_, revision, { content, sealed }) =>
    sealed === undefined ? NO_RULES : { revision, ...parseRules(content) },
};

/** An approval rule, and whose it is. */
export interface TenantApprovalRule {
  readonly tenant: TenantIdentity;
  readonly rule: ApprovalRule;
}

export interface RuleBookParts extends TenantRecordsParts {
  /** Returns a tenant by the last part of its name. */
  readonly tenantOf: (name: string) => TenantIdentity | Promise<TenantIdentity>;
}

/** Knows every tenant's approval rules. */
export class RuleBook extends TenantRecords<ApprovalRulesRecord, ApprovalRules> {
  readonly #tenantOf: RuleBookParts['tenantOf'];

  constructor(parts: RuleBookParts) {
    super(parts, RULES);
    this.#tenantOf = parts.tenantOf;
  }

  /**
   * Returns the step-up rules that concern the caller's use of the permission in the tenant: those
   * of `system`, then the tenant's own. Throws as {@link RuleBook.of}, of either.
   */
  async stepUpFor(
    permission: Permission,
    tenant: TenantIdentity,
    caller: { readonly name: string },
  ): Promise<StepUpRule[]> {
    const all = await this.#inForce(tenant);
    return all.flatMap(({ rules }) => rules.stepUp.filter(concerns(permission, caller)));
  }

  /**
   * Returns the approval rules that concern the caller's use of the permission in the tenant: those
   * of `system`, then the tenant's own. Throws as {@link RuleBook.of}, of either.
   */
  async approvalFor(
    permission: Permission,
    tenant: TenantIdentity,
    caller: { readonly name: string },
  ): Promise<TenantApprovalRule[]> {
    const all = await this.#inForce(tenant);
    return all.flatMap(({ tenant: of, rules }) =>
      rules.approvals.filter(concerns(permission, caller)).map((rule) => ({ tenant: of, rule })),
    );
  }

  /** The rules that hold in the tenant, and whose they are. */
  async #inForce(tenant: TenantIdentity) {
    const system = tenant.name === SYSTEM_TENANT ? tenant : await this.#tenantOf(SYSTEM_TENANT);
    const tenants = tenant === system ? [system] : [system, tenant];
    return Promise.all(tenants.map(async (each) => ({ tenant: each, rules: await this.of(each) })));
  }
}

/** Whether a rule concerns such a call. */
const concerns =
  (permission: Permission, { name }: { readonly name: string }) =>
  ({ permissions, exempt }: AnyRule): boolean =>
    (permissions.length === 0 ? isDangerous(permission) : permissions.includes(permission)) &&
    !exempt.includes(name);
