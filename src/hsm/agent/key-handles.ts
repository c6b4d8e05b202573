/**
 * Unwrapped key versions as session objects, the least recently used forgotten first.
 *
 * Named by the whole of the sealed version's bytes, so a handle is only ever found by exactly the row that was verified
 * when it was made. Doesn't know how a key is unwrapped.
 */
import type { Key } from 'graphene-pk11';

/** At most `limit` handles; what is dropped is destroyed in the token. */
export class KeyHandles {
  readonly #handles = new Map<string, Key>();
  readonly #limit: number;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** The handle of this sealed version, made by `unwrap` if there is none yet. */
  obtain(sealedVersion: Buffer, unwrap: () => Key): Key {
    const name = sealedVersion.toString('latin1');
    const known = this.#handles.get(name);
    if (known !== undefined) {
      this.#handles.delete(name);
      this.#handles.set(name, known);
      return known;
    }
    const key = unwrap();
    this.#handles.set(name, key);
    this.#evict();
    return key;
  }

  #evict(): void {
    const [oldest] = this.#handles;
    if (oldest === undefined || this.#handles.size <= this.#limit) return;
    this.#handles.delete(oldest[0]);
    oldest[1].destroy();
  }
}
