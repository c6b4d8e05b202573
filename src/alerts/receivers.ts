/**
 * Parses the file of receivers, to which alerts are delivered; docs/operations.md describes it.
 *
 * - A file with a mistake is refused as a whole, and every mistake is reported at once.
 * - It names files that have secrets, and has none itself; those files are for their owner alone.
 */
import { accessSync, constants, readFileSync, statSync } from 'node:fs';
import { z } from 'zod';
import { parseStrictJson } from '../access/strict-json.ts';
import { requireAuthorities } from '../pem.ts';
import { ALERTS, type AlertId, SEVERITIES, type Severity } from '../signals/alerts.ts';

/** What a webhook is told in. */
const TEMPLATES = ['slack', 'pagerduty', 'alertmanager', 'cloudevents'] as const;
/** The parts of a system that syslog tells apart (RFC 5424, 6.2.1), those that fit. */
const FACILITIES = { daemon: 3, auth: 4, authpriv: 10, audit: 13, local0: 16, local1: 17 } as const;
const PAGERDUTY = 'https://events.pagerduty.com/v2/enqueue';
const DAY_SECONDS = 86_400;

const secretFile = z.string().superRefine((path, context) => {
  const why = whyNotPrivate(path);
  if (why !== undefined) context.addIssue({ code: 'custom', message: why });
});
const caFile = z.string().superRefine((path, context) => {
  try {
    requireAuthorities(readFileSync(path, 'utf8'), path);
  } catch {
    const message = 'must name certificates of CAs in PEM, all of which can be read';
    context.addIssue({ code: 'custom', message });
  }
});
const alertIds = z.array(z.enum(Object.keys(ALERTS) as [AlertId, ...AlertId[]]));
const host = z
  .string()
  .regex(/^(\[[0-9a-f:.]+\]|[a-z0-9]([a-z0-9.-]*[a-z0-9])?)$/i, 'must be a name or an address');
const port = z.int().min(1).max(65_535);
const mailAddress = z
  .string()
  .max(254)
  .regex(/^[^\s<>",;:]+@[^\s<>",;:]+$/, 'must be an address without a name');

/** What a receiver may be called. */
export const receiverName = z
  .string()
  .regex(
    /^[a-z][a-z0-9-]{0,30}$/,
    'must be up to 31 characters of a-z, 0-9 and -, beginning with a letter',
  );

const COMMON = {
  name: receiverName,
  minimumSeverity: z.enum(SEVERITIES).default('warning'),
  /** Only these. */
  alerts: alertIds.optional(),
  /** These besides, whatever their severity. */
  subscriptions: alertIds.default([]),
  sendResolved: z.boolean().default(true),
  allowPrivateNetwork: z.boolean().default(false),
  caFile: caFile.optional(),
  giveUpAfterSeconds: z
    .int()
    .min(5)
    .max(7 * DAY_SECONDS)
    .default(DAY_SECONDS),
};

const WEBHOOK = z
  .strictObject({
    ...COMMON,
    type: z.literal('webhook'),
    template: z.enum(TEMPLATES),
    url: z.string().optional(),
    urlFile: secretFile.optional(),
    signingKeyFile: secretFile.optional(),
    authorizationFile: secretFile.optional(),
    routingKeyFile: secretFile.optional(),
  })
  .refine(({ url, urlFile }) => url === undefined || urlFile === undefined, {
    error: 'must not have both url and urlFile',
  })
  .refine(
    ({ template, url, urlFile }) =>
      template === 'pagerduty' || url !== undefined || urlFile !== undefined,
    { error: 'must have url or urlFile' },
  )
  .refine(
    ({ template, routingKeyFile }) => (template === 'pagerduty') === (routingKeyFile !== undefined),
    {
      error: 'must have routingKeyFile, if and only if its template is pagerduty',
    },
  )
  .superRefine((receiver, context) => {
    const { signingKeyFile, url, allowPrivateNetwork } = receiver;
    const problem =
      (url === undefined ? undefined : urlProblem(url, allowPrivateNetwork)) ??
      (signingKeyFile === undefined ? undefined : signingKeyProblem(signingKeyFile));
    if (problem !== undefined) context.addIssue({ code: 'custom', message: problem });
  });

const EMAIL = z
  .strictObject({
    ...COMMON,
    type: z.literal('email'),
    host,
    port: port.default(587),
    tls: z.enum(['starttls', 'implicit']).default('starttls'),
    from: mailAddress,
    to: z.array(mailAddress).min(1).max(20),
    username: z.string().min(1).optional(),
    passwordFile: secretFile.optional(),
  })
  .refine(
    ({ username, passwordFile }) => (username === undefined) === (passwordFile === undefined),
    {
      error: 'must have both username and passwordFile, or neither',
    },
  );

const SYSLOG = z
  .strictObject({
    ...COMMON,
    type: z.literal('syslog'),
    transport: z.enum(['tls', 'tcp', 'udp']),
    host,
    port,
    facility: z
      .enum(Object.keys(FACILITIES) as [keyof typeof FACILITIES])
      .default('auth')
      .transform((name) => FACILITIES[name]),
  })
  .refine(({ transport, allowPrivateNetwork }) => transport === 'tls' || allowPrivateNetwork, {
    error: 'must use tls, unless it has allowPrivateNetwork',
  });

const FILE = z.strictObject({
  receivers: z
    .array(z.discriminatedUnion('type', [WEBHOOK, EMAIL, SYSLOG]))
    .max(50)
    .refine(
      (all) => new Set(all.map(({ name }) => name)).size === all.length,
      'must have distinct names',
    ),
});

/** A webhook. */
export type WebhookReceiver = z.infer<typeof WEBHOOK>;
/** A mail server, and who gets mail. */
export type EmailReceiver = z.infer<typeof EMAIL>;
/** A collector of syslog. */
export type SyslogReceiver = z.infer<typeof SYSLOG>;
/** Where alerts are delivered. */
export type Receiver = WebhookReceiver | EmailReceiver | SyslogReceiver;

/** Returns the receivers that the file's text describes. Throws Error with every mistake. */
export function parseReceivers(text: string): readonly Receiver[] {
  let json: unknown;
  try {
    json = parseStrictJson(Buffer.from(text));
  } catch (cause) {
    throw new Error('must be JSON with each name once', { cause });
  }
  const result = FILE.safeParse(json);
  if (result.success) return result.data.receivers;
  const lines = result.error.issues.map(
    ({ path, message }) => `${path.map(String).join('.')}: ${message}`,
  );
  throw new Error(`must be a list of receivers\n${lines.join('\n')}`);
}

/** Whether a receiver is to hear of alerts of that condition. */
export function wants(
  { alerts, subscriptions, minimumSeverity }: Receiver,
  { condition, severity }: { readonly condition: AlertId; readonly severity: Severity },
): boolean {
  if (subscriptions.includes(condition)) return true;
  if (alerts !== undefined && !alerts.includes(condition)) return false;
  return SEVERITIES.indexOf(severity) <= SEVERITIES.indexOf(minimumSeverity);
}

/** Returns where a webhook is. Throws Error, without what the file has. */
export function urlOf({ url, urlFile, allowPrivateNetwork }: WebhookReceiver): URL {
  const text = url ?? (urlFile === undefined ? PAGERDUTY : readSecret(urlFile));
  const problem = urlProblem(text, allowPrivateNetwork);
  if (problem !== undefined) throw new Error(`cannot use the URL: it ${problem}`);
  return new URL(text);
}

/** Returns what a file of a secret has. Throws Error, in words that have nothing of it. */
export function readSecret(path: string): string {
  const why = whyNotPrivate(path);
  if (why !== undefined) throw new Error(`cannot use ${path}: it ${why}`);
  return readFileSync(path, 'utf8').trim();
}

/** Returns the keys that messages are signed by; more than one while they are replaced. */
export function signingKeysOf(path: string): readonly Buffer[] {
  return readSecret(path)
    .split(/\s+/)
    .map((key) => Buffer.from(key.replace(/^whsec_/, ''), 'base64'));
}

function signingKeyProblem(path: string): string | undefined {
  if (whyNotPrivate(path) !== undefined) return undefined;
  return signingKeysOf(path).every(({ length }) => length >= 24 && length <= 64)
    ? undefined
    : 'signingKeyFile must have whsec_ and 24 to 64 bytes in base64, in each of its lines';
}

/** Without TLS whatever is on the way reads and changes what is said: only within a network. */
function urlProblem(text: string, allowPrivateNetwork: boolean): string | undefined {
  if (!URL.canParse(text)) return 'must be a URL';
  const { protocol, username, password, hash } = new URL(text);
  if (username !== '' || password !== '' || hash !== '')
    return 'must have no user, password or fragment; an authorization is for authorizationFile';
  if (protocol === 'https:' || (protocol === 'http:' && allowPrivateNetwork)) return undefined;
  return 'must be https://, or http:// with allowPrivateNetwork';
}

function whyNotPrivate(path: string): string | undefined {
  try {
    accessSync(path, constants.R_OK);
    const status = statSync(path);
    if (!status.isFile()) return 'must name a file';
    if ((status.mode & 0o077) !== 0) return 'must name a file that only its owner can read';
    return status.size > 0 && status.size <= 16_384 ? undefined : 'must have something in it';
  } catch {
    return 'must name a file that can be read';
  }
}
