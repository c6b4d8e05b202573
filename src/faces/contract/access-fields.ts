/**
 * What fields of AccessService's requests may be, from the wire's shape to that of role bindings
 * and roles.
 *
 * Invariant: as `fields.ts`. Knows fields, not methods.
 */
import { z } from 'zod';
import { MAX_NAME_BYTES } from '../../access/certificates.ts';
import { type AskedCaller, issuerOf } from '../../access/explanation.ts';
import { isPermission } from '../../access/permissions.ts';
import { findContextProblem } from '../../keyring/keys/encryption-context.ts';
import { parseKeyName, parseRoleName, parseTenantName } from '../../names.ts';
import type { ContextCondition, Member } from '../../store/access/policies.ts';
import { description, tenantName, time } from './fields.ts';

const MAX_CONDITIONS = 16;
const MAX_PERMISSIONS = 100;
/** Names end up in logs: without characters that don't show, or show other than they are. */
const MEMBER = /^(?!\s)[^\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\ufffd]+(?<!\s)$/u;
const GROUP = /^[a-z][a-z0-9-]{0,30}\/.+$/;
const KEY_PATTERN = /^([a-z]([a-z0-9-]{0,61}[a-z0-9])?|([a-z][a-z0-9-]{0,61})?\*)?$/;

const isOfALength = (name: string) => Buffer.byteLength(name) <= MAX_NAME_BYTES;
const LENGTH_RULE = `must have at most ${MAX_NAME_BYTES} bytes`;

/** A caller's name. */
export const principal = z
  .string()
  .refine(isOfALength, LENGTH_RULE)
  .regex(MEMBER, 'must be a caller’s name, as GetCaller shows it');
/** A group's name. */
export const group = z
  .string()
  .refine(isOfALength, LENGTH_RULE)
  .regex(MEMBER, 'must be {issuer}/{group}')
  .regex(GROUP, 'must be {issuer}/{group}');

const member = {
  principal: principal.optional(),
  group: group.optional(),
};

/** A name that is of a role, predefined or a tenant's own. */
const role = z
  .string()
  .refine(
    (name) => /^roles\/[A-Za-z]{1,63}$/.test(name) || parseRoleName(name) !== undefined,
    'must be roles/{role} or tenants/{tenant}/roles/{role}',
  );

const CLAIM = /^[^\p{Cc}\p{Cs}\ufffd]{1,256}$/u;
const claimPath = z.array(z.string().regex(CLAIM, 'must be names of claims')).min(1).max(5);
const contextValue = z.string().max(8_192);

const condition = z
  .object({
    contextKey: z.string(),
    equals: contextValue.optional(),
    oneOf: z.object({ values: z.array(contextValue).min(1).max(100) }).nullish(),
    claim: z.object({ path: claimPath }).nullish(),
  })
  .transform(({ contextKey, equals, oneOf, claim }, context): ContextCondition => {
    const values = equals === undefined ? (oneOf?.values ?? []) : [equals];
    const problem = [...values, ''].map((value) =>
      findContextProblem(new Map([[contextKey, value]])),
    );
    const requirement = requirementOf(equals, oneOf?.values, claim?.path);
    const message =
      problem.find(Boolean) ??
      (requirement ? undefined : 'must have conditions that set equals, one_of or claim');
    if (message !== undefined) context.addIssue({ code: 'custom', message });
    return requirement === undefined ? z.NEVER : { contextKey, requirement };
  });

function requirementOf(
  value: string | undefined,
  values: readonly string[] | undefined,
  path: readonly string[] | undefined,
): ContextCondition['requirement'] | undefined {
  if (value !== undefined) return { kind: 'equals', value };
  if (values !== undefined) return { kind: 'oneOf', values };
  return path && { kind: 'claim', path };
}

/** What is set of a role binding by whoever makes it. */
export const newRoleBinding = z
  .object(
    {
      ...member,
      role,
      keyPattern: z
        .string()
        .regex(KEY_PATTERN, 'must be the last part of a key’s name, or its beginning and *'),
      allTenants: z.boolean(),
      expireTime: time,
      conditions: z
        .array(condition)
        .max(MAX_CONDITIONS, `must have at most ${MAX_CONDITIONS} conditions`),
      overrideSeparationOfDuties: z.boolean(),
      description,
    },
    'must be given',
  )
  .transform(
    (
      { principal, group, overrideSeparationOfDuties: overridesSeparation, ...binding },
      context,
    ) => {
      const name = principal ?? group;
      if (name === undefined)
        context.addIssue({ code: 'custom', message: 'must have a principal or a group' });
      const member: Member = {
        kind: principal === undefined ? 'group' : 'principal',
        name: name ?? '',
      };
      const { expireTime: expiresAt, ...rest } = binding;
      return { ...rest, member, expiresAt, overridesSeparation };
    },
  );

/** What is set of a role by whoever makes it. */
export const newRole = z.object(
  {
    permissions: z
      .array(z.string())
      .min(1, 'must have at least one permission')
      .max(MAX_PERMISSIONS, `must have at most ${MAX_PERMISSIONS} permissions`)
      .refine((names) => new Set(names).size === names.length, 'must have each permission once'),
    description,
  },
  'must be given',
);

/** A permission's name. */
export const permission = z.string().refine(isPermission, 'must be a permission');
export const permissions = z
  .array(permission)
  .min(1, 'must have at least one permission')
  .max(MAX_PERMISSIONS, `must have at most ${MAX_PERMISSIONS} permissions`);

/** What access can be asked about: a tenant or a key. */
export const resource = z.string().transform((text, context) => {
  const name: { readonly tenant: string; readonly key?: string } | undefined =
    parseKeyName(text) ?? parseTenantName(text);
  if (name !== undefined) return name;
  context.addIssue({
    code: 'custom',
    message: 'must be tenants/{tenant} or tenants/{tenant}/keys/{key}',
  });
  return z.NEVER;
});

/** What a token says, by the claim's path as JSON. */
export const claims = z
  .array(
    z.object({
      claim: z.object({ path: claimPath }, 'must be given'),
      value: z.string().max(8_192),
    }),
  )
  .max(100, 'must be at most 100')
  .transform((all) => new Map(all.map(({ claim, value }) => [JSON.stringify(claim.path), value])));

/** Of whom is asked what they may do: by a certificate, or by a token that has all this. */
export const askedCaller = {
  principal,
  groups: z.array(group).max(200, 'must be at most 200'),
  claims,
  limitedToTenants: z.boolean(),
  tenants: z.array(tenantName).max(200, 'must be at most 200'),
};

type AskedCallerFields = z.infer<z.ZodObject<typeof askedCaller>>;

/** Refuses what no one proof of a caller has together. */
export function requireOneProof(caller: AskedCallerFields, context: z.RefinementCtx): void {
  const issuer = issuerOf(caller.principal);
  const refuse = (field: string, message: string) =>
    context.addIssue({ code: 'custom', path: [field], message });
  if (issuer === undefined) {
    const rule = 'must not be set for a caller by a certificate; those by a token begin with jwt:';
    if (caller.groups.length > 0) refuse('groups', rule);
    if (caller.claims.size > 0) refuse('claims', rule);
    if (caller.limitedToTenants) refuse('limitedToTenants', rule);
  }
  if (issuer !== undefined && caller.groups.some((name) => !name.startsWith(`${issuer}/`)))
    refuse('groups', 'must be of the issuer that the principal names');
  if (caller.tenants.length > 0 && !caller.limitedToTenants)
    refuse('tenants', 'must not be set without limited_to_tenants');
}

/** The caller who is asked about, as access decides about them. */
export function callerAskedAbout(fields: AskedCallerFields): AskedCaller {
  const { principal: name, groups, claims: given, limitedToTenants, tenants } = fields;
  return {
    name,
    groups,
    claim: (path) => given.get(JSON.stringify(path)) || undefined,
    tenants: limitedToTenants ? tenants.map(({ tenant }) => tenant) : undefined,
  };
}
