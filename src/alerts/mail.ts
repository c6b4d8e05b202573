/**
 * Sends an alert as mail, by SMTP.
 *
 * - Over TLS, whose certificate is verified, unless the server is the machine itself.
 * - The same event has the same Message-ID, however often it is sent.
 */
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { addressOf, isLoopbackAddress } from './addresses.ts';
import { type AlertEvent, dataOf, eventId, rowOf, summaryOf, timeOf } from './event.ts';
import { type EmailReceiver, readSecret } from './receivers.ts';
import { textOf } from './templates.ts';

const TIMEOUT_MS = 10_000;

/** Sends it. Returns what was answered, in words; throws Error where it was not taken. */
export async function sendMail(
  receiver: EmailReceiver,
  event: AlertEvent,
  signal: AbortSignal,
): Promise<string> {
  const { host, port, tls, from, to, username, passwordFile, caFile } = receiver;
  const address = await addressOf(receiver);
  // Loaded by those alone that send mail.
  const { createTransport } = await import('nodemailer');
  const transport = createTransport({
    host: address,
    port,
    secure: tls === 'implicit',
    requireTLS: tls === 'starttls' && !isLoopbackAddress(address),
    tls: {
      ...(isIP(host) === 0 ? { servername: host } : {}),
      ...(caFile === undefined ? {} : { ca: readFileSync(caFile, 'utf8') }),
      minVersion: 'TLSv1.2',
    },
    ...(username === undefined || passwordFile === undefined
      ? {}
      : { auth: { user: username, pass: readSecret(passwordFile) } }),
    connectionTimeout: TIMEOUT_MS,
    greetingTimeout: TIMEOUT_MS,
    socketTimeout: TIMEOUT_MS,
    disableFileAccess: true,
    disableUrlAccess: true,
  });
  const end = () => transport.close();
  signal.addEventListener('abort', end, { once: true });
  try {
    const { response } = await transport.sendMail({ from, to, ...messageOf(event) });
    return response.slice(0, 200);
  } finally {
    signal.removeEventListener('abort', end);
    transport.close();
  }
}

function messageOf(event: AlertEvent): {
  readonly messageId: string;
  readonly date: Date;
  readonly subject: string;
  readonly text: string;
  readonly headers: Readonly<Record<string, string>>;
} {
  const { alert } = event;
  const { meaning, remedy } = rowOf(event);
  const { fields, meaning: _meaning, remedy: _remedy, summary: _summary, ...facts } = dataOf(event);
  const lines = Object.entries({ ...facts, ...(fields as object) });
  return {
    messageId: `<${eventId(event)}@keyward>`,
    date: timeOf(event),
    subject: `[keyward] ${alert.severity}: ${summaryOf(event)}`.replaceAll(/\s+/g, ' '),
    text: [
      meaning,
      ...(event.event === 'resolved' ? [] : [`What to do: ${remedy}`]),
      lines.map(([name, value]) => `${name}: ${textOf(value)}`).join('\n'),
    ].join('\n\n'),
    headers: { 'Auto-Submitted': 'auto-generated' },
  };
}
