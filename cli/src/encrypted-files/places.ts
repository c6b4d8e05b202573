/**
 * Does many things at once, and no more than there are places for.
 *
 * - Whatever waits is let in in its order; one that takes many places is not overtaken.
 */

/** Places, each of which one thing takes at a time. */
export class Places {
  readonly #all: number;
  #free: number;
  readonly #waiting: { readonly places: number; readonly enter: () => void }[] = [];

  constructor(all: number) {
    this.#all = all;
    this.#free = all;
  }

  /** Waits for so many places, all of them at the most, and takes them until disposed of. */
  async take(wanted: number): Promise<Disposable> {
    const places = Math.min(wanted, this.#all);
    if (this.#waiting.length === 0 && places <= this.#free) this.#free -= places;
    else await new Promise<void>((enter) => this.#waiting.push({ places, enter }));
    return {
      [Symbol.dispose]: () => {
        this.#free += places;
        this.#letIn();
      },
    };
  }

  #letIn(): void {
    for (let [first] = this.#waiting; first !== undefined; [first] = this.#waiting) {
      if (first.places > this.#free) return;
      this.#free -= first.places;
      this.#waiting.shift();
      first.enter();
    }
  }
}
