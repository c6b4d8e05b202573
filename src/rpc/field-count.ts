/**
 * A look at a large message before it is decoded: whether it has more fields than any that is meant.
 *
 * Two bytes make an empty item, so 4 MiB are two million of them, and decoding those held the event loop for three
 * seconds (measured; the largest honest batch takes a hundredth). Looks at the message's fields and at theirs, as the
 * wire has them (protobuf.dev, "Encoding"), for at most a few milliseconds. Knows no schema: for messages whose large
 * fields are items, not bytes.
 */

/** Above what a batch may have, so that one that is a little too long is told so by its own check. */
const MAX_FIELDS = 4_096;
/** Of one item: two contexts, and what else there is. */
const MAX_NESTED_FIELDS = 256;

/** Whether decoding these bytes would be the attack. What is no message is left for decoding to find. */
export function hasTooManyFields(bytes: Buffer): boolean {
  return exceeds(bytes, MAX_FIELDS, (nested) => exceeds(nested, MAX_NESTED_FIELDS));
}

function exceeds(bytes: Buffer, limit: number, nestedExceeds?: (nested: Buffer) => boolean): boolean {
  let offset = 0;
  /** Longer ones than this can hold exactly are no lengths, and end the look. */
  const varint = () => {
    let value = 0;
    for (let factor = 1; offset < bytes.length; factor *= 128) {
      const byte = bytes[offset++] ?? 0;
      value += (byte & 0x7f) * factor;
      if (byte < 0x80) break;
    }
    return value;
  };
  for (let count = 0; offset < bytes.length; count += 1) {
    if (count === limit) return true;
    switch (varint() % 8) {
      case 0:
        varint();
        break;
      case 1:
        offset += 8;
        break;
      case 2: {
        const length = varint();
        if (nestedExceeds?.(bytes.subarray(offset, offset + length))) return true;
        offset += length;
        break;
      }
      case 5:
        offset += 4;
        break;
      case 3:
        // A group, which proto3 has not: there may be any number of fields in it.
        return true;
      default:
        // No field: text, as the tenant's name is, or what decoding will refuse.
        return false;
    }
  }
  return false;
}
