/**
 * Whether the log as it is continues what was signed of it: what tells that an older database has
 * taken its place.
 *
 * Knows neither where checkpoints are kept nor what follows.
 */
import { generationOf, parseCheckpointText, parseNote } from '../hsm/checkpoint.ts';
import type { BegunGeneration } from '../hsm/resumption.ts';
import type { EnvironmentId } from '../ids.ts';
import type { TreeReader } from './tree.ts';

/** The log, as far as it matters here. */
export interface LogState {
  readonly environmentId: EnvironmentId;
  readonly generation: number;
  readonly treeSize: number;
}

type Roots = Pick<TreeReader, 'root'>;

/**
 * How the log's generation stands against what is recorded of how it was begun, in words; undefined
 * where it was begun as it must be. Whether the notes are signed is for agents to say.
 */
export async function unbegun(
  { generation, treeSize }: LogState,
  chain: readonly BegunGeneration[] | undefined,
  reader: Roots,
): Promise<string | undefined> {
  if (chain === undefined)
    return `the log is of generation ${generation}, and no operator’s note has begun it`;
  for (const { generation: begun, from } of chain) {
    const is =
      from.treeSize <= treeSize && (await reader.root(from.treeSize)).equals(from.rootHash);
    if (!is) return `the log does not begin with the tree from which generation ${begun} goes on`;
  }
  return undefined;
}

/**
 * How checkpoints that were signed stand against the log as it is, in words; undefined where none
 * does.
 */
export async function contradictionOf(
  notes: readonly string[],
  log: LogState,
  reader: Roots,
): Promise<string | undefined> {
  for (const note of notes) {
    const contradiction = await contradictionOfOne(note, log, reader);
    if (contradiction !== undefined) return contradiction;
  }
  return undefined;
}

async function contradictionOfOne(
  note: string,
  { environmentId, generation, treeSize }: LogState,
  reader: Roots,
): Promise<string | undefined> {
  const signed = parseCheckpointText(parseNote(note)?.text ?? '');
  if (signed === undefined) return 'what is kept as the last checkpoint is not a checkpoint';
  const signedGeneration = generationOf(signed.origin, environmentId);
  if (signedGeneration === undefined)
    return `the kept checkpoint is of another log, ${signed.origin}`;
  // An operator has seen that, and had the log go on.
  if (signedGeneration < generation) return undefined;
  if (signedGeneration > generation)
    return `the kept checkpoint is of the log’s generation ${signedGeneration}, and this is generation ${generation}`;
  if (signed.treeSize > treeSize)
    return `the log has ${treeSize} leaves, but a checkpoint of ${signed.treeSize} was signed`;
  if (!(await reader.root(signed.treeSize)).equals(signed.rootHash))
    return `the log’s first ${signed.treeSize} leaves are not the ones in the signed checkpoint`;
  return undefined;
}
