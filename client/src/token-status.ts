/**
 * The HSM token's status off the wire, in friendly types.
 *
 * Its invariant: an answer that isn't whole is refused, and what is newer than this client is
 * `UNSPECIFIED`, never an error. Knows nothing of methods.
 */
import type { TokenAttributeState__Output } from './generated/keyward/v1/TokenAttributeState.ts';
import type { TokenObject__Output } from './generated/keyward/v1/TokenObject.ts';
import type { TokenObjectCondition__Output } from './generated/keyward/v1/TokenObjectCondition.ts';
import type { TokenObjectRole__Output } from './generated/keyward/v1/TokenObjectRole.ts';
import type { TokenStatus__Output } from './generated/keyward/v1/TokenStatus.ts';
import type * as m from './messages.ts';

const ROLES = {
  TOKEN_OBJECT_ROLE_UNSPECIFIED: 'UNSPECIFIED',
  TOKEN_OBJECT_ROLE_ROOT: 'ROOT',
  TOKEN_OBJECT_ROLE_SEAL: 'SEAL',
  TOKEN_OBJECT_ROLE_MASK: 'MASK',
  TOKEN_OBJECT_ROLE_AUDIT_SIGNING: 'AUDIT_SIGNING',
} as const satisfies Record<TokenObjectRole__Output, m.TokenObjectRole>;

const CONDITIONS = {
  TOKEN_OBJECT_CONDITION_UNSPECIFIED: 'UNSPECIFIED',
  TOKEN_OBJECT_CONDITION_FOUND: 'FOUND',
  TOKEN_OBJECT_CONDITION_MISSING: 'MISSING',
  TOKEN_OBJECT_CONDITION_DUPLICATED: 'DUPLICATED',
  TOKEN_OBJECT_CONDITION_MISLABELLED: 'MISLABELLED',
} as const satisfies Record<TokenObjectCondition__Output, m.TokenObjectCondition>;

const ATTRIBUTE_STATES = {
  TOKEN_ATTRIBUTE_STATE_UNSPECIFIED: 'UNSPECIFIED',
  TOKEN_ATTRIBUTE_STATE_ENFORCED: 'ENFORCED',
  TOKEN_ATTRIBUTE_STATE_WAIVED: 'WAIVED',
  TOKEN_ATTRIBUTE_STATE_UNSUPPORTED: 'UNSUPPORTED',
  TOKEN_ATTRIBUTE_STATE_VIOLATED: 'VIOLATED',
} as const satisfies Record<TokenAttributeState__Output, m.TokenAttributeState>;

// A value that the proto files here don't have yet arrives as its number, whatever the types say:
// hence `??` below.

export function tokenStatus(wire: TokenStatus__Output): m.TokenStatus {
  const { module, profile } = wire;
  if (module === null || profile === null)
    throw new Error('the answer lacks the module or the profile');
  return { ...wire, module, profile, objects: wire.objects.map(tokenObject) };
}

export function objectRole(wire: TokenObjectRole__Output): m.TokenObjectRole {
  return ROLES[wire] ?? 'UNSPECIFIED';
}

function tokenObject(wire: TokenObject__Output): m.TokenObject {
  return {
    ...wire,
    role: objectRole(wire.role),
    condition: CONDITIONS[wire.condition] ?? 'UNSPECIFIED',
    attributes: wire.attributes.map(({ name, requiredValue, state }) => ({
      name,
      requiredValue,
      state: ATTRIBUTE_STATES[state] ?? 'UNSPECIFIED',
    })),
  };
}
