/**
 * How long the audit log is, and how much of it is signed and cosigned, for metrics.
 *
 * Nothing that is read here has been verified, and nothing is done because of it.
 */
import { atMost } from '../core/batches.ts';
import type { Tx } from '../core/transaction.ts';
import { type AuditState, findAuditState } from './audit-log.ts';

/** Rows of the inbox are counted up to so many. */
const MOST_ROWS = 10_000;
/** A witness is looked for in so many of the last checkpoints that have any cosignature. */
const CHECKPOINTS = 100;

/** How the audit log stands. */
export interface AuditFigures extends Pick<AuditState, 'treeSize' | 'generation'> {
  /** Rows that wait to become leaves, up to {@link MOST_ROWS}. */
  readonly inboxRows: number;
  /** The last checkpoint; undefined where there is none. */
  readonly checkpoint: { readonly treeSize: number; readonly signedAt: Date } | undefined;
  /** When the newest checkpoint was signed that each witness has cosigned, by the witness' name. */
  readonly cosigned: ReadonlyMap<string, Date>;
}

interface Cosigned extends Record<string, unknown> {
  readonly cosignatures: readonly string[];
  readonly signedAt: Date;
}

/** Returns how the audit log stands. */
export async function findAuditFigures(tx: Tx): Promise<AuditFigures> {
  const { treeSize, generation } = await findAuditState(tx);
  const [inbox] = await tx.query<{ rows: number }>(
    `SELECT count(*)::float8 AS rows FROM (SELECT FROM audit_inbox ${atMost('$1')}) waiting`,
    [MOST_ROWS],
  );
  const [checkpoint] = await tx.query<{ treeSize: number; signedAt: Date }>(
    `SELECT tree_size::float8 AS "treeSize", signed_at AS "signedAt" FROM audit_checkpoints
     ORDER BY generation DESC, tree_size DESC LIMIT 1`,
  );
  const cosigned = await tx.query<Cosigned>(
    `SELECT cosignatures, signed_at AS "signedAt" FROM audit_checkpoints
     WHERE cosignatures <> '{}' ORDER BY generation DESC, tree_size DESC ${atMost('$1')}`,
    [CHECKPOINTS],
  );
  return {
    ...{ treeSize, generation, checkpoint },
    inboxRows: inbox?.rows ?? 0,
    cosigned: newestByWitness(cosigned),
  };
}

/** Of checkpoints, the newest first, each witness' first. */
function newestByWitness(checkpoints: readonly Cosigned[]): ReadonlyMap<string, Date> {
  const newest = new Map<string, Date>();
  for (const { cosignatures, signedAt } of checkpoints)
    for (const line of cosignatures) {
      const [, witness = ''] = line.split(' ');
      if (!newest.has(witness)) newest.set(witness, signedAt);
    }
  return newest;
}
