/**
 * What a receiver is told: an alert, and whether it is there or has ended; in words that every kind
 * of receiver uses.
 *
 * - Nothing in it is secret: it has what the line of the log has.
 * - Its id is the same however often it is delivered, so that a receiver can tell.
 */
import { hash } from 'node:crypto';
import { ALERTS, type AlertRow } from '../signals/alerts.ts';
import type { AlertRecord, DeliveryEvent } from '../store/alerts/alerts.ts';

/** What a receiver is told. */
export interface AlertEvent {
  readonly alert: AlertRecord;
  readonly event: DeliveryEvent;
  readonly environmentId: string;
}

/** Returns what tells this event from every other. */
export function eventId({ alert, event }: AlertEvent): string {
  return `${alert.alertId}-${event}`;
}

/** Returns what all events of one condition and subject have in common. */
export function dedupKey({ alert, environmentId }: AlertEvent): string {
  const { condition, subject } = alert;
  return hash('sha256', JSON.stringify([environmentId, condition, subject]), 'hex').slice(0, 32);
}

/** Returns when it happened. */
export function timeOf({ alert, event }: AlertEvent): Date {
  return event === 'resolved' ? (alert.resolvedAt ?? alert.lastAt) : alert.firstAt;
}

/** Returns what the table of alerts has of its condition. */
export function rowOf({ alert: { condition } }: AlertEvent): AlertRow {
  return ALERTS[condition];
}

/** Returns one line for people. */
export function summaryOf(event: AlertEvent): string {
  const { alert } = event;
  const { message } = rowOf(event);
  const text = `${message} (${alert.subject})`;
  return event.event === 'resolved' ? `ended: ${text}` : text;
}

/** Returns the line's other members. */
export function fieldsOf({ alert }: AlertEvent): Readonly<Record<string, unknown>> {
  return JSON.parse(alert.fields) as Record<string, unknown>;
}

/** Returns all of it, for programs. */
export function dataOf(event: AlertEvent): Readonly<Record<string, unknown>> {
  const { alert, environmentId } = event;
  const { meaning, remedy } = rowOf(event);
  return {
    alert: alert.condition,
    event: event.event,
    severity: alert.severity,
    subject: alert.subject,
    summary: summaryOf(event),
    meaning,
    remedy,
    firstTime: alert.firstAt.toISOString(),
    lastTime: alert.lastAt.toISOString(),
    ...(alert.resolvedAt === null ? {} : { resolveTime: alert.resolvedAt.toISOString() }),
    count: alert.count,
    replica: alert.replica,
    environment: environmentId,
    dedupKey: dedupKey(event),
    fields: fieldsOf(event),
  };
}
