/**
 * A look at a large request before it is decoded: whose it is, and whether decoding it costs what
 * an honest one costs.
 *
 * Two bytes make an empty item and two an empty key of a map, so 4 MiB are two million of either,
 * and decoding those held the event loop for up to three seconds (measured; the largest honest
 * batch takes a tenth of one). Invariants:
 *
 * - fields are counted in every message that decoding descends into, by the request's descriptor;
 * - what protobufjs could read in another way than this does is refused, so that what was counted
 *   is what is decoded (it goes by a known field's number, whatever wire type is given, and cuts
 *   long varints short);
 * - it is linear, copies nothing, and takes some 20 ns a field: nothing for 4 MiB of payloads, 10
 *   ms for the most fields that it lets pass, which decoding takes 100 ms for.
 *
 * Knows the wire format (protobuf.dev, "Encoding") and descriptors, not what a message means.
 */
import { KeywardError } from '../../errors.ts';
import { descriptorOf, type MessageDescriptor } from './proto.ts';

/**
 * How many fields a message may have, by its depth: the request, an item, an entry of an item's
 * map. Above what a batch may have, so that one that is a little too long is told so by its own
 * check. Nothing is nested deeper.
 */
const MAX_FIELDS = [4_096, 256, 4] as const;
/** In all: a batch of 1,000 items with two contexts of 64 entries each has 391,000. */
const MAX_TOTAL_FIELDS = 400_000;

const VARINT = 0;
const LENGTH = 2;
const WIRE_TYPES: Readonly<Record<string, number>> = {
  TYPE_STRING: LENGTH,
  TYPE_BYTES: LENGTH,
  TYPE_MESSAGE: LENGTH,
  TYPE_INT32: VARINT,
  TYPE_UINT32: VARINT,
  TYPE_BOOL: VARINT,
};

/** A field of a message, by what the wire has of it. */
interface Field {
  readonly wireType: number;
  /** Of a message's field. */
  readonly message?: Fields;
}

/** The fields of a message, by number. */
type Fields = readonly (Field | undefined)[];

/** Looks at the requests of one method. */
export class RequestScanner {
  readonly #fields: Fields;
  readonly #addressee: number;

  /**
   * Of the message of that full name, which says by its field `addressee` whose it is. Throws for
   * one that it has no way to scan.
   */
  constructor(message: string, addressee: string) {
    const descriptor = descriptorOf(message);
    const field = descriptor.fields.find(
      ({ name, type }) => name === addressee && type === 'TYPE_STRING',
    );
    if (field === undefined) throw new Error(`${message} has no text ${addressee}`);
    this.#addressee = field.number;
    this.#fields = fieldsOf(descriptor, 0);
  }

  /**
   * Returns the text of the field that says whose the request is, as decoding would have it. Throws
   * MESSAGE_TOO_LARGE for more fields than are decoded, and MALFORMED_REQUEST for bytes that no
   * library encodes.
   */
  addresseeOf(request: Buffer): string {
    const [start, end] = scan(request, this.#fields, this.#addressee);
    return request.toString('utf8', start, end);
  }
}

function fieldsOf({ name, fields }: MessageDescriptor, depth: number): Fields {
  if (depth >= MAX_FIELDS.length)
    throw new Error(`${name} is nested deeper than large requests may be`);
  const byNumber: Field[] = [];
  for (const { number, type, isRepeated, message } of fields) {
    const wireType = WIRE_TYPES[type];
    // Repeated numbers are packed, as many as there are bytes in one field.
    if (wireType === undefined || (isRepeated && wireType !== LENGTH))
      throw new Error(`${name} has a field of ${type}, which large requests may not have`);
    byNumber[number] = { wireType, ...(message && { message: fieldsOf(message(), depth + 1) }) };
  }
  return byNumber;
}

/**
 * Walks through a request, from its first byte to its last. Returns where the text of its field
 * `addressee` begins and ends; of several, as protobuf has it, the last. One loop over local
 * variables, for speed.
 */
function scan(bytes: Buffer, root: Fields, addressee: number): readonly [number, number] {
  const found: [number, number] = [0, 0];
  /** The messages around the one that is looked at, and how far they are. */
  const outer: { readonly fields: Fields; readonly end: number; readonly count: number }[] = [];
  let fields = root;
  let end = bytes.length;
  let count = 0;
  let total = 0;
  let offset = 0;
  for (;;) {
    if (offset === end) {
      const whole = outer.pop();
      if (whole === undefined) return found;
      ({ fields, end, count } = whole);
      continue;
    }
    const limit = MAX_FIELDS[outer.length] as number;
    count += 1;
    if (count > limit) throw tooManyFields(limit);
    total += 1;
    if (total > MAX_TOTAL_FIELDS) throw tooManyFields(MAX_TOTAL_FIELDS);

    let after = varintEnd(bytes, offset, end);
    const tag = uint32(bytes, offset, after);
    offset = after;
    const number = tag >>> 3;
    const wireType = tag & 7;
    // A group, which proto3 has not: there may be any number of fields in it.
    if (wireType === 3) throw tooManyFields(limit);
    const field = fields[number];
    if (number === 0 || (field !== undefined && field.wireType !== wireType)) throw malformed();
    if (wireType !== LENGTH) {
      after = wireType === VARINT ? varintEnd(bytes, offset, end) : offset + fixedBytes(wireType);
      // protobufjs takes 5 bytes of a number of 32 bits, or 10.
      if (after > end || (field !== undefined && after - offset > 5 && after - offset < 10))
        throw malformed();
      offset = after;
      continue;
    }
    after = varintEnd(bytes, offset, end);
    const length = uint32(bytes, offset, after);
    offset = after;
    if (length > end - offset) throw malformed();
    if (field?.message !== undefined) {
      outer.push({ fields, end, count });
      fields = field.message;
      end = offset + length;
      count = 0;
      continue;
    }
    if (outer.length === 0 && number === addressee) {
      found[0] = offset;
      found[1] = offset + length;
    }
    offset += length;
  }
}

/** Returns where a varint of up to 10 bytes ends, which is before `end`. */
function varintEnd(bytes: Buffer, start: number, end: number): number {
  const last = Math.min(end, start + 10);
  for (let offset = start; offset < last; offset += 1)
    if ((bytes[offset] as number) < 0x80) return offset + 1;
  throw malformed();
}

/** Returns the varint from `start` to `end` as a tag or a length, which has 32 bits. */
function uint32(bytes: Buffer, start: number, end: number): number {
  const first = bytes[start] as number;
  if (first < 0x80) return first;
  if (end - start > 5) throw malformed();
  let value = 0;
  for (let offset = end - 1; offset >= start; offset -= 1)
    value = value * 128 + ((bytes[offset] as number) & 0x7f);
  if (value > 0xffffffff) throw malformed();
  return value;
}

function fixedBytes(wireType: number): number {
  if (wireType === 1) return 8;
  if (wireType === 5) return 4;
  throw malformed();
}

function tooManyFields(limit: number): KeywardError {
  return new KeywardError('MESSAGE_TOO_LARGE', {
    message: `cannot accept the request: it, or a message in it, has more than ${limit} fields`,
    metadata: { limit: String(limit), unit: 'fields' },
  });
}

function malformed(): KeywardError {
  return new KeywardError('MALFORMED_REQUEST');
}
