/**
 * Alerts, receivers and silences: an operation for each method of AlertService.
 */
import { type NewSilence, nameOf } from '../alerts/silences.ts';
import { ofSystem, operation } from '../calls/operation.ts';
import type { AnyId } from '../ids.ts';
import type { ListRequest } from '../keyring/pages.ts';
import type { Repeatable } from './requests.ts';

/** A silence to be ended. */
export interface SilenceToEnd extends Repeatable {
  readonly silenceId: AnyId;
}

export const alertOperations = {
  ListAlerts: operation({
    permission: 'alerts.list',
    target: ofSystem,
    resource: (_: ListRequest) => 'alerts',
    handle: ({ alerting }, call, page) => alerting.list(call, page),
  }),
  TestAlert: operation({
    permission: 'alerts.test',
    target: ofSystem,
    resource: ({ receiver }: { readonly receiver: string }) => `alertReceivers/${receiver || '-'}`,
    handle: ({ alerting }, call, { receiver }) => alerting.test(call, receiver),
  }),
  SilenceAlert: operation({
    permission: 'alerts.silence',
    target: ofSystem,
    resource: (_: NewSilence & Repeatable) => 'alertSilences',
    handle: ({ alerting }, call, { condition, subject, until, reason }) =>
      alerting.silences.add(call, { condition, subject, until, reason }),
  }),
  ListAlertSilences: operation({
    permission: 'alerts.list',
    target: ofSystem,
    resource: (_: object) => 'alertSilences',
    handle: ({ alerting }, call) => alerting.silences.list(call),
  }),
  DeleteAlertSilence: operation({
    permission: 'alerts.silence',
    target: ofSystem,
    resource: ({ silenceId }: SilenceToEnd) => nameOf({ silenceId }),
    handle: ({ alerting }, call, { silenceId }) => alerting.silences.remove(call, silenceId),
  }),
};
