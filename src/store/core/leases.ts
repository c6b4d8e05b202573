/**
 * Leases and sightings by the database's clock, which may be set back: what is further ahead than
 * one lease was written by another clock, and counts as over. Otherwise the log of an hour would
 * wait for a holder that is long gone.
 *
 * `clock_timestamp()`, since another transaction may have begun after this one.
 */

/** Whether a lease of that length is over, which ends at `until`. */
export const isOver = (until: string, length: string) =>
  `(${until} <= clock_timestamp() OR ${until} > clock_timestamp() + ${length})`;

/** Whether something was seen at `at`, and not longer ago than `silence`. */
export const isRecent = (at: string, silence: string) =>
  `(${at} > clock_timestamp() - ${silence} AND ${at} <= clock_timestamp() + ${silence})`;
