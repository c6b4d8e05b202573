/**
 * What a webhook is told, for each kind of service that takes alerts: the body, byte for byte.
 *
 * Knows no network and no secret but the routing key that PagerDuty wants in the body.
 */
import type { Severity } from '../signals/alerts.ts';
import {
  type AlertEvent,
  dataOf,
  dedupKey,
  eventId,
  fieldsOf,
  rowOf,
  summaryOf,
  timeOf,
} from './event.ts';
import type { WebhookReceiver } from './receivers.ts';

/** A request's body. */
export interface Body {
  readonly type: string;
  readonly text: string;
}

/** Alertmanager ends an alert that it has not heard of since; none lasts for so long here. */
const ALERTMANAGER_MS = 30 * 86_400_000;
/** PagerDuty takes no longer summary. */
const SUMMARY_CHARACTERS = 1_024;

const json = (value: unknown): Body => ({ type: 'application/json', text: JSON.stringify(value) });

/** Returns the body for each template. */
export const TEMPLATES: Readonly<
  Record<WebhookReceiver['template'], (event: AlertEvent, routingKey: string) => Body>
> = {
  slack: (event) => json(slackMessage(event)),
  pagerduty: (event, routingKey) => json(pagerDutyEvent(event, routingKey)),
  alertmanager: (event) => json([alertmanagerAlert(event)]),
  cloudevents: (event) => ({
    type: 'application/cloudevents+json; charset=utf-8',
    text: JSON.stringify(cloudEvent(event)),
  }),
};

const COLORS: Readonly<Record<Severity, string>> = {
  critical: '#c4314b',
  warning: '#d9a406',
  info: '#3b78c4',
};

/** Slack’s incoming webhooks, which Mattermost, Rocket.Chat and others take as well. */
function slackMessage(event: AlertEvent): object {
  const { alert } = event;
  const { meaning, remedy } = rowOf(event);
  const hasEnded = event.event === 'resolved';
  const title = `${hasEnded ? 'Ended' : alert.severity}: ${alert.condition}`;
  const values = { subject: alert.subject, replica: alert.replica, ...fieldsOf(event) };
  return {
    text: escaped(summaryOf(event)),
    attachments: [
      {
        color: hasEnded ? '#2e8540' : COLORS[alert.severity],
        title: escaped(title),
        text: escaped(hasEnded ? meaning : `${meaning}\n\nWhat to do: ${remedy}`),
        fields: Object.entries(values).map(([name, value]) => ({
          title: escaped(name),
          value: escaped(textOf(value)),
          short: true,
        })),
        ts: Math.floor(timeOf(event).getTime() / 1_000),
      },
    ],
  };
}

/** What would be a link or a mention is text (Slack: “Escaping text”). */
function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

/** PagerDuty Events API v2; its severities have the same names. */
function pagerDutyEvent(event: AlertEvent, routingKey: string): object {
  const head = { routing_key: routingKey, dedup_key: dedupKey(event) };
  if (event.event === 'resolved') return { ...head, event_action: 'resolve' };
  const { alert } = event;
  return {
    ...head,
    event_action: 'trigger',
    payload: {
      summary: summaryOf(event).slice(0, SUMMARY_CHARACTERS),
      source: alert.replica,
      severity: alert.severity,
      timestamp: timeOf(event).toISOString(),
      component: alert.subject,
      class: alert.condition,
      custom_details: dataOf(event),
    },
  };
}

/** Alertmanager’s API v2: labels tell alerts apart, so none changes while an alert lasts. */
function alertmanagerAlert(event: AlertEvent): object {
  const { alert, environmentId: environment } = event;
  const { meaning, remedy } = rowOf(event);
  const { condition: alertname, severity, subject } = alert;
  const endsAt = alert.resolvedAt ?? new Date(alert.firstAt.getTime() + ALERTMANAGER_MS);
  return {
    labels: { alertname, severity, subject, environment, service: 'keyward' },
    annotations: {
      summary: rowOf(event).message,
      description: meaning,
      runbook: remedy,
      replica: alert.replica,
      fields: alert.fields,
    },
    startsAt: alert.firstAt.toISOString(),
    endsAt: endsAt.toISOString(),
  };
}

/** CloudEvents 1.0 in structured JSON. */
function cloudEvent(event: AlertEvent): object {
  const { alert, environmentId } = event;
  return {
    specversion: '1.0',
    id: eventId(event),
    source: `/keyward/environments/${environmentId}`,
    type: `keyward.alert.${event.event}`,
    subject: alert.subject,
    time: timeOf(event).toISOString(),
    datacontenttype: 'application/json',
    data: dataOf(event),
  };
}

/** Returns a member of a log line as text. */
export function textOf(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}
