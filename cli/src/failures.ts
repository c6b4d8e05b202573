/**
 * What went wrong, as one line for stderr and an exit code.
 *
 * Owns the exit codes: 0 done; 1 the service refused, its answer couldn't be written, or a watched job ended with something
 * left undone; 2 the command was given something it can't use; 3 the service can't be reached. Its invariant: a line holds no control characters, whoever
 * wrote it, and nothing that was encrypted or is to be.
 */
import { inspect } from 'node:util';
import { CommanderError } from 'commander';
import { KeywardClientError } from 'keyward-client';

/** The command was given something that it can't use; the message says what, and what would do. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

/** The exit code for what a command threw; anything that deserves words is written to stderr. */
export function report(error: unknown, debug: boolean): number {
  if (error instanceof CommanderError) {
    // Commander has written its own line, or help that was asked for.
    return ['commander.helpDisplayed', 'commander.version'].includes(error.code) ? 0 : 2;
  }
  process.stderr.write(`keyward: ${printable(describe(error))}\n`);
  if (debug) process.stderr.write(`${inspect(error)}\n`);
  if (error instanceof UsageError) return 2;
  return error instanceof KeywardClientError && unreached(error) ? 3 : 1;
}

/** Text as it may go to a terminal: control characters, which could command it, become `?`. */
export function printable(text: string): string {
  return text.replace(/\p{Cc}+/gu, (found) => (/^\s+$/.test(found) ? ' ' : '?'));
}

/** As a file system error is put to people. */
export function fileTrouble(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  const known: Record<string, string> = {
    ENOENT: 'there is no such file',
    EACCES: 'permission denied',
    EISDIR: 'it is a folder',
    EEXIST: 'it exists already; --force overwrites it',
  };
  return known[code ?? ''] ?? message;
}

function describe(error: unknown): string {
  if (!(error instanceof KeywardClientError)) return error instanceof Error ? error.message : String(error);
  const { code, reason, fieldViolations, requestId } = error;
  const fields = fieldViolations.map(({ field, description }) => `${field}: ${description}`).join('; ');
  const request = requestId === undefined ? '' : ` (request ${requestId})`;
  return `${reason ?? code}: ${fields || error.message}${request}`;
}

/** Nobody answered as Keyward does: no reason came, and the status is one that the transport itself makes. */
function unreached({ code, reason }: KeywardClientError): boolean {
  return reason === undefined && (code === 'UNAVAILABLE' || code === 'DEADLINE_EXCEEDED');
}
