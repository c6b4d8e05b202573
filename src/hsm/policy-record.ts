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
import { createHash } from 'node:crypto';
import { idToBytes, type TenantId } from '../ids.ts';

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
  const hash = createHash('sha256');
  for (const line of lines({ bindings, roles })) hash.update(line);
  const number = Buffer.alloc(8);
  number.writeBigUInt64BE(revision);
  return Buffer.concat([idToBytes(tenantId), number, hash.digest()]);
}

/** Returns how many bytes the lines have. */
export function policyBytes(policy: SealedPolicy): number {
  let bytes = 0;
  for (const line of lines(policy)) bytes += Buffer.byteLength(line);
  return bytes;
}

function* lines({ bindings, roles }: SealedPolicy): Iterable<string> {
  for (const binding of inOrder(bindings, ({ bindingId }) => bindingId))
    yield `${JSON.stringify(bindingLine(binding))}\n`;
  for (const role of inOrder(roles, ({ roleId }) => roleId))
    yield `${JSON.stringify(roleLine(role))}\n`;
}

function bindingLine(binding: SealedBinding): unknown[] {
  return [
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
  ];
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

function roleLine({ roleId, permissions, description, createdAt, creator }: SealedRole): unknown[] {
  return ['role', roleId, permissions, description, createdAt.getTime(), creator];
}

/** By the bytes of ids, which are ASCII. */
function inOrder<T>(items: readonly T[], idOf: (item: T) => string): T[] {
  return items.toSorted((a, b) => (idOf(a) < idOf(b) ? -1 : 1));
}
