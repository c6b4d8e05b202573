/**
 * Reports a failure as one line on standard error and an exit code.
 *
 * - Exit codes: 0 done; 1 the service refused, its answer could not be written, a watched job left
 *   something undone, a tested permission is missing, an export failed verification, or the
 *   service's status has something to look into; 2 the
 *   command got something that it cannot use; 3 the service cannot be reached; 4 the call waits for
 *   others to approve it.
 * - A line has no characters that command a terminal, from any source, and no plaintext.
 */
import { inspect } from 'node:util';
import { CommanderError } from 'commander';
import { AuditVerificationError, KeywardError } from 'keyward-client';

/** Reports that the command got something that it cannot use; the message names it and a remedy. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

/** Returns the exit code for what a command threw, and writes its line to standard error. */
export function report(error: unknown, debug: boolean): number {
  if (error instanceof CommanderError) {
    // Commander has written its own line, or help that was asked for.
    return ['commander.helpDisplayed', 'commander.version'].includes(error.code) ? 0 : 2;
  }
  process.stderr.write(`keyward: ${printable(describe(error))}\n`);
  if (debug) process.stderr.write(`${printableLines(inspect(error))}\n`);
  if (error instanceof UsageError) return 2;
  if (!(error instanceof KeywardError)) return 1;
  if (error.reason === 'APPROVAL_REQUIRED') return 4;
  return unreached(error) ? 3 : 1;
}

/**
 * Characters that command a terminal: controls, those that reverse the direction of what follows,
 * and Unicode's own ends of lines.
 */
const COMMANDING = /[\p{Cc}\p{Bidi_Control}\u2028\u2029]+/gu;

/** Returns the text on one line, with `?` for characters that command a terminal. */
export function printable(text: string): string {
  return text.replace(COMMANDING, (found) => (/^\s+$/.test(found) ? ' ' : '?'));
}

/** Returns the text with its lines, each as {@link printable}. */
export function printableLines(text: string): string {
  return text.split('\n').map(printable).join('\n');
}

/** Returns a JSON text that means the same, with escapes for characters that command a terminal. */
export function printableJson(json: string): string {
  return json.replace(COMMANDING, (found) => [...found].map(escaped).join(''));
}

function escaped(character: string): string {
  if (character === '\n') return character;
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
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
  if (!(error instanceof KeywardError))
    return error instanceof Error ? error.message : String(error);
  const { code, reason, fieldViolations, requestId } = error;
  const fields = fieldViolations
    .map(({ field, description }) => `${field}: ${description}`)
    .join('; ');
  const request = requestId === undefined ? '' : ` (request ${requestId})`;
  const text = fields || missingPermission(error) || waiting(error) || error.message;
  return `${reason ?? code}: ${text}${request}`;
}

/** Returns what waits for approval, until when, and the command that shows it. */
function waiting({ reason, message, metadata }: KeywardError): string | undefined {
  const [operation, until] = [metadata.get('operation'), metadata.get('expire_time')];
  if (reason !== 'APPROVAL_REQUIRED' || operation === undefined) return undefined;
  const end = until === undefined ? '' : `, until ${until}`;
  const command = ['keyward', 'approvals', 'show', operation].map(quoted).join(' ');
  return `${message}${end}; "${command}" shows it, and how far it is`;
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
