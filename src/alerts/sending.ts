/**
 * Sends an alert to a receiver, of whatever kind.
 */
import type { AlertEvent } from './event.ts';
import { sendMail } from './mail.ts';
import type { Receiver } from './receivers.ts';
import { sendToSyslog } from './syslog.ts';
import { sendToWebhook } from './webhook.ts';

/**
 * Sends it once. Returns what was answered, in words; throws Error where it was not taken, or when
 * `signal` ends it.
 */
export async function send(
  receiver: Receiver,
  event: AlertEvent,
  signal: AbortSignal,
): Promise<string> {
  switch (receiver.type) {
    case 'webhook':
      return sendToWebhook(receiver, event, signal);
    case 'email':
      return sendMail(receiver, event, signal);
    case 'syslog':
      return sendToSyslog(receiver, event, signal);
  }
}
