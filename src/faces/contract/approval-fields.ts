/**
 * What fields of ApprovalService's requests may be, from the wire's shape to that of approval
 * rules.
 *
 * Invariant: as `fields.ts`. Knows fields, not methods.
 */
import { z } from 'zod';
import type { Member } from '../../store/access/policies.ts';
import * as accessField from './access-fields.ts';
import { approvalRulesName, duration, etag, newId } from './fields.ts';

const MAX_RULES = 50;
const MAX_PERMISSIONS = 100;
const MAX_CALLERS = 100;
const MAX_VALUES = 20;
const MAX_APPROVALS = 5;
const MAX_AGE = { default: 15 * 60, least: 60, most: 24 * 60 * 60 };
/** What can stand in a quoted list of WWW-Authenticate, apart from the others by spaces. */
const VALUE = /^[\x21\x23-\x5b\x5d-\x7e]{1,255}$/;

const permissions = z
  .array(accessField.permission)
  .max(MAX_PERMISSIONS, `must not have more than ${MAX_PERMISSIONS} permissions in a rule`);
const exempt = z
  .array(accessField.principal)
  .max(MAX_CALLERS, `must not have more than ${MAX_CALLERS} exempt_principals in a rule`);

const values = (field: string) =>
  z
    .array(
      z
        .string()
        .regex(VALUE, `must have ${field} of visible ASCII without quotation mark and backslash`),
    )
    .max(MAX_VALUES, `must not have more than ${MAX_VALUES} ${field} in a rule`);

const stepUpRule = z
  .object({
    permissions,
    acrValues: values('acr_values'),
    amrValues: values('amr_values'),
    maxAge: duration
      .transform((seconds) => seconds ?? MAX_AGE.default)
      .refine(
        (seconds) => seconds >= MAX_AGE.least && seconds <= MAX_AGE.most,
        `must have a max_age of ${MAX_AGE.least} to ${MAX_AGE.most} seconds`,
      ),
    exemptPrincipals: exempt,
  })
  .transform(({ maxAge: maxAgeSeconds, exemptPrincipals, ...rule }) => ({
    ...rule,
    maxAgeSeconds,
    exempt: exemptPrincipals,
  }));

/** `principal:{caller}` or `group:{issuer}/{group}`. */
const approver = z.string().transform((text, context): Member => {
  const [, kind, name = ''] = /^(principal|group):(.*)$/su.exec(text) ?? [];
  if (kind === 'principal' && accessField.principal.safeParse(name).success) return { kind, name };
  if (kind === 'group' && accessField.group.safeParse(name).success) return { kind, name };
  context.addIssue({
    code: 'custom',
    message: 'must have approvers that are principal:{caller} or group:{issuer}/{group}',
  });
  return z.NEVER;
});

const approvalRule = z
  .object({
    ruleId: newId,
    permissions,
    approvals: z
      .number()
      .refine(
        (approvals) => approvals >= 1 && approvals <= MAX_APPROVALS,
        `must have approvals of 1 to ${MAX_APPROVALS}`,
      ),
    approvers: z
      .array(approver)
      .max(MAX_CALLERS, `must not have more than ${MAX_CALLERS} approvers in a rule`),
    exemptPrincipals: exempt,
    breakGlass: z.boolean(),
  })
  .transform(({ exemptPrincipals, ...rule }) => ({ ...rule, exempt: exemptPrincipals }));

/** All rules that a tenant is to have. */
export const newApprovalRules = z.object(
  {
    name: approvalRulesName,
    etag,
    stepUpRules: z
      .array(stepUpRule)
      .max(MAX_RULES, `must not have more than ${MAX_RULES} step_up_rules`),
    approvalRules: z
      .array(approvalRule)
      .max(MAX_RULES, `must not have more than ${MAX_RULES} approval_rules`),
  },
  'must be given',
);
