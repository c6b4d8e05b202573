/**
 * A connection on which HTTP/1.1 is spoken: one call at a time.
 *
 * Invariants:
 * - a request that comes before the one ahead of it is answered is not served: of such there can be
 *   any number on one socket, and no budget would see them come;
 * - a connection that ends says so with its last answer, or by closing where there is none to give.
 */
import { Connection, type ConnectionParts, destroySoon } from './connection.ts';

/** Whether an answer has been given whole, as far as the server can. */
interface Answer {
  readonly writableEnded: boolean;
}

/** Bounds what one HTTP/1.1 connection may do, and ends it in order. */
export class Http1Connection extends Connection {
  readonly #parts: ConnectionParts;
  #last: Answer | undefined;

  constructor(parts: ConnectionParts) {
    super(parts);
    this.#parts = parts;
    // HTTP/1.1 has nothing to ask a peer by.
    parts.socket.setKeepAlive(true, parts.limits.keepaliveMs);
  }

  override takes(): boolean {
    return !this.isEnding;
  }

  override callClosed(): void {
    super.callClosed();
    if (this.isEnding && this.isIdle) this.#close();
  }

  /** Returns whether a request is served, which is then the one that others wait for. */
  begins(answer: Answer): boolean {
    if (this.#last?.writableEnded === false) return false;
    this.#last = answer;
    return true;
  }

  protected override sayGoodbye(): void {
    if (this.isIdle) this.#close();
  }

  /** There is no way to say it: the answers under way are lost. */
  protected override sayWhy(): void {
    this.#close();
  }

  #close(): void {
    const { socket } = this.#parts;
    socket.resume(); // Left unread, what comes would make the end a reset.
    socket.end();
    destroySoon(socket);
  }
}
