/**
 * What callers did, as rows: an hour of a caller each, added up over replicas, and the keys that
 * callers have used.
 *
 * By the database's clock. What is kept goes after {@link KEPT_DAYS} days. Judges nothing.
 */
import type { Deadline } from '../core/transaction.ts';
import type { Store } from '../store.ts';

/** Days for which a caller's hours are kept, and for which a key that was used stays known. */
const KEPT_DAYS = { hours: 28, keys: 90 } as const;

/** What a replica has counted of one caller since its last report. */
export interface CallerReport {
  readonly caller: string;
  readonly encrypts: number;
  readonly decrypts: number;
  readonly others: number;
  readonly failures: number;
  /** Names of the keys used. */
  readonly keys: Iterable<string>;
}

/** What one caller did in one hour, on all replicas. */
export interface CallerHourRecord extends Omit<CallerReport, 'keys'> {
  /** When the hour began. */
  readonly hour: Date;
  /** Keys that the caller had not used before. */
  readonly newKeys: number;
}

interface Row {
  readonly caller: string;
  readonly hour: Date;
  readonly encrypts: string;
  readonly decrypts: string;
  readonly others: string;
  readonly failures: string;
  readonly new_keys: string;
}

const COLUMNS = 'caller, hour, encrypts, decrypts, others, failures, new_keys';

/** Adds reports to the present hour, and returns what that hour has of those callers now. */
export function addCallerReports(
  store: Pick<Store, 'reconcile'>,
  call: Deadline,
  reports: readonly CallerReport[],
): Promise<readonly CallerHourRecord[]> {
  const uses = reports.flatMap(({ caller, keys }) => [...keys].map((key) => ({ caller, key })));
  return store.reconcile(call, async (tx) => {
    // In one order each, so that replicas wait for each other and never in a circle.
    const used = await tx.query<{ caller: string; is_new: boolean }>(
      `INSERT INTO caller_keys AS k (caller, key)
       SELECT * FROM unnest($1::text[], $2::text[]) AS u (caller, key) ORDER BY caller, key
       ON CONFLICT (caller, key) DO UPDATE SET last_used_at = now()
         WHERE k.last_used_at < now() - interval '1 day'
       RETURNING caller, xmax = 0 AS is_new`,
      [uses.map(({ caller }) => caller), uses.map(({ key }) => key)],
    );
    const isNew = Map.groupBy(used, ({ caller, is_new }) => (is_new ? caller : undefined));
    const column = (of: (report: CallerReport) => number) => reports.map(of);
    const rows = await tx.query<Row>(
      `INSERT INTO caller_hours AS h (${COLUMNS})
       SELECT caller, date_trunc('hour', now(), 'UTC'), encrypts, decrypts, others, failures, new_keys
       FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
         AS r (caller, encrypts, decrypts, others, failures, new_keys) ORDER BY caller
       ON CONFLICT (caller, hour) DO UPDATE SET encrypts = h.encrypts + excluded.encrypts,
         decrypts = h.decrypts + excluded.decrypts, others = h.others + excluded.others,
         failures = h.failures + excluded.failures, new_keys = h.new_keys + excluded.new_keys
       RETURNING ${COLUMNS}`,
      [
        reports.map(({ caller }) => caller),
        column(({ encrypts }) => encrypts),
        column(({ decrypts }) => decrypts),
        column(({ others }) => others),
        column(({ failures }) => failures),
        column(({ caller }) => isNew.get(caller)?.length ?? 0),
      ],
    );
    return rows.map(recordOf);
  });
}

/** Returns the hours of some callers before the present one. */
export function findCallerHours(
  store: Pick<Store, 'reconcile'>,
  call: Deadline,
  callers: readonly string[],
): Promise<readonly CallerHourRecord[]> {
  return store.reconcile(call, async (tx) => {
    const rows = await tx.query<Row>(
      `SELECT ${COLUMNS} FROM caller_hours WHERE caller = ANY($1::text[])
         AND hour < date_trunc('hour', now(), 'UTC')
         AND hour >= now() - make_interval(days => ${KEPT_DAYS.hours})`,
      [callers],
    );
    return rows.map(recordOf);
  });
}

/** Deletes what is over its time. */
export function removeOldCallerHours(
  store: Pick<Store, 'reconcile'>,
  call: Deadline,
): Promise<void> {
  return store.reconcile(call, async (tx) => {
    await tx.query(
      `DELETE FROM caller_hours WHERE hour < now() - make_interval(days => ${KEPT_DAYS.hours})`,
    );
    await tx.query(
      `DELETE FROM caller_keys WHERE last_used_at < now() - make_interval(days => ${KEPT_DAYS.keys})`,
    );
  });
}

function recordOf({ caller, hour, new_keys, ...counts }: Row): CallerHourRecord {
  return {
    caller,
    hour,
    encrypts: Number(counts.encrypts),
    decrypts: Number(counts.decrypts),
    others: Number(counts.others),
    failures: Number(counts.failures),
    newKeys: Number(new_keys),
  };
}
