/**
 * Root and seal keys in the HSM token off the wire, in friendly types.
 *
 * Its invariant: what is newer than this client is `UNSPECIFIED`, never an error. Knows nothing of
 * methods.
 */
import type { TokenKey__Output } from './generated/keyward/v1/TokenKey.ts';
import type { TokenKeyState__Output } from './generated/keyward/v1/TokenKeyState.ts';
import type * as m from './messages.ts';
import { date, dateIfAny } from './times.ts';
import { objectRole } from './token-status.ts';

const STATES = {
  TOKEN_KEY_STATE_UNSPECIFIED: 'UNSPECIFIED',
  TOKEN_KEY_STATE_CREATING: 'CREATING',
  TOKEN_KEY_STATE_CREATED: 'CREATED',
  TOKEN_KEY_STATE_CURRENT: 'CURRENT',
  TOKEN_KEY_STATE_RETIRED: 'RETIRED',
  TOKEN_KEY_STATE_ABANDONED: 'ABANDONED',
  TOKEN_KEY_STATE_DESTROYING: 'DESTROYING',
  TOKEN_KEY_STATE_DESTROYED: 'DESTROYED',
} as const satisfies Record<TokenKeyState__Output, m.TokenKeyState>;

// A value that the proto files here don't have yet arrives as its number, whatever the types say:
// hence `??` below.

export function tokenKey(wire: TokenKey__Output): m.TokenKey {
  return {
    name: wire.name,
    role: objectRole(wire.role),
    state: STATES[wire.state] ?? 'UNSPECIFIED',
    createTime: date(wire.createTime),
    activateTime: dateIfAny(wire.activateTime),
    retireTime: dateIfAny(wire.retireTime),
    destroyTime: dateIfAny(wire.destroyTime),
    caller: wire.caller,
    rewrapJob: wire.rewrapJob,
    keyVersions: wire.keyVersions,
    sealedRecords: wire.sealedRecords,
  };
}
