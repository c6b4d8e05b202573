/**
 * The log's side of C2SP tlog-witness: how a witness is handed a checkpoint, and what its answer
 * means.
 *
 * Invariants: an answer has 5 seconds and 64 KiB, and can send nobody elsewhere; one that the
 * specification doesn't have is an Error, in words that are the same for the same trouble. Knows
 * neither which checkpoint is due nor whether a cosignature is good.
 */

import { textOf } from './answer.ts';

const TIMEOUT_MS = 5_000;
/**
 * Cosignatures are a hundred bytes, and post-quantum ones of other keys, which are ignored, up to 5
 * KB.
 */
const MAX_BYTES = 65_536;
const TOO_LARGE = 'its answer is too large';
const SIZE_TYPE = 'text/x.tlog.size';

/** A checkpoint, and the proof that it continues what the witness has cosigned before. */
export interface Submission {
  /**
   * The size of that, which isn't larger than the checkpoint's; 0 if it has cosigned nothing, or
   * that isn't known.
   */
  readonly oldSize: number;
  /**
   * The consistency proof from there (RFC 6962, 2.1.2); none for 0. A witness takes up to 63
   * hashes, and no two sizes that are safe integers have more than 54.
   */
  readonly proof: readonly Buffer[];
  /** The checkpoint, a signed note. */
  readonly note: string;
}

/** What a witness answers. */
export type WitnessAnswer =
  /** It has cosigned: lines of a signed note, whosever they are. */
  | { readonly kind: 'cosigned'; readonly lines: string }
  /** It has cosigned a checkpoint of this size last, and not of `oldSize`. */
  | { readonly kind: 'elsewhere'; readonly size: number }
  /** The checkpoint is no continuation of what it has cosigned. */
  | { readonly kind: 'inconsistent' };

/**
 * Hands a checkpoint to the witness with that submission prefix. Throws an Error when it answers
 * nothing, or refuses, or what no witness answers; and when `signal` ends it.
 */
export async function addCheckpoint(
  url: string,
  submission: Submission,
  signal: AbortSignal,
): Promise<WitnessAnswer> {
  const response = await fetch(`${url}/add-checkpoint`, {
    method: 'POST',
    headers: { 'content-type': 'text/plain; charset=utf-8' },
    body: bodyOf(submission),
    redirect: 'manual',
    signal: AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]),
  });
  const { status, headers } = response;
  if (status === 200)
    return { kind: 'cosigned', lines: await textOf(response, MAX_BYTES, TOO_LARGE) };
  if (status === 409 && headers.get('content-type') === SIZE_TYPE)
    return { kind: 'elsewhere', size: parseSize(await textOf(response, MAX_BYTES, TOO_LARGE)) };
  await response.body?.cancel();
  // Version 1.0.0 has 409 for two trees of one size, later drafts 422 as for a proof that doesn't
  // hold.
  if (status === 409 || status === 422) return { kind: 'inconsistent' };
  throw new Error(`it answers with status ${status}`);
}

function bodyOf({ oldSize, proof, note }: Submission): string {
  const lines = [`old ${oldSize}`, ...proof.map((hash) => hash.toString('base64')), ''];
  return lines.map((line) => `${line}\n`).join('') + note;
}

function parseSize(text: string): number {
  const size = Number(text);
  if (!/^(0|[1-9]\d{0,15})\n$/.test(text) || !Number.isSafeInteger(size))
    throw new Error('its answer of status 409 is not a tree size');
  return size;
}
