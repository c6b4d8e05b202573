/**
 * Alerts as rows, and the outbox of what is to be delivered of them.
 *
 * - Of one condition and subject there is at most one active alert, for all replicas.
 * - What is to be delivered of an alert is written in the transaction that decides it, once.
 * - A delivery that a replica takes up is nobody else's for {@link TAKEN}; by the database's clock.
 * - What receivers are, and what they are told, is not known here.
 */
import type { AnyId, TenantId } from '../../ids.ts';
import type { AlertId, Severity } from '../../signals/alerts.ts';
import { type Condition, type FilterColumns, whereClause } from '../core/conditions.ts';
import { isOver, isRecent } from '../core/leases.ts';
import type { Query, Tx } from '../core/transaction.ts';

/** How long a replica has to deliver what it has taken up. */
const TAKEN = "interval '30 seconds'";
/** No attempt is put off for longer. */
const LONGEST = "interval '1 hour'";
/** An alert that was not found again for so long has ended. */
const QUIET = "interval '1 hour'";
/** An alert that has ended is kept for so long. */
const KEPT = "interval '30 days'";
/** What nobody could deliver within this, is given up, whatever the receivers’ file says. */
const LONGEST_TRIES = "interval '7 days'";

/** What an alert is told by. */
export interface AlertKey {
  readonly condition: AlertId;
  readonly subject: string;
}

/** An alert that was found, once or more often. */
export interface FoundAlert extends AlertKey {
  /** Its UUID, if none of its condition and subject is active. */
  readonly alertId: AnyId;
  readonly severity: Severity;
  readonly count: number;
  /** In JSON. */
  readonly fields: string;
  /** How long ago it was found first, in milliseconds. */
  readonly ageMs: number;
}

/** An alert, from when it was found first until it has ended. */
export interface AlertRecord extends AlertKey {
  readonly alertId: AnyId;
  readonly severity: Severity;
  readonly state: 'ACTIVE' | 'RESOLVED';
  readonly count: number;
  readonly firstAt: Date;
  readonly lastAt: Date;
  readonly resolvedAt: Date | null;
  readonly replica: string;
  /** In JSON. */
  readonly fields: string;
}

/** What a receiver is told of an alert: that it is there, or that it has ended. */
export type DeliveryEvent = 'raised' | 'resolved';

/** Which delivery it is. */
export interface DeliveryKey {
  readonly alertId: AnyId;
  readonly event: DeliveryEvent;
  readonly receiver: string;
}

/** A delivery that this replica has taken up. */
export interface TakenDelivery extends DeliveryKey {
  readonly alert: AlertRecord;
  /** With this one. */
  readonly attempts: number;
  /** How long ago it was decided. */
  readonly ageMs: number;
}

const ALERT = `a.alert_id AS "alertId", a.condition, a.subject, a.severity, a.state, a.count::float8 AS count,
  a.first_at AS "firstAt", a.last_at AS "lastAt", a.resolved_at AS "resolvedAt", a.replica, a.fields`;

/** Writes alerts that were found. Returns the keys that they have from then on, in their order. */
export async function recordAlerts(
  tx: Tx,
  tenantId: TenantId,
  replica: string,
  found: readonly FoundAlert[],
): Promise<readonly (AlertKey & { readonly alertId: AnyId })[]> {
  const of = <Name extends keyof FoundAlert>(name: Name) => found.map((each) => each[name]);
  return tx.query<AlertKey & { readonly alertId: AnyId }>(
    `INSERT INTO alerts (tenant_id, replica, alert_id, condition, subject, severity, count, fields, first_at)
     SELECT $1, $2, alert_id, condition, subject, severity, count, fields,
       clock_timestamp() - age_ms * interval '1 millisecond'
     FROM unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::text[], $9::float8[])
       AS f (alert_id, condition, subject, severity, count, fields, age_ms)
     ORDER BY condition, subject
     ON CONFLICT (tenant_id, condition, subject) WHERE state = 'ACTIVE' DO UPDATE SET
       count = alerts.count + excluded.count, last_at = excluded.last_at, replica = excluded.replica,
       fields = excluded.fields
     RETURNING alert_id AS "alertId", condition, subject`,
    [
      tenantId,
      replica,
      of('alertId'),
      of('condition'),
      of('subject'),
      of('severity'),
      of('count'),
      of('fields'),
      of('ageMs'),
    ],
  );
}

/** An active alert that was found again. */
export interface RepeatedAlert extends AlertKey {
  /** How often; 0 for one whose condition lasts, and is not found a second time. */
  readonly count: number;
  /** In JSON; null where nothing else was found. */
  readonly fields: string | null;
}

/** Says of active alerts that their condition lasts. One that has ended meanwhile stays ended. */
export async function repeatAlerts(
  tx: Tx,
  replica: string,
  repeated: readonly RepeatedAlert[],
): Promise<void> {
  await tx.query(
    `UPDATE alerts a SET last_at = clock_timestamp(), count = a.count + r.count, replica = $1,
       fields = coalesce(r.fields, a.fields)
     FROM unnest($2::text[], $3::text[], $4::bigint[], $5::text[]) AS r (condition, subject, count, fields)
     WHERE a.state = 'ACTIVE' AND a.condition = r.condition AND a.subject = r.subject`,
    [
      replica,
      repeated.map(({ condition }) => condition),
      repeated.map(({ subject }) => subject),
      repeated.map(({ count }) => count),
      repeated.map(({ fields }) => fields),
    ],
  );
}

/** Ends alerts whose condition has ended, and those that were not found again for an hour. */
export async function resolveAlerts(tx: Tx, ended: readonly AlertKey[]): Promise<AlertKey[]> {
  return tx.query<AlertKey & Record<string, unknown>>(
    `UPDATE alerts SET state = 'RESOLVED', resolved_at = clock_timestamp()
     WHERE state = 'ACTIVE' AND (NOT ${isRecent('last_at', QUIET)}
       OR (condition, subject) IN (SELECT * FROM unnest($1::text[], $2::text[])))
     RETURNING condition, subject`,
    [ended.map(({ condition }) => condition), ended.map(({ subject }) => subject)],
  );
}

/** An alert of which it is to be decided what is delivered. */
export interface UnplannedAlert extends AlertRecord {
  readonly raisedIsPlanned: boolean;
  /** How many others of its condition were delivered within the last hour. */
  readonly others: number;
}

/** Returns alerts of which it is to be decided what is delivered, and holds them. */
export function lockUnplanned(tx: Tx, limit: number): Promise<UnplannedAlert[]> {
  return tx.query<UnplannedAlert & Record<string, unknown>>(
    `SELECT ${ALERT}, a.raised_is_planned AS "raisedIsPlanned",
       (SELECT count(*)::integer FROM alerts o WHERE o.condition = a.condition AND o.raised_is_planned
         AND o.last_at > clock_timestamp() - ${QUIET}) AS others
     FROM alerts a
     WHERE (NOT a.raised_is_planned OR NOT a.resolved_is_planned)
       AND (NOT a.raised_is_planned OR a.state = 'RESOLVED')
     ORDER BY a.first_at LIMIT $1 FOR UPDATE OF a SKIP LOCKED`,
    [limit],
  );
}

/** What was decided of an alert. */
export interface Plan {
  readonly alertId: AnyId;
  readonly event: DeliveryEvent;
  readonly receivers: readonly string[];
}

/**
 * Puts into the outbox what is to be delivered; those that `delivered` names are delivered. That an
 * alert has ended goes to those only that it went to when it was raised.
 */
export async function writePlans(
  tx: Tx,
  tenantId: TenantId,
  plans: readonly Plan[],
  delivered: readonly DeliveryKey[] = [],
): Promise<void> {
  const wasDelivered = new Set(delivered.map(nameOf));
  const rows = plans.flatMap(({ alertId, event, receivers }) =>
    receivers.map((receiver) => ({ alertId, event, receiver })),
  );
  await tx.query(
    `INSERT INTO alert_deliveries (tenant_id, alert_id, event, receiver, state, ended_at)
     SELECT $1, alert_id, event, receiver, CASE WHEN done THEN 'DELIVERED' ELSE 'PENDING' END,
       CASE WHEN done THEN clock_timestamp() END
     FROM unnest($2::uuid[], $3::text[], $4::text[], $5::boolean[]) AS d (alert_id, event, receiver, done)
     WHERE event = 'raised' OR EXISTS (SELECT FROM alert_deliveries e WHERE e.tenant_id = $1
       AND e.alert_id = d.alert_id AND e.event = 'raised' AND e.receiver = d.receiver)
     ON CONFLICT DO NOTHING`,
    [
      tenantId,
      rows.map(({ alertId }) => alertId),
      rows.map(({ event }) => event),
      rows.map(({ receiver }) => receiver),
      rows.map((row) => wasDelivered.has(nameOf(row))),
    ],
  );
  const planned = (event: DeliveryEvent) =>
    plans.filter((plan) => plan.event === event).map(({ alertId }) => alertId);
  await tx.query(
    `UPDATE alerts SET raised_is_planned = raised_is_planned OR alert_id = ANY ($1::uuid[]),
       resolved_is_planned = resolved_is_planned OR alert_id = ANY ($2::uuid[])
     WHERE alert_id = ANY ($1::uuid[]) OR alert_id = ANY ($2::uuid[])`,
    [planned('raised'), planned('resolved')],
  );
}

function nameOf({ alertId, event, receiver }: DeliveryKey): string {
  return `${alertId} ${event} ${receiver}`;
}

/** Of the same alert and receiver, what comes first. */
const HAS_EARLIER = `d.event = 'resolved' AND EXISTS (SELECT FROM alert_deliveries e
  WHERE e.tenant_id = d.tenant_id AND e.alert_id = d.alert_id AND e.receiver = d.receiver
    AND e.event = 'raised' AND e.state = 'PENDING')`;

/** Takes up due deliveries to these receivers. */
export async function takeDeliveries(
  tx: Tx,
  receivers: readonly string[],
  limit: number,
): Promise<TakenDelivery[]> {
  type Row = AlertRecord & DeliveryKey & { attempts: number; ageMs: number };
  const rows = await tx.query<Row & Record<string, unknown>>(
    `UPDATE alert_deliveries t SET attempts = t.attempts + 1, next_attempt_at = clock_timestamp() + ${TAKEN}
     FROM (SELECT d.tenant_id, d.alert_id, d.event, d.receiver FROM alert_deliveries d
         WHERE d.state = 'PENDING' AND ${isOver('d.next_attempt_at', LONGEST)}
           AND d.receiver = ANY ($1::text[]) AND NOT (${HAS_EARLIER})
         ORDER BY d.next_attempt_at LIMIT $2 FOR UPDATE OF d SKIP LOCKED) AS d, alerts a
     WHERE t.tenant_id = d.tenant_id AND t.alert_id = d.alert_id AND t.event = d.event AND t.receiver = d.receiver
       AND a.tenant_id = d.tenant_id AND a.alert_id = d.alert_id
     RETURNING ${ALERT}, t.event, t.receiver, t.attempts,
       extract(epoch FROM clock_timestamp() - t.created_at)::float8 * 1000 AS "ageMs"`,
    [receivers, limit],
  );
  return rows.map(({ event, receiver, attempts, ageMs, ...alert }) => {
    return { alertId: alert.alertId, event, receiver, attempts, ageMs, alert };
  });
}

/** What became of a delivery: it was taken, it is tried again later, or it is given up. */
export type Outcome =
  | { readonly state: 'DELIVERED' }
  | { readonly state: 'PENDING'; readonly againMs: number; readonly failure: string }
  | { readonly state: 'DEAD'; readonly failure: string };

/** Writes what became of a delivery that this replica has taken up. */
export async function endDelivery(
  tx: Tx,
  { alertId, event, receiver }: DeliveryKey,
  outcome: Outcome,
): Promise<void> {
  await tx.query(
    `UPDATE alert_deliveries SET state = $4, failure = $5,
       next_attempt_at = clock_timestamp() + $6::float8 * interval '1 millisecond',
       ended_at = CASE WHEN $4 <> 'PENDING' THEN clock_timestamp() END
     WHERE alert_id = $1 AND event = $2 AND receiver = $3 AND state = 'PENDING'`,
    [
      alertId,
      event,
      receiver,
      outcome.state,
      'failure' in outcome ? outcome.failure.slice(0, 512) : '',
      'againMs' in outcome ? outcome.againMs : 0,
    ],
  );
}

/** What a replica asks again and again. */
export interface OutboxState {
  /** Whether there is anything to decide or to deliver. */
  readonly hasWork: boolean;
  /** The revision of the silences; null where their row is gone. */
  readonly silences: string | null;
  /** Those that are active. */
  readonly active: readonly AlertKey[] | null;
}

/** The columns of {@link OutboxState}; the parameter is how many active ones are told of. */
export const OUTBOX_STATE = `(EXISTS (SELECT FROM alert_deliveries
      WHERE state = 'PENDING' AND ${isOver('next_attempt_at', LONGEST)})
    OR EXISTS (SELECT FROM alerts WHERE NOT raised_is_planned OR NOT resolved_is_planned
      AND state = 'RESOLVED')) AS "hasWork",
  (SELECT revision::text FROM alert_silences) AS silences,
  (SELECT json_agg(json_build_object('condition', condition, 'subject', subject))
    FROM (SELECT condition, subject FROM alerts WHERE state = 'ACTIVE' LIMIT $1) AS a) AS active`;

/** What a list of alerts can be filtered by. */
const FILTERS: FilterColumns = {
  state: () => 'a.state',
  severity: () => 'upper(a.severity)',
  alert: () => 'a.condition',
  subject: () => 'a.subject',
};

/** Returns a page of alerts, the newest first, with what has failed of their delivery. */
export function listAlerts(
  query: Query,
  {
    conditions,
    before,
    limit,
  }: {
    readonly conditions: readonly Condition[];
    readonly before: string | undefined;
    readonly limit: number;
  },
): Promise<(AlertRecord & { readonly failures: readonly DeliveryFailure[] | null })[]> {
  const values: unknown[] = [before ?? null, limit];
  const filter = whereClause(conditions, FILTERS, values);
  return query(
    `SELECT ${ALERT}, (SELECT json_agg(json_build_object('receiver', d.receiver, 'state', d.state,
         'failure', d.failure, 'attempts', d.attempts) ORDER BY d.receiver, d.event)
       FROM alert_deliveries d WHERE d.tenant_id = a.tenant_id AND d.alert_id = a.alert_id
         AND d.failure <> '' AND d.state <> 'DELIVERED') AS failures
     FROM alerts a WHERE ($1::uuid IS NULL OR a.alert_id < $1)${filter}
     ORDER BY a.alert_id DESC LIMIT $2`,
    values,
  );
}

/** A delivery that has failed so far, or for good. */
export interface DeliveryFailure {
  readonly receiver: string;
  readonly state: 'PENDING' | 'DEAD';
  readonly failure: string;
  readonly attempts: number;
}

/**
 * Forgets alerts that ended long ago, and gives up what could not be delivered for days: to
 * receivers that are configured nowhere any more. Returns those receivers.
 */
export async function keepAlerts(tx: Tx): Promise<string[]> {
  await tx.query(
    `DELETE FROM alerts WHERE state = 'RESOLVED' AND NOT ${isRecent('resolved_at', KEPT)}`,
  );
  const dead = await tx.query<{ receiver: string }>(
    `UPDATE alert_deliveries SET state = 'DEAD', ended_at = clock_timestamp()
     WHERE state = 'PENDING' AND created_at < clock_timestamp() - ${LONGEST_TRIES} RETURNING receiver`,
  );
  return [...new Set(dead.map(({ receiver }) => receiver))];
}
