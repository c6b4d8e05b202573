/**
 * The PIN file, as far as this process knows it: whether another try with it is worth making.
 *
 * Invariant: a PIN that was rejected isn't tried again before its file has changed, since tries are
 * few. Knows the file by its looks; only agents read it.
 */
import { statSync } from 'node:fs';

/** Remembers whether the PIN in a file was rejected, until the file changes. */
export class PinFile {
  readonly #path: string | undefined;
  /** Set while the PIN is known to be wrong: what the file looked like when it was tried. */
  #rejected: string | undefined;
  /** Set while the token says that tries are running out: what the file looked like then. */
  #doubted: string | undefined;
  #hasChanged = false;
  /** What the file looked like when its PIN was last accepted. */
  #accepted: string | undefined;

  /** Without a path it is a host of agents that keeps to this, and nothing is remembered here. */
  constructor(path: string | undefined) {
    this.#path = path;
  }

  /** What the file looks like; another once it was written. */
  get stamp(): string {
    if (this.#path === undefined) return 'hosted';
    try {
      const { ino, size, mtimeMs } = statSync(this.#path);
      return `${ino} ${size} ${mtimeMs}`;
    } catch {
      return 'absent';
    }
  }

  /** Whether its PIN is known to be wrong, as of the last {@link look}. */
  get isRejected(): boolean {
    return this.#rejected !== undefined;
  }

  /**
   * Whether it has changed since its PIN was rejected or doubted: then a try is worth making,
   * though few are left.
   */
  get hasChanged(): boolean {
    return this.#hasChanged;
  }

  /** Looks whether it has changed since its PIN was rejected or doubted. */
  look(): void {
    const doubted = this.#rejected ?? this.#doubted;
    if (doubted === undefined || doubted === this.stamp) return;
    this.#rejected = undefined;
    this.#doubted = undefined;
    this.#hasChanged = true;
  }

  /**
   * Its PIN was rejected. `stamp` is from before it was read: a file that was mended meanwhile is
   * worth another try.
   */
  reject(stamp: string): void {
    if (this.#path !== undefined) this.#rejected = stamp;
  }

  /** The token let nobody try, since tries are running out. `stamp` as of {@link reject}. */
  doubt(stamp: string): void {
    if (this.#path !== undefined) this.#doubted = stamp;
  }

  /** Whether its PIN was accepted, and the file is as it was then. */
  get isAccepted(): boolean {
    return this.#accepted !== undefined && this.#accepted === this.stamp;
  }

  /** Its PIN was accepted. `stamp` as of {@link reject}. */
  accept(stamp: string): void {
    this.#accepted = stamp;
    this.#hasChanged = false;
    this.#doubted = undefined;
  }
}
