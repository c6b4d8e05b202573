/**
 * Seals records, and, where the agent holds a rule, what grants power only as people have approved
 * it: policies, approval rules and passkeys. A server that was taken over can ask for anything; it
 * gets a seal for what a record of before and an approved request together come to.
 *
 * - Each change begins with the record before, whose seal is verified, and makes one step of it.
 *   One that this agent has seen a later revision of is refused, for as long as it runs.
 * - What was asked for is read from the request that people have signed
 *   (`approved-changes.ts`), and compared with what is to be sealed.
 * - A tenant keeps its UUID and name, so that an approval in one is good in no other.
 *
 * Knows no frame and no token: what seals and verifies seals is given.
 */
import { randomUUID } from 'node:crypto';
import type { SealedContent } from '../../call.ts';
import { type EnvironmentId, idFromBytes, type SealKeyId, type TenantId } from '../../ids.ts';
import { Lru } from '../../lru.ts';
import { SYSTEM_TENANT } from '../../names.ts';
import type { AgentNeed } from '../agent-rule.ts';
import { type PasskeyRecord, passkeyContent, readPasskey } from '../approval-records.ts';
import { policyDigest, readPolicyLine, withLine, withoutLine } from '../policy-lines.ts';
import type { ReplyOf, RequestOf } from '../protocol.ts';
import { RECORD, type RecordKind } from '../record-seal.ts';
import { encodeTenantName, readTenantHead, type TenantHead } from '../tenant-state.ts';
import type { RecordSeals } from './approvals.ts';
import {
  requireBindingOrRole,
  requireNewPasskey,
  requireRemoval,
  requireRemovedPasskey,
  requireRules,
} from './approved-changes.ts';
import { AgentFailure } from './failure.ts';
import type { AgentRule } from './rule.ts';
import { type Approved, notApproved, requireApproved } from './warrant.ts';

/** What only an agent says, of its own knowledge. */
const AGENTS_OWN: readonly number[] = [RECORD.decision, RECORD.tenantName];
/** What has operations of its own where there is a rule. */
const GUARDED: readonly number[] = [
  RECORD.policy,
  RECORD.approvalRules,
  RECORD.passkey,
  RECORD.tenant,
];
/** Of so many records the revision is remembered. */
const REMEMBERED = 100_000;
const ID_BYTES = 16;

/** What {@link GuardedSeals} stands on. */
export interface GuardedSealsParts {
  readonly seals: RecordSeals;
  readonly environmentId: EnvironmentId;
  readonly rule: AgentRule | undefined;
}

/** What identifies a record, and counts its changes. */
interface Place {
  readonly subject: string;
  readonly revision: bigint;
}

/** Seals records; those that grant power by the agent's rule. */
export class GuardedSeals {
  readonly #parts: GuardedSealsParts;
  /** The latest revision of each record that was verified here. */
  readonly #newest = new Lru<string, bigint>(REMEMBERED);

  constructor(parts: GuardedSealsParts) {
    this.#parts = parts;
  }

  /** Throws `not-approved` for a kind that has operations of its own. */
  sealRecords(request: RequestOf<'sealRecords'>): ReplyOf<'sealRecords'> {
    if (AGENTS_OWN.includes(request.kind))
      throw new AgentFailure('internal', 'a record was to be sealed that only agents vouch for');
    if (this.#parts.rule !== undefined && GUARDED.includes(request.kind))
      throw notApproved('a record that grants power is sealed only with what it was before');
    return this.#parts.seals.sealVerified(request);
  }

  verifyRecords(request: RequestOf<'verifyRecords'>): ReplyOf<'verifyRecords'> {
    const reply = this.#parts.seals.verifyRecords(request);
    const { kind, items } = request;
    if (this.#parts.rule !== undefined && GUARDED.includes(kind))
      for (const [index, { content }] of items.entries())
        if (reply.verified[index] === 1) this.#note(placeOf(kind, content));
    return reply;
  }

  /** Throws `row-corrupt` where one does not verify. */
  resealRecords(request: RequestOf<'resealRecords'>): ReplyOf<'resealRecords'> {
    const { formerKeyId, sealKeyId, kind, items } = request;
    const { verified } = this.verifyRecords({ sealKeyId: formerKeyId, kind, items });
    if (verified.some((each) => each !== 1))
      throw new AgentFailure('row-corrupt', 'a record that is to be sealed again does not verify');
    const contents = items.map(({ content }) => content);
    return this.#parts.seals.sealVerified({ sealKeyId, kind, contents });
  }

  /** Throws `not-approved` for the reserved name, which no tenant gets that is made later. */
  nameTenant({ sealKeyId, name }: RequestOf<'nameTenant'>): ReplyOf<'nameTenant'> {
    if (name === SYSTEM_TENANT) throw notApproved(`no new tenant has the name ${name}`);
    const tenantId = randomUUID() as TenantId;
    const content = encodeTenantName({ tenantId, name });
    return { tenantId, content, seal: this.#seal(sealKeyId, RECORD.tenantName, content) };
  }

  /** Throws `not-approved`. */
  sealPolicyChange(request: RequestOf<'sealPolicyChange'>): ReplyOf<'sealPolicyChange'> {
    const { sealKeyId, tenantId, before, lines, isAdded } = request;
    const line = request.line.toString('utf8');
    const revision = before === undefined ? 0n : placeOf(RECORD.policy, before.content).revision;
    const content = policyDigest(
      tenantId,
      revision + 1n,
      isAdded === 1 ? withLine(lines, line) : withoutLine(lines, line),
    );
    const { rule } = this.#parts;
    if (rule !== undefined) {
      const isEmpty = before === undefined && lines.length === 0;
      const isBefore = before?.content.equals(policyDigest(tenantId, revision, lines)) === true;
      if (!isEmpty && !isBefore) throw notApproved('the policy before is not as it was sealed');
      if (before !== undefined) this.#requireSealed(RECORD.policy, before);
      else this.#requireNew(RECORD.policy, policyDigest(tenantId, 1n, lines));
      this.#requireApproved(isAdded === 1 ? 'policies' : 'removals', request, (approved) => {
        const asked =
          isAdded === 1
            ? requireBindingOrRole(approved, line)
            : requireRemoval(approved, readPolicyLine(line));
        this.#requireTenant(approved, asked, tenantId);
      });
    }
    return { seal: this.#seal(sealKeyId, RECORD.policy, content) };
  }

  /** Throws `not-approved`. */
  sealRecordChange(request: RequestOf<'sealRecordChange'>): ReplyOf<'sealRecordChange'> {
    const { sealKeyId, kind, content } = request;
    if (this.#parts.rule !== undefined) this.#requireChange(request);
    else if (!GUARDED.includes(kind))
      throw new AgentFailure('internal', `records of the kind ${kind} are not sealed by changes`);
    return { seal: this.#seal(sealKeyId, kind as RecordKind, content) };
  }

  #requireChange(request: RequestOf<'sealRecordChange'>): void {
    const { kind, before, content } = request;
    if (kind === RECORD.tenant) {
      this.#requireTenantChange(before, content);
      return;
    }
    if (kind !== RECORD.approvalRules && kind !== RECORD.passkey)
      throw new AgentFailure('internal', `records of the kind ${kind} are not sealed by changes`);
    if (before !== undefined) this.#requireSealed(kind, before);
    else this.#requireNew(kind, content);
    requireNextOf(kind, before, content);
    if (kind === RECORD.passkey) this.#requirePasskeyChange(request);
    else
      this.#requireApproved('approvalRules', request, (approved) => {
        const tenantId = idFromBytes<TenantId>(content.subarray(0, ID_BYTES));
        this.#requireTenant(approved, requireRules(approved, content), tenantId);
      });
  }

  #requirePasskeyChange(request: RequestOf<'sealRecordChange'>): void {
    const after = readPasskey(request.content);
    if (request.before === undefined) {
      this.#requireApproved('passkeys', request, (approved) => requireNewPasskey(approved, after));
      return;
    }
    const before = readPasskey(request.before.content);
    if (before.isRemoved) throw notApproved('the passkey was removed');
    const { signCount, lastUsedAt } = after;
    if (isSame(after, { ...before, signCount, lastUsedAt, revision: after.revision })) return;
    if (!isSame(after, { ...before, isRemoved: true, revision: after.revision }))
      throw notApproved('a passkey is only used or removed');
    this.#requireApproved('removals', request, (approved) =>
      requireRemovedPasskey(approved, after),
    );
  }

  /** A tenant changes in what it may do and in nothing that says which it is. */
  #requireTenantChange(before: SealedContent | undefined, content: Buffer): void {
    const after = readTenantHead(content);
    if (before === undefined) throw notApproved('a new tenant’s UUID is drawn by an agent');
    if (after.revision === 1n) {
      this.#requireSealed(RECORD.tenantName, before);
      if (!before.content.equals(encodeTenantName(after)))
        throw notApproved('the tenant’s UUID was drawn for another name');
      return;
    }
    this.#requireSealed(RECORD.tenant, before);
    if (!continues(readTenantHead(before.content), after))
      throw notApproved('a tenant’s name and UUID stay, and its approval rules only go on');
  }

  /** Throws where the approved request is about another tenant. */
  #requireTenant({ tenant }: Approved, asked: string, tenantId: TenantId): void {
    if (!this.#isSealed(RECORD.tenant, tenant))
      throw notApproved('the tenant that was shown is not sealed');
    const head = readTenantHead(tenant.content);
    if (head.tenantId !== tenantId || `tenants/${head.name}` !== asked)
      throw notApproved('the request is about another tenant');
  }

  #requireApproved(
    need: AgentNeed,
    { warrant }: Pick<RequestOf<'sealRecordChange'>, 'warrant'>,
    requireSame: (approved: Approved) => void,
  ): void {
    const { rule, environmentId } = this.#parts;
    if (rule === undefined || rule.approvals[need] === 0) return;
    requireSame(requireApproved(need, warrant, { rule, environmentId }));
  }

  /** Throws where a record is not sealed, or this agent has verified a later one. */
  #requireSealed(kind: RecordKind, record: SealedContent): void {
    if (!this.#isSealed(kind, record))
      throw notApproved('what is to be changed is not as it was sealed');
    if (kind === RECORD.tenantName) return;
    const place = placeOf(kind, record.content);
    if ((this.#newest.get(place.subject) ?? 0n) > place.revision)
      throw notApproved('what is to be changed was changed before');
    this.#note(place);
  }

  /** Throws where this agent has verified such a record before, which is said to be the first. */
  #requireNew(kind: RecordKind, content: Buffer): void {
    if (this.#newest.peek(placeOf(kind, content).subject) !== undefined)
      throw notApproved('what is said to be new was there before');
  }

  #note({ subject, revision }: Place): void {
    if (revision > (this.#newest.get(subject) ?? 0n)) this.#newest.set(subject, revision);
  }

  #isSealed(kind: RecordKind, { content, sealKeyId, seal }: SealedContent): boolean {
    const request = { sealKeyId, kind, items: [{ content, seal }] };
    return this.#parts.seals.verifyRecords(request).verified[0] === 1;
  }

  #seal(sealKeyId: SealKeyId, kind: RecordKind, content: Buffer): Buffer {
    const { seals } = this.#parts.seals.sealVerified({ sealKeyId, kind, contents: [content] });
    if (seals[0] === undefined) throw new AgentFailure('internal', 'a record was not sealed');
    return seals[0];
  }
}

/** Returns which record a content is of, and its revision. Throws RangeError for what is none. */
function placeOf(kind: number, content: Buffer): Place {
  if (kind === RECORD.passkey) {
    const { credentialId, revision } = readPasskey(content);
    return { subject: `${kind} ${credentialId.toString('base64url')}`, revision };
  }
  const subject = `${kind} ${content.subarray(0, ID_BYTES).toString('hex')}`;
  if (kind === RECORD.tenant) return { subject, revision: readTenantHead(content).revision };
  return { subject, revision: content.readBigUInt64BE(ID_BYTES) };
}

/** Throws unless it is the record that comes after, or the first one. */
function requireNextOf(kind: RecordKind, before: SealedContent | undefined, content: Buffer): void {
  const after = placeOf(kind, content);
  const former = before && placeOf(kind, before.content);
  if (former !== undefined && former.subject !== after.subject)
    throw notApproved('it is another record than before');
  if (after.revision !== (former?.revision ?? 0n) + 1n)
    throw notApproved('its revision does not follow the one before');
}

function isSame(a: PasskeyRecord, b: PasskeyRecord): boolean {
  return passkeyContent(a).equals(passkeyContent(b));
}

function continues(before: TenantHead, after: TenantHead): boolean {
  return (
    after.tenantId === before.tenantId &&
    after.name === before.name &&
    after.dedicatedRootKey === before.dedicatedRootKey &&
    after.createdAt.equals(before.createdAt) &&
    after.revision === before.revision + 1n &&
    after.approvalRulesRevision >= before.approvalRulesRevision
  );
}
