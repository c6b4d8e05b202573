/**
 * What can be wrong with an export of the audit log.
 */

/**
 * EXPORT: it isn't whole, or isn't one. CHECKPOINT: nobody who is trusted has signed it. ORIGIN: a
 * checkpoint known before is of another log, or of this one before it was begun anew. CUT: a larger
 * tree was signed before. FORK: another tree was signed. RESUMPTION: a generation after the first
 * was not begun by an operator's note. ROOT, TILE: the tree isn't what was
 * signed. FILE: one is there that doesn't belong. ENTRY: one isn't what was logged.
 * APPROVAL: what an entry says of an approval isn't borne out.
 */
export type AuditProblem =
  | 'EXPORT'
  | 'CHECKPOINT'
  | 'ORIGIN'
  | 'CUT'
  | 'FORK'
  | 'RESUMPTION'
  | 'ROOT'
  | 'TILE'
  | 'FILE'
  | 'ENTRY'
  | 'APPROVAL';

/** An export that doesn't prove what it claims. Act on `problem`. */
export class AuditVerificationError extends Error {
  override readonly name = 'AuditVerificationError';
  readonly problem: AuditProblem;
  /**
   * The first entry that is wrong, by its place in the log; all before it are right. Of the
   * problems ENTRY and APPROVAL.
   */
  readonly leafIndex: number | undefined;
  /** The file that is wrong, relative to the export's folder; of the problems TILE and FILE. */
  readonly file: string | undefined;

  constructor(
    problem: AuditProblem,
    message: string,
    facts: { readonly leafIndex?: number; readonly file?: string; readonly cause?: unknown } = {},
  ) {
    super(message, { cause: facts.cause });
    this.problem = problem;
    this.leafIndex = facts.leafIndex;
    this.file = facts.file;
  }
}
