/**
 * Reads and replaces the approval rules of a tenant.
 *
 * - A change verifies the rules before, seals the new ones and the tenant's row, which says which
 *   rules there are, and commits them with their audit entry and announcements in one transaction.
 * - No rules are taken under which what one approver asks for could never be approved, nor any that
 *   too few people have passkeys for: who sets them could not take them back.
 * - The caller's right to change the rules is checked before.
 */
import { isDangerous, type Permission } from '../access/permissions.ts';
import type { TenantIdentity } from '../access/tenant-records.ts';
import { addDetail, type Call, type SealedContent } from '../call.ts';
import { invalidField, KeywardError } from '../errors.ts';
import {
  type ApprovalRule,
  type ApprovalRules,
  approvalContent,
  formatRules,
  rulesSealContent,
  stepUpContent,
} from '../hsm/approval-rules.ts';
import { RECORD } from '../hsm/record-seal.ts';
import type { Agents } from '../hsm/token-router.ts';
import type { SealKeyId, TenantId } from '../ids.ts';
import type { TenantSeals } from '../keyring/keys/tenant-seals.ts';
import { formatApprovalRulesName } from '../names.ts';
import { countPeopleWithPasskeys } from '../store/approvals/passkeys.ts';
import {
  type ApprovalRulesRecord,
  lockApprovalRules,
  writeApprovalRules,
} from '../store/approvals/rules.ts';
import { recordChange } from '../store/changes.ts';
import type { Tx } from '../store/core/transaction.ts';
import type { Store } from '../store/store.ts';
import { changeTenant } from '../store/tenants/tenant-seals.ts';
import type { RuleBook } from './rule-book.ts';

/** Of the text that is stored: every replica holds it, of every tenant. */
const MAX_BYTES = 64 * 1024;

export interface RuleChangesParts {
  readonly store: Pick<Store, 'read' | 'mutate'>;
  readonly agents: Pick<Agents, 'call'>;
  readonly rules: RuleBook;
  /** The key that new seals are made by. Throws TOKEN_KEY_NOT_READY. */
  readonly currentSealKey: () => SealKeyId;
  readonly tenantSeals: Pick<TenantSeals, 'sealer'>;
  /** Whether people can have passkeys. */
  readonly arePasskeysConfigured: boolean;
  /** Has this replica read the tenant again. */
  readonly forgetTenant: (tenantId: TenantId) => void;
}

/** What the rules of a tenant are to be. */
export interface NewApprovalRules extends Pick<ApprovalRules, 'stepUp' | 'approvals'> {
  /** Empty where none were ever set. */
  readonly etag: string;
  /** Only look. */
  readonly validateOnly: boolean;
}

/** Reads and replaces the approval rules of a tenant. */
export class RuleChanges {
  readonly #parts: RuleChangesParts;

  constructor(parts: RuleChangesParts) {
    this.#parts = parts;
  }

  /** Returns the tenant's rules. Throws as {@link RuleBook.of}. */
  async get(tenant: TenantIdentity): Promise<ApprovalRules> {
    return this.#parts.rules.of(tenant);
  }

  /**
   * Replaces the tenant's rules. Throws ETAG_MISMATCH, APPROVAL_RULES_CORRUPT, INVALID_FIELD for
   * rules that cannot be, PASSKEYS_MISSING and PASSKEYS_NOT_CONFIGURED for those that too few could
   * approve by, and what the store and the agents throw.
   */
  async replace(
    call: Call,
    tenant: TenantIdentity,
    asked: NewApprovalRules,
  ): Promise<ApprovalRules> {
    requirePossible(asked);
    const { store, rules, forgetTenant } = this.#parts;
    const { tenantId } = tenant;
    if (asked.validateOnly) {
      if (call.audit !== undefined) addDetail(call.audit, { validateOnly: true });
      return store.read(call, tenantId, async (tx) => {
        const { rules: before, now } = await this.#locked(tx, call, tenant);
        const next = nextOf(before, asked, now);
        await this.#requirePasskeys(tx, call, next);
        return next;
      });
    }
    const resource = formatApprovalRulesName({ tenant: tenant.name });
    const change = { kind: 'approvalRules', subjectId: tenantId } as const;
    const replaced = await store.mutate(call, { tenantId, resource, change }, async (tx) => {
      const { before, next } = await this.#change(tx, call, tenantId, asked);
      tx.changed({
        kind: 'approvalRules',
        before: before.revision === 0n ? undefined : rulesContent(before),
        after: rulesContent(next),
        rulesRevision: `${next.revision}`,
      });
      return next;
    });
    rules.forget(tenantId);
    forgetTenant(tenantId);
    return replaced;
  }

  /** Writes the rules, and which they are into the tenant's row, whose seal covers that. */
  async #change(
    tx: Tx,
    call: Call,
    tenantId: TenantId,
    asked: NewApprovalRules,
  ): Promise<{ readonly before: ApprovalRules; readonly next: ApprovalRules }> {
    let changed: { readonly before: ApprovalRules; readonly next: ApprovalRules } | undefined;
    await changeTenant(tx, tenantId, this.#parts.tenantSeals.sealer(call), async (tenant) => {
      const { rules: before, record, now } = await this.#locked(tx, call, tenant);
      const next = nextOf(before, asked, now);
      await this.#requirePasskeys(tx, call, next);
      await this.#write(tx, call, { tenantId, before: sealedContent(tenantId, record), next });
      changed = { before, next };
      return { approvalRulesRevision: next.revision };
    });
    await recordChange(tx, { tenantId, kind: 'tenant', subjectId: tenantId });
    if (changed === undefined) throw new Error('rules were not replaced');
    return changed;
  }

  /** Throws where a rule wants more approvals than people other than the caller could give. */
  async #requirePasskeys(
    { query }: Tx,
    { caller }: Call,
    { approvals: rules }: ApprovalRules,
  ): Promise<void> {
    if (rules.length > 0 && !this.#parts.arePasskeysConfigured)
      throw new KeywardError('PASSKEYS_NOT_CONFIGURED');
    for (const rule of rules) {
      const people = await countPeopleWithPasskeys(query, {
        besides: caller,
        named: personsNamed(rule),
      });
      if (people < rule.approvals) throw passkeysMissing(rule, people);
    }
  }

  async #locked(
    tx: Tx,
    { deadline }: Call,
    tenant: TenantIdentity,
  ): Promise<{
    readonly rules: ApprovalRules;
    readonly record: ApprovalRulesRecord;
    readonly now: Date;
  }> {
    const { value, record } = await this.#parts.rules.verified(tenant, deadline, () =>
      lockApprovalRules(tx, tenant.tenantId),
    );
    return { rules: value, record, now: record.now };
  }

  async #write(
    tx: Tx,
    { deadline, warrant }: Call,
    change: {
      readonly tenantId: TenantId;
      readonly before: SealedContent | undefined;
      readonly next: ApprovalRules & { readonly updatedAt: Date };
    },
  ): Promise<void> {
    const { tenantId, before } = change;
    const { revision, ...rules } = change.next;
    const content = formatRules(rules);
    if (Buffer.byteLength(content) > MAX_BYTES)
      throw invalidField('approval_rules', `must have at most ${MAX_BYTES} bytes as JSON`);
    const sealKeyId = this.#parts.currentSealKey();
    const request = {
      ...{ sealKeyId, kind: RECORD.approvalRules, before, warrant },
      content: rulesSealContent(tenantId, revision, content),
    };
    const { seal } = await this.#parts.agents.call('sealRecordChange', request, deadline);
    await writeApprovalRules(tx, tenantId, content, {
      ...{ revision, sealKeyId, seal: Buffer.from(seal) },
    });
  }
}

/** Returns what of the rules is sealed; undefined where none were ever set. */
function sealedContent(
  tenantId: TenantId,
  { content, sealed }: ApprovalRulesRecord,
): SealedContent | undefined {
  if (sealed === undefined) return undefined;
  const { revision, sealKeyId, seal } = sealed;
  return { content: rulesSealContent(tenantId, revision, content), sealKeyId, seal };
}

/** Returns the etag of such rules. */
export function etagOf({ revision }: Pick<ApprovalRules, 'revision'>): string {
  return `${revision}`;
}

/** Returns the rules after the change. Throws ETAG_MISMATCH, and INVALID_FIELD without an etag. */
function nextOf(
  before: ApprovalRules,
  { etag, stepUp, approvals }: NewApprovalRules,
  updatedAt: Date,
): ApprovalRules & { readonly updatedAt: Date } {
  if (etag === '' && before.revision > 0n)
    throw invalidField('approval_rules', 'must have the etag of the rules that are replaced');
  if (etag !== '' && etag !== etagOf(before)) throw new KeywardError('ETAG_MISMATCH');
  return { revision: before.revision + 1n, stepUp, approvals, updatedAt };
}

/** Returns what an audit entry says of the rules. */
function rulesContent({ stepUp, approvals }: ApprovalRules): object {
  return { stepUp: stepUp.map(stepUpContent), approvals: approvals.map(approvalContent) };
}

/** Throws INVALID_FIELD for rules that could not be followed. */
function requirePossible({ approvals }: NewApprovalRules): void {
  const ids = new Set<string>();
  for (const rule of approvals) {
    if (ids.has(rule.ruleId)) throw invalidRule(rule, 'have a rule_id of its own');
    ids.add(rule.ruleId);
    requireDangerous(rule);
    requireApprovers(rule);
  }
}

/** Throws INVALID_FIELD where calls would wait that nothing is lost by. */
function requireDangerous(rule: ApprovalRule): void {
  const other = rule.permissions.find((name) => !isDangerous(name as Permission));
  if (other !== undefined)
    throw invalidRule(rule, `not name ${other}, which is not marked as dangerous`);
}

/**
 * Throws INVALID_FIELD where the approvers are named, and of those one who asks is left with too
 * few others. How many are in a group, its issuer knows.
 */
function requireApprovers(rule: ApprovalRule): void {
  const { approvals } = rule;
  const persons = personsNamed(rule);
  if (persons !== undefined && new Set(persons).size <= approvals)
    throw invalidRule(
      rule,
      `name at least ${approvals + 1} approvers, so that ${approvals} others can approve what one ` +
        'of them asks for',
    );
}

/** Returns the approvers by name; undefined where that may be anyone, or whoever is in a group. */
function personsNamed({ approvers }: ApprovalRule): readonly string[] | undefined {
  if (approvers.length === 0 || approvers.some(({ kind }) => kind === 'group')) return undefined;
  return approvers.map(({ name }) => name);
}

function passkeysMissing(rule: ApprovalRule, people: number): KeywardError {
  const { ruleId, approvals } = rule;
  const whom = personsNamed(rule) === undefined ? 'people' : 'of its approvers';
  return new KeywardError('PASSKEYS_MISSING', {
    message:
      `cannot set the approval rule ${ruleId}: it wants ${approvals} to approve, and of others ` +
      `than the caller ${people} ${whom} have a passkey; have them register one first`,
    metadata: { rule: ruleId, approvals: `${approvals}`, people: `${people}` },
  });
}

function invalidRule({ ruleId }: ApprovalRule, must: string): KeywardError {
  return invalidField('approval_rules', `the approval rule ${ruleId} must ${must}`);
}
