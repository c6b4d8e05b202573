/**
 * The list of client certificates that are refused though they verify, as its file says it.
 *
 * One certificate a line: the SHA-256 of the whole certificate in hexadecimal, colons or not, or
 * `serial@issuer`, the serial number hexadecimal and the issuer as callers are named. `#` begins a
 * comment. Invariant: a line that is neither makes the file invalid, so that a slip of the pen
 * doesn't leave a certificate in force. Knows no connection.
 */
import { serialKey } from './certificates.ts';

const FINGERPRINT = /^[0-9a-f]{64}$/;
const SERIAL = /^([0-9a-f]{1,40})@(.+=.+)$/i;

/**
 * By what certificates are denied (see `ClientCertificate.denyKeys`). Throws, naming every line
 * that is not valid.
 */
export function parseDenyList(text: string): ReadonlySet<string> {
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
