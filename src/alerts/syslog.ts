/**
 * Sends an alert to a collector of syslog: a message of RFC 5424, by TLS (RFC 5425), TCP (RFC 6587,
 * with octet counting) or UDP (RFC 5426).
 *
 * No collector says that it has taken a message: one counts as delivered once it was sent, and by
 * TCP the connection ended without an error.
 */
import { createSocket } from 'node:dgram';
import { readFileSync } from 'node:fs';
import { connect as connectPlain, isIP, type Socket } from 'node:net';
import { hostname } from 'node:os';
import { connect as connectSecurely } from 'node:tls';
import { addressOf } from './addresses.ts';
import { type AlertEvent, dataOf, summaryOf, timeOf } from './event.ts';
import type { SyslogReceiver } from './receivers.ts';

const TIMEOUT_MS = 10_000;
/** What fits into a datagram; collectors must take 480 and should take 2,048 (RFC 5424, 6.1). */
const DATAGRAM_BYTES = 2_048;
/** Severities of syslog, by ours; what has ended is a notice. */
const SEVERITY = { critical: 2, warning: 4, info: 6 } as const;
const NOTICE = 5;

/** Sends it. Returns how; throws Error where it could not be sent. */
export async function sendToSyslog(
  receiver: SyslogReceiver,
  event: AlertEvent,
  signal: AbortSignal,
): Promise<string> {
  const address = await addressOf(receiver);
  const message = syslogMessage(receiver.facility, event);
  if (receiver.transport === 'udp') await sendDatagram(address, receiver.port, message);
  else
    await sendOverConnection(
      receiver,
      address,
      message,
      AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]),
    );
  return `sent by ${receiver.transport}`;
}

/** Returns the message in the form of RFC 5424; what is said is JSON behind one line for people. */
export function syslogMessage(facility: number, event: AlertEvent): Buffer {
  const { alert } = event;
  const severity = event.event === 'resolved' ? NOTICE : SEVERITY[alert.severity];
  const head = [
    `<${facility * 8 + severity}>1`,
    timeOf(event).toISOString(),
    name(hostname(), 255),
    'keyward',
    String(process.pid),
    name(alert.condition, 32),
    '-',
  ];
  const { fields, meaning: _meaning, remedy: _remedy, ...data } = dataOf(event);
  const text = `${summaryOf(event)} ${JSON.stringify({ ...data, fields })}`;
  return Buffer.from(`${head.join(' ')} \ufeff${text.replaceAll(/[\r\n]+/g, ' ')}`);
}

/** What a field of the header may be: printable ASCII without spaces. */
function name(text: string, limit: number): string {
  return text.replaceAll(/[^!-~]/g, '?').slice(0, limit) || '-';
}

function sendDatagram(address: string, port: number, message: Buffer): Promise<void> {
  const socket = createSocket(isIP(address) === 6 ? 'udp6' : 'udp4');
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  socket.once('error', reject);
  socket.send(cut(message), port, address, (error) => (error ? reject(error) : resolve()));
  return promise.finally(() => socket.close());
}

/** Without half a character at its end. */
function cut(message: Buffer): Buffer {
  let end = Math.min(message.length, DATAGRAM_BYTES);
  while (end < message.length && ((message[end] ?? 0) & 0xc0) === 0x80) end -= 1;
  return message.subarray(0, end);
}

function sendOverConnection(
  { host, port, transport, caFile }: SyslogReceiver,
  address: string,
  message: Buffer,
  signal: AbortSignal,
): Promise<void> {
  const socket: Socket =
    transport === 'tcp'
      ? connectPlain({ host: address, port })
      : connectSecurely({
          host: address,
          port,
          ...(isIP(host) === 0 ? { servername: host } : {}),
          ...(caFile === undefined ? {} : { ca: readFileSync(caFile, 'utf8') }),
        });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const giveUp = () => socket.destroy(new Error('it did not take the message in time'));
  signal.addEventListener('abort', giveUp, { once: true });
  socket.once('error', reject);
  socket.once('close', () => resolve());
  socket.once(transport === 'tcp' ? 'connect' : 'secureConnect', () => {
    socket.end(Buffer.concat([Buffer.from(`${message.length} `), message]));
    // A collector says nothing, and ends its side when it likes.
    socket.resume();
    socket.once('finish', () => setTimeout(() => socket.destroy(), LINGER_MS).unref());
  });
  return promise.finally(() => {
    signal.removeEventListener('abort', giveUp);
    socket.destroy();
  });
}

/** For so long it is waited for a collector to end its side, or to break off. */
const LINGER_MS = 500;
