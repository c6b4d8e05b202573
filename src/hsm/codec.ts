/**
 * Records as bytes, for the frames between server and agent.
 *
 * A record is its fields in their declared order, big-endian, without names or padding: both sides
 * are always of one release. Invariant: decoding reads every byte of the input and no further, or
 * throws. Knows no operation.
 */

import { type AnyId, idFromBytes, idToBytes, UUID_BYTES } from '../ids.ts';

/** How one kind of value is written and read. */
export interface Field<T> {
  size(value: T): number;
  /** Returns where what follows is written. */
  write(value: T, target: Buffer, offset: number): number;
  /** Reads at `cursor.offset` and moves it on; throws RangeError past the end. */
  read(source: Buffer, cursor: Cursor): T;
}

interface Cursor {
  offset: number;
}

const fixed = <T>(
  length: number,
  write: (value: T, target: Buffer, offset: number) => void,
  read: (source: Buffer, offset: number) => T,
): Field<T> => ({
  size: () => length,
  write: (value, target, offset) => {
    write(value, target, offset);
    return offset + length;
  },
  read: (source, cursor) => {
    const offset = cursor.offset;
    cursor.offset += length;
    return read(source, offset);
  },
});

export const u8: Field<number> = fixed(
  1,
  (value, target, offset) => target.writeUInt8(value, offset),
  (source, offset) => source.readUInt8(offset),
);
export const u16: Field<number> = fixed(
  2,
  (value, target, offset) => target.writeUInt16BE(value, offset),
  (source, offset) => source.readUInt16BE(offset),
);
export const u32: Field<number> = fixed(
  4,
  (value, target, offset) => target.writeUInt32BE(value, offset),
  (source, offset) => source.readUInt32BE(offset),
);

/** A time in whole milliseconds since 1970. */
export const time: Field<Date> = fixed(
  8,
  (value, target, offset) => target.writeBigUInt64BE(BigInt(value.getTime()), offset),
  (source, offset) => new Date(Number(source.readBigUInt64BE(offset))),
);

/** Up to 4 GiB of bytes; what is read shares memory with the frame. */
export const bytes: Field<Buffer> = {
  size: (value) => 4 + value.length,
  write: (value, target, offset) => {
    target.writeUInt32BE(value.length, offset);
    target.set(value, offset + 4);
    return offset + 4 + value.length;
  },
  read: (source, cursor) => {
    const length = u32.read(source, cursor);
    const end = cursor.offset + length;
    if (end > source.length) throw new RangeError('a record ends within a field');
    const value = source.subarray(cursor.offset, end);
    cursor.offset = end;
    return value;
  },
};

/** Text, as {@link bytes} in UTF-8. */
export const text: Field<string> = {
  size: (value) => 4 + Buffer.byteLength(value),
  write: (value, target, offset) => bytes.write(Buffer.from(value), target, offset),
  read: (source, cursor) => bytes.read(source, cursor).toString(),
};

/** A UUID in lower-case text, 16 bytes on the wire. */
export function id<Id extends AnyId>(): Field<Id> {
  return fixed<Id>(
    UUID_BYTES,
    (value, target, offset) => idToBytes(value).copy(target, offset),
    (source, offset) => {
      if (offset + UUID_BYTES > source.length) throw new RangeError('a record ends within a UUID');
      return idFromBytes<Id>(source.subarray(offset, offset + UUID_BYTES));
    },
  );
}

/** A value as JSON: for what is said once, not per call. */
export function json<T>(): Field<T> {
  return {
    size: (value) => 4 + Buffer.byteLength(JSON.stringify(value)),
    write: (value, target, offset) =>
      bytes.write(Buffer.from(JSON.stringify(value)), target, offset),
    read: (source, cursor) => JSON.parse(bytes.read(source, cursor).toString()) as T,
  };
}

type Fields = Readonly<Record<string, Field<unknown>>>;
type ValueOf<F> = F extends Field<infer T> ? T : never;
/** What may be undefined may be absent. */
type RecordOf<F> = {
  readonly [K in keyof F as undefined extends ValueOf<F[K]> ? never : K]: ValueOf<F[K]>;
} & {
  readonly [K in keyof F as undefined extends ValueOf<F[K]> ? K : never]?: ValueOf<F[K]>;
};

/** A record of the given fields; usable as a field of another. */
export function struct<const F extends { readonly [name: string]: unknown }>(
  fields: F,
): Field<RecordOf<F>> {
  const entries = Object.entries(fields as unknown as Fields);
  type Parts = Readonly<Record<string, unknown>>;
  return {
    size: (value) =>
      entries.reduce((sum, [name, field]) => sum + field.size((value as Parts)[name]), 0),
    write: (value, target, offset) => {
      let at = offset;
      for (const [name, field] of entries) at = field.write((value as Parts)[name], target, at);
      return at;
    },
    read: (source, cursor) => {
      const record: Record<string, unknown> = {};
      for (const [name, field] of entries) record[name] = field.read(source, cursor);
      return record as RecordOf<F>;
    },
  };
}

/** Any number of values of one kind; usable as a field. */
export function list<T>(item: Field<T>): Field<readonly T[]> {
  return {
    size: (values) => values.reduce((sum, value) => sum + item.size(value), 4),
    write: (values, target, offset) => {
      let at = target.writeUInt32BE(values.length, offset);
      for (const value of values) at = item.write(value, target, at);
      return at;
    },
    read: (source, cursor) => {
      const length = u32.read(source, cursor);
      const values: T[] = [];
      // Every kind takes a byte at least, so that a false length throws before it is believed.
      while (values.length < length) values.push(item.read(source, cursor));
      return values;
    },
  };
}

/** A value or none, as {@link list} of at most one. */
export function optional<T>(item: Field<T>): Field<T | undefined> {
  const values = list(item);
  const asList = (value: T | undefined) => (value === undefined ? [] : [value]);
  return {
    size: (value) => values.size(asList(value)),
    write: (value, target, offset) => values.write(asList(value), target, offset),
    read: (source, cursor) => {
      const read = values.read(source, cursor);
      if (read.length > 1) throw new RangeError('a record has several values in the place of one');
      return read[0];
    },
  };
}

/** The record's bytes, after `reserved` bytes that are left zero for the caller's own head. */
export function encode<T>(record: Field<T>, value: T, reserved = 0): Buffer {
  const target = Buffer.alloc(reserved + record.size(value));
  record.write(value, target, reserved);
  return target;
}

/**
 * The record that the bytes from `offset` on are. Throws RangeError if they are shorter or longer
 * than it.
 */
export function decode<T>(record: Field<T>, source: Buffer, offset = 0): T {
  const cursor = { offset };
  const value = record.read(source, cursor);
  if (cursor.offset !== source.length) throw new RangeError('a record is longer than its fields');
  return value;
}
