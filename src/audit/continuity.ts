/**
 * Whether the log as it is continues what was signed of it: what tells that an older database has taken its place.
 *
 * Knows neither where checkpoints are kept nor what follows.
 */
import { originOf, parseCheckpointText, parseNote } from '../hsm/checkpoint.ts';
import type { EnvironmentId } from '../ids.ts';
import type { TreeReader } from './tree.ts';

/** The log, as far as it matters here. */
export interface LogState {
  readonly environmentId: EnvironmentId;
  readonly generation: number;
  readonly treeSize: number;
}

/** How a checkpoint that was signed stands against the log as it is, in words; undefined where it doesn't. */
export async function contradictionOf(
  note: string,
  { environmentId, generation, treeSize }: LogState,
  reader: Pick<TreeReader, 'root'>,
): Promise<string | undefined> {
  const signed = parseCheckpointText(parseNote(note)?.text ?? '');
  if (signed === undefined) return 'what is kept as the last checkpoint is none';
  const signedGeneration = generationOf(signed.origin, environmentId);
  if (signedGeneration === undefined) return `a checkpoint of another log is kept, ${signed.origin}`;
  // An operator has seen that, and had the log go on.
  if (signedGeneration < generation) return undefined;
  if (signedGeneration > generation)
    return `a checkpoint of the log’s generation ${signedGeneration} is kept, and this is generation ${generation}`;
  if (signed.treeSize > treeSize)
    return `the log has ${treeSize} leaves, and a checkpoint of ${signed.treeSize} was signed`;
  if (!(await reader.root(signed.treeSize)).equals(signed.rootHash))
    return `the log’s first ${signed.treeSize} leaves are not those that a checkpoint was signed of`;
  return undefined;
}

/** Which generation of an environment's log has that origin; undefined for none. */
export function generationOf(origin: string, environmentId: EnvironmentId): number | undefined {
  const first = originOf({ environmentId, generation: 1 });
  const generation = origin === first ? 1 : Number(origin.slice(first.length + 1));
  return origin === originOf({ environmentId, generation }) ? generation : undefined;
}
