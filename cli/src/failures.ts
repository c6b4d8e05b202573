/**
 * Reports a failure as one line on standard error and an exit code.
 *
 * - A line has no characters that command a terminal, from any source, and no plaintext.
 */
import { inspect } from 'node:util';
import { CommanderError } from 'commander';
import {
  AuditVerificationError,
  EnvelopeError,
  KeywardError,
  SettingsError as UsageError,
} from 'keyward-client';
import { printable, printableJson, printableLines } from './output/printable.ts';

/** Reports that the command got something that it cannot use; the message names it and a remedy. */
export { UsageError };

/** What the exit codes mean, from 0 on. */
export const EXIT_CODES: readonly string[] = [
  'done',
  'the service refused; or an answer could not be written, a watched job ended PARTIAL or ' +
    'CANCELLED, a tested permission is missing, a receiver did not take a test, an export failed ' +
    'verification, or a status or doctor has something to look into',
  'an argument, option or file cannot be used',
  'the service cannot be reached',
  'the call waits for others to approve it',
];

/** How a failure is told. */
export interface ReportOptions {
  /** Whether it is for a program, as one line of JSON. */
  readonly asData: boolean;
  /** Whether to show where it came from. */
  readonly debug: boolean;
}

/** Returns the exit code for what a command threw, and writes its line to standard error. */
export function report(error: unknown, { asData, debug }: ReportOptions): number {
  if (isHelp(error)) return 0;
  const exitCode = exitCodeOf(error);
  process.stderr.write(failureLine(error, asData));
  if (debug) process.stderr.write(`${printableLines(inspect(error))}\n`);
  return exitCode;
}

/** Returns the line about what went wrong, and what else there is to tell of it as data. */
export function failureLine(error: unknown, asData: boolean, facts: object = {}): string {
  const message = describe(error);
  if (!asData) return remarkLine(message, asData);
  const exitCode = exitCodeOf(error);
  return dataLine({ error: { ...factsOf(error), ...facts, message, exitCode } });
}

/** Returns the line about something that is no failure, as {@link failureLine}. */
export function remarkLine(message: string, asData: boolean, facts: object = {}): string {
  return asData ? dataLine({ remark: { ...facts, message } }) : `keyward: ${printable(message)}\n`;
}

function dataLine(value: object): string {
  return `${printableJson(JSON.stringify(value))}\n`;
}

/** Commander ends a command so that has shown its help, or the version. */
function isHelp(error: unknown): boolean {
  const shown = ['commander.help', 'commander.helpDisplayed', 'commander.version'];
  return error instanceof CommanderError && shown.includes(error.code);
}

function exitCodeOf(error: unknown): number {
  if (error instanceof UsageError || error instanceof CommanderError) return 2;
  if (!(error instanceof KeywardError)) return 1;
  if (error.cause instanceof UsageError) return 2;
  if (error.reason === 'APPROVAL_REQUIRED') return 4;
  return unreached(error) ? 3 : 1;
}

/** What programs act on. */
function factsOf(error: unknown): object {
  const { cause } = error as { readonly cause?: unknown };
  if (cause instanceof EnvelopeError) return { reason: cause.reason, retryable: false };
  if (!(error instanceof KeywardError)) return { retryable: false };
  const { code, reason, field, fieldViolations, retryable, requestId } = error;
  const fields = fieldViolations.length > 0 ? { field, fieldViolations } : {};
  return { code, reason, ...fields, retryable, requestId };
}

/** What was asked for in a call, in the user's words. */
export interface Asked {
  /** What in the service they named: a tenant, where it was that alone. */
  readonly what: string | undefined;
  /** The same, where the call is about nothing else. */
  readonly only: string | undefined;
  /** What the call was to create. */
  readonly created: string | undefined;
  /** Returns how they wrote what a field of the request has: a flag, or the word itself. */
  readonly written: (field: string) => string;
}

/** What was asked for in calls that failed. */
const asked = new WeakMap<object, Asked>();

/** Notes what the user asked for in the call that failed. */
export function noteAsked(error: unknown, about: Asked): void {
  if (error instanceof KeywardError) asked.set(error, about);
}

/** Returns the word quoted for a shell. */
export function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** Returns a file system error in words. */
export function fileTrouble(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  const known: Record<string, string> = {
    ENOENT: 'it does not exist',
    EACCES: 'permission denied',
    EISDIR: 'it is a directory',
    EEXIST: 'it already exists; give --force to replace it',
  };
  return known[code ?? ''] ?? message;
}

/** Returns what a command threw, in words. */
export function describe(error: unknown): string {
  if (error instanceof AuditVerificationError) return `${error.problem}: ${error.message}`;
  // The command's own words on why there is no token.
  if (error instanceof KeywardError && error.cause instanceof UsageError)
    return error.cause.message;
  if (error instanceof CommanderError) return error.message.replace(/^error: /, '').trim();
  if (!(error instanceof KeywardError))
    return error instanceof Error ? error.message : String(error);
  const { code, reason, fieldViolations, requestId } = error;
  const written = asked.get(error)?.written ?? ((field: string) => field);
  const fields = fieldViolations
    .map(({ field, description }) => `${written(field)}: ${description}${listedBy(field)}`)
    .join('; ');
  const request = requestId === undefined ? '' : ` (request ${requestId})`;
  const text =
    fields ||
    missingPermission(error) ||
    waiting(error) ||
    notFound(error) ||
    existing(error) ||
    named(error);
  return `${reason ?? code}: ${text}${request}`;
}

/** Returns, of a field whose values are listed by a command, that command. */
function listedBy(field: string): string {
  return field === 'role_binding.role' ? '; "keyward access roles TENANT" lists them' : '';
}

/** Returns what waits for approval, until when, and the command that shows it. */
function waiting({ reason, message, metadata }: KeywardError): string | undefined {
  const [operation, until] = [metadata.get('operation'), metadata.get('expire_time')];
  if (reason !== 'APPROVAL_REQUIRED' || operation === undefined) return undefined;
  const end = until === undefined ? '' : `, until ${until}`;
  const command = ['keyward', 'approvals', 'show', operation].map(quoted).join(' ');
  return `${message}${end}; "${command}" shows it, and how far it is`;
}

/** Returns what was not found, by the name that the user gave. */
function notFound(error: KeywardError): string | undefined {
  const what = asked.get(error)?.what;
  if (error.reason !== 'RESOURCE_NOT_FOUND' || what === undefined) return undefined;
  return `cannot find ${what}: it does not exist, or you may not see it`;
}

/** Returns what exists already, by the name that the user gave. */
function existing(error: KeywardError): string | undefined {
  const created = asked.get(error)?.created;
  if (error.reason !== 'RESOURCE_EXISTS' || created === undefined) return undefined;
  return `cannot create ${created}: it already exists; choose another name`;
}

/** Returns the service's message, about what the user named. */
function named(error: KeywardError): string {
  const only = asked.get(error)?.only;
  const [key, version] = [error.metadata.get('key'), error.metadata.get('version')];
  const message = error.message
    .replace(/^cannot use the key(?=:)/, (words) => `${words} ${only ?? key ?? ''}`.trimEnd())
    .replace(/^cannot use the key version(?=:)/, (words) =>
      key === undefined || version === undefined
        ? words
        : `cannot use version ${version} of the key ${key}`,
    );
  if (only === undefined) return message;
  return message.replace(
    /^(cannot (?:change|restore|use) )the resource(?=:)/,
    (_, verb) => verb + only,
  );
}

/** Returns which permission is missing on what, and the command that explains why. */
function missingPermission({ reason, metadata }: KeywardError): string | undefined {
  const [permission, resource] = [metadata.get('permission'), metadata.get('resource')];
  if (reason !== 'PERMISSION_MISSING' || permission === undefined || resource === undefined)
    return undefined;
  const about = askedAbout(permission, resource);
  const question = ['keyward', 'access', 'explain', about, permission].map(quoted).join(' ');
  return (
    `cannot perform the call: permission ${permission} is missing on ${resource}; an ` +
    'access administrator sees why with ' +
    `"${question} --principal NAME", where NAME is what "keyward whoami" shows`
  );
}

/**
 * The tenant or key whose bindings decide: `resource` may be of a key, or of the service, whose are
 * those of `system`.
 */
function askedAbout(permission: string, resource: string): string {
  const [scope] = /^tenants\/[^/]+(\/keys\/[^/]+)?/.exec(resource) ?? [];
  const isOfService =
    scope === undefined || scope === 'tenants/-' || permission === 'tenants.create';
  return isOfService ? 'tenants/system' : scope;
}

/**
 * Returns whether the answer is not from Keyward: it has no reason, and a status that the transport
 * makes.
 */
export function unreached({ code, reason }: KeywardError): boolean {
  return reason === undefined && (code === 'UNAVAILABLE' || code === 'DEADLINE_EXCEEDED');
}
