/**
 * A tree of made-up leaves, and an agent asked to sign its checkpoints as the sequencer asks: with
 * each consistency proof that it says it lacks. By the words of RFC 6962, not by the code under
 * test.
 */
import type {
  CheckpointReply,
  CheckpointRequest,
  ResumeReply,
  ResumeSettings,
} from '../../src/hsm/protocol.ts';
import type { Agents } from '../../src/hsm/token-router.ts';
import { consistencyPath, inclusionPath, leafHashOf, merkleTreeHash } from './log.ts';

/** A tree that grows; trees of one seed have the same leaves. */
export interface MadeUpTree {
  /** Base64. */
  root(size: number): string;
  /** Base64, from one size to another. */
  proof(from: number, to: number): string[];
  /** Base64, of a leaf. */
  path(index: number, size: number): string[];
}

/** A tree in which a generation was begun, by the leaf at an index. */
export interface Begun {
  readonly tree: MadeUpTree;
  readonly leaf: string;
  readonly at: number;
}

/** What a note is to name. */
type Heads = Pick<ResumeSettings, 'generation' | 'left' | 'from' | 'before'>;

/** The made-up tree of the first generation, and a later one that goes on from its first leaves. */
export async function beginAt(
  at: number,
  sign: (heads: Heads) => Promise<Pick<ResumeReply, 'note'>>,
  generation = 2,
): Promise<Begun> {
  const head = (treeSize: number) => ({
    generation: 1,
    treeSize,
    rootHash: madeUpTree().root(treeSize),
  });
  const heads = { generation, left: head(at + 1), from: head(at), before: null };
  const { note: resumption } = await sign(heads);
  const leaf = JSON.stringify({ v: 1, detail: { resumption } });
  return { leaf, at, tree: madeUpTree('', { leaf, at }) };
}

export function madeUpTree(seed = '', begun?: Pick<Begun, 'leaf' | 'at'>): MadeUpTree {
  const leafOf = (index: number) => (index === begun?.at ? begun.leaf : `${seed}${index}`);
  const hashes = (size: number) =>
    Array.from({ length: size }, (_, index) => leafHashOf(leafOf(index)));
  return {
    path: (index, size) =>
      inclusionPath(index, hashes(size)).map((hash) => hash.toString('base64')),
    root: (size) => merkleTreeHash(hashes(size)).toString('base64'),
    proof: (from, to) => consistencyPath(from, hashes(to)).map((hash) => hash.toString('base64')),
  };
}

/** What is to be signed, besides the size. */
export interface Asked {
  readonly tree?: MadeUpTree;
  readonly generation?: number;
  /** How the generation was begun, if that is shown when it is asked for. */
  readonly begun?: Begun | undefined;
  readonly known?: readonly string[];
}

/** Has a checkpoint signed, or says what stands against it. */
export async function askToSign(
  agents: Pick<Agents, 'call'>,
  treeSize: number,
  deadline: number,
  { begun, tree = begun?.tree ?? madeUpTree(), generation = 1, known = [] }: Asked = {},
): Promise<CheckpointReply> {
  const claim = { generation, treeSize, rootHash: tree.root(treeSize), known };
  const proofs: { fromSize: number; hashes: string[] }[] = [];
  let shown: Pick<CheckpointRequest, 'resumption'> = {};
  for (;;) {
    const reply = await agents.call('signCheckpoint', { ...claim, proofs, ...shown }, deadline);
    if ('resumption' in reply && reply.resumption === 'needed' && begun !== undefined) {
      const { leaf, at } = begun;
      shown = { resumption: { leaf, inclusion: at < treeSize ? tree.path(at, treeSize) : [] } };
      continue;
    }
    if (!('needsProofFrom' in reply)) return reply;
    const { needsProofFrom: fromSize } = reply;
    if (proofs.some((proof) => proof.fromSize === fromSize)) return reply;
    proofs.push({ fromSize, hashes: tree.proof(fromSize, treeSize) });
  }
}
