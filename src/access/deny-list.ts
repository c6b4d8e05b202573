/**
 * Parses the list of client certificates that are refused although they verify.
 *
 * - A line has the SHA-256 of a whole certificate in hexadecimal, with or without colons, or
 *   `serial@issuer`: a hexadecimal serial number, and the issuer as callers are named.
 * - `#` begins a comment.
 * - Any other line makes the file invalid, so that a slip cannot leave a certificate in force; so
 *   does no line at all, which is what a writer leaves that had no room.
 */
import { serialKey } from './certificates.ts';

const FINGERPRINT = /^[0-9a-f]{64}$/;
const SERIAL = /^([0-9a-f]{1,40})@(.+=.+)$/i;

/**
 * By what certificates are denied (see `ClientCertificate.denyKeys`). Throws, naming every line
 * that is not valid.
 */
export function parseDenyList(text: string): ReadonlySet<string> {
  if (text.trim() === '') throw new Error('is empty; a list of none has a comment in it');
  const denied = new Set<string>();
  const mistakes: string[] = [];
  for (const [index, line] of text.split('\n').entries()) {
    const entry = line.replace(/(^|\s)#.*$/, '').trim();
    const fingerprint = entry.replaceAll(':', '').toLowerCase();
    const [, serial = '', issuer = ''] = SERIAL.exec(entry) ?? [];
    if (FINGERPRINT.test(fingerprint)) denied.add(fingerprint);
    else if (serial !== '') denied.add(serialKey(serial, issuer));
    else if (entry !== '') mistakes.push(`line ${index + 1} must be a SHA-256 or serial@issuer`);
  }
  if (mistakes.length > 0) throw new Error(mistakes.join('\n'));
  return denied;
}
