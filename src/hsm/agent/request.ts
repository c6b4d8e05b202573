/**
 * Reads the fields of an approved request, as protobuf's JSON mapping writes them: what is absent
 * has its default, and a field that is not known here is refused, so that nothing was approved that
 * the agent does not look at.
 */
import type { Json, JsonObject } from '../canonical-json.ts';
import { notApproved } from './warrant.ts';

/** Reads one message of an approved request. Each function throws `not-approved`. */
export class RequestFields {
  readonly #json: JsonObject;

  /** `names` are all that it may have. */
  constructor(json: JsonObject, names: readonly string[]) {
    const other = Object.keys(json).find((name) => !names.includes(name));
    if (other !== undefined) throw notApproved(`the request has ${other}, which is not known`);
    this.#json = json;
  }

  has(name: string): boolean {
    return this.#json[name] !== undefined;
  }

  text(name: string): string {
    return this.#value(name, '', isText);
  }

  flag(name: string): boolean {
    return this.#value(name, false, (json): json is boolean => typeof json === 'boolean');
  }

  integer(name: string): number {
    return this.#value(name, 0, (json): json is number => Number.isSafeInteger(json));
  }

  bytes(name: string): Buffer {
    return Buffer.from(this.text(name), 'base64');
  }

  /** Returns the time in whole milliseconds; null where there is none. */
  time(name: string): Date | null {
    if (!this.has(name)) return null;
    const time = new Date(this.text(name));
    if (Number.isNaN(time.getTime())) throw wrong(name);
    return time;
  }

  /** Returns whole seconds; undefined where there are none. */
  seconds(name: string): number | undefined {
    if (!this.has(name)) return undefined;
    const [, seconds] = /^(\d{1,9})s$/.exec(this.text(name)) ?? [];
    if (seconds === undefined) throw wrong(name);
    return Number(seconds);
  }

  texts(name: string): readonly string[] {
    const all = this.#value<readonly Json[]>(name, [], isList);
    return all.map((each) => {
      if (!isText(each)) throw wrong(name);
      return each;
    });
  }

  message(name: string, names: readonly string[]): RequestFields {
    return new RequestFields(this.#value<JsonObject>(name, {}, isObject), names);
  }

  messages(name: string, names: readonly string[]): readonly RequestFields[] {
    return this.#value<readonly Json[]>(name, [], isList).map((each) => {
      if (!isObject(each)) throw wrong(name);
      return new RequestFields(each, names);
    });
  }

  #value<T extends Json>(name: string, absent: T, is: (json: Json) => json is T): T {
    const json = this.#json[name];
    if (json === undefined) return absent;
    if (!is(json)) throw wrong(name);
    return json;
  }
}

const isText = (json: Json): json is string => typeof json === 'string';
const isList = (json: Json): json is readonly Json[] => Array.isArray(json);
const isObject = (json: Json): json is JsonObject =>
  json !== null && typeof json === 'object' && !Array.isArray(json);

function wrong(name: string): Error {
  return notApproved(`the request’s ${name} cannot be read`);
}
