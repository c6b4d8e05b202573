/**
 * What a caller passes, as protobufjs wants it: one function for each kind of field.
 *
 * Its invariant: what passes arrives exactly, and everything else is refused with a TypeError;
 * nothing is coerced (protobufjs would take a string for base64, and `undefined` for the text
 * "undefined"); and a map keeps every key, `__proto__` too. Limits are the service's to check.
 * Knows fields, not methods.
 */
import { randomUUID } from 'node:crypto';
import type {
  ChangeOfExisting,
  Destruction,
  FilteredPage,
  Page,
  Strings,
} from './messages/shared.ts';

export function text(field: string, value: unknown): string {
  if (typeof value !== 'string') throw new TypeError(`${field} must be a string`);
  return value;
}

/** An int32: protobufjs would cut anything else to one. */
export function integer(field: string, value: unknown): number {
  if (typeof value !== 'number' || (value | 0) !== value)
    throw new TypeError(`${field} must be a whole number`);
  return value;
}

/** A uint32. */
export function unsigned(field: string, value: unknown): number {
  if (typeof value !== 'number' || value >>> 0 !== value)
    throw new TypeError(`${field} must be a whole number from 0 to 2^32 - 1`);
  return value;
}

/** An int64, as far as a number is exact. */
export function whole(field: string, value: unknown): number {
  if (!Number.isSafeInteger(value))
    throw new TypeError(`${field} must be a whole number up to 2^53 - 1`);
  return value as number;
}

export function flag(field: string, value: unknown): boolean {
  if (typeof value !== 'boolean') throw new TypeError(`${field} must be true or false`);
  return value;
}

/** One of an enum's words, as the wire has it: protobufjs would take any other for none. */
export function oneOf<Wire>(
  field: string,
  value: unknown,
  wire: Readonly<Record<string, Wire>>,
): Wire {
  const found = typeof value === 'string' && Object.hasOwn(wire, value) ? wire[value] : undefined;
  if (found === undefined)
    throw new TypeError(`${field} must be ${Object.keys(wire).join(' or ')}`);
  return found;
}

/** To the millisecond, which is all that a Date has. */
export function timestamp(field: string, value: unknown) {
  if (!(value instanceof Date) || Number.isNaN(value.getTime()))
    throw new TypeError(`${field} must be a valid Date`);
  const seconds = Math.floor(value.getTime() / 1000);
  return { seconds, nanos: (value.getTime() - seconds * 1000) * 1e6 };
}

/** Whole seconds. */
export function duration(field: string, value: unknown) {
  return { seconds: whole(field, value), nanos: 0 };
}

export function bytes(field: string, value: unknown): Uint8Array {
  if (!(value instanceof Uint8Array)) throw new TypeError(`${field} must be a Uint8Array`);
  return value;
}

/**
 * A map of strings. Without a prototype, because assigning `__proto__` to an ordinary object is
 * silently lost, and with it part of what the caller wanted authenticated.
 */
export function strings(field: string, given: Strings | undefined): Record<string, string> {
  const wire: Record<string, string> = Object.create(null);
  if (given === undefined) return wire;
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    throw new TypeError(`${field} must be a Map or an object of strings`);
  }
  for (const [key, value] of given instanceof Map ? given : Object.entries(given)) {
    wire[text(`a key of ${field}`, key)] = text(`a value of ${field}`, value);
  }
  return wire;
}

/** Every item by `convert`, whose TypeErrors say which item is meant. */
export function items<Item, Wire>(
  field: string,
  given: readonly Item[],
  convert: (item: Item) => Wire,
): Wire[] {
  if (!Array.isArray(given)) throw new TypeError(`${field} must be an array`);
  return given.map((item: Item, index) => {
    try {
      return convert(item);
    } catch (error) {
      throw new TypeError(`${field}[${index}].${(error as Error).message}`, { cause: error });
    }
  });
}

/** Which page of a list. */
export function page(r: Page) {
  return {
    pageSize: integer('pageSize', r.pageSize ?? 0),
    pageToken: text('pageToken', r.pageToken ?? ''),
  };
}

/** Which page of a list, and of what. */
export function filteredPage(r: FilteredPage) {
  return { ...page(r), filter: text('filter', r.filter ?? '') };
}

/** A thing by its name. */
export function named(r: { readonly name: string }) {
  return { name: text('name', r.name) };
}

/** The caller's id for a change, or a new one: with it, the change may be sent again. */
export function requestId(given: string | undefined): { readonly requestId: string } {
  const id = text('requestId', given ?? '');
  return { requestId: id === '' ? randomUUID() : id };
}

/** A change to a named thing. */
export function change(r: { readonly name: string } & ChangeOfExisting) {
  return { ...named(r), etag: text('etag', r.etag ?? ''), ...requestId(r.requestId) };
}

/** A named thing's destruction, or a look at what would be lost by it. */
export function destruction(r: { readonly name: string } & Destruction) {
  return {
    ...named(r),
    etag: text('etag', r.etag ?? ''),
    windowDays: integer('windowDays', r.windowDays ?? 0),
    validateOnly: flag('validateOnly', r.validateOnly ?? false),
    ...requestId(r.requestId),
  };
}
