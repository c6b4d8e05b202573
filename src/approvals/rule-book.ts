/**
 * Knows the approval rules of every tenant, and which of them concern a call.
 *
 * - Rules of the tenant `system` hold in every tenant; a tenant's own can only add to them.
 * - Rules that fail verification, or are older than what this replica has applied, fail every
 *   dangerous call that they might concern. For other calls those hold that verified last, so that
 *   a damaged row does not stop what is no danger; where none has, they fail as well.
 * - Rules that are missing, or older than the tenant's own sealed row says, fail verification.
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
import { KeywardError } from '../errors.ts';
import type { PendingOperationRecord, RuleRecord } from '../hsm/approval-records.ts';
import {
  type AnyRule,
  type ApprovalRule,
  type ApprovalRules,
  parseRules,
  rulesSealContent,
  type StepUpRule,
} from '../hsm/approval-rules.ts';
import { RECORD } from '../hsm/record-seal.ts';
import type { TenantId } from '../ids.ts';
import { SYSTEM_TENANT } from '../names.ts';
import { type ApprovalRulesRecord, findApprovalRules } from '../store/approvals/rules.ts';

const NO_RULES: ApprovalRules = { revision: 0n, stepUp: [], approvals: [], updatedAt: null };

const RULES: TenantRecordKind<ApprovalRulesRecord, ApprovalRules> = {
  kind: 'approvalRules',
  record: RECORD.approvalRules,
  alert: 'approval-rules-corrupt',
  corrupt: 'APPROVAL_RULES_CORRUPT',
  find: findApprovalRules,
  isEmpty: ({ content }) => content === '',
  leastRevision: ({ approvalRulesRevision }) => approvalRulesRevision,
  contentOf: (tenantId, revision, { content }) => rulesSealContent(tenantId, revision, content),
  valueOf: (_, revision, { content, sealed }) =>
    sealed === undefined ? NO_RULES : { revision, ...parseRules(content) },
};

/** The step-up rules that hold in a tenant. */
export interface StepUpRules {
  readonly rules: readonly StepUpRule[];
  /** Why they are those that verified last, and do not verify any more. */
  readonly failure: KeywardError | undefined;
}

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
  /** What verified last, by its tenant. */
  readonly #last = new Map<TenantId, ApprovalRules>();

  constructor(parts: RuleBookParts) {
    super(parts, RULES);
    this.#tenantOf = parts.tenantOf;
  }

  /**
   * Returns the step-up rules that hold in the tenant of that name: those of `system`, then the
   * tenant's own. Throws RESOURCE_NOT_FOUND, and as {@link RuleBook.of}, of either.
   */
  async stepUpRules(tenant: string): Promise<StepUpRules> {
    const own = await this.#tenantOf(tenant);
    const ofOwn = await this.#lastVerified(own);
    if (own.name === SYSTEM_TENANT) return { rules: ofOwn.rules.stepUp, failure: ofOwn.failure };
    const ofSystem = await this.#lastVerified(await this.#tenantOf(SYSTEM_TENANT));
    return {
      rules: [...ofSystem.rules.stepUp, ...ofOwn.rules.stepUp],
      failure: ofSystem.failure ?? ofOwn.failure,
    };
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
    if (!isDangerous(permission)) return [];
    const tenants = await this.#inForce(tenant);
    const all = await Promise.all(
      tenants.map(async (each) => ({ tenant: each, rules: await this.of(each) })),
    );
    return all.flatMap(({ tenant: of, rules }) =>
      rules.approvals
        .filter((rule) => !rule.breakGlass && concerns(permission, caller)(rule))
        .map((rule) => ({ tenant: of, rule })),
    );
  }

  /**
   * Returns the approval rule that the caller's use of the permission in the tenant is to be
   * approved by; undefined where none concerns it. Those of `system` come first, so that no tenant
   * can put approvers of its own in their place; of several, the one that wants most approvals.
   * Throws as {@link RuleBook.of}, of either.
   */
  async approvalRuleFor(
    permission: Permission,
    tenant: TenantIdentity,
    caller: { readonly name: string },
  ): Promise<RuleRecord | undefined> {
    return strictestOf(await this.approvalFor(permission, tenant, caller));
  }

  /**
   * Returns the rule for emergencies that may take the place of an operation's: of `system`, or of
   * the tenant where the operation's is the tenant's own, too. Throws as {@link RuleBook.of}.
   */
  async breakGlassFor(
    { permission, rule: { tenant: whose } }: Pick<PendingOperationRecord, 'permission' | 'rule'>,
    tenant: TenantIdentity,
  ): Promise<RuleRecord | undefined> {
    const tenants = await this.#inForce(tenant);
    const found: TenantApprovalRule[] = [];
    for (const each of tenants.filter(({ name }) => name === SYSTEM_TENANT || name === whose))
      for (const rule of (await this.of(each)).approvals)
        if (rule.breakGlass && names(rule, permission as Permission))
          found.push({ tenant: each, rule });
    return strictestOf(found);
  }

  /** The tenants whose rules hold in the tenant. */
  async #inForce(tenant: TenantIdentity): Promise<readonly TenantIdentity[]> {
    if (tenant.name === SYSTEM_TENANT) return [tenant];
    return [await this.#tenantOf(SYSTEM_TENANT), tenant];
  }

  /** Returns the tenant's rules; where they do not verify, those that did last, and the failure. */
  async #lastVerified(
    tenant: TenantIdentity,
  ): Promise<{ readonly rules: ApprovalRules; readonly failure?: KeywardError }> {
    try {
      const rules = await this.of(tenant);
      this.#last.set(tenant.tenantId, rules);
      return { rules };
    } catch (error) {
      const rules = this.#last.get(tenant.tenantId);
      const isCorrupt = error instanceof KeywardError && error.reason === RULES.corrupt;
      if (!isCorrupt || rules === undefined) throw error;
      return { rules, failure: error };
    }
  }
}

/** Returns what says whether a rule concerns the caller's use of the permission. */
export const concerns =
  (permission: Permission, { name }: { readonly name: string }) =>
  (rule: AnyRule): boolean =>
    names(rule, permission) && !rule.exempt.includes(name);

/** Whether a rule is about the permission. */
function names({ permissions }: AnyRule, permission: Permission): boolean {
  return permissions.length === 0 ? isDangerous(permission) : permissions.includes(permission);
}

/** Of the rules of `system`, or else of all, the one that wants most approvals. */
function strictestOf(rules: readonly TenantApprovalRule[]): RuleRecord | undefined {
  const ofSystem = rules.filter(({ tenant }) => tenant.name === SYSTEM_TENANT);
  const [strictest] = (ofSystem.length > 0 ? ofSystem : rules).toSorted(
    (a, b) => b.rule.approvals - a.rule.approvals,
  );
  if (strictest === undefined) return undefined;
  const { ruleId, approvals, approvers } = strictest.rule;
  return { tenant: strictest.tenant.name, ruleId, approvals, approvers };
}
