/**
 * How large answers may be, and how large the parts of one get on the wire. Knows no method.
 */

/** The largest answer, in bytes: what clients of gRPC take unless they are told otherwise. */
export const MAX_ANSWER_BYTES = 4_194_304;
/** A field of 32 bits, and one that is true or false. */
export const NUMBER_BYTES = 6;
export const FLAG_BYTES = 2;

/**
 * Returns how many bytes a field of text, bytes or a message takes that has so many, with its
 * number (up to 15) and length.
 */
export function fieldBytes(length: number): number {
  let lengthBytes = 1;
  for (let rest = length; rest >= 128; rest = Math.floor(rest / 128)) lengthBytes += 1;
  return 1 + lengthBytes + length;
}
