/**
 * Notes that begin a generation of the audit log: an operator's word, signed by the log's key, that
 * the log goes on though it does not continue what was signed.
 *
 * ```
 *  keyward/v1/audit-resume
 *  <origin>                       of the generation that begins
 *  <origin> / <size> / <root>     three lines: the checkpoint that is left behind
 *  <origin> / <size> / <root>     three lines: the tree from which the log goes on
 *                                 an empty line
 *  — <origin> <base64(key hash (4) ‖ signature)>
 * ```
 *
 * The signature is made like a checkpoint's (`checkpoint.ts`), which no such text can be: its
 * second line is no number. The generation's first leaf is an entry that has the note in it, at the
 * index that is the size of the tree from which the log goes on. Knows no token and no tree.
 */
import { createPublicKey, verify } from 'node:crypto';
import type { EnvironmentId } from '../ids.ts';
import {
  type CheckpointClaim,
  checkpointText,
  generationOf,
  originOf,
  parseCheckpointText,
  parseNote,
  signatureLine,
  signatureOf,
} from './checkpoint.ts';

const HEADING = 'keyward/v1/audit-resume';

/** What a note says. */
export interface Resumption {
  /** The generation that begins. */
  readonly generation: number;
  /** The checkpoint that can't be continued. */
  readonly left: CheckpointClaim;
  /** The tree from which the log goes on, of an earlier generation; it may be empty. */
  readonly from: CheckpointClaim;
}

/** What is signed. */
export function resumptionText({ generation, left, from }: Resumption): string {
  const origin = originOf({ environmentId: from.environmentId, generation });
  return `${HEADING}\n${origin}\n${checkpointText(left)}${checkpointText(from)}`;
}

/** The note with its signature. */
export function resumptionNote(resumption: Resumption, spki: Buffer, signature: Buffer): string {
  const { generation, from } = resumption;
  const origin = originOf({ environmentId: from.environmentId, generation });
  return `${resumptionText(resumption)}\n${signatureLine(origin, spki, signature)}`;
}

/** What a note says, whoever has signed it; undefined for what is no such note of this log. */
export function parseResumption(
  note: string,
  environmentId: EnvironmentId,
): Resumption | undefined {
  const text = parseNote(note)?.text ?? '';
  const [heading, origin = '', ...heads] = text.split('\n');
  const generation = generationOf(origin, environmentId);
  const left = claimOf(heads.slice(0, 3), environmentId);
  const from = claimOf(heads.slice(3, 6), environmentId);
  if (heading !== HEADING || generation === undefined || left === undefined || from === undefined)
    return undefined;
  const resumption = { generation, left, from };
  const isEarlier = from.generation < generation && left.generation < generation;
  return isEarlier && resumptionText(resumption) === text ? resumption : undefined;
}

/** What a note says that this key has signed, alone; undefined for every other text. */
export function signedResumption(
  note: string,
  environmentId: EnvironmentId,
  spki: Buffer,
): Resumption | undefined {
  const resumption = parseResumption(note, environmentId);
  const signature = signatureOf(note);
  if (resumption === undefined || note !== resumptionNote(resumption, spki, signature))
    return undefined;
  const key = createPublicKey({ key: spki, format: 'der', type: 'spki' });
  const text = Buffer.from(resumptionText(resumption));
  return verify('sha256', text, key, signature) ? resumption : undefined;
}

/** The note in a generation's first leaf; undefined for another leaf. */
export function noteInLeaf(leaf: string): string | undefined {
  try {
    const { detail } = JSON.parse(leaf) as { detail?: { resumption?: unknown } };
    return typeof detail?.resumption === 'string' ? detail.resumption : undefined;
  } catch {
    return undefined;
  }
}

/** How a generation was begun, by its first leaf. */
export interface BegunGeneration extends Resumption {
  readonly leaf: string;
}

/**
 * How a generation was begun and those that it descends from, the latest first, by what is recorded
 * of them; none for the first. Undefined where one is not recorded as it must be. Verifies no
 * signature.
 */
export function chainOf(
  generation: number,
  leaves: ReadonlyMap<number, string>,
  environmentId: EnvironmentId,
): BegunGeneration[] | undefined {
  const chain: BegunGeneration[] = [];
  for (let next = generation; next > 1; ) {
    const leaf = leaves.get(next);
    const resumption = leaf && parseResumption(noteInLeaf(leaf) ?? '', environmentId);
    if (!leaf || !resumption || resumption.generation !== next) return undefined;
    chain.push({ ...resumption, leaf });
    next = resumption.from.generation;
  }
  return chain;
}

function claimOf(
  lines: readonly string[],
  environmentId: EnvironmentId,
): CheckpointClaim | undefined {
  const parsed = parseCheckpointText(lines.map((line) => `${line}\n`).join(''));
  const generation = parsed && generationOf(parsed.origin, environmentId);
  return parsed && generation !== undefined
    ? { environmentId, generation, treeSize: parsed.treeSize, rootHash: parsed.rootHash }
    : undefined;
}
