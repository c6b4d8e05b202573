/**
 * Envelopes, which Connect's streams have round each message: a byte of flags, four of length.
 */
import { KeywardError } from '../../errors.ts';

/** A message as it is. */
export const PLAIN = 0;
/** What says how a stream ended. */
export const END_STREAM = 2;
const COMPRESSED = 1;
/** The bytes before a message. */
export const HEAD_BYTES = 5;

/** Returns a message in its envelope. */
export function envelope(flags: number, message: Buffer): Buffer {
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeUInt8(flags);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

/**
 * Returns the one message of a request. Throws COMPRESSION_NOT_SUPPORTED, and MESSAGE_COUNT_WRONG
 * where there is none or more.
 */
export function onlyMessage(body: Buffer): Buffer {
  if (body[0] === COMPRESSED) throw new KeywardError('COMPRESSION_NOT_SUPPORTED');
  if (body.length < HEAD_BYTES || body.readUInt32BE(1) !== body.length - HEAD_BYTES)
    throw new KeywardError('MESSAGE_COUNT_WRONG');
  if (body[0] !== PLAIN) throw new KeywardError('MALFORMED_REQUEST');
  return body.subarray(HEAD_BYTES);
}
