/**
 * Checksums of what is sent and of what is answered.
 *
 * Its invariant: switched on, no bytes leave without one, and none reach the caller without having
 * matched one. Switched off, only a checksum that the caller gives is sent, and nothing is looked
 * at.
 */

import { CHECKSUM_MISMATCH, KeywardError } from './errors.ts';
import { crc32c } from './generated/crc32c.ts';

/** Makes and compares checksums, or doesn't. */
export class Checksums {
  readonly #on: boolean;

  constructor(on: boolean) {
    this.#on = on;
  }

  /** Returns the checksum to send with `content`; none when switched off. */
  made(content: Uint8Array): number | undefined {
    return this.#on ? crc32c(content) : undefined;
  }

  /**
   * Throws CHECKSUM_MISMATCH unless the service says that it has looked at the request's checksum.
   */
  requireVerified(field: string, verified: boolean): void {
    if (this.#on && !verified) throw mismatch(`The service has not seen the checksum of ${field}`);
  }

  /** Throws CHECKSUM_MISMATCH unless the answer's bytes have the answer's checksum. */
  verify(field: string, content: Uint8Array, expected: number): void {
    if (this.#on && crc32c(content) !== expected)
      throw mismatch(`The answer's checksum does not match its ${field}`);
  }
}

function mismatch(what: string): KeywardError {
  return new KeywardError({
    code: 'DATA_LOSS',
    reason: CHECKSUM_MISMATCH,
    message: `${what}: something changed on the way.`,
    retryDelayMs: 0,
  });
}
