/**
 * What callers give and get, to the wire and off it, by the contract's descriptors.
 *
 * - What passes to the wire arrives exactly, and all else is refused with a TypeError; nothing is
 *   coerced (protobufjs would take a string for base64, and `undefined` for the text "undefined").
 * - Of fields that exclude each other exactly one is sent: protobufjs would keep the last of two.
 * - An answer that isn't whole is refused; what is newer than this client is `UNSPECIFIED`.
 * - Bytes go with their checksum, and come out only where theirs is right (`checksums.ts`).
 *
 * Limits are the service's to check. Knows no method; what the fields are is generated.
 */
import { randomUUID } from 'node:crypto';
import type { Checksums } from './checksums.ts';
import { ENUMS, SHAPES } from './generated/shapes.ts';

/** A field of a message; `FieldRow` leaves out what is as in {@link PLAIN}. */
interface Field {
  /** Its name on the wire. */
  readonly name: string;
  /** Its name for callers. */
  readonly as: string;
  readonly kind: string;
  /** A message's shape, an enum, a list's only field, or the bytes that a checksum is of. */
  readonly of: string;
  readonly repeated: boolean;
  /** Which fields it excludes: those that have the same here. */
  readonly oneof: string;
  /** Of a request: must be given. Of an answer: must be there. */
  readonly required: boolean;
  /** May be null in a request, which is to clear it. */
  readonly nullable: boolean;
  /** May be absent on the wire too, whatever its kind. */
  readonly optional: boolean;
  /** Taken for a message with nothing in it where it is absent. */
  readonly emptyWhenAbsent: boolean;
}

const PLAIN: Field = {
  name: '',
  as: '',
  kind: '',
  of: '',
  repeated: false,
  oneof: '',
  required: false,
  nullable: false,
  optional: false,
  emptyWhenAbsent: false,
};

/** A field as the generated table has it. */
export type FieldRow = Partial<Field>;

/** An enum's words, and what each is on the wire. */
export type Words = Readonly<Record<string, number>>;

/** A message, by its fields' names. */
export type Values = Readonly<Record<string, unknown>>;

/** What stands for what isn't given, of the kinds that have no absence on the wire. */
const DEFAULTS: Values = {
  string: '',
  bool: false,
  int32: 0,
  uint32: 0,
  int64: 0,
  double: 0,
  enum: 0,
};

/** Turns requests into what protobufjs encodes, and what it has decoded into what callers get. */
export class Converter {
  readonly #checksums: Checksums;

  constructor(checksums: Checksums) {
    this.#checksums = checksums;
  }

  /** Returns a request for the wire. Throws a TypeError that names the field that can't be sent. */
  request(shape: string, given: unknown): Values {
    const { fields, oneofs } = shapeOf(shape);
    const values = given as Values;
    for (const oneof of oneofs) requireOne(oneof, values);
    const wire: Record<string, unknown> = {};
    for (const field of fields) {
      const value =
        field.kind === 'mask' ? masked(field.as, fields, values) : this.#sent(field, values, wire);
      if (value !== undefined) wire[field.name] = value;
    }
    return wire;
  }

  /** Returns an answer for callers. Throws for one that isn't whole, or not as it was sent. */
  answer(shape: string, wire: Values): Values {
    const { fields, checked } = shapeOf(shape);
    const answer: Record<string, unknown> = {};
    for (const field of fields) answer[field.as] = this.#answered(field, wire, shape);
    for (const { kind, as, of } of checked) {
      if (kind === 'verified') this.#checksums.requireVerified(of, answer[as] as boolean);
      else this.#checksums.verify(of, answer[of] as Uint8Array, answer[as] as number);
    }
    return answer;
  }

  /** Undefined for what isn't sent. */
  #sent(field: Field, values: Values, wire: Values): unknown {
    const { kind, as, of, repeated, required } = field;
    const value = values[as];
    switch (kind) {
      case 'requestId':
        return text(as, value ?? '') || randomUUID();
      case 'checksum':
        if (value !== undefined && value !== null) return unsigned(as, value);
        return this.#checksums.made(wire[of] as Uint8Array);
    }
    if (repeated) {
      const given = required ? value : (value ?? []);
      if (kind !== 'message') return texts(as, given);
      if (!Array.isArray(given)) throw new TypeError(`${as} must be an array`);
      return given.map((item, index) => this.#part(of, item, `${as}[${index}]`));
    }
    if (!required && isAbsent(field, value)) return this.#absent(field);
    return kind === 'message' ? this.#part(of, value, as) : sentOne(field, value);
  }

  /** A part of a request, whose TypeErrors say where it is. */
  #part(shape: string, given: unknown, at: string): Values {
    try {
      return this.request(shape, given);
    } catch (error) {
      throw new TypeError(`${at}.${(error as Error).message}`, { cause: error });
    }
  }

  #absent({ kind, of, oneof, optional, emptyWhenAbsent }: Field): unknown {
    if (oneof !== '' || optional) return undefined;
    return emptyWhenAbsent ? this.request(of, {}) : DEFAULTS[kind];
  }

  #answered(field: Field, wire: Values, shape: string): unknown {
    const { name, as, kind, repeated, required, oneof, optional, emptyWhenAbsent } = field;
    const value = wire[name] ?? DEFAULTS[kind];
    if (repeated) return (value as unknown[]).map((each) => this.#answeredOne(field, each));
    // protobufjs has a default where nothing was sent.
    const isAbsent =
      value === undefined || ((oneof !== '' || optional) && !Object.hasOwn(wire, name));
    if (!isAbsent) return this.#answeredOne(field, value);
    if (required) throw new Error(`the answer lacks ${shape}.${as}`);
    return emptyWhenAbsent ? this.answer(field.of, {}) : undefined;
  }

  #answeredOne({ kind, of }: Field, value: unknown): unknown {
    switch (kind) {
      case 'message':
        return this.answer(of, value as Values);
      case 'bytes':
        return value instanceof Uint8Array ? value : Buffer.alloc(0);
      case 'int64':
        return Number(value);
      case 'enum':
        return words.get(of)?.get(value as number) ?? 'UNSPECIFIED';
      case 'date':
        return date(value as WireTime);
      case 'seconds':
        return seconds(value as WireTime);
      case 'list':
        return (value as Values)[of];
      default:
        return value;
    }
  }
}

/** A message's fields, and what there is to do with them. */
interface Shape {
  readonly fields: readonly Field[];
  /** Of each of these exactly one is given. */
  readonly oneofs: readonly (readonly Field[])[];
  /** Those that are checksums, or say that one was compared. */
  readonly checked: readonly Field[];
}

const shapes = new Map(Object.entries(SHAPES).map(([name, fields]) => [name, newShape(fields)]));

function newShape(given: readonly FieldRow[]): Shape {
  // With the same members each, in the same order, which makes them fast to read.
  const fields = given.map((row) => ({ ...PLAIN, ...row }));
  const names = new Set(fields.map(({ oneof }) => oneof).filter((name) => name !== ''));
  return {
    fields,
    oneofs: [...names].map((name) => fields.filter(({ oneof }) => oneof === name)),
    checked: fields.filter(({ kind }) => kind === 'checksum' || kind === 'verified'),
  };
}

function shapeOf(name: string): Shape {
  return shapes.get(name) as Shape;
}

function isAbsent({ kind, nullable }: Field, value: unknown): boolean {
  return (
    value === undefined || (value === null && (nullable || (kind in DEFAULTS && kind !== 'enum')))
  );
}

function requireOne(oneof: readonly Field[], values: Values): void {
  if (oneof.filter(({ as }) => values[as] !== undefined).length === 1) return;
  const names = oneof.map(({ as }) => as);
  const listed = `${names.slice(0, -1).join(', ')} or ${names.at(-1)}`;
  throw new TypeError(`${listed} must be given, and only one of them`);
}

/** What a request for changes names: by its caller's mask, else all that is given. */
function masked(mask: string, fields: readonly Field[], values: Values): Values {
  const given = values[mask];
  if (given !== undefined && given !== null) return { paths: texts(mask, given) };
  const part = fields.find(({ kind }) => kind === 'message') as Field;
  return { paths: pathsOf(part.of, values[part.as] as Values) };
}

/** The contract's names of the fields that are given, as in `quotas.calls_per_second`. */
function pathsOf(shape: string, values: Values): string[] {
  return shapeOf(shape).fields.flatMap(({ name, as, kind, of }) => {
    if (name === 'name' || name === 'etag' || values[as] === undefined) return [];
    const path = name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    if (kind !== 'message') return path;
    return pathsOf(of, values[as] as Values).map((inner) => `${path}.${inner}`);
  });
}

function sentOne({ kind, as, of }: Field, value: unknown): unknown {
  switch (kind) {
    case 'string':
      return text(as, value);
    case 'bytes':
      if (value instanceof Uint8Array) return value;
      throw new TypeError(`${as} must be a Uint8Array`);
    case 'bool':
      if (typeof value === 'boolean') return value;
      throw new TypeError(`${as} must be true or false`);
    case 'int32':
      // protobufjs would cut anything else to one.
      if (typeof value === 'number' && (value | 0) === value) return value;
      throw new TypeError(`${as} must be a whole number`);
    case 'int64':
      return whole(as, value);
    case 'date':
      return timestamp(as, value);
    case 'seconds':
      return { seconds: whole(as, value), nanos: 0 };
    case 'strings':
      return strings(as, value);
    case 'list':
      return { [of]: texts(as, value) };
    default:
      return enumValue(as, value, of);
  }
}

function text(field: string, value: unknown): string {
  if (typeof value !== 'string') throw new TypeError(`${field} must be a string`);
  return value;
}

function texts(field: string, values: unknown): string[] {
  if (!Array.isArray(values)) throw new TypeError(`${field} must be an array of strings`);
  return values.map((each, index) => text(`${field}[${index}]`, each));
}

/** A uint32. */
function unsigned(field: string, value: unknown): number {
  if (typeof value !== 'number' || value >>> 0 !== value)
    throw new TypeError(`${field} must be a whole number from 0 to 2^32 - 1`);
  return value;
}

/** An int64, as far as a number is exact. */
function whole(field: string, value: unknown): number {
  if (!Number.isSafeInteger(value))
    throw new TypeError(`${field} must be a whole number up to 2^53 - 1`);
  return value as number;
}

/**
 * A map of strings. Without a prototype, because assigning `__proto__` to an ordinary object is
 * silently lost, and with it part of what the caller wanted authenticated.
 */
function strings(field: string, given: unknown): Values {
  const wire: Record<string, string> = Object.create(null);
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    throw new TypeError(`${field} must be a Map or an object of strings`);
  }
  for (const [key, value] of given instanceof Map ? given : Object.entries(given)) {
    wire[text(`a key of ${field}`, key)] = text(`a value of ${field}`, value);
  }
  return wire;
}

/** One of an enum's words: protobufjs would take any other for none. */
function enumValue(field: string, value: unknown, of: string): number {
  const { UNSPECIFIED: _, ...known } = ENUMS[of] as Words;
  if (typeof value !== 'string' || !Object.hasOwn(known, value))
    throw new TypeError(`${field} must be ${Object.keys(known).join(' or ')}`);
  return known[value] as number;
}

/** By enum, its words by their numbers. */
const words = new Map(
  Object.entries(ENUMS).map(([name, values]) => [
    name,
    new Map(Object.entries(values).map(([word, value]) => [value, word])),
  ]),
);

interface WireTime {
  readonly seconds: unknown;
  readonly nanos: number;
}

/** To the millisecond, which is all that a Date has. */
function timestamp(field: string, value: unknown): WireTime {
  if (!(value instanceof Date) || Number.isNaN(value.getTime()))
    throw new TypeError(`${field} must be a valid Date`);
  const seconds = Math.floor(value.getTime() / 1000);
  return { seconds, nanos: (value.getTime() - seconds * 1000) * 1e6 };
}

/** To the millisecond: the rest of the nanoseconds is dropped. */
function date({ seconds, nanos }: WireTime): Date {
  return new Date(Number(seconds) * 1000 + Math.floor(nanos / 1e6));
}

function seconds({ seconds, nanos }: WireTime): number {
  return Number(seconds) + nanos / 1e9;
}
