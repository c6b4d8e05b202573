/**
 * Whether what is to be sealed, or made, is what an approved request asks for, by the request
 * alone: the binding, role, rules, passkey or key that people have looked at.
 *
 * - What a request does not say is the service's to say, within bounds: when it was done is now,
 *   and by whom is the requester.
 * - Knows the requests by their names in the contract. Each function throws `not-approved`.
 */

import { type AnyId, idFromBytes, type TenantId } from '../../ids.ts';
import type { Approver, PasskeyRecord } from '../approval-records.ts';
import {
  type ApprovalRule,
  type ApprovalRules,
  formatRules,
  parseRules,
  rulesSealContent,
  type StepUpRule,
} from '../approval-rules.ts';
import { type PolicyLine, readPolicyLine } from '../policy-lines.ts';
import { bindingIdOf, bindingLine, roleLine, type SealedCondition } from '../policy-record.ts';
import type { TokenObjectRole } from '../token-profile.ts';
import { readRegistered } from './registered.ts';
import { RequestFields } from './request.ts';
import { type Approved, notApproved } from './warrant.ts';

/** So far may the server's time be from the agent's. */
const TIME_TOLERANCE_MS = 5 * 60_000;
const ID_BYTES = 16;
const REVISION_BYTES = 8;
/** What answers have, and requests may repeat. */
const OUTPUT_ONLY = ['name', 'createTime', 'creator'];

/** Returns the fields of a request of that method. */
function fieldsOf(approved: Approved, methods: readonly string[], names: readonly string[]) {
  if (!methods.includes(approved.method))
    throw notApproved(`what was approved is ${approved.method}`);
  return new RequestFields(approved.request, names);
}

/** Requires that the line is what the request adds. Returns the tenant's name, as it has it. */
export function requireBindingOrRole(approved: Approved, line: string): string {
  const { kind, id, values } = readPolicyLine(line);
  return kind === 'binding'
    ? requireBinding(approved, { line, id, createdAt: timeIn(values.at(-2)) })
    : requireRole(approved, { line, createdAt: timeIn(values.at(-2)) });
}

function requireBinding(
  approved: Approved,
  { line, id, createdAt }: { readonly line: string; readonly id: string; readonly createdAt: Date },
): string {
  const { operationId, requester: creator } = approved;
  const methods = ['keyward.v1.AccessService/CreateRoleBinding'];
  const names = ['parent', 'roleBindingId', 'roleBinding'];
  const fields = fieldsOf(approved, methods, names);
  const binding = fields.message('roleBinding', [
    ...OUTPUT_ONLY,
    ...['principal', 'group', 'role', 'keyPattern', 'allTenants', 'expireTime', 'conditions'],
    ...['overrideSeparationOfDuties', 'description'],
  ]);
  const kind = binding.has('principal') ? 'principal' : 'group';
  const asked = bindingLine({
    bindingId: fields.text('roleBindingId') || bindingIdOf(operationId),
    member: { kind, name: binding.text(kind) },
    role: binding.text('role'),
    keyPattern: binding.text('keyPattern'),
    allTenants: binding.flag('allTenants'),
    expiresAt: binding.time('expireTime'),
    conditions: binding
      .messages('conditions', ['contextKey', 'equals', 'oneOf', 'claim'])
      .map(conditionOf),
    overridesSeparation: binding.flag('overrideSeparationOfDuties'),
    description: binding.text('description'),
    createdAt,
    creator,
  });
  if (asked !== line) throw notApproved(`the binding ${id} is not the one that was approved`);
  return fields.text('parent');
}

function conditionOf(condition: RequestFields): SealedCondition {
  const contextKey = condition.text('contextKey');
  if (condition.has('equals'))
    return { contextKey, requirement: { kind: 'equals', value: condition.text('equals') } };
  if (condition.has('oneOf')) {
    const values = condition.message('oneOf', ['values']).texts('values');
    return { contextKey, requirement: { kind: 'oneOf', values } };
  }
  const path = condition.message('claim', ['path']).texts('path');
  return { contextKey, requirement: { kind: 'claim', path } };
}

function requireRole(
  approved: Approved,
  { line, createdAt }: { readonly line: string; readonly createdAt: Date },
): string {
  const methods = ['keyward.v1.AccessService/CreateRole'];
  const fields = fieldsOf(approved, methods, ['parent', 'roleId', 'role']);
  const role = fields.message('role', [...OUTPUT_ONLY, 'permissions', 'description']);
  const asked = roleLine({
    roleId: fields.text('roleId'),
    permissions: role.texts('permissions'),
    description: role.text('description'),
    createdAt,
    creator: approved.requester,
  });
  if (asked !== line) throw notApproved('the role is not the one that was approved');
  return fields.text('parent');
}

/** Requires that the line is what the request takes away. Returns the tenant's name. */
export function requireRemoval(approved: Approved, { kind, id }: PolicyLine): string {
  const [method, collection] =
    kind === 'binding' ? ['DeleteRoleBinding', 'roleBindings'] : ['DeleteRole', 'roles'];
  const fields = fieldsOf(approved, [`keyward.v1.AccessService/${method}`], ['name']);
  const name = fields.text('name');
  const end = `/${collection}/${id}`;
  if (!name.endsWith(end)) throw notApproved(`what was approved is the removal of ${name}`);
  return name.slice(0, -end.length);
}

/** Requires that the rules' content is what was asked for. Returns the tenant's name. */
export function requireRules(approved: Approved, content: Buffer): string {
  const methods = ['keyward.v1.ApprovalService/UpdateApprovalRules'];
  const rules = fieldsOf(approved, methods, ['approvalRules']).message('approvalRules', [
    ...['name', 'etag', 'stepUpRules', 'approvalRules', 'updateTime', 'revision'],
  ]);
  const tenantId = idFromBytes<TenantId>(content.subarray(0, ID_BYTES));
  const revision = content.readBigUInt64BE(ID_BYTES);
  const text = content.subarray(ID_BYTES + REVISION_BYTES).toString('utf8');
  const { updatedAt } = parseRules(text);
  requireNow(updatedAt);
  const etag = rules.text('etag') || '0';
  if (etag !== `${revision - 1n}`) throw notApproved('other rules were to be replaced');
  const asked = formatRules({ ...rulesOf(rules), updatedAt });
  if (!rulesSealContent(tenantId, revision, asked).equals(content))
    throw notApproved('the rules are not those that were approved');
  const name = rules.text('name');
  const end = '/approvalRules';
  if (!name.endsWith(end)) throw notApproved('the request names no rules');
  return name.slice(0, -end.length);
}

const DEFAULT_MAX_AGE_SECONDS = 15 * 60;

function rulesOf(rules: RequestFields): Pick<ApprovalRules, 'stepUp' | 'approvals'> {
  const anyRule = ['permissions', 'exemptPrincipals'];
  const stepUp = rules
    .messages('stepUpRules', [...anyRule, 'acrValues', 'amrValues', 'maxAge'])
    .map(
      (rule): StepUpRule => ({
        permissions: rule.texts('permissions'),
        acrValues: rule.texts('acrValues'),
        amrValues: rule.texts('amrValues'),
        maxAgeSeconds: rule.seconds('maxAge') ?? DEFAULT_MAX_AGE_SECONDS,
        exempt: rule.texts('exemptPrincipals'),
      }),
    );
  const approvals = rules
    .messages('approvalRules', [...anyRule, 'ruleId', 'approvals', 'approvers', 'breakGlass'])
    .map(
      (rule): ApprovalRule => ({
        ruleId: rule.text('ruleId'),
        permissions: rule.texts('permissions'),
        approvals: rule.integer('approvals'),
        approvers: rule.texts('approvers').map(approverOf),
        breakGlass: rule.flag('breakGlass'),
        exempt: rule.texts('exemptPrincipals'),
      }),
    );
  return { stepUp, approvals };
}

function approverOf(text: string): Approver {
  const [, kind, name] = /^(principal|group):(.*)$/su.exec(text) ?? [];
  if (name === undefined) throw notApproved('an approver of the request cannot be read');
  return { kind: kind as Approver['kind'], name };
}

/** Requires that the new passkey is the one in the request, and the requester's. */
export function requireNewPasskey(approved: Approved, after: PasskeyRecord): void {
  const methods = ['keyward.v1.PasskeyService/RegisterPasskey'];
  const made = ['credentialId', 'clientDataJson', 'attestationObject'];
  const names = ['parent', ...made, 'displayName', 'assertion'];
  const fields = fieldsOf(approved, methods, names);
  let read: ReturnType<typeof readRegistered>;
  try {
    read = readRegistered(fields.bytes('attestationObject'), after.relyingPartyId);
  } catch (error) {
    throw notApproved(`the passkey in the request cannot be read: ${(error as Error).message}`);
  }
  requireNow(after.createdAt);
  const isIt =
    read.credentialId.equals(after.credentialId) &&
    read.credentialId.equals(fields.bytes('credentialId')) &&
    read.algorithm === after.algorithm &&
    read.publicKey.equals(after.publicKey) &&
    read.signCount === after.signCount &&
    read.isBackupEligible === after.isBackupEligible &&
    read.aaguid === after.aaguid &&
    after.principal === approved.requester &&
    after.displayName === fields.text('displayName') &&
    after.lastUsedAt === undefined &&
    !after.isRemoved;
  if (!isIt) throw notApproved('the passkey is not the one that was approved');
}

/** Requires that the request removes the passkey. */
export function requireRemovedPasskey(approved: Approved, { credentialId }: PasskeyRecord): void {
  const methods = ['keyward.v1.PasskeyService/DeletePasskey'];
  const name = fieldsOf(approved, methods, ['name']).text('name');
  if (name !== `passkeys/${credentialId.toString('base64url')}`)
    throw notApproved(`what was approved is the removal of ${name}`);
}

/**
 * Requires that the request has a key of that role made in the token. Its UUID is the operation's,
 * so that one approval makes one key.
 */
export function requireTokenKey(
  approved: Approved,
  { role, objectId }: { readonly role: TokenObjectRole; readonly objectId: AnyId },
): void {
  const methods = {
    'keyward.v1.HsmService/RotateRootKey': 'root',
    'keyward.v1.HsmService/RotateSealKey': 'seal',
    'keyward.v1.AdminService/CreateTenant': 'root',
  } as const;
  const isOfRole = Object.entries(methods).some(
    ([method, made]) => method === approved.method && made === role,
  );
  if (!isOfRole) throw notApproved(`what was approved is ${approved.method}`);
  if (approved.method.endsWith('/CreateTenant')) {
    const fields = new RequestFields(approved.request, ['tenantId', 'dedicatedRootKey']);
    if (!fields.flag('dedicatedRootKey'))
      throw notApproved('the tenant that was approved has no root key of its own');
  }
  if (`${objectId}` !== `${approved.operationId}`)
    throw notApproved('an approval makes one key, by the UUID of its operation');
}

function timeIn(value: unknown): Date {
  if (!Number.isSafeInteger(value)) throw notApproved('a line of the policy has no time');
  const time = new Date(Number(value));
  requireNow(time);
  return time;
}

function requireNow(time: Date): void {
  if (!(Math.abs(Date.now() - time.getTime()) <= TIME_TOLERANCE_MS))
    throw notApproved('the time of the change is not the agent’s, give or take five minutes');
}
