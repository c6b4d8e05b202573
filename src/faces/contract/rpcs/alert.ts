/**
 * AlertService as messages.
 */
import { z } from 'zod';
import type { ListedAlert } from '../../../alerts/alerting.ts';
import { receiverName } from '../../../alerts/receivers.ts';
import { nameOf, type Silence } from '../../../alerts/silences.ts';
import { alertOperations } from '../../../operations/alert.ts';
import { ALERTS, type AlertId, type Severity } from '../../../signals/alerts.ts';
import * as field from '../fields.ts';
import type { Alert } from '../generated/keyward/v1/Alert.ts';
import type { AlertServiceHandlers } from '../generated/keyward/v1/AlertService.ts';
import type { AlertSeverity } from '../generated/keyward/v1/AlertSeverity.ts';
import type { AlertSilence } from '../generated/keyward/v1/AlertSilence.ts';
import type { AlertState } from '../generated/keyward/v1/AlertState.ts';
import { nothing, type RpcsOf, rpc } from '../rpc.ts';
import { optionalTime, timestamp } from '../times.ts';

/** No silence is for longer. */
const LONGEST_MS = 90 * 86_400_000;
const SUBJECT_CHARACTERS = 500;

const SEVERITIES: Readonly<Record<Severity, AlertSeverity>> = {
  critical: 'ALERT_SEVERITY_CRITICAL',
  warning: 'ALERT_SEVERITY_WARNING',
  info: 'ALERT_SEVERITY_INFO',
};
const STATES: Readonly<Record<ListedAlert['state'], AlertState>> = {
  ACTIVE: 'ALERT_STATE_ACTIVE',
  RESOLVED: 'ALERT_STATE_RESOLVED',
};

const alertId = z.custom<AlertId>(
  (id) => typeof id === 'string' && Object.hasOwn(ALERTS, id),
  'must be a kind of alert',
);
const expireTime = field.time.transform((time, context) => {
  const left = time === null ? 0 : time.getTime() - Date.now();
  if (time !== null && left > 0 && left <= LONGEST_MS) return time;
  context.addIssue({ code: 'custom', message: 'must be a time to come, within 90 days' });
  return z.NEVER;
});
const subject = field.description.refine(
  (text) => text.length <= SUBJECT_CHARACTERS,
  `must have at most ${SUBJECT_CHARACTERS} characters`,
);

export const alertService = {
  ListAlerts: rpc(alertOperations.ListAlerts, {
    request: z
      .object(
        field.page({
          state: field.valuesOf('AlertState'),
          severity: field.valuesOf('AlertSeverity'),
          alert: Object.keys(ALERTS),
          subject: field.ANY_TEXT,
        }),
      )
      .transform(field.filtered),
    message: ({ items, nextPageToken }) => ({ alerts: items.map(alertMessage), nextPageToken }),
  }),
  TestAlert: rpc(alertOperations.TestAlert, {
    request: z.object({
      receiver: z
        .string()
        .refine(
          (name) => name === '' || receiverName.safeParse(name).success,
          'must be the name of a receiver',
        ),
    }),
    message: (tests) => ({ tests: [...tests] }),
  }),
  SilenceAlert: rpc(alertOperations.SilenceAlert, {
    request: z
      .object({
        alert: alertId,
        subject,
        expireTime,
        reason: field.description,
        requestId: field.requestId,
      })
      .transform(({ alert: condition, expireTime: until, ...rest }) => ({
        ...rest,
        condition,
        until,
      })),
    message: silenceMessage,
  }),
  ListAlertSilences: rpc(alertOperations.ListAlertSilences, {
    request: z.object({}),
    message: (silences) => ({ alertSilences: silences.map(silenceMessage) }),
  }),
  DeleteAlertSilence: rpc(alertOperations.DeleteAlertSilence, {
    request: z
      .object({ name: field.alertSilenceName, requestId: field.requestId })
      .transform(({ name: silenceId, requestId }) => ({ silenceId, requestId })),
    message: nothing,
  }),
} satisfies RpcsOf<AlertServiceHandlers>;

function alertMessage(alert: ListedAlert): Alert {
  const { alertId: id, condition, subject, severity, state, count, replica } = alert;
  // One of a later release is not in the table.
  const row = Object.hasOwn(ALERTS, condition) ? ALERTS[condition] : undefined;
  return {
    name: `alerts/${id}`,
    alert: condition,
    subject,
    severity: SEVERITIES[severity],
    state: STATES[state],
    message: row?.message ?? '',
    remedy: row?.remedy ?? '',
    firstTime: timestamp(alert.firstAt),
    lastTime: timestamp(alert.lastAt),
    resolveTime: optionalTime(alert.resolvedAt),
    count,
    replica,
    fields: textsOf(alert.fields),
    silenced: alert.isSilenced,
    deliveryFailures: (alert.failures ?? []).map(({ receiver, attempts, failure, state }) => ({
      receiver,
      attempts,
      failure,
      givenUp: state === 'DEAD',
    })),
  };
}

function textsOf(json: string): Record<string, string> {
  const fields = Object.entries(JSON.parse(json) as Record<string, unknown>);
  return Object.fromEntries(
    fields.map(([name, value]) => [
      name,
      typeof value === 'string' ? value : JSON.stringify(value),
    ]),
  );
}

function silenceMessage(silence: Silence): AlertSilence {
  const { condition, subject, until, reason, creator, createdAt } = silence;
  return {
    name: nameOf(silence),
    alert: condition,
    subject,
    expireTime: timestamp(until),
    reason,
    creator,
    createTime: timestamp(createdAt),
  };
}
