/**
 * Seals as the HSM makes them, for rows that tests have set as an older release, or time, would
 * have.
 *
 * Knows no test.
 */
import { childAgents } from '../../src/hsm/agent-starter.ts';
import { encodeFormerKeyState } from '../../src/hsm/key-state.ts';
import { RECORD } from '../../src/hsm/record-seal.ts';
import { type RecordAgent, withRecordAgent } from '../../src/hsm/token-commands.ts';
import type { TokenProfile } from '../../src/hsm/token-profile.ts';
import type { SealKeyId } from '../../src/ids.ts';
import { tokenObjectsOf } from '../../src/keyring/hsm-token/token-objects.ts';
import { withOwnerConnection } from '../../src/store/core/owner.ts';
import { readEnvironmentAsOwner } from '../../src/store/environment.ts';
import { fromStateRow, STATES, type StateRow } from '../../src/store/keys/key-states.ts';
import type { Environment } from './kit.ts';
import { sql } from './reconciling.ts';

/** Opens the environment's token for `work`, which gets the current seal key besides. */
export function withSealKey<T>(
  { urls, token, variables }: Environment,
  work: (agent: RecordAgent, sealKeyId: SealKeyId) => Promise<T>,
): Promise<T> {
  return withOwnerConnection(urls.owner, undefined, async (owner) => {
    const { environmentId, tokenProfile, tokenObjects } = await readEnvironmentAsOwner(owner);
    const current = tokenObjects.find(({ role, state }) => role === 'seal' && state === 'CURRENT');
    if (current === undefined) throw new Error('no seal key is current');
    const names = (variables['KEYWARD_HSM_ENVIRONMENT'] ?? '').split(',');
    return withRecordAgent(
      {
        environmentId,
        profile: tokenProfile as TokenProfile,
        objects: tokenObjectsOf(tokenObjects),
      },
      childAgents(
        { module: token.modulePath, token: token.label, pinFile: token.pinFile, waivers: [] },
        Object.fromEntries(names.map((name) => [name, variables[name] ?? ''])),
      ),
      (agent) => work(agent, current.objectId as unknown as SealKeyId),
    );
  });
}

/** Has a key sealed without its schedule, as an older release sealed it. */
export async function sealAsBefore(environment: Environment, keyId: string): Promise<void> {
  const [row] = await sql<StateRow & Record<string, unknown>>(
    environment,
    `SELECT ${STATES} FROM keys k WHERE k.key_id = $1`,
    [keyId],
  );
  if (row === undefined) throw new Error(`there is no key ${keyId}`);
  const contents = [encodeFormerKeyState(fromStateRow(row))];
  await withSealKey(environment, async (agent, sealKeyId) => {
    const { seals } = await agent.seal({ sealKeyId, kind: RECORD.formerKeyState, contents });
    await sql(
      environment,
      'UPDATE keys SET state_seal_key_id = $2, state_seal = $3 WHERE key_id = $1',
      [keyId, sealKeyId, seals[0]],
    );
  });
}
