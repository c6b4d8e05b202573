/**
 * What the seal over a tenant's policy is computed over, to the byte.
 *
 * ```
 *  tenant UUID (16) ‖ u64 revision ‖ SHA-256(lines)
 *  lines = a line of JSON for each binding, by id, then one for each role, by id
 * ```
 *
 * Each line is an array that begins with "binding" or "role".
 *
 * Invariant: two policies that differ in anything have different lines. Holds no key: the agent
 * computes the HMAC in the token (`record-seal.ts`).
 */
import type { AnyId, TenantId } from '../ids.ts';
import { policyDigest } from './policy-lines.ts';

/** A condition of a binding, as it is sealed. */
export interface SealedCondition {
  readonly contextKey: string;
  readonly requirement:
    | { readonly kind: 'equals'; readonly value: string }
    | { readonly kind: 'oneOf'; readonly values: readonly string[] }
    | { readonly kind: 'claim'; readonly path: readonly string[] };
}

/** A role binding, as it is sealed. */
export interface SealedBinding {
  readonly bindingId: string;
  readonly member: { readonly kind: 'principal' | 'group'; readonly name: string };
  readonly role: string;
  readonly keyPattern: string;
  readonly allTenants: boolean;
  readonly expiresAt: Date | null;
  readonly conditions: readonly SealedCondition[];
  readonly overridesSeparation: boolean;
  readonly description: string;
  readonly createdAt: Date;
  readonly creator: string;
}

/** A tenant's own role, as it is sealed. */
export interface SealedRole {
  readonly roleId: string;
  readonly permissions: readonly string[];
  readonly description: string;
  readonly createdAt: Date;
  readonly creator: string;
}

/** A policy, as it is sealed. */
export interface SealedPolicy {
  readonly bindings: readonly SealedBinding[];
  readonly roles: readonly SealedRole[];
}

/** Returns the content of the seal. */
export function policyContent(
  tenantId: TenantId,
  revision: bigint,
  { bindings, roles }: SealedPolicy,
): Buffer {
  return policyDigest(tenantId, revision, policyLines({ bindings, roles }));
}

/** Returns the lines. */
export function policyLines(policy: SealedPolicy): Buffer {
  return Buffer.from([...lines(policy)].map((line) => `${line}\n`).join(''));
}

/** Returns how many bytes the lines have. */
export function policyBytes(policy: SealedPolicy): number {
  let bytes = 0;
  for (const line of lines(policy)) bytes += Buffer.byteLength(line) + 1;
  return bytes;
}

function* lines({ bindings, roles }: SealedPolicy): Iterable<string> {
  for (const binding of inOrder(bindings, ({ bindingId }) => bindingId)) yield bindingLine(binding);
  for (const role of inOrder(roles, ({ roleId }) => roleId)) yield roleLine(role);
}

/** Returns the id of a binding whose request chose none: `b` and the UUID's 32 digits. */
export function bindingIdOf(id: AnyId): string {
  return `b${id.replaceAll('-', '')}`;
}

/** Returns the line of a binding. */
export function bindingLine(binding: SealedBinding): string {
  return JSON.stringify([
    'binding',
    binding.bindingId,
    binding.member.kind,
    binding.member.name,
    binding.role,
    binding.keyPattern,
    binding.allTenants,
    binding.expiresAt?.getTime() ?? null,
    binding.conditions.map(conditionLine),
    binding.overridesSeparation,
    binding.description,
    binding.createdAt.getTime(),
    binding.creator,
  ]);
}

function conditionLine({ contextKey, requirement }: SealedCondition): unknown[] {
  switch (requirement.kind) {
    case 'equals':
      return [contextKey, 'equals', requirement.value];
    case 'oneOf':
      return [contextKey, 'oneOf', requirement.values];
    case 'claim':
      return [contextKey, 'claim', requirement.path];
  }
}

/** Returns the line of a role. */
export function roleLine(role: SealedRole): string {
  const { roleId, permissions, description, createdAt, creator } = role;
  return JSON.stringify(['role', roleId, permissions, description, createdAt.getTime(), creator]);
}

/** By the bytes of ids, which are ASCII. */
function inOrder<T>(items: readonly T[], idOf: (item: T) => string): T[] {
  return items.toSorted((a, b) => (idOf(a) < idOf(b) ? -1 : 1));
}
