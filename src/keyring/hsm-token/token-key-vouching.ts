/**
 * Token keys verified and sealed by operators' commands: each change as a service makes it, and the
 * first seal, for which an operator vouches (`token init`, `token seal-states`).
 *
 * Invariants: what doesn't verify is changed by no command; what is sealed is never sealed over,
 * and what is sealed first is told before. Remembers nothing: an older set that was put back with
 * its seal verifies here. Knows no PKCS#11 and no SQL.
 */
import { RECORD } from '../../hsm/record-seal.ts';
import type { RecordAgent } from '../../hsm/token-commands.ts';
import { encodeTokenKeySet } from '../../hsm/token-key-set.ts';
import type { OwnerConnection } from '../../store/core/owner.ts';
import {
  findTokenKeySet,
  type TokenKeySealer,
  type TokenKeySet,
  type TokenKeySetRecord,
  vouchForTokenKeys,
} from '../../store/hsm-token/token-key-set.ts';

/**
 * Verifies by one agent and seals by another, or the same. Throws Error, in words for the operator.
 */
export function operatorSealer(
  { verify }: Pick<RecordAgent, 'verify'>,
  { seal }: Pick<RecordAgent, 'seal'>,
): TokenKeySealer {
  return {
    verify: async (set) => {
      if (set?.seal === null)
        throw new Error(
          'cannot change token keys: what the database records of them is not sealed; run `keyward-server token seal-states`',
        );
      if (!(await isSound(verify, set))) throw new Error(CORRUPT);
    },
    seal: async (set, sealKeyId) => {
      const contents = [encodeTokenKeySet(set)];
      const { seals } = await seal({ sealKeyId, kind: RECORD.tokenKeySet, contents });
      if (seals[0] === undefined) throw new Error('an agent sealed nothing');
      return Buffer.from(seals[0]);
    },
  };
}

const CORRUPT =
  'cannot change token keys: what the database records of them failed verification; docs/root-keys.md says what to do';

async function isSound(
  verify: RecordAgent['verify'],
  set: TokenKeySetRecord | undefined,
): Promise<boolean> {
  if (set === undefined || set.sealKeyId === null || set.seal === null) return false;
  const content = contentOf(set);
  if (content === undefined) return false;
  const { sealKeyId, seal } = set;
  const items = [{ content, seal }];
  const { verified } = await verify({ sealKeyId, kind: RECORD.tokenKeySet, items });
  return verified[0] === 1;
}

function contentOf(set: TokenKeySet): Buffer | undefined {
  try {
    return encodeTokenKeySet(set);
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

export interface SealTokenKeysParts {
  readonly owner: OwnerConnection;
  readonly agent: RecordAgent;
  /** Only look. */
  readonly dryRun: boolean;
  /** Hears, in words for the operator, what there is and what was done. */
  readonly say: (line: string) => void;
}

/**
 * Seals token keys where they aren't sealed, as the database has them. Throws Error, in words for
 * the operator, for those whose seal doesn't match.
 */
export async function sealTokenKeys({
  owner,
  agent,
  dryRun,
  say,
}: SealTokenKeysParts): Promise<void> {
  const tx = { query: owner.query };
  const set = await findTokenKeySet(tx);
  if (set === undefined || (set.seal !== null && !(await isSound(agent.verify, set))))
    throw new Error(CORRUPT);
  if (set.seal !== null) return say('the token keys are already sealed');
  say(`the ${set.objects.length} token keys of ${set.tokens.length} tokens are not sealed:`);
  for (const { role, objectId, tenant, state, tokenId } of set.objects)
    say(`  ${role} ${objectId} of ${tenant}, in token ${tokenId}: ${state}`);
  if (dryRun) return;
  const sealer = operatorSealer(agent, agent);
  await owner.transaction(() => vouchForTokenKeys(tx, sealer));
  say('sealed the token keys');
}
