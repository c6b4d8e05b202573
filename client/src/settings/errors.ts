/**
 * What is wrong with how a program or a person has said where the service is and who calls.
 */

/** A setting, or a file that one names, that can't be used; the message names it and a remedy. */
export class SettingsError extends Error {
  override readonly name = 'SettingsError';
}

const TROUBLES: Readonly<Record<string, string>> = {
  ENOENT: 'it does not exist',
  EACCES: 'permission denied',
  EISDIR: 'it is a directory',
};

/** Returns why a file can't be read, in words. */
export function fileTrouble(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  return TROUBLES[code ?? ''] ?? message;
}
