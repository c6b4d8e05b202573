/**
 * Sends an alert to a webhook: one POST, signed by Standard Webhooks.
 *
 * - It goes to an address that was looked at (`addresses.ts`), once, and follows no redirect.
 * - An answer has 10 seconds and 64 KiB. Only one of 200 to 299 says that the alert was taken.
 * - No error has the URL’s path or anything of the answer: both may be secret.
 */
import { createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { IncomingMessage, RequestOptions } from 'node:http';
import { request as requestSecurely } from 'node:https';
import { isIP } from 'node:net';
import { request as requestPlain } from '../node-http.ts';
import { addressOf, isPrivateAddress } from './addresses.ts';
import { type AlertEvent, eventId } from './event.ts';
import { readSecret, signingKeysOf, urlOf, type WebhookReceiver } from './receivers.ts';
import { type Body, TEMPLATES } from './templates.ts';

const TIMEOUT_MS = 10_000;
const MAX_ANSWER_BYTES = 65_536;

/** Sends it. Returns what was answered, in words; throws Error where it was not taken. */
export async function sendToWebhook(
  receiver: WebhookReceiver,
  event: AlertEvent,
  signal: AbortSignal,
): Promise<string> {
  const { template, routingKeyFile, allowPrivateNetwork } = receiver;
  const url = urlOf(receiver);
  const address = await addressOf({ host: url.hostname, allowPrivateNetwork });
  if (url.protocol === 'http:' && !isPrivateAddress(address))
    throw new Error(`cannot send to ${url.host} without TLS: ${address} is in no private network`);
  const routingKey = routingKeyFile === undefined ? '' : readSecret(routingKeyFile);
  const body = TEMPLATES[template](event, routingKey);
  const target = template === 'alertmanager' ? alertmanagerUrl(url) : url;
  const status = await post(target, address, headersOf(receiver, event, body), {
    text: body.text,
    ca: receiver.caFile,
    signal: AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]),
  });
  if (status >= 200 && status < 300) return `status ${status}`;
  throw new Error(`it answers with status ${status}`);
}

/** Where alerts are posted, at an Alertmanager that may be below a path. */
function alertmanagerUrl(url: URL): URL {
  const target = new URL(url);
  target.pathname = `${url.pathname.replace(/\/$/, '')}/api/v2/alerts`;
  return target;
}

function headersOf(
  { signingKeyFile, authorizationFile }: WebhookReceiver,
  event: AlertEvent,
  { type, text }: Body,
): Record<string, string> {
  const id = eventId(event);
  const timestamp = String(Math.floor(Date.now() / 1_000));
  const signatures = (signingKeyFile === undefined ? [] : signingKeysOf(signingKeyFile)).map(
    (key) =>
      `v1,${createHmac('sha256', key).update(`${id}.${timestamp}.${text}`).digest('base64')}`,
  );
  return {
    'content-type': type,
    'content-length': String(Buffer.byteLength(text)),
    'user-agent': 'keyward',
    'webhook-id': id,
    'webhook-timestamp': timestamp,
    ...(signatures.length === 0 ? {} : { 'webhook-signature': signatures.join(' ') }),
    ...(authorizationFile === undefined ? {} : { authorization: readSecret(authorizationFile) }),
  };
}

/** Returns the status of the answer, once all of it has come. */
function post(
  url: URL,
  address: string,
  headers: Record<string, string>,
  { text, ca, signal }: { text: string; ca: string | undefined; signal: AbortSignal },
): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
  const options: RequestOptions & { ca?: string; servername?: string } = {
    method: 'POST',
    host: address,
    port: url.port || (url.protocol === 'https:' ? 443 : 80),
    path: `${url.pathname}${url.search}`,
    headers: { ...headers, host: url.host },
    agent: false,
    signal,
    ...(ca === undefined ? {} : { ca: readFileSync(ca, 'utf8') }),
    // An address in a certificate is looked for as that.
    ...(isIP(host) === 0 ? { servername: host } : {}),
  };
  const request = (url.protocol === 'https:' ? requestSecurely : requestPlain)(options);
  request.once('error', reject);
  request.once('response', (response: IncomingMessage) => {
    let bytes = 0;
    response.on('error', reject);
    response.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes > MAX_ANSWER_BYTES) request.destroy(new Error('its answer is too large'));
    });
    response.on('end', () => resolve(response.statusCode ?? 0));
  });
  request.end(text);
  return promise.catch((error: Error) => {
    throw signal.aborted ? new Error('it did not answer in time', { cause: error }) : error;
  });
}
