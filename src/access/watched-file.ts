/**
 * Reads a file, and reads it again when it changes.
 *
 * - The value in force was always read and parsed as a whole.
 * - A file that is missing or cannot be parsed leaves the value unchanged, and is reported once.
 */
import { readFileSync } from 'node:fs';

/** How often files are read: a change is in force within 2 seconds. */
const LOOK_MS = 1_000;

/** Holds a file's parsed content, and reads it again when the file changes. */
export class WatchedFile<T> {
  readonly path: string;
  readonly #parse: (text: string) => T;
  #bytes: Buffer;
  #value: T;
  #look = () => {};

  /** Reads the file; throws what `parse` throws, with the file's name. */
  constructor(path: string, parse: (text: string) => T) {
    this.path = path;
    this.#parse = parse;
    this.#bytes = readFileSync(path);
    this.#value = this.#understood(this.#bytes);
  }

  /** Returns the file's content, as it was last parsed. */
  get value(): T {
    return this.#value;
  }

  /** Reads the file from time to time until the returned function is called. */
  watch(onReload: () => void, onError: (error: unknown) => void): () => void {
    let lastFailure: string | undefined;
    this.#look = () => {
      try {
        if (this.#reload()) onReload();
        lastFailure = undefined;
      } catch (error) {
        if (String(error) !== lastFailure) onError(error);
        lastFailure = String(error);
      }
    };
    const timer = setInterval(this.#look, LOOK_MS);
    timer.unref();
    return () => clearInterval(timer);
  }

  /** Reads the file now, if it is watched. */
  look(): void {
    this.#look();
  }

  #reload(): boolean {
    const bytes = readFileSync(this.path);
    if (bytes.equals(this.#bytes)) return false;
    this.#value = this.#understood(bytes);
    this.#bytes = bytes;
    return true;
  }

  #understood(bytes: Buffer): T {
    try {
      return this.#parse(bytes.toString());
    } catch (cause) {
      throw new Error(`${this.path}: ${(cause as Error).message}`, { cause });
    }
  }
}
