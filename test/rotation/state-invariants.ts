/**
 * What has to hold of the seals of keys' states: at every instant, and when all is done.
 *
 * Asks real agents, by the same bytes as the service does.
 */
import { encodeKeyState } from '../../src/hsm/key-state.ts';
import { RECORD } from '../../src/hsm/record-seal.ts';
import type { KeyStateRecord } from '../../src/store/keys/key-states.ts';
import { type Invariant, nameOfKey, type Rows, type Seen } from './rows.ts';
import { soon } from './world.ts';

/** At every instant. */
export const STATES_ALWAYS: readonly Invariant[] = [
  { says: 'how every key stands is what its seal is of', broken: unsound },
  { says: 'keys of a shredded tenant have no seal', broken: sealedThoughShredded },
];

/** When nobody is at work any more. */
export const STATES_AT_THE_END: readonly Invariant[] = [
  { says: 'how every key stands is sealed by the current seal key', broken: leftUnderFormer },
];

async function unsound({ world, now }: Seen): Promise<string[]> {
  const found = await Promise.all(
    keptOf(now).map(async (state) => {
      const { sealKeyId, seal } = state;
      const name = nameOfKey(now, state.keyId);
      if (sealKeyId === null || seal === null) return [`${name} is not sealed`];
      const items = [{ content: encodeKeyState(state), seal }];
      const request = { sealKeyId, kind: RECORD.keyState, items };
      const { verified } = await world.agents.call('verifyRecords', request, soon());
      return verified[0] === 1 ? [] : [`${name}, by ${sealKeyId}`];
    }),
  );
  return found.flat();
}

function sealedThoughShredded({ now }: Seen): string[] {
  const kept = keptOf(now);
  const shredded = now.states.filter((state) => !kept.includes(state));
  return shredded.filter(({ seal }) => seal !== null).map(({ keyId }) => nameOfKey(now, keyId));
}

function leftUnderFormer({ now }: Seen): string[] {
  const current = now.tokenKeys.find(({ role, isCurrent }) => role === 'seal' && isCurrent);
  return keptOf(now)
    .filter(({ sealKeyId }) => `${sealKeyId}` !== `${current?.id}`)
    .map(({ keyId }) => nameOfKey(now, keyId));
}

function keptOf({ states, tenants }: Rows): KeyStateRecord[] {
  const shredded = new Set(tenants.filter(({ state }) => state === 'SHREDDED').map(({ id }) => id));
  return states.filter(({ tenantId }) => !shredded.has(tenantId));
}
